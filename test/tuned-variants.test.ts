/**
 * Kernel variants that the tuner chooses from, except those of matrix products and convolutions (see tuner.test.ts).
 * Every variant of every shape class gives right results. Without tuned choices the results keep their bits.
 */
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Device, TunedChoices } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { testDevices } from './devices.ts';
import { relativeError } from './op-harness.ts';
import { QUICK } from './tuning.ts';
import {
  attentionOf,
  CHOSEN_WORKLOADS,
  groupNormOf,
  interactionOf,
  layerNormOf,
  reductionOf,
  roiAlignOf,
  softmaxOf,
  values,
  WORKLOADS,
  type Workload,
} from './variant-workloads.ts';

const devices = await testDevices();
afterEach(() => {
  for (const { device } of devices) device.tuner.reset();
  vi.restoreAllMocks();
});

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
      if (CHOSEN_WORKLOADS === null)
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

/** Kernels that are made to skip half of their work, and the names of the variants that use them. */
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
