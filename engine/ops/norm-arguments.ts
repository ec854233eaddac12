/** Checks of the arguments of norms. */
import { formatShape, sameShape, shapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';

/** Throws ShapeError where a tensor is not f32. */
export function checkFloat(op: string, tensors: Readonly<Record<string, Tensor | null>>): void {
  for (const [name, tensor] of Object.entries(tensors))
    if (tensor && tensor.dtype !== 'f32') shapeError(op, name, 'dtype f32', tensor.dtype);
}

/** Throws ShapeError unless the tensor is a vector of this size. */
export function checkVector(op: string, name: string, tensor: Tensor, size: number): void {
  if (tensor.rank !== 1 || tensor.size !== size)
    shapeError(op, name, `[${size}], the last dimension of x`, tensor.shape);
}

/** Throws ShapeError where a residual has another shape than x. */
export function checkResidual(op: string, residual: Tensor | null, x: Tensor): void {
  if (residual && !sameShape(residual.shape, x.shape))
    shapeError(op, 'residual', `x's shape ${formatShape(x.shape)}`, residual.shape);
}
