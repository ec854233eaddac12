/** Mixtures of experts: each proposal's boxes and features as a weighted sum of the experts' (dynamic proposal generation). */
import {
  mixExpertsKernel,
  mixExpertsValuesGradientKernel,
  mixExpertsWeightsGradientKernel,
} from '../../../kernels/experts.ts';
import { linearGrid } from '../../../kernels/kernel.ts';
import { defineOp, opFunction } from '../../core/op.ts';
import { shapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';

function sizes(
  weights: Tensor,
  values: Tensor,
): { access: 'vec4' | 'scalar'; batch: number; experts: number; rows: number; width: number } {
  const [batch, experts, rows] = weights.shape;
  const k = values.shape[2];
  return { access: k % 4 === 0 ? 'vec4' : 'scalar', batch, experts, rows, width: k % 4 === 0 ? k / 4 : k };
}

const grid = (count: number): ReturnType<typeof linearGrid> => linearGrid(Math.ceil(count / 64));

const mixExpertsOp = defineOp({
  name: 'mixExperts',
  shape: ([weights, values]: readonly [Tensor, Tensor], _: null) => {
    for (const [name, { dtype }] of [
      ['weights', weights],
      ['values', values],
    ] as const)
      if (dtype !== 'f32') shapeError('mixExperts', name, 'dtype f32', dtype);
    if (weights.rank !== 3) shapeError('mixExperts', 'weights', '[B, E, N]', weights.shape);
    const [batch, experts, rows] = weights.shape;
    if (values.rank !== 3 || values.shape[0] !== experts || values.shape[1] !== rows)
      shapeError('mixExperts', 'values', `[${experts}, ${rows}, K]`, values.shape);
    return { shape: [batch, rows, values.shape[2]] };
  },
  forward: ({ device, inputs: [weights, values], output }) => {
    const { access, ...params } = sizes(weights, values);
    const count = params.batch * params.rows * params.width;
    device.run(mixExpertsKernel(access), { count, ...params }, { weights, values, output }, grid(count));
  },
  backward: ({ device, inputs: [weights, values], gradient: upstream, needs }) => {
    const { access, ...params } = sizes(weights, values);
    const byWeights = needs[0] ? device.empty(weights.shape) : null;
    if (byWeights) {
      device.run(
        mixExpertsWeightsGradientKernel(access),
        { count: weights.size, ...params },
        { values, upstream, gradient: byWeights },
        grid(weights.size),
      );
    }
    const byValues = needs[1] ? device.empty(values.shape) : null;
    if (byValues) {
      const count = params.experts * params.rows * params.width;
      device.run(
        mixExpertsValuesGradientKernel(access),
        { count, ...params },
        { weights, upstream, gradient: byValues },
        grid(count),
      );
    }
    return [byWeights, byValues];
  },
});

/**
 * Mixes experts row by row: weights [B, E, N] and values [E, N, K] give [B, N, K], einsum('ben,enk->bnk').
 * With it each image gets proposal boxes and features of its own out of E learned sets (dynamic proposal generation in the paper).
 */
export const mixExperts = opFunction(
  mixExpertsOp,
  (weights: Tensor, values: Tensor): Tensor => mixExpertsOp([weights, values], null),
);
