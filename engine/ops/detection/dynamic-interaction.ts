/** Dynamic interaction: filters the features of each proposal with weights of its own. */
import { defineOp, opFunction } from '../../core/op.ts';
import { shapeError, type Shape } from '../../core/shape.ts';
import type { Tensor, TensorDevice } from '../../core/tensor.ts';
import { layerNormGradients, normalizeRows } from '../layer-norm-variants.ts';
import { multiply, withCopies } from './dynamic-interaction-products.ts';
import { chooseOperands, type InteractionProblem, type InteractionSizes } from './dynamic-interaction-variants.ts';

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

/** How a pass is computed. */
interface Pass {
  readonly epsilon: number;
  /** Whether the products read their operands from textures. */
  readonly textures: boolean;
}

type Forward = Readonly<Record<'roi' | 'parameters' | 'gamma1' | 'beta1' | 'hidden1' | 'hidden2', Tensor>>;

/** hidden1 = roi W1, hidden2 = ReLU(LN(hidden1)) W2. */
function interact(
  device: TensorDevice,
  { roi, parameters, gamma1, beta1, hidden1, hidden2 }: Forward,
  { epsilon, textures }: Pass,
): void {
  const { proposals, positions, d, k } = sizesOf(roi, gamma1);
  const x1 = device.empty(hidden1.shape);
  const strideB = 2 * d * k;
  withCopies(device, textures, [parameters], ([b]) => {
    const common = { form: 'nn', proposals, m: positions, b, strideB } as const;
    withCopies(device, textures, [roi], ([a]) => multiply(device, { ...common, n: k, k: d, a, c: hidden1 }));
    normalizeRows({ input: hidden1, gamma: gamma1, beta: beta1, output: x1 }, { epsilon, relu: true });
    withCopies(device, textures, [x1], ([a]) => multiply(device, { ...common, n: d, k, a, c: hidden2, startB: d * k }));
  });
}

type BackwardOperand = 'roi' | 'parameters' | 'gamma1' | 'beta1' | 'hidden1' | 'hidden2Gradient';

interface Backward extends Readonly<Record<BackwardOperand, Tensor>> {
  /** Receive the results; null where not needed. */
  readonly roiGradient: Tensor | null;
  readonly parametersGradient: Tensor | null;
}

/**
 * From the gradient with respect to hidden2, computes those with respect to roi and parameters, which it writes, and
 * those with respect to gamma1 and beta1, which it returns.
 */
function interactBackward(
  device: TensorDevice,
  { roi, parameters, gamma1, beta1, hidden1, hidden2Gradient, roiGradient, parametersGradient }: Backward,
  { epsilon, textures }: Pass,
): readonly [gamma1Gradient: Tensor, beta1Gradient: Tensor] {
  const { proposals, positions, d, k } = sizesOf(roi, gamma1);
  const stride = 2 * d * k;
  const x1Gradient = device.empty(hidden1.shape);
  return withCopies(device, textures, [parameters, hidden2Gradient], ([b, upstream2]) => {
    const toInput = { form: 'nt', proposals, m: positions, b, strideB: stride } as const;
    multiply(device, { ...toInput, n: k, k: d, a: upstream2, c: x1Gradient, startB: d * k });
    const [hidden1Gradient, gamma1Gradient, beta1Gradient] = layerNormGradients(
      { input: hidden1, gamma: gamma1, beta: beta1, upstream: x1Gradient },
      { epsilon, relu: true },
    );
    withCopies(device, textures, [hidden1Gradient], ([upstream1]) => {
      if (roiGradient) multiply(device, { ...toInput, n: d, k, a: upstream1, c: roiGradient });
      if (!parametersGradient) return;
      const x1 = device.empty(hidden1.shape);
      normalizeRows({ input: hidden1, gamma: gamma1, beta: beta1, output: x1 }, { epsilon, relu: true });
      withCopies(device, textures, [roi, x1], ([first, second]) => {
        const toWeights = { form: 'tn', proposals, k: positions, c: parametersGradient, strideC: stride } as const;
        multiply(device, { ...toWeights, m: d, n: k, a: first, b: upstream1 });
        multiply(device, { ...toWeights, m: k, n: d, a: second, b: upstream2, startC: d * k });
      });
    });
    return [gamma1Gradient, beta1Gradient];
  });
}

/** Epsilon for the tuner's runs. */
const TUNED_EPSILON = 1e-5;

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
  run: (textures, filled) => interact(device, filled as Forward, { epsilon: TUNED_EPSILON, textures }),
});

const describeBackward = (device: TensorDevice, sizes: InteractionSizes): InteractionProblem => {
  const operands = operandsOf(sizes);
  const { roi, parameters } = operands;
  return {
    tensors: { ...operands, hidden2Gradient: roi, roiGradient: roi, parametersGradient: parameters },
    output: ['roiGradient', 'parametersGradient'],
    run: (textures, filled) => {
      const tensors = filled as Readonly<Record<keyof Backward, Tensor>>;
      interactBackward(device, tensors, { epsilon: TUNED_EPSILON, textures });
    },
  };
};

/** Throws ShapeError where inputs do not fit. */
function checkInputs([roi, parameters, gamma1, beta1, gamma2, beta2]: Inputs): void {
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
}

const dynamicInteractionOp = defineOp({
  name: 'dynamicInteraction',
  shape: (inputs: Inputs, { epsilon }: Attributes) => {
    checkInputs(inputs);
    if (!(epsilon >= 0)) shapeError('dynamicInteraction', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: inputs[0].shape };
  },
  forward: ({ device, inputs: [roi, parameters, gamma1, beta1, gamma2, beta2], attributes: { epsilon }, output }) => {
    const sizes = sizesOf(roi, gamma1);
    const hidden1 = device.empty([sizes.proposals, sizes.positions, sizes.k]);
    const hidden2 = device.empty(roi.shape);
    const textures = chooseOperands(device, 'dynamic-interaction', sizes, describeForward);
    interact(device, { roi, parameters, gamma1, beta1, hidden1, hidden2 }, { epsilon, textures });
    normalizeRows({ input: hidden2, gamma: gamma2, beta: beta2, output }, { epsilon, relu: true });
    return { hidden1, hidden2 };
  },
  backward: ({ device, inputs, attributes: { epsilon }, saved: { hidden1, hidden2 }, gradient: upstream, needs }) => {
    const [roi, parameters, gamma1, beta1, gamma2, beta2] = inputs;
    const [hidden2Gradient, gamma2Gradient, beta2Gradient] = layerNormGradients(
      { input: hidden2, gamma: gamma2, beta: beta2, upstream },
      { epsilon, relu: true },
    );
    if (!needs.slice(0, 4).includes(true)) return [null, null, null, null, gamma2Gradient, beta2Gradient];
    const roiGradient = needs[0] ? device.empty(roi.shape) : null;
    const parametersGradient = needs[1] ? device.empty(parameters.shape) : null;
    const textures = chooseOperands(device, 'dynamic-interaction-gradient', sizesOf(roi, gamma1), describeBackward);
    const [gamma1Gradient, beta1Gradient] = interactBackward(
      device,
      { roi, parameters, gamma1, beta1, hidden1, hidden2Gradient, roiGradient, parametersGradient },
      { epsilon, textures },
    );
    return [roiGradient, parametersGradient, gamma1Gradient, beta1Gradient, gamma2Gradient, beta2Gradient];
  },
});

/**
 * Dynamic instance interaction (Sparse R-CNN, section 3.3; DynamicConv of its code): x1 = ReLU(LN(roi W1)), result =
 * ReLU(LN(x1 W2)). These are two 1x1 convolutions over the positions of a proposal, with weights that are generated
 * from the feature of the proposal.
 *
 * @param roi        [R, P, d], pooled features of R proposals at P positions
 * @param parameters [R, 2 d k]: W1 as (d, k), then W2 as (k, d); d and k multiples of 4
 * @param gamma1     [k], with beta1 scale and shift of the first normalization
 * @param gamma2     [d], with beta2 scale and shift of the second normalization
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
