/** Sum, mean and maximum over axes. */
import { spreadKernel, spreadToFirstKernel, type SpreadForm } from '../../kernels/reduce.ts';
import { itemGrid } from '../../kernels/kernel.ts';
import { defineOp, opFunction, type Op } from '../core/op.ts';
import { normalizeAxis, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { reduceView, sumMarked, viewAlong, type AxisView } from './reduce-variants.ts';

/** The gradient of a sum: repeats [outer, inner] times `factor` to [outer, n, inner]. */
function spreadView(input: Tensor, { outer, n, inner }: AxisView, factor: number): Tensor {
  const { device } = input;
  const output = device.empty([outer, n, inner]);
  const form: SpreadForm =
    inner % 4 === 0 ? 'columns' : inner === 1 && (n % 4 === 0 || outer === 1) ? 'rows' : 'scalar';
  const count = Math.ceil(output.size / (form === 'scalar' ? 1 : 4));
  const params = {
    n: form === 'rows' ? Math.ceil(n / 4) : n,
    inner: form === 'columns' ? inner / 4 : inner,
    count,
    factor,
  };
  device.run(spreadKernel(form), params, { input, output }, itemGrid(count));
  return output;
}

interface SumAttributes {
  /** Distinct and not negative. */
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

function reducedShape(shape: Shape, axes: readonly number[], keepDims: boolean): number[] {
  return keepDims
    ? shape.map((dimension, i) => (axes.includes(i) ? 1 : dimension))
    : shape.filter((_, i) => !axes.includes(i));
}

/** Repeats `gradient` times `factor` along the reduced axes, back to `shape`. Adjacent axes are repeated together. */
function spreadAxes(gradient: Tensor, shape: Shape, axes: readonly number[], factor: number): Tensor {
  const dims = reducedShape(shape, axes, true);
  let current = gradient;
  let pending = factor;
  for (let begin = 0; begin < dims.length; ) {
    let end = begin;
    while (end < dims.length && axes.includes(end)) end++;
    if (end > begin) {
      const n = sizeOf(shape.slice(begin, end));
      if (n !== 1) {
        const view = { outer: sizeOf(dims.slice(0, begin)), n, inner: sizeOf(dims.slice(end)) };
        current = spreadView(current, view, pending);
        pending = 1;
      }
      for (let i = begin; i < end; i++) dims[i] = shape[i];
    }
    begin = Math.max(end, begin + 1);
  }
  return current;
}

function meanOrSumOp(name: 'sum' | 'mean'): Op<readonly [Tensor], SumAttributes> {
  const scaleOf = (x: Tensor, axes: readonly number[]): number =>
    name === 'sum' ? 1 : 1 / axes.reduce((size, axis) => size * x.shape[axis], 1);
  return defineOp({
    name,
    shape: ([x]: readonly [Tensor], { axes, keepDims }: SumAttributes) => {
      if (x.dtype !== 'f32') shapeError(name, 'x', 'dtype f32', x.dtype);
      return { shape: reducedShape(x.shape, axes, keepDims) };
    },
    forward: ({ inputs: [x], attributes: { axes }, output }) => {
      const marked = x.shape.map((dimension, i) => axes.includes(i) && dimension !== 1);
      sumMarked(x, marked, output.shape, { scale: scaleOf(x, axes), into: output });
    },
    backward: ({ device, inputs: [x], attributes: { axes }, gradient }) => [
      device.alias(spreadAxes(gradient, x.shape, axes, scaleOf(x, axes)), x.shape),
    ],
  });
}

const sumOp = meanOrSumOp('sum');
const meanOp = meanOrSumOp('mean');

interface ReduceAxes {
  /** Axes to reduce; negative axes count from the end. Default: all axes. */
  readonly axes?: readonly number[];
  /** Keeps reduced axes with size 1; default false. */
  readonly keepDims?: boolean;
}

function sumAttributes(op: string, x: Tensor, { axes, keepDims = false }: ReduceAxes): SumAttributes {
  const normal = axes ? axes.map((axis) => normalizeAxis(op, axis, x.rank)) : x.shape.map((_, i) => i);
  if (new Set(normal).size !== normal.length) shapeError(op, 'axes', 'distinct axes', axes ?? normal);
  return { axes: normal, keepDims };
}

/** Sum over axes. Without axes the result is a scalar []. */
export const sum = opFunction(
  sumOp,
  (x: Tensor, options: ReduceAxes = {}): Tensor => sumOp([x], sumAttributes('sum', x, options)),
);
/** Mean over axes. Without axes the result is a scalar []. The mean of no values is NaN. */
export const mean = opFunction(
  meanOp,
  (x: Tensor, options: ReduceAxes = {}): Tensor => meanOp([x], sumAttributes('mean', x, options)),
);

interface MaxAttributes {
  readonly axis: number;
  readonly keepDims: boolean;
}

const maxOp = defineOp({
  name: 'max',
  shape: ([x]: readonly [Tensor], { axis, keepDims }: MaxAttributes) => {
    if (x.dtype !== 'f32') shapeError('max', 'x', 'dtype f32', x.dtype);
    if (x.shape[axis] === 0) shapeError('max', 'x', `at least one value along axis ${axis}`, x.shape);
    return { shape: reducedShape(x.shape, [axis], keepDims) };
  },
  forward: ({ inputs: [x], attributes: { axis }, output }) => {
    reduceView('max', x, viewAlong(x.shape, axis), { into: output });
  },
  backward: ({ device, inputs: [x], attributes: { axis }, output, gradient: upstream }) => {
    const view = viewAlong(x.shape, axis);
    const first = reduceView('first', x, view, { extreme: output });
    const gradient = device.empty(x.shape);
    const params = { n: view.n, inner: view.inner, count: x.size };
    device.run(spreadToFirstKernel(), params, { upstream, first, gradient }, itemGrid(x.size));
    return [gradient];
  },
});

/** Maximum along an axis. The gradient goes to the first position of the maximum. */
export const max = opFunction(
  maxOp,
  (x: Tensor, { axis, keepDims = false }: { axis: number; keepDims?: boolean }): Tensor => {
    return maxOp([x], { axis: normalizeAxis('max', axis, x.rank), keepDims });
  },
);
