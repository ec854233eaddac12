/** Options of a device, and the features and limits to request for them. */
import type { ForcedVariants } from '../core/variants.ts';

/**
 * Waits for a promise of the device. `exactly` is true if the caller measures the time of arrival.
 * Node uses a function of its own: a plain `await` in Node keeps a core busy that a software adapter needs.
 */
export type Settle = <T>(promise: Promise<T>, exactly?: boolean) => Promise<T>;

export interface DeviceOptions {
  /** False: use only kernels without subgroup operations, even if the adapter supports these. */
  readonly subgroups?: boolean;
  /**
   * True: in inference (`Device.inference`), matrix products and convolutions may round their operands to f16 when they
   * stage them in workgroup memory. Depthwise convolutions, Winograd F(4x4), attention and dynamic interaction use f32.
   * Tensors and sums stay f32. Work that gradients depend on is f32 too, so training gives the same bits as without
   * this option.
   * Values beyond the range of f16 become +-65504, so finite numbers give no infinity. A NaN in an operand may not
   * appear in the result.
   *
   * The cost model expects f16 to be faster if kernels stage operands in workgroup memory, as on GPUs. Adapters with
   * small subgroups (processors) do not stage, and use f32 until the tuner finds f16 to be faster (`Tuner.tune`).
   *
   * Needs the feature `shader-f16`. Opening a device throws UnsupportedOptionError if the adapter lacks it.
   */
  readonly halfPrecision?: boolean;
  /**
   * Variants of kernels to use wherever they can compute the result, instead of the expected or tuned ones
   * (`Device.tuner`).
   */
  readonly force?: ForcedVariants;
  /**
   * Maximum bytes of textures that keep copies of parameters from pass to pass in inference (`Device.inference`).
   * It matters if kernels read operands from textures, as on lavapipe. A copy stays until its parameter is written or
   * freed. Default 1 GiB. With 0, parameters are copied in every pass. `Device.memory` counts these textures.
   * Parameters that an optimizer has moved into its own memory are not kept, and captures copy at each replay.
   */
  readonly keptOperandBytes?: number;
  /** `adapter` (the default): the adapter's limits; `default`: the limits that WebGPU guarantees. */
  readonly limits?: 'adapter' | 'default';
  /** False: do not request the feature `timestamp-query`; profiles then use the wall clock. */
  readonly timestamps?: boolean;
  /** How to wait for the device; default: plain awaiting. */
  readonly settle?: Settle;
  /** WGSL features of the implementation (`GPU.wgslLanguageFeatures`); default: the browser's. */
  readonly languageFeatures?: { has(feature: string): boolean };
}

/** An option that the adapter cannot fulfil. The message names the option, what was expected, and what was found. */
export class UnsupportedOptionError extends Error {
  override readonly name = 'UnsupportedOptionError';
}

/** Default of `keptOperandBytes`. */
export const DEFAULT_KEPT_OPERAND_BYTES = 2 ** 30;

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

/**
 * Throws UnsupportedOptionError if options need a feature that the adapter or device lacks, contradict each other, or
 * are out of range.
 */
export function checkOptions(
  { halfPrecision = false, force, keptOperandBytes = DEFAULT_KEPT_OPERAND_BYTES }: DeviceOptions,
  features: ReadonlySet<string>,
  { description, vendor }: GPUAdapterInfo,
): void {
  if (halfPrecision && !features.has('shader-f16')) {
    throw new UnsupportedOptionError(
      'halfPrecision: expected an adapter with the feature shader-f16, ' +
        `got ${description || vendor || 'one'} with ${[...features].sort().join(', ') || 'no features'}`,
    );
  }
  if (!(keptOperandBytes >= 0))
    throw new UnsupportedOptionError(
      `keptOperandBytes: expected a number of bytes, 0 or more, got ${keptOperandBytes}`,
    );
  if (force?.precision === 'f16' && !halfPrecision)
    throw new UnsupportedOptionError('force.precision: expected f32, as halfPrecision is false, got f16');
}

/**
 * The device to request from an adapter: with the features that kernels can use, and the limits that the options
 * name.
 */
export function deviceDescriptor(adapter: GPUAdapter, options: DeviceOptions): GPUDeviceDescriptor {
  const requiredLimits: Record<string, number> = {};
  if (options.limits !== 'default') for (const name of RAISED_LIMITS) requiredLimits[name] = adapter.limits[name];
  const requiredFeatures = WANTED_FEATURES.filter(
    (feature) => adapter.features.has(feature) && !(feature === 'timestamp-query' && options.timestamps === false),
  );
  return { requiredFeatures, requiredLimits };
}
