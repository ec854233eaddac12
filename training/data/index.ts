/** Opens a data set: finds out the format of a folder, reads it, and creates a missing validation split. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { InputError } from '../core/errors.ts';
import { clipDataset } from './clip-boxes.ts';
import { divideImages } from './created-splits.ts';
import type { Dataset } from './dataset.ts';
import { baseName, withoutExtension } from './folder-tree.ts';
import { missingSplit, type AnnotatedContent, type AnnotatedImage, type DataSource } from './format.ts';
import { readImageSizes } from './image-sizes.ts';
import { recognize, type RecognizedSource } from './recognize.ts';
import { UNDIVIDED } from './split-names.ts';
import { Warnings } from './warnings.ts';

export { cocoAnnotations, splitRecords, splitWarnings } from './dataset.ts';
export type { Dataset } from './dataset.ts';
export { FORMAT_KEYS, FORMAT_NAMES } from './formats.ts';
export { EMBEDDED_DATA, EMBEDDED_SIZE, ensureShapesDataset } from './shapes.ts';
export type { ShapesOptions } from './shapes.ts';

/** The splits that must exist if `openDataset` gets no list of splits. */
const DEFAULT_SPLITS: readonly string[] = ['train', 'val'];

export interface OpenOptions {
  /** The splits to read, all of which must exist or be created; default: all, with at least "train" and "val". */
  readonly splits?: readonly string[];
  /** Splits that are read too if they exist. Only with `splits`. */
  readonly optional?: readonly string[];
  /** The format's key ("coco", "voc", "yolo") for folders that fit several formats; default: recognized. */
  readonly format?: string;
  /**
   * Whether to create a missing validation split. Without, the splits are those of the folder, and none must exist.
   * Default true.
   */
  readonly divide?: boolean;
  /** Called after each image whose size is read from its header, where the annotations do not state it. */
  readonly progress?: (done: number, total: number) => void;
}

/**
 * Reads a data set of any format in formats.ts. Without a validation split, a part of the training images becomes one
 * (created-splits.ts). The images of a split are sorted by name, so all formats give the same order.
 *
 * Annotations are checked completely. Images are checked for existence; their content is checked when it is decoded.
 *
 * @param directory the data set's folder
 * @throws InputError naming the file, the field, the expected and the found value
 */
export async function openDataset(directory: string, options: OpenOptions = {}): Promise<Dataset> {
  const root = resolve(directory);
  const entry = statSync(root, { throwIfNoEntry: false });
  if (!entry?.isDirectory())
    throw new InputError(`${root}: expected the folder of a data set, got ${entry ? 'a file' : 'nothing there'}`);
  const recognized = recognize(root, options.format ?? null);
  const { format, source } = recognized;
  const more = (options.optional ?? []).filter((split) => source.splits.has(split));
  const asked = options.splits && [...options.splits, ...more];
  const plan = options.divide === false ? wholeSplits(source) : planSplits(root, recognized, asked);
  const warnings = new Warnings();
  const notes: string[] = [];
  const read = await source.read(plan.read, {
    warnings,
    notes,
    sizesOf: (files) => readImageSizes(files, null, options.progress),
  });
  const splits = new Map(Object.entries(read.splits).map(([split, images]) => [split, sortedByName(images)]));
  if (plan.divided !== null) await divide(splits, plan.divided, notes);
  for (const split of plan.wanted)
    if (!splits.has(split)) throw missingSplit(root, format, split, [...source.splits.keys()]);
  // Only the wanted splits, in their order; the keys may be any names.
  const content: AnnotatedContent = {
    ...read,
    splits: Object.fromEntries(plan.wanted.map((split) => [split, splits.get(split) ?? []])),
  };
  return clipDataset({ root, recognized: describeSource(source), notes, format, content, readWarnings: warnings });
}

interface SplitPlan {
  /** The splits of the result. */
  readonly wanted: readonly string[];
  /** The splits that are read. */
  readonly read: readonly string[];
  /** The split that is divided into training and validation; null: none. */
  readonly divided: string | null;
}

/** The splits as the folder has them. */
function wholeSplits({ splits }: DataSource): SplitPlan {
  return { wanted: [...splits.keys()], read: [...splits.keys()], divided: null };
}

/** Throws InputError if a split neither exists nor can be created. */
function planSplits(root: string, { format, source }: RecognizedSource, asked?: readonly string[]): SplitPlan {
  const present = [...source.splits.keys()];
  const created = source.splits.has('val')
    ? null
    : ([UNDIVIDED, 'train', 'trainval'].find((split) => source.splits.has(split)) ?? null);
  const available = created === null ? present : [...new Set(['train', 'val', ...present])];
  for (const split of asked ?? DEFAULT_SPLITS)
    if (!available.includes(split)) throw missingSplit(root, format, split, present);
  const wanted = asked ?? available.filter((split) => split !== created || split === 'train');
  const divided = wanted.some((split) => split === 'train' || split === 'val') ? created : null;
  const kept = wanted.filter((split) => source.splits.has(split));
  return { wanted, read: divided === null ? kept : [...new Set([...kept, divided])], divided };
}

/** Replaces the training images by training and validation images. A single image stays in the training split. */
async function divide(splits: Map<string, AnnotatedImage[]>, name: string, notes: string[]): Promise<void> {
  const images = splits.get(name) ?? [];
  const divided = await divideImages(images);
  if (divided === null) {
    splits.set('train', images);
    return;
  }
  splits.set('train', [...divided.train]);
  splits.set('val', [...divided.val]);
  const from = name === UNDIVIDED ? '' : ` of ${name}`;
  const copies =
    divided.duplicates > 0 ? `; ${divided.duplicates} copies of other images stay in the split of the original` : '';
  notes.push(
    `there is no val split, so ${divided.val.length} of the ${images.length} images${from} became it, ` +
      `by a hash of their names: images that you add later do not move them${copies}`,
  );
}

/** By name without extension, in the order of code units, so that the same images have one order in all formats. */
function sortedByName(images: readonly AnnotatedImage[]): AnnotatedImage[] {
  return images
    .map((image) => ({ image, name: withoutExtension(baseName(image.name)) }))
    .sort((a, b) => compare(a.name, b.name) || compare(a.image.name, b.image.name))
    .map(({ image }) => image);
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** "Roboflow COCO: train, valid -> val, test". */
function describeSource({ layout, splits }: DataSource): string {
  const names = [...splits].map(([split, own]) =>
    split === UNDIVIDED ? 'not divided into splits' : own === split ? split : `${own} -> ${split}`,
  );
  return `${layout}: ${names.join(', ')}`;
}
