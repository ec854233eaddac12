/** Normalisation: layerNorm, groupNorm and scaleShift (frozen batch norm), with residual and ReLU fused. */
import {
  layerNormGradientKernel, layerNormKernel, layerNormWideColumnsKernel, layerNormWideGradientKernel, MAX_SLOTS, type Width,
} from '../../kernels/norm.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import { teamOf } from '../../kernels/reduce.ts';
import { defineOp } from '../op.ts';
import { shapeError } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { sumColumnPairs } from './reduce.ts';

interface LayerNormAttributes {
  readonly epsilon: number;
  readonly relu: boolean;
}

function checkFloat(op: string, tensors: Readonly<Record<string, Tensor | null>>): void {
  for (const [name, tensor] of Object.entries(tensors)) if (tensor && tensor.dtype !== 'f32') shapeError(op, name, 'of dtype f32', tensor.dtype);
}

function checkVector(op: string, name: string, tensor: Tensor, size: number): void {
  if (tensor.rank !== 1 || tensor.size !== size) shapeError(op, name, `[${size}], the last dimension of x`, tensor.shape);
}

/** How rows of this tensor are spread over lanes. */
function rowLayout(x: Tensor): { rows: number; columns: number; width: Width; slots: number; full: boolean; lanes: number; teamsAGroup: number } {
  const { lanes, count } = teamOf(x.device.subgroupSize);
  const size = x.shape[x.rank - 1];
  const width = size % 4 === 0 ? 4 : 1;
  const columns = size / width;
  const slots = Math.ceil(columns / lanes);
  const held = slots <= MAX_SLOTS ? slots : 0;
  return { rows: size === 0 ? 0 : x.size / size, columns, width, slots: held, full: held > 0 && columns === held * lanes, lanes, teamsAGroup: count };
}

export const layerNormOp = defineOp({
  name: 'layerNorm',
  shape: ([x, gamma, beta]: readonly [Tensor, Tensor, Tensor], { epsilon }: LayerNormAttributes) => {
    checkFloat('layerNorm', { x, gamma, beta });
    if (x.rank === 0) shapeError('layerNorm', 'x', '[..., D]', x.shape);
    checkVector('layerNorm', 'gamma', gamma, x.shape[x.rank - 1]);
    checkVector('layerNorm', 'beta', beta, x.shape[x.rank - 1]);
    if (!(epsilon >= 0)) shapeError('layerNorm', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input, gamma, beta], attributes: { epsilon, relu }, output }) => {
    const { rows, columns, width, slots, full, teamsAGroup } = rowLayout(input);
    const perTeam = Math.min(32, Math.max(4, Math.ceil(rows / 512)));
    device.run(layerNormKernel(device.subgroupSize, width, slots, full, relu),
      { rows, columns, per_team: perTeam, inverse: 1 / (columns * width), epsilon },
      { input, gamma, beta, output }, linearGrid(Math.ceil(rows / perTeam / teamsAGroup)));
  },
  backward: ({ device, inputs: [input, gamma, beta], attributes: { epsilon, relu }, gradient: upstream }) => {
    const { rows, columns, width, slots, full, teamsAGroup } = rowLayout(input);
    const size = columns * width;
    const inverse = 1 / size;
    const gradient = device.empty(input.shape);
    if (slots > 0) {
      const perTeam = Math.max(1, Math.ceil(rows / Math.min(1024, Math.ceil(rows / 16))) || 1);
      const teams = Math.max(1, Math.ceil(rows / perTeam));
      const partial = device.empty([teams, 2, size]);
      device.run(layerNormGradientKernel(device.subgroupSize, width, slots, full, relu), { rows, columns, per_team: perTeam, teams, inverse, epsilon },
        { input, gamma, beta, upstream, gradient, partial }, linearGrid(Math.ceil(teams / teamsAGroup)));
      return [gradient, ...sumColumnPairs(device, partial, teams, size)];
    }
    const statistics = device.empty([rows, 2]);
    device.run(layerNormWideGradientKernel(device.subgroupSize, width, relu), { rows, columns, inverse, epsilon },
      { input, gamma, beta, upstream, gradient, statistics }, linearGrid(Math.ceil(rows / teamsAGroup)));
    const chunks = Math.min(64, Math.max(1, Math.ceil(rows / 16)));
    const partial = device.empty([chunks, 2, size]);
    device.run(layerNormWideColumnsKernel(width, relu), { rows, columns, chunks }, { input, gamma, beta, upstream, statistics, partial },
      linearGrid(Math.ceil(chunks * columns / 64)));
    return [gradient, ...sumColumnPairs(device, partial, chunks, size)];
  },
});

/**
 * Layer normalisation of each row: (x - mean) / sqrt(variance + epsilon) * gamma + beta, then the activation.
 *
 * @param x     [..., D]
 * @param gamma [D]
 * @param beta  [D]
 */
export function layerNorm(x: Tensor, gamma: Tensor, beta: Tensor, { epsilon = 1e-5, activation }: { epsilon?: number; activation?: 'relu' } = {}): Tensor {
  return layerNormOp([x, gamma, beta], { epsilon, relu: activation === 'relu' });
}
