/** Boxes (xyxy as the last dimension): delta coding, normalized cxcywh to pixels, pairwise IoU and GIoU; sigmoid focal loss and L1 per element. */
import {
  decodeBoxesGradientKernel,
  decodeBoxesKernel,
  initialBoxesGradientKernel,
  initialBoxesKernel,
  l1LossGradientKernel,
  l1LossKernel,
  pairwiseOverlapGradientKernel,
  pairwiseOverlapKernel,
  sigmoidFocalLossGradientKernel,
  sigmoidFocalLossKernel,
  type FocalTargets,
  type Overlap,
} from '../../../kernels/boxes.ts';
import { linearGrid } from '../../../kernels/kernel.ts';
import { defineOp, opFunction, type Op } from '../../core/op.ts';
import { formatShape, sameShape, shapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';

/** One lane an item, 64 a workgroup. */
const lanes = (count: number): readonly [number, number, number] => linearGrid(Math.ceil(count / 64));

function checkBoxes(op: string, argument: string, x: Tensor, leading = '...'): void {
  if (x.dtype !== 'f32') shapeError(op, argument, 'dtype f32', x.dtype);
  if (x.rank < 1 || x.shape[x.rank - 1] !== 4) shapeError(op, argument, `[${leading}, 4]`, x.shape);
}

const decodeBoxesOp = defineOp({
  name: 'decodeBoxes',
  shape: ([deltas, boxes]: readonly [Tensor, Tensor]) => {
    checkBoxes('decodeBoxes', 'deltas', deltas);
    checkBoxes('decodeBoxes', 'boxes', boxes);
    if (!sameShape(deltas.shape, boxes.shape))
      shapeError('decodeBoxes', 'boxes', formatShape(deltas.shape), boxes.shape);
    return { shape: deltas.shape };
  },
  forward: ({ device, inputs: [deltas, boxes], output }) => {
    const count = deltas.size / 4;
    device.run(decodeBoxesKernel(), { count }, { deltas, boxes, output }, lanes(count));
  },
  backward: ({ device, inputs: [deltas, boxes], gradient: upstream, needs }) => {
    const count = deltas.size / 4;
    const deltasGradient = device.empty(deltas.shape),
      boxesGradient = device.empty(boxes.shape);
    device.run(
      decodeBoxesGradientKernel(),
      { count },
      { deltas, boxes, upstream, deltasGradient, boxesGradient },
      lanes(count),
    );
    return [needs[0] ? deltasGradient : null, needs[1] ? boxesGradient : null];
  },
});

/**
 * Applies (dx, dy, dw, dh) to boxes: Faster R-CNN's coding with weights (2, 2, 1, 1), dw and dh clamped above at log(100000 / 16), where
 * no gradient passes [Sparse R-CNN].
 *
 * @param deltas [..., 4]
 * @param boxes  [..., 4] xyxy
 * @returns      [..., 4] xyxy, in the unit of `boxes`
 */
export const decodeBoxes = opFunction(
  decodeBoxesOp,
  (deltas: Tensor, boxes: Tensor): Tensor => decodeBoxesOp([deltas, boxes], undefined),
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
    device.run(initialBoxesKernel(), { count, proposals: boxes.shape[1] }, { boxes, sizes, output }, lanes(count));
  },
  backward: ({ device, inputs: [boxes, sizes], gradient: upstream }) => {
    const gradient = device.empty(boxes.shape);
    const count = boxes.size / 4;
    device.run(
      initialBoxesGradientKernel(),
      { count, proposals: boxes.shape[1] },
      { sizes, upstream, gradient },
      lanes(count),
    );
    return [gradient, null];
  },
});

/**
 * Normalized centre boxes to corner boxes in pixels.
 *
 * @param cxcywh [B, N, 4] in units of the image
 * @param sizes  [B, 4] width, height, width, height of the unpadded images; a constant
 * @returns      [B, N, 4] xyxy in pixels
 */
export const initialBoxes = opFunction(
  initialBoxesOp,
  (cxcywh: Tensor, sizes: Tensor): Tensor => initialBoxesOp([cxcywh, sizes], undefined),
);

function overlapOp(name: 'boxIou' | 'boxGiou', overlap: Overlap): Op<readonly [Tensor, Tensor], undefined> {
  return defineOp({
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
      const n = a.shape[a.rank - 2],
        m = b.shape[b.rank - 2];
      device.run(pairwiseOverlapKernel(overlap), { count: output.size, n, m }, { a, b, output }, lanes(output.size));
    },
    backward: ({ device, inputs: [a, b], gradient: upstream, needs }) => {
      const n = a.shape[a.rank - 2],
        m = b.shape[b.rank - 2];
      const by = (
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
          lanes(count),
        );
        return gradient;
      };
      return [
        needs[0] ? by(a, b, { n, m, ownStride: m, otherStride: 1 }) : null,
        needs[1] ? by(b, a, { n: m, m: n, ownStride: 1, otherStride: m }) : null,
      ];
    },
  });
}

const boxIouOp = overlapOp('boxIou', 'iou');
const boxGiouOp = overlapOp('boxGiou', 'giou');

/** Pairwise intersection over union: a [..., n, 4], b [..., m, 4] xyxy -> [..., n, m]; 0 where both boxes have no area. */
export const boxIou = opFunction(boxIouOp, (a: Tensor, b: Tensor): Tensor => boxIouOp([a, b], undefined));
/** Pairwise generalised IoU (Rezatofighi et al., CVPR 2019): a [..., n, 4], b [..., m, 4] xyxy -> [..., n, m], in -1 .. 1. */
export const boxGiou = opFunction(boxGiouOp, (a: Tensor, b: Tensor): Tensor => boxGiouOp([a, b], undefined));

export interface FocalOptions {
  /** Weight of the positive term, in 0 .. 1; the negative one has 1 - alpha. */
  readonly alpha: number;
  /** Focusing exponent, a real number of at least 0. */
  readonly gamma: number;
}

/** Throws where alpha or gamma is out of range. */
export function checkFocal(op: string, { alpha, gamma }: FocalOptions): void {
  if (!(alpha >= 0 && alpha <= 1)) throw new RangeError(`${op}: alpha must be in 0 .. 1, got ${alpha}`);
  if (!(gamma >= 0 && Number.isFinite(gamma)))
    throw new RangeError(`${op}: gamma must be a finite number of at least 0, got ${gamma}`);
}

const focalTargets = (targets: Tensor): FocalTargets => (targets.dtype === 'f32' ? 'dense' : 'index');

const sigmoidFocalLossOp = defineOp({
  name: 'sigmoidFocalLoss',
  shape: ([logits, targets]: readonly [Tensor, Tensor], options: FocalOptions) => {
    if (logits.dtype !== 'f32') shapeError('sigmoidFocalLoss', 'logits', 'dtype f32', logits.dtype);
    if (logits.rank < 1) shapeError('sigmoidFocalLoss', 'logits', '[..., C]', logits.shape);
    const expected = focalTargets(targets) === 'dense' ? logits.shape : logits.shape.slice(0, -1);
    if (!sameShape(targets.shape, expected))
      shapeError('sigmoidFocalLoss', `targets (${targets.dtype})`, formatShape(expected), targets.shape);
    if (targets.requiresGrad)
      shapeError(
        'sigmoidFocalLoss',
        'targets',
        'a constant (they get no gradient)',
        'a tensor that requires a gradient',
      );
    checkFocal('sigmoidFocalLoss', options);
    return { shape: logits.shape };
  },
  forward: ({ device, inputs: [logits, targets], attributes: { alpha, gamma }, output }) => {
    const sizes = { count: logits.size, classes: logits.shape[logits.rank - 1] };
    device.run(
      sigmoidFocalLossKernel(focalTargets(targets)),
      { ...sizes, alpha, gamma },
      { logits, targets, output },
      lanes(logits.size),
    );
  },
  backward: ({ device, inputs: [logits, targets], attributes: { alpha, gamma }, gradient: upstream }) => {
    const gradient = device.empty(logits.shape);
    const sizes = { count: logits.size, classes: logits.shape[logits.rank - 1] };
    device.run(
      sigmoidFocalLossGradientKernel(focalTargets(targets)),
      { ...sizes, alpha, gamma },
      { logits, targets, upstream, gradient },
      lanes(logits.size),
    );
    return [gradient, null];
  },
});

/**
 * Sigmoid focal loss of every logit (Lin et al., ICCV 2017): alpha (1 - p)^gamma softplus(-x) against target 1,
 * (1 - alpha) p^gamma softplus(x) against target 0, without overflow or cancellation at large |x|.
 *
 * @param logits  f32 [..., C]
 * @param targets f32 [..., C] in 0 .. 1, or u32 / i32 [...]: the class of each row; a number outside 0 .. C - 1 makes the row all negative
 * @returns       f32 [..., C]
 */
export const sigmoidFocalLoss = opFunction(
  sigmoidFocalLossOp,
  (logits: Tensor, targets: Tensor, options: FocalOptions): Tensor => sigmoidFocalLossOp([logits, targets], options),
);

const l1LossOp = defineOp({
  name: 'l1Loss',
  shape: ([a, b]: readonly [Tensor, Tensor]) => {
    for (const [argument, x] of [
      ['a', a],
      ['b', b],
    ] as const)
      if (x.dtype !== 'f32') shapeError('l1Loss', argument, 'dtype f32', x.dtype);
    if (!sameShape(a.shape, b.shape)) shapeError('l1Loss', 'b', formatShape(a.shape), b.shape);
    return { shape: a.shape };
  },
  forward: ({ device, inputs: [a, b], output }) => {
    const count4 = Math.ceil(a.size / 4);
    device.run(l1LossKernel(), { count4 }, { a, b, output }, lanes(count4));
  },
  backward: ({ device, inputs: [a, b], gradient: upstream, needs }) =>
    [1, -1].map((factor, i) => {
      if (!needs[i]) return null;
      const gradient = device.empty(a.shape);
      const count4 = Math.ceil(a.size / 4);
      device.run(l1LossGradientKernel(), { count4, factor }, { a, b, upstream, gradient }, lanes(count4));
      return gradient;
    }),
});

/** |a - b| of every element; the derivative at 0 is 0. Equal shapes. */
export const l1Loss = opFunction(l1LossOp, (a: Tensor, b: Tensor): Tensor => l1LossOp([a, b], undefined));
