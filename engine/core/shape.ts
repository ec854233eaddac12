/** Shapes: sizes, strides, broadcasting by NumPy's rules, and errors that name op and argument. */

/** Sizes of the dimensions, slowest first; [] is a scalar. */
export type Shape = readonly number[];

/** Number of elements; 1 for the scalar shape []. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const dimension of shape) size *= dimension;
  return size;
}

/** `[2, 3]` */
export function formatShape(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i]);
}

/** Row-major strides in elements. */
export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i];
  }
  return strides;
}

/** A tensor or argument that does not fit an op. */
export class ShapeError extends Error {
  override readonly name = 'ShapeError';
}

/** Throws ShapeError `op: argument: expected X, got Y`; `got` is a shape, or a text. */
export function shapeError(op: string, argument: string, expected: string, got: Shape | string): never {
  throw new ShapeError(
    `${op}: ${argument}: expected ${expected}, got ${typeof got === 'string' ? got : formatShape(got)}`,
  );
}

/** The shape that `a` and `b` broadcast to. Throws ShapeError naming `op` if they do not. */
export function broadcastShapes(op: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1)
      shapeError(op, 'second operand', `a shape that broadcasts with ${formatShape(a)}`, b);
    out[i] = x === 1 ? y : x;
  }
  return out;
}

/** Maps an axis in -rank .. rank - 1 to 0 .. rank - 1. Throws ShapeError naming `op` if it is out of range. */
export function normalizeAxis(op: string, axis: number, rank: number): number {
  if (!Number.isInteger(axis) || axis < -rank || axis >= rank)
    shapeError(op, 'axis', `an integer in ${-rank} .. ${rank - 1}`, String(axis));
  return axis < 0 ? axis + rank : axis;
}

/** Throws ShapeError naming `op` unless all dimensions are non-negative integers. */
export function checkShape(op: string, shape: Shape): void {
  for (const dimension of shape) {
    if (!Number.isInteger(dimension) || dimension < 0) shapeError(op, 'shape', 'non-negative integers', shape);
  }
}
