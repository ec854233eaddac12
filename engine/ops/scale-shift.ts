/** A scale and a shift per channel (frozen batch norm), with residual and ReLU fused. */
import { channelAffineKernel, channelGradientSumsKernel } from '../../kernels/channel-norm.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { channelLaunch, mapLaunch, MAX_CHUNKS, PIXELS_SUMMED, type MapSizes } from './channel-norm.ts';
import { columnPairSums } from './column-pair-sums.ts';
import { checkFloat, checkResidual, checkVector } from './norm-arguments.ts';
import { scaleShiftGradients } from './scale-shift-gradients.ts';

interface ScaleShiftAttributes {
  readonly relu: boolean;
}

/** The map as one image: scale and shift do not depend on the image. */
function sizesOf(x: Tensor, channels: number): MapSizes {
  return { images: 1, pixels: channels === 0 ? 0 : x.size / channels, channels };
}

const scaleShiftOp = defineOp<readonly [Tensor, Tensor, Tensor, Tensor | null], ScaleShiftAttributes>({
  name: 'scaleShift',
  shape: ([x, scale, shift, residual]) => {
    checkFloat('scaleShift', { x, scale, shift, residual });
    if (x.rank === 0) shapeError('scaleShift', 'x', '[..., C]', x.shape);
    checkVector('scaleShift', 'scale', scale, x.shape[x.rank - 1]);
    checkVector('scaleShift', 'shift', shift, x.shape[x.rank - 1]);
    checkResidual('scaleShift', residual, x);
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input, scale, shift, residual], attributes: { relu }, output }) => {
    const { width, params, grid } = mapLaunch(device, 'forward', sizesOf(input, scale.size));
    device.run(
      channelAffineKernel(width, false, residual !== null, relu),
      params,
      { input, statistics: scale, gamma: scale, beta: shift, residual: residual ?? input, output },
      grid,
    );
  },
  backward: ({
    device,
    inputs: [input, scale, , residual],
    attributes: { relu },
    output,
    gradient: upstream,
    needs,
  }) => {
    const channels = scale.size;
    const { scaled: gradient, plain: residualGradient } = scaleShiftGradients(upstream, scale, relu ? output : null, {
      scaled: needs[0],
      plain: residual !== null && needs[3],
    });
    if (!needs[1] && !needs[2]) return [gradient, null, null, residualGradient];
    const sums = channelLaunch(sizesOf(input, channels), PIXELS_SUMMED, 4 * MAX_CHUNKS);
    const partial = device.empty([sums.chunks, 2, channels]);
    device.run(
      channelGradientSumsKernel(sums.width, false, relu),
      sums.params,
      { input, output, upstream, statistics: scale, partial },
      sums.grid,
    );
    const [shiftGradient, scaleGradient] = columnPairSums(partial, sums.chunks, channels);
    return [gradient, scaleGradient, shiftGradient, residualGradient];
  },
});

/**
 * One scale and one shift per channel: act(x * scale + shift + residual). This is batch norm with frozen statistics
 * (scale = gamma / sqrt(variance + epsilon)), with the residual and ReLU that follow it in residual networks.
 *
 * @param x     [..., C]
 * @param scale [C]
 * @param shift [C]
 * @param options.residual of x's shape, added before the activation
 * @returns of x's shape
 * @throws ShapeError where shapes do not fit
 */
export const scaleShift = opFunction(
  scaleShiftOp,
  (x: Tensor, scale: Tensor, shift: Tensor, options: { activation?: 'relu'; residual?: Tensor } = {}): Tensor => {
    const { activation, residual } = options;
    return scaleShiftOp([x, scale, shift, residual ?? null], { relu: activation === 'relu' });
  },
);
