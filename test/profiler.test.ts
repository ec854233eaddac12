/**
 * Profiles are complete, count correctly, and do not change results, with and without timestamps. Traces, and
 * `train --profile`.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import {
  AdamW,
  backward,
  conv2d,
  dynamicInteraction,
  matmul,
  mean,
  mul,
  multiheadAttention,
  Random,
  square,
  type Device,
  type Profile,
  type ProfileDetail,
  type TraceEvent,
} from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { countFlops, DynamicSparseRCNN, MODEL_PRESETS } from '../model/index.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { profileStart } from '../training/commands/profile.ts';
import { loadConfig } from '../training/data/config-file.ts';
import { readMetrics } from '../training/output/metrics-files.ts';
import { runTrain } from '../training/commands/train.ts';

const timed = await openDevice();
const untimed = await openDevice({ timestamps: false, subgroups: false });
const folder = mkdtempSync(join(tmpdir(), 'profiler-test-'));
afterAll(() => {
  timed.destroy();
  untimed.destroy();
  rmSync(folder, { recursive: true });
});
const devices = [
  { label: 'as the adapter times', device: timed },
  { label: 'by wall clock', device: untimed },
];

const random = (device: Device, ...shape: number[]) =>
  device.tensor(new Random(shape.length).normalArray(shape.reduce((a, b) => a * b, 1)), shape);
const flopsOf = ({ rows }: Profile): number => rows.reduce((sum, { flops }) => sum + (flops ?? 0), 0);

test('without timestamps the feature is not requested, and the profile says how it was timed', async () => {
  expect(untimed.info.features).not.toContain('timestamp-query');
  const { timing, calibration } = await untimed.profile(() => undefined);
  expect([timing, calibration.reason]).toEqual(['wall clock', 'the device offers no timestamps']);
});

describe.each(devices)('a profile $label', ({ device }) => {
  test('has every dispatch, by name, with the FLOPs and bytes of a matrix product', async () => {
    const before = device.dispatches;
    const profile = await device.profile(() =>
      device.scope(() => {
        const a = random(device, 40, 24),
          b = random(device, 24, 36);
        for (let i = 0; i < 3; i++) matmul(a, b);
        square(a);
      }),
    );
    const { rows } = profile;
    const kernels = profile.kernels();
    expect(rows.length).toBe(4);
    // The first profile of a device measures the roofline first. These dispatches are not in the profile.
    expect(device.dispatches - before).toBeGreaterThanOrEqual(4);
    for (const { kernel, flops, bytes, durationMs } of rows.slice(0, 3)) {
      expect(kernel).toMatch(/^matmul_nn_f32/);
      expect(flops).toBe(2 * 40 * 24 * 36);
      expect(bytes).toBe(4 * (40 * 24 + 24 * 36 + 40 * 36));
      expect(durationMs).toBeGreaterThanOrEqual(0);
    }
    expect(rows[3]).toMatchObject({ kernel: 'square_f32_vec4', flops: null, bytes: 2 * 4 * 40 * 24 });
    expect(Object.fromEntries(kernels.map(({ kernel, calls }) => [kernel, calls]))).toEqual({
      [rows[0].kernel]: 3,
      square_f32_vec4: 1,
    });
    expect(kernels.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 6);
  });

  test('counts the FLOPs of a product once, even if its sum is split, and those of ops and gradients', async () => {
    const flops = async (work: () => unknown): Promise<number> =>
      flopsOf(
        await device.profile(() =>
          device.scope(() => {
            work();
          }),
        ),
      );
    expect(await flops(() => matmul(random(device, 8, 4096), random(device, 4096, 8)))).toBe(2 * 8 * 4096 * 8);
    expect(await flops(() => matmul(random(device, 5, 8, 4), random(device, 5, 4, 12)))).toBe(5 * 2 * 8 * 4 * 12);
    const gradients = (
      shapes: number[][],
      apply: (...inputs: ReturnType<typeof random>[]) => ReturnType<typeof random>,
    ) =>
      flops(() => {
        const inputs = shapes.map((shape) => Object.assign(random(device, ...shape), { requiresGrad: true }));
        backward(mean(square(apply(...inputs))));
      });
    const conv = 2 * (2 * 6 * 8) * 8 * 12 * 9;
    expect(
      await gradients(
        [
          [2, 12, 16, 8],
          [3, 3, 8, 12],
        ],
        (x, w) => conv2d(x, w, null, { stride: 2, padding: 1 }),
      ),
    ).toBe(3 * conv);
    const depthwise = 2 * (2 * 12 * 16) * 8 * 9;
    expect(
      await gradients(
        [
          [2, 12, 16, 8],
          [3, 3, 1, 8],
        ],
        (x, w) => conv2d(x, w, null, { padding: 1, groups: 8 }),
      ),
    ).toBe(3 * depthwise);
    // Two products forward. Backward needs four, computes the scores again twice (for queries; for keys and values),
    // and v . u twice.
    expect(await gradients([[2, 20, 3 * 16]], (qkv) => multiheadAttention(qkv, 2))).toBe(
      (2 + 3 + 4) * 2 * 2 * 20 * 20 * 16,
    );
    const interaction = 2 * 2 * 6 * 9 * 8 * 4;
    expect(
      await gradients([[6, 9, 8], [6, 64], [4], [4], [8], [8]], (roi, parameters, g1, b1, g2, b2) =>
        dynamicInteraction(roi, parameters, g1, b1, g2, b2),
      ),
    ).toBe(3 * interaction);
  });

  test('changes no bit of a training with host writes, copies and reads between its dispatches', async () => {
    const train = async (detail: ProfileDetail | null): Promise<Float32Array[]> => {
      const weight = device.parameter(new Random(1).normalArray(3 * 3 * 4 * 8), [3, 3, 4, 8]);
      const optimizer = new AdamW([{ name: 'weight', tensor: weight }], { weightDecay: 0.01 });
      const input = random(device, 2, 8, 8, 4),
        other = random(device, 2, 8, 8, 4);
      const seen: Float32Array[] = [];
      const work = async (): Promise<void> => {
        for (let step = 1; step <= 3; step++) {
          device.write(input, new Random(step).normalArray(input.size));
          const loss = device.scope(() => {
            const result = mean(square(conv2d(input, weight, null, { padding: 1 })));
            backward(result);
            optimizer.step({ learningRate: 0.1, maxGradientNorm: 1 });
            optimizer.zeroGrad();
            return result;
          });
          device.copy(input, other);
          device.scope(() => device.copy(mul(other, other), input));
          device.flush();
          seen.push(...((await Promise.all([loss.read(), weight.read(), input.read()])) as Float32Array[]));
        }
      };
      if (detail) await device.profile(work, { detail });
      else await work();
      return seen;
    };
    const plain = await train(null);
    expect(await train('dispatches')).toEqual(plain);
    expect(await train('submits')).toEqual(plain);
    expect(await train(null)).toEqual(plain);
  });

  test('gives a trace whose events are inside the profile, in order on each thread', async () => {
    const running = await device.startProfile();
    for (const phase of ['first', 'second']) {
      running.mark(phase);
      await device.scope(() => matmul(random(device, 64, 64), random(device, 64, 64))).read();
    }
    const profile = await running.finish();
    const events = (JSON.parse(JSON.stringify(profile.traceEvents())) as TraceEvent[]).filter(
      (event) => event.ph === 'X',
    );
    const onThread = (category: string): typeof events => events.filter(({ cat }) => cat === category);
    expect(onThread('kernel').map(({ name }) => name)).toEqual(profile.rows.map(({ kernel }) => kernel));
    expect(onThread('phase').map(({ name }) => name)).toEqual(['first', 'second']);
    expect(new Set(onThread('host').map(({ name }) => name))).toEqual(new Set(['encode', 'submit', 'wait']));
    for (const category of ['kernel', 'phase', 'host']) {
      let end = 0;
      for (const { ts, dur } of onThread(category)) {
        expect(ts).toBeGreaterThanOrEqual(end - 1e-3);
        expect(dur).toBeGreaterThanOrEqual(0);
        end = ts + dur;
      }
      expect(end).toBeLessThanOrEqual(1e3 * profile.wallMs + 1e3);
    }
  });

  test('ends if its work throws, and cannot begin during another', async () => {
    await expect(
      device.profile(() => {
        throw new Error('of the work');
      }),
    ).rejects.toThrow('of the work');
    const running = await device.startProfile({ detail: 'submits' });
    await expect(device.startProfile()).rejects.toThrow('startProfile: a profile of this device is running already');
    expect(() => device.scope(() => matmul(random(device, 4, 4), random(device, 4, 4)))).not.toThrow();
    const profile = await running.finish();
    expect(profile.rows.length).toBe(1);
    expect(() => profile.kernels()).toThrow("profile with detail 'dispatches'");
    expect((await device.profile(() => undefined)).rows).toEqual([]);
  });
});

test("the FLOPs of a model's dispatches equal those counted from its configuration", async () => {
  const config = MODEL_PRESETS.tiny;
  const model = new DynamicSparseRCNN(timed, config, 1);
  const image = { data: new Uint8Array(64 * 96 * 3).fill(90), width: 96, height: 64 };
  const profile = await timed.profile(() =>
    timed.noGrad(() =>
      timed.scope(() => {
        model.forward([image]);
      }),
    ),
  );
  // The three channels of an image are computed as four.
  const stem = 2 * 32 * 48 * config.stemChannels * 49;
  const counted = Object.values(countFlops(config, 64, 96)).reduce((a, b) => a + b, 0) + stem;
  expect(flopsOf(profile) / counted).toBeCloseTo(1, 1);
});

test('occupancy adds up to the wall time, and throws for profiles by wall clock', async () => {
  const work = (device: Device) => () =>
    device.scope(() => {
      for (let i = 0; i < 20; i++) matmul(random(device, 64, 64), random(device, 64, 64));
    });
  const profile = await timed.profile(work(timed), { detail: 'submits' });
  if (profile.timing === 'timestamps') {
    const { wallMs, busyMs, encodingMs, otherMs } = profile.occupancy();
    expect(busyMs + encodingMs + otherMs).toBeCloseTo(wallMs, 6);
    expect(busyMs).toBeGreaterThan(0);
  }
  const held = await untimed.profile(work(untimed), { detail: 'submits' });
  expect(held.deviceMs).toBeGreaterThan(0);
  expect(() => held.occupancy()).toThrow('occupancy: expected a profile with timestamps, got one by wall clock');
});

describe('train --profile', () => {
  const data = join(folder, 'shapes');

  test('writes a trace, and trains the same weights as without it', async () => {
    await ensureShapesDataset(data, { trainImages: 12, valImages: 2, imageSize: 64 });
    const printed: string[] = [];
    vi.spyOn(console, 'log').mockImplementation(() => undefined);
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => printed.push(String(text)) > 0);
    const run = async (name: string, ...options: string[]): Promise<readonly number[]> => {
      expect(
        await runTrain([
          '--data',
          data,
          '--config',
          'tiny',
          '--iterations',
          '17',
          '--set',
          'drawImages=0',
          '--set',
          'training.augmentation.fixedSize=[64,64]',
          '--out',
          join(folder, name),
          ...options,
        ]),
      ).toBe(0);
      return readMetrics(join(folder, name, 'metrics.jsonl')).map(({ loss }) => loss);
    };
    const plain = await run('plain');
    expect(await run('profiled', '--profile')).toEqual(plain);
    expect(existsSync(join(folder, 'plain', 'trace.json'))).toBe(false);
    const { traceEvents } = JSON.parse(readFileSync(join(folder, 'profiled', 'trace.json'), 'utf8')) as {
      traceEvents: TraceEvent[];
    };
    expect(traceEvents.flatMap((event) => (event.ph === 'X' && event.cat === 'phase' ? [event.name] : []))).toEqual([
      'iteration 4',
      'iteration 5',
      'iteration 6',
    ]);
    const table = /profile of 3 steps.*\nkernel +calls +ms .*\n[\s\S]*conv2d_/;
    const waits = /[\s\S]*the device waits for JavaScript \d+\.\d % of a step/;
    expect(printed.join('')).toMatch(new RegExp(table.source + waits.source));
    vi.restoreAllMocks();
  });

  test('begins where neither evaluation nor saving interrupts it, and refuses a run that is too short', async () => {
    const { training } = loadConfig({ config: 'tiny', set: [] }).config;
    expect(profileStart(0, { ...training, iterations: 100, saveEvery: 20, evaluateEvery: 50 })).toBe(0);
    expect(profileStart(5, { ...training, iterations: 100, saveEvery: 20, evaluateEvery: 0 })).toBe(20);
    expect(() => profileStart(0, { ...training, iterations: 100, saveEvery: 10 })).toThrow(
      '--profile needs 16 iterations in a row without evaluation or saving; this run has 100 to go',
    );
    await expect(
      runTrain(['--data', data, '--config', 'tiny', '--iterations', '5', '--out', join(folder, 'short'), '--profile']),
    ).rejects.toThrow('this run has 5 to go');
    expect(existsSync(join(folder, 'short'))).toBe(false);
    await expect(
      runTrain(['--data', data, '--config', 'tiny', '--profile', join(folder, 'none', 'trace.json')]),
    ).rejects.toThrow('--profile: expected a file in a folder that exists');
    await expect(runTrain(['--dry-run', '--profile'])).rejects.toThrow('--dry-run does not go with --profile');
  });
});
