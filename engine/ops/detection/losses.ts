/** Losses of single elements: sigmoid focal loss and L1. */
import {
  l1LossGradientKernel,
  l1LossKernel,
  sigmoidFocalLossGradientKernel,
  sigmoidFocalLossKernel,
  type FocalTargets,
} from '../../../kernels/losses.ts';
import { itemGrid } from '../../../kernels/kernel.ts';
import { defineOp, opFunction } from '../../core/op.ts';
import { formatShape, sameShape, shapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import { checkFocal, type FocalOptions } from './arguments.ts';

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
      itemGrid(logits.size),
    );
  },
  backward: ({ device, inputs: [logits, targets], attributes: { alpha, gamma }, gradient: upstream }) => {
    const gradient = device.empty(logits.shape);
    const sizes = { count: logits.size, classes: logits.shape[logits.rank - 1] };
    device.run(
      sigmoidFocalLossGradientKernel(focalTargets(targets)),
      { ...sizes, alpha, gamma },
      { logits, targets, upstream, gradient },
      itemGrid(logits.size),
    );
    return [gradient, null];
  },
});

/**
 * Sigmoid focal loss of every logit (Lin et al., ICCV 2017): alpha (1 - p)^gamma softplus(-x) for target 1,
 * (1 - alpha) p^gamma softplus(x) for target 0. It neither overflows nor loses precision at large |x|.
 * For users of the library; the model uses `setLoss`.
 *
 * @param logits  f32 [..., C]
 * @param targets f32 [..., C] in 0 .. 1, or u32 / i32 [...]: the class of each row. A class outside 0 .. C - 1 makes
 *   the whole row negative
 * @returns       f32 [..., C]
 * @throws ShapeError or RangeError where an argument does not fit
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
    device.run(l1LossKernel(), { count4 }, { a, b, output }, itemGrid(count4));
  },
  backward: ({ device, inputs: [a, b], gradient: upstream, needs }) =>
    [1, -1].map((factor, i) => {
      if (!needs[i]) return null;
      const gradient = device.empty(a.shape);
      const count4 = Math.ceil(a.size / 4);
      device.run(l1LossGradientKernel(), { count4, factor }, { a, b, upstream, gradient }, itemGrid(count4));
      return gradient;
    }),
});

/**
 * |a - b| of every element; the derivative at 0 is 0. Both tensors have the same shape.
 * For users of the library; the model uses `setLoss`.
 */
export const l1Loss = opFunction(l1LossOp, (a: Tensor, b: Tensor): Tensor => l1LossOp([a, b], undefined));
