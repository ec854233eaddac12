/**
 * The ablation command: rows differ only in their settings, runs are kept, continued or started again, and the table
 * has the right numbers.
 */
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { runAblation } from '../training/commands/ablation.ts';
import { ABLATION_ROWS, WHOLE_METHOD } from '../training/core/ablation-rows.ts';
import { METRIC_NAMES } from '../training/core/coco-metrics.ts';
import { ensureShapesDataset, openDataset, splitRecords } from '../training/data/index.ts';
import { InputError } from '../training/core/errors.ts';
import { fitToData } from '../training/core/fit-to-data.ts';
import { loadConfig } from '../training/data/config-file.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'ablation-test-'));
const data = join(folder, 'shapes');
let printed = '';
beforeAll(() => ensureShapesDataset(data, { trainImages: 8, valImages: 4, imageSize: 64 }));
beforeEach(() => {
  printed = '';
  vi.spyOn(console, 'log').mockImplementation((line: string) => {
    printed += `${line}\n`;
  });
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

type Train = (argv: readonly string[]) => Promise<number>;

const option = (argv: readonly string[], name: string): string | undefined =>
  argv.includes(name) ? argv[argv.indexOf(name) + 1] : undefined;
const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));
const evaluation = (iteration: number, AP: number, AP50 = AP): string =>
  `${JSON.stringify({ ...Object.fromEntries(METRIC_NAMES.map((name) => [name, 0])), iteration, AP, AP50 })}\n`;

/**
 * Writes the files of a run without training. `measure` gives the AP of a run at an iteration. `stopAt` interrupts the
 * run of this name after a checkpoint at this iteration; with iteration 0, before the first checkpoint.
 */
class FakeTraining {
  readonly calls: string[] = [];
  constructor(
    private readonly measure: (run: string, iteration: number) => number = () => 0.25,
    public stopAt: { run: string; iteration: number } | null = null,
  ) {}

  readonly train: Train = async (argv) => {
    const resume = option(argv, '--resume');
    const out = resume ?? option(argv, '--out')!;
    const run = basename(out);
    this.calls.push(resume === undefined ? run : `resume ${run}`);
    if (resume === undefined) {
      if (existsSync(join(out, 'config.json'))) throw new InputError(`${out} already holds a run`);
      mkdirSync(out, { recursive: true });
      const dataset = await openDataset(option(argv, '--data')!);
      const set = argv.flatMap((argument, i) => (argv[i - 1] === '--set' ? [argument] : []));
      const { config } = fitToData(
        loadConfig({ config: option(argv, '--config')!, set }),
        splitRecords(dataset, 'train'),
        dataset.classNames,
      );
      writeFileSync(
        join(out, 'config.json'),
        JSON.stringify({
          ...config,
          data: option(argv, '--data'),
          classNames: dataset.classNames,
          categoryIds: dataset.categoryIds,
        }),
      );
      writeFileSync(join(out, 'evaluations.jsonl'), '');
    }
    const { iterations, evaluateEvery } = json(out, 'config.json').training as {
      iterations: number;
      evaluateEvery: number;
    };
    const from: number = resume === undefined ? 0 : json(out, 'last', 'state.json').iteration;
    const stopped = this.stopAt?.run === run ? this.stopAt.iteration : null;
    const end = stopped ?? iterations;
    for (let iteration = from + 1; iteration <= end; iteration++) {
      if (iteration % evaluateEvery === 0 || iteration === iterations)
        appendFileSync(
          join(out, 'evaluations.jsonl'),
          evaluation(iteration, this.measure(run, iteration), 2 * this.measure(run, iteration)),
        );
    }
    if (end > 0) {
      mkdirSync(join(out, 'last'), { recursive: true });
      writeFileSync(
        join(out, 'last', 'state.json'),
        JSON.stringify({ iteration: end, optimizerSteps: end, best: null }),
      );
    }
    if (stopped === null) return 0;
    this.stopAt = null;
    return 130;
  };
}

const ablate = (out: string, fake: { train: Train }, ...more: string[]): Promise<number> =>
  runAblation(
    ['--data', data, '--config', 'tiny', '--iterations', '16', '--out', join(folder, out), ...more],
    fake.train,
  );
const refused = async (pattern: RegExp, attempt: Promise<number>): Promise<void> => {
  expect(await inputErrorOf(() => attempt)).toMatch(pattern);
};

describe('bad arguments', () => {
  test.each<[RegExp, string[]]>([
    [/ablation: Unknown option '--row'/, ['--row', 'ota']],
    [/--rows: expected rows of sparse-rcnn, .*, dynamic-k, got "otta"/, ['--rows', 'ota,otta']],
    [/--seeds: expected an integer >= 1, got "0"/, ['--seeds', '0']],
    [/--iterations: expected an integer >= 1, got "many"/, ['--iterations', 'many']],
    [/--set depht: expected one of the keys depth, .*, got depht/, ['--set', 'depht=18']],
    [/model\.matcher: expected no value, because the rows vary it; .*--rows/, ['--set', 'matcher=ota']],
    [/training\.seed: expected no value, because the runs of a row vary it; .*--seeds/, ['--set', 'seed=7']],
    [/--seeds does not go with --report/, ['--report', '--seeds', '3']],
    [/expected a finished run of the rows sparse-rcnn, .*, got none/, ['--report', '--out', join(folder, 'nothing')]],
    [/expected the folder of a data set, got nothing there/, ['--data', join(folder, 'nothing')]],
  ])('%s', async (pattern, argv) => {
    const fake = new FakeTraining();
    await refused(pattern, runAblation(argv, fake.train));
    expect(fake.calls).toEqual([]);
  });

  test('an error of a run names the run', () =>
    refused(
      /ablation: ota, seed 0: training diverged/,
      ablate('diverged', { train: () => Promise.reject(new InputError('training diverged')) }, '--rows', 'ota'),
    ));
});

describe('rows', () => {
  test('differ from the whole method only in their settings, with any preset', async () => {
    const configs: Record<string, { model: Record<string, unknown>; training: Record<string, unknown> }> = {};
    for (const preset of ['tiny', 'sparse-rcnn-r50']) {
      expect(
        await runAblation(
          ['--data', data, '--config', preset, '--seeds', '1', '--iterations', '16', '--out', join(folder, preset)],
          new FakeTraining().train,
        ),
      ).toBe(0);
      for (const { name } of ABLATION_ROWS)
        configs[`${preset} ${name}`] = json(folder, preset, `${name}-seed0`, 'config.json');
    }
    const differences: Record<string, Record<string, unknown>> = {
      'sparse-rcnn': { dpg: 'none', matcher: 'hungarian' },
      'dpg-plain': { dpg: 'plain', matcher: 'hungarian' },
      'dpg-staircase': { matcher: 'hungarian' },
      ota: { unitIncreasing: false },
      'unit-increasing': {},
      k2: { dpg: 'none', otaK: 2, unitIncreasing: false },
      k3: { dpg: 'none', otaK: 3, unitIncreasing: false },
      'dynamic-k': { dpg: 'none', unitIncreasing: false },
    };
    expect(ABLATION_ROWS.map(({ name }) => name)).toEqual(Object.keys(differences));
    for (const preset of ['tiny', 'sparse-rcnn-r50']) {
      const whole = configs[`${preset} unit-increasing`];
      expect(whole.model).toMatchObject({ ...WHOLE_METHOD });
      expect(WHOLE_METHOD).toEqual({ dpg: 'staircase', matcher: 'ota', otaK: 0, unitIncreasing: true });
      for (const [name, differs] of Object.entries(differences))
        expect(configs[`${preset} ${name}`], name).toEqual({ ...whole, model: { ...whole.model, ...differs } });
    }
  });

  test('are evaluated eight times and draw no pictures by default', async () => {
    await ablate('defaults', new FakeTraining(), '--rows', 'k2', '--seeds', '2');
    expect(json(folder, 'defaults', 'k2-seed1', 'config.json').training).toMatchObject({
      seed: 1,
      iterations: 16,
      evaluateEvery: 2,
      drawImages: 0,
    });
    await ablate(
      'told',
      new FakeTraining(),
      '--rows',
      'k2',
      '--seeds',
      '1',
      '--set',
      'evaluateEvery=5',
      '--set',
      'drawImages=3',
      '--set',
      'learningRate=1e-3',
    );
    expect(json(folder, 'told', 'k2-seed0', 'config.json').training).toMatchObject({
      evaluateEvery: 5,
      drawImages: 3,
      learningRate: 1e-3,
    });
  });
});

describe('an ablation that is run again', () => {
  test('goes seed by seed, continues interrupted runs and keeps finished runs', async () => {
    const fake = new FakeTraining(undefined, { run: 'ota-seed1', iteration: 9 });
    const again = (): Promise<number> => ablate('again', fake, '--rows', 'k2,ota', '--seeds', '2');
    expect(await again()).toBe(130);
    expect(fake.calls).toEqual(['ota-seed0', 'k2-seed0', 'ota-seed1']);
    expect(printed).toMatch(
      /stopped at run 3 of 4; the same command continues: npm run ablation -- .*--rows k2,ota --seeds 2/,
    );
    expect(json(folder, 'again', 'ablation.json').unfinished).toEqual(['ota-seed1 (at iteration 9 of 16)']);
    fake.calls.length = 0;
    expect(await again()).toBe(0);
    expect(fake.calls).toEqual(['resume ota-seed1', 'k2-seed1']);
    expect(json(folder, 'again', 'ablation.json').unfinished).toEqual([]);
    fake.calls.length = 0;
    expect(await again()).toBe(0);
    expect(fake.calls).toEqual([]);
    // With more seeds only the new runs are trained.
    expect(await ablate('again', fake, '--rows', 'k2,ota', '--seeds', '3')).toBe(0);
    expect(fake.calls).toEqual(['ota-seed2', 'k2-seed2']);
  });

  test('starts a run without a checkpoint again', async () => {
    const fake = new FakeTraining(undefined, { run: 'k3-seed0', iteration: 0 });
    expect(await ablate('killed', fake, '--rows', 'k3', '--seeds', '1')).toBe(130);
    expect(existsSync(join(folder, 'killed', 'ablation.md'))).toBe(false);
    expect(await ablate('killed', fake, '--rows', 'k3', '--seeds', '1')).toBe(0);
    expect(fake.calls).toEqual(['k3-seed0', 'k3-seed0']);
  });

  test('refuses runs with other settings before it trains, and names the key', async () => {
    const fake = new FakeTraining();
    expect(await ablate('changed', fake, '--rows', 'k2', '--seeds', '1')).toBe(0);
    fake.calls.length = 0;
    await refused(
      /k2-seed0\/config\.json: training\.learningRate: expected 0\.001 as in the options, got 0\.002; .*another --out/,
      ablate('changed', fake, '--set', 'learningRate=1e-3'),
    );
    // The row is not requested, but a later report would compare it with the others.
    await refused(
      new RegExp(
        String.raw`k2-seed0/config\.json: training\.iterations: expected 32 as in the options, got 16 ` +
          String.raw`\(and 1 more: training\.evaluateEvery\)`,
      ),
      ablate('changed', fake, '--rows', 'k3', '--iterations', '32'),
    );
    const other = await ensureShapesDataset(join(folder, 'others'), {
      trainImages: 8,
      valImages: 4,
      imageSize: 64,
      seed: 1,
    });
    await refused(
      /k2-seed0\/config\.json: data: expected ".*others" as in the options, got ".*shapes"/,
      ablate('changed', fake, '--data', other),
    );
    expect(fake.calls).toEqual([]);
  });

  test('stops between two runs after a signal in the last iteration of one', async () => {
    const fake = new FakeTraining();
    const train: Train = async (argv) => {
      const own = (): void => undefined;
      process.once('SIGINT', own);
      process.emit('SIGINT', 'SIGINT');
      process.off('SIGINT', own);
      return fake.train(argv);
    };
    const before = process.listenerCount('SIGINT');
    expect(await ablate('signal', { train }, '--rows', 'k2,k3', '--seeds', '1')).toBe(130);
    expect(fake.calls).toEqual(['k2-seed0']);
    expect(process.listenerCount('SIGINT')).toBe(before);
  });
});

describe('table and plot', () => {
  test('show means and sample standard deviations of the last iteration, and the AP of the paper', async () => {
    // AP rises until the evaluation before the last, then falls. The table shows the last.
    const final: Record<string, number> = {
      'sparse-rcnn-seed0': 0.1,
      'sparse-rcnn-seed1': 0.12,
      'sparse-rcnn-seed2': 0.17,
      'k2-seed0': 0.2,
      'k2-seed1': 0.2,
      'k2-seed2': 0.2,
    };
    const fake = new FakeTraining((run, iteration) => (iteration === 16 ? final[run] : iteration / 40));
    expect(await ablate('table', fake, '--rows', 'sparse-rcnn,k2')).toBe(0);
    const { rows } = json(folder, 'table', 'ablation.json');
    const [sparse, k2] = rows;
    expect([sparse.row, sparse.paperAP, sparse.seeds, k2.row, k2.paperAP]).toEqual([
      'sparse-rcnn',
      45,
      [0, 1, 2],
      'k2',
      45.9,
    ]);
    expect(sparse.AP.mean).toBeCloseTo(13, 10);
    // (3^2 + 1^2 + 4^2) / 2 = 13
    expect(sparse.AP.deviation).toBeCloseTo(Math.sqrt(13), 10);
    expect(sparse.AP50.mean).toBeCloseTo(26, 10);
    expect(sparse.curve.map(([iteration]: [number]) => iteration)).toEqual([2, 4, 6, 8, 10, 12, 14, 16]);
    expect(sparse.curve[6][1]).toBeCloseTo(35, 10);
    expect(sparse.curve[7][1]).toBeCloseTo(13, 10);
    const markdown = readFileSync(join(folder, 'table', 'ablation.md'), 'utf8');
    expect(markdown).toContain('| sparse-rcnn | Sparse R-CNN | 13.0 ± 3.6 | 26.0 ± 7.2 | 3 | 45.0 |');
    expect(markdown).toContain('| k2 | no DPG; OTA, k = 2 | 20.0 ± 0.0 | 40.0 ± 0.0 | 3 | 45.9 |');
    expect(markdown).toContain('sample standard deviation');
    expect(printed).toMatch(/sparse-rcnn +Sparse R-CNN +13\.0 ± 3\.6 +26\.0 ± 7\.2 +3 +45\.0/);
    // A line for each row, and a pale line for each seed.
    const svg = readFileSync(join(folder, 'table', 'ablation.svg'), 'utf8');
    expect(svg.match(/stroke-opacity="0\.3"/g)).toHaveLength(6);
    expect(svg.match(/>(sparse-rcnn|k2)</g)).toHaveLength(2);
    expect(statSync(join(folder, 'table', 'ablation.png')).size).toBeGreaterThan(1000);
  });

  test('are made again from finished runs, without training', async () => {
    writeFileSync(join(folder, 'table', 'k2-seed2', 'evaluations.jsonl'), evaluation(2, 0.5) + evaluation(16, 0.5));
    rmSync(join(folder, 'table', 'k2-seed1'), { recursive: true });
    const fake = new FakeTraining();
    expect(await runAblation(['--report', '--out', join(folder, 'table'), '--rows', 'k2'], fake.train)).toBe(0);
    expect(fake.calls).toEqual([]);
    const { rows } = json(folder, 'table', 'ablation.json');
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({ row: 'k2', seeds: [0, 2], AP: { mean: 35 } });
  });

  test('name a command that makes the same runs again', async () => {
    await ablate(
      'named',
      new FakeTraining(),
      '--rows',
      'k2',
      '--seeds',
      '1',
      '--set',
      'learningRate=1e-3',
      '--set',
      'shortSides=[64,80]',
    );
    const command: string = json(folder, 'named', 'ablation.json').command;
    expect(command).toMatch(/^npm run ablation -- --config tiny --iterations 16 --seeds 1 --rows k2 /);
    const argv = [...command.replace('npm run ablation -- ', '').matchAll(/'([^']*)'|(\S+)/g)].map(
      ([, inQuotes, plain]) => inQuotes ?? plain,
    );
    const fake = new FakeTraining();
    expect(await runAblation([...argv, '--out', join(folder, 'named')], fake.train)).toBe(0);
    expect(fake.calls).toEqual([]);
  });

  test('refuse runs that were trained with different settings', async () => {
    await ablate('mixed', new FakeTraining(), '--rows', 'k2', '--seeds', '2');
    const file = join(folder, 'mixed', 'k2-seed1', 'config.json');
    const config = json(file);
    writeFileSync(file, JSON.stringify({ ...config, training: { ...config.training, weightDecay: 0.5 } }));
    await refused(
      /k2-seed1\/config\.json: training\.weightDecay: expected 0\.0001 as in .*k2-seed0, got 0\.5/,
      runAblation(['--report', '--out', join(folder, 'mixed')]),
    );
    writeFileSync(file, JSON.stringify({ ...config, model: { ...config.model, otaK: 3 } }));
    await refused(
      /k2-seed1\/config\.json: model\.otaK: expected 2 in the row k2, got 3/,
      runAblation(['--report', '--out', join(folder, 'mixed')]),
    );
  });
});

test('a real ablation of two rows leaves runs, table and plot', async () => {
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  const argv = [
    '--data',
    data,
    '--config',
    'tiny',
    '--iterations',
    '2',
    '--seeds',
    '1',
    '--rows',
    'sparse-rcnn,unit-increasing',
    '--out',
    join(folder, 'real'),
  ];
  expect(await runAblation(argv)).toBe(0);
  const { rows } = json(folder, 'real', 'ablation.json');
  for (const { seeds, AP, curve } of rows) {
    expect([seeds, AP.values.length, curve.map(([iteration]: [number]) => iteration)]).toEqual([[0], 1, [1, 2]]);
    expect(AP.mean >= 0 && AP.mean <= 100).toBe(true);
  }
  expect(rows).toHaveLength(2);
  for (const ending of ['md', 'svg', 'png']) expect(existsSync(join(folder, 'real', `ablation.${ending}`))).toBe(true);
  // The ablation accepts the runs of train: the second time it trains nothing.
  const fake = new FakeTraining();
  expect(await runAblation(argv, fake.train)).toBe(0);
  expect(fake.calls).toEqual([]);
});
