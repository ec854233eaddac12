/** Optimiser steps over flat buffers of many parameters: global gradient norm and clipping factor, AdamW, SGD. All on the device, nothing read back. */
import { defineKernel, kernelFamily, type BufferSpec, type Kernel } from './kernel.ts';

const LANES = 64;
/** vec4s that one workgroup sums the squares of: partial sums stay short, and few are left for the second pass. */
export const NORM_BLOCK = LANES * 32;

/** One partial sum of squares for each block of NORM_BLOCK vec4s. */
export const squareSumsKernel = kernelFamily(() => defineKernel({
  name: 'square_sums_f32_vec4',
  workgroup: [LANES],
  params: { first4: 'u32', count4: 'u32', firstPartial: 'u32' },
  buffers: { gradient: 'read vec4f', partial: 'write f32' },
  module: `var<workgroup> sums: array<f32, ${LANES}>;`,
  body: `
  let start = linearGroup * ${NORM_BLOCK}u;
  if (start >= p.count4) { return; }
  let end = min(p.count4, start + ${NORM_BLOCK}u);
  var sum = 0.0;
  for (var i = start + lane; i < end; i += ${LANES}u) {
    let g = gradient[p.first4 + i];
    sum += dot(g, g);
  }
  sums[lane] = sum;
  workgroupBarrier();
  if (lane == 0u) {
    var total = 0.0;
    for (var l = 0u; l < ${LANES}u; l++) { total += sums[l]; }
    partial[p.firstPartial + linearGroup] = total;
  }`,
}));

/**
 * One workgroup: `norm[0]`, the norm of the gradients times `scale`, and `factor[0]`, what the gradients are to be multiplied by: `scale`, and where `clips` is 1
 * also min(1, maxNorm / (norm + 1e-6)), which is PyTorch's clip_grad_norm_. A NaN stays one.
 */
export const clippingFactorKernel = kernelFamily(() => defineKernel({
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
}));

/** Decoupled weight decay, then Adam: torch.optim.AdamW. `rates[slot]` is (lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - lr * weightDecay): what changes from step to step. */
export const adamwKernel = kernelFamily(() => defineKernel({
  name: 'adamw_f32_vec4',
  workgroup: [LANES],
  params: { first4: 'u32', count4: 'u32', slot: 'u32', mix1: 'f32', beta2: 'f32', mix2: 'f32', epsilon: 'f32' },
  buffers: { gradient: 'read vec4f', factor: 'read f32', rates: 'read vec4f', value: 'write vec4f', first: 'write vec4f', second: 'write vec4f' },
  body: `
  if (linearGroup * ${LANES}u + lane >= p.count4) { return; }
  let i = p.first4 + linearGroup * ${LANES}u + lane;
  let g = gradient[i] * factor[0];
  let rate = rates[p.slot];
  let m = first[i] + p.mix1 * (g - first[i]);
  let v = p.beta2 * second[i] + p.mix2 * g * g;
  first[i] = m;
  second[i] = v;
  value[i] = value[i] * rate.z - rate.x * m / (sqrt(v) * rate.y + p.epsilon);`,
}));

export type MomentumKind = 'plain' | 'momentum' | 'nesterov';

/** torch.optim.SGD: decay joins the gradient; the momentum buffer starts at zero, so that its first value is the gradient. `rates[slot].x` is the learning rate. */
export const sgdKernel = kernelFamily((kind: MomentumKind): Kernel => {
  const buffers: Record<string, BufferSpec> = {
    gradient: 'read vec4f', factor: 'read f32', rates: 'read vec4f', value: 'write vec4f', ...(kind === 'plain' ? {} : { velocity: 'write vec4f' as const }),
  };
  const update = {
    plain: 'value[i] = x - rates[p.slot].x * g;',
    momentum: `let v = p.momentum * velocity[i] + g;
  velocity[i] = v;
  value[i] = x - rates[p.slot].x * v;`,
    nesterov: `let v = p.momentum * velocity[i] + g;
  velocity[i] = v;
  value[i] = x - rates[p.slot].x * (g + p.momentum * v);`,
  }[kind];
  return defineKernel({
    name: `sgd_${kind}_f32_vec4`,
    workgroup: [LANES],
    params: { first4: 'u32', count4: 'u32', slot: 'u32', weightDecay: 'f32', momentum: 'f32' },
    buffers,
    body: `
  if (linearGroup * ${LANES}u + lane >= p.count4) { return; }
  let i = p.first4 + linearGroup * ${LANES}u + lane;
  let x = value[i];
  let g = gradient[i] * factor[0] + p.weightDecay * x;
  ${update}`,
  });
});
