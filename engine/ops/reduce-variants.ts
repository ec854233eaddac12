/**
 * Reductions of a tensor seen as [outer, n, inner] over n, as the tuned or the expected variant, and the sums over axes
 * that are made of them.
 */
import { columnReduceKernel, rowReduceKernel, type Reduction } from '../../kernels/reduce.ts';
import { itemGrid, linearGrid } from '../../kernels/kernel.ts';
import { teamOf, widthOf } from '../../kernels/teams.ts';
import { sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './rounding.ts';

/** Columns up to this length, and rows up to `LONG_ROW`, are reduced in one pass. */
export const LONG_COLUMN = 128;
const LONG_ROW = 4096;
/** Rows up to this length are reduced as columns, by one invocation each: most lanes of a team would be idle. */
const SHORT_ROW = 16;
/**
 * Numbers of invocations (of columns) and of teams (of rows) that keep a device busy. With fewer, long reductions are
 * cut into chunks.
 */
const ENOUGH_LANES = 4096;
const ENOUGH_TEAMS = 64;
/** Maximum number of chunks that is expected to be fast, and maximum number that the tuner tries. */
export const MAX_CHUNKS = 64;
export const MAX_CHUNKS_TRIED = 4 * MAX_CHUNKS;

/** A tensor seen as [outer, n, inner]. Ops reduce or normalize over n. */
export interface AxisView {
  readonly outer: number;
  readonly n: number;
  readonly inner: number;
}

export const viewAlong = (shape: Shape, axis: number): AxisView => ({
  outer: sizeOf(shape.slice(0, axis)),
  n: shape[axis],
  inner: sizeOf(shape.slice(axis + 1)),
});

interface ReduceOptions {
  /** Multiplies sums; default 1. */
  readonly scale?: number;
  /** [outer, inner]: the values that `first` searches. */
  readonly extreme?: Tensor;
  /** [outer, inner]: where to write the result; default: a new tensor. */
  readonly into?: Tensor;
}

interface ReduceCall extends ReduceOptions {
  readonly reduction: Reduction;
  readonly input: Tensor;
  readonly view: AxisView;
}

/** Rows reduced by teams of lanes. */
interface TeamReduction {
  readonly teams: true;
  /** Elements per chunk, a multiple of 4. */
  readonly chunkLength: number;
  /** Chunks that a team handles in turn. */
  readonly perTeam: number;
}

/** Columns reduced by one invocation each. */
interface LaneReduction {
  readonly teams: false;
  /** Invocations that share a column, at least 1. */
  readonly chunks: number;
}

type ReductionVariant = TeamReduction | LaneReduction;

/**
 * Chunks of at least `LONG_CHUNK` elements are multiples of `CHUNK_UNIT`. Then the loads of a subgroup start at a cache
 * line, which saves a sixth of the time.
 */
const LONG_CHUNK = 1024;
const CHUNK_UNIT = 256;

/** Rows cut into at most `maxChunks` chunks. */
function byTeams({ outer, n }: AxisView, maxChunks: number): TeamReduction {
  const unit = n / maxChunks >= LONG_CHUNK ? CHUNK_UNIT : 4;
  const chunkLength = Math.max(1, Math.ceil(n / maxChunks / unit) * unit);
  return {
    teams: true,
    chunkLength,
    perTeam: Math.min(32, Math.max(1, Math.floor((outer * Math.max(1, Math.ceil(n / chunkLength))) / 1024))),
  };
}

function expectedReduction(view: AxisView): ReductionVariant {
  const { outer, n, inner } = view;
  if (inner === 1 && (n > SHORT_ROW || outer === 1)) {
    const cut = n > LONG_ROW && outer < ENOUGH_TEAMS;
    return byTeams(view, cut ? Math.min(Math.ceil(ENOUGH_TEAMS / outer), Math.ceil(n / 1024)) : 1);
  }
  const lanes = (outer * inner) / widthOf(inner);
  const cut = n > LONG_COLUMN && lanes < ENOUGH_LANES;
  return { teams: false, chunks: cut ? Math.min(Math.ceil(ENOUGH_LANES / lanes), Math.ceil(n / 16), MAX_CHUNKS) : 1 };
}

/** The tuned or the expected variant for a view. Reductions from or to integers always use the expected variant. */
function chooseReduction(device: TensorDevice, reduction: Reduction, view: AxisView): ReductionVariant {
  if (reduction === 'first' || reduction === 'min') return expectedReduction(view);
  return device.tuner.choose('reduce', `${reduction} ${view.outer}x${view.n}x${view.inner}`, () =>
    describeReduction(device, reduction, view),
  );
}

function describeReduction(
  device: TensorDevice,
  reduction: 'sum' | 'max',
  view: AxisView,
): TuningProblem<ReductionVariant> {
  const { outer, n, inner } = view;
  const chunksOf = ({ chunkLength }: TeamReduction): number => Math.ceil(n / chunkLength);
  const candidate = (variant: ReductionVariant): Candidate<ReductionVariant> => ({
    name: variant.teams
      ? `teams, ${chunksOf(variant)} chunks, ${variant.perTeam} per team`
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
  const chunks = chunksOf(teams);
  const items = outer * chunks;
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
              ...(items >= 1024 ? [{ ...teams, perTeam: teams.perTeam * 4 }] : []),
            ]),
      ];
  return {
    expected: candidate(expected),
    candidates: candidates.map(candidate),
    plain: lanes(Math.min(MAX_CHUNKS, Math.ceil(n / 16))),
    tensors: { input: [outer, n, inner], output: [outer, inner] },
    output: 'output',
    run: (variant, { input, output }) => {
      reduceWith({ reduction, input, view, into: output }, variant);
    },
  };
}

/** Reduces the view's middle axis: [outer, inner], u32 for `first` and `min`. */
export function reduceView(reduction: Reduction, input: Tensor, view: AxisView, options: ReduceOptions = {}): Tensor {
  return reduceWith({ reduction, input, view, ...options }, chooseReduction(input.device, reduction, view));
}

function reduceWith(call: ReduceCall, variant: ReductionVariant): Tensor {
  const { reduction, input, view, scale = 1, extreme = input, into } = call;
  const { outer, n, inner } = view;
  const { device } = input;
  const integral = reduction === 'first' || reduction === 'min';
  const second = reduction === 'first' ? 'min' : reduction;
  const factor = (final: boolean): number => (reduction === 'max' ? -Infinity : final ? scale : 1);
  const dtype = integral ? 'u32' : 'f32';
  if (variant.teams) {
    const { chunkLength, perTeam } = variant;
    const chunks = Math.max(1, Math.ceil(n / chunkLength));
    const items = outer * chunks;
    const output = (chunks === 1 && into) || device.empty([outer, chunks], dtype);
    const params = { n, chunks, chunkLength, items, perTeam, factor: factor(chunks === 1) };
    device.run(
      rowReduceKernel(reduction, device.subgroupSize, n % 4 === 0),
      params,
      { input, extreme, output },
      linearGrid(Math.ceil(items / perTeam / teamOf(device.subgroupSize).count)),
    );
    return chunks === 1 ? output : reduceView(second, output, { outer, n: chunks, inner: 1 }, { scale, into });
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
    itemGrid(lanes),
  );
  return chunks === 1 ? output : reduceView(second, output, { outer, n: chunks, inner }, { scale, into });
}

/**
 * Sums x over the marked axes; adjacent marked axes are summed together. The result holds the remaining axes in order
 * and has the shape `shape`.
 */
export function sumMarked(
  x: Tensor,
  marked: readonly boolean[],
  shape: Shape,
  { scale = 1, into }: ReduceOptions = {},
): Tensor {
  const { device } = x;
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
      current = reduceView('sum', current, view, last ? { scale, into } : {});
      dims.fill(1, begin, end);
    }
    end = Math.min(begin, end - 1);
  }
  if (into && current === x) device.copy(x, into);
  return into ?? device.alias(current, shape);
}

/**
 * Sums x down to a shape that broadcasts to the shape of x: the gradient of broadcasting. Where nothing was broadcast,
 * the result shares the memory of x.
 */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  const leading = x.rank - shape.length;
  const marked = x.shape.map((dimension, i) => dimension !== 1 && (i < leading || shape[i - leading] === 1));
  return sumMarked(x, marked, shape);
}
