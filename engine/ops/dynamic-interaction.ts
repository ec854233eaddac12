/** Dynamic interaction: each proposal's features filtered by weights of its own. */
import {
  INTERACTION_PARAMS, interactionTile, LANE_TILE, PLAIN_LANES, plainInteractionKernel, subgroupInteractionKernel, type InteractionForm,
} from '../../kernels/dynamic-interaction.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import type { Device } from '../device.ts';
import { defineOp } from '../op.ts';
import { shapeError } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { layerNormGradients, normalizeRows } from './norm.ts';

type Inputs = readonly [roi: Tensor, parameters: Tensor, gamma1: Tensor, beta1: Tensor, gamma2: Tensor, beta2: Tensor];

interface Attributes {
  readonly epsilon: number;
}

/** A product for each proposal; `stride` (elements from one proposal to the next) and `start` are those of a matrix of its own unless given. */
interface Product {
  readonly form: InteractionForm;
  readonly proposals: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly c: Tensor;
  readonly strideB?: number;
  readonly startB?: number;
  readonly strideC?: number;
  readonly startC?: number;
}

function product(device: Device, { form, proposals, m, n, k, a, b, c, strideB = n * k, startB = 0, strideC = m * n, startC = 0 }: Product): void {
  const lanes = device.subgroupSize;
  const subgroupTile = interactionTile(lanes, m, n);
  const tile = subgroupTile ?? LANE_TILE;
  const rowTiles = Math.ceil(m / tile.rows), columnTiles = Math.ceil(n / tile.columns);
  const groups = proposals * rowTiles * columnTiles;
  const params: Record<keyof typeof INTERACTION_PARAMS, number> = {
    m, n, k, rowTiles, columnTiles, groups, strideA: (m * k) / 4, strideB: strideB / 4, strideC: strideC / 4, startB: startB / 4, startC: startC / 4,
  };
  if (subgroupTile) device.run(subgroupInteractionKernel(lanes, form, tile.rows, tile.columns), params, { a, b, c }, linearGrid(groups));
  else device.run(plainInteractionKernel(form), params, { a, b, c }, linearGrid(Math.ceil(groups / PLAIN_LANES)));
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
    product(device, { form: 'nn', proposals, m: positions, n: k, k: d, a: roi, b: parameters, c: hidden1, strideB });
    normalizeRows(hidden1, gamma1, beta1, x1, { epsilon, relu: true });
    product(device, { form: 'nn', proposals, m: positions, n: d, k, a: x1, b: parameters, c: hidden2, strideB, startB: d * k });
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
    product(device, { form: 'nt', proposals, m: positions, n: k, k: d, a: byHidden2, b: parameters, c: byX1, strideB, startB: d * k });
    const [byHidden1, byGamma1, byBeta1] = layerNormGradients(hidden1, gamma1, beta1, byX1, { epsilon, relu: true });
    let byRoi: Tensor | null = null;
    if (needs[0]) {
      byRoi = device.empty(roi.shape);
      product(device, { form: 'nt', proposals, m: positions, n: d, k, a: byHidden1, b: parameters, c: byRoi, strideB });
    }
    let byParameters: Tensor | null = null;
    if (needs[1]) {
      byParameters = device.empty(parameters.shape);
      const x1 = device.empty(hidden1.shape);
      normalizeRows(hidden1, gamma1, beta1, x1, { epsilon, relu: true });
      product(device, { form: 'tn', proposals, m: d, n: k, k: positions, a: roi, b: byHidden1, c: byParameters, strideC: strideB });
      product(device, { form: 'tn', proposals, m: k, n: d, k: positions, a: x1, b: byHidden2, c: byParameters, strideC: strideB, startC: d * k });
    }
    return [byRoi, byParameters, byGamma1, byBeta1, byGamma2, byBeta2];
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
