/** Reshaping without a copy. */
import { defineOp, opFunction } from '../core/op.ts';
import { formatShape, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';

const reshapeOp = defineOp({
  name: 'reshape',
  shape: ([x]: readonly [Tensor], shape: Shape) => {
    if (sizeOf(shape) !== x.size)
      shapeError('reshape', 'shape', `${x.size} elements (from ${formatShape(x.shape)})`, shape);
    return { shape };
  },
  forward: 'alias',
  backward: ({ device, inputs: [x], gradient }) => [device.alias(gradient, x.shape)],
});

/** Row-major reshape. One dimension may be -1; it is computed. The result shares memory with `x`. */
export const reshape = opFunction(reshapeOp, (x: Tensor, shape: Shape): Tensor => {
  const unknown = shape.indexOf(-1);
  if (unknown < 0) return reshapeOp([x], shape);
  const known = shape.reduce((product, dimension, i) => (i === unknown ? product : product * dimension), 1);
  if (known === 0 || x.size % known !== 0)
    shapeError('reshape', 'shape', `sizes that divide ${x.size} elements`, shape);
  return reshapeOp(
    [x],
    shape.map((dimension, i) => (i === unknown ? x.size / known : dimension)),
  );
});
