/**
 * References in float64 on the host. Kernels are compared with them before timing. This file has their common types.
 * References compute one entry at a time, so that a sample of a large result is cheap. They follow the definitions and
 * are independent of the engine. Gradients are vector-Jacobian products with the given upstream gradient.
 */

/** A row-major f32 array on the host. */
export interface HostArray {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

/** An entry of an array by its flat index. */
export type Entry = (index: number) => number;

export interface Reference {
  readonly output: Entry;
  /** By the name of the input. */
  readonly gradients: Readonly<Record<string, Entry>>;
}

/** Caches the results of `compute`, for example by row, head or proposal. */
export function memoized<T>(compute: (key: number) => T): (key: number) => T {
  const known = new Map<number, T>();
  return (key) => {
    let value = known.get(key);
    if (value === undefined) {
      value = compute(key);
      known.set(key, value);
    }
    return value;
  };
}

/** The sum of f(0) .. f(count - 1). */
export function sigma(count: number, f: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += f(i);
  return sum;
}
