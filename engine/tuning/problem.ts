/** Tuning problems: a shape class of an op with its variants, as ops describe it and the tuner measures it. */
import type { Shape } from '../core/shape.ts';
import { Tensor } from '../core/tensor.ts';
import type { VariantProblem } from '../core/variants.ts';

export type { Candidate } from '../core/variants.ts';

/** A shape class of an op, with its variants. */
export type TuningProblem<V> = VariantProblem<V, Tensor>;

/**
 * Whether a pass that reads and writes so many values takes longer than a dispatch alone; a value counts as much as
 * sixteen multiply-adds. Below that variants take the same
 * time, and a class has one candidate: nothing to measure.
 */
export const worthMeasuring = (values: number): boolean => values >= 2 ** 16;

/**
 * The tensors of a problem as shapes, and a function that puts others in their places: so that a class can be run
 * again without holding on to what it was seen with.
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
