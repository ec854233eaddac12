/**
 * Optimizer steps over flat buffers of many parameters: norm of all gradients, clipping factor, AdamW and SGD. All work
 * stays on the device; nothing is read back.
 */
import { defineKernel, eachElement, kernelFamily, type BufferSpec, type Kernel } from './kernel.ts';
import { teamOf, teamReduction, teamScope } from './teams.ts';

const LANES = 64;
/** vec4s per partial sum. So each sum is short, and the second dispatch has few partial sums to add. */
export const NORM_BLOCK = 2048;

/** One partial sum of squares for each block of NORM_BLOCK vec4s. One team per block. */
export const squareSumsKernel = kernelFamily((subgroupSize: number) => {
  const team = teamOf(subgroupSize);
  const square = (at: string): string => `dot(gradient[p.first4 + ${at}], gradient[p.first4 + ${at}])`;
  const squareAfter = (steps: number): string => square(`i + ${steps * team.lanes}u`);
  return defineKernel({
    name: `square_sums_f32_vec4_${team.label}`,
    workgroup: [team.lanes * team.count],
    subgroups: team.subgroups,
    params: { first4: 'u32', count4: 'u32', firstPartial: 'u32', blocks: 'u32' },
    buffers: { gradient: 'read vec4f', partial: 'write f32' },
    module: teamReduction(team, 'teamSum', 'f32', 'add'),
    body: `${teamScope(team)}
  let end = min(p.count4, (item + 1u) * ${NORM_BLOCK}u);
  var i = item * ${NORM_BLOCK}u + member;
  var sum = 0.0;
  for (; i + ${3 * team.lanes}u < end; i += ${4 * team.lanes}u) {
    sum += (${square('i')} + ${squareAfter(1)}) + (${squareAfter(2)} + ${squareAfter(3)});
  }
  for (; i < end; i += ${team.lanes}u) { sum += ${square('i')}; }
  let total = teamSum(sum, lane);
  if (member == 0u && item < p.blocks) { partial[p.firstPartial + item] = total; }`,
  });
});

/**
 * Writes `norm[0]`, the norm of the gradients times `scale`, and `factor[0]`, the factor of the gradients in an update.
 * The factor is `scale`, and where `clips` is 1 also min(1, maxNorm / (norm + 1e-6)), as in PyTorch's clip_grad_norm_.
 * NaN stays NaN. One workgroup.
 */
export const clippingFactorKernel = kernelFamily(() =>
  defineKernel({
    name: 'clipping_factor_f32',
    workgroup: [LANES],
    params: { count: 'u32', clips: 'u32', scale: 'f32', maxNorm: 'f32' },
    buffers: { partial: 'read f32', norm: 'write f32', factor: 'write f32' },
    module: `var<workgroup> sums: array<f32, ${LANES}>;`,
    body: `
  var sum = 0.0;
  for (var i = lane; i < p.count; i += ${LANES}u) { sum += partial[i]; }
  sums[lane] = sum;
  workgroupBarrier();
  if (lane == 0u) {
    var total = 0.0;
    for (var l = 0u; l < ${LANES}u; l++) { total += sums[l]; }
    let length = p.scale * sqrt(total);
    let ratio = p.maxNorm / (length + 1e-6);
    norm[0] = length;
    factor[0] = p.scale * select(ratio, 1.0, p.clips == 0u || ratio >= 1.0);
  }`,
  }),
);

/**
 * AdamW as in torch.optim.AdamW: decoupled weight decay, then Adam. `rates[slot]` holds the values that change from
 * step to step: (lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - lr * weightDecay).
 */
export const adamwKernel = kernelFamily((lanes: number) =>
  defineKernel({
    name: 'adamw_f32_vec4',
    workgroup: [lanes],
    params: { first4: 'u32', count4: 'u32', slot: 'u32', mix1: 'f32', beta2: 'f32', mix2: 'f32', epsilon: 'f32' },
    buffers: {
      gradient: 'read vec4f',
      factor: 'read f32',
      rates: 'read vec4f',
      value: 'write vec4f',
      first: 'write vec4f',
      second: 'write vec4f',
    },
    body: `
  let scale = factor[0];
  let rate = rates[p.slot];
${eachElement(
  lanes,
  'p.count4',
  `
    let at = p.first4 + i;
    let g = gradient[at] * scale;
    let earlier = first[at];
    let m = earlier + p.mix1 * (g - earlier);
    let v = p.beta2 * second[at] + p.mix2 * g * g;
    first[at] = m;
    second[at] = v;
    value[at] = value[at] * rate.z - rate.x * m / (sqrt(v) * rate.y + p.epsilon);`,
)}`,
  }),
);

/**
 * A moving average of all values: average += mix * (value - average). `rates[slot].x` is mix, 1 minus the decay. It
 * changes from step to step.
 */
export const averageKernel = kernelFamily((lanes: number) =>
  defineKernel({
    name: 'weight_average_f32_vec4',
    workgroup: [lanes],
    params: { count4: 'u32', slot: 'u32' },
    buffers: { rates: 'read vec4f', value: 'read vec4f', average: 'write vec4f' },
    body: `
  let mix = rates[p.slot].x;
${eachElement(
  lanes,
  'p.count4',
  `
    let earlier = average[i];
    average[i] = earlier + mix * (value[i] - earlier);`,
)}`,
  }),
);

export type MomentumKind = 'plain' | 'momentum' | 'nesterov';

/**
 * SGD as in torch.optim.SGD. Weight decay is added to the gradient. The momentum buffer starts at zero, so that its
 * first value is the gradient. `rates[slot].x` is the learning rate.
 */
export const sgdKernel = kernelFamily((kind: MomentumKind, lanes: number): Kernel => {
  const buffers: Record<string, BufferSpec> = {
    gradient: 'read vec4f',
    factor: 'read f32',
    rates: 'read vec4f',
    value: 'write vec4f',
    ...(kind === 'plain' ? {} : { velocity: 'write vec4f' as const }),
  };
  const update = {
    plain: 'value[at] = x - rate * g;',
    momentum: `let v = p.momentum * velocity[at] + g;
    velocity[at] = v;
    value[at] = x - rate * v;`,
    nesterov: `let v = p.momentum * velocity[at] + g;
    velocity[at] = v;
    value[at] = x - rate * (g + p.momentum * v);`,
  }[kind];
  return defineKernel({
    name: `sgd_${kind}_f32_vec4`,
    workgroup: [lanes],
    params: { first4: 'u32', count4: 'u32', slot: 'u32', weightDecay: 'f32', momentum: 'f32' },
    buffers,
    body: `
  let scale = factor[0];
  let rate = rates[p.slot].x;
${eachElement(
  lanes,
  'p.count4',
  `
    let at = p.first4 + i;
    let x = value[at];
    let g = gradient[at] * scale + p.weightDecay * x;
    ${update}`,
)}`,
  });
});
