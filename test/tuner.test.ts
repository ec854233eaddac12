/**
 * The tuner: a choice is used and gives the same values, a wrong variant is never chosen, and stored choices are used
 * only with the adapter and the kernels that they were measured with.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import {
  backward,
  conv2d,
  matmul,
  Random,
  sum,
  type Candidate,
  type Device,
  type Tensor,
  type TunedChoices,
  type TunedClass,
  type TuningProblem,
} from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { loadTuning, resetTuning, saveTuning, tuningFile } from '../engine/node/tuning-file.ts';
import { defineKernel, type Kernel } from '../kernels/kernel.ts';
import { SUBGROUP_TILES } from '../kernels/matmul.ts';
import { WORKGROUP_TILES } from '../kernels/matmul-tiled.ts';
import { runTune } from '../training/commands/tune.ts';
import { testDevices } from './devices.ts';
import { relativeError } from './op-harness.ts';
import { QUICK, withVariant } from './tuning.ts';

const devices = await testDevices();
const { device } = devices[0];
const folder = mkdtempSync(join(tmpdir(), 'tuner-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
afterEach(() => {
  for (const { device: opened } of devices) opened.tuner.reset();
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

const random = (on: Device, seed: number, ...shape: number[]): Tensor =>
  on.tensor(new Random(seed).normalArray(shape.reduce((a, b) => a * b, 1)), shape);

/** The values of some work, and the kernels that computed them. */
async function ran(on: Device, work: () => Tensor): Promise<{ values: Float32Array; kernels: string[] }> {
  let output: Tensor | null = null;
  const { rows } = await on.profile(() => {
    output = on.noGrad(() => on.scope(work));
  });
  const values = (await output!.read()) as Float32Array;
  output!.dispose();
  return { values, kernels: rows.map(({ kernel }) => kernel) };
}

/** Runs work, so that the tuner records its shape classes. */
const see = (on: Device, work: () => Tensor): void =>
  on.noGrad(() =>
    on.scope(() => {
      work();
    }),
  );

describe.each(devices)('a choice ($label)', ({ device: on }) => {
  const product = (): Tensor => matmul(random(on, 1, 40, 516), random(on, 2, 516, 72));

  test('is used; any choice gives the same values up to rounding, and the same bits each time', async () => {
    const shapeClass = 'matmul nn 40x72x516';
    const before = await ran(on, product);
    const [{ choice, excluded }] = (await on.tuner.tune(QUICK)).filter((result) => result.shapeClass === shapeClass);
    expect(excluded).toEqual([]);
    expect(choice).toMatchObject({ expected: expect.any(String), ms: expect.any(Number) });
    const exported = on.tuner.export();
    const tiles = Object.values(SUBGROUP_TILES[on.subgroupSize] ?? WORKGROUP_TILES) as {
      rows: number;
      columns: number;
    }[];
    for (const { rows, columns } of tiles) {
      for (const slices of [1, 2]) {
        const variant = `buffer ${rows}x${columns}${slices > 1 ? `, ${slices} slices` : ''}`;
        expect(on.tuner.import(withVariant(exported, shapeClass, variant))).toBe(1);
        const [first, second] = [await ran(on, product), await ran(on, product)];
        expect(on.tuner.stale, variant).toEqual([]);
        expect(first.kernels[0]).toContain(`${rows}x${columns}_vec4`);
        expect(first.kernels.length).toBe(slices);
        expect(relativeError(first.values, before.values)).toBeLessThan(1e-6);
        expect(second.values).toEqual(first.values);
      }
    }
    on.tuner.reset();
    expect((await ran(on, product)).values).toEqual(before.values);
  });

  test('leaves no memory of its measurement', async () => {
    see(on, product);
    const { liveBytes } = on.memory();
    await on.tuner.tune(QUICK);
    expect(on.memory().liveBytes).toBe(liveBytes);
    expect(on.tuner.pending).toEqual([]);
  });

  test('of a convolution and its gradients is one of several variants, all of them right', async () => {
    const weight = on.parameter(new Random(4).normalArray(3 * 3 * 32 * 48), [3, 3, 32, 48]);
    const image = on.parameter(new Random(3).normalArray(14 * 14 * 32), [1, 14, 14, 32]);
    const run = (): Tensor => conv2d(image, weight, null, { padding: 1 });
    const shapeClass = 'conv2d 3x3 pad 1 1x14x14x32 to 14x14x48 winograd4';
    const before = await ran(on, run);
    on.scope(() => backward(sum(run())));
    const results = await on.tuner.tune(QUICK);
    expect(results.flatMap(({ excluded }) => excluded)).toEqual([]);
    for (const gradient of [/^conv2d 3x3 pad 1 1x14x14x48 to 14x14x32/, /^conv2d-weight-gradient /])
      expect(results.some((result) => gradient.test(result.shapeClass) && result.choice !== null)).toBe(true);
    // Products between Winograd transforms have their own classes.
    expect(results.some((result) => /^matmul nn 49x48x32 batch 16$/.test(result.shapeClass))).toBe(true);
    const exported = on.tuner.export();
    for (const [variant, kernel] of [
      ['winograd 2x2', /^winograd2_input/],
      ['winograd 4x4', /^winograd4_input/],
      ['direct buffer 32x32', /^conv2d_f32/],
    ] as const) {
      on.tuner.import(withVariant(exported, shapeClass, variant));
      const after = await ran(on, run);
      expect(
        after.kernels.some((name) => kernel.test(name)),
        variant,
      ).toBe(true);
      expect(relativeError(after.values, before.values)).toBeLessThan(1e-5);
    }
    for (const parameter of [image, weight]) {
      parameter.zeroGrad();
      parameter.dispose();
    }
  });
});

test('F(4x4) is not a variant of a forward pass that needs gradients', () => {
  const weight = device.parameter(new Random(4).normalArray(3 * 3 * 8 * 8), [3, 3, 8, 8]);
  const seen = (run: () => void): string[] => {
    const before = device.tuner.pending;
    device.scope(run);
    return device.tuner.pending.filter((name) => !before.includes(name) && name.startsWith('conv2d '));
  };
  const run = (): void => {
    conv2d(random(device, 3, 1, 10, 10, 8), weight, null, { padding: 1 });
  };
  expect(seen(run)).toEqual(['conv2d 3x3 pad 1 1x10x10x8 to 10x10x8']);
  expect(seen(() => device.noGrad(run))).toEqual(['conv2d 3x3 pad 1 1x10x10x8 to 10x10x8 winograd4']);
  weight.dispose();
});

describe('a wrong variant', () => {
  const kernel = (name: string, body: string): Kernel =>
    defineKernel({
      name,
      workgroup: [64],
      params: { count: 'u32' },
      buffers: { input: 'read f32', output: 'write f32' },
      body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  ${body}`,
    });
  const RIGHT = kernel('test_right', 'output[i] = 2.0 * input[i];');
  const ALSO = kernel('test_also_right', 'output[i] = input[i] + input[i];');
  const WRONG = kernel('test_wrong', 'output[i] = select(2.0, 2.001, i % 7u == 0u) * input[i];');
  const PARTIAL = kernel('test_partial', 'if (i != 200u) { output[i] = 2.0 * input[i]; }');
  const BROKEN = kernel('test_broken', 'output[i] = 2.0 * inptu[i];');
  const candidate = (of: Kernel): Candidate<Kernel> => ({
    name: of.name,
    variant: of,
    kernels: () => [of],
    tolerance: 1e-6,
  });
  const problem = (expected: Kernel, others: readonly Kernel[]): TuningProblem<Kernel> => ({
    expected: candidate(expected),
    candidates: others.map(candidate),
    plain: RIGHT,
    tensors: { input: [300], output: [300] },
    output: 'output',
    run: (variant, { input, output }) => {
      if (variant === ALSO && others.includes(BROKEN) && expected === BROKEN) throw new Error('thrown on purpose');
      device.run(variant, { count: 300 }, { input, output }, [5, 1, 1]);
    },
  });
  const tuned = async (key: string): Promise<TunedClass> =>
    (await device.tuner.tune(QUICK)).find(({ shapeClass }) => shapeClass === `test ${key}`)!;

  test('is excluded by name, with the reason, and the device stays usable', async () => {
    device.tuner.choose('test', 'wrong ones', () => problem(RIGHT, [WRONG, PARTIAL, BROKEN, ALSO]));
    const { choice, excluded } = await tuned('wrong ones');
    expect(excluded.map(({ variant }) => variant)).toEqual(['test_wrong', 'test_partial', 'test_broken']);
    expect(excluded[0].reason).toMatch(
      /^its result is wrong: expected .* of at most 1\.0e-6 from the plain variant's, got \d\.\de-4$/,
    );
    expect(excluded[1].reason).toMatch(/got NaN$/);
    expect(excluded[2].reason).toMatch(/kernel test_broken does not compile/);
    expect(['test_right', 'test_also_right']).toContain(choice!.variant);
    await device.synchronize();
  });

  test("is not kept even if it is the cost model's choice; a variant that throws is wrong too", async () => {
    expect(device.tuner.choose('test', 'expected', () => problem(BROKEN, [BROKEN, WRONG, RIGHT, ALSO]))).toBe(BROKEN);
    const { choice, excluded } = await tuned('expected');
    expect(excluded.map(({ variant }) => variant)).toEqual(['test_broken', 'test_wrong', 'test_also_right']);
    expect(excluded[2].reason).toBe('thrown on purpose');
    expect(choice).toMatchObject({ variant: 'test_right', expected: 'test_broken', expectedMs: null });
    expect(device.tuner.choose('test', 'expected', () => problem(BROKEN, []))).toBe(RIGHT);
  });

  test('with several results is found by each result, and operands can have given values', async () => {
    const pair = (name: string, second: string): Kernel =>
      defineKernel({
        name,
        workgroup: [64],
        params: { count: 'u32' },
        buffers: { input: 'read f32', scale: 'read f32', output: 'write f32', other: 'write f32' },
        body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  output[i] = input[i] * scale[i];
  other[i] = ${second};`,
      });
    // Right only if all scales are 3.
    const [plain, same, wrong, partial] = [
      pair('test_pair', 'input[i] * scale[i]'),
      pair('test_pair_threes', '3.0 * input[i]'),
      pair('test_pair_wrong', '3.01 * input[i]'),
      pair('test_pair_partial', 'f32(3 * i)'),
    ];
    const made: number[] = [];
    device.tuner.choose('test', 'several results', () => ({
      expected: candidate(plain),
      candidates: [same, wrong, partial].map(candidate),
      plain,
      tensors: { input: [300], scale: [300], output: [300], other: [300] },
      output: ['output', 'other'],
      values: {
        scale: (_, count) => {
          made.push(count);
          return new Float32Array(count).fill(3);
        },
      },
      run: (variant: Kernel, { input, scale, output, other }) =>
        device.run(variant, { count: 300 }, { input, scale, output, other }, [5, 1, 1]),
    }));
    const { excluded } = await tuned('several results');
    expect(excluded.map(({ variant }) => variant)).toEqual(['test_pair_wrong', 'test_pair_partial']);
    expect(excluded[0].reason).toMatch(
      /^its other is wrong: expected .* of at most 1\.0e-6 from the plain variant's, got 3\.3e-3$/,
    );
    expect(made).toEqual([300]);
  });

  test("leaves the cost model's choice if no variant is right, or the plain one fails", async () => {
    device.tuner.choose('test', 'none right', () => problem(WRONG, [PARTIAL]));
    device.tuner.choose('test', 'no reference', () => ({ ...problem(RIGHT, [ALSO]), plain: BROKEN }));
    device.tuner.choose('test', 'too large', () => ({
      ...problem(RIGHT, [ALSO]),
      tensors: { input: [2 ** 28], output: [300] },
    }));
    const results = await device.tuner.tune(QUICK);
    const skipped = (key: string): string | null =>
      results.find(({ shapeClass }) => shapeClass === `test ${key}`)!.skipped;
    expect(skipped('none right')).toBe('no variant is right');
    expect(skipped('no reference')).toMatch(/^the plain variant fails: .*test_broken/);
    expect(skipped('too large')).toBe('operands and results take 1025 MiB, more than 512');
    expect(device.tuner.choose('test', 'none right', () => problem(WRONG, [PARTIAL]))).toBe(WRONG);
  });
});

test('tuning throws while it runs already, and stops when it is aborted', async () => {
  device.scope(() => {
    matmul(random(device, 1, 9, 24), random(device, 2, 24, 12));
  });
  const running = device.tuner.tune(QUICK);
  await expect(device.tuner.tune(QUICK)).rejects.toThrow('tune: the device is being tuned already');
  await running;
  device.tuner.reset();
  expect(await device.tuner.tune({ ...QUICK, signal: AbortSignal.abort() })).toEqual([]);
});

describe('stored choices', () => {
  const product = (on: Device) => (): Tensor => matmul(random(on, 1, 24, 132), random(on, 2, 132, 40));
  const shapeClass = 'matmul nn 24x40x132';
  /** One choice: a variant that is not the cost model's. */
  async function choices(): Promise<{ exported: TunedChoices; other: string }> {
    see(device, product(device));
    await device.tuner.tune(QUICK);
    const exported = device.tuner.export();
    const { expected } = exported.choices[shapeClass];
    const [a, b] = Object.values(SUBGROUP_TILES[device.subgroupSize] ?? WORKGROUP_TILES).map(
      (tile: { rows: number; columns: number }) => `buffer ${tile.rows}x${tile.columns}`,
    );
    const other = expected === a ? b : a;
    return { exported: withVariant(exported, shapeClass, other), other };
  }
  const tile = (variant: string): string => variant.split(' ')[1];

  test('go to a file with several adapters and come back; without the file there are none', async () => {
    const { exported, other } = await choices();
    device.tuner.reset();
    device.tuner.import(exported);
    const file = join(folder, 'deep', 'tuning.json');
    const foreign = {
      adapter: 'some other',
      driver: 'its driver',
      subgroupSize: 'not understood here',
      choices: { x: 1 },
    };
    saveTuning(device.tuner, file);
    const stored = JSON.parse(readFileSync(file, 'utf8'));
    writeFileSync(file, JSON.stringify({ ...stored, adapters: [foreign, ...stored.adapters] }));
    saveTuning(device.tuner, file);
    expect(readdirSync(join(folder, 'deep'))).toEqual(['tuning.json']);

    const [tuned, untuned, elsewhere] = [
      await openDevice({ tuning: file }),
      await openDevice({ tuning: 'off' }),
      await openDevice({ tuning: join(folder, 'not-there.json') }),
    ];
    expect(tuned.tuner.export()).toEqual(exported);
    expect(tuned.tuner.fingerprint).toMatch(/^[0-9a-f]{12}$/);
    expect([untuned, elsewhere].map(({ tuner }) => [tuner.fingerprint, tuner.summary])).toEqual([
      ['none', 'none'],
      ['none', 'none'],
    ]);
    expect((await ran(tuned, product(tuned))).kernels[0]).toContain(tile(other));
    expect((await ran(untuned, product(untuned))).kernels[0]).not.toContain(`${tile(other)}_vec4`);

    // Another process stores one more class meanwhile.
    untuned.tuner.import({ ...exported, choices: { 'test other process': exported.choices[shapeClass] } });
    saveTuning(untuned.tuner, file);
    expect(loadTuning(elsewhere.tuner, file)).toBe(2);
    expect(resetTuning(untuned.tuner, file)).toBe(2);
    expect(JSON.parse(readFileSync(file, 'utf8')).adapters).toEqual([foreign]);
    expect(resetTuning(untuned.tuner, file)).toBe(0);
    for (const opened of [tuned, untuned, elsewhere]) opened.destroy();
  });

  test('are in the cache folder by default', () => {
    const environment = { XDG_CACHE_HOME: '/cache', HOME: '/home/someone' };
    expect(tuningFile(undefined, environment)).toBe('/cache/dynamic-sparse-rcnn-webgpu/tuning.json');
    expect(tuningFile(undefined, { ...environment, DSRCNN_TUNING: '/other.json' })).toBe('/other.json');
    expect(tuningFile(undefined, { ...environment, DSRCNN_TUNING: 'off' })).toBe(null);
    expect(tuningFile('/mine.json', { ...environment, DSRCNN_TUNING: 'off' })).toBe('/mine.json');
    expect(tuningFile('off', environment)).toBe(null);
  });

  test('do not count if their kernels have changed, or if their variant does not exist', async () => {
    const { exported, other } = await choices();
    const values = (await ran(device, product(device))).values;
    for (const change of [{ kernels: '0123456789abcdef' }, { variant: 'buffer 7x7' }]) {
      device.tuner.reset();
      device.tuner.import({ ...exported, choices: { [shapeClass]: { ...exported.choices[shapeClass], ...change } } });
      expect(device.tuner.stale).toEqual([shapeClass]);
      expect(device.tuner.pending).toContain(shapeClass);
      const after = await ran(device, product(device));
      expect(after.kernels[0]).not.toContain(`${tile(other)}_vec4`);
      expect(relativeError(after.values, values)).toBeLessThan(1e-6);
    }
    await device.tuner.tune(QUICK);
    expect(device.tuner.stale).toEqual([]);
  });

  test('of another adapter, driver or subgroup size do not count', async () => {
    const { exported } = await choices();
    device.tuner.reset();
    for (const change of [{ adapter: 'another' }, { driver: 'another 1.2.3' }, { subgroupSize: 128 }])
      expect(device.tuner.import({ ...exported, ...change })).toBe(0);
    expect(device.tuner.fingerprint).toBe('none');
  });

  test('give way to forced variants', async () => {
    const { exported, other } = await choices();
    device.tuner.import(exported);
    const file = join(folder, 'forced.json');
    saveTuning(device.tuner, file);
    const forced = await openDevice({ tuning: file, force: { operands: 'buffer' } });
    expect((await ran(forced, product(forced))).kernels[0]).not.toContain(`${tile(other)}_vec4`);
    await expect(forced.tuner.tune(QUICK)).rejects.toThrow('tune: the device was opened with forced variants');
    forced.destroy();
  });

  test('in a wrong format are refused with the name of the field', async () => {
    const { exported } = await choices();
    const one = exported.choices[shapeClass];
    const at = `choices[${JSON.stringify(shapeClass)}]`;
    const cases: readonly (readonly [unknown, string])[] = [
      ['text', 'mine.json: tuned choices: expected an object, got "text"'],
      [{ ...exported, version: 7 }, 'mine.json: version: expected 1, got 7'],
      [{ ...exported, adapter: undefined }, 'mine.json: adapter: expected text, got nothing'],
      [{ ...exported, subgroupSize: -1 }, 'mine.json: subgroupSize: expected an integer >= 0, got -1'],
      [{ ...exported, choices: [] }, 'mine.json: choices: expected an object, got []'],
      [
        { ...exported, choices: { [shapeClass]: { ...one, variant: 3 } } },
        `mine.json: ${at}.variant: expected text, got 3`,
      ],
      [
        { ...exported, choices: { [shapeClass]: { ...one, ms: 'fast' } } },
        `mine.json: ${at}.ms: expected a number of milliseconds, got "fast"`,
      ],
    ];
    for (const [json, text] of cases) expect(() => device.tuner.import(json, 'mine.json')).toThrow(text);
  });

  test('in a broken file are not used: openDevice warns, and npm run tune names file and field', async () => {
    const { exported } = await choices();
    const warnings: string[] = [];
    vi.spyOn(process, 'emitWarning').mockImplementation((warning) => {
      warnings.push(String(warning));
    });
    vi.spyOn(console, 'log').mockImplementation(() => undefined);
    const file = join(folder, 'broken.json');
    const broken = { version: 1, adapters: [{ ...exported, choices: { some: { variant: 'x' } } }] };
    for (const [text, named] of [
      ['{"version": 1', /broken\.json: expected JSON/],
      ['{"version": 2, "adapters": []}', /broken\.json: version: expected 1, got 2/],
      ['{"version": 1, "adapters": [5]}', /broken\.json: adapters\[0\]: expected an object, got 5/],
      [JSON.stringify(broken), /broken\.json: adapters\[0\]: choices\["some"\]\.kernels: expected text, got nothing/],
    ] as const) {
      writeFileSync(file, text);
      const opened = await openDevice({ tuning: file });
      expect(opened.tuner.fingerprint).toBe('none');
      opened.destroy();
      expect(warnings.pop()).toMatch(named);
      vi.stubEnv('DSRCNN_TUNING', file);
      await expect(runTune(['--list'])).rejects.toThrow(named);
      expect(readFileSync(file, 'utf8')).toBe(text);
    }
    // The broken record is this adapter's: resetting repairs the file.
    expect(await runTune(['--reset'])).toBe(0);
    expect(JSON.parse(readFileSync(file, 'utf8')).adapters).toEqual([]);
  });
});

describe('npm run tune', () => {
  test('tunes classes of a step, stores, lists and removes them; after a signal it keeps those it has', async () => {
    const file = join(folder, 'command.json');
    vi.stubEnv('DSRCNN_TUNING', file);
    const lines: string[] = [];
    vi.spyOn(console, 'log').mockImplementation((line) => {
      lines.push(String(line));
    });
    vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      if (/left {2}/.test(String(text))) process.emit('SIGINT', 'SIGINT');
      return true;
    });
    expect(await runTune(['--list'])).toBe(0);
    expect(lines.join('\n')).toMatch(/none in .*command\.json: npm run tune makes them/);
    expect(existsSync(file)).toBe(false);
    expect(await runTune(['--preset', 'tiny', '--size', '64x64', '--batch', '1', '--set', 'numStages=1'])).toBe(130);
    expect(lines.join('\n')).toMatch(/sizes {5}tiny, 1 x 64 x 64/);
    const [adapter] = JSON.parse(readFileSync(file, 'utf8')).adapters;
    const count = Object.keys(adapter.choices).length;
    expect(count).toBeGreaterThan(0);
    const classes = (): number => Number(/^classes {3}(\d+) to tune/m.exec(lines.join('\n'))![1]);
    const count32 = classes();
    lines.length = 0;
    expect(await runTune(['--list'])).toBe(0);
    for (const shapeClass of Object.keys(adapter.choices)) expect(lines.join('\n')).toContain(shapeClass);
    expect(await runTune(['--reset'])).toBe(0);
    expect(lines.at(-1)).toBe(`removed   ${count} ${count === 1 ? 'choice' : 'choices'} of this adapter from ${file}`);
    if (!device.info.features.includes('shader-f16')) return;
    lines.length = 0;
    expect(
      await runTune(['--preset', 'tiny', '--size', '64x64', '--batch', '1', '--set', 'numStages=1', '--half']),
    ).toBe(130);
    expect(lines[0]).toMatch(/^device .*, inference with --half$/);
    // Inference in f16 has its own classes; in f32 it shares some with training.
    expect(classes()).toBeGreaterThan(count32);
  });

  test('refuses unknown and contradictory arguments', async () => {
    const refused = (argv: string[]): Promise<string> =>
      runTune(argv).then(
        () => 'nothing',
        (error: Error) => `${error.name}: ${error.message}`,
      );
    expect(await refused(['--frobnicate'])).toMatch(/^InputError: tune: Unknown option '--frobnicate'/);
    expect(await refused(['--list', '--preset', 'tiny'])).toBe('InputError: tune: --list does not go with --preset');
    expect(await refused(['--list'])).toMatch(/^InputError: tune: DSRCNN_TUNING=off says/);
    vi.stubEnv('DSRCNN_TUNING', join(folder, 'refused.json'));
    expect(await refused(['--size', '96'])).toBe(
      'InputError: tune: --size: expected HEIGHTxWIDTH in pixels, e.g. 480x640, got "96"',
    );
    expect(await refused(['--batch', '0'])).toBe('InputError: tune: --batch: expected an integer >= 1, got "0"');
    expect(await refused(['--preset', 'huge'])).toMatch(
      /^InputError: --config: expected a preset \(paper-r50, .*\) or a JSON file, got huge: nothing there$/,
    );
  });
});
