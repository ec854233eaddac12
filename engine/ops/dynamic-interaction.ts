/** Dynamic interaction: each proposal's features filtered by weights of its own. */
import {
  INTERACTION_PARAMS, interactionTile, LANE_TILE, PLAIN_LANES, plainInteractionKernel, readsVectors, subgroupInteractionKernel, type InteractionForm,
} from '../../kernels/dynamic-interaction.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import type { Device } from '../device.ts';
import { defineOp } from '../op.ts';
import { shapeError } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { prefersTextures, withLinearCopies, type LinearCopy } from '../textures.ts';
import { layerNormGradients, normalizeRows } from './norm.ts';

type Inputs = readonly [roi: Tensor, parameters: Tensor, gamma1: Tensor, beta1: Tensor, gamma2: Tensor, beta2: Tensor];

interface Attributes {
  readonly epsilon: number;
}

/** A matrix in memory, and its copy in a linear operand texture where products read it from there. */
interface Operand {
  readonly matrix: Tensor;
  readonly copy: LinearCopy | null;
}

/** A product for each proposal; `stride` (elements from one proposal to the next) and `start` are those of a matrix of its own unless given. */
interface Product {
  readonly form: InteractionForm;
  readonly proposals: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Operand;
  readonly b: Operand;
  readonly c: Tensor;
  readonly strideB?: number;
  readonly startB?: number;
  readonly strideC?: number;
  readonly startC?: number;
}

function product(device: Device, { form, proposals, m, n, k, a, b, c, strideB = n * k, startB = 0, strideC = m * n, startC = 0 }: Product): void {
  const lanes = device.subgroupSize;
  const subgroupTile = interactionTile(lanes, form, m, n);
  const tile = subgroupTile ?? LANE_TILE;
  const rowTiles = Math.ceil(m / tile.rows), columnTiles = Math.ceil(n / tile.columns);
  const groups = proposals * rowTiles * columnTiles;
  const params: Record<keyof typeof INTERACTION_PARAMS, number> = {
    m, n, k, rowTiles, columnTiles, groups, strideA: (m * k) / 4, strideB: strideB / 4, strideC: strideC / 4, startB: startB / 4, startC: startC / 4,
  };
  if (!subgroupTile) {
    device.run(plainInteractionKernel(form), params, { a: a.matrix, b: b.matrix, c }, linearGrid(Math.ceil(groups / PLAIN_LANES)));
  } else if (a.copy && b.copy && readsVectors(lanes, form, tile)) {
    device.run(subgroupInteractionKernel(lanes, form, tile.rows, tile.columns, true), { ...params, shiftA: a.copy.shift, shiftB: b.copy.shift },
      { a: a.copy.texture, b: b.copy.texture, c }, linearGrid(groups));
  } else {
    device.run(subgroupInteractionKernel(lanes, form, tile.rows, tile.columns, false), params, { a: a.matrix, b: b.matrix, c }, linearGrid(groups));
  }
}

/** What copying a value costs, in multiply-adds gained by reading from textures: measured on lavapipe. */
const WORTH_A_COPY = 12;

/** Whether the products are large enough for their operands to be copied into textures: `d` and `k` decide how often a value is used, at P positions. */
function usesTextures(device: Device, positions: number, d: number, k: number): boolean {
  if (!prefersTextures(device)) return false;
  const tile = interactionTile(device.subgroupSize, 'nn', positions, Math.min(d, k));
  if (!tile || !readsVectors(device.subgroupSize, 'nn', tile)) return device.force.operands === 'texture';
  return device.force.operands === 'texture' || 2 * positions * d * k > WORTH_A_COPY * (positions * (d + k) + 2 * d * k);
}

/** Runs `body` with matrices as operands, copied into textures if `textures` and where they fit. */
function withOperands<T>(device: Device, textures: boolean, matrices: readonly Tensor[], body: (operands: readonly Operand[]) => T): T {
  const plain = (): T => body(matrices.map((matrix) => ({ matrix, copy: null })));
  if (!textures) return plain();
  return withLinearCopies(device, matrices, (copies) => (copies ? body(matrices.map((matrix, i) => ({ matrix, copy: copies[i] }))) : plain()));
}

export const dynamicInteractionOp = defineOp({
  name: 'dynamicInteraction',
  shape: ([roi, parameters, gamma1, beta1, gamma2, beta2]: Inputs, { epsilon }: Attributes) => {
    const fail = (argument: string, expected: string, got: Tensor): never => shapeError('dynamicInteraction', argument, expected, got.shape);
    for (const [name, tensor] of Object.entries({ roi, parameters, gamma1, beta1, gamma2, beta2 })) {
      if (tensor.dtype !== 'f32') shapeError('dynamicInteraction', name, 'of dtype f32', tensor.dtype);
    }
    if (roi.rank !== 3 || roi.shape[2] === 0 || roi.shape[2] % 4 !== 0) fail('roi', '[R, P, d] with d a multiple of 4', roi);
    if (gamma1.rank !== 1 || gamma1.size === 0 || gamma1.size % 4 !== 0) fail('gamma1', '[k] with k a multiple of 4', gamma1);
    const [proposals, , d] = roi.shape;
    const k = gamma1.size;
    if (beta1.rank !== 1 || beta1.size !== k) fail('beta1', `[${k}], as gamma1`, beta1);
    if (gamma2.rank !== 1 || gamma2.size !== d) fail('gamma2', `[${d}]`, gamma2);
    if (beta2.rank !== 1 || beta2.size !== d) fail('beta2', `[${d}]`, beta2);
    if (parameters.rank !== 2 || parameters.shape[0] !== proposals || parameters.shape[1] !== 2 * d * k) fail('parameters', `[${proposals}, ${2 * d * k}], 2 d k for each proposal`, parameters);
    if (!(epsilon >= 0)) shapeError('dynamicInteraction', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: roi.shape };
  },
  forward: ({ device, inputs: [roi, parameters, gamma1, beta1, gamma2, beta2], attributes: { epsilon }, output }) => {
    const [proposals, positions, d] = roi.shape;
    const k = gamma1.size;
    const hidden1 = device.empty([proposals, positions, k]);
    const x1 = device.empty(hidden1.shape);
    const hidden2 = device.empty(roi.shape);
    const strideB = 2 * d * k;
    const textures = usesTextures(device, positions, d, k);
    withOperands(device, textures, [parameters], ([weights]) => {
      withOperands(device, textures, [roi], ([a]) => product(device, { form: 'nn', proposals, m: positions, n: k, k: d, a, b: weights, c: hidden1, strideB }));
      normalizeRows(hidden1, gamma1, beta1, x1, { epsilon, relu: true });
      withOperands(device, textures, [x1], ([a]) => product(device, { form: 'nn', proposals, m: positions, n: d, k, a, b: weights, c: hidden2, strideB, startB: d * k }));
    });
    normalizeRows(hidden2, gamma2, beta2, output, { epsilon, relu: true });
    return { hidden1, hidden2 };
  },
  backward: ({ device, inputs: [roi, parameters, gamma1, beta1, gamma2, beta2], attributes: { epsilon }, saved: { hidden1, hidden2 }, gradient, needs }) => {
    const [proposals, positions, d] = roi.shape;
    const k = gamma1.size;
    const strideB = 2 * d * k;
    const [byHidden2, byGamma2, byBeta2] = layerNormGradients(hidden2, gamma2, beta2, gradient, { epsilon, relu: true });
    if (!needs.slice(0, 4).includes(true)) return [null, null, null, null, byGamma2, byBeta2];
    const byX1 = device.empty(hidden1.shape);
    const byRoi = needs[0] ? device.empty(roi.shape) : null;
    const byParameters = needs[1] ? device.empty(parameters.shape) : null;
    const textures = usesTextures(device, positions, d, k);
    return withOperands(device, textures, [parameters, byHidden2], ([weights, upstream2]) => {
      product(device, { form: 'nt', proposals, m: positions, n: k, k: d, a: upstream2, b: weights, c: byX1, strideB, startB: d * k });
      const [byHidden1, byGamma1, byBeta1] = layerNormGradients(hidden1, gamma1, beta1, byX1, { epsilon, relu: true });
      withOperands(device, textures, [byHidden1], ([upstream1]) => {
        if (byRoi) product(device, { form: 'nt', proposals, m: positions, n: d, k, a: upstream1, b: weights, c: byRoi, strideB });
        if (!byParameters) return;
        const x1 = device.empty(hidden1.shape);
        normalizeRows(hidden1, gamma1, beta1, x1, { epsilon, relu: true });
        withOperands(device, textures, [roi, x1], ([pooled, middle]) => {
          product(device, { form: 'tn', proposals, m: d, n: k, k: positions, a: pooled, b: upstream1, c: byParameters, strideC: strideB });
          product(device, { form: 'tn', proposals, m: k, n: d, k: positions, a: middle, b: upstream2, c: byParameters, strideC: strideB, startC: d * k });
        });
      });
      return [byRoi, byParameters, byGamma1, byBeta1, byGamma2, byBeta2];
    });
  },
});

/**
 * Dynamic instance interaction (Sparse R-CNN, 3.3; DynamicConv of its code): x1 = ReLU(LN(roi W1)), result = ReLU(LN(x1 W2)), two 1x1 convolutions over the
 * positions of a proposal with weights that its feature generated.
 *
 * @param roi        [R, P, d], pooled features of R proposals at P positions
 * @param parameters [R, 2 d k]: W1 as (d, k), then W2 as (k, d); d and k multiples of 4
 * @param gamma1     [k], with beta1 the first normalisation's scale and shift
 * @param gamma2     [d], with beta2 the second's
 * @returns [R, P, d]
 * @throws ShapeError where shapes do not fit
 */
export function dynamicInteraction(
  roi: Tensor, parameters: Tensor, gamma1: Tensor, beta1: Tensor, gamma2: Tensor, beta2: Tensor, { epsilon = 1e-5 }: { readonly epsilon?: number } = {},
): Tensor {
  return dynamicInteractionOp([roi, parameters, gamma1, beta1, gamma2, beta2], { epsilon });
}
