/**
 * Group normalization of channels-last maps [images, pixels, channels]: statistics, sums of the gradient, and
 * gradients.
 *
 * There are two ways to compute statistics and gradient sums:
 * - in chunks of pixels, which a second dispatch merges;
 * - in one dispatch, where a subgroup handles one group of one image and its lanes take every `lanes`-th pixel. This
 *   needs groups of whole vec4s, and suits maps that are small enough for one subgroup.
 *
 * channel-norm.ts explains params and `statistics`.
 */
import { CHANNEL_PARAMS, CHANNEL_SCOPE, CHANNEL_STATISTICS, maskedUpstream } from './channel-norm.ts';
import { defineKernel, kernelFamily } from './kernel.ts';
import { range } from './repeat.ts';
import { withinSubgroup } from './subgroups.ts';
import { ACCESS, ELEMENT, teamOf, teamReduction, teamScope, type Width } from './teams.ts';

/**
 * WGSL that merges the values `input[at(i)]` into their number `n`, `mean` and sum of squared deviations `square`.
 * i starts at the variable `i`, advances by `stride` and stays below `end`.
 * Eight values at a time are centered in registers and merged by Chan's formula. This takes one pass over memory and
 * avoids the cancellation of E[x^2] - E[x]^2.
 */
function addMoments(stride: string, end: string, at: (i: string) => string): string {
  const block = range(8);
  return `
  for (; i + 7u * ${stride} < ${end}; i += 8u * ${stride}) {
    ${block.map((j) => `let x${j} = input[${at(`(i + ${j}u * ${stride})`)}];`).join(' ')}
    let m = (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))) * 0.125;
    ${block.map((j) => `let d${j} = x${j} - m;`).join(' ')}
    let delta = m - mean;
    let weight = 8.0 / (n + 8.0);
    mean += delta * weight;
    square += ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)) + ((d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7))
      + delta * delta * (n * weight);
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

/** Mean and sum of squared deviations of each invocation's values: `means` and `squares` [images, chunks, channels]. */
export const channelMomentsKernel = kernelFamily((width: Width) => {
  const V = ELEMENT[width];
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

/**
 * Merges the moments of a group's channels and chunks and writes `statistics`. A team handles one group of one image;
 * there are `items` of them.
 */
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
 * Adds the chunks of `partial` into `sums` [images, 2, channels]. Also writes `means` [images, 2, channels]: the means
 * over a group's values of gamma u and of gamma u x. A team handles one group of one image.
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
  for (var c = first + member; c < first + members; c += ${team.lanes}u) {
    means[o + c] = mean.x;
    means[o + p.channels + c] = mean.y;
  }`,
  });
});

const GROUP_GRADIENT = `
  let factor = gamma[c];
  let first = means[image * 2u * p.columns + c];
  let second = means[(image * 2u + 1u) * p.columns + c];`;
const GROUP_GRADIENT_VALUE = 'scale * (factor * u - first - (input[base + i] - mean) * scale * second)';

/** Gradient of group norm with respect to x. */
export const groupNormGradientKernel = kernelFamily((width: Width, relu: boolean) => {
  const V = ELEMENT[width];
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

/** Gradients of relu(group norm + residual) with respect to x and the residual. */
export const groupNormResidualGradientKernel = kernelFamily((width: Width) => {
  const V = ELEMENT[width];
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

// ------------------------------------------------------------------ one subgroup per group
//
// x [images, pixels, columns] in vec4s, columns = groups * members.

const SUBGROUP_PARAMS = {
  pixels: 'u32',
  columns: 'u32',
  members: 'u32',
  groups: 'u32',
  items: 'u32',
  inverse: 'f32',
} as const;

const SUBGROUP_SCOPE = `
  if (linearGroup >= p.items) { return; }
  let image = linearGroup / p.groups;
  let first = (linearGroup - image * p.groups) * p.members;
  let at = image * 2u * p.columns + first;`;

/** WGSL that writes one value to all channels of the group. */
const fill = (lanes: number, name: string, where: string, value: string): string =>
  `for (var j = lane; j < p.members; j += ${lanes}u) { ${name}[${where} + j] = vec4f(${value}); }`;

/** `statistics` in one dispatch. Each lane collects the moments of its values, then the subgroup merges its lanes. */
export const groupStatisticsSubgroupKernel = kernelFamily((lanes: number) =>
  defineKernel({
    name: `group_norm_statistics_f32_sg${lanes}`,
    workgroup: [lanes],
    subgroups: true,
    params: { ...SUBGROUP_PARAMS, epsilon: 'f32' },
    buffers: { input: 'read vec4f', statistics: 'write vec4f' },
    body: `${SUBGROUP_SCOPE}
  var n = 0.0;
  var mean = vec4f();
  var square = vec4f();
  for (var j = 0u; j < p.members; j++) {
    let base = image * p.pixels * p.columns + first + j;
    var i = lane;
    ${addMoments(`${lanes}u`, 'p.pixels', (at) => `base + ${at} * p.columns`)}
  }
  let sum = n * dot(mean, vec4f(1.0));
  let center = ${withinSubgroup(lanes, 'sum', 'add')} * p.inverse;
  let d = mean - center;
  let squares = dot(square + n * d * d, vec4f(1.0));
  let scale = inverseSqrt(${withinSubgroup(lanes, 'squares', 'add')} * p.inverse + p.epsilon);
  ${fill(lanes, 'statistics', 'at', 'center')}
  ${fill(lanes, 'statistics', 'at + p.columns', 'scale')}`,
  }),
);

/**
 * `sums` and `means` in one dispatch. `sums`: sums over pixels of u and of u x, x normalized. u is the upstream
 * gradient, zero where the ReLU's output is zero. `means`: means over the group of gamma u and of gamma u x.
 */
export const groupGradientSubgroupKernel = kernelFamily((lanes: number, relu: boolean) =>
  defineKernel({
    name: `group_norm_gradient_sums_f32_sg${lanes}${relu ? '_relu' : ''}`,
    workgroup: [lanes],
    subgroups: true,
    params: SUBGROUP_PARAMS,
    buffers: {
      input: 'read vec4f',
      output: 'read vec4f',
      upstream: 'read vec4f',
      statistics: 'read vec4f',
      gamma: 'read vec4f',
      sums: 'write vec4f',
      means: 'write vec4f',
    },
    body: `${SUBGROUP_SCOPE}
  let mean = statistics[at];
  let scale = statistics[at + p.columns];
  var total = vec2f();
  for (var j = 0u; j < p.members; j++) {
    let base = image * p.pixels * p.columns + first + j;
    var plain = vec4f();
    var scaled = vec4f();
    for (var i = lane; i < p.pixels; i += ${lanes}u) {
      let x = base + i * p.columns;
      let u = ${relu ? 'select(vec4f(), upstream[x], output[x] > vec4f())' : 'upstream[x]'};
      plain += u;
      scaled += u * ((input[x] - mean) * scale);
    }
    plain = ${withinSubgroup(lanes, 'plain', 'add')};
    scaled = ${withinSubgroup(lanes, 'scaled', 'add')};
    if (lane == 0u) {
      sums[at + j] = plain;
      sums[at + p.columns + j] = scaled;
    }
    let factor = gamma[first + j];
    total += vec2f(dot(plain, factor), dot(scaled, factor));
  }
  total *= p.inverse;
  ${fill(lanes, 'means', 'at', 'total.x')}
  ${fill(lanes, 'means', 'at + p.columns', 'total.y')}`,
  }),
);
