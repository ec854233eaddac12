/**
 * The embedded data set: circles, squares, triangles and stars on textured backgrounds, one to five per image.
 *
 * It is generated from a seed on first use, as PNG files and COCO JSON, and is read like any other data set:
 * `annotations/instances_{train,val}.json`, `train/`, `val/`, and `shapes.json` with the options that it was made with.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import sharp from 'sharp';
import { Random } from '../../engine/core/random.ts';
import type { CocoAnnotation, CocoGroundTruth } from '../core/coco-types.ts';
import { InputError } from '../core/errors.ts';
import { drawImage, SHAPE_CLASSES, type Point, type Shape } from './shape-images.ts';

export interface ShapesOptions {
  /** Number of training images. Default: 2000. */
  trainImages?: number;
  /** Number of validation images. Default: 100. */
  valImages?: number;
  /** Side of the square images in pixels, at least 64. Default: EMBEDDED_SIZE. */
  imageSize?: number;
  /** Default: 0. */
  seed?: number;
  /** Receives a line before the data set is generated. */
  log?: (line: string) => void;
}

/** Increased by every change after which the same options give other images. */
const VERSION = 1;
const MARKER = 'shapes.json';

/** Side of its images in pixels. */
export const EMBEDDED_SIZE = 96;

/** The folder of the data set that commands generate if no other data set is named. */
export const EMBEDDED_DATA = join('.cache', 'shapes');

/**
 * Makes sure that `directory` holds the shapes data set of these options. The data set is generated if it does not
 * exist, or if other options or another version of the generator made it. It appears whole or not at all.
 * The same options give the same bytes.
 *
 * @returns the directory, absolute
 * @throws InputError if the directory holds something else
 */
export async function ensureShapesDataset(directory: string, options: ShapesOptions = {}): Promise<string> {
  const { trainImages = 2000, valImages = 100, imageSize = EMBEDDED_SIZE, seed = 0, log } = options;
  const limits = [
    ['trainImages', trainImages, 1],
    ['valImages', valImages, 1],
    ['imageSize', imageSize, 64],
    ['seed', seed, 0],
  ] as const;
  for (const [name, value, min] of limits) {
    if (Number.isSafeInteger(value) && value >= min) continue;
    throw new InputError(`shapes data set: ${name}: expected an integer of at least ${min}, got ${value}`);
  }
  const root = resolve(directory);
  const origin = { generator: 'shapes', version: VERSION, options: { trainImages, valImages, imageSize, seed } };
  const marker = `${JSON.stringify(origin, null, 2)}\n`;
  if (hasMarker(root, marker)) return root;
  if (existsSync(root) && !existsSync(join(root, MARKER)) && (await readdir(root)).length > 0) {
    throw new InputError(
      `${root}: expected an empty folder or an earlier shapes data set, to generate the shapes data set there, ` +
        'got other files',
    );
  }

  log?.(`generating the shapes data set (${trainImages} + ${valImages} images) in ${root}`);
  const partial = join(dirname(root), `.${basename(root)}-partial-${randomUUID()}`);
  try {
    await mkdir(join(partial, 'annotations'), { recursive: true });
    await writeSplit(partial, { name: 'train', count: trainImages, stream: 0 }, imageSize, seed);
    await writeSplit(partial, { name: 'val', count: valImages, stream: 1 }, imageSize, seed);
    await writeFile(join(partial, MARKER), marker);
    // Another process may have finished first, with the same result.
    if (hasMarker(root, marker)) return root;
    await rm(root, { recursive: true, force: true });
    try {
      await rename(partial, root);
    } catch (error) {
      if (!hasMarker(root, marker)) throw error;
    }
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  return root;
}

function hasMarker(root: string, marker: string): boolean {
  const file = join(root, MARKER);
  return existsSync(file) && readFileSync(file, 'utf8') === marker;
}

interface ShapesSplit {
  readonly name: string;
  /** Number of images. */
  readonly count: number;
  /** Number of the split's random stream. */
  readonly stream: number;
}

/** Writes the images and annotations of a split. `size`: side of an image, pixels. */
async function writeSplit(root: string, split: ShapesSplit, size: number, seed: number): Promise<void> {
  const { name, count, stream } = split;
  await mkdir(join(root, name));
  const truth: CocoGroundTruth = {
    images: [],
    annotations: [],
    categories: SHAPE_CLASSES.map((kind, i) => ({ id: i + 1, name: kind })),
  };
  const digits = String(count).length;
  const encoded: Promise<unknown>[] = [];
  for (let index = 0; index < count; index++) {
    const { pixels, shapes } = drawImage(size, new Random(seed, stream, index));
    const id = index + 1;
    const file_name = `${String(id).padStart(digits, '0')}.png`;
    truth.images.push({ id, file_name, width: size, height: size });
    for (const shape of shapes) truth.annotations.push(annotationOf(shape, truth.annotations.length + 1, id));
    encoded.push(
      sharp(pixels, { raw: { width: size, height: size, channels: 3 } })
        .png({ compressionLevel: 6 })
        .toFile(join(root, name, file_name)),
    );
    if (encoded.length === 32) await Promise.all(encoded.splice(0));
  }
  await Promise.all(encoded);
  await writeFile(join(root, 'annotations', `instances_${name}.json`), `${JSON.stringify(truth)}\n`);
}

/** Coordinates are rounded to a hundredth of a pixel. */
function annotationOf({ kind, outline, box: [x0, y0, x1, y1] }: Shape, id: number, image_id: number): CocoAnnotation {
  const rounded = (value: number) => Math.round(value * 100) / 100;
  return {
    id,
    image_id,
    category_id: SHAPE_CLASSES.indexOf(kind) + 1,
    bbox: [rounded(x0), rounded(y0), rounded(x1 - x0), rounded(y1 - y0)],
    area: rounded(polygonArea(outline)),
    iscrowd: 0,
  };
}

/** Square pixels, by the shoelace formula. */
function polygonArea(points: readonly Point[]): number {
  return (
    Math.abs(
      points.reduce((sum, [x, y], i) => {
        const [nextX, nextY] = points[(i + 1) % points.length];
        return sum + x * nextY - nextX * y;
      }, 0),
    ) / 2
  );
}
