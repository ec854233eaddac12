/** Settings of augmentation and of the resize for evaluation: types, the paper's values, and their checks. */
import * as v from 'valibot';
import { fields, firstProblem } from '../../model/schema.ts';
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

/** Random changes of training images. */
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

const flip = probability;
const shortSides = v.pipe(sides, v.minLength(1, 'at least one size, or a fixedSize'));
const RESIZED = fields({ flip, shortSides, maxSize: side, crop, fixedSize });
const FIXED = fields({ flip, shortSides: v.unknown(), maxSize: v.unknown(), crop, fixedSize });

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
