/** Elementwise functions of one tensor: relu, sigmoid, exp, log, sqrt, square, abs, tanh, and a x + b. */
import { unaryGradientKernel, unaryKernel, type UnaryFunction } from '../../kernels/unary.ts';
import { defineOp, type Op } from '../core/op.ts';
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
      if (x.dtype !== 'f32') shapeError(name, 'x', 'of dtype f32', x.dtype);
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

export const reluOp = unaryOp('relu');
export const sigmoidOp = unaryOp('sigmoid');
export const expOp = unaryOp('exp');
export const logOp = unaryOp('log');
export const sqrtOp = unaryOp('sqrt');
export const squareOp = unaryOp('square');
export const absOp = unaryOp('abs');
export const tanhOp = unaryOp('tanh');
export const affineOp = unaryOp('affine');

const NONE: Constants = { a: 0, b: 0 };

/** max(x, 0); the derivative at 0 is 0. */
export const relu = (x: Tensor): Tensor => reluOp([x], NONE);
/** 1 / (1 + exp(-x)) */
export const sigmoid = (x: Tensor): Tensor => sigmoidOp([x], NONE);
/** e^x */
export const exp = (x: Tensor): Tensor => expOp([x], NONE);
/** Natural logarithm. */
export const log = (x: Tensor): Tensor => logOp([x], NONE);
/** The square root; x >= 0, and its derivative is finite only above 0. */
export const sqrt = (x: Tensor): Tensor => sqrtOp([x], NONE);
/** x^2 */
export const square = (x: Tensor): Tensor => squareOp([x], NONE);
/** |x|; the derivative at 0 is 0. */
export const abs = (x: Tensor): Tensor => absOp([x], NONE);
/** Hyperbolic tangent. */
export const tanh = (x: Tensor): Tensor => tanhOp([x], NONE);
/** a x + b with two numbers. */
export const affine = (x: Tensor, a: number, b = 0): Tensor => affineOp([x], { a, b });
