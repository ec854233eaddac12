/** Layer normalization, with ReLU fused. */
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { layerNormGradients, normalizeRows, type LayerNormAttributes } from './layer-norm-variants.ts';
import { checkFloat, checkVector } from './norm-arguments.ts';

const layerNormOp = defineOp({
  name: 'layerNorm',
  shape: ([x, gamma, beta]: readonly [Tensor, Tensor, Tensor], { epsilon }: LayerNormAttributes) => {
    checkFloat('layerNorm', { x, gamma, beta });
    if (x.rank === 0) shapeError('layerNorm', 'x', '[..., D]', x.shape);
    checkVector('layerNorm', 'gamma', gamma, x.shape[x.rank - 1]);
    checkVector('layerNorm', 'beta', beta, x.shape[x.rank - 1]);
    if (!(epsilon >= 0)) shapeError('layerNorm', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: x.shape };
  },
  forward: ({ inputs: [input, gamma, beta], attributes, output }) =>
    normalizeRows({ input, gamma, beta, output }, attributes),
  backward: ({ inputs: [input, gamma, beta], attributes, gradient: upstream }) =>
    layerNormGradients({ input, gamma, beta, upstream }, attributes),
});

/**
 * Layer normalization of each row (Ba et al., 2016): act((x - mean) / sqrt(variance + epsilon) * gamma + beta).
 *
 * @param x     [..., D]
 * @param gamma [D]
 * @param beta  [D]
 * @returns     [..., D]
 * @throws ShapeError where shapes or epsilon do not fit
 */
export const layerNorm = opFunction(
  layerNormOp,
  (x: Tensor, gamma: Tensor, beta: Tensor, options: { epsilon?: number; activation?: 'relu' } = {}): Tensor => {
    const { epsilon = 1e-5, activation } = options;
    return layerNormOp([x, gamma, beta], { epsilon, relu: activation === 'relu' });
  },
);
