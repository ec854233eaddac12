/** Benchmark cases and their rows: the types, the random inputs, and the sample of entries that is checked. */
import type { Tensor } from '../engine/index.ts';
import type { HostArray, Reference } from './references/reference.ts';

export type Inputs = Readonly<Record<string, HostArray>>;

/** Gradients that one row measures together. */
export interface GradientPart {
  /** The gradients are with respect to these inputs. */
  readonly wrt: readonly string[];
  /** Inputs that the kernel must read, besides the upstream gradient. Default: all. */
  readonly reads?: readonly string[];
  readonly flops: number;
}

/** An op with the options that a peer needs to run the same op. */
export type PeerOp =
  | { readonly kind: 'matmul'; readonly transposeA: boolean; readonly transposeB: boolean }
  | { readonly kind: 'conv2d'; readonly stride: number; readonly padding: number }
  | { readonly kind: 'interaction' | 'layerNorm' | 'softmax' | 'sum' };

export interface OpCase {
  readonly kind: 'op';
  /** For example `matmul nt`, `conv 3x3`. */
  readonly op: string;
  readonly shape: string;
  readonly inputs: () => Inputs;
  readonly run: (inputs: Readonly<Record<string, Tensor>>) => Tensor;
  readonly flops: number;
  readonly gradients: readonly GradientPart[];
  readonly reference: (inputs: Inputs, upstream: HostArray, blocks: readonly number[]) => Reference;
  /**
   * For cases with a slow float64 reference: the entries of the first axis that are checked. During the check the
   * upstream gradient of all other entries is zero.
   */
  readonly blocks?: { readonly axis: number; readonly checked: readonly number[] };
  readonly peer?: PeerOp;
}

export interface AdamWCase {
  readonly kind: 'adamw';
  readonly op: string;
  readonly shape: string;
  readonly parameters: number;
  readonly tensors: number;
}

export type BenchCase = OpCase | AdamWCase;

/** A row of the table before it is measured. */
export interface Row {
  readonly op: string;
  readonly shape: string;
  /** `forward`, `dx` (the gradient with respect to x), `gradients` (with respect to several inputs), or `step`. */
  readonly part: string;
  readonly flops: number;
  /** Bytes of inputs and outputs, each counted once: the minimum for any kernel. */
  readonly bytes: number;
  /** Submits one execution. */
  readonly launch: () => void;
  /** Computes the largest error, see `largestError`. */
  readonly check: () => Promise<number>;
}

/**
 * Maximum error of a correct kernel. The error comes from rounding in f32: sums of thousands of terms, Winograd
 * transforms, and exp on software adapters. A wrong index or a missing term causes an error of about 1.
 */
export const TOLERANCE = 2e-4;

/**
 * Pseudo-random values in -0.5 .. 0.5, reproducible by seed (xorshift). It is faster than the engine's `Random`, which
 * also has to give the same values on a device.
 */
export function noise(length: number, seed: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(length);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = (state >>> 0) / 0x100000000 - 0.5;
  }
  return values;
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

export const random = (shape: readonly number[], seed: number): HostArray => ({
  shape,
  data: noise(sizeOf(shape), seed),
});

/** Numbers of checked entries: at each end of an array, and between the ends. */
const EDGE = 32;
const BETWEEN = 160;

/** Flat indices of an array to check: all of a small array, otherwise the first, the last, and some between them. */
export function sampleIndices(size: number): number[] {
  if (size <= 2 * EDGE + BETWEEN) return Array.from({ length: size }, (_, i) => i);
  const between = noise(BETWEEN, size);
  return [
    ...new Set([
      ...Array.from({ length: EDGE }, (_, i) => i),
      ...Array.from(between, (v) => Math.floor((v + 0.5) * size)),
      ...Array.from({ length: EDGE }, (_, i) => size - EDGE + i),
    ]),
  ];
}

/** Indices to check in an array of a case. If the first axis is that of `blocks`, they lie in the checked blocks. */
export function checkedIndices({ blocks }: Pick<OpCase, 'blocks'>, shape: readonly number[]): number[] {
  const size = sizeOf(shape);
  if (!blocks || shape[0] !== blocks.axis) return sampleIndices(size);
  const each = size / blocks.axis;
  return blocks.checked.flatMap((entry) => sampleIndices(each).map((i) => entry * each + i));
}

/** The part of a row that measures the gradient with respect to one input. */
export const gradientPart = (input: string): string => `d${input}`;

/** The part of the row that measures these gradients. */
export const partOf = ({ wrt }: GradientPart): string => (wrt.length > 1 ? 'gradients' : gradientPart(wrt[0]));

/** The parts of a case's rows; needs no device. */
export const partsOf = (benchCase: BenchCase): string[] =>
  benchCase.kind === 'adamw' ? ['step'] : ['forward', ...benchCase.gradients.map(partOf)];

/**
 * The part of a row that times the forward pass and all gradients together. Where a peer composes an op of several ops,
 * its automatic differentiation can only be timed in this way.
 */
export const TOGETHER = 'forward and gradients';

/** The upstream gradient of a case. */
export const upstreamOf = (shape: readonly number[]): HostArray => random(shape, 99);
