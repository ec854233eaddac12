/**
 * The benchmarks without their timings: options, statistics, references that detect a wrong kernel, reports that
 * replace their sections of a page, and pictures.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readOptions } from '../bench/bench.ts';
import { random, sampleIndices, TOLERANCE, type OpCase } from '../bench/case.ts';
import { benchCases } from '../bench/cases.ts';
import {
  fitPowerLaw,
  largestError,
  medianRatio,
  quantile,
  sampleInterleaved,
  summarize,
  type Timing,
} from '../bench/measure.ts';
import { checkRow, prepare } from '../bench/micro.ts';
import { adapterOf, digits, placeSection, reportMarkdown, reportText, type Report } from '../bench/output.ts';
import { targetOf, verdict, type PeerResult } from '../bench/peers/compare.ts';
import { oneNodeModel } from '../bench/peers/onnx.ts';
import { matmulReference } from '../bench/references/products.ts';
import { attainable, placeLabels, rooflineSvg } from '../bench/roofline-chart.ts';
import type { MicroRow } from '../bench/rows.ts';
import { axisOf, scalingSvg } from '../bench/scaling.ts';
import { matmul } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';

const root = join(import.meta.dirname, '..');
const timing = (median: number): Timing => ({
  median,
  lower: median,
  upper: median,
  min: median,
  max: median,
  rounds: 1,
});

describe('options', () => {
  test.each([
    [['--rouns', '3'], '--rouns'],
    [['extra'], 'extra'],
    [['--rounds', 'many'], '--rounds'],
    [['--rounds', '0'], '--rounds'],
    [['--only', '('], '--only'],
    [['--preset', 'huge', '--step'], 'huge'],
    [['--peers', '--step'], '--step'],
    [['--torch'], '--torch'],
    [['--scaling', '--only', 'x'], '--only'],
    [['--step', '--python', 'x'], '--torch'],
    [['--roofline', 'roof.png'], '.svg'],
    [['--peers', '--roofline', 'roof.svg'], '--roofline'],
    [['--json', ''], '--json'],
  ])('%j is refused with the name of the wrong option', (argv, named) => {
    expect(() => readOptions(argv)).toThrow(named);
  });

  test('select the benchmark and its settings', () => {
    expect(readOptions([])).toMatchObject({
      mode: 'kernels',
      only: null,
      rounds: 7,
      python: null,
      command: 'npm run bench',
    });
    expect(readOptions(['--step', '--preset', 'tiny', '--torch'])).toMatchObject({
      mode: 'step',
      preset: 'tiny',
      python: '/usr/bin/python3',
    });
    expect(
      readOptions(['--peers', '--json', '/tmp/x.json', '--only', 'matmul nn', '--markdown=page.md']),
    ).toMatchObject({ mode: 'peers', command: 'npm run bench -- --peers --only "matmul nn"' });
    expect(readOptions(['--help'])).toBeNull();
  });

  test('a wrong option ends the command with one line and code 2', () => {
    let failure: { status?: number; stderr?: string } = {};
    try {
      execFileSync(process.execPath, ['--import', 'tsx', 'bench/bench.ts', '--fast'], {
        cwd: root,
        encoding: 'utf8',
        stdio: 'pipe',
      });
    } catch (error) {
      failure = error as typeof failure;
    }
    expect(failure.status).toBe(2);
    expect(failure.stderr?.trim().split('\n')).toHaveLength(1);
  });
});

describe('statistics', () => {
  test('quantiles lie between the values', () => {
    expect([0, 0.25, 0.5, 1].map((q) => quantile([4, 1, 3, 2], q))).toEqual([1, 1.75, 2.5, 4]);
    expect(summarize([3, 1, 2])).toEqual({ median: 2, lower: 1.5, upper: 2.5, min: 1, max: 3, rounds: 3 });
    expect(() => quantile([], 0.5)).toThrow('at least one');
  });

  test('a ratio is the median over the rounds, so a slow round does not change it', () => {
    expect(medianRatio([1, 10, 2], [3, 30, 6])).toBe(3);
  });

  test('jobs warm up, then take turns, with enough repetitions to fill a sample', async () => {
    const calls: string[] = [];
    let now = 0;
    const job = (name: string, ms: number) => ({
      name,
      run: async (times: number) => {
        calls.push(`${name}${times}`);
        now += ms * times;
      },
    });
    const samples = await sampleInterleaved([job('a', 1), job('b', 30)], { rounds: 2, sampleMs: 10, clock: () => now });
    expect(calls).toEqual(['a1', 'a1', 'a1', 'a10', 'a10', 'b1', 'b1', 'b1', 'a10', 'b1', 'a10', 'b1']);
    expect(samples).toEqual([
      [1, 1],
      [30, 30],
    ]);
  });

  test('a short job gets enough repetitions in spite of the cost of waiting and an interruption', async () => {
    const calls: number[] = [];
    let now = 0;
    const job = {
      name: 'short',
      run: async (times: number) => {
        calls.push(times);
        now += 4 + times * 0.1 + (calls.length === 2 ? 30 : 0);
      },
    };
    const [[sample]] = await sampleInterleaved([job], { rounds: 1, sampleMs: 40, clock: () => now });
    expect(calls.slice(0, 5)).toEqual([1, 1, 1, 10, 10]);
    expect(calls.at(-1)! * sample).toBeGreaterThan(20);
  });

  test('a power law is found', () => {
    const { exponent, factor, r2 } = fitPowerLaw([1, 2, 5, 9].map((x) => [x, 3 * x ** 1.5] as const));
    expect([exponent, factor, r2].map((value) => value.toFixed(6))).toEqual(['1.500000', '3.000000', '1.000000']);
    expect(() =>
      fitPowerLaw([
        [1, 2],
        [1, 3],
      ]),
    ).toThrow('two different');
  });

  test('errors are relative to the root mean square, and infinite for NaN', () => {
    expect(largestError([1, 2.002], [1, 2])).toBeCloseTo(0.002 / Math.sqrt(2.5), 9);
    expect(largestError([NaN, 2], [1, 2])).toBe(Infinity);
  });
});

describe('checks before timing', async () => {
  const device = await openDevice();
  afterAll(() => device.destroy());
  const product = (spoiled: boolean): OpCase => ({
    kind: 'op',
    op: 'matmul',
    shape: '8x12 . 12x16',
    flops: 1,
    inputs: () => ({ a: random([8, 12], 1), b: random([12, 16], 2) }),
    run: ({ a, b }) => matmul(a, b),
    // If spoiled, every sum of the reference lacks its last term, as in a kernel that stops one step too early.
    reference: ({ a, b }, upstream) =>
      matmulReference(
        a,
        spoiled ? { shape: b.shape, data: b.data.map((v, i) => (i >= 11 * 16 ? 0 : v)) } : b,
        { transposeA: false, transposeB: false },
        upstream,
      ),
    gradients: [{ wrt: ['a'], flops: 1 }],
  });

  test.each([
    [false, 'ok'],
    [true, 'WRONG'],
  ] as const)('a missing term (%j) gives %s, forward and backward', async (spoiled, status) => {
    for (const row of prepare(device, product(spoiled)))
      expect(await checkRow(row), row.part).toMatchObject({ status });
  });

  test('an error of NaN gives WRONG', async () => {
    expect(await checkRow({ check: async () => NaN })).toMatchObject({ status: 'WRONG' });
    expect(await checkRow({ check: async () => TOLERANCE / 2 })).toMatchObject({ status: 'ok' });
  });

  test('cover both ends of a large array and all of a small one', () => {
    expect(sampleIndices(10)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const indices = sampleIndices(1e6);
    expect(indices.every((i) => Number.isInteger(i) && i >= 0 && i < 1e6)).toBe(true);
    expect([0, 999_999].every((i) => indices.includes(i))).toBe(true);
  });

  test.each(
    benchCases()
      .filter(
        ({ preset, benchCase: { op } }) =>
          preset === 'small' && /layer norm|group norm|attention|depthwise|conv 1x1/.test(op),
      )
      .map(({ benchCase }) => [benchCase.op, benchCase] as const),
  )('the engine agrees with the reference of %s', async (_, benchCase) => {
    for (const row of prepare(device, benchCase)) expect(await row.check(), row.part).toBeLessThan(TOLERANCE);
  });
});

describe('peers', () => {
  const peer = (name: string, ratio: number | null, target: number | null): PeerResult => ({
    name,
    timing: null,
    ratio,
    target,
    note: null,
  });

  test('a faster peer is reported before a missed target', () => {
    expect(verdict([peer('tfjs', 9, 8), peer('jax-js', 6.5, 6), peer('onnxruntime', 0.5, null)])).toBe('met');
    expect(verdict([peer('tfjs', 7, 8), peer('jax-js', 6.5, 6)])).toBe('missed (tfjs)');
    expect(verdict([peer('tfjs', 7, 8), peer('jax-js', 0.9, 6)])).toBe('SLOWER than jax-js');
    expect(verdict([peer('tfjs', null, null)])).toBe('met');
  });

  test('targets depend on adapter, op and part', () => {
    const row = (op: string, part = 'forward', preset: 'paper' | 'small' = 'paper') => ({ op, part, preset });
    expect(targetOf('lavapipe', 'tfjs', row('matmul nn'), false)).toBe(8);
    expect(targetOf('lavapipe', 'jax-js', row('conv 3x3', 'dx'), false)).toBe(6);
    expect(targetOf('lavapipe', 'jax-js', row('matmul nn'), true)).toBe(5);
    expect(targetOf('swiftshader', 'tfjs', row('conv 3x3', 'dx'), false)).toBe(5);
    expect(targetOf('other', 'tfjs', row('matmul nn'), false)).toBe(1);
    expect(targetOf('lavapipe', 'tfjs', row('matmul nt', 'forward', 'small'), false)).toBe(1);
    expect(targetOf('lavapipe', 'onnxruntime', row('matmul nn'), false)).toBeNull();
  });

  test('are neither dependencies nor imports of the project', () => {
    const names = Object.keys(
      (
        JSON.parse(readFileSync(join(root, 'bench/peers/package.json'), 'utf8')) as {
          dependencies: Record<string, string>;
        }
      ).dependencies,
    );
    const own = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      dependencies: Record<string, string>;
      devDependencies: Record<string, string>;
    };
    expect(Object.keys({ ...own.dependencies, ...own.devDependencies }).filter((name) => names.includes(name))).toEqual(
      [],
    );
    const files = ['kernels', 'engine', 'model', 'training'].flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
        .filter((file) => /\.(ts|mjs)$/.test(file))
        .map((file) => join(root, folder, file)),
    );
    expect(files.filter((file) => names.some((name) => readFileSync(file, 'utf8').includes(`'${name}'`)))).toEqual([]);
  });

  test('an ONNX model has one node with its attributes', () => {
    const model = new TextDecoder('latin1').decode(oneNodeModel({ kind: 'conv2d', stride: 2, padding: 3 }, 4));
    for (const word of ['Conv', 'strides', 'pads']) expect(model).toContain(word);
  });
});

const report: Report = {
  name: 'kernels',
  title: 'Kernels',
  command: 'npm run bench',
  notes: ['A note.'],
  tables: [{ header: ['op', 'ms'], rows: [['a|b', '1.50']] }],
  data: {},
};
const adapter = adapterOf({
  info: { vendor: 'mesa', architecture: '', description: 'llvmpipe: Mesa', features: [] },
  subgroupSize: 8,
  tuner: { summary: 'none' },
});

describe('reports', () => {
  test('replace their own section of a page and keep the rest', () => {
    const first = placeSection('# Page\n\nText.\n', reportMarkdown(report, adapter));
    const other = placeSection(first, reportMarkdown({ ...report, name: 'scaling' }, adapter));
    const again = placeSection(other, reportMarkdown({ ...report, notes: ['Another note.'] }, adapter));
    expect(again).toContain('# Page\n\nText.');
    expect(again.match(/begin: kernels, lavapipe/g)).toHaveLength(1);
    expect(again.match(/begin: scaling, lavapipe/g)).toHaveLength(1);
    expect(again.match(/A note\./g)).toHaveLength(1);
    expect(again).toContain('Another note.');
    expect(again).toContain('| a\\|b | 1.50 |');
    expect(reportText(report)).toContain('A note.');
  });

  test('numbers have three significant digits', () => {
    expect([0.012345, 1.5, 43.21, 1234.5, 0].map(digits)).toEqual(['0.0123', '1.50', '43.2', '1235', '0']);
  });
});

describe('pictures', () => {
  const rows = benchCases().flatMap(({ preset, benchCase: { op, shape } }, i): MicroRow[] => [
    {
      preset,
      op,
      shape,
      part: 'forward',
      flops: 1e9,
      bytes: 1e6 * (i + 1),
      error: 0,
      status: 'ok',
      timing: timing(20 + i),
    },
  ]);

  test('the roofline shows every row with its number and name', () => {
    const svg = rooflineSvg(rows, { gigaflops: 100, computeForm: '', gigabytes: 10, copyForm: '' }, 'adapter <1>');
    for (const preset of ['paper', 'small'])
      rows
        .filter((row) => row.preset === preset)
        .forEach(({ op, shape }, i) => {
          expect(svg).toContain(`>${String(i + 1).padStart(2, '\u2007')}  ${op} ${shape}, forward<`);
        });
    const dots = [...svg.matchAll(/transform="matrix\(3\.5,0,0,3\.5,([^,]*),([^)]*)\)"/g)];
    expect(dots).toHaveLength(rows.length);
    expect(svg).toContain('adapter &lt;1&gt;');
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    expect(attainable({ gigaflops: 100, gigabytes: 10 }, 2)).toBe(20);
    expect(attainable({ gigaflops: 100, gigabytes: 10 }, 50)).toBe(100);
  });

  test('numbers do not cover each other, even for equal points', () => {
    const points = Array.from({ length: 30 }, (_, i) => [100 + (i % 3), 100 + (i % 2)] as const);
    const labels = placeLabels(
      points,
      points.map((_, i) => String(i + 1)),
      [0, 0, 300, 300],
    );
    for (const [i, [x, y]] of labels.entries()) {
      expect(x > 0 && x < 300 && y > 0 && y < 300).toBe(true);
      for (const [ox, oy] of labels.slice(i + 1)) expect(Math.abs(x - ox) >= 7 || Math.abs(y - oy) >= 9).toBe(true);
    }
  });

  test('scaling fits exponents', () => {
    const axis = axisOf(
      'batch',
      [1, 2, 4].map((value) => ({ value, timing: timing(value ** 2), peakBytes: 1e6 * value })),
    );
    expect([axis.time.exponent, axis.memory.exponent].map((value) => value.toFixed(3))).toEqual(['2.000', '1.000']);
    const svg = scalingSvg([axis], 'lavapipe');
    expect(svg).not.toMatch(/NaN|Infinity|undefined/);
  });
});
