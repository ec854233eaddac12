/**
 * Layer normalization of rows, with ReLU fused, and its gradients.
 *
 * A team of lanes handles each row. Up to `MAX_SLOTS` elements per lane the row is held in registers; beyond that the
 * lanes loop over memory.
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

/** WGSL fragments for the registers of a lane that hold a row. */
interface RowSlots {
  /** One statement per register. */
  readonly each: (f: (i: number) => string) => string;
  /** The sum over the registers, as one f32. */
  readonly sum: (f: (i: number) => string) => string;
  /** `value`, or zero where register i lies beyond the row. */
  readonly masked: (i: number, value: string) => string;
  /** The column that register i holds. */
  readonly column: (i: number) => string;
  /** Whether the value of register i belongs to a row and is stored. */
  readonly stored: (i: number) => string;
}

/** Only the last register needs a mask, unless the row fills it. */
function rowSlots({ subgroupSize, width, slots, full }: RowForm): RowSlots {
  const { lanes } = teamOf(subgroupSize);
  const indices = range(slots);
  const isMasked = (i: number): boolean => !full && i === slots - 1;
  return {
    each: (f) => indices.map(f).join('\n'),
    sum: (f) => sumOfElement(width, indices.map(f).join(' + ')),
    masked: (i, value) => (isMasked(i) ? `select(${ELEMENT[width]}(), ${value}, last)` : value),
    column: (i) => `(member + ${i * lanes}u)`,
    stored: (i) => (isMasked(i) ? 'live && last' : 'live'),
  };
}

type ForwardForm = RowForm & {
  readonly relu: boolean;
  /** Whether the input is a linear operand texture. */
  readonly texture: boolean;
};

/**
 * y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta) over rows. Each team handles `perTeam` rows in turn.
 * `columns` counts elements of `width` values.
 */
export const layerNormKernel = kernelFamily((form: ForwardForm) => {
  const { width, slots, full, relu, texture } = form;
  const team = teamOf(form.subgroupSize);
  const V = ELEMENT[width];
  const { each, sum, masked, column, stored } = rowSlots(form);
  const load = (e: string): string => linearLoad(texture, 'input', `(${e})`);
  const normalized = `(${load('o + c')} - mean) * scale * gamma[c] + beta[c]`;
  const act = (value: string): string => (relu ? `max(${value}, ${V}())` : value);
  const last = full || slots === 0 ? '' : `let last = ${column(slots - 1)} < p.columns;`;
  const registers = `
  ${last}
  ${each((i) => `let g${i} = gamma[${column(i)}]; let b${i} = beta[${column(i)}];`)}
  for (var k = 0u; k < p.perTeam; k++) {
    let live = item * p.perTeam + k < p.rows;
    let o = select(0u, (item * p.perTeam + k) * p.columns, live);
    ${each((i) => `let x${i} = ${masked(i, load(`o + ${column(i)}`))};`)}
    let mean = teamSum(${sum((i) => `x${i}`)}, lane) * p.inverse;
    ${each((i) => `let d${i} = ${masked(i, `x${i} - mean`)};`)}
    let scale = inverseSqrt(teamSum(${sum((i) => `d${i} * d${i}`)}, lane) * p.inverse + p.epsilon);
    ${each((i) => `if (${stored(i)}) { output[o + ${column(i)}] = ${act(`d${i} * scale * g${i} + b${i}`)}; }`)}
  }`;
  const step = `c < p.columns; c += ${team.lanes}u`;
  const loops = `
  for (var k = 0u; k < p.perTeam; k++) {
    let live = item * p.perTeam + k < p.rows;
    let o = select(0u, (item * p.perTeam + k) * p.columns, live);
    var s = ${V}();
    for (var c = member; ${step}) { s += ${load('o + c')}; }
    let mean = teamSum(${sumOfElement(width, 's')}, lane) * p.inverse;
    var v = ${V}();
    for (var c = member; ${step}) { let d = ${load('o + c')} - mean; v += d * d; }
    let scale = inverseSqrt(teamSum(${sumOfElement(width, 'v')}, lane) * p.inverse + p.epsilon);
    if (live) {
      for (var c = member; ${step}) { output[o + c] = ${act(normalized)}; }
    }
  }`;
  return defineKernel<string, string>({
    name: `layer_norm_f32_${rowLabel(form)}${relu ? '_relu' : ''}${texture ? '_texture' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: {
      rows: 'u32',
      columns: 'u32',
      perTeam: 'u32',
      inverse: 'f32',
      epsilon: 'f32',
      ...linearParams(texture, 'input'),
    },
    buffers: {
      input: texture ? 'texture' : `read ${V}`,
      gamma: `read ${V}`,
      beta: `read ${V}`,
      output: `write ${V}`,
    },
    module: teamReduction(team, 'teamSum', 'f32', 'add'),
    body: `${teamScope(team)}${slots ? registers : loops}`,
  });
});

/**
 * Gradient of layer norm with respect to x, for rows in registers. It also writes each team's part of the gradients
 * with respect to gamma and beta: partial [teams, 2, columns], gamma first.
 * Statistics and the ReLU's mask are computed again from the row, which is cheaper than loading them.
 */
export const layerNormGradientKernel = kernelFamily((form: RowForm & { readonly relu: boolean }) => {
  const { width, slots, full, relu } = form;
  const team = teamOf(form.subgroupSize);
  const V = ELEMENT[width];
  const { each, sum, masked, column, stored } = rowSlots(form);
  const bool = width === 4 ? 'vec4<bool>' : 'bool';
  const passed = (i: number): string => `${relu ? `(h${i} * g${i} + b${i} > ${V}()) & ` : ''}${bool}(${stored(i)})`;
  return defineKernel({
    name: `layer_norm_gradient_f32_${rowLabel(form)}${relu ? '_relu' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { rows: 'u32', columns: 'u32', perTeam: 'u32', teams: 'u32', inverse: 'f32', epsilon: 'f32' },
    buffers: {
      input: `read ${V}`,
      gamma: `read ${V}`,
      beta: `read ${V}`,
      upstream: `read ${V}`,
      gradient: `write ${V}`,
      partial: `write ${V}`,
    },
    module: `${teamReduction(team, 'teamSum', 'f32', 'add')}\n${teamReduction(team, 'teamSums', 'vec2f', 'add')}`,
    body: `${teamScope(team)}
  ${full ? '' : `let last = ${column(slots - 1)} < p.columns;`}
  ${each((i) =>
    [
      `let g${i} = gamma[${column(i)}];`,
      relu ? `let b${i} = beta[${column(i)}];` : '',
      `var dg${i} = ${V}(); var db${i} = ${V}();`,
    ].join(' '),
  )}
  for (var k = 0u; k < p.perTeam; k++) {
    let live = item * p.perTeam + k < p.rows;
    let o = select(0u, (item * p.perTeam + k) * p.columns, live);
    ${each((i) => `let x${i} = ${masked(i, `input[o + ${column(i)}]`)};`)}
    let mean = teamSum(${sum((i) => `x${i}`)}, lane) * p.inverse;
    ${each((i) => `let d${i} = ${masked(i, `x${i} - mean`)};`)}
    let scale = inverseSqrt(teamSum(${sum((i) => `d${i} * d${i}`)}, lane) * p.inverse + p.epsilon);
    ${each(
      (i) => `let h${i} = d${i} * scale;
    let u${i} = select(${V}(), upstream[o + ${column(i)}], ${passed(i)});
    dg${i} += u${i} * h${i}; db${i} += u${i}; let a${i} = ${masked(i, `u${i} * g${i}`)};`,
    )}
    let first = ${sum((i) => `a${i}`)};
    let second = ${sum((i) => `a${i} * h${i}`)};
    let means = teamSums(vec2f(first, second), lane) * p.inverse;
    ${each((i) => `if (${stored(i)}) { gradient[o + ${column(i)}] = scale * (a${i} - means.x - h${i} * means.y); }`)}
  }
  let live = item < p.teams;
  let o = item * 2u * p.columns;
  ${each(
    (i) => `if (${stored(i)}) { partial[o + ${column(i)}] = dg${i}; partial[o + p.columns + ${column(i)}] = db${i}; }`,
  )}`,
  });
});

/**
 * The gradient with respect to x for rows that are too wide for registers. It also writes each row's
 * (mean, 1 / standard deviation), which `layerNormWideColumnsKernel` reads.
 */
export const layerNormWideGradientKernel = kernelFamily((subgroupSize: number, width: Width, relu: boolean) => {
  const team = teamOf(subgroupSize);
  const V = ELEMENT[width];
  const masked = relu ? `select(${V}(), upstream[o + c], h * gamma[c] + beta[c] > ${V}())` : 'upstream[o + c]';
  const step = `c < p.columns; c += ${team.lanes}u`;
  return defineKernel({
    name: `layer_norm_gradient_f32_${team.label}_${ACCESS[width]}_loops${relu ? '_relu' : ''}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { rows: 'u32', columns: 'u32', inverse: 'f32', epsilon: 'f32' },
    buffers: {
      input: `read ${V}`,
      gamma: `read ${V}`,
      beta: `read ${V}`,
      upstream: `read ${V}`,
      gradient: `write ${V}`,
      statistics: 'write vec2f',
    },
    module: `${teamReduction(team, 'teamSum', 'f32', 'add')}\n${teamReduction(team, 'teamSums', 'vec2f', 'add')}`,
    body: `${teamScope(team)}
  let live = item < p.rows;
  let o = select(0u, item * p.columns, live);
  var s = ${V}();
  for (var c = member; ${step}) { s += input[o + c]; }
  let mean = teamSum(${sumOfElement(width, 's')}, lane) * p.inverse;
  var v = ${V}();
  for (var c = member; ${step}) { let d = input[o + c] - mean; v += d * d; }
  let scale = inverseSqrt(teamSum(${sumOfElement(width, 'v')}, lane) * p.inverse + p.epsilon);
  var first = ${V}();
  var second = ${V}();
  for (var c = member; ${step}) {
    let h = (input[o + c] - mean) * scale;
    let a = ${masked} * gamma[c];
    first += a;
    second += a * h;
  }
  let means = teamSums(vec2f(${sumOfElement(width, 'first')}, ${sumOfElement(width, 'second')}), lane) * p.inverse;
  if (live) {
    for (var c = member; ${step}) {
      let h = (input[o + c] - mean) * scale;
      gradient[o + c] = scale * (${masked} * gamma[c] - means.x - h * means.y);
    }
    if (member == 0u) { statistics[item] = vec2f(mean, scale); }
  }`,
  });
});

/**
 * Parts of the gradients with respect to gamma and beta for wide rows: partial [chunks, 2, columns].
 * Each invocation handles one column of every `chunks`-th row.
 */
export const layerNormWideColumnsKernel = kernelFamily((width: Width, relu: boolean) => {
  const V = ELEMENT[width];
  const upstream = 'upstream[row * p.columns + c]';
  return defineKernel({
    name: `layer_norm_gradient_columns_f32_${ACCESS[width]}${relu ? '_relu' : ''}`,
    workgroup: [64],
    params: { rows: 'u32', columns: 'u32', chunks: 'u32' },
    buffers: {
      input: `read ${V}`,
      gamma: `read ${V}`,
      beta: `read ${V}`,
      upstream: `read ${V}`,
      statistics: 'read vec2f',
      partial: `write ${V}`,
    },
    body: `
  let t = linearGroup * 64u + lane;
  if (t >= p.chunks * p.columns) { return; }
  let chunk = t / p.columns;
  let c = t % p.columns;
  ${relu ? 'let g = gamma[c];\n  let b = beta[c];' : ''}
  var dg = ${V}();
  var db = ${V}();
  for (var row = chunk; row < p.rows; row += p.chunks) {
    let s = statistics[row];
    let h = (input[row * p.columns + c] - s.x) * s.y;
    let u = ${relu ? `select(${V}(), ${upstream}, h * g + b > ${V}())` : upstream};
    dg += u * h;
    db += u;
  }
  partial[chunk * 2u * p.columns + c] = dg;
  partial[(chunk * 2u + 1u) * p.columns + c] = db;`,
  });
});
