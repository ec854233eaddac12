/**
 * Variants of kernels: several ways to compute the same result. An op describes its variants, and asks a chooser for
 * one. The types are generic in the tensor type `T` to avoid an import cycle: a tensor knows its device, and the device
 * has the chooser.
 */
import type { Kernel } from '../../kernels/kernel.ts';
import type { Random } from './random.ts';
import type { Shape } from './shape.ts';

/** One way to compute a shape class. */
export interface Candidate<V> {
  /**
   * Describes the variant, e.g. `texture 32x64, 2 slices`. It is unique in its class. Stored choices hold this name.
   */
  readonly name: string;
  readonly variant: V;
  /** The kernels that the variant runs. A stored choice is valid as long as their sources do not change. */
  readonly kernels: () => readonly Kernel[];
  /** Largest relative L2 distance from the plain variant's result that rounding may cause. */
  readonly tolerance: number;
}

/** A shape class as the tuner runs it. It holds shapes, not tensors. */
export interface VariantProblem<V, T> {
  /** The cost model's choice. */
  readonly expected: Candidate<V>;
  /** All variants; the expected one may be missing. */
  readonly candidates: readonly Candidate<V>[];
  /** The simplest variant. Its results are the reference for the others. It is chosen only if it is a candidate too. */
  readonly plain: V;
  /** Shapes of all tensors of the problem, by name. */
  readonly tensors: Readonly<Record<string, Shape>>;
  /**
   * Names of the output tensors. The tuner compares each with the result of the plain variant.
   * The other tensors are operands. They get random values, uniform in -1 .. 1.
   */
  readonly output: string | readonly string[];
  /** Makes the values of those operands for which uniform random values would be unrealistic. */
  readonly values?: Readonly<Record<string, (random: Random, count: number) => Float32Array<ArrayBuffer>>>;
  readonly run: (variant: V, tensors: Readonly<Record<string, T>>) => void;
}

/** Picks the variant to run. */
export interface VariantChooser<T> {
  /**
   * @param family   the op, e.g. `matmul`
   * @param key      the shape class within the family: everything that decides which variants are valid and fast
   * @param describe called if the class has not been seen before
   */
  choose<V>(family: string, key: string, describe: () => VariantProblem<V, T>): V;
}

/** Variants to force, for tests and measurements. All variants give the same results up to rounding. */
export interface ForcedVariants {
  /** Where matrix products read their operands from. */
  readonly operands?: 'buffer' | 'texture';
  /**
   * How 3x3 convolutions of stride 1 and their gradients are computed.
   * `winograd4` means F(2x2) in a forward pass that needs gradients.
   */
  readonly convolution?: 'direct' | 'winograd2' | 'winograd4';
  /** Precision of the operands of products wherever f16 is allowed; `f16` needs `DeviceOptions.halfPrecision`. */
  readonly precision?: 'f32' | 'f16';
}
