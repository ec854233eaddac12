/** destination += source, in place, for sums of gradients. */
import { defineKernel, eachElement, kernelFamily } from './kernel.ts';

export const accumulateKernel = kernelFamily((lanes: number) =>
  defineKernel({
    name: 'accumulate_f32_vec4',
    workgroup: [lanes],
    params: { count: 'u32' },
    buffers: { source: 'read vec4f', destination: 'write vec4f' },
    body: eachElement(
      lanes,
      '(p.count + 3u) / 4u',
      `
    let live = i * 4u + vec4u(0u, 1u, 2u, 3u) < vec4u(p.count); // values past the end stay unchanged
    destination[i] += select(vec4f(), source[i], live);`,
    ),
  }),
);
