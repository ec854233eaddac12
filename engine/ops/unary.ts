/** Elementwise functions of one tensor. */
import { unaryGradientKernel, unaryKernel, type UnaryFunction } from '../../kernels/unary.ts';
import { defineOp, opFunction, type Op, type OpInfo } from '../core/op.ts';
import { shapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { elementwise } from '../core/elementwise.ts';

interface Constants {
  readonly a: number;
  readonly b: number;
}

function unaryOp(name: UnaryFunction): Op<readonly [Tensor], Constants> {
  return defineOp({
    name,
    shape: ([x]: readonly [Tensor]) => {
      if (x.dtype !== 'f32') shapeError(name, 'x', 'dtype f32', x.dtype);
      return { shape: x.shape };
    },
    forward: ({ device, inputs: [input], attributes, output }) => {
      const count4 = Math.ceil(input.size / 4);
      const { lanes, grid } = elementwise(device, count4);
      device.run(unaryKernel(name, lanes), { count4, ...attributes }, { input, output }, grid);
    },
    backward: ({ device, inputs: [input], attributes, output, gradient: upstream }) => {
      const gradient = device.empty(input.shape);
      const count4 = Math.ceil(input.size / 4);
      const { lanes, grid } = elementwise(device, count4);
      device.run(
        unaryGradientKernel(name, lanes),
        { count4, ...attributes },
        { input, output, upstream, gradient },
        grid,
      );
      return [gradient];
    },
  });
}

/** The public function of an op without constants. */
function unary(name: Exclude<UnaryFunction, 'affine'>): ((x: Tensor) => Tensor) & OpInfo {
  const op = unaryOp(name);
  return opFunction(op, (x: Tensor): Tensor => op([x], { a: 0, b: 0 }));
}

/** max(x, 0). The derivative at 0 is 0. */
export const relu = unary('relu');
/** 1 / (1 + exp(-x)) */
export const sigmoid = unary('sigmoid');
/** e^x */
export const exp = unary('exp');
/** Natural logarithm. */
export const log = unary('log');
/** Square root of x >= 0. The derivative is finite only above 0. */
export const sqrt = unary('sqrt');
/** x^2 */
export const square = unary('square');
/** |x|. The derivative at 0 is 0. */
export const abs = unary('abs');
/** Hyperbolic tangent. */
export const tanh = unary('tanh');

const affineOp = unaryOp('affine');
/** a x + b with two numbers a and b. */
export const affine = opFunction(affineOp, (x: Tensor, a: number, b = 0): Tensor => affineOp([x], { a, b }));
