/**
 * Normalisation: layer norm by rows; group norm and frozen batch norm by channels of channels-last maps, with residual and ReLU fused.
 *
 * Layer norm: a team of lanes a row, the row in registers up to `MAX_SLOTS` elements a lane, in loops over memory beyond.
 * Channel norms: a lane keeps to one channel (or four) of one image and strides over pixels, so that a channel's coefficients are loaded once and
 * neighbouring lanes read neighbouring memory; nothing is exchanged, so one form serves every adapter.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { linearLoad, linearParams } from './linear.ts';
import { teamOf, teamReduction, teamScope } from './reduce.ts';

/** The most elements (vec4 or scalar) of a row that a lane holds in registers. */
export const MAX_SLOTS = 16;

export type Width = 1 | 4;
const TYPE = { 1: 'f32', 4: 'vec4f' } as const;
const ACCESS = { 1: 'scalar', 4: 'vec4' } as const;
const horizontal = (width: Width, value: string): string => (width === 4 ? `dot(${value}, vec4f(1.0))` : `(${value})`);

/** Registers of a lane that hold a row, as text. */
interface RowSlots {
  /** A statement for every register. */
  readonly each: (f: (i: number) => string) => string;
  /** `value`, or zero where register i lies beyond the row. */
  readonly masked: (i: number, value: string) => string;
  /** The place in the row that register i holds. */
  readonly column: (i: number) => string;
  /** Whether register i is to be written. */
  readonly ok: (i: number) => string;
}

/** The last register is masked unless the row fills it. */
function rowSlots(lanes: number, slots: number, full: boolean, zero: string): RowSlots {
  const indices = Array.from({ length: slots }, (_, i) => i);
  const isMasked = (i: number): boolean => !full && i === slots - 1;
  return {
    each: (f) => indices.map(f).join('\n'),
    masked: (i, value) => (isMasked(i) ? `select(${zero}, ${value}, last)` : value),
    column: (i) => `(member + ${i * lanes}u)`,
    ok: (i) => (isMasked(i) ? 'live && last' : 'live'),
  };
}

const sumOf = (slots: number, f: (i: number) => string): string =>
  Array.from({ length: slots }, (_, i) => f(i)).join(' + ');

/**
 * y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta) over rows; each team takes `per_team` rows in turn.
 * `columns` in elements of `width`; `slots` registers a lane (0: loops); `full`: columns = slots * lanes; `texture`: the input is a linear operand texture.
 */
export const layerNormKernel = kernelFamily(
  (subgroupSize: number, width: Width, slots: number, full: boolean, relu: boolean, texture: boolean) => {
    const team = teamOf(subgroupSize);
    const V = TYPE[width];
    const { each, masked, column, ok } = rowSlots(team.lanes, slots, full, `${V}()`);
    const load = (e: string): string => linearLoad(texture, 'input', `(${e})`);
    const act = (value: string): string => (relu ? `max(${value}, ${V}())` : value);
    const last = full || slots === 0 ? '' : `let last = ${column(slots - 1)} < p.columns;`;
    const registers = `
  ${last}
  ${each((i) => `let g${i} = gamma[${column(i)}]; let b${i} = beta[${column(i)}];`)}
  for (var k = 0u; k < p.per_team; k++) {
    let live = item * p.per_team + k < p.rows;
    let o = select(0u, (item * p.per_team + k) * p.columns, live);
    ${each((i) => `let x${i} = ${masked(i, load(`o + ${column(i)}`))};`)}
    let mean = teamSum(${horizontal(
      width,
      sumOf(slots, (i) => `x${i}`),
    )}, lane) * p.inverse;
    ${each((i) => `let d${i} = ${masked(i, `x${i} - mean`)};`)}
    let scale = inverseSqrt(teamSum(${horizontal(
      width,
      sumOf(slots, (i) => `d${i} * d${i}`),
    )}, lane) * p.inverse + p.epsilon);
    ${each((i) => `if (${ok(i)}) { output[o + ${column(i)}] = ${act(`d${i} * scale * g${i} + b${i}`)}; }`)}
  }`;
    const loops = `
  for (var k = 0u; k < p.per_team; k++) {
    let live = item * p.per_team + k < p.rows;
    let o = select(0u, (item * p.per_team + k) * p.columns, live);
    var s = ${V}();
    for (var c = member; c < p.columns; c += ${team.lanes}u) { s += ${load('o + c')}; }
    let mean = teamSum(${horizontal(width, 's')}, lane) * p.inverse;
    var v = ${V}();
    for (var c = member; c < p.columns; c += ${team.lanes}u) { let d = ${load('o + c')} - mean; v += d * d; }
    let scale = inverseSqrt(teamSum(${horizontal(width, 'v')}, lane) * p.inverse + p.epsilon);
    if (live) {
      for (var c = member; c < p.columns; c += ${team.lanes}u) { output[o + c] = ${act(`(${load('o + c')} - mean) * scale * gamma[c] + beta[c]`)}; }
    }
  }`;
    return defineKernel<string, string>({
      name: `layer_norm_f32_${team.label}_${ACCESS[width]}_${slots ? `x${slots}${full ? '' : '_masked'}` : 'loops'}${relu ? '_relu' : ''}${texture ? '_texture' : ''}`,
      workgroup: [team.lanes * team.count],
      subgroups: team.subgroups,
      params: {
        rows: 'u32',
        columns: 'u32',
        per_team: 'u32',
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
  },
);

/**
 * Gradient of layer norm by x, and each team's part of those by gamma and beta: partial [teams, 2, columns] (gamma first), rows in registers.
 * Statistics and the ReLU's mask are computed again from the row at hand: cheaper than loading them.
 */
export const layerNormGradientKernel = kernelFamily(
  (subgroupSize: number, width: Width, slots: number, full: boolean, relu: boolean) => {
    const team = teamOf(subgroupSize);
    const V = TYPE[width];
    const { each, masked, column, ok } = rowSlots(team.lanes, slots, full, `${V}()`);
    const B = width === 4 ? 'vec4<bool>' : 'bool';
    return defineKernel({
      name: `layer_norm_gradient_f32_${team.label}_${ACCESS[width]}_x${slots}${full ? '' : '_masked'}${relu ? '_relu' : ''}`,
      workgroup: [team.lanes * team.count],
      subgroups: team.subgroups,
      params: { rows: 'u32', columns: 'u32', per_team: 'u32', teams: 'u32', inverse: 'f32', epsilon: 'f32' },
      buffers: {
        input: `read ${V}`,
        gamma: `read ${V}`,
        beta: `read ${V}`,
        upstream: `read ${V}`,
        gradient: `write ${V}`,
        partial: `write ${V}`,
      },
      module: teamReduction(team, 'teamSum', 'f32', 'add') + '\n' + teamReduction(team, 'teamSums', 'vec2f', 'add'),
      body: `${teamScope(team)}
  ${full ? '' : `let last = ${column(slots - 1)} < p.columns;`}
  ${each((i) => `let g${i} = gamma[${column(i)}]; ${relu ? `let b${i} = beta[${column(i)}];` : ''} var dg${i} = ${V}(); var db${i} = ${V}();`)}
  for (var k = 0u; k < p.per_team; k++) {
    let live = item * p.per_team + k < p.rows;
    let o = select(0u, (item * p.per_team + k) * p.columns, live);
    ${each((i) => `let x${i} = ${masked(i, `input[o + ${column(i)}]`)};`)}
    let mean = teamSum(${horizontal(
      width,
      sumOf(slots, (i) => `x${i}`),
    )}, lane) * p.inverse;
    ${each((i) => `let d${i} = ${masked(i, `x${i} - mean`)};`)}
    let scale = inverseSqrt(teamSum(${horizontal(
      width,
      sumOf(slots, (i) => `d${i} * d${i}`),
    )}, lane) * p.inverse + p.epsilon);
    ${each(
      (i) => `let h${i} = d${i} * scale;
    let u${i} = select(${V}(), upstream[o + ${column(i)}], ${relu ? `(h${i} * g${i} + b${i} > ${V}()) & ` : ''}${B}(${ok(i)}));
    dg${i} += u${i} * h${i}; db${i} += u${i}; let a${i} = ${masked(i, `u${i} * g${i}`)};`,
    )}
    let first = ${horizontal(
      width,
      sumOf(slots, (i) => `a${i}`),
    )};
    let second = ${horizontal(
      width,
      sumOf(slots, (i) => `a${i} * h${i}`),
    )};
    let means = teamSums(vec2f(first, second), lane) * p.inverse;
    ${each((i) => `if (${ok(i)}) { gradient[o + ${column(i)}] = scale * (a${i} - means.x - h${i} * means.y); }`)}
  }
  let live = item < p.teams;
  let o = item * 2u * p.columns;
  ${each((i) => `if (${ok(i)}) { partial[o + ${column(i)}] = dg${i}; partial[o + p.columns + ${column(i)}] = db${i}; }`)}`,
    });
  },
);

/**
 * As `layerNormGradientKernel` for rows too wide for registers: the gradient by x, and each row's (mean, 1 / deviation) for the
 * columns' sums.
 */
export const layerNormWideGradientKernel = kernelFamily((subgroupSize: number, width: Width, relu: boolean) => {
  const team = teamOf(subgroupSize);
  const V = TYPE[width];
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
    module: teamReduction(team, 'teamSum', 'f32', 'add') + '\n' + teamReduction(team, 'teamSums', 'vec2f', 'add'),
    body: `${teamScope(team)}
  let live = item < p.rows;
  let o = select(0u, item * p.columns, live);
  var s = ${V}();
  for (var c = member; ${step}) { s += input[o + c]; }
  let mean = teamSum(${horizontal(width, 's')}, lane) * p.inverse;
  var v = ${V}();
  for (var c = member; ${step}) { let d = input[o + c] - mean; v += d * d; }
  let scale = inverseSqrt(teamSum(${horizontal(width, 'v')}, lane) * p.inverse + p.epsilon);
  var first = ${V}();
  var second = ${V}();
  for (var c = member; ${step}) {
    let h = (input[o + c] - mean) * scale;
    let a = ${masked} * gamma[c];
    first += a;
    second += a * h;
  }
  let means = teamSums(vec2f(${horizontal(width, 'first')}, ${horizontal(width, 'second')}), lane) * p.inverse;
  if (live) {
    for (var c = member; ${step}) {
      let h = (input[o + c] - mean) * scale;
      gradient[o + c] = scale * (${masked} * gamma[c] - means.x - h * means.y);
    }
    if (member == 0u) { statistics[item] = vec2f(mean, scale); }
  }`,
  });
});

/** Parts of the gradients by gamma and beta for wide rows, a lane a column and every `chunks`-th row: partial [chunks, 2, columns]. */
export const layerNormWideColumnsKernel = kernelFamily((width: Width, relu: boolean) => {
  const V = TYPE[width];
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
    let u = ${relu ? `select(${V}(), upstream[row * p.columns + c], h * g + b > ${V}())` : 'upstream[row * p.columns + c]'};
    dg += u * h;
    db += u;
  }
  partial[chunk * 2u * p.columns + c] = dg;
  partial[(chunk * 2u + 1u) * p.columns + c] = db;`,
  });
});

// ------------------------------------------------------------------ by channels: x [images, pixels, channels]
//
// Params in elements of `width`: columns = channels, length = pixels * columns, stride = chunks * columns, lanes = images * stride.
// Lane r of an image takes its elements r, r + stride, r + 2 stride, ...: always channel r % columns.
// `statistics` [images, 2, channels]: each channel's mean and 1 / deviation, those of its group.

const CHANNEL_PARAMS = { length: 'u32', stride: 'u32', columns: 'u32', lanes: 'u32' } as const;
const CHANNEL_SCOPE = `
  let t = linearGroup * 64u + lane;
  if (t >= p.lanes) { return; }
  let image = t / p.stride;
  let base = image * p.length;
  let r = t - image * p.stride;
  let c = r % p.columns;`;
const CHANNEL_STATISTICS = `
  let mean = statistics[image * 2u * p.columns + c];
  let scale = statistics[(image * 2u + 1u) * p.columns + c];`;

/**
 * WGSL that takes up the values `input[at(i)]`, for i from the variable `i` on, `stride` apart and below `end`, into their number `n`, `mean` and summed squared deviation
 * `square`. Eight values at a time are centred in registers and merged by Chan's formula: one pass over memory, without the cancellation of E[x^2] - E[x]^2.
 */
export function addMoments(stride: string, end: string, at: (i: string) => string): string {
  const block = Array.from({ length: 8 }, (_, j) => j);
  return `
  for (; i + 7u * ${stride} < ${end}; i += 8u * ${stride}) {
    ${block.map((j) => `let x${j} = input[${at(`(i + ${j}u * ${stride})`)}];`).join(' ')}
    let m = (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))) * 0.125;
    ${block.map((j) => `let d${j} = x${j} - m;`).join(' ')}
    let delta = m - mean;
    let weight = 8.0 / (n + 8.0);
    mean += delta * weight;
    square += ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)) + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7)) + delta * delta * (n * weight);
    n += 8.0;
  }
  for (; i < ${end}; i += ${stride}) {
    n += 1.0;
    let x = input[${at('i')}];
    let delta = x - mean;
    mean += delta / n;
    square += delta * (x - mean);
  }`;
}

/** Mean and summed squared deviation of each lane's values: [images, chunks, channels] twice. */
export const channelMomentsKernel = kernelFamily((width: Width) => {
  const V = TYPE[width];
  return defineKernel({
    name: `channel_moments_f32_${ACCESS[width]}`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: { input: `read ${V}`, means: `write ${V}`, squares: `write ${V}` },
    body: `${CHANNEL_SCOPE}
  var n = 0.0;
  var mean = ${V}();
  var square = ${V}();
  var i = r;
  ${addMoments('p.stride', 'p.length', (at) => `base + ${at}`)}
  means[t] = mean;
  squares[t] = square;`,
  });
});

/** Merges the moments of a group's channels and chunks, a team a group of an image (`items` of them), and writes `statistics`. */
export const groupStatisticsKernel = kernelFamily((subgroupSize: number) => {
  const team = teamOf(subgroupSize);
  const each = (statement: string): string => `
  for (var j = member; j < values; j += ${team.lanes}u) {
    let chunk = j / members;
    let n = f32(whole + select(0u, 1u, chunk < rest));
    let at = (image * p.chunks + chunk) * p.channels + first + j - chunk * members;
    ${statement}
  }`;
  return defineKernel({
    name: `group_statistics_f32_${team.label}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: {
      pixels: 'u32',
      channels: 'u32',
      groups: 'u32',
      chunks: 'u32',
      items: 'u32',
      inverse: 'f32',
      epsilon: 'f32',
    },
    buffers: { means: 'read f32', squares: 'read f32', statistics: 'write f32' },
    module: teamReduction(team, 'teamSum', 'f32', 'add'),
    body: `${teamScope(team)}
  let live = item < p.items;
  let image = select(0u, item / p.groups, live);
  let members = p.channels / p.groups;
  let first = item % p.groups * members;
  let values = p.chunks * members;
  // Pixels of a chunk: one more in the first ones.
  let whole = p.pixels / p.chunks;
  let rest = p.pixels - whole * p.chunks;
  var sum = 0.0;
  ${each('sum += n * means[at];')}
  let mean = teamSum(sum, lane) * p.inverse;
  var square = 0.0;
  ${each('let d = means[at] - mean; square += squares[at] + n * d * d;')}
  let scale = inverseSqrt(teamSum(square, lane) * p.inverse + p.epsilon);
  if (live) {
    for (var c = first + member; c < first + members; c += ${team.lanes}u) {
      statistics[image * 2u * p.channels + c] = mean;
      statistics[(image * 2u + 1u) * p.channels + c] = scale;
    }
  }`,
  });
});

/**
 * y = act(x * gamma + beta + residual), x normalised by `statistics` first if `normalise`; `statistics` and `residual` are read only
 * where the form asks for them.
 */
export const channelAffineKernel = kernelFamily(
  (width: Width, normalise: boolean, residual: boolean, relu: boolean) => {
    const V = TYPE[width];
    const centred = normalise ? '(input[base + i] - mean)' : 'input[base + i]';
    const value = `${centred} * factor + shift${residual ? ' + residual[base + i]' : ''}`;
    return defineKernel({
      name: `channel_affine_f32_${ACCESS[width]}${normalise ? '_normalise' : ''}${residual ? '_residual' : ''}${relu ? '_relu' : ''}`,
      workgroup: [64],
      params: CHANNEL_PARAMS,
      buffers: {
        input: `read ${V}`,
        statistics: `read ${V}`,
        gamma: `read ${V}`,
        beta: `read ${V}`,
        residual: `read ${V}`,
        output: `write ${V}`,
      },
      body: `${CHANNEL_SCOPE}${normalise ? CHANNEL_STATISTICS : ''}
  let factor = gamma[c]${normalise ? ' * scale' : ''};
  let shift = beta[c];
  for (var i = r; i < p.length; i += p.stride) { output[base + i] = ${relu ? `max(${value}, ${V}())` : value}; }`,
    });
  },
);

const maskedUpstream = (width: Width, relu: boolean): string =>
  relu ? `select(${TYPE[width]}(), upstream[base + i], output[base + i] > ${TYPE[width]}())` : 'upstream[base + i]';

/**
 * Each lane's sums of u and of u x (x normalised if `normalise`), u being the upstream gradient where the ReLU let through:
 * partial [images, chunks, 2, channels].
 */
export const channelGradientSumsKernel = kernelFamily((width: Width, normalise: boolean, relu: boolean) => {
  const V = TYPE[width];
  return defineKernel({
    name: `channel_gradient_sums_f32_${ACCESS[width]}${normalise ? '_normalise' : ''}${relu ? '_relu' : ''}`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: {
      input: `read ${V}`,
      output: `read ${V}`,
      upstream: `read ${V}`,
      statistics: `read ${V}`,
      partial: `write ${V}`,
    },
    body: `${CHANNEL_SCOPE}${normalise ? CHANNEL_STATISTICS : ''}
  var first = ${V}();
  var second = ${V}();
  for (var i = r; i < p.length; i += p.stride) {
    let u = ${maskedUpstream(width, relu)};
    first += u;
    second += u * ${normalise ? '((input[base + i] - mean) * scale)' : 'input[base + i]'};
  }
  let o = t / p.columns * 2u * p.columns + c;
  partial[o] = first;
  partial[o + p.columns] = second;`,
  });
});

/**
 * Adds the chunks of `partial` into `sums` [images, 2, channels], and writes `means` [images, 2, channels]: the means over a group's
 * values of gamma u and of gamma u x. A team a group of an image.
 */
export const groupGradientKernel = kernelFamily((subgroupSize: number) => {
  const team = teamOf(subgroupSize);
  return defineKernel({
    name: `group_norm_gradient_means_f32_${team.label}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { channels: 'u32', groups: 'u32', chunks: 'u32', items: 'u32', inverse: 'f32' },
    buffers: { partial: 'read f32', gamma: 'read f32', sums: 'write f32', means: 'write f32' },
    module: teamReduction(team, 'teamSums', 'vec2f', 'add'),
    body: `${teamScope(team)}
  let live = item < p.items;
  let image = select(0u, item / p.groups, live);
  let members = p.channels / p.groups;
  let first = item % p.groups * members;
  let o = image * 2u * p.channels;
  var total = vec2f();
  for (var c = first + member; c < first + members; c += ${team.lanes}u) {
    var s = vec2f();
    for (var chunk = 0u; chunk < p.chunks; chunk++) {
      let at = (image * p.chunks + chunk) * 2u * p.channels + c;
      s += vec2f(partial[at], partial[at + p.channels]);
    }
    if (live) { sums[o + c] = s.x; sums[o + p.channels + c] = s.y; }
    total += s * gamma[c];
  }
  let mean = teamSums(total, lane) * p.inverse;
  if (!live) { return; }
  for (var c = first + member; c < first + members; c += ${team.lanes}u) { means[o + c] = mean.x; means[o + p.channels + c] = mean.y; }`,
  });
});

const GROUP_GRADIENT = `
  let factor = gamma[c];
  let first = means[image * 2u * p.columns + c];
  let second = means[(image * 2u + 1u) * p.columns + c];`;
const GROUP_GRADIENT_VALUE = 'scale * (factor * u - first - (input[base + i] - mean) * scale * second)';

/** Gradient of group norm by x. */
export const groupNormGradientKernel = kernelFamily((width: Width, relu: boolean) => {
  const V = TYPE[width];
  return defineKernel({
    name: `group_norm_gradient_f32_${ACCESS[width]}${relu ? '_relu' : ''}`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: {
      input: `read ${V}`,
      output: `read ${V}`,
      upstream: `read ${V}`,
      statistics: `read ${V}`,
      gamma: `read ${V}`,
      means: `read ${V}`,
      gradient: `write ${V}`,
    },
    body: `${CHANNEL_SCOPE}${CHANNEL_STATISTICS}${GROUP_GRADIENT}
  for (var i = r; i < p.length; i += p.stride) {
    let u = ${maskedUpstream(width, relu)};
    gradient[base + i] = ${GROUP_GRADIENT_VALUE};
  }`,
  });
});

/** Gradients of relu(group norm + residual) by x and by the residual. */
export const groupNormResidualGradientKernel = kernelFamily((width: Width) => {
  const V = TYPE[width];
  return defineKernel({
    name: `group_norm_residual_gradient_f32_${ACCESS[width]}_relu`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: {
      input: `read ${V}`,
      output: `read ${V}`,
      upstream: `read ${V}`,
      statistics: `read ${V}`,
      gamma: `read ${V}`,
      means: `read ${V}`,
      gradient: `write ${V}`,
      residualGradient: `write ${V}`,
    },
    body: `${CHANNEL_SCOPE}${CHANNEL_STATISTICS}${GROUP_GRADIENT}
  for (var i = r; i < p.length; i += p.stride) {
    let u = ${maskedUpstream(width, true)};
    residualGradient[base + i] = u;
    gradient[base + i] = ${GROUP_GRADIENT_VALUE};
  }`,
  });
});

/** Gradient of act(x * scale + shift) by x. */
export const scaleShiftGradientKernel = kernelFamily((width: Width, relu: boolean) => {
  const V = TYPE[width];
  return defineKernel({
    name: `scale_shift_gradient_f32_${ACCESS[width]}${relu ? '_relu' : ''}`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: { output: `read ${V}`, upstream: `read ${V}`, scale: `read ${V}`, gradient: `write ${V}` },
    body: `${CHANNEL_SCOPE}
  let factor = scale[c];
  for (var i = r; i < p.length; i += p.stride) { gradient[base + i] = ${maskedUpstream(width, relu)} * factor; }`,
  });
});

/** Gradients of relu(x * scale + shift + residual) by x and by the residual. */
export const scaleShiftResidualGradientKernel = kernelFamily((width: Width) => {
  const V = TYPE[width];
  return defineKernel({
    name: `scale_shift_residual_gradient_f32_${ACCESS[width]}_relu`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: {
      output: `read ${V}`,
      upstream: `read ${V}`,
      scale: `read ${V}`,
      gradient: `write ${V}`,
      residualGradient: `write ${V}`,
    },
    body: `${CHANNEL_SCOPE}
  let factor = scale[c];
  for (var i = r; i < p.length; i += p.stride) {
    let u = ${maskedUpstream(width, true)};
    residualGradient[base + i] = u;
    gradient[base + i] = u * factor;
  }`,
  });
});
