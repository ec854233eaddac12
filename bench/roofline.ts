/**
 * The roofs of an adapter (Williams et al., "Roofline", CACM 2009): its peak rates of operations and of bytes. Both are
 * measured, by multiply-adds in registers and by copies.
 */
import { defineKernel, kernelFamily, linearGrid } from '../kernels/kernel.ts';
import type { Device } from '../engine/index.ts';
import { median } from '../engine/core/statistics.ts';
import { deviceJob } from './jobs.ts';
import { type Job, sampleInterleaved } from './measure.ts';

export interface Roof {
  /** The peak rate in GFLOP/s, and the form of the loop that reaches it. */
  readonly gigaflops: number;
  readonly computeForm: string;
  /** The peak rate in GB/s (bytes read and written), and the form of the copy that reaches it. */
  readonly gigabytes: number;
  readonly copyForm: string;
}

const LANES = 64;
const GROUPS = 256;
const ITERATIONS = 2048;

/** Repeated outer products as in a matrix product: `rows` scalars times `columns` vec4s, added to sums in registers. */
const multiplyAddKernel = kernelFamily((rows: number, columns: number) => {
  const sums = Array.from({ length: rows * columns }, (_, i) => i);
  return defineKernel({
    name: `multiply_add_f32_${rows}x${columns}`,
    workgroup: [LANES],
    params: { iterations: 'u32', a: 'f32', b: 'f32' },
    buffers: { output: 'write vec4f' },
    body: `
  ${Array.from({ length: rows }, (_, i) => `var a${i} = p.a * f32(lane + ${i}u);`).join(' ')}
  ${Array.from({ length: columns }, (_, j) => `var b${j} = vec4f(p.b, p.a, p.b, p.a) * f32(lane + ${j}u);`).join(' ')}
  ${sums.map((i) => `var s${i} = vec4f(f32(lane + ${i}u));`).join(' ')}
  for (var i = 0u; i < p.iterations; i++) {
    ${sums.map((i) => `s${i} = s${i} * a${i % rows} + b${Math.floor(i / rows)};`).join('\n    ')}
  }
  output[linearGroup * ${LANES}u + lane] = ${sums.map((i) => `s${i}`).join(' + ')};`,
  });
});

const copyKernel = kernelFamily((each: number) =>
  defineKernel({
    name: `copy_vec4_${each}`,
    workgroup: [LANES],
    params: { count4: 'u32' },
    buffers: { input: 'read vec4f', output: 'write vec4f' },
    body: `
  for (var k = 0u; k < ${each}u; k++) {
    let i = (linearGroup * ${each}u + k) * ${LANES}u + lane;
    if (i < p.count4) { output[i] = input[i]; }
  }`,
  }),
);

const FORMS = [
  [1, 4],
  [2, 2],
  [4, 1],
  [2, 4],
  [4, 4],
  [4, 8],
] as const;
/** Much larger than caches. */
const COPY_BYTES = 64 * 2 ** 20;

/** Measures both roofs: the best of several forms for each. */
export async function measureRoof(device: Device, rounds: number): Promise<Roof> {
  const output = device.keep(device.empty([GROUPS * LANES * 4]));
  const floats = Math.min(COPY_BYTES, device.limits.maxStorageBufferBindingSize) / 4;
  const [from, to] = [device.keep(device.zeros([floats])), device.keep(device.zeros([floats]))];
  const computing = FORMS.map(([rows, columns]) =>
    deviceJob(device, `${rows} x ${columns} vec4 sums`, () =>
      device.run(
        multiplyAddKernel(rows, columns),
        { iterations: ITERATIONS, a: 1e-3, b: 1e-3 },
        { output },
        linearGrid(GROUPS),
      ),
    ),
  );
  const copying = [
    deviceJob(device, 'copyBufferToBuffer', () => device.copy(from, to)),
    ...[1, 8].map((each) =>
      deviceJob(device, `kernel, ${each} vec4 per lane`, () =>
        device.run(
          copyKernel(each),
          { count4: floats / 4 },
          { input: from, output: to },
          linearGrid(Math.ceil(floats / 4 / each / LANES)),
        ),
      ),
    ),
  ];
  const times = (await sampleInterleaved([...computing, ...copying], { rounds })).map(median);
  for (const tensor of [output, from, to]) tensor.dispose();
  const best = (names: readonly Job[], rates: readonly number[]): [string, number] => {
    const at = rates.indexOf(Math.max(...rates));
    return [names[at].name, rates[at]];
  };
  const [computeForm, gigaflopsReached] = best(
    computing,
    FORMS.map(([rows, columns], i) => (8 * rows * columns * ITERATIONS * GROUPS * LANES) / times[i] / 1e6),
  );
  const [copyForm, gigabytesReached] = best(
    copying,
    copying.map((_, i) => (8 * floats) / times[FORMS.length + i] / 1e6),
  );
  return { gigaflops: gigaflopsReached, computeForm, gigabytes: gigabytesReached, copyForm };
}
