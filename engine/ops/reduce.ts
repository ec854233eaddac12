/** sum, mean and max over axes; and the reductions that other ops' gradients are made of. */
import {
  columnReduceKernel,
  columnSumPairKernel,
  rowReduceKernel,
  spreadKernel,
  spreadToFirstKernel,
  teamOf,
  type Reduction,
  type SpreadForm,
} from '../../kernels/reduce.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import { defineOp, opFunction, type Op } from '../core/op.ts';
import { normalizeAxis, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './gemm-variants.ts';

/** Columns shorter than this, and rows shorter than `LONG_ROW`, are summed in one pass. */
const LONG_COLUMN = 128;
const LONG_ROW = 4096;
/** Rows up to this are reduced by a lane each, as columns of their own: a team would idle. */
const SHORT_ROW = 16;
/** Lanes (of columns) or teams (of rows) worth having before long reductions are cut into chunks. */
const ENOUGH_LANES = 4096;
const ENOUGH_TEAMS = 64;
const MAX_CHUNKS = 64;
/** As many chunks as the tuner tries. */
const MAX_CHUNKS_TRIED = 4 * MAX_CHUNKS;

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

/** How a view is reduced: by teams of lanes (rows only), or by a lane a column. */
type ReductionVariant =
  | {
      readonly teams: true /** Elements that a team takes at once, a multiple of 4. */;
      readonly chunkLength: number /** Chunks that it takes in turn. */;
      readonly perTeam: number;
    }
  | { readonly teams: false /** Lanes that share a column, at least 1. */; readonly chunks: number };

/** Chunks of at least `LONG_CHUNK` elements are whole multiples of `CHUNK_UNIT`, so that what a subgroup loads at once begins where a cache line does, which saves a sixth of the time. */
const LONG_CHUNK = 1024,
  CHUNK_UNIT = 256;

/** Rows in so many chunks, or fewer. */
function byTeams({ outer, n }: ReductionView, wanted: number): ReductionVariant & { readonly teams: true } {
  const unit = n / wanted >= LONG_CHUNK ? CHUNK_UNIT : 4;
  const chunkLength = Math.max(1, Math.ceil(n / wanted / unit) * unit);
  return {
    teams: true,
    chunkLength,
    perTeam: Math.min(32, Math.max(1, Math.floor((outer * Math.max(1, Math.ceil(n / chunkLength))) / 1024))),
  };
}

function expectedReduction(view: ReductionView): ReductionVariant {
  const { outer, n, inner } = view;
  if (inner === 1 && (n > SHORT_ROW || outer === 1)) {
    const cut = n > LONG_ROW && outer < ENOUGH_TEAMS;
    return byTeams(view, cut ? Math.min(Math.ceil(ENOUGH_TEAMS / outer), Math.ceil(n / 1024)) : 1);
  }
  const lanes = (outer * inner) / widthOf(inner);
  const cut = n > LONG_COLUMN && lanes < ENOUGH_LANES;
  return { teams: false, chunks: cut ? Math.min(Math.ceil(ENOUGH_LANES / lanes), Math.ceil(n / 16), MAX_CHUNKS) : 1 };
}

/** The variant for a view: the tuned one, or the expected one, which is the only one of reductions from or to integers. */
function chooseReduction(device: TensorDevice, reduction: Reduction, view: ReductionView): ReductionVariant {
  if (reduction === 'first' || reduction === 'least') return expectedReduction(view);
  return device.tuner.choose('reduce', `${reduction} ${view.outer}x${view.n}x${view.inner}`, () =>
    describeReduction(device, reduction, view),
  );
}

function describeReduction(
  device: TensorDevice,
  reduction: 'sum' | 'max',
  view: ReductionView,
): TuningProblem<ReductionVariant> {
  const { outer, n, inner } = view;
  const chunksOf = ({ chunkLength }: ReductionVariant & { teams: true }): number => Math.ceil(n / chunkLength);
  const candidate = (variant: ReductionVariant): Candidate<ReductionVariant> => ({
    name: variant.teams
      ? `teams, ${chunksOf(variant)} chunks, ${variant.perTeam} a team`
      : `lanes, ${variant.chunks} chunks`,
    variant,
    tolerance: reduction === 'max' ? 0 : roundingOf(n),
    kernels: () => [
      variant.teams
        ? rowReduceKernel(reduction, device.subgroupSize, n % 4 === 0)
        : columnReduceKernel(reduction, widthOf(inner)),
    ],
  });
  const lanes = (chunks: number): ReductionVariant => ({
    teams: false,
    chunks: Math.max(1, Math.min(chunks, Math.ceil(n / 4), MAX_CHUNKS_TRIED)),
  });
  const expected = expectedReduction(view);
  const teams = expected.teams ? expected : byTeams(view, 1);
  const chunks = chunksOf(teams),
    turns = outer * chunks;
  const candidates: readonly ReductionVariant[] = !worthMeasuring(outer * n * inner)
    ? []
    : [
        ...(expected.teams ? [] : [lanes(expected.chunks >> 2), lanes(expected.chunks * 4)]),
        ...(inner > 1
          ? []
          : [
              teams,
              byTeams(view, Math.ceil(chunks / 4)),
              n > LONG_COLUMN ? byTeams(view, chunks * 4) : lanes(1),
              { ...teams, perTeam: Math.max(1, teams.perTeam >> 2) },
              ...(turns >= 1024 ? [{ ...teams, perTeam: teams.perTeam * 4 }] : []),
            ]),
      ];
  return {
    expected: candidate(expected),
    candidates: candidates.map(candidate),
    plain: lanes(Math.min(MAX_CHUNKS, Math.ceil(n / 16))),
    tensors: { input: [outer, n, inner], output: [outer, inner] },
    output: 'output',
    run: (variant, { input, output }) => {
      reduceWith(device, reduction, input, view, { into: output }, variant);
    },
  };
}

const widthOf = (inner: number): 1 | 4 => (inner % 4 === 0 ? 4 : 1);

/** Reduces the view's middle axis to [outer, inner]; u32 for `first` and `least`. */
export function reduceView(
  device: TensorDevice,
  reduction: Reduction,
  input: Tensor,
  view: ReductionView,
  options: ReduceOptions = {},
): Tensor {
  return reduceWith(device, reduction, input, view, options, chooseReduction(device, reduction, view));
}

function reduceWith(
  device: TensorDevice,
  reduction: Reduction,
  input: Tensor,
  { outer, n, inner }: ReductionView,
  options: ReduceOptions,
  variant: ReductionVariant,
): Tensor {
  const { scale = 1, extreme = input, into } = options;
  const integral = reduction === 'first' || reduction === 'least';
  const second = reduction === 'first' ? 'least' : reduction;
  const factor = (final: boolean): number => (reduction === 'max' ? -Infinity : final ? scale : 1);
  const dtype = integral ? 'u32' : 'f32';
  if (variant.teams) {
    const { chunkLength, perTeam } = variant;
    const chunks = Math.max(1, Math.ceil(n / chunkLength));
    const items = outer * chunks;
    const output = (chunks === 1 && into) || device.empty([outer, chunks], dtype);
    const params = { n, chunks, chunk_length: chunkLength, items, per_team: perTeam, factor: factor(chunks === 1) };
    device.run(
      rowReduceKernel(reduction, device.subgroupSize, n % 4 === 0),
      params,
      { input, extreme, output },
      linearGrid(Math.ceil(items / perTeam / teamOf(device.subgroupSize).count)),
    );
    return chunks === 1 ? output : reduceView(device, second, output, { outer, n: chunks, inner: 1 }, { scale, into });
  }
  const { chunks } = variant;
  const width = widthOf(inner);
  const columns = inner / width;
  const stride = chunks * columns;
  const lanes = outer * stride;
  const output = (chunks === 1 && into) || device.empty([outer, chunks, inner], dtype);
  device.run(
    columnReduceKernel(reduction, width),
    { length: n * columns, stride, inner: columns, lanes, factor: factor(chunks === 1) },
    { input, extreme, output },
    linearGrid(Math.ceil(lanes / 64)),
  );
  return chunks === 1 ? output : reduceView(device, second, output, { outer, n: chunks, inner }, { scale, into });
}

function describePairs(device: TensorDevice, n: number, columns: number, expected: number): TuningProblem<number> {
  const candidate = (chunks: number): Candidate<number> => ({
    name: chunks === 1 ? 'at once' : `${chunks} chunks`,
    variant: chunks,
    tolerance: roundingOf(n),
    kernels: () => [
      ...(chunks > 1 ? [columnReduceKernel('sum', widthOf(columns * 2))] : []),
      columnSumPairKernel(widthOf(columns)),
    ],
  });
  const others = [1, expected >> 2, expected * 4].map((chunks) =>
    Math.max(1, Math.min(chunks, Math.ceil(n / 4), MAX_CHUNKS_TRIED)),
  );
  return {
    expected: candidate(expected),
    candidates: worthMeasuring(2 * n * columns) ? others.map(candidate) : [],
    plain: Math.min(MAX_CHUNKS, Math.max(1, Math.ceil(n / 16))),
    tensors: { input: [n, 2, columns], output: [columns], other: [columns] },
    output: ['output', 'other'],
    run: (chunks, { input, output, other }) => sumPairs(device, input, n, columns, [output, other], chunks),
  };
}

/** Sums [n, 2, columns] over n into two tensors [columns]. */
export function sumColumnPairs(
  device: TensorDevice,
  input: Tensor,
  n: number,
  columns: number,
  sums: readonly [Tensor, Tensor],
): void {
  const expected = n > LONG_COLUMN ? Math.min(MAX_CHUNKS, Math.ceil(n / (device.smallSubgroups ? 64 : 16))) : 1;
  sumPairs(
    device,
    input,
    n,
    columns,
    sums,
    n > LONG_COLUMN
      ? device.tuner.choose('sum-pairs', `${n}x2x${columns}`, () => describePairs(device, n, columns, expected))
      : expected,
  );
}

function sumPairs(
  device: TensorDevice,
  input: Tensor,
  n: number,
  columns: number,
  [output, other]: readonly [Tensor, Tensor],
  chunks: number,
): void {
  const width = widthOf(columns * 2),
    inner = (columns * 2) / width;
  let source = input,
    rows = n;
  if (chunks > 1) {
    source = device.empty([chunks, 2, columns]);
    device.run(
      columnReduceKernel('sum', width),
      { length: n * inner, stride: chunks * inner, inner, lanes: chunks * inner, factor: 1 },
      { input, extreme: input, output: source },
      linearGrid(Math.ceil((chunks * inner) / 64)),
    );
    rows = chunks;
  }
  const halfWidth = widthOf(columns),
    halves = (columns * 2) / halfWidth;
  device.run(
    columnSumPairKernel(halfWidth),
    { length: rows * halves, stride: halves, inner: halves, lanes: halves, factor: 1 },
    { input: source, output, other },
    linearGrid(Math.ceil(halves / 64)),
  );
}

/** As `sumColumnPairs`, into fresh tensors. */
export function columnPairSums(device: TensorDevice, input: Tensor, n: number, columns: number): [Tensor, Tensor] {
  const sums: [Tensor, Tensor] = [device.empty([columns]), device.empty([columns])];
  sumColumnPairs(device, input, n, columns, sums);
  return sums;
}

/** Sums x over the marked axes, adjacent ones in one go; the result holds the remaining axes in order, under `shape`. */
function sumMarked(
  device: TensorDevice,
  x: Tensor,
  marked: readonly boolean[],
  shape: Shape,
  { scale = 1, into }: ReduceOptions = {},
): Tensor {
  const dims = [...x.shape];
  let current = x;
  for (let end = dims.length; end > 0; ) {
    let begin = end;
    while (begin > 0 && marked[begin - 1]) begin--;
    if (begin < end) {
      const view = {
        outer: sizeOf(dims.slice(0, begin)),
        n: sizeOf(dims.slice(begin, end)),
        inner: sizeOf(dims.slice(end)),
      };
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
export function sumTo(device: TensorDevice, x: Tensor, shape: Shape): Tensor {
  const leading = x.rank - shape.length;
  const marked = x.shape.map((dimension, i) => dimension !== 1 && (i < leading || shape[i - leading] === 1));
  return sumMarked(device, x, marked, shape);
}

/** The transpose of `reduceView`'s sum: repeats [outer, inner] to [outer, n, inner]. */
function spreadView(device: TensorDevice, input: Tensor, { outer, n, inner }: ReductionView, factor: number): Tensor {
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
  device.run(spreadKernel(form), params, { input, output }, linearGrid(Math.ceil(count / 64)));
  return output;
}

interface SumAttributes {
  /** Non-negative, each once. */
  readonly axes: readonly number[];
  readonly keepDims: boolean;
}

function reducedShape(shape: Shape, axes: readonly number[], keepDims: boolean): number[] {
  return keepDims
    ? shape.map((dimension, i) => (axes.includes(i) ? 1 : dimension))
    : shape.filter((_, i) => !axes.includes(i));
}

function sumOpOf(name: 'sum' | 'mean'): Op<readonly [Tensor], SumAttributes> {
  const scaleOf = (x: Tensor, axes: readonly number[]): number =>
    name === 'sum' ? 1 : 1 / axes.reduce((size, axis) => size * x.shape[axis], 1);
  return defineOp({
    name,
    shape: ([x]: readonly [Tensor], { axes, keepDims }: SumAttributes) => {
      if (x.dtype !== 'f32') shapeError(name, 'x', 'dtype f32', x.dtype);
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
      for (let begin = 0; begin < dims.length; ) {
        let end = begin;
        while (end < dims.length && axes.includes(end)) end++;
        if (end > begin) {
          const n = sizeOf(x.shape.slice(begin, end));
          if (n !== 1) {
            current = spreadView(
              device,
              current,
              { outer: sizeOf(dims.slice(0, begin)), n, inner: sizeOf(dims.slice(end)) },
              factor,
            );
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

const sumOp = sumOpOf('sum');
const meanOp = sumOpOf('mean');

export interface ReduceAxes {
  /** Axes to reduce, negative ones counted from the end; all of them unless given. */
  readonly axes?: readonly number[];
  /** Leave reduced axes in place with size 1. */
  readonly keepDims?: boolean;
}

function sumAttributes(op: string, x: Tensor, { axes, keepDims = false }: ReduceAxes): SumAttributes {
  const normal = axes ? axes.map((axis) => normalizeAxis(op, axis, x.rank)) : x.shape.map((_, i) => i);
  if (new Set(normal).size !== normal.length) shapeError(op, 'axes', 'distinct axes', axes ?? normal);
  return { axes: normal, keepDims };
}

/** Sum over axes; a scalar [] unless axes are given. */
export const sum = opFunction(
  sumOp,
  (x: Tensor, options: ReduceAxes = {}): Tensor => sumOp([x], sumAttributes('sum', x, options)),
);
/** Mean over axes; a scalar [] unless axes are given. NaN where there is nothing to average. */
export const mean = opFunction(
  meanOp,
  (x: Tensor, options: ReduceAxes = {}): Tensor => meanOp([x], sumAttributes('mean', x, options)),
);

interface MaxAttributes {
  readonly axis: number;
  readonly keepDims: boolean;
}

function viewAlong(shape: Shape, axis: number): ReductionView {
  return { outer: sizeOf(shape.slice(0, axis)), n: shape[axis], inner: sizeOf(shape.slice(axis + 1)) };
}

const maxOp = defineOp({
  name: 'max',
  shape: ([x]: readonly [Tensor], { axis, keepDims }: MaxAttributes) => {
    if (x.dtype !== 'f32') shapeError('max', 'x', 'dtype f32', x.dtype);
    if (x.shape[axis] === 0) shapeError('max', 'x', `at least one value along axis ${axis}`, x.shape);
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
export const max = opFunction(
  maxOp,
  (x: Tensor, { axis, keepDims = false }: { axis: number; keepDims?: boolean }): Tensor => {
    return maxOp([x], { axis: normalizeAxis('max', axis, x.rank), keepDims });
  },
);
