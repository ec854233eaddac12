/**
 * Ground truths: the objects of a batch, checked, padded and copied to the device.
 *
 * Glossary: B images, M rows of ground truths per image (padded). Boxes are xyxy, pixels of the padded batch.
 */
import type { Device, PaddedTargets } from '../engine/index.ts';

/** The objects of one image. */
export interface ImageTargets {
  /** Class numbers, one per object. */
  readonly labels: ArrayLike<number>;
  /** 4 numbers per object, xyxy in pixels. */
  readonly boxes: ArrayLike<number>;
}

/** The objects of a batch on the device, padded so that shapes repeat from step to step. */
export interface Targets extends PaddedTargets {
  /** M: rows per image, used or not. */
  readonly maxObjects: number;
  /** The highest class number in the batch, -1 without objects. */
  readonly highestLabel: number;
}

/** Minimum number of rows. Larger numbers of rows are powers of two. */
const MIN_ROWS = 8;

const largestCount = (perImage: readonly ImageTargets[]): number =>
  perImage.reduce((largest, { labels }) => Math.max(largest, labels.length), 1);

/** Rows that a batch is padded to: the next of 8, 16, 32, ... that holds the objects of every image. */
export function targetRows(perImage: readonly ImageTargets[]): number {
  return Math.max(MIN_ROWS, 2 ** Math.ceil(Math.log2(largestCount(perImage))));
}

/** A batch's objects in the layout of `Targets`, on the host. */
export interface PackedTargets {
  /** [B, M]. */
  readonly labels: Uint32Array<ArrayBuffer>;
  /** [B, M, 4]. */
  readonly boxes: Float32Array<ArrayBuffer>;
  /** [B]. */
  readonly counts: Uint32Array<ArrayBuffer>;
  readonly highestLabel: number;
}

/** Throws RangeError unless the labels are at most `rows` integers >= 0, each with a finite box. */
function checkTargets(owner: string, { labels, boxes }: ImageTargets, image: number, rows: number): void {
  const fail = (field: string, expected: string, got: number | string): never => {
    throw new RangeError(`${owner}: ${field} of image ${image}: expected ${expected}, got ${got}`);
  };
  if (boxes.length !== 4 * labels.length)
    fail('boxes', `${4 * labels.length} numbers for ${labels.length} labels`, boxes.length);
  if (labels.length > rows) fail('labels', `at most ${rows} objects`, labels.length);
  for (let i = 0; i < labels.length; i++) {
    if (!Number.isInteger(labels[i]) || labels[i] < 0)
      fail('labels', 'integers of at least 0', `${labels[i]} at index ${i}`);
  }
  for (let i = 0; i < boxes.length; i++) {
    if (!Number.isFinite(boxes[i])) fail('boxes', 'finite numbers', `${boxes[i]} in box ${Math.floor(i / 4)}`);
  }
}

/** Throws RangeError unless all labels are below the model's number of classes. */
export function checkHighestLabel(owner: string, highestLabel: number, classes: number): void {
  if (highestLabel >= classes)
    throw new RangeError(
      `${owner}: labels: expected numbers below the model's ${classes} classes, got ${highestLabel}`,
    );
}

/**
 * Checks a batch's objects and pads them to `rows` per image.
 * @param owner the caller's name in errors
 * @throws RangeError naming image and field
 */
export function packTargets(owner: string, perImage: readonly ImageTargets[], rows: number): PackedTargets {
  const labels = new Uint32Array(perImage.length * rows),
    boxes = new Float32Array(perImage.length * rows * 4);
  let highestLabel = -1;
  perImage.forEach((image, b) => {
    checkTargets(owner, image, b, rows);
    for (let i = 0; i < image.labels.length; i++) highestLabel = Math.max(highestLabel, image.labels[i]);
    labels.set(image.labels, b * rows);
    boxes.set(image.boxes, b * rows * 4);
  });
  return { labels, boxes, counts: Uint32Array.from(perImage, (image) => image.labels.length), highestLabel };
}

/**
 * Copies a batch's objects to the device.
 *
 * @param sizes    width and height of each image, unpadded, in pixels
 * @param capacity rows per image; default: the next of 8, 16, 32, ... that holds the objects of every image
 * @throws RangeError naming the argument
 */
export function uploadTargets(
  device: Device,
  perImage: readonly ImageTargets[],
  sizes: readonly (readonly [width: number, height: number])[],
  capacity?: number,
): Targets {
  if (sizes.length !== perImage.length)
    throw new RangeError(`uploadTargets: sizes: expected those of ${perImage.length} images, got ${sizes.length}`);
  const minimum = largestCount(perImage);
  const rows = capacity ?? targetRows(perImage);
  if (!Number.isInteger(rows) || rows < minimum)
    throw new RangeError(`uploadTargets: capacity: expected an integer of at least ${minimum}, got ${capacity}`);
  const { labels, boxes, counts, highestLabel } = packTargets('uploadTargets', perImage, rows);
  return {
    labels: device.tensor(labels, [perImage.length, rows]),
    boxes: device.tensor(boxes, [perImage.length, rows, 4]),
    counts: device.tensor(counts, [perImage.length]),
    sizes: device.tensor(Float32Array.from(sizes.flatMap(([w, h]) => [w, h, w, h])), [perImage.length, 4]),
    maxObjects: rows,
    highestLabel,
  };
}
