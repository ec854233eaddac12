/** target += source, in place: sums of gradients. */
import { defineKernel, kernelFamily } from './kernel.ts';

export const accumulateKernel = kernelFamily(() => defineKernel({
  name: 'accumulate_f32_vec4',
  workgroup: [64],
  params: { count4: 'u32' },
  buffers: { source: 'read vec4f', destination: 'write vec4f' },
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count4) { return; }
  destination[i] += source[i];`,
}));
