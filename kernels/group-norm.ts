/**
 * Group norm in one dispatch for the statistics, and one for the sums of its gradient: a subgroup a group of an image, whose lanes take every lanes-th pixel. For
 * groups of whole vec4s and maps small enough for a lane; norm.ts cuts larger ones into chunks, and has the kernels that map values.
 *
 * x [images, pixels, columns] in vec4s, columns = groups * members; `statistics`, `sums`, `means` as in norm.ts.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { addMoments } from './norm.ts';
import { withinSubgroup } from './subgroups.ts';

const PARAMS = { pixels: 'u32', columns: 'u32', members: 'u32', groups: 'u32', items: 'u32', inverse: 'f32' } as const;

const SCOPE = `
  if (linearGroup >= p.items) { return; }
  let image = linearGroup / p.groups;
  let first = (linearGroup - image * p.groups) * p.members;
  let at = image * 2u * p.columns + first;`;

/** WGSL that writes one value for all members of the group. */
const fill = (lanes: number, name: string, where: string, value: string): string =>
  `for (var j = lane; j < p.members; j += ${lanes}u) { ${name}[${where} + j] = vec4f(${value}); }`;

/** Each channel's mean and 1 / deviation, those of its group: each lane takes up its values, then the subgroup merges the lanes. */
export const groupStatisticsSubgroupKernel = kernelFamily((lanes: number) =>
  defineKernel({
    name: `group_norm_statistics_f32_sg${lanes}`,
    workgroup: [lanes],
    subgroups: true,
    params: { ...PARAMS, epsilon: 'f32' },
    buffers: { input: 'read vec4f', statistics: 'write vec4f' },
    body: `${SCOPE}
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

/** The sums over pixels of u and of u x (x normalised), u being the upstream gradient where the ReLU let through, and the means over the group of gamma times each. */
export const groupGradientSubgroupKernel = kernelFamily((lanes: number, relu: boolean) =>
  defineKernel({
    name: `group_norm_gradient_sums_f32_sg${lanes}${relu ? '_relu' : ''}`,
    workgroup: [lanes],
    subgroups: true,
    params: PARAMS,
    buffers: {
      input: 'read vec4f',
      output: 'read vec4f',
      upstream: 'read vec4f',
      statistics: 'read vec4f',
      gamma: 'read vec4f',
      sums: 'write vec4f',
      means: 'write vec4f',
    },
    body: `${SCOPE}
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
