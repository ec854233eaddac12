/** Group normalization, with residual and ReLU fused. */
import { channelAffineKernel } from '../../kernels/channel-norm.ts';
import { groupNormGradientKernel, groupNormResidualGradientKernel } from '../../kernels/group-norm.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { mapLaunch, type MapSizes } from './channel-norm.ts';
import { columnPairSums } from './column-pair-sums.ts';
import { chooseGroups, writeGradientSums, writeStatistics } from './group-norm-variants.ts';
import { checkFloat, checkResidual, checkVector } from './norm-arguments.ts';

interface GroupNormAttributes {
  readonly groups: number;
  readonly epsilon: number;
  readonly relu: boolean;
}

/** Sizes of x as [images, pixels, channels]. */
function sizesOf(x: Tensor): MapSizes {
  const images = x.shape[0];
  const channels = x.shape[x.rank - 1];
  return { images, channels, pixels: x.size === 0 ? 0 : x.size / images / channels };
}

const groupNormOp = defineOp({
  name: 'groupNorm',
  shape: (
    [x, gamma, beta, residual]: readonly [Tensor, Tensor, Tensor, Tensor | null],
    { groups, epsilon }: GroupNormAttributes,
  ) => {
    checkFloat('groupNorm', { x, gamma, beta, residual });
    if (x.rank < 2) shapeError('groupNorm', 'x', '[B, ..., C]', x.shape);
    const channels = x.shape[x.rank - 1];
    checkVector('groupNorm', 'gamma', gamma, channels);
    checkVector('groupNorm', 'beta', beta, channels);
    if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
      shapeError('groupNorm', 'groups', `a divisor of the ${channels} channels`, String(groups));
    }
    checkResidual('groupNorm', residual, x);
    if (!(epsilon >= 0)) shapeError('groupNorm', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input, gamma, beta, residual], attributes: { groups, epsilon, relu }, output }) => {
    const sizes = { ...sizesOf(input), groups };
    const statistics = device.empty([sizes.images, 2, sizes.channels]);
    writeStatistics({ input, statistics }, sizes, epsilon, chooseGroups(device, 'statistics', sizes));
    const map = mapLaunch(device, 'forward', sizes);
    device.run(
      channelAffineKernel(map.width, true, residual !== null, relu),
      map.params,
      { input, statistics, gamma, beta, residual: residual ?? input, output },
      map.grid,
    );
    return { statistics };
  },
  backward: ({
    device,
    inputs,
    attributes: { groups, relu },
    output,
    saved: { statistics },
    gradient: upstream,
    needs,
  }) => {
    const [input, gamma, , residual] = inputs;
    const sizes = { ...sizesOf(input), groups };
    const { images, channels } = sizes;
    const sums = device.empty([images, 2, channels]);
    const means = device.empty([images, 2, channels]);
    writeGradientSums(
      { input, output, upstream, statistics, gamma, sums, means },
      sizes,
      relu,
      chooseGroups(device, 'gradient', sizes),
    );
    const [betaGradient, gammaGradient] = needs[1] || needs[2] ? columnPairSums(sums, images, channels) : [null, null];
    const map = mapLaunch(device, 'backward', sizes);
    const both = residual !== null && needs[3] && relu;
    const gradient = needs[0] || both ? device.empty(input.shape) : null;
    let residualGradient = residual && needs[3] ? upstream : null;
    if (gradient && both) {
      residualGradient = device.empty(input.shape);
      device.run(
        groupNormResidualGradientKernel(map.width),
        map.params,
        { input, output, upstream, statistics, gamma, means, gradient, residualGradient },
        map.grid,
      );
    } else if (gradient) {
      device.run(
        groupNormGradientKernel(map.width, relu),
        map.params,
        { input, output, upstream, statistics, gamma, means, gradient },
        map.grid,
      );
    }
    return [gradient, gammaGradient, betaGradient, residualGradient];
  },
});

/**
 * Group normalization of channels-last maps (Wu and He, ECCV 2018), with the residual and ReLU that follow it in
 * residual networks: act((x - mean) / sqrt(variance + epsilon) * gamma + beta + residual).
 * Mean and variance are taken over the pixels of an image and a group of adjacent channels.
 *
 * @param x      [B, ..., C]
 * @param gamma  [C]
 * @param beta   [C]
 * @param groups divides C
 * @param options.residual of x's shape, added before the activation
 * @returns of x's shape
 * @throws ShapeError where shapes, groups or epsilon do not fit
 */
export const groupNorm = opFunction(
  groupNormOp,
  (
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    groups: number,
    options: { epsilon?: number; activation?: 'relu'; residual?: Tensor } = {},
  ): Tensor => {
    const { epsilon = 1e-5, activation, residual } = options;
    return groupNormOp([x, gamma, beta, residual ?? null], { groups, epsilon, relu: activation === 'relu' });
  },
);
