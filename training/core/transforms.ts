/**
 * The geometry of augmentation: the resize, crop and flip of an image, and the boxes that result.
 * `data/images.ts` applies transforms to pixels.
 *
 * Boxes are xyxy pixels. The order follows Sparse R-CNN's data mapper: with some probability a resize and a random
 * crop, then the resize to the network's size. The data mapper flips first; here the flip is last. The results
 * have the same distribution, because a crop is as likely on the left as on the right.
 */
import type { Random } from '../../engine/core/random.ts';
import type { Augmentation, CropAugmentation, EvaluationResize } from './augmentation.ts';
import type { Box, Size } from './image-record.ts';

/** Everything that happens to one image: resize, crop, resize, flip, in this order. */
export interface ImageTransform {
  /** Size before the crop; null without a crop. */
  uncropped: Size | null;
  /** In pixels of `uncropped`. */
  crop: (Size & { x: number; y: number }) | null;
  /** Size of the result. */
  width: number;
  height: number;
  flip: boolean;
}

/**
 * The size with this short side, or a smaller size if the long side is above `maxSize`. The aspect ratio is kept up to
 * rounding. Arithmetic and rounding are those of Detectron2's ResizeShortestEdge.
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
  // A very long image keeps at least one pixel per side.
  return { width: Math.max(1, Math.floor(newWidth + 0.5)), height: Math.max(1, Math.floor(newHeight + 0.5)) };
}

/** Draws for a cut that shows an object; then the caller goes on without. SSD draws 50 times. */
export const CUT_TRIES = 50;

/** A part of a resized image. */
export interface Cut {
  /** Size of the whole image, from which the part is cut. */
  uncropped: Size;
  /** In pixels of `uncropped`. */
  crop: Size & { x: number; y: number };
}

/** Draws a crop as in DETR; null if the image stays whole, or if `accepts` refuses all draws. */
export function drawCrop(
  size: Size,
  settings: CropAugmentation | null,
  random: Random,
  accepts: (cut: Cut) => boolean,
): Cut | null {
  if (settings === null || random.uniform() >= settings.probability) return null;
  const { shortSides: before, minSize, maxSize } = settings;
  for (let tries = 0; tries < CUT_TRIES; tries++) {
    const uncropped =
      before.length === 0
        ? { width: size.width, height: size.height }
        : resizedSize(size, before[random.integer(before.length)], Infinity);
    const draw = (side: number) => {
      const minimum = Math.min(side, minSize),
        maximum = Math.min(side, maxSize);
      return minimum + random.integer(maximum - minimum + 1);
    };
    const height = draw(uncropped.height),
      width = draw(uncropped.width);
    const cut: Cut = {
      uncropped,
      crop: {
        width,
        height,
        y: random.integer(uncropped.height - height + 1),
        x: random.integer(uncropped.width - width + 1),
      },
    };
    if (accepts(cut)) return cut;
  }
  return null;
}

/**
 * Draws a random transform for a training image of the given size.
 * @param accepts whether a crop may be used; a refused crop is drawn again
 */
export function planAugmentation(
  size: Size,
  augmentation: Augmentation,
  random: Random,
  accepts: (cut: Cut) => boolean = () => true,
): ImageTransform {
  const { shortSides, maxSize, fixedSize } = augmentation;
  const flip = random.uniform() < augmentation.flip;
  const { uncropped, crop } = drawCrop(size, augmentation.crop, random, accepts) ?? { uncropped: null, crop: null };
  const result =
    fixedSize !== null
      ? { height: fixedSize[0], width: fixedSize[1] }
      : resizedSize(crop ?? size, shortSides[random.integer(shortSides.length)], maxSize);
  return { uncropped, crop, ...result, flip };
}

/** The transform of an image of the given size for evaluation and prediction. */
export function planEvaluation(size: Size, resize: EvaluationResize): ImageTransform {
  const result =
    resize.fixedSize !== null
      ? { height: resize.fixedSize[0], width: resize.fixedSize[1] }
      : resizedSize(size, resize.shortSide, resize.maxSize);
  return { uncropped: null, crop: null, ...result, flip: false };
}

/** Pixels of the result per pixel of the original, [horizontally, vertically]. */
export function scaleOf(transform: ImageTransform, { width, height }: Size): [number, number] {
  const { uncropped, crop } = transform;
  if (uncropped === null || crop === null) return [transform.width / width, transform.height / height];
  return [
    (uncropped.width / width) * (transform.width / crop.width),
    (uncropped.height / height) * (transform.height / crop.height),
  ];
}

/** Maximum side of a box that counts as empty, pixels: Detectron2's `Instances.boxes.nonempty`. */
const MAX_EMPTY_SIDE = 1e-5;

/**
 * A box of an original image of `size` in the transformed image, clipped to it; null if the box lies outside.
 * As in Detectron2 (and so in Sparse R-CNN), a box is kept if any part of it remains, even without its center.
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
  if (right - left <= MAX_EMPTY_SIDE || bottom - top <= MAX_EMPTY_SIDE) return null;
  return flip ? [width - right, top, width - left, bottom] : [left, top, right, bottom];
}
