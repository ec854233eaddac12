/** Tuning problems: a shape class of an op with its variants, as ops describe it and the tuner measures it. */
import type { Shape } from '../core/shape.ts';
import { Tensor } from '../core/tensor.ts';
import type { Candidate, VariantProblem } from '../core/variants.ts';

export type { Candidate } from '../core/variants.ts';

/** A shape class of an op, with its variants. */
export type TuningProblem<V> = VariantProblem<V, Tensor>;

/**
 * Whether a pass that reads and writes `values` values takes clearly longer than an empty dispatch. One value counts as
 * sixteen multiply-adds. For smaller passes all variants take the same time, so such a class has only one candidate.
 */
export const worthMeasuring = (values: number): boolean => values >= 2 ** 16;

/**
 * Splits the arguments of an op into the shapes of its tensors, and a function that fills in other tensors.
 * So a problem can run again, and does not retain the tensors of the call that described it.
 */
export function outline<P extends object>(
  problem: P,
): {
  readonly tensors: Readonly<Record<string, Shape>>;
  readonly fill: (tensors: Readonly<Record<string, Tensor>>) => P;
} {
  const entries = Object.entries(problem) as [string, unknown][];
  const settings = Object.fromEntries(entries.filter(([, value]) => !(value instanceof Tensor)));
  return {
    tensors: Object.fromEntries(
      entries.flatMap(([name, value]) => (value instanceof Tensor ? [[name, value.shape] as const] : [])),
    ),
    fill: (tensors) => ({ ...settings, ...tensors }) as P,
  };
}

/** All candidates of a problem, the expected one first, each name once. */
export function allCandidates<V>({ expected, candidates }: TuningProblem<V>): Candidate<V>[] {
  return [
    expected,
    ...candidates.filter(
      ({ name }, i) => name !== expected.name && candidates.findIndex((other) => other.name === name) === i,
    ),
  ];
}

/** Names of the output tensors of a problem. */
export const outputsOf = ({ output }: TuningProblem<unknown>): readonly string[] =>
  typeof output === 'string' ? [output] : output;
