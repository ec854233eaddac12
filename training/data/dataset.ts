/**
 * What a data set is to training and evaluation, whatever format it has on disk.
 *
 * Boxes are xyxy in pixels of the original image, the frame COCO uses: (0, 0) is the upper left corner of the upper left pixel,
 * (width, height) the lower right corner of the lower right one.
 */
import { readdirSync } from 'node:fs';
import { InputError } from '../core/errors.ts';
import type { CocoAnnotation, CocoGroundTruth } from '../core/coco-types.ts';
import type { Box, ImageRecord } from '../core/image-record.ts';

export interface Dataset {
  /** Absolute path. */
  root: string;
  format: 'coco' | 'voc';
  classNames: readonly string[];
  /** The COCO category id of each class, in the order of `classNames`. */
  categoryIds: readonly number[];
  splits: Readonly<Record<string, readonly ImageRecord[]>>;
  /** What was corrected or left out, ready to print: a count for each kind, its first ten cases, and how many more there are. */
  warnings: readonly string[];
  /** The same, every case. */
  allWarnings: readonly string[];
}

/** Cases of a kind that `Warnings.summary` shows. */
const SHOWN_WARNINGS = 10;

/** Collects what is wrong with a data set but does not prevent its use. */
export class Warnings {
  private readonly kinds = new Map<string, string[]>();

  /** @param kind what was found and done, e.g. "degenerate boxes, dropped"; @param text one case, naming file and annotation */
  add(kind: string, text: string): void {
    const cases = this.kinds.get(kind);
    if (cases === undefined) this.kinds.set(kind, [text]);
    else cases.push(text);
  }

  /** Every case. */
  all(): string[] {
    return [...this.kinds.values()].flat();
  }

  /** A heading with the count for each kind, its first ten cases, and how many more there are. */
  summary(): string[] {
    return [...this.kinds].flatMap(([kind, cases]) => {
      const lines = [`${kind}: ${cases.length}`, ...cases.slice(0, SHOWN_WARNINGS).map((text) => `  ${text}`)];
      if (cases.length > SHOWN_WARNINGS) lines.push(`  ... and ${cases.length - SHOWN_WARNINGS} more`);
      return lines;
    });
  }
}

/** Half of the last digit that annotation files commonly have, and rounding in x + width: not worth a warning. */
const ROUNDING = 0.005;

/**
 * The part of a box that lies in its image, or null if the box is degenerate (not finite, no width or no height) or wholly outside;
 * what is changed or dropped is added to `warnings`.
 *
 * @param where file and annotation, for the warning
 * @param given the box as the file has it, for the warning
 */
export function clipBox(
  box: Box,
  width: number,
  height: number,
  where: string,
  given: string,
  warnings: Warnings,
): Box | null {
  const [x0, y0, x1, y1] = box;
  if (!box.every(Number.isFinite) || x1 <= x0 || y1 <= y0) {
    warnings.add('degenerate boxes, dropped', `${where}: ${given} has no extent`);
    return null;
  }
  const clipped: Box = [Math.max(x0, 0), Math.max(y0, 0), Math.min(x1, width), Math.min(y1, height)];
  if (clipped[2] <= clipped[0] || clipped[3] <= clipped[1]) {
    warnings.add('boxes outside of their image, dropped', `${where}: ${given} in an image of ${width} x ${height}`);
    return null;
  }
  if (clipped.some((edge, i) => Math.abs(edge - box[i]) > ROUNDING)) {
    warnings.add(
      'boxes that reach out of their image, clipped',
      `${where}: ${given} in an image of ${width} x ${height}`,
    );
  }
  return clipped;
}

/** The images of a split. Throws InputError, which says how to make it, if the data set has none of this name. */
export function splitRecords(dataset: Dataset, split: string): readonly ImageRecord[] {
  const records = Object.hasOwn(dataset.splits, split) ? dataset.splits[split] : undefined;
  if (records === undefined) throw missingSplit(dataset.root, dataset.format, split, Object.keys(dataset.splits));
  return records;
}

/**
 * What is odd about training on one split and measuring on another, ready to print: classes without an object to learn from, a split without any object
 * to measure by, images that are in both.
 * @throws InputError if the training split has no object at all
 */
export function splitWarnings(dataset: Dataset, training: string, validation: string): string[] {
  const [train, val] = [splitRecords(dataset, training), splitRecords(dataset, validation)];
  const labelsOf = (records: readonly ImageRecord[]) =>
    new Set(records.flatMap(({ objects }) => objects.filter(({ crowd }) => !crowd).map(({ label }) => label)));
  const [learnt, measured] = [labelsOf(train), labelsOf(val)];
  const crowds = dataset.format === 'coco' ? 'crowds' : 'difficult ones';
  if (learnt.size === 0)
    throw new InputError(
      `${dataset.root}: the split "${training}": expected at least one object in its ${train.length} images, got none (${crowds} do not count)`,
    );
  const list = (items: readonly string[]) =>
    items.slice(0, SHOWN_WARNINGS).join(', ') +
    (items.length > SHOWN_WARNINGS ? `, ... and ${items.length - SHOWN_WARNINGS} more` : '');
  const warnings: string[] = [];
  const unlearnt = dataset.classNames.filter((_, label) => !learnt.has(label));
  if (unlearnt.length > 0)
    warnings.push(
      `classes without an object in the split "${training}": ${unlearnt.length} of ${dataset.classNames.length}: ${list(unlearnt)}`,
    );
  if (measured.size === 0)
    warnings.push(`the split "${validation}" has no object to measure by: every metric will be -1`);
  const trained = new Set(train.map(({ file }) => file));
  const shared = val.filter(({ file }) => trained.has(file)).map(({ name }) => name);
  if (shared.length > 0)
    warnings.push(
      `images in both "${training}" and "${validation}", where they tell nothing about unseen images: ${shared.length}: ${list(shared)}`,
    );
  return warnings;
}

export function missingSplit(
  root: string,
  format: Dataset['format'],
  split: string,
  present: readonly string[],
): InputError {
  const remedy =
    format === 'coco'
      ? `annotations/instances_${split}.json with images in ${split}/ (move a tenth or so of the images, with their annotations, out of another split)`
      : `ImageSets/Main/${split}.txt, one image name a line (move a tenth or so of the lines out of another list)`;
  const there = present.length > 0 ? `there is: ${present.join(', ')}` : 'there is none';
  return new InputError(`${root}: no split "${split}" (${there}); to make one, write ${remedy}`);
}

/**
 * The ground truth of a split as COCO's instances JSON, boxes as [x, y, width, height]: what the COCO metrics and pycocotools read.
 * It holds what training and evaluation use: degenerate boxes are left out, the others clipped to their image.
 */
export function cocoAnnotations(dataset: Dataset, split: string): CocoGroundTruth {
  const records = splitRecords(dataset, split);
  return {
    images: records.map(({ id, name, width, height }) => ({ id, file_name: name, width, height })),
    annotations: records.flatMap((record) =>
      record.objects.map(
        ({ id, label, box: [x0, y0, x1, y1], area, crowd }): CocoAnnotation => ({
          id,
          image_id: record.id,
          category_id: dataset.categoryIds[label],
          bbox: [x0, y0, x1 - x0, y1 - y0],
          area,
          iscrowd: crowd ? 1 : 0,
        }),
      ),
    ),
    categories: dataset.classNames.map((name, label) => ({ id: dataset.categoryIds[label], name })),
  };
}

/** The names in a folder, sorted; null if there is no such folder. */
export function listFolder(folder: string): string[] | null {
  try {
    return readdirSync(folder).sort();
  } catch {
    return null;
  }
}

/** Throws InputError if any of `images` is missing, with the first of them and where they were looked for. */
export function requireImages(
  source: string,
  missing: readonly string[],
  total: number,
  lookedIn: readonly string[],
): void {
  if (missing.length === 0) return;
  const names = missing.slice(0, 3).join(', ') + (missing.length > 3 ? ', ...' : '');
  throw new InputError(
    `${source}: ${missing.length} of ${total} images are missing: ${names}; looked in ${lookedIn.join(', ')}`,
  );
}
