/**
 * Boxes from numbers that a file has rounded.
 *
 * YOLO files have the center and the size of a box as parts of the image's size, usually with six decimals. So edges
 * are off by up to a thousandth of a pixel. The original edges were mostly integers or had two decimals: the shortest
 * decimal number within the error is taken. A file that was made from such boxes gives exactly the same boxes.
 */

/** A number, and the largest error that its rounding has made. */
export interface RoundedNumber {
  readonly value: number;
  readonly error: number;
}

/** Decimals of the shortest number that `shortestWithin` looks for. */
const MAX_DECIMALS = 6;

/** Rounding of doubles in the computation of an edge: a few units in the last place. */
const DOUBLE_ERROR = 2 ** -50;

/** The number of decimals of a number as text: "0.250" and "250e-3" have three. */
export function decimalsOf(text: string): number {
  const [, fraction = '', exponent = '0'] = /^[-+]?\d*\.?(\d*)(?:e([-+]?\d+))?$/i.exec(text) ?? [];
  return Math.max(fraction.length - Number(exponent), 0);
}

/** The shortest decimal number that differs by at most `error`; the number itself if that has many decimals. */
export function shortestWithin(value: number, error: number): number {
  for (let decimals = 0, scale = 1; decimals <= MAX_DECIMALS; decimals++, scale *= 10) {
    // Adding 0 turns -0 into 0.
    const short = Math.round(value * scale) / scale + 0;
    if (Math.abs(short - value) <= error) return short;
  }
  return value;
}

/**
 * The two edges of a box along one axis, in pixels.
 * @param center part of the side
 * @param size part of the side
 * @param side pixels of the image along this axis
 */
export function edgesOf(center: RoundedNumber, size: RoundedNumber, side: number): [number, number] {
  const error = (center.error + size.error / 2 + DOUBLE_ERROR) * side;
  const half = size.value / 2;
  return [shortestWithin((center.value - half) * side, error), shortestWithin((center.value + half) * side, error)];
}

/** The pixel of a coordinate, such as a polygon's. */
export function pixelOf({ value, error }: RoundedNumber, side: number): number {
  return shortestWithin(value * side, (error + DOUBLE_ERROR) * side);
}
