/** What a device is opened with, and what is asked of an adapter for it. */
import type { ForcedVariants } from '../core/variants.ts';

/** Waits for a promise of the device; `exactly` where the moment is what is measured. Node replaces it: plain awaiting there spins a core that a software adapter needs. */
export type Settle = <T>(promise: Promise<T>, exactly?: boolean) => Promise<T>;

export interface DeviceOptions {
  /** False keeps to kernels without subgroup operations, also where the adapter has them. */
  readonly subgroups?: boolean;
  /**
   * True: in inference (see `Device.inference`), matrix products and convolutions may round their operands to f16 (10 bits after the leading one) on their way into workgroup memory;
   * depthwise convolutions, Winograd's F(4x4), attention and dynamic interaction keep to f32. Tensors and sums are f32 as ever, and so is all that gradients follow from: training gives
   * the same bits as without.
   * Values beyond f16's range are taken as +-65504, so that finite numbers give no infinity; a NaN among operands need not show in the result.
   *
   * The cost model expects f16 to be the faster one where kernels stage operands in workgroup memory, as on GPUs. On adapters with small subgroups (processors), whose kernels do
   * not, results are f32's until the tuner has measured f16 to be faster (`Tuner.tune`).
   *
   * Needs the feature `shader-f16`: opening a device throws UnsupportedOptionError where the adapter has none.
   */
  readonly halfPrecision?: boolean;
  /** Variants of kernels to use wherever they can compute what is asked for, instead of those that are expected, or were tuned (`Device.tuner`), to be faster. */
  readonly force?: ForcedVariants;
  /**
   * Where kernels read operands from textures, as on lavapipe: bytes of parameters' copies in textures that stay there in inference (see `Device.inference`) from one pass to the next,
   * until the parameter is written or freed. Counted in `Device.memory`; default 1 GiB, 0 copies anew in every pass. Parameters that an optimiser has moved into its own memory are not
   * kept, and captures (`Device.capture`) copy at each replay.
   */
  readonly keptOperandBytes?: number;
  /** `adapter` (the default) asks for the adapter's limits; `default` keeps WebGPU's guaranteed ones. */
  readonly limits?: 'adapter' | 'default';
  /** False leaves the feature `timestamp-query` alone: profiles are then timed by the wall clock. */
  readonly timestamps?: boolean;
  readonly settle?: Settle;
  /** What WGSL the implementation knows (`GPU.wgslLanguageFeatures`); default: the browser's. */
  readonly languageFeatures?: { has(feature: string): boolean };
}

/** An option that the adapter cannot fulfil: the message names the option, what it needs and what there is. */
export class UnsupportedOptionError extends Error {
  override readonly name = 'UnsupportedOptionError';
}

/** `keptOperandBytes` where it is not given. */
export const MAX_KEPT_OPERAND_BYTES = 2 ** 30;

const RAISED_LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxTextureDimension2D',
] as const;
const WANTED_FEATURES: readonly GPUFeatureName[] = ['subgroups', 'shader-f16', 'timestamp-query'];

/** Throws UnsupportedOptionError where options need a feature that is not among those of an adapter or device, contradict each other, or make no sense. */
export function checkOptions(
  { halfPrecision = false, force, keptOperandBytes = MAX_KEPT_OPERAND_BYTES }: DeviceOptions,
  features: ReadonlySet<string>,
  { description, vendor }: GPUAdapterInfo,
): void {
  if (halfPrecision && !features.has('shader-f16')) {
    throw new UnsupportedOptionError(
      `halfPrecision: expected an adapter with the feature shader-f16, got ${description || vendor || 'one'} with ${[...features].sort().join(', ') || 'no features'}`,
    );
  }
  if (!(keptOperandBytes >= 0))
    throw new UnsupportedOptionError(
      `keptOperandBytes: expected a number of bytes, 0 or more, got ${keptOperandBytes}`,
    );
  if (force?.precision === 'f16' && !halfPrecision)
    throw new UnsupportedOptionError('force.precision: f16 needs halfPrecision: true, got false');
}

/** The device to request of an adapter: with the features that kernels can use, and limits as the options say. */
export function deviceDescriptor(adapter: GPUAdapter, options: DeviceOptions): GPUDeviceDescriptor {
  const requiredLimits: Record<string, number> = {};
  if (options.limits !== 'default') for (const name of RAISED_LIMITS) requiredLimits[name] = adapter.limits[name];
  const requiredFeatures = WANTED_FEATURES.filter(
    (feature) => adapter.features.has(feature) && !(feature === 'timestamp-query' && options.timestamps === false),
  );
  return { requiredFeatures, requiredLimits };
}
