/** sum, mean and max over axes; and the reductions that other ops' gradients are made of. */
import {
  columnReduceKernel, columnSumPairKernel, rowReduceKernel, spreadKernel, spreadToFirstKernel, teamOf, type Reduction, type SpreadForm,
} from '../../kernels/reduce.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import type { Device } from '../device.ts';
import { defineOp, type Op } from '../op.ts';
import { normalizeAxis, shapeError, sizeOf, type Shape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

/** Columns shorter than this, and rows shorter than `LONG_ROW`, are summed in one pass. */
const LONG_COLUMN = 128;
const LONG_ROW = 4096;
/** Rows up to this are reduced by a lane each, as columns of their own: a team would idle. */
const SHORT_ROW = 16;
/** Lanes (of columns) or teams (of rows) worth having before long reductions are cut into chunks. */
const ENOUGH_LANES = 4096;
const ENOUGH_TEAMS = 64;
const MAX_CHUNKS = 64;

/** A tensor seen as [outer, n, inner], reduced over n. */
export interface ReductionView {
  readonly outer: number;
  readonly n: number;
  readonly inner: number;
}

interface ReduceOptions {
  /** Multiplies sums. */
  readonly scale?: number;
  /** [outer, inner]: what `first` looks for. */
  readonly extreme?: Tensor;
  /** [outer, inner]: where to put the result, instead of a fresh tensor. */
  readonly into?: Tensor;
}

/** Reduces the view's middle axis to [outer, inner]; u32 for `first` and `least`. */
export function reduceView(device: Device, reduction: Reduction, input: Tensor, view: ReductionView, options: ReduceOptions = {}): Tensor {
  const { outer, n, inner } = view;
  const { scale = 1, extreme = input, into } = options;
  const integral = reduction === 'first' || reduction === 'least';
  const second = reduction === 'first' ? 'least' : reduction;
  const factor = (final: boolean): number => (reduction === 'max' ? -Infinity : final ? scale : 1);
  const dtype = integral ? 'u32' : 'f32';
  if (inner === 1 && (n > SHORT_ROW || outer === 1)) {
    const teams = teamOf(device.subgroupSize);
    const cut = n > LONG_ROW && outer < ENOUGH_TEAMS;
    const wanted = cut ? Math.min(Math.ceil(ENOUGH_TEAMS / outer), Math.ceil(n / 1024)) : 1;
    const chunkLength = Math.max(1, Math.ceil(n / wanted / 4) * 4);
    const chunks = Math.max(1, Math.ceil(n / chunkLength));
    const items = outer * chunks;
    const perTeam = Math.min(32, Math.max(1, Math.floor(items / 1024)));
    const output = (chunks === 1 && into) || device.empty([outer, chunks], dtype);
    const params = { n, chunks, chunk_length: chunkLength, items, per_team: perTeam, factor: factor(chunks === 1) };
    device.run(rowReduceKernel(reduction, device.subgroupSize, n % 4 === 0), params, { input, extreme, output }, linearGrid(Math.ceil(items / perTeam / teams.count)));
    return chunks === 1 ? output : reduceView(device, second, output, { outer, n: chunks, inner: 1 }, { scale, into });
  }
  const width = inner % 4 === 0 ? 4 : 1;
  const columns = inner / width;
  const cut = n > LONG_COLUMN && outer * columns < ENOUGH_LANES;
  const chunks = cut ? Math.min(Math.ceil(ENOUGH_LANES / (outer * columns)), Math.ceil(n / 16), MAX_CHUNKS) : 1;
  const stride = chunks * columns;
  const lanes = outer * stride;
  const output = (chunks === 1 && into) || device.empty([outer, chunks, inner], dtype);
  device.run(columnReduceKernel(reduction, width), { length: n * columns, stride, inner: columns, lanes, factor: factor(chunks === 1) },
    { input, extreme, output }, linearGrid(Math.ceil(lanes / 64)));
  return chunks === 1 ? output : reduceView(device, second, output, { outer, n: chunks, inner }, { scale, into });
}

/** Sums [n, 2, columns] over n into two fresh tensors [columns]. */
export function sumColumnPairs(device: Device, input: Tensor, n: number, columns: number): [Tensor, Tensor] {
  let source = input;
  let rows = n;
  if (n > LONG_COLUMN) {
    const width = (columns * 2) % 4 === 0 ? 4 : 1;
    const inner = columns * 2 / width;
    const chunks = Math.min(MAX_CHUNKS, Math.ceil(n / 16));
    source = device.empty([chunks, 2, columns]);
    device.run(columnReduceKernel('sum', width), { length: n * inner, stride: chunks * inner, inner, lanes: chunks * inner, factor: 1 },
      { input, extreme: input, output: source }, linearGrid(Math.ceil(chunks * inner / 64)));
    rows = chunks;
  }
  const width = columns % 4 === 0 ? 4 : 1;
  const inner = columns * 2 / width;
  const output = device.empty([columns]);
  const other = device.empty([columns]);
  device.run(columnSumPairKernel(width), { length: rows * inner, stride: inner, inner, lanes: inner, factor: 1 },
    { input: source, output, other }, linearGrid(Math.ceil(inner / 64)));
  return [output, other];
}

/** Sums x over the marked axes, adjacent ones in one go; the result holds the remaining axes in order, under `shape`. */
function sumMarked(device: Device, x: Tensor, marked: readonly boolean[], shape: Shape, { scale = 1, into }: ReduceOptions = {}): Tensor {
  const dims = [...x.shape];
  let current = x;
  for (let end = dims.length; end > 0;) {
    let begin = end;
    while (begin > 0 && marked[begin - 1]) begin--;
    if (begin < end) {
      const view = { outer: sizeOf(dims.slice(0, begin)), n: sizeOf(dims.slice(begin, end)), inner: sizeOf(dims.slice(end)) };
      const last = !marked.slice(0, begin).includes(true);
      current = reduceView(device, 'sum', current, view, last ? { scale, into } : {});
      dims.fill(1, begin, end);
    }
    end = Math.min(begin, end - 1);
  }
  if (into && current === x) device.copy(x, into);
  return into ?? device.alias(current, shape);
}

/** Sums x down to a shape that broadcasts to x's: the gradient of broadcasting. x itself (under another handle) where nothing was broadcast. */
export function sumTo(device: Device, x: Tensor, shape: Shape): Tensor {
  const leading = x.rank - shape.length;
  const marked = x.shape.map((dimension, i) => dimension !== 1 && (i < leading || shape[i - leading] === 1));
  return sumMarked(device, x, marked, shape);
}

/** The transpose of `reduceView`'s sum: repeats [outer, inner] to [outer, n, inner]. */
function spreadView(device: Device, input: Tensor, { outer, n, inner }: ReductionView, factor: number): Tensor {
  const output = device.empty([outer, n, inner]);
  const form: SpreadForm = inner % 4 === 0 ? 'columns' : inner === 1 && (n % 4 === 0 || outer === 1) ? 'rows' : 'scalar';
  const count = Math.ceil(output.size / (form === 'scalar' ? 1 : 4));
  const params = { n: form === 'rows' ? Math.ceil(n / 4) : n, inner: form === 'columns' ? inner / 4 : inner, count, factor };
  device.run(spreadKernel(form), params, { input, output }, linearGrid(Math.ceil(count / 64)));
  return output;
}

interface SumAttributes {
  /** Non-negative, each once. */
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

function reducedShape(shape: Shape, axes: readonly number[], keepDims: boolean): number[] {
  return keepDims ? shape.map((dimension, i) => (axes.includes(i) ? 1 : dimension)) : shape.filter((_, i) => !axes.includes(i));
}

function sumOpOf(name: 'sum' | 'mean'): Op<readonly [Tensor], SumAttributes> {
  const scaleOf = (x: Tensor, axes: readonly number[]): number => (name === 'sum' ? 1 : 1 / axes.reduce((size, axis) => size * x.shape[axis], 1));
  return defineOp({
    name,
    shape: ([x]: readonly [Tensor], { axes, keepDims }: SumAttributes) => {
      if (x.dtype !== 'f32') shapeError(name, 'x', 'of dtype f32', x.dtype);
      return { shape: reducedShape(x.shape, axes, keepDims) };
    },
    forward: ({ device, inputs: [x], attributes: { axes }, output }) => {
      const marked = x.shape.map((dimension, i) => axes.includes(i) && dimension !== 1);
      sumMarked(device, x, marked, output.shape, { scale: scaleOf(x, axes), into: output });
    },
    backward: ({ device, inputs: [x], attributes: { axes }, gradient }) => {
      const dims = reducedShape(x.shape, axes, true);
      let current = gradient;
      let factor = scaleOf(x, axes);
      for (let begin = 0; begin < dims.length;) {
        let end = begin;
        while (end < dims.length && axes.includes(end)) end++;
        if (end > begin) {
          const n = sizeOf(x.shape.slice(begin, end));
          if (n !== 1) {
            current = spreadView(device, current, { outer: sizeOf(dims.slice(0, begin)), n, inner: sizeOf(dims.slice(end)) }, factor);
            factor = 1;
          }
          for (let i = begin; i < end; i++) dims[i] = x.shape[i];
        }
        begin = Math.max(end, begin + 1);
      }
      return [device.alias(current, x.shape)];
    },
  });
}

export const sumOp = sumOpOf('sum');
export const meanOp = sumOpOf('mean');

export interface ReduceAxes {
  /** Axes to reduce, negative ones counted from the end; all of them unless given. */
  readonly axes?: readonly number[];
  /** Leave reduced axes in place with size 1. */
  readonly keepDims?: boolean;
}

function sumAttributes(op: string, x: Tensor, { axes, keepDims = false }: ReduceAxes): SumAttributes {
  const normal = axes ? axes.map((axis) => normalizeAxis(op, axis, x.rank)) : x.shape.map((_, i) => i);
  if (new Set(normal).size !== normal.length) shapeError(op, 'axes', 'distinct', axes ?? normal);
  return { axes: normal, keepDims };
}

/** Sum over axes; a scalar [] unless axes are given. */
export const sum = (x: Tensor, options: ReduceAxes = {}): Tensor => sumOp([x], sumAttributes('sum', x, options));
/** Mean over axes; a scalar [] unless axes are given. NaN where there is nothing to average. */
export const mean = (x: Tensor, options: ReduceAxes = {}): Tensor => meanOp([x], sumAttributes('mean', x, options));

interface MaxAttributes {
  readonly axis: number;
  readonly keepDims: boolean;
}

function viewAlong(shape: Shape, axis: number): ReductionView {
  return { outer: sizeOf(shape.slice(0, axis)), n: shape[axis], inner: sizeOf(shape.slice(axis + 1)) };
}

export const maxOp = defineOp({
  name: 'max',
  shape: ([x]: readonly [Tensor], { axis, keepDims }: MaxAttributes) => {
    if (x.dtype !== 'f32') shapeError('max', 'x', 'of dtype f32', x.dtype);
    if (x.shape[axis] === 0) shapeError('max', 'x', `of at least one value along axis ${axis}`, x.shape);
    return { shape: reducedShape(x.shape, [axis], keepDims) };
  },
  forward: ({ device, inputs: [x], attributes: { axis }, output }) => {
    reduceView(device, 'max', x, viewAlong(x.shape, axis), { into: output });
  },
  backward: ({ device, inputs: [x], attributes: { axis }, output, gradient: upstream }) => {
    const view = viewAlong(x.shape, axis);
    const first = reduceView(device, 'first', x, view, { extreme: output });
    const gradient = device.empty(x.shape);
    const params = { n: view.n, inner: view.inner, count: x.size };
    device.run(spreadToFirstKernel(), params, { upstream, first, gradient }, linearGrid(Math.ceil(x.size / 64)));
    return [gradient];
  },
});

/** The largest value along an axis. The gradient goes to the first position that holds it. */
export function max(x: Tensor, { axis, keepDims = false }: { axis: number; keepDims?: boolean }): Tensor {
  return maxOp([x], { axis: normalizeAxis('max', axis, x.rank), keepDims });
}
