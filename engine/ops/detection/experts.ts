/** Mixtures of experts: weighted sums of the boxes and features of several learned sets of proposals. */
import {
  mixExpertsKernel,
  mixExpertsValuesGradientKernel,
  mixExpertsWeightsGradientKernel,
} from '../../../kernels/experts.ts';
import { itemGrid } from '../../../kernels/kernel.ts';
import { defineOp, opFunction } from '../../core/op.ts';
import { shapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';

/** Params of the kernels, and how they access values. */
function sizesOf(
  weights: Tensor,
  values: Tensor,
): { access: 'vec4' | 'scalar'; batch: number; experts: number; rows: number; width: number } {
  const [batch, experts, rows] = weights.shape;
  const k = values.shape[2];
  return { access: k % 4 === 0 ? 'vec4' : 'scalar', batch, experts, rows, width: k % 4 === 0 ? k / 4 : k };
}

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
    const { access, ...params } = sizesOf(weights, values);
    const count = params.batch * params.rows * params.width;
    device.run(mixExpertsKernel(access), { count, ...params }, { weights, values, output }, itemGrid(count));
  },
  backward: ({ device, inputs: [weights, values], gradient: upstream, needs }) => {
    const { access, ...params } = sizesOf(weights, values);
    const weightsGradient = needs[0] ? device.empty(weights.shape) : null;
    if (weightsGradient) {
      device.run(
        mixExpertsWeightsGradientKernel(access),
        { count: weights.size, ...params },
        { values, upstream, gradient: weightsGradient },
        itemGrid(weights.size),
      );
    }
    const valuesGradient = needs[1] ? device.empty(values.shape) : null;
    if (valuesGradient) {
      const count = params.experts * params.rows * params.width;
      device.run(
        mixExpertsValuesGradientKernel(access),
        { count, ...params },
        { weights, upstream, gradient: valuesGradient },
        itemGrid(count),
      );
    }
    return [weightsGradient, valuesGradient];
  },
});

/**
 * Mixes experts row by row: einsum('ben,enk->bnk'). Each image gets its own proposal boxes and features out of E
 * learned sets [Dynamic Sparse R-CNN, dynamic proposal generation].
 *
 * @param weights [B, E, N]
 * @param values  [E, N, K]
 * @returns       [B, N, K]
 * @throws ShapeError where shapes or dtypes do not fit
 */
export const mixExperts = opFunction(
  mixExpertsOp,
  (weights: Tensor, values: Tensor): Tensor => mixExpertsOp([weights, values], null),
);
