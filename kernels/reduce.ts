/**
 * Sums, maxima and first positions over one axis of a tensor seen as [outer, n, inner], and the rows that norms and softmax share.
 *
 * inner = 1: a team of lanes a row. inner > 1: a lane a column, neighbours next to each other in memory, so that nothing is exchanged.
 * Long reductions with few outputs are cut into chunks: the same kernel runs again over what the chunks gave. The order of every sum is fixed.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { withinSubgroup, type SubgroupFunction } from './subgroups.ts';

/** Lanes that work on one row together: a subgroup that is the whole workgroup, or eight lanes that meet in workgroup memory. */
export interface Team {
  readonly lanes: number;
  /** Teams in a workgroup. */
  readonly count: number;
  readonly subgroups: boolean;
  /** Part of a kernel's name. */
  readonly label: string;
}

/** @param subgroupSize lanes of a subgroup, 0 where there are none to rely on */
export function teamOf(subgroupSize: number): Team {
  return subgroupSize > 0
    ? { lanes: subgroupSize, count: 1, subgroups: true, label: `sg${subgroupSize}` }
    : { lanes: 8, count: 8, subgroups: false, label: 'team8' };
}

const COMBINE = { add: 'a + b', max: 'max(a, b)', min: 'min(a, b)' } as const;

/**
 * WGSL of `name(value, lane)`: the sum, maximum or minimum over the lanes of a team, given to all of them. To be called in uniform control flow.
 * Without subgroups every lane reads its team's values in turn: fewer barriers than a tree, and the same order for all lanes.
 */
export function teamReduction(team: Team, name: string, type: 'f32' | 'vec2f' | 'u32', f: SubgroupFunction): string {
  if (team.subgroups)
    return `fn ${name}(value: ${type}, lane: u32) -> ${type} { return ${withinSubgroup(team.lanes, 'value', f)}; }`;
  return `
var<workgroup> ${name}Exchange: array<${type}, ${team.lanes * team.count}>;
fn ${name}(value: ${type}, lane: u32) -> ${type} {
  ${name}Exchange[lane] = value;
  workgroupBarrier();
  let first = lane - lane % ${team.lanes}u;
  var a = ${name}Exchange[first];
  for (var i = 1u; i < ${team.lanes}u; i++) { let b = ${name}Exchange[first + i]; a = ${COMBINE[f]}; }
  workgroupBarrier();
  return a;
}`;
}

/** WGSL that puts `member` (the lane's place in its team) and `item` (the team's number in the grid) in scope. */
export function teamScope(team: Team): string {
  return `
  let member = lane % ${team.lanes}u;
  let item = linearGroup * ${team.count}u + lane / ${team.lanes}u;`;
}

/**
 * sum; max; first: the least position along the axis where the input equals `extreme` ([outer, inner], u32 result, 0xffffffff for none);
 * least: minimum of u32, the second stage of `first`.
 */
export type Reduction = 'sum' | 'max' | 'first' | 'least';

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
  least: {
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

/** The loop of a lane over its column, four loads at a time: leaves the result in `total`. */
function columnLoop(reduction: Reduction, width: 1 | 4): ColumnLoop {
  const { element, result, identity, combine } = REDUCTIONS[reduction];
  const vector = { f32: 'vec4f', u32: 'vec4u' } as const;
  const type = width === 4 ? vector[result] : result;
  const value = (at: string): string =>
    reduction === 'first'
      ? `select(${type}(0xffffffffu), ${type}((${at}) / p.inner), input[base + ${at}] == wanted)`
      : `input[base + ${at}]`;
  return {
    input: `read ${width === 4 ? vector[element] : element}`,
    output: `write ${type}`,
    text: `
  let t = linearGroup * 64u + lane;
  if (t >= p.lanes) { return; }
  let base = t / p.stride * p.length;
  var i = t % p.stride;
  ${reduction === 'first' ? 'let wanted = extreme[t / p.stride * p.inner + i % p.inner];' : ''}
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
 * A lane a column: [outer, n, inner] to [outer, chunks, inner], lane r of an outer index taking elements r, r + stride, r + 2 stride, ...
 * where stride = chunks * inner is a multiple of inner.
 *
 * Params in elements of `width` values: length = n * inner, stride, inner, lanes = outer * stride.
 * `factor` multiplies sums; it is -infinity for max.
 * `extreme` [outer, inner] is read by `first` only.
 */
export const columnReduceKernel = kernelFamily((reduction: Reduction, width: 1 | 4) => {
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

/** As `columnReduceKernel` for sums with outer = chunks = 1, but the first half of the columns goes to `output` and the second to `other`. */
export const columnSumPairKernel = kernelFamily((width: 1 | 4) => {
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
 * A team a row: [rows, n] to [rows, chunks], chunk c taking elements c * chunk_length up to (c + 1) * chunk_length of its row.
 * `items` = rows * chunks, `per_team` of them in turn by each team. Loads are whole vec4s, masked where a row does not start or end on one; `whole`: n is a multiple of 4.
 * `extreme` [rows] is read by `first` only.
 */
export const rowReduceKernel = kernelFamily((reduction: Reduction, subgroupSize: number, whole: boolean) => {
  const { element, result, identity, combine, team: f } = REDUCTIONS[reduction];
  const team = teamOf(subgroupSize);
  const input = element === 'f32' ? 'vec4f' : 'vec4u';
  const type = result === 'f32' ? 'vec4f' : 'vec4u';
  const value = reduction === 'first' ? `select(${type}(0xffffffffu), at - row * p.n, input[i] == wanted)` : 'input[i]';
  return defineKernel({
    name: `reduce_${reduction}_rows_${team.label}${whole ? '_vec4' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { n: 'u32', chunks: 'u32', chunk_length: 'u32', items: 'u32', per_team: 'u32', factor: 'f32' },
    buffers: { input: `read ${input}`, extreme: `read ${element}`, output: `write ${result}` },
    module: teamReduction(team, 'teamReduce', result, f),
    body: `${teamScope(team)}
  for (var k = 0u; k < p.per_team; k++) {
    let cell = item * p.per_team + k;
    let live = cell < p.items;
    let row = select(0u, cell / p.chunks, live);
    let begin = row * p.n + cell % p.chunks * p.chunk_length;
    let end = select(begin, min(begin + p.chunk_length, row * p.n + p.n), live);
    ${reduction === 'first' ? `let wanted = ${input}(extreme[row]);` : ''}
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

/** How `spreadKernel` accesses memory: columns: inner in whole vec4s; rows: inner = 1, n in whole vec4s (or outer = 1); scalar: any. */
export type SpreadForm = 'columns' | 'rows' | 'scalar';

/** The gradient of a sum: [outer, inner] times `factor`, repeated to [outer, n, inner]. Params in whole vec4s where the form has them. */
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

/** The gradient of a maximum: `upstream` [outer, inner] where a value's position along n is `first` [outer, inner], else 0. */
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
