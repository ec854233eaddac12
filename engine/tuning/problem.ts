/** Tuning problems: a shape class of an op with its variants, as ops describe it and the tuner measures it. */
import type { Shape } from '../core/shape.ts';
import { Tensor } from '../core/tensor.ts';
import type { Candidate, VariantProblem } from '../core/variants.ts';

export type { Candidate } from '../core/variants.ts';

/** A shape class of an op, with its variants. */
export type TuningProblem<V> = VariantProblem<V, Tensor>;

/**
 * Whether a pass that reads and writes `values` values takes longer than a dispatch alone. A value counts as sixteen
 * multiply-adds. Below that all variants take the same time, so a class has one candidate and nothing to measure.
 */
export const worthMeasuring = (values: number): boolean => values >= 2 ** 16;

/**
 * Splits the arguments of an op into the shapes of its tensors, and a function that fills in other tensors.
 * So a problem can be run again without retaining the tensors it was seen with.
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
