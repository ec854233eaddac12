/** Two kernels that measure what an adapter can do at most: multiply-adds in registers, and bytes through memory. What other kernels reach is held against them. */
import { defineKernel, kernelFamily } from './kernel.ts';
import { range } from './subgroups.ts';

/** Independent sums of a lane, as vec4s: enough to hide the latency of a multiply-add, few enough to stay in the registers of a CPU's vector unit (more were slower on lavapipe). */
const SUMS = 2;
/** Multiply-adds of each sum in one turn of the loop, so that the loop itself costs nothing. */
const UNROLLED = 16;

/** Lanes of a workgroup, in both kernels. */
export const ROOFLINE_LANES = 64;

/** FLOPs of a lane in one turn: two for each multiply-add of each component. */
export const PEAK_FLOPS_PER_TURN = SUMS * UNROLLED * 4 * 2;

/** `turns` times UNROLLED multiply-adds on registers; one store a lane at the end, so that nothing can be left out. */
export const peakFlopsKernel = kernelFamily(() =>
  defineKernel({
    name: 'roofline_multiply_add_f32',
    workgroup: [ROOFLINE_LANES],
    params: { turns: 'u32', factor: 'f32', addend: 'f32', count: 'u32' },
    buffers: { output: 'write f32' },
    body: `
  let i = linearGroup * ${ROOFLINE_LANES}u + lane;
  let factor = vec4f(p.factor);
  let addend = vec4f(p.addend);
  ${range(SUMS)
    .map((s) => `var c${s} = vec4f(f32(lane + ${s}u));`)
    .join(' ')}
  for (var turn = 0u; turn < p.turns; turn++) {
    ${range(UNROLLED)
      .map(() =>
        range(SUMS)
          .map((s) => `c${s} = fma(c${s}, factor, addend);`)
          .join(' '),
      )
      .join('\n    ')}
  }
  let sum = ${range(SUMS)
    .map((s) => `c${s}`)
    .join(' + ')};
  output[i % p.count] = sum.x + sum.y + sum.z + sum.w;`,
  }),
);

/** vec4s that a lane copies: several at once were the fastest on software adapters. */
export const COPIED_PER_LANE = 4;

/** output = input for the first `count4` vec4s, in whole workgroups. */
export const bandwidthKernel = kernelFamily(() =>
  defineKernel({
    name: 'roofline_copy_f32_vec4',
    workgroup: [ROOFLINE_LANES],
    params: { count4: 'u32' },
    buffers: { input: 'read vec4f', output: 'write vec4f' },
    body: `
  let i = linearGroup * ${ROOFLINE_LANES * COPIED_PER_LANE}u + lane;
  if (linearGroup * ${ROOFLINE_LANES * COPIED_PER_LANE}u >= p.count4) { return; }
  ${range(COPIED_PER_LANE)
    .map((j) => `output[i + ${j * ROOFLINE_LANES}u] = input[i + ${j * ROOFLINE_LANES}u];`)
    .join('\n  ')}`,
  }),
);
