/**
 * Sums, maxima and first positions over one axis of a tensor seen as [outer, n, inner], and their gradients.
 *
 * inner = 1: a team of lanes handles each row.
 * inner > 1: an invocation handles one column. Neighboring invocations read neighboring memory, and no values are
 * exchanged.
 *
 * Long reductions with few outputs are cut into chunks. The same kernel then runs again over the results of the chunks.
 * The order of every sum is fixed.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { teamOf, teamReduction, teamScope, type Width } from './teams.ts';

/**
 * - `sum` and `max` of f32.
 * - `first`: the lowest position along the axis where the input equals `extreme` [outer, inner]. The result is u32,
 *   0xffffffff for none.
 * - `min`: the minimum of u32, which is the second stage of `first`.
 */
export type Reduction = 'sum' | 'max' | 'first' | 'min';

const REDUCTIONS = {
  sum: {
    element: 'f32',
    result: 'f32',
    identity: '0.0',
    combine: (a: string, b: string) => `${a} + ${b}`,
    team: 'add',
  },
  max: {
    element: 'f32',
    result: 'f32',
    identity: 'p.factor',
    combine: (a: string, b: string) => `max(${a}, ${b})`,
    team: 'max',
  },
  first: {
    element: 'f32',
    result: 'u32',
    identity: '0xffffffffu',
    combine: (a: string, b: string) => `min(${a}, ${b})`,
    team: 'min',
  },
  min: {
    element: 'u32',
    result: 'u32',
    identity: '0xffffffffu',
    combine: (a: string, b: string) => `min(${a}, ${b})`,
    team: 'min',
  },
} as const;

type Element = 'f32' | 'u32' | 'vec4f' | 'vec4u';

interface ColumnLoop {
  readonly input: `read ${Element}`;
  readonly output: `write ${Element}`;
  readonly text: string;
}

/** The loop of an invocation over its column, four loads at a time. It leaves the result in `total`. */
function columnLoop(reduction: Reduction, width: Width): ColumnLoop {
  const { element, result, identity, combine } = REDUCTIONS[reduction];
  const vector = { f32: 'vec4f', u32: 'vec4u' } as const;
  const type = width === 4 ? vector[result] : result;
  const value = (at: string): string =>
    reduction === 'first'
      ? `select(${type}(0xffffffffu), ${type}((${at}) / p.inner), input[base + ${at}] == searched)`
      : `input[base + ${at}]`;
  return {
    input: `read ${width === 4 ? vector[element] : element}`,
    output: `write ${type}`,
    text: `
  let t = linearGroup * 64u + lane;
  if (t >= p.lanes) { return; }
  let base = t / p.stride * p.length;
  var i = t % p.stride;
  ${reduction === 'first' ? 'let searched = extreme[t / p.stride * p.inner + i % p.inner];' : ''}
  var total = ${type}(${identity});
  for (; i + 3u * p.stride < p.length; i += 4u * p.stride) {
    let a = ${value('i')};
    let b = ${value('i + p.stride')};
    let c = ${value('i + 2u * p.stride')};
    let d = ${value('i + 3u * p.stride')};
    let ab = ${combine('a', 'b')};
    let cd = ${combine('c', 'd')};
    let abcd = ${combine('ab', 'cd')};
    total = ${combine('total', 'abcd')};
  }
  for (; i < p.length; i += p.stride) { let a = ${value('i')}; total = ${combine('total', 'a')}; }
  ${reduction === 'sum' ? 'total *= p.factor;' : ''}`,
  };
}

const COLUMN_PARAMS = { length: 'u32', stride: 'u32', inner: 'u32', lanes: 'u32', factor: 'f32' } as const;

/**
 * Reduces [outer, n, inner] to [outer, chunks, inner], one column per invocation. Invocation r of an outer index
 * handles the elements r, r + stride, r + 2 stride, ..., where stride = chunks * inner.
 *
 * Params count elements of `width` values: length = n * inner, stride, inner, lanes = outer * stride.
 * `factor` multiplies sums; it is -infinity for `max`.
 * Only `first` reads `extreme` [outer, inner].
 */
export const columnReduceKernel = kernelFamily((reduction: Reduction, width: Width) => {
  const { input, output, text } = columnLoop(reduction, width);
  return defineKernel({
    name: `reduce_${reduction}_columns_${width === 4 ? 'vec4' : 'scalar'}`,
    workgroup: [64],
    params: COLUMN_PARAMS,
    buffers: { input, extreme: input, output },
    body: `${text}
  output[t] = total;`,
  });
});

/**
 * As `columnReduceKernel` for sums with outer = chunks = 1. The first half of the columns goes to `output`, the second
 * half to `other`.
 */
export const columnSumPairKernel = kernelFamily((width: Width) => {
  const { input, output, text } = columnLoop('sum', width);
  return defineKernel({
    name: `reduce_sum_columns_pair_${width === 4 ? 'vec4' : 'scalar'}`,
    workgroup: [64],
    params: COLUMN_PARAMS,
    buffers: { input, output, other: output },
    body: `${text}
  let half = p.lanes / 2u;
  if (t < half) { output[t] = total; } else { other[t - half] = total; }`,
  });
});

/**
 * Reduces [rows, n] to [rows, chunks], one chunk per team at a time. Chunk c covers the elements c * chunkLength up to
 * (c + 1) * chunkLength of its row. There are `items` = rows * chunks; each team handles `perTeam` of them in turn.
 * Loads are whole vec4s, masked where a row does not start or end on a vec4. `whole`: n is a multiple of 4.
 * Only `first` reads `extreme` [rows].
 */
export const rowReduceKernel = kernelFamily((reduction: Reduction, subgroupSize: number, whole: boolean) => {
  const { element, result, identity, combine, team: f } = REDUCTIONS[reduction];
  const team = teamOf(subgroupSize);
  const input = element === 'f32' ? 'vec4f' : 'vec4u';
  const type = result === 'f32' ? 'vec4f' : 'vec4u';
  const value =
    reduction === 'first' ? `select(${type}(0xffffffffu), at - row * p.n, input[i] == searched)` : 'input[i]';
  return defineKernel({
    name: `reduce_${reduction}_rows_${team.label}${whole ? '_vec4' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { n: 'u32', chunks: 'u32', chunkLength: 'u32', items: 'u32', perTeam: 'u32', factor: 'f32' },
    buffers: { input: `read ${input}`, extreme: `read ${element}`, output: `write ${result}` },
    module: teamReduction(team, 'teamReduce', result, f),
    body: `${teamScope(team)}
  for (var k = 0u; k < p.perTeam; k++) {
    let cell = item * p.perTeam + k;
    let live = cell < p.items;
    let row = select(0u, cell / p.chunks, live);
    let begin = row * p.n + cell % p.chunks * p.chunkLength;
    let end = select(begin, min(begin + p.chunkLength, row * p.n + p.n), live);
    ${reduction === 'first' ? `let searched = ${input}(extreme[row]);` : ''}
    var total = ${type}(${identity});
    for (var i = begin / 4u + member; i < (end + 3u) / 4u; i += ${team.lanes}u) {
      ${whole && reduction !== 'first' ? '' : 'let at = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u);'}
      let a = ${whole ? value : `select(${type}(${identity}), ${value}, (at >= vec4u(begin)) & (at < vec4u(end)))`};
      total = ${combine('total', 'a')};
    }
    let xy = ${combine('total.x', 'total.y')};
    let zw = ${combine('total.z', 'total.w')};
    let reduced = teamReduce(${combine('xy', 'zw')}, lane);
    if (live && member == 0u) { output[cell] = ${reduction === 'sum' ? 'reduced * p.factor' : 'reduced'}; }
  }`,
  });
});

/**
 * How `spreadKernel` accesses memory.
 * - `columns`: `inner` is whole vec4s, and counts vec4s.
 * - `rows`: inner = 1, and n is whole vec4s or outer = 1; n counts vec4s.
 * - `scalar`: any sizes.
 */
export type SpreadForm = 'columns' | 'rows' | 'scalar';

/**
 * The gradient of a sum: [outer, inner] times `factor`, repeated to [outer, n, inner]. `count` counts elements of the
 * output.
 */
export const spreadKernel = kernelFamily((form: SpreadForm) => {
  const output = form === 'scalar' ? 'f32' : 'vec4f';
  const input = form === 'columns' ? 'vec4f' : 'f32';
  const index = form === 'rows' ? 'i / p.n' : 'i / (p.n * p.inner) * p.inner + i % p.inner';
  return defineKernel({
    name: `spread_f32_${form}`,
    workgroup: [64],
    params: { n: 'u32', inner: 'u32', count: 'u32', factor: 'f32' },
    buffers: { input: `read ${input}`, output: `write ${output}` },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  output[i] = ${output}(input[${index}] * p.factor);`,
  });
});

/**
 * The gradient of a maximum: `upstream` [outer, inner] where a value's position along n is `first` [outer, inner], else
 * 0.
 */
export const spreadToFirstKernel = kernelFamily(() =>
  defineKernel({
    name: 'spread_to_first_f32',
    workgroup: [64],
    params: { n: 'u32', inner: 'u32', count: 'u32' },
    buffers: { upstream: 'read f32', first: 'read u32', gradient: 'write f32' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let row = i / p.inner;
  let at = row / p.n * p.inner + i % p.inner;
  gradient[i] = select(0.0, upstream[at], first[at] == row % p.n);`,
  }),
);
