/** Dynamic interaction: each proposal's features filtered by weights of its own. */
import { defineOp, opFunction } from '../../core/op.ts';
import { shapeError, type Shape } from '../../core/shape.ts';
import type { Tensor, TensorDevice } from '../../core/tensor.ts';
import {
  chooseOperands,
  multiply,
  withCopies,
  type InteractionProblem,
  type InteractionSizes,
} from './dynamic-interaction-variants.ts';
import { layerNormGradients, normalizeRows } from '../layer-norm-variants.ts';

type Inputs = readonly [roi: Tensor, parameters: Tensor, gamma1: Tensor, beta1: Tensor, gamma2: Tensor, beta2: Tensor];

interface Attributes {
  readonly epsilon: number;
}

const sizesOf = (roi: Tensor, gamma1: Tensor): InteractionSizes => ({
  proposals: roi.shape[0],
  positions: roi.shape[1],
  d: roi.shape[2],
  k: gamma1.size,
});

type Forward = Readonly<Record<'roi' | 'parameters' | 'gamma1' | 'beta1' | 'hidden1' | 'hidden2', Tensor>>;

/** hidden1 = roi W1, hidden2 = ReLU(LN(hidden1)) W2. */
function interact(
  device: TensorDevice,
  { roi, parameters, gamma1, beta1, hidden1, hidden2 }: Forward,
  epsilon: number,
  textures: boolean,
): void {
  const { proposals, positions, d, k } = sizesOf(roi, gamma1);
  const x1 = device.empty(hidden1.shape);
  const strideB = 2 * d * k;
  withCopies(device, textures, [parameters], ([weights]) => {
    withCopies(device, textures, [roi], ([a]) =>
      multiply(device, { form: 'nn', proposals, m: positions, n: k, k: d, a, b: weights, c: hidden1, strideB }),
    );
    normalizeRows({ input: hidden1, gamma: gamma1, beta: beta1, output: x1 }, { epsilon, relu: true });
    withCopies(device, textures, [x1], ([a]) =>
      multiply(device, {
        form: 'nn',
        proposals,
        m: positions,
        n: d,
        k,
        a,
        b: weights,
        c: hidden2,
        strideB,
        startB: d * k,
      }),
    );
  });
}

interface Backward
  extends Readonly<Record<'roi' | 'parameters' | 'gamma1' | 'beta1' | 'hidden1' | 'byHidden2', Tensor>> {
  /** The results, null where not wanted. */
  readonly byRoi: Tensor | null;
  readonly byParameters: Tensor | null;
}

/** From the gradient by hidden2 those by roi and parameters, which it writes, and by gamma1 and beta1, which it returns. */
function interactBackward(
  device: TensorDevice,
  { roi, parameters, gamma1, beta1, hidden1, byHidden2, byRoi, byParameters }: Backward,
  epsilon: number,
  textures: boolean,
): readonly [byGamma1: Tensor, byBeta1: Tensor] {
  const { proposals, positions, d, k } = sizesOf(roi, gamma1);
  const strideB = 2 * d * k;
  const byX1 = device.empty(hidden1.shape);
  return withCopies(device, textures, [parameters, byHidden2], ([weights, upstream2]) => {
    multiply(device, {
      form: 'nt',
      proposals,
      m: positions,
      n: k,
      k: d,
      a: upstream2,
      b: weights,
      c: byX1,
      strideB,
      startB: d * k,
    });
    const [byHidden1, byGamma1, byBeta1] = layerNormGradients(
      { input: hidden1, gamma: gamma1, beta: beta1, upstream: byX1 },
      { epsilon, relu: true },
    );
    withCopies(device, textures, [byHidden1], ([upstream1]) => {
      if (byRoi)
        multiply(device, { form: 'nt', proposals, m: positions, n: d, k, a: upstream1, b: weights, c: byRoi, strideB });
      if (!byParameters) return;
      const x1 = device.empty(hidden1.shape);
      normalizeRows({ input: hidden1, gamma: gamma1, beta: beta1, output: x1 }, { epsilon, relu: true });
      withCopies(device, textures, [roi, x1], ([pooled, middle]) => {
        multiply(device, {
          form: 'tn',
          proposals,
          m: d,
          n: k,
          k: positions,
          a: pooled,
          b: upstream1,
          c: byParameters,
          strideC: strideB,
        });
        multiply(device, {
          form: 'tn',
          proposals,
          m: k,
          n: d,
          k: positions,
          a: middle,
          b: upstream2,
          c: byParameters,
          strideC: strideB,
          startC: d * k,
        });
      });
    });
    return [byGamma1, byBeta1];
  });
}

const MEASURED_EPSILON = 1e-5;

const operandsOf = ({
  proposals,
  positions,
  d,
  k,
}: InteractionSizes): Record<'roi' | 'parameters' | 'gamma1' | 'beta1' | 'hidden1', Shape> => ({
  roi: [proposals, positions, d],
  parameters: [proposals, 2 * d * k],
  gamma1: [k],
  beta1: [k],
  hidden1: [proposals, positions, k],
});

const describeForward = (device: TensorDevice, sizes: InteractionSizes): InteractionProblem => ({
  tensors: { ...operandsOf(sizes), hidden2: operandsOf(sizes).roi },
  output: ['hidden1', 'hidden2'],
  run: (textures, filled) => interact(device, filled as Forward, MEASURED_EPSILON, textures),
});

const describeBackward = (device: TensorDevice, sizes: InteractionSizes): InteractionProblem => {
  const operands = operandsOf(sizes),
    { roi, parameters } = operands;
  return {
    tensors: { ...operands, byHidden2: roi, byRoi: roi, byParameters: parameters },
    output: ['byRoi', 'byParameters'],
    run: (textures, filled) => {
      interactBackward(device, filled as Readonly<Record<keyof Backward, Tensor>>, MEASURED_EPSILON, textures);
    },
  };
};

const dynamicInteractionOp = defineOp({
  name: 'dynamicInteraction',
  shape: ([roi, parameters, gamma1, beta1, gamma2, beta2]: Inputs, { epsilon }: Attributes) => {
    const fail = (argument: string, expected: string, got: Tensor): never =>
      shapeError('dynamicInteraction', argument, expected, got.shape);
    for (const [name, tensor] of Object.entries({ roi, parameters, gamma1, beta1, gamma2, beta2 })) {
      if (tensor.dtype !== 'f32') shapeError('dynamicInteraction', name, 'dtype f32', tensor.dtype);
    }
    if (roi.rank !== 3 || roi.shape[2] === 0 || roi.shape[2] % 4 !== 0)
      fail('roi', '[R, P, d] with d a multiple of 4', roi);
    if (gamma1.rank !== 1 || gamma1.size === 0 || gamma1.size % 4 !== 0)
      fail('gamma1', '[k] with k a multiple of 4', gamma1);
    const [proposals, , d] = roi.shape;
    const k = gamma1.size;
    if (beta1.rank !== 1 || beta1.size !== k) fail('beta1', `[${k}], as gamma1`, beta1);
    if (gamma2.rank !== 1 || gamma2.size !== d) fail('gamma2', `[${d}]`, gamma2);
    if (beta2.rank !== 1 || beta2.size !== d) fail('beta2', `[${d}]`, beta2);
    if (parameters.rank !== 2 || parameters.shape[0] !== proposals || parameters.shape[1] !== 2 * d * k)
      fail('parameters', `[${proposals}, ${2 * d * k}], 2 d k for each proposal`, parameters);
    if (!(epsilon >= 0)) shapeError('dynamicInteraction', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: roi.shape };
  },
  forward: ({ device, inputs: [roi, parameters, gamma1, beta1, gamma2, beta2], attributes: { epsilon }, output }) => {
    const sizes = sizesOf(roi, gamma1);
    const hidden1 = device.empty([sizes.proposals, sizes.positions, sizes.k]);
    const hidden2 = device.empty(roi.shape);
    interact(
      device,
      { roi, parameters, gamma1, beta1, hidden1, hidden2 },
      epsilon,
      chooseOperands(device, 'dynamic-interaction', sizes, describeForward),
    );
    normalizeRows({ input: hidden2, gamma: gamma2, beta: beta2, output }, { epsilon, relu: true });
    return { hidden1, hidden2 };
  },
  backward: ({
    device,
    inputs: [roi, parameters, gamma1, beta1, gamma2, beta2],
    attributes: { epsilon },
    saved: { hidden1, hidden2 },
    gradient,
    needs,
  }) => {
    const [byHidden2, byGamma2, byBeta2] = layerNormGradients(
      { input: hidden2, gamma: gamma2, beta: beta2, upstream: gradient },
      {
        epsilon,
        relu: true,
      },
    );
    if (!needs.slice(0, 4).includes(true)) return [null, null, null, null, byGamma2, byBeta2];
    const byRoi = needs[0] ? device.empty(roi.shape) : null;
    const byParameters = needs[1] ? device.empty(parameters.shape) : null;
    const textures = chooseOperands(device, 'dynamic-interaction-gradient', sizesOf(roi, gamma1), describeBackward);
    const [byGamma1, byBeta1] = interactBackward(
      device,
      { roi, parameters, gamma1, beta1, hidden1, byHidden2, byRoi, byParameters },
      epsilon,
      textures,
    );
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
export const dynamicInteraction = opFunction(
  dynamicInteractionOp,
  (
    roi: Tensor,
    parameters: Tensor,
    gamma1: Tensor,
    beta1: Tensor,
    gamma2: Tensor,
    beta2: Tensor,
    { epsilon = 1e-5 }: { readonly epsilon?: number } = {},
  ): Tensor => dynamicInteractionOp([roi, parameters, gamma1, beta1, gamma2, beta2], { epsilon }),
);
