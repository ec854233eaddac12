/**
 * Argument types that several detection ops share, and their checks. Boxes are xyxy in pixels unless stated otherwise.
 */
import { formatShape, sameShape, shapeError, type Shape } from '../../core/shape.ts';
import type { DType, Tensor } from '../../core/tensor.ts';

/** Predictions of all stages. */
export interface Predictions {
  /** f32 [T, B, N, C], before the sigmoid. */
  readonly logits: Tensor;
  /** f32 [T, B, N, 4]. */
  readonly boxes: Tensor;
}

/** Ground truths of a batch, padded to M rows per image. */
export interface PaddedTargets {
  /** u32 [B, M], classes. */
  readonly labels: Tensor;
  /** f32 [B, M, 4]. */
  readonly boxes: Tensor;
  /** u32 [B]: rows in use. The other rows have no influence. */
  readonly counts: Tensor;
  /** f32 [B, 4]: width, height, width, height of the unpadded images in pixels. */
  readonly sizes: Tensor;
}

export interface FocalOptions {
  /** Weight of the positive term, in 0 .. 1; the negative term has weight 1 - alpha. */
  readonly alpha: number;
  /** Focusing exponent, a real number >= 0. */
  readonly gamma: number;
}

/** Weights of the terms of a matching cost and of the set loss, and the parameters of the focal term. */
export interface MatchingWeights extends FocalOptions {
  readonly classWeight: number;
  readonly l1Weight: number;
  readonly giouWeight: number;
}

/** Checks one argument of an op. */
export type CheckArgument = (argument: string, tensor: Tensor, shape: Shape, dtype?: DType) => void;

/** A function that throws ShapeError where an argument of `op` has another shape or dtype (default f32). */
export const checksOf =
  (op: string): CheckArgument =>
  (argument, tensor, shape, dtype = 'f32') => {
    if (tensor.dtype !== dtype) shapeError(op, argument, `dtype ${dtype}`, tensor.dtype);
    if (!sameShape(tensor.shape, shape)) shapeError(op, argument, formatShape(shape), tensor.shape);
  };

/** Throws ShapeError where a batch's targets do not fit each other. Returns B as `images` and M as `rows`. */
export function checkTargets(op: string, targets: PaddedTargets): { images: number; rows: number } {
  if (targets.labels.rank !== 2) shapeError(op, 'targets.labels', '[B, M]', targets.labels.shape);
  const [images, rows] = targets.labels.shape;
  const check = checksOf(op);
  check('targets.labels', targets.labels, [images, rows], 'u32');
  check('targets.boxes', targets.boxes, [images, rows, 4]);
  check('targets.counts', targets.counts, [images], 'u32');
  check('targets.sizes', targets.sizes, [images, 4]);
  return { images, rows };
}

/** Throws RangeError where alpha or gamma is out of range. */
export function checkFocal(op: string, { alpha, gamma }: FocalOptions): void {
  if (!(alpha >= 0 && alpha <= 1)) throw new RangeError(`${op}: alpha: expected a number in 0 .. 1, got ${alpha}`);
  if (!(gamma >= 0 && Number.isFinite(gamma)))
    throw new RangeError(`${op}: gamma: expected a finite number >= 0, got ${gamma}`);
}
