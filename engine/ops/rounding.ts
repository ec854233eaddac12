/** Rounding errors that variants of an op may differ by: the tolerances of the tuner. */

/** Relative error of a sum of `terms` products in f32. It leaves room for chains of a thousand additions. */
export const roundingOf = (terms: number): number => 1e-5 * Math.sqrt(Math.max(1, terms / 1024));

/**
 * Additional relative error of a sum of products whose operands are rounded to f16. Each operand has a unit roundoff of
 * 2^-11, so every product is off by at most 2^-10 of its value.
 *
 * The tuner's operands are independent, have either sign, and are far from the bounds of f16. There the errors of
 * products add up as the products do, so the sum's relative error is no larger. With rounding to nearest it is about a
 * quarter of this. WGSL also allows an adapter to truncate; even then the error is smaller than this.
 */
export const HALF_ROUNDING = 2 ** -10;
