/**
 * Two kernels that measure an adapter's peak: multiply-adds in registers, and bytes through memory. Other kernels are
 * compared with these peaks.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { range } from './repeat.ts';

/**
 * Independent sums per invocation, as vec4s. Two hide the latency of a multiply-add and stay in the registers of a
 * CPU's vector unit. More were slower on lavapipe.
 */
const SUMS = 2;
/** Multiply-adds of each sum per turn of the loop, so that the loop itself takes negligible time. */
const UNROLLED = 16;

/** Invocations per workgroup in both kernels. */
export const ROOFLINE_LANES = 64;

/** FLOPs per invocation and turn: two for each multiply-add of each component. */
export const PEAK_FLOPS_PER_TURN = SUMS * UNROLLED * 4 * 2;

/**
 * `turns` times UNROLLED multiply-adds on registers. One store per invocation keeps the compiler from removing them.
 */
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

/** vec4s that an invocation copies. Several at once were fastest on software adapters. */
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
