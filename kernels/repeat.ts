/** Repeats WGSL text for consecutive numbers. Kernels are unrolled with it. */

/** 0, 1, ... count - 1. */
export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Lines of WGSL, one for each number below `count`. */
export const lines = (count: number, line: (i: number) => string): string => range(count).map(line).join('\n');

/** Terms of WGSL, one for each number below `count`, on one line. */
export const joined = (count: number, separator: string, term: (i: number) => string): string =>
  range(count).map(term).join(separator);
