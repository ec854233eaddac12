/**
 * Softmax over the middle axis of [outer, n, inner], and its gradient.
 *
 * inner = 1: a team of lanes handles each row. Up to `MAX_SLOTS` elements per lane the row is held in registers; beyond
 * that the lanes loop over memory.
 * inner > 1: an invocation handles one column (or four). Neighboring invocations read neighboring memory.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { linearLoad, linearParams } from './linear.ts';
import { range } from './repeat.ts';
import {
  ACCESS,
  ELEMENT,
  rowLabel,
  sumOfElement,
  teamOf,
  teamReduction,
  teamScope,
  type RowForm,
  type Width,
} from './teams.ts';

/** Start value of a maximum: the largest negative finite number, so that inf - inf cannot arise. */
const LOWEST = '-3.402823466e38';
/** WGSL of the maximum of an element's values. */
const maxOfElement = (width: Width, value: string): string =>
  width === 4 ? `max(max(${value}.x, ${value}.y), max(${value}.z, ${value}.w))` : value;

const ROW_PARAMS = { rows: 'u32', columns: 'u32', perTeam: 'u32' } as const;
const ROW = `
    let live = item * p.perTeam + k < p.rows;
    let o = select(0u, (item * p.perTeam + k) * p.columns, live);`;

type ForwardForm = RowForm & {
  /** Whether the input is a linear operand texture. */
  readonly texture: boolean;
};

/** Softmax of rows of `columns` elements of `width` values. Each team handles `perTeam` rows in turn. */
export const softmaxRowsKernel = kernelFamily((form: ForwardForm) => {
  const { width, slots, full, texture } = form;
  const team = teamOf(form.subgroupSize);
  const V = ELEMENT[width];
  const load = (e: string): string => linearLoad(texture, 'input', `(${e})`);
  const isMasked = (i: number): boolean => !full && i === slots - 1;
  const at = (i: number): string => `o + member + ${i * team.lanes}u`;
  const each = (f: (i: number) => string): string => range(slots).map(f).join('\n    ');
  const lowest = `${V}(${LOWEST})`;
  const registers = (): string => `
    ${each((i) => `let x${i} = ${isMasked(i) ? `select(${lowest}, ${load(at(i))}, last)` : load(at(i))};`)}
    let top = ${range(slots)
      .map((i) => `x${i}`)
      .reduce((a, b) => `max(${a}, ${b})`)};
    let largest = teamMax(${maxOfElement(width, 'top')}, lane);
    ${each((i) => {
      const power = `exp(x${i} - largest)`;
      return `let e${i} = ${isMasked(i) ? `select(${V}(), ${power}, last)` : power};`;
    })}
    let total = ${range(slots)
      .map((i) => `e${i}`)
      .join(' + ')};
    let factor = 1.0 / teamSum(${sumOfElement(width, 'total')}, lane);
    ${each((i) => `if (${isMasked(i) ? 'live && last' : 'live'}) { output[${at(i)}] = e${i} * factor; }`)}`;
  const step = `c < p.columns; c += ${team.lanes}u`;
  const loops = `
    var top = ${lowest};
    for (var c = member; ${step}) { top = max(top, ${load('o + c')}); }
    let largest = teamMax(${maxOfElement(width, 'top')}, lane);
    var s = ${V}();
    for (var c = member; ${step}) { s += exp(${load('o + c')} - largest); }
    let factor = 1.0 / teamSum(${sumOfElement(width, 's')}, lane);
    if (live) { for (var c = member; ${step}) { output[o + c] = exp(${load('o + c')} - largest) * factor; } }`;
  return defineKernel<string, string>({
    name: `softmax_rows_f32_${rowLabel(form)}${texture ? '_texture' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { ...ROW_PARAMS, ...linearParams(texture, 'input') },
    buffers: { input: texture ? 'texture' : `read ${V}`, output: `write ${V}` },
    module: `${teamReduction(team, 'teamSum', 'f32', 'add')}\n${teamReduction(team, 'teamMax', 'f32', 'max')}`,
    body: `${teamScope(team)}
  ${full || slots === 0 ? '' : `let last = member + ${(slots - 1) * team.lanes}u < p.columns;`}
  for (var k = 0u; k < p.perTeam; k++) {${ROW}${slots ? registers() : loops}
  }`,
  });
});

/**
 * gradient = y (u - sum(u y)) over rows, where y is the output and u the upstream gradient.
 * `textures`: y and u are linear operand textures.
 */
export const softmaxRowsGradientKernel = kernelFamily((subgroupSize: number, width: Width, textures: boolean) => {
  const team = teamOf(subgroupSize);
  const V = ELEMENT[width];
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
  for (var k = 0u; k < p.perTeam; k++) {${ROW}
    var s = ${V}();
    for (var c = member; ${step}) { s += ${load('output')} * ${load('upstream')}; }
    let total = teamSum(${sumOfElement(width, 's')}, lane);
    if (live) {
      for (var c = member; ${step}) { gradient[o + c] = ${load('output')} * (${load('upstream')} - total); }
    }
  }`,
  });
});

const COLUMN_PARAMS = { n: 'u32', inner: 'u32', lanes: 'u32' } as const;
const COLUMN = `
  let t = linearGroup * 64u + lane;
  if (t >= p.lanes) { return; }
  let first = t / p.inner * p.n * p.inner + t % p.inner;
  let end = first + p.n * p.inner;`;

/**
 * Softmax of columns of n elements with stride `inner`, which counts elements of `width` values. lanes = outer * inner.
 */
export const softmaxColumnsKernel = kernelFamily((width: Width) => {
  const V = ELEMENT[width];
  return defineKernel({
    name: `softmax_columns_f32_${ACCESS[width]}`,
    workgroup: [64],
    params: COLUMN_PARAMS,
    buffers: { input: `read ${V}`, output: `write ${V}` },
    body: `${COLUMN}
  var largest = ${V}(${LOWEST});
  for (var i = first; i < end; i += p.inner) { largest = max(largest, input[i]); }
  var s = ${V}();
  for (var i = first; i < end; i += p.inner) { s += exp(input[i] - largest); }
  let factor = 1.0 / s;
  for (var i = first; i < end; i += p.inner) { output[i] = exp(input[i] - largest) * factor; }`,
  });
});

/** gradient = y (u - sum(u y)) over columns. */
export const softmaxColumnsGradientKernel = kernelFamily((width: Width) => {
  const V = ELEMENT[width];
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
