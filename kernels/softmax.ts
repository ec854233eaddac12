/**
 * Softmax over the middle axis of [outer, n, inner].
 * inner = 1: a team of lanes a row, in registers up to `MAX_SLOTS` elements a lane, in loops beyond.
 * inner > 1: a lane a column (or four), neighbours next to each other in memory.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { linearLoad, linearParams } from './linear.ts';
import { MAX_SLOTS, type Width } from './norm.ts';
import { teamOf, teamReduction, teamScope } from './reduce.ts';

export { MAX_SLOTS, type Width };

const TYPE = { 1: 'f32', 4: 'vec4f' } as const;
const ACCESS = { 1: 'scalar', 4: 'vec4' } as const;
/** What max starts from: the most negative finite number, so that no inf - inf arises. */
const LOWEST = '-3.402823466e38';
const sumOf = (width: Width, value: string): string => (width === 4 ? `dot(${value}, vec4f(1.0))` : `(${value})`);
const maxOf = (width: Width, value: string): string =>
  width === 4 ? `max(max(${value}.x, ${value}.y), max(${value}.z, ${value}.w))` : value;

const ROW_PARAMS = { rows: 'u32', columns: 'u32', per_team: 'u32' } as const;
const ROW = `
    let live = item * p.per_team + k < p.rows;
    let o = select(0u, (item * p.per_team + k) * p.columns, live);`;

/** Rows of `columns` elements of `width`; `slots` registers a lane (0: loops); `full`: columns = slots * lanes; `texture`: the input is a linear operand texture. */
export const softmaxRowsKernel = kernelFamily(
  (subgroupSize: number, width: Width, slots: number, full: boolean, texture: boolean) => {
    const team = teamOf(subgroupSize);
    const V = TYPE[width];
    const load = (e: string): string => linearLoad(texture, 'input', `(${e})`);
    const each = (f: (i: number, at: string, masked: boolean) => string): string =>
      Array.from({ length: slots }, (_, i) => f(i, `o + member + ${i * team.lanes}u`, !full && i === slots - 1)).join(
        '\n    ',
      );
    const all = (f: (i: number) => string, fold: (a: string, b: string) => string): string =>
      Array.from({ length: slots }, (_, i) => f(i)).reduce(fold);
    const registers = (): string => `
    ${each((i, at, masked) => `let x${i} = ${masked ? `select(${V}(${LOWEST}), ${load(at)}, last)` : load(at)};`)}
    let top = ${all(
      (i) => `x${i}`,
      (a, b) => `max(${a}, ${b})`,
    )};
    let most = teamMax(${maxOf(width, 'top')}, lane);
    ${each((i, _, masked) => `let e${i} = ${masked ? `select(${V}(), exp(x${i} - most), last)` : `exp(x${i} - most)`};`)}
    let factor = 1.0 / teamSum(${sumOf(
      width,
      all(
        (i) => `e${i}`,
        (a, b) => `${a} + ${b}`,
      ),
    )}, lane);
    ${each((i, at, masked) => `if (${masked ? 'live && last' : 'live'}) { output[${at}] = e${i} * factor; }`)}`;
    const step = `c < p.columns; c += ${team.lanes}u`;
    const loops = `
    var top = ${V}(${LOWEST});
    for (var c = member; ${step}) { top = max(top, ${load('o + c')}); }
    let most = teamMax(${maxOf(width, 'top')}, lane);
    var s = ${V}();
    for (var c = member; ${step}) { s += exp(${load('o + c')} - most); }
    let factor = 1.0 / teamSum(${sumOf(width, 's')}, lane);
    if (live) { for (var c = member; ${step}) { output[o + c] = exp(${load('o + c')} - most) * factor; } }`;
    return defineKernel<string, string>({
      name: `softmax_rows_f32_${team.label}_${ACCESS[width]}_${slots ? `x${slots}${full ? '' : '_masked'}` : 'loops'}${texture ? '_texture' : ''}`,
      workgroup: [team.lanes * team.count],
      subgroups: team.subgroups,
      params: { ...ROW_PARAMS, ...linearParams(texture, 'input') },
      buffers: { input: texture ? 'texture' : `read ${V}`, output: `write ${V}` },
      module: `${teamReduction(team, 'teamSum', 'f32', 'add')}\n${teamReduction(team, 'teamMax', 'f32', 'max')}`,
      body: `${teamScope(team)}
  ${full || slots === 0 ? '' : `let last = member + ${(slots - 1) * team.lanes}u < p.columns;`}
  for (var k = 0u; k < p.per_team; k++) {${ROW}${slots ? registers() : loops}
  }`,
    });
  },
);

/** gradient = y (u - sum(u y)) over rows. `textures`: y and u are linear operand textures. */
export const softmaxRowsGradientKernel = kernelFamily((subgroupSize: number, width: Width, textures: boolean) => {
  const team = teamOf(subgroupSize);
  const V = TYPE[width];
  const step = `c < p.columns; c += ${team.lanes}u`;
  const load = (name: string): string => linearLoad(textures, name, '(o + c)');
  return defineKernel<string, string>({
    name: `softmax_rows_gradient_f32_${team.label}_${ACCESS[width]}${textures ? '_texture' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { ...ROW_PARAMS, ...linearParams(textures, 'output', 'upstream') },
    buffers: {
      output: textures ? 'texture' : `read ${V}`,
      upstream: textures ? 'texture' : `read ${V}`,
      gradient: `write ${V}`,
    },
    module: teamReduction(team, 'teamSum', 'f32', 'add'),
    body: `${teamScope(team)}
  for (var k = 0u; k < p.per_team; k++) {${ROW}
    var s = ${V}();
    for (var c = member; ${step}) { s += ${load('output')} * ${load('upstream')}; }
    let total = teamSum(${sumOf(width, 's')}, lane);
    if (live) { for (var c = member; ${step}) { gradient[o + c] = ${load('output')} * (${load('upstream')} - total); } }
  }`,
  });
});

const COLUMN_PARAMS = { n: 'u32', inner: 'u32', lanes: 'u32' } as const;
const COLUMN = `
  let t = linearGroup * 64u + lane;
  if (t >= p.lanes) { return; }
  let first = t / p.inner * p.n * p.inner + t % p.inner;
  let end = first + p.n * p.inner;`;

/** Columns of n elements, `inner` apart (in elements of `width`); lanes = outer * inner. */
export const softmaxColumnsKernel = kernelFamily((width: Width) => {
  const V = TYPE[width];
  return defineKernel({
    name: `softmax_columns_f32_${ACCESS[width]}`,
    workgroup: [64],
    params: COLUMN_PARAMS,
    buffers: { input: `read ${V}`, output: `write ${V}` },
    body: `${COLUMN}
  var most = ${V}(${LOWEST});
  for (var i = first; i < end; i += p.inner) { most = max(most, input[i]); }
  var s = ${V}();
  for (var i = first; i < end; i += p.inner) { s += exp(input[i] - most); }
  let factor = 1.0 / s;
  for (var i = first; i < end; i += p.inner) { output[i] = exp(input[i] - most) * factor; }`,
  });
});

/** gradient = y (u - sum(u y)) over columns. */
export const softmaxColumnsGradientKernel = kernelFamily((width: Width) => {
  const V = TYPE[width];
  return defineKernel({
    name: `softmax_columns_gradient_f32_${ACCESS[width]}`,
    workgroup: [64],
    params: COLUMN_PARAMS,
    buffers: { output: `read ${V}`, upstream: `read ${V}`, gradient: `write ${V}` },
    body: `${COLUMN}
  var s = ${V}();
  for (var i = first; i < end; i += p.inner) { s += output[i] * upstream[i]; }
  for (var i = first; i < end; i += p.inner) { gradient[i] = output[i] * (upstream[i] - s); }`,
  });
});
