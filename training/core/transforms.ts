/**
 * The geometry of augmentation: which resize, crop and flip an image gets, and where its boxes go. Pixels follow in images.ts.
 *
 * Boxes are xyxy pixels. The order is the one of Sparse R-CNN's data mapper: with some probability a resize and a random crop, then the resize to the
 * network's size; the flip, there first, is last here, which gives the same images (a crop is as likely to be on the left as on the right).
 */
import type { Random } from '../../engine/core/random.ts';
import { InputError } from './errors.ts';
import type { Box, Size } from './image-record.ts';

/** Random crop before the resize, as in DETR and Sparse R-CNN. */
export interface CropAugmentation {
  /** Of an image being cropped, 0 .. 1. */
  probability: number;
  /** The image's short side is first resized to one of these, pixels; empty: it is cropped as it is. */
  shortSides: readonly number[];
  /** Least and greatest side of the crop, pixels; width and height are drawn independently, and at most the image's. */
  minSize: number;
  maxSize: number;
}

/** How training images are varied. */
export interface Augmentation {
  /** Probability of a horizontal flip, 0 .. 1. */
  flip: number;
  /** The short side is resized to one of these, pixels. Not consulted when there is a `fixedSize`. */
  shortSides: readonly number[];
  /** The long side is at most this, pixels; the short one then less. Not consulted when there is a `fixedSize`. */
  maxSize: number;
  crop: CropAugmentation | null;
  /** Resize to exactly [height, width] instead, whatever the aspect ratio. */
  fixedSize: readonly [height: number, width: number] | null;
}

/** How images are resized for evaluation and prediction; no chance is involved. */
export interface EvaluationResize {
  /** Pixels. Neither this nor `maxSize` is consulted when there is a `fixedSize`. */
  shortSide: number;
  maxSize: number;
  fixedSize: readonly [height: number, width: number] | null;
}

/** What [SR] trains with on COCO (Sparse R-CNN, CVPR 2021, section 4.1, following DETR). */
export const PAPER_AUGMENTATION: Augmentation = {
  flip: 0.5,
  shortSides: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
  maxSize: 1333,
  crop: { probability: 0.5, shortSides: [400, 500, 600], minSize: 384, maxSize: 600 },
  fixedSize: null,
};

/** What happens to one image: resize, crop, resize, flip, in this order. */
export interface ImageTransform {
  /** Size before the crop; null where there is no crop. */
  uncropped: Size | null;
  /** In pixels of `uncropped`. */
  crop: (Size & { x: number; y: number }) | null;
  /** Size that results. */
  width: number;
  height: number;
  flip: boolean;
}

/**
 * The size whose short side is `shortSide`, unless the long one would exceed `maxSize`, with the aspect ratio kept up to rounding.
 * The arithmetic, rounding included, is that of Detectron2's ResizeShortestEdge.
 */
export function resizedSize({ width, height }: Size, shortSide: number, maxSize: number): Size {
  let scale = shortSide / Math.min(width, height);
  let [newWidth, newHeight] = width < height ? [shortSide, scale * height] : [scale * width, shortSide];
  const longSide = Math.max(newWidth, newHeight);
  if (longSide > maxSize) {
    scale = maxSize / longSide;
    newWidth *= scale;
    newHeight *= scale;
  }
  // A panorama a pixel high must not vanish.
  return { width: Math.max(1, Math.floor(newWidth + 0.5)), height: Math.max(1, Math.floor(newHeight + 0.5)) };
}

/** Draws what happens to a training image of the given size. */
export function planAugmentation(size: Size, augmentation: Augmentation, random: Random): ImageTransform {
  const { shortSides, maxSize, fixedSize } = augmentation;
  const flip = random.uniform() < augmentation.flip;
  let uncropped: Size | null = null;
  let crop: ImageTransform['crop'] = null;
  if (augmentation.crop !== null && random.uniform() < augmentation.crop.probability) {
    const { shortSides: before, minSize, maxSize: maxCrop } = augmentation.crop;
    uncropped =
      before.length === 0
        ? { width: size.width, height: size.height }
        : resizedSize(size, before[random.integer(before.length)], Infinity);
    const draw = (side: number) => {
      const least = Math.min(side, minSize),
        greatest = Math.min(side, maxCrop);
      return least + random.integer(greatest - least + 1);
    };
    const height = draw(uncropped.height),
      width = draw(uncropped.width);
    crop = {
      width,
      height,
      y: random.integer(uncropped.height - height + 1),
      x: random.integer(uncropped.width - width + 1),
    };
  }
  const result =
    fixedSize !== null
      ? { height: fixedSize[0], width: fixedSize[1] }
      : resizedSize(crop ?? size, shortSides[random.integer(shortSides.length)], maxSize);
  return { uncropped, crop, ...result, flip };
}

/** What happens to an image of the given size in evaluation and prediction. */
export function planEvaluation(size: Size, resize: EvaluationResize): ImageTransform {
  const result =
    resize.fixedSize !== null
      ? { height: resize.fixedSize[0], width: resize.fixedSize[1] }
      : resizedSize(size, resize.shortSide, resize.maxSize);
  return { uncropped: null, crop: null, ...result, flip: false };
}

/** Pixels of the result for a pixel of the original, [horizontally, vertically]. */
export function scaleOf(transform: ImageTransform, { width, height }: Size): [number, number] {
  const { uncropped, crop } = transform;
  if (uncropped === null || crop === null) return [transform.width / width, transform.height / height];
  return [
    (uncropped.width / width) * (transform.width / crop.width),
    (uncropped.height / height) * (transform.height / crop.height),
  ];
}

/** Boxes narrower than this, pixels, are nothing: Detectron2's `Instances.boxes.nonempty`. */
const EMPTY = 1e-5;

/**
 * A box of an original image of `size` in the transformed one, clipped to it; null if nothing of it is left.
 * As in Detectron2 (and so in [SR]) every box of which a part remains is kept, whether or not its centre does.
 */
export function transformBox([x0, y0, x1, y1]: Box, transform: ImageTransform, size: Size): Box | null {
  const [scaleX, scaleY] = scaleOf(transform, size);
  const { uncropped, crop, width, height, flip } = transform;
  const offsetX = uncropped === null || crop === null ? 0 : (crop.x * width) / crop.width;
  const offsetY = uncropped === null || crop === null ? 0 : (crop.y * height) / crop.height;
  const inside = (value: number, limit: number) => Math.min(limit, Math.max(0, value));
  const left = inside(x0 * scaleX - offsetX, width),
    right = inside(x1 * scaleX - offsetX, width);
  const top = inside(y0 * scaleY - offsetY, height),
    bottom = inside(y1 * scaleY - offsetY, height);
  if (right - left <= EMPTY || bottom - top <= EMPTY) return null;
  return flip ? [width - right, top, width - left, bottom] : [left, top, right, bottom];
}

/** Sides beyond this, pixels, are slips of the hand: such an image takes gigabytes. */
const MAX_SIDE = 16384;

const CROP_FIELDS: readonly string[] = [
  'probability',
  'shortSides',
  'minSize',
  'maxSize',
] satisfies (keyof CropAugmentation)[];

/** Throws InputError, naming the field, if an augmentation makes no sense; its values may be of any type. */
export function validateAugmentation(augmentation: Readonly<Record<keyof Augmentation, unknown>>): void {
  const { flip, shortSides, maxSize, crop, fixedSize } = augmentation;
  const at = 'augmentation';
  requireProbability(flip, at, 'flip');
  if (fixedSize === null) {
    requireSizes(shortSides, at, 'shortSides');
    if (Array.isArray(shortSides) && shortSides.length === 0)
      throw new InputError(`${at}: shortSides: expected at least one size, or a fixedSize, got []`);
    requireSize(maxSize, at, 'maxSize');
  } else requireFixedSize(fixedSize, at);
  if (crop === null) return;
  const expected = `null or an object of ${CROP_FIELDS.join(', ')}`;
  if (typeof crop !== 'object' || crop === undefined || Array.isArray(crop)) throw wrong(at, 'crop', expected, crop);
  const fields = crop as Readonly<Record<string, unknown>>;
  for (const name of CROP_FIELDS)
    if (!Object.hasOwn(fields, name))
      throw new InputError(`${at}: crop: expected ${expected}, got none of the name ${name}`);
  for (const name of Object.keys(fields))
    if (!CROP_FIELDS.includes(name)) throw new InputError(`${at}: crop: expected ${expected}, got ${name}, too`);
  requireProbability(fields.probability, at, 'crop.probability');
  requireSizes(fields.shortSides, at, 'crop.shortSides');
  const least = requireSize(fields.minSize, at, 'crop.minSize');
  const most = requireSize(fields.maxSize, at, 'crop.maxSize');
  if (most < least) throw new InputError(`${at}: crop.maxSize: expected at least crop.minSize (${least}), got ${most}`);
}

/** Throws InputError, naming the field, if a resize makes no sense; its values may be of any type. */
export function validateEvaluationResize({
  shortSide,
  maxSize,
  fixedSize,
}: Readonly<Record<keyof EvaluationResize, unknown>>): void {
  const at = 'evaluationResize';
  if (fixedSize !== null) return requireFixedSize(fixedSize, at);
  requireSize(shortSide, at, 'shortSide');
  requireSize(maxSize, at, 'maxSize');
}

function wrong(at: string, field: string, expected: string, value: unknown): InputError {
  return new InputError(
    `${at}: ${field}: expected ${expected}, got ${typeof value === 'number' ? value : (JSON.stringify(value) ?? 'nothing')}`,
  );
}

function requireProbability(value: unknown, at: string, field: string): void {
  if (typeof value !== 'number' || !(value >= 0 && value <= 1))
    throw wrong(at, field, 'a probability in 0 .. 1', value);
}

function requireSize(value: unknown, at: string, field: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1)
    throw wrong(at, field, 'an integer of at least 1 (pixels)', value);
  if (value > MAX_SIDE) throw wrong(at, field, `at most ${MAX_SIDE} (pixels)`, value);
  return value;
}

function requireSizes(value: unknown, at: string, field: string): void {
  if (!Array.isArray(value)) throw wrong(at, field, 'a list of integers (pixels), e.g. [480, 512]', value);
  value.forEach((side: unknown, i) => requireSize(side, at, `${field}[${i}]`));
}

function requireFixedSize(value: unknown, at: string): void {
  if (!Array.isArray(value) || value.length !== 2)
    throw wrong(at, 'fixedSize', 'null or [height, width] (pixels)', value);
  requireSizes(value, at, 'fixedSize');
}
