/** The public surface of `engine/nn`: modules, layers with parameters, and initial values of weights. */
export {
  Module,
  storedShape,
  toStored,
  type NamedTensor,
  type StoredTensor,
  type WeightLayout,
} from './module.ts';
export {
  Conv2d,
  FrozenBatchNorm,
  GroupNorm,
  LayerNorm,
  Linear,
  MultiheadAttention,
  type Activation,
  type Conv2dOptions,
  type NormOptions,
} from './layers.ts';
export { constant, kaimingNormalFanOut, kaimingUniform, uniformBias, xavierUniform } from './initializers.ts';
