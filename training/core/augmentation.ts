/** Settings of augmentation and of the resize for evaluation: types, the paper's values, and their checks. */
import * as v from 'valibot';
import { fields, firstProblem, number, trueOrFalse } from '../../model/schema.ts';
import { InputError } from './errors.ts';

/** Random crop before the resize, as in DETR and Sparse R-CNN. */
export interface CropAugmentation {
  /** Probability that an image is cropped, 0 .. 1. */
  probability: number;
  /** The image's short side is first resized to one of these, pixels. Empty: the image is cropped without a resize. */
  shortSides: readonly number[];
  /**
   * Minimum and maximum side of the crop, pixels. Width and height are drawn independently. A side is never longer than
   * that of the image.
   */
  minSize: number;
  maxSize: number;
}

/**
 * Random changes of colors, as in SSD (arXiv 1512.02325, section 2.2) and YOLO. 0 means no change, for each field.
 * `color-change.ts` has the formulas.
 */
export interface ColorAugmentation {
  /** All values are multiplied by a factor in 1 - brightness .. 1 + brightness. 0 .. 1. */
  brightness: number;
  /** The distance to middle gray is multiplied by a factor in 1 - contrast .. 1 + contrast. 0 .. 1. */
  contrast: number;
  /** The distance to the gray of equal luma is multiplied by a factor in 1 - saturation .. 1 + saturation. 0 .. 1. */
  saturation: number;
  /** Colors are turned around the gray axis by an angle in -hue .. hue, degrees. 0 .. 180. */
  hue: number;
  /** Probability that an image becomes gray, 0 .. 1. */
  gray: number;
}

/**
 * Random changes of training images.
 *
 * With `scale`, `aspectJitter`, `rotate90` or `mosaic`, every image of a run is placed on a canvas of one size: the
 * upper median of the training images' widths and heights after the resize. Parts beyond the canvas are cut off; the
 * rest of the canvas is filled with the mean color of ImageNet, which is what padding is after normalization.
 */
export interface Augmentation {
  /** Probability of a horizontal flip, 0 .. 1. */
  flip: number;
  /** The short side is resized to one of these, pixels. Ignored if there is a `fixedSize`. */
  shortSides: readonly number[];
  /** Maximum long side, pixels. The short side shrinks to keep the aspect ratio. Ignored if there is a `fixedSize`. */
  maxSize: number;
  crop: CropAugmentation | null;
  /** Resize to exactly [height, width] instead; the aspect ratio is not kept. */
  fixedSize: readonly [height: number, width: number] | null;
  /** Probability of a vertical flip, 0 .. 1. For images without a natural top, such as those of a microscope. */
  flipVertical: number;
  /** Probability of a turn by 90, 180 or 270 degrees, 0 .. 1. For images without a natural top. */
  rotate90: number;
  color: ColorAugmentation;
  /**
   * After the resize, the size is multiplied by a factor in [minimum, maximum]: large-scale jitter (Ghiasi et al.,
   * arXiv 2012.07177, section 3). [1, 1]: no change.
   */
  scale: readonly [minimum: number, maximum: number];
  /** The ratio of width to height is multiplied by a factor in 1 / (1 + aspectJitter) .. 1 + aspectJitter. */
  aspectJitter: number;
  /**
   * Probability that an image is composed with three others of the same epoch (YOLOv4, arXiv 2004.10934, section 3.3),
   * 0 .. 1. The four cells meet at a random point. Images in cells are also reduced by a factor of 1 to 2.
   */
  mosaic: number;
  /** Share of the training at its end without mosaics, as in YOLOX (arXiv 2107.08430, section 2.1), 0 .. 1. */
  mosaicEnd: number;
  /** An object is dropped if less than this share of its box remains after a cut, 0 .. 1. 0: any part is enough. */
  minVisible: number;
  /**
   * A cut that shows no object of an image with objects is drawn again, as in SSD. An object counts if the center of
   * its box is visible, and at least `minVisible` of the box.
   */
  keepObject: boolean;
}

/** The values of the fields that the paper does not use: no change. */
export const PLAIN_AUGMENTATION = {
  flipVertical: 0,
  rotate90: 0,
  color: { brightness: 0, contrast: 0, saturation: 0, hue: 0, gray: 0 },
  scale: [1, 1],
  aspectJitter: 0,
  mosaic: 0,
  mosaicEnd: 0.15,
  minVisible: 0,
  keepObject: false,
} as const satisfies Partial<Augmentation>;

/** Whether all images of a run are placed on a canvas of one size. */
export function usesCanvas({ scale, aspectJitter, rotate90, mosaic }: Augmentation): boolean {
  return scale[0] !== 1 || scale[1] !== 1 || aspectJitter > 0 || rotate90 > 0 || mosaic > 0;
}

/** The resize of images for evaluation and prediction; nothing is random. */
export interface EvaluationResize {
  /** Pixels. `shortSide` and `maxSize` are ignored if there is a `fixedSize`. */
  shortSide: number;
  maxSize: number;
  fixedSize: readonly [height: number, width: number] | null;
}

/** Augmentation on COCO in Sparse R-CNN (CVPR 2021, section 4.1), which follows DETR. */
export const PAPER_AUGMENTATION: Augmentation = {
  flip: 0.5,
  shortSides: [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
  maxSize: 1333,
  crop: { probability: 0.5, shortSides: [400, 500, 600], minSize: 384, maxSize: 600 },
  fixedSize: null,
  ...PLAIN_AUGMENTATION,
};

/** Maximum side in pixels. A longer side is a typing error: such an image takes gigabytes. */
const MAX_SIDE = 16384;

const PIXELS = 'an integer of at least 1 (pixels)';
const side = v.pipe(
  v.number(PIXELS),
  v.safeInteger(PIXELS),
  v.minValue(1, PIXELS),
  v.maxValue(MAX_SIDE, `at most ${MAX_SIDE} (pixels)`),
);
const sides = v.array(side, 'a list of integers (pixels), e.g. [480, 512]');
const probability = v.pipe(
  v.number('a probability in 0 .. 1'),
  v.minValue(0, 'a probability in 0 .. 1'),
  v.maxValue(1, 'a probability in 0 .. 1'),
);

const HEIGHT_AND_WIDTH = 'null or [height, width] (pixels)';
const fixedSize = v.nullable(v.pipe(v.array(side, HEIGHT_AND_WIDTH), v.length(2, HEIGHT_AND_WIDTH)));

const crop = v.nullable(
  v.pipe(
    fields({ probability, shortSides: sides, minSize: side, maxSize: side }, 'null or an object'),
    v.forward(
      v.check(
        ({ minSize, maxSize }) => maxSize >= minSize,
        ({ input }) => `at least crop.minSize (${input.minSize})`,
      ),
      ['maxSize'],
    ),
  ),
);

const hasFixedSize = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && 'fixedSize' in value && value.fixedSize !== null;

const color = fields({
  brightness: number({ min: 0, max: 1 }),
  contrast: number({ min: 0, max: 1 }),
  saturation: number({ min: 0, max: 1 }),
  hue: number({ min: 0, max: 180 }),
  gray: probability,
});

const SCALE = '[minimum, maximum] with 0.05 <= minimum <= maximum <= 20';
const scale = v.pipe(
  v.array(v.pipe(v.number(SCALE), v.minValue(0.05, SCALE), v.maxValue(20, SCALE)), SCALE),
  v.length(2, SCALE),
  v.check(([minimum, maximum]) => minimum <= maximum, SCALE),
);

const common = {
  flip: probability,
  crop,
  fixedSize,
  flipVertical: probability,
  rotate90: probability,
  color,
  scale,
  aspectJitter: number({ min: 0, max: 1 }),
  mosaic: probability,
  mosaicEnd: number({ min: 0, max: 1 }),
  minVisible: number({ min: 0, max: 1 }),
  keepObject: trueOrFalse,
};
const shortSides = v.pipe(sides, v.minLength(1, 'at least one size, or a fixedSize'));
const RESIZED = fields({ ...common, shortSides, maxSize: side });
const FIXED = fields({ ...common, shortSides: v.unknown(), maxSize: v.unknown() });

/** The fields that a fixed size replaces are not checked. */
export const AUGMENTATION_SCHEMA = v.lazy((value) => (hasFixedSize(value) ? FIXED : RESIZED));

const EVALUATION_RESIZED = fields({ shortSide: side, maxSize: side, fixedSize });
const EVALUATION_FIXED = fields({ shortSide: v.unknown(), maxSize: v.unknown(), fixedSize });

/** The fields that a fixed size replaces are not checked. */
export const EVALUATION_RESIZE_SCHEMA = v.lazy((value) =>
  hasFixedSize(value) ? EVALUATION_FIXED : EVALUATION_RESIZED,
);

/** Throws InputError naming the field if an augmentation is invalid. */
export function validateAugmentation(augmentation: Augmentation): void {
  const problem = firstProblem(AUGMENTATION_SCHEMA, augmentation, 'augmentation');
  if (problem !== null) throw new InputError(problem);
}

/** Throws InputError naming the field if a resize is invalid. */
export function validateEvaluationResize(resize: EvaluationResize): void {
  const problem = firstProblem(EVALUATION_RESIZE_SCHEMA, resize, 'evaluationResize');
  if (problem !== null) throw new InputError(problem);
}
