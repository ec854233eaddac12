/**
 * Mixtures of experts: out[b, n, :] = sum over e of weights[b, e, n] values[e, n, :], and its gradients. Memory
 * bandwidth limits them, so one invocation per output element is enough.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import type { OperandAccess } from './matmul.ts';

/** `width` counts buffer elements (vec4s or scalars) per row, `count` output elements. */
const PARAMS = { count: 'u32', batch: 'u32', experts: 'u32', rows: 'u32', width: 'u32' } as const;

const element = (access: OperandAccess): 'vec4f' | 'f32' => (access === 'vec4' ? 'vec4f' : 'f32');

/** One invocation per (b, n, x). */
export const mixExpertsKernel = kernelFamily((access: OperandAccess) =>
  defineKernel({
    name: `mix_experts_f32_${access}`,
    workgroup: [64],
    params: PARAMS,
    buffers: { weights: 'read f32', values: `read ${element(access)}`, output: `write ${element(access)}` },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let x = i % p.width;
  let n = i / p.width % p.rows;
  let b = i / p.width / p.rows;
  var sum = ${element(access)}();
  for (var e = 0u; e < p.experts; e++) {
    sum += weights[(b * p.experts + e) * p.rows + n] * values[(e * p.rows + n) * p.width + x];
  }
  output[i] = sum;`,
  }),
);

/**
 * Gradient with respect to the values: sum over b of weights[b, e, n] upstream[b, n, x]. One invocation per (e, n, x).
 */
export const mixExpertsValuesGradientKernel = kernelFamily((access: OperandAccess) =>
  defineKernel({
    name: `mix_experts_values_gradient_f32_${access}`,
    workgroup: [64],
    params: PARAMS,
    buffers: { weights: 'read f32', upstream: `read ${element(access)}`, gradient: `write ${element(access)}` },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let x = i % p.width;
  let row = i / p.width;
  let n = row % p.rows;
  var sum = ${element(access)}();
  for (var b = 0u; b < p.batch; b++) {
    sum += weights[b * p.experts * p.rows + row] * upstream[(b * p.rows + n) * p.width + x];
  }
  gradient[i] = sum;`,
  }),
);

/** Gradient with respect to the weights: upstream[b, n, :] . values[e, n, :]. One invocation per (b, e, n). */
export const mixExpertsWeightsGradientKernel = kernelFamily((access: OperandAccess) =>
  defineKernel({
    name: `mix_experts_weights_gradient_f32_${access}`,
    workgroup: [64],
    params: PARAMS,
    buffers: { values: `read ${element(access)}`, upstream: `read ${element(access)}`, gradient: 'write f32' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let n = i % p.rows;
  let e = i / p.rows % p.experts;
  let b = i / p.rows / p.experts;
  var sum = ${element(access)}();
  for (var x = 0u; x < p.width; x++) {
    sum += upstream[(b * p.rows + n) * p.width + x] * values[(e * p.rows + n) * p.width + x];
  }
  gradient[i] = ${access === 'vec4' ? 'sum.x + sum.y + (sum.z + sum.w)' : 'sum'};`,
  }),
);
