/** Layer normalization of rows and its gradients, as the tuned or the expected variant. */
import {
  layerNormGradientKernel,
  layerNormKernel,
  layerNormWideColumnsKernel,
  layerNormWideGradientKernel,
} from '../../kernels/layer-norm.ts';
import { itemGrid, linearGrid } from '../../kernels/kernel.ts';
import { teamOf } from '../../kernels/teams.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { withOperands } from './operand-textures.ts';
import { sumColumnPairs } from './column-pair-sums.ts';
import {
  chooseRows,
  otherTeams,
  rowsOf,
  rowTeams,
  rowTextures,
  type RowProblem,
  type Rows,
  type RowTeams,
} from './row-variants.ts';

export interface LayerNormAttributes {
  readonly epsilon: number;
  readonly relu: boolean;
}

/** Tensors of the forward pass. */
type Forward = Readonly<Record<'input' | 'gamma' | 'beta' | 'output', Tensor>>;
/**
 * Tensors of the backward pass. `gammaGradient` and `betaGradient` are the gradients with respect to gamma and beta.
 */
type Gradient = Readonly<
  Record<'input' | 'gamma' | 'beta' | 'upstream' | 'gradient' | 'gammaGradient' | 'betaGradient', Tensor>
>;

function normalizeWith(
  { input, gamma, beta, output }: Forward,
  { epsilon, relu }: LayerNormAttributes,
  { subgroupSize, slots, full, perTeam, textures }: RowTeams,
): void {
  const { device } = input;
  const { rows, columns, width } = rowsOf(input.size, gamma.size);
  withOperands(device, textures, { input }, (texture, operands, shifts) =>
    device.run(
      layerNormKernel({ subgroupSize, width, slots, full, relu, texture }),
      { rows, columns, perTeam, inverse: 1 / (columns * width), epsilon, ...shifts },
      { ...operands, gamma, beta, output },
      linearGrid(Math.ceil(rows / perTeam / teamOf(subgroupSize).count)),
    ),
  );
}

/**
 * Gradients with respect to the input, gamma and beta.
 * `perTeam` is ignored for rows that are not held in registers: each team handles one row.
 */
function layerNormBackward(
  { input, gamma, beta, upstream, gradient, gammaGradient, betaGradient }: Gradient,
  { epsilon, relu }: LayerNormAttributes,
  { subgroupSize, slots, full, perTeam }: RowTeams,
): void {
  const { device } = input;
  const { rows, columns, width } = rowsOf(input.size, gamma.size);
  const size = columns * width;
  const inverse = 1 / size;
  const teamsPerGroup = teamOf(subgroupSize).count;
  if (slots > 0) {
    const teams = Math.max(1, Math.ceil(rows / perTeam));
    const partial = device.empty([teams, 2, size]);
    const params = { rows, columns, perTeam, teams, inverse, epsilon };
    device.run(
      layerNormGradientKernel({ subgroupSize, width, slots, full, relu }),
      params,
      { input, gamma, beta, upstream, gradient, partial },
      linearGrid(Math.ceil(teams / teamsPerGroup)),
    );
    sumColumnPairs(partial, teams, size, [gammaGradient, betaGradient]);
    return;
  }
  const statistics = device.empty([rows, 2]);
  device.run(
    layerNormWideGradientKernel(subgroupSize, width, relu),
    { rows, columns, inverse, epsilon },
    { input, gamma, beta, upstream, gradient, statistics },
    linearGrid(Math.ceil(rows / teamsPerGroup)),
  );
  const chunks = Math.min(64, Math.max(1, Math.ceil(rows / 16)));
  const partial = device.empty([chunks, 2, size]);
  device.run(
    layerNormWideColumnsKernel(width, relu),
    { rows, columns, chunks },
    { input, gamma, beta, upstream, statistics, partial },
    itemGrid(chunks * columns),
  );
  sumColumnPairs(partial, chunks, size, [gammaGradient, betaGradient]);
}

/**
 * Variants are measured without the ReLU. The ReLU is the same in all variants, and rounding could move a value across
 * its kink.
 */
const MEASURED: LayerNormAttributes = { epsilon: 1e-5, relu: false };

function describeForward(device: TensorDevice, rows: Rows): RowProblem<RowTeams> {
  const { rows: count, columns, width } = rows;
  const shape = [count, columns * width];
  const vector = [columns * width];
  const textures = rowTextures(device, rows);
  const expected = rowTeams(rows, {
    subgroupSize: device.subgroupSize,
    held: true,
    perTeam: Math.min(32, Math.max(4, Math.ceil(count / 512))),
    textures: textures.expected,
  });
  return {
    expected,
    others: otherTeams(rows, expected, textures.possible),
    plain: rowTeams(rows, { subgroupSize: 0, held: false, perTeam: 1 }),
    kernels: ({ subgroupSize, slots, full, textures: texture }) => [
      layerNormKernel({ subgroupSize, width, slots, full, relu: false, texture }),
    ],
    tensors: { input: shape, gamma: vector, beta: vector, output: shape },
    output: 'output',
    run: (variant, filled) => normalizeWith(filled as Forward, MEASURED, variant),
  };
}

function describeGradient(device: TensorDevice, rows: Rows): RowProblem<RowTeams> {
  const { rows: count, columns, width } = rows;
  const shape = [count, columns * width];
  const vector = [columns * width];
  const expected = rowTeams(rows, {
    subgroupSize: device.subgroupSize,
    held: true,
    perTeam: count <= 1024 ? 8 : Math.max(16, Math.ceil(count / 1024)),
  });
  return {
    expected,
    others: expected.slots > 0 ? otherTeams(rows, expected, false) : [],
    plain: rowTeams(rows, { subgroupSize: 0, held: false, perTeam: 1 }),
    kernels: ({ subgroupSize, slots, full }) =>
      slots > 0
        ? [layerNormGradientKernel({ subgroupSize, width, slots, full, relu: false })]
        : [layerNormWideGradientKernel(subgroupSize, width, false), layerNormWideColumnsKernel(width, false)],
    tensors: {
      input: shape,
      gamma: vector,
      beta: vector,
      upstream: shape,
      gradient: shape,
      gammaGradient: vector,
      betaGradient: vector,
    },
    output: ['gradient', 'gammaGradient', 'betaGradient'],
    run: (variant, filled) => layerNormBackward(filled as Gradient, MEASURED, variant),
  };
}

/** Writes the layer normalization of the rows of `input` to `output`, without the tape. */
export function normalizeRows(tensors: Forward, attributes: LayerNormAttributes): void {
  const { input, gamma } = tensors;
  const variant = chooseRows(input.device, 'layer-norm', { count: input.size, size: gamma.size }, describeForward);
  normalizeWith(tensors, attributes, variant);
}

/** Gradients of layer normalization with respect to its input, gamma and beta. */
export function layerNormGradients(
  tensors: Pick<Gradient, 'input' | 'gamma' | 'beta' | 'upstream'>,
  attributes: LayerNormAttributes,
): [Tensor, Tensor, Tensor] {
  const { input, gamma } = tensors;
  const { device } = input;
  const [gradient, gammaGradient, betaGradient] = [input, gamma, gamma].map(({ shape }) => device.empty(shape));
  const variant = chooseRows(device, 'layer-norm-gradient', { count: input.size, size: gamma.size }, describeGradient);
  layerNormBackward({ ...tensors, gradient, gammaGradient, betaGradient }, attributes, variant);
  return [gradient, gammaGradient, betaGradient];
}
