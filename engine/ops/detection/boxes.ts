/**
 * Boxes, with xyxy as the last dimension: delta coding, conversion of initial boxes to pixels, pairwise IoU and GIoU.
 */
import {
  decodeBoxesGradientKernel,
  decodeBoxesKernel,
  initialBoxesGradientKernel,
  initialBoxesKernel,
  pairwiseOverlapGradientKernel,
  pairwiseOverlapKernel,
  type Overlap,
} from '../../../kernels/boxes.ts';
import { itemGrid } from '../../../kernels/kernel.ts';
import { defineOp, opFunction, type OpInfo } from '../../core/op.ts';
import { formatShape, sameShape, shapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';

function checkBoxes(op: string, argument: string, x: Tensor, leading = '...'): void {
  if (x.dtype !== 'f32') shapeError(op, argument, 'dtype f32', x.dtype);
  if (x.rank < 1 || x.shape[x.rank - 1] !== 4) shapeError(op, argument, `[${leading}, 4]`, x.shape);
}

export interface DecodeBoxesOptions {
  /** Lower bound of dw and dh. Default: none. mmdetection: log(16 / 1000). */
  readonly minLogScale?: number | null;
  /** Upper bound of dw and dh. Default: log(100000 / 16), as in Sparse R-CNN. mmdetection: log(1000 / 16). */
  readonly maxLogScale?: number;
}

/** The kernels' params of the bounds. WGSL may assume that no number is infinite, so "none" is the lowest f32. */
interface LogScaleBounds {
  readonly minLogScale: number;
  readonly maxLogScale: number;
}

const LOWEST_F32 = -3.4028234663852886e38;
const SPARSE_RCNN_MAX_LOG_SCALE = Math.log(100000 / 16);

function logScaleBounds({ minLogScale, maxLogScale }: DecodeBoxesOptions): LogScaleBounds {
  const bounds = { minLogScale: minLogScale ?? LOWEST_F32, maxLogScale: maxLogScale ?? SPARSE_RCNN_MAX_LOG_SCALE };
  for (const name of ['minLogScale', 'maxLogScale'] as const)
    if (!Number.isFinite(bounds[name])) shapeError('decodeBoxes', name, 'a finite number', String(bounds[name]));
  if (bounds.minLogScale > bounds.maxLogScale)
    shapeError('decodeBoxes', 'minLogScale', `at most maxLogScale (${bounds.maxLogScale})`, String(bounds.minLogScale));
  return bounds;
}

const decodeBoxesOp = defineOp({
  name: 'decodeBoxes',
  shape: ([deltas, boxes]: readonly [Tensor, Tensor], _: LogScaleBounds) => {
    checkBoxes('decodeBoxes', 'deltas', deltas);
    checkBoxes('decodeBoxes', 'boxes', boxes);
    if (!sameShape(deltas.shape, boxes.shape))
      shapeError('decodeBoxes', 'boxes', formatShape(deltas.shape), boxes.shape);
    return { shape: deltas.shape };
  },
  forward: ({ device, inputs: [deltas, boxes], attributes: bounds, output }) => {
    const count = deltas.size / 4;
    device.run(decodeBoxesKernel(), { count, ...bounds }, { deltas, boxes, output }, itemGrid(count));
  },
  backward: ({ device, inputs: [deltas, boxes], attributes: bounds, gradient: upstream, needs }) => {
    const count = deltas.size / 4;
    const deltasGradient = device.empty(deltas.shape);
    const boxesGradient = device.empty(boxes.shape);
    device.run(
      decodeBoxesGradientKernel(),
      { count, ...bounds },
      { deltas, boxes, upstream, deltasGradient, boxesGradient },
      itemGrid(count),
    );
    return [needs[0] ? deltasGradient : null, needs[1] ? boxesGradient : null];
  },
});

/**
 * Applies deltas (dx, dy, dw, dh) to boxes: Faster R-CNN's coding with weights (2, 2, 1, 1) [Sparse R-CNN]. dw and dh
 * are clamped; beyond the bounds their gradient is zero.
 *
 * @param deltas [..., 4]
 * @param boxes  [..., 4] xyxy
 * @returns      [..., 4] xyxy, in the unit of `boxes`
 * @throws ShapeError where shapes or dtypes do not fit, or where a bound is not finite or the lower is the larger
 */
export const decodeBoxes = opFunction(
  decodeBoxesOp,
  (deltas: Tensor, boxes: Tensor, options: DecodeBoxesOptions = {}): Tensor =>
    decodeBoxesOp([deltas, boxes], logScaleBounds(options)),
);

const initialBoxesOp = defineOp({
  name: 'initialBoxes',
  shape: ([boxes, sizes]: readonly [Tensor, Tensor]) => {
    checkBoxes('initialBoxes', 'cxcywh', boxes, 'B, N');
    if (boxes.rank !== 3) shapeError('initialBoxes', 'cxcywh', '[B, N, 4]', boxes.shape);
    if (!sameShape(sizes.shape, [boxes.shape[0], 4]))
      shapeError('initialBoxes', 'sizes', formatShape([boxes.shape[0], 4]), sizes.shape);
    if (sizes.requiresGrad)
      shapeError('initialBoxes', 'sizes', 'a constant (it gets no gradient)', 'a tensor that requires a gradient');
    return { shape: boxes.shape };
  },
  forward: ({ device, inputs: [boxes, sizes], output }) => {
    const count = boxes.size / 4;
    device.run(initialBoxesKernel(), { count, proposals: boxes.shape[1] }, { boxes, sizes, output }, itemGrid(count));
  },
  backward: ({ device, inputs: [boxes, sizes], gradient: upstream }) => {
    const gradient = device.empty(boxes.shape);
    const count = boxes.size / 4;
    device.run(
      initialBoxesGradientKernel(),
      { count, proposals: boxes.shape[1] },
      { sizes, upstream, gradient },
      itemGrid(count),
    );
    return [gradient, null];
  },
});

/**
 * Converts center boxes in units of the image to corner boxes in pixels.
 *
 * @param cxcywh [B, N, 4] in units of the image
 * @param sizes  [B, 4] width, height, width, height of the unpadded images in pixels; a constant
 * @returns      [B, N, 4] xyxy in pixels
 * @throws ShapeError where shapes or dtypes do not fit, or where `sizes` requires a gradient
 */
export const initialBoxes = opFunction(
  initialBoxesOp,
  (cxcywh: Tensor, sizes: Tensor): Tensor => initialBoxesOp([cxcywh, sizes], undefined),
);

/** The public function of a pairwise overlap. */
function pairwise(name: 'boxIou' | 'boxGiou', overlap: Overlap): ((a: Tensor, b: Tensor) => Tensor) & OpInfo {
  const op = defineOp({
    name,
    shape: ([a, b]: readonly [Tensor, Tensor], _: undefined) => {
      checkBoxes(name, 'a', a, '..., n');
      checkBoxes(name, 'b', b, '..., m');
      if (a.rank < 2) shapeError(name, 'a', '[..., n, 4]', a.shape);
      const leading = a.shape.slice(0, -2);
      if (b.rank !== a.rank || !sameShape(leading, b.shape.slice(0, -2)))
        shapeError(name, 'b', `[${[...leading, 'm', 4].join(', ')}]`, b.shape);
      return { shape: [...a.shape.slice(0, -1), b.shape[b.rank - 2]] };
    },
    forward: ({ device, inputs: [a, b], output }) => {
      const n = a.shape[a.rank - 2];
      const m = b.shape[b.rank - 2];
      device.run(pairwiseOverlapKernel(overlap), { count: output.size, n, m }, { a, b, output }, itemGrid(output.size));
    },
    backward: ({ device, inputs: [a, b], gradient: upstream, needs }) => {
      const n = a.shape[a.rank - 2];
      const m = b.shape[b.rank - 2];
      const gradientOf = (
        own: Tensor,
        other: Tensor,
        strides: { n: number; m: number; ownStride: number; otherStride: number },
      ): Tensor => {
        const gradient = device.empty(own.shape);
        const count = own.size / 4;
        device.run(
          pairwiseOverlapGradientKernel(overlap),
          { count, ...strides },
          { own, other, upstream, gradient },
          itemGrid(count),
        );
        return gradient;
      };
      return [
        needs[0] ? gradientOf(a, b, { n, m, ownStride: m, otherStride: 1 }) : null,
        needs[1] ? gradientOf(b, a, { n: m, m: n, ownStride: 1, otherStride: m }) : null,
      ];
    },
  });
  return opFunction(op, (a: Tensor, b: Tensor): Tensor => op([a, b], undefined));
}

/**
 * Pairwise intersection over union: a [..., n, 4], b [..., m, 4] xyxy -> [..., n, m]. It is 0 where both boxes have no
 * area. For users of the library; the model computes IoU inside its matching kernels.
 */
export const boxIou = pairwise('boxIou', 'iou');

/**
 * Pairwise generalised IoU (Rezatofighi et al., CVPR 2019): a [..., n, 4], b [..., m, 4] xyxy -> [..., n, m], in -1 ..
 * 1. For users of the library; the model computes GIoU inside its matching and loss kernels.
 */
export const boxGiou = pairwise('boxGiou', 'giou');
