/**
 * Kernel variants that the tuner chooses from, without matrix products and convolutions (tuner.test.ts has those).
 * Every variant of every class must be right for every shape. Without tuned choices nothing may change.
 */
import { afterEach, describe, expect, test, vi } from 'vitest';
import {
  backward,
  dynamicInteraction,
  groupNorm,
  layerNorm,
  max,
  multiheadAttention,
  Random,
  roiAlign,
  scaleShift,
  softmax,
  sum,
  type Device,
  type Tensor,
  type TensorDevice,
  type TunedChoices,
} from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { testDevices } from './devices.ts';
import { relativeError } from './op-harness.ts';

const devices = await testDevices();
afterEach(() => {
  for (const { device } of devices) device.tuner.reset();
  vi.restoreAllMocks();
});

/** Short measurements: these tests do not look at times. */
const QUICK = { rounds: 1, sampleMs: 0.1 };

interface Workload {
  readonly name: string;
  /** Shapes of the operands. All operands get gradients. */
  readonly shapes: readonly (readonly number[])[];
  readonly run: (operands: readonly Tensor[]) => Tensor;
}

/** `count` boxes per image of height x width pixels. The first of each image is a point, the second is outside. */
function boxes(
  device: TensorDevice,
  images: number,
  count: number,
  [height, width]: readonly [number, number],
): Tensor {
  const random = new Random(5);
  const all = Array.from({ length: images * count }, (_, i) => {
    if (i % count === 0) return [width / 2, height / 2, width / 2, height / 2];
    if (i % count === 1) return [width + 20, 3, width + 60, 40];
    const [x, y] = [random.uniform() * width * 0.8, random.uniform() * height * 0.8];
    return [x, y, x + random.uniform() * width * 0.6, y + random.uniform() * height * 0.6];
  });
  return device.tensor(Float32Array.from(all.flat()), [images, count, 4]);
}

const softmaxOf = (rows: number, n: number): Workload => ({
  name: `softmax of ${rows} rows of ${n}`,
  shapes: [[rows, n]],
  run: ([x]) => softmax(x),
});
const layerNormOf = (rows: number, n: number): Workload => ({
  name: `layer norm of ${rows} rows of ${n}`,
  shapes: [[rows, n], [n], [n]],
  run: ([x, gamma, beta]) => layerNorm(x, gamma, beta),
});
const groupNormOf = (shape: readonly number[], groups: number): Workload => ({
  name: `group norm of [${shape.join(', ')}] in ${groups} groups`,
  shapes: [shape, [shape.at(-1)!], [shape.at(-1)!]],
  run: ([x, gamma, beta]) => groupNorm(x, gamma, beta, groups),
});
const reductionOf = (name: 'sum' | 'max', shape: readonly number[], axis: number): Workload => ({
  name: `${name} of [${shape.join(', ')}] over axis ${axis}`,
  shapes: [shape],
  run: ([x]) => (name === 'sum' ? sum(x, { axes: [axis] }) : max(x, { axis })),
});
const attentionOf = (batch: number, tokens: number, d: number, heads: number): Workload => ({
  name: `attention of ${batch} x ${tokens} tokens, ${heads} heads of ${d / heads}`,
  shapes: [[batch, tokens, 3 * d]],
  run: ([qkv]) => multiheadAttention(qkv, heads),
});
const interactionOf = (proposals: number, positions: number, d: number, k: number): Workload => ({
  name: `dynamic interaction of ${proposals} x ${positions}, d ${d}, k ${k}`,
  shapes: [[proposals, positions, d], [proposals, 2 * d * k], [k], [k], [d], [d]],
  run: ([roi, parameters, gamma1, beta1, gamma2, beta2]) =>
    dynamicInteraction(roi, parameters, gamma1, beta1, gamma2, beta2),
});
const roiAlignOf = (
  images: number,
  count: number,
  sides: readonly (readonly [number, number])[],
  channels: number,
  options: { resolution?: number; samplingRatio?: number } = {},
): Workload => ({
  name: [
    `roiAlign of ${images} x ${count} boxes`,
    `${channels} channels of ${sides.map((side) => side.join('x')).join(' ')}`,
  ].join(', '),
  shapes: sides.map((side) => [images, ...side, channels]),
  run: (levels) =>
    roiAlign(levels, boxes(levels[0].device, images, count, [sides[0][0] * 4, sides[0][1] * 4]), options),
});

const WORKLOADS: readonly Workload[] = [
  softmaxOf(9363, 7),
  softmaxOf(1101, 61),
  softmaxOf(1, 70001),
  softmaxOf(301, 300),
  softmaxOf(6000, 12),
  layerNormOf(2101, 33),
  layerNormOf(1, 65540),
  layerNormOf(301, 256),
  layerNormOf(6001, 12),
  layerNormOf(4097, 128),
  groupNormOf([1, 33, 43, 48], 3),
  groupNormOf([3, 1, 1, 32768], 8),
  groupNormOf([2, 70, 70, 12], 1),
  groupNormOf([1, 37, 60, 31], 1),
  {
    name: 'scaleShift of [1, 37, 60, 31]',
    shapes: [[1, 37, 60, 31], [31], [31]],
    run: ([x, scale, shift]) => scaleShift(x, scale, shift, { activation: 'relu' }),
  },
  reductionOf('sum', [70001], 0),
  reductionOf('sum', [70001, 1], 1),
  reductionOf('sum', [300, 257], 1),
  reductionOf('sum', [2570, 36], 0),
  reductionOf('sum', [3, 5001, 7], 1),
  reductionOf('max', [20000, 5], 1),
  reductionOf('max', [1, 9001, 8], 1),
  attentionOf(2, 71, 78, 6),
  attentionOf(1, 100, 64, 4),
  attentionOf(3, 33, 320, 5),
  attentionOf(1, 300, 64, 1),
  interactionOf(37, 49, 64, 16),
  interactionOf(1101, 1, 64, 16),
  interactionOf(201, 9, 36, 20),
  roiAlignOf(
    2,
    21,
    [
      [17, 23],
      [9, 12],
      [5, 6],
      [3, 3],
    ],
    64,
  ),
  roiAlignOf(1, 131, [[40, 33]], 12),
  roiAlignOf(
    1,
    90,
    [
      [31, 64],
      [16, 32],
    ],
    16,
    { resolution: 5, samplingRatio: 3 },
  ),
  roiAlignOf(1, 300, [[1, 1]], 64),
];

/** Output and gradients of a workload, for operands that are the same in every call. */
async function values(device: Device, { shapes, run }: Workload): Promise<Float32Array[]> {
  const tensors = device.scope(() => {
    const operands = shapes.map((shape, i) =>
      device.parameter(new Random(3, i).normalArray(shape.reduce((a, b) => a * b, 1)), shape),
    );
    const output = run(operands);
    backward(output, device.tensor(new Random(4).normalArray(output.size), output.shape));
    return [device.keep(output), ...operands];
  });
  const results: Float32Array[] = [];
  for (const [i, tensor] of tensors.entries()) {
    results.push((await (i === 0 ? tensor : tensor.grad!).read()) as Float32Array);
    if (i > 0) tensor.zeroGrad();
    tensor.dispose();
  }
  return results;
}

/** Names of the variants of each shape class that `work` asks for. */
async function variantsOf(device: Device, work: () => Promise<unknown>): Promise<Map<string, readonly string[]>> {
  const classes = new Map<string, readonly string[]>();
  const { tuner } = device;
  const choose = tuner.choose.bind(tuner);
  const spy = vi.spyOn(tuner, 'choose').mockImplementation((family, key, describeClass) => {
    const { expected, candidates } = describeClass();
    classes.set(`${family} ${key}`, [...new Set([expected, ...candidates].map(({ name }) => name))]);
    return choose(family, key, describeClass);
  });
  await work();
  spy.mockRestore();
  return classes;
}

const FAMILIES = [
  'attention',
  'attention-gradient',
  'channel-map',
  'group-norm',
  'layer-norm',
  'layer-norm-gradient',
  'reduce',
  'roi-align',
  'softmax',
  'softmax-gradient',
  'sum-pairs',
];
const FAMILIES_OF_SUBGROUPS = [
  'dynamic-interaction',
  'dynamic-interaction-gradient',
  'interaction-product',
  'roi-align-gradient',
];

/** The test compiles the kernels of all variants, which takes minutes on a busy machine. */
const TUNING_TIMEOUT_MS = 600_000;

describe.each(devices)('$label', ({ device }) => {
  let tuned: TunedChoices;

  test(
    'every family has classes with a few variants, all of them right',
    async () => {
      const families = new Set<string>();
      for (const workload of WORKLOADS) {
        for (const [shapeClass, names] of await variantsOf(device, () => values(device, workload))) {
          if (names.length > 1) families.add(shapeClass.split(' ')[0]);
          expect(names.length, shapeClass).toBeLessThanOrEqual(7);
        }
      }
      expect([...families].sort()).toEqual(
        [...FAMILIES, ...(device.subgroupSize > 0 ? FAMILIES_OF_SUBGROUPS : [])].sort(),
      );
      const results = await device.tuner.tune(QUICK);
      expect(
        results.flatMap(({ shapeClass, excluded, skipped }) => [
          ...excluded.map(({ variant, reason }) => `${shapeClass}: ${variant}: ${reason}`),
          ...(skipped === null ? [] : [`${shapeClass}: ${skipped}`]),
        ]),
      ).toEqual([]);
      tuned = device.tuner.export();
    },
    TUNING_TIMEOUT_MS,
  );

  test.each(WORKLOADS)(
    '$name: each variant gives the same result through the op, and a reset removes the choice',
    async (workload) => {
      const counted = async (): Promise<{ results: Float32Array[]; dispatches: number }> => {
        const start = device.dispatches;
        return { results: await values(device, workload), dispatches: device.dispatches - start };
      };
      const before = await counted();
      /** Relative errors of output and gradients. */
      const errors = ({ results }: typeof before): number[] =>
        results.map((result, which) => relativeError(result, before.results[which]));
      const expectUntuned = (after: typeof before): void => {
        expect(Math.max(...errors(after)), 'the same bits').toBe(0);
        expect(after.dispatches).toBe(before.dispatches);
      };
      const variants = await variantsOf(device, () => values(device, workload));
      for (let i = 0; i < Math.max(...[...variants.values()].map(({ length }) => length)); i++) {
        const choices = [...variants].flatMap(([shapeClass, names]) =>
          tuned.choices[shapeClass]
            ? [[shapeClass, { ...tuned.choices[shapeClass], variant: names[i % names.length] }] as const]
            : [],
        );
        device.tuner.reset();
        expect(device.tuner.import({ ...tuned, choices: Object.fromEntries(choices) })).toBe(choices.length);
        expect(device.tuner.stale).toEqual([]);
        const after = await counted();
        // The first variant of each class is the expected one, which runs without tuned choices too.
        if (i === 0) expectUntuned(after);
        errors(after).forEach((error, which) =>
          expect(error, `variant ${i}: ${which === 0 ? 'output' : `gradient ${which - 1}`}`).toBeLessThan(1e-4),
        );
      }
      device.tuner.reset();
      expectUntuned(await counted());
    },
  );
});

/** Kernels that skip half of their work, and the names of the variants that use them. */
interface Sabotage {
  readonly family: string;
  readonly workload: Workload;
  readonly wrong: (kernel: string, params: Readonly<Record<string, number>>) => boolean;
  readonly excluded: RegExp;
}

const chunked =
  (chunks: number) =>
  (kernel: string, { stride, columns, inner }: Readonly<Record<string, number>>): boolean =>
    /^channel_affine|^reduce_sum_columns_vec4/.test(kernel) && stride === chunks * (columns ?? inner);
const named =
  (pattern: RegExp) =>
  (kernel: string): boolean =>
    pattern.test(kernel);

const SABOTAGES: readonly Sabotage[] = [
  {
    family: 'attention',
    workload: attentionOf(1, 300, 64, 1),
    wrong: named(/^attention_f32_head64_rows2/),
    excluded: /, 2 rows per lane$/,
  },
  {
    family: 'attention-gradient',
    workload: attentionOf(1, 300, 64, 1),
    wrong: named(/^attention_key_value_gradient_f32_head64_rows2/),
    excluded: /, 2 rows per lane$/,
  },
  { family: 'softmax', workload: softmaxOf(1101, 61), wrong: named(/^softmax_rows_f32/), excluded: / per team$/ },
  {
    family: 'softmax-gradient',
    workload: softmaxOf(1101, 61),
    wrong: named(/^softmax_rows_gradient/),
    excluded: / per team$/,
  },
  { family: 'layer-norm', workload: layerNormOf(6001, 12), wrong: named(/^layer_norm_f32_sg/), excluded: /^sg/ },
  {
    family: 'layer-norm-gradient',
    workload: layerNormOf(6001, 12),
    wrong: named(/^layer_norm_gradient_f32_sg/),
    excluded: /^sg/,
  },
  {
    family: 'group-norm',
    workload: groupNormOf([1, 33, 43, 48], 3),
    wrong: named(/^group_norm_(statistics|gradient_sums)_f32_sg/),
    excluded: /^a subgroup per group$/,
  },
  {
    family: 'channel-map',
    workload: groupNormOf([1, 33, 43, 48], 3),
    wrong: chunked(Math.ceil((33 * 43) / 32)),
    excluded: /^32 pixels per lane$/,
  },
  { family: 'sum-pairs', workload: layerNormOf(4097, 128), wrong: chunked(20), excluded: /^20 chunks$/ },
  {
    family: 'reduce',
    workload: reductionOf('sum', [20000, 5], 1),
    wrong: named(/^reduce_sum_rows/),
    excluded: /^teams/,
  },
  {
    family: 'roi-align',
    workload: roiAlignOf(
      2,
      21,
      [
        [17, 23],
        [9, 12],
      ],
      32,
    ),
    wrong: named(/^roi_align_f32_\w+_x4$/),
    excluded: / x4$/,
  },
  {
    family: 'roi-align-gradient',
    workload: roiAlignOf(
      2,
      21,
      [
        [17, 23],
        [9, 12],
      ],
      64,
    ),
    wrong: named(/^roi_align_gradient_f32_sg/),
    excluded: /^subgroups$/,
  },
  {
    family: 'interaction-product',
    workload: interactionOf(37, 49, 64, 16),
    wrong: named(/^dynamic_interaction_tn_f32_sg/),
    excluded: /^(buffer|texture) \d+x\d+$/,
  },
];

test.runIf(devices[0].device.subgroupSize > 0).each(SABOTAGES)(
  'a wrong variant of $family is excluded',
  async ({ family, workload, wrong, excluded: pattern }) => {
    // A device that has seen no other shape classes.
    const device = await openDevice({ tuning: 'off' });
    await values(device, workload);
    const run = device.run.bind(device);
    vi.spyOn(device, 'run').mockImplementation((kernel, params, buffers, [x, y, z]) =>
      run(kernel, params, buffers, [wrong(kernel.name, params) ? x >> 1 : x, y, z]),
    );
    const results = (await device.tuner.tune(QUICK)).filter(
      ({ shapeClass, excluded }) => shapeClass.startsWith(`${family} `) && excluded.length > 0,
    );
    expect(results.length).toBeGreaterThan(0);
    for (const { excluded, choice } of results) {
      for (const { variant, reason } of excluded) {
        expect(variant).toMatch(pattern);
        expect(reason).toMatch(/is wrong: expected a relative difference of at most .* from the plain variant's, got /);
      }
      if (choice) expect(choice.variant).not.toMatch(pattern);
    }
    device.destroy();
  },
);
