/**
 * The `ablation` command: trains the rows of the paper's ablation tables at the scale of any configuration, over several seeds, and puts what
 * comes out beside what the paper reports. Each run is an ordinary run of `train` in a folder `<row>-seed<k>`, so that an ablation can be
 * stopped at any moment and goes on with the same command.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import type { ModelConfig } from '../../model/index.ts';
import { integerOption, parseArguments } from './arguments.ts';
import { ensureShapesDataset, openDataset, splitRecords } from '../data/index.ts';
import { anyObject, checked, withFields, integer, shown } from '../core/checks.ts';
import { readJson, writeFileAtomic } from '../data/files.ts';
import { InputError } from '../core/errors.ts';
import { fitToData } from '../core/fit-to-data.ts';
import { loadConfig, type ConfigSource } from '../data/config-file.ts';
import { presetConfig, PRESET_NAMES, type RunConfig } from '../core/recipe.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import { formatDuration } from '../output/duration.ts';
import { formatTable } from '../output/table.ts';
import { writePlot } from '../pictures/plot-file.ts';
import type { Series } from '../pictures/series.ts';
import { readEvaluations, type EvaluationLine } from '../output/metrics-files.ts';
import { runTrain } from './train.ts';

/** What the rows differ in; every other key is the same for all of them. */
const VARIED = ['dpg', 'matcher', 'otaK', 'unitIncreasing'] as const satisfies readonly (keyof ModelConfig)[];

export interface AblationRow {
  readonly name: string;
  /** What it is, in the words of the paper's tables. */
  readonly shows: string;
  /** Where it differs from the whole method. */
  readonly differs: Partial<Pick<ModelConfig, (typeof VARIED)[number]>>;
  /** AP on COCO val2017 with ResNet-50, in percent. */
  readonly paperAP: number;
}

export const WHOLE_METHOD: Pick<ModelConfig, (typeof VARIED)[number]> = {
  dpg: 'staircase',
  matcher: 'ota',
  otaK: 0,
  unitIncreasing: true,
};

/** The rows with their numbers in [DSR, arXiv 2205.02101]: first the method built up part by part, then the matchers alone, without dynamic proposal generation. */
export const ABLATION_ROWS: readonly AblationRow[] = [
  { name: 'sparse-rcnn', shows: 'Sparse R-CNN', differs: { dpg: 'none', matcher: 'hungarian' }, paperAP: 45.0 },
  { name: 'dpg-plain', shows: '+ DPG, plain', differs: { dpg: 'plain', matcher: 'hungarian' }, paperAP: 45.3 },
  { name: 'dpg-staircase', shows: '+ staircase', differs: { matcher: 'hungarian' }, paperAP: 45.7 },
  { name: 'ota', shows: '+ OTA, dynamic k', differs: { unitIncreasing: false }, paperAP: 46.0 },
  { name: 'unit-increasing', shows: '+ unit increasing: the whole method', differs: {}, paperAP: 47.2 },
  { name: 'k2', shows: 'no DPG; OTA, k = 2', differs: { dpg: 'none', otaK: 2, unitIncreasing: false }, paperAP: 45.9 },
  { name: 'k3', shows: 'no DPG; OTA, k = 3', differs: { dpg: 'none', otaK: 3, unitIncreasing: false }, paperAP: 45.9 },
  {
    name: 'dynamic-k',
    shows: 'no DPG; OTA, dynamic k',
    differs: { dpg: 'none', unitIncreasing: false },
    paperAP: 46.1,
  },
];

const EMBEDDED_DATA = join('.cache', 'shapes');
const DEFAULT_OUT = join('runs', 'ablation');
const DEFAULT_ITERATIONS = 400;
/** So many evaluations along a run make its curve. */
const CURVE_POINTS = 8;

const HELP = `ablation: trains the rows of the paper's ablation tables over several seeds; a table beside the paper's, and AP against iterations

  npm run ablation -- [options]

  --seeds N        seeds 0 .. N - 1 (default 3); first all rows of seed 0, then all of seed 1, ...
  --iterations N   optimiser steps of each run (default ${DEFAULT_ITERATIONS})
  --rows A,B       only these rows (default: all)
  --config C       a preset or a JSON file as for train (default small)
  --set KEY=VALUE  changes one key for all rows, as for train; may be repeated
  --data DIR       a data set with train and val splits (default: the embedded one, generated on first use)
  --out DIR        each run's folder is DIR/<row>-seed<k> (default: ${DEFAULT_OUT})
  --report         train nothing: make table and plot again from the finished runs in --out
  --help           this text

Runs that are finished are kept, interrupted ones go on from their last checkpoint: the same command again continues an ablation that was stopped.
Written to --out: ablation.md, ablation.json, ablation.svg, ablation.png.

rows:
${ABLATION_ROWS.map(({ name, shows, paperAP }) => `  ${name.padEnd(16)} ${shows.padEnd(36)} ${paperAP.toFixed(1)} AP in the paper`).join('\n')}
`;

/** Runs the subcommand; resolves to the exit code: 130 where a signal stopped it. `train` does what runTrain does. */
export async function runAblation(
  argv: readonly string[],
  train: (argv: readonly string[]) => Promise<number> = runTrain,
): Promise<number> {
  const { values } = parseArguments('ablation', argv, {
    seeds: { type: 'string' },
    iterations: { type: 'string' },
    rows: { type: 'string' },
    config: { type: 'string' },
    set: { type: 'string', multiple: true },
    data: { type: 'string' },
    out: { type: 'string', default: DEFAULT_OUT },
    report: { type: 'boolean' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const rows = selectRows(values.rows);
  const out = resolve(values.out);
  if (values.report) {
    for (const name of ['seeds', 'iterations', 'config', 'set', 'data'] as const) {
      if (values[name] !== undefined)
        throw new InputError(
          `ablation: --${name} does not go with --report, which shows the runs in ${values.out} as they are`,
        );
    }
    await writeReport(out, rows);
    return 0;
  }

  // What is to be trained, and whether what is already there fits to it.
  const seeds = integerOption('ablation', 'seeds', values.seeds ?? '3', 1);
  const shared = sharedSettings({ config: values.config ?? 'small', set: values.set ?? [] }, values.iterations);
  const data = resolve(values.data ?? (await ensureShapesDataset(EMBEDDED_DATA, { log: (line) => console.log(line) })));
  const dataset = openDataset(data, { splits: ['train', 'val'] });
  const records = splitRecords(dataset, 'train');
  const { classNames, categoryIds } = dataset;
  for (const { row, seed, folder, description, finished, checkpoint } of findRuns(out, ABLATION_ROWS)) {
    if (!finished && checkpoint === null) continue;
    const wanted = {
      ...fitToData(loadConfig(runSettings(shared, row, seed)), records, classNames).config,
      data,
      classNames,
      categoryIds,
    };
    const [first, ...more] = differences(wanted, description);
    if (!first) continue;
    const others =
      more.length > 0
        ? ` (and ${more.length} more: ${more
            .slice(0, 5)
            .map(({ key }) => key)
            .join(', ')})`
        : '';
    throw new InputError(
      `ablation: ${join(folder, 'config.json')}: ${first.key} is ${shown(first.right)}, but would now be ${shown(first.left)}${others}; use the options that this ablation began with, or another --out`,
    );
  }
  mkdirSync(out, { recursive: true });

  // Seed by seed, so that what there is at any moment is balanced.
  const plan = Array.from({ length: seeds }, (_, seed) => rows.map((row) => ({ row, seed }))).flat();
  const { iterations } = loadConfig(shared).config.training;
  const clock = { iterations: 0, seconds: 0 };
  const stop = onSignal();
  try {
    for (const [index, { row, seed }] of plan.entries()) {
      const folder = runFolder(out, row, seed);
      const before = readRun(folder, row, seed);
      const title = `run ${index + 1} of ${plan.length}: ${row.name}, seed ${seed}`;
      if (before?.finished) {
        console.log(`${title}: finished before, AP ${before.evaluations[before.evaluations.length - 1].AP.toFixed(3)}`);
        continue;
      }
      const toDo = plan.slice(index).reduce((sum, later) => {
        const run = readRun(runFolder(out, later.row, later.seed), later.row, later.seed);
        return sum + (run?.finished ? 0 : iterations - (run?.checkpoint ?? 0));
      }, 0);
      console.log(
        `\n${title}${clock.iterations > 0 ? `; ${formatDuration((toDo * clock.seconds) / clock.iterations)} left for all` : ''}`,
      );
      const from = before?.checkpoint ?? null;
      // Without a checkpoint there is nothing to go on from; train refuses a folder that holds a configuration.
      if (before && from === null) rmSync(join(folder, 'config.json'));
      const { config, set } = runSettings(shared, row, seed);
      const started = performance.now();
      let code: number;
      try {
        code = await train(
          from === null
            ? ['--data', data, '--config', config, ...set.flatMap((item) => ['--set', item]), '--out', folder]
            : ['--resume', folder],
        );
      } catch (error) {
        throw error instanceof InputError
          ? new InputError(`ablation: ${row.name}, seed ${seed}: ${error.message}`)
          : error;
      }
      // A signal during a run's last iteration does not interrupt that run.
      if (code !== 0 || (stop.stopped && index < plan.length - 1)) {
        if (findRuns(out, rows).some(({ finished }) => finished)) await writeReport(out, rows);
        console.log(
          `stopped at run ${index + 1} of ${plan.length}; the same command goes on from here: npm run ablation${argv.length > 0 ? ` -- ${quoted(argv)}` : ''}`,
        );
        return code === 0 ? 130 : code;
      }
      if (!readRun(folder, row, seed)?.finished)
        throw new InputError(
          `ablation: ${folder}: training ended, but evaluations.jsonl has no line of iteration ${iterations}; remove this folder to train it again`,
        );
      clock.iterations += iterations - (from ?? 0);
      clock.seconds += (performance.now() - started) / 1000;
    }
  } finally {
    stop.release();
  }
  await writeReport(out, rows);
  return 0;
}

function selectRows(text: string | undefined): readonly AblationRow[] {
  if (text === undefined) return ABLATION_ROWS;
  const names = text.split(',').map((name) => name.trim());
  for (const name of names) {
    if (!ABLATION_ROWS.some((row) => row.name === name))
      throw new InputError(
        `ablation: --rows: ${JSON.stringify(name)} is not a row; there are ${ABLATION_ROWS.map((row) => row.name).join(', ')}`,
      );
  }
  return ABLATION_ROWS.filter(({ name }) => names.includes(name));
}

/** The settings of all rows, with the ablation's own defaults where nobody said otherwise. Throws InputError where one is set that the rows vary. */
function sharedSettings({ config, set }: ConfigSource, iterations: string | undefined): ConfigSource {
  const { given } = loadConfig({ config, set });
  for (const key of VARIED)
    if (given.has(`model.${key}`))
      throw new InputError(
        `ablation: model.${key} is what the rows vary; leave it out of --config and --set, and choose among the rows with --rows`,
      );
  if (given.has('training.seed'))
    throw new InputError(
      'ablation: training.seed is what the runs of a row vary; leave it out of --config and --set, and use --seeds',
    );
  const shared = [...set];
  if (iterations !== undefined)
    shared.push(`training.iterations=${integerOption('ablation', 'iterations', iterations, 1)}`);
  else if (!given.has('training.iterations')) shared.push(`training.iterations=${DEFAULT_ITERATIONS}`);
  const length = loadConfig({ config, set: shared }).config.training.iterations;
  if (!given.has('training.evaluateEvery')) shared.push(`training.evaluateEvery=${Math.ceil(length / CURVE_POINTS)}`);
  if (!given.has('training.drawImages')) shared.push('training.drawImages=0');
  return { config, set: shared };
}

/** The settings of one run: every varied key, so that they do not depend on the preset. */
function runSettings({ config, set }: ConfigSource, { differs }: AblationRow, seed: number): ConfigSource {
  const settings = { ...WHOLE_METHOD, ...differs };
  return { config, set: [...set, ...VARIED.map((key) => `model.${key}=${settings[key]}`), `training.seed=${seed}`] };
}

// Runs on disk

interface Run {
  readonly row: AblationRow;
  readonly seed: number;
  readonly folder: string;
  /** All of config.json but the tuning, which decides how results are rounded, not what is computed. */
  readonly description: Readonly<Record<string, unknown>>;
  readonly config: RunConfig;
  readonly evaluations: readonly EvaluationLine[];
  /** Iteration of the last checkpoint; null: there is none. */
  readonly checkpoint: number | null;
  /** Whether the last iteration has been evaluated. */
  readonly finished: boolean;
}

function runFolder(out: string, row: AblationRow, seed: number): string {
  return join(out, `${row.name}-seed${seed}`);
}

/** A run as its folder tells; null where none has begun. Throws InputError naming the file that is broken. */
function readRun(folder: string, row: AblationRow, seed: number): Run | null {
  const file = join(folder, 'config.json');
  if (!existsSync(file)) return null;
  const { tuning, ...description } = checked(anyObject, readJson(file), file);
  const config = validateRunConfig({ ...description }, file);
  const evaluations = readEvaluations(join(folder, 'evaluations.jsonl'));
  // Between two renames of saving it is the checkpoint before that remains.
  const state = ['last', 'last.previous']
    .map((name) => join(folder, name, 'state.json'))
    .find((path) => existsSync(path));
  const checkpoint =
    state === undefined ? null : checked(withFields({ iteration: integer(0) }), readJson(state), state).iteration;
  return {
    row,
    seed,
    folder,
    description,
    config,
    evaluations,
    checkpoint,
    finished: evaluations.at(-1)?.iteration === config.training.iterations,
  };
}

/** All runs of these rows that have begun, by row and seed. */
function findRuns(out: string, rows: readonly AblationRow[]): Run[] {
  const names = existsSync(out) ? readdirSync(out) : [];
  return rows.flatMap((row) =>
    names
      .flatMap((name) =>
        name.startsWith(`${row.name}-seed`) && /^(0|[1-9]\d*)$/.test(name.slice(row.name.length + 5))
          ? [Number(name.slice(row.name.length + 5))]
          : [],
      )
      .sort((a, b) => a - b)
      .flatMap((seed) => readRun(runFolder(out, row, seed), row, seed) ?? []),
  );
}

interface Difference {
  readonly key: string;
  readonly left: unknown;
  readonly right: unknown;
}

/** Where two JSON values differ, by dotted key. */
function differences(left: unknown, right: unknown, key = ''): Difference[] {
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (isObject(left) && isObject(right)) {
    const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
    return [...keys].flatMap((inner) => differences(left[inner], right[inner], key === '' ? inner : `${key}.${inner}`));
  }
  return JSON.stringify(left) === JSON.stringify(right) ? [] : [{ key, left, right }];
}

/** A table of runs that were not trained alike would mean nothing. Throws InputError naming the run and the key. */
function requireAlike(runs: readonly Run[]): void {
  const own = [...VARIED.map((key) => `model.${key}`), 'training.seed'];
  for (const { row, seed, folder, config, description } of runs) {
    const settings = { ...WHOLE_METHOD, ...row.differs };
    const file = join(folder, 'config.json');
    for (const key of VARIED)
      if (config.model[key] !== settings[key])
        throw new InputError(
          `ablation: ${file}: model.${key} must be ${settings[key]} in the row ${row.name}, got ${config.model[key]}`,
        );
    if (config.training.seed !== seed)
      throw new InputError(
        `ablation: ${file}: training.seed must be ${seed} as the folder says, got ${config.training.seed}`,
      );
    const other = differences(runs[0].description, description).find(({ key }) => !own.includes(key));
    if (other)
      throw new InputError(
        `ablation: ${file}: ${other.key} is ${shown(other.right)}, but ${shown(other.left)} in ${runs[0].folder}: these runs cannot stand in one table`,
      );
  }
}

// Table and plot

interface Statistics {
  /** In percent; NaN where there is no ground truth to measure by. */
  readonly mean: number;
  /** Sample standard deviation over the seeds; NaN of a single one. */
  readonly deviation: number;
  /** By seed. */
  readonly values: readonly number[];
}

interface RowResult {
  readonly row: string;
  readonly shows: string;
  readonly settings: typeof WHOLE_METHOD;
  readonly seeds: readonly number[];
  /** At the last iteration, not at the best: choosing by the validation images would flatter whoever varies more. */
  readonly AP: Statistics;
  readonly AP50: Statistics;
  readonly paperAP: number;
  /** [iteration, AP in percent]: the mean over the seeds, and of each. */
  readonly curve: readonly (readonly [number, number])[];
  readonly curves: readonly (readonly (readonly [number, number])[])[];
}

/** Mean and sample standard deviation. */
function statistics(values: readonly number[]): Statistics {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation =
    values.length > 1
      ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1))
      : NaN;
  return { mean, deviation, values };
}

const percent = (value: number): number => (value === -1 ? NaN : 100 * value);

function rowResult(row: AblationRow, runs: readonly Run[]): RowResult {
  const last = runs.map(({ evaluations }) => evaluations[evaluations.length - 1]);
  const curves = runs.map(({ evaluations }) =>
    evaluations.map(({ iteration, AP }) => [iteration, percent(AP)] as const),
  );
  const iterations = [...new Set(curves.flat().map(([iteration]) => iteration))].sort((a, b) => a - b);
  const at = (iteration: number): number[] =>
    curves.flatMap((curve) => curve.filter(([x]) => x === iteration).map(([, y]) => y));
  return {
    row: row.name,
    shows: row.shows,
    settings: { ...WHOLE_METHOD, ...row.differs },
    seeds: runs.map(({ seed }) => seed),
    AP: statistics(last.map(({ AP }) => percent(AP))),
    AP50: statistics(last.map(({ AP50 }) => percent(AP50))),
    paperAP: row.paperAP,
    curve: iterations.map((iteration) => [iteration, statistics(at(iteration)).mean] as const),
    curves,
  };
}

const spread = ({ mean, deviation }: Statistics): string =>
  Number.isNaN(mean) ? '-' : `${mean.toFixed(1)}${Number.isNaN(deviation) ? '' : ` ± ${deviation.toFixed(1)}`}`;

/** Prints the table of the finished runs and writes ablation.md, .json, .svg and .png. Throws InputError where there are none, or where they were not trained alike. */
async function writeReport(out: string, rows: readonly AblationRow[]): Promise<void> {
  const found = findRuns(out, rows);
  const runs = found.filter(({ finished }) => finished);
  if (runs.length === 0)
    throw new InputError(
      `ablation: ${out}: holds no finished run of the rows ${rows.map(({ name }) => name).join(', ')}`,
    );
  requireAlike(runs);
  const results = rows.flatMap((row) => {
    const own = runs.filter((run) => run.row === row);
    return own.length > 0 ? [rowResult(row, own)] : [];
  });
  const { config, description } = runs[0];
  const { preset, training } = config;
  const data = shownPath(String(description.data));
  const command = reproducingCommand(runs, results);
  const unfinished = found
    .filter(({ finished }) => !finished)
    .map(
      ({ folder, checkpoint }) =>
        `${relative(out, folder)} (${checkpoint === null ? 'no checkpoint' : `at iteration ${checkpoint} of ${training.iterations}`})`,
    );

  const header = ['row', 'what it is', 'AP', 'AP50', 'seeds', "paper's AP"];
  const cells = results.map(({ row, shows, AP, AP50, seeds, paperAP }) => [
    row,
    shows,
    spread(AP),
    spread(AP50),
    String(seeds.length),
    paperAP.toFixed(1),
  ]);
  const measured = `AP and AP50 in percent at iteration ${training.iterations}, mean ± sample standard deviation over the seeds (a single seed has none).`;
  const markdown = [
    '# Ablation',
    '',
    `Preset \`${preset}\`, ${training.iterations} iterations at batch ${training.batchSize * training.accumulation}, ${data === EMBEDDED_DATA ? 'the embedded data set' : data}. ${measured}`,
    "The paper's AP is that of ResNet-50 on COCO val2017 after 36 epochs: the order of the rows may be compared with it, the numbers may not.",
    '',
    `| ${header.join(' | ')} |`,
    '|---|---|---:|---:|---:|---:|',
    ...cells.map((row) => `| ${row.join(' | ')} |`),
    '',
    ...(unfinished.length > 0 ? [`Unfinished, and left out: ${unfinished.join(', ')}.`, ''] : []),
    'Made by',
    '',
    '```',
    command,
    '```',
    '',
    '![AP against iterations: the mean over the seeds, each seed behind it](ablation.svg)',
    '',
  ].join('\n');
  const json = {
    preset,
    iterations: training.iterations,
    data,
    command,
    unit: 'percent',
    deviation: 'sample standard deviation over the seeds',
    rows: results,
    unfinished,
  };
  writeFileAtomic(join(out, 'ablation.md'), markdown);
  writeFileAtomic(join(out, 'ablation.json'), `${JSON.stringify(json, null, 2)}\n`);
  const series = results.flatMap(({ row, curve, curves }): Series[] => [
    ...(curves.length > 1 ? curves.map((points, i) => ({ name: `${row} ${i}`, points, faint: true })) : []),
    { name: row, points: curve },
  ]);
  const plot = {
    title: `AP against iterations (${preset}; mean over the seeds, each seed pale)`,
    xLabel: 'iteration',
    yLabel: 'AP, percent',
    series,
  };
  for (const ending of ['svg', 'png']) await writePlot(join(out, `ablation.${ending}`), plot);

  console.log(`\n${formatTable(header, cells)}\n\n${measured}`);
  if (unfinished.length > 0) console.log(`unfinished, and left out: ${unfinished.join(', ')}`);
  console.log(
    `written   ${['md', 'json', 'svg', 'png'].map((ending) => shownPath(join(out, `ablation.${ending}`))).join(', ')}`,
  );
}

/** A path as short as it can be said: relative where it lies below the current folder. */
function shownPath(path: string): string {
  const short = relative('.', path);
  return short === '' || short.startsWith('..') ? path : short;
}

/** The command that makes these runs again. Any preset would do as its base: what differs from it is said. */
function reproducingCommand(runs: readonly Run[], results: readonly RowResult[]): string {
  const { config, description } = runs[0];
  const preset = PRESET_NAMES.find((name) => name === config.preset) ?? 'small';
  const { iterations, evaluateEvery, drawImages } = config.training;
  const implied = new Set([
    ...VARIED.map((key) => `model.${key}`),
    'training.seed',
    'training.iterations',
    ...(evaluateEvery === Math.ceil(iterations / CURVE_POINTS) ? ['training.evaluateEvery'] : []),
    ...(drawImages === 0 ? ['training.drawImages'] : []),
  ]);
  const base = presetConfig(preset);
  const changed = differences(
    { model: base.model, training: base.training },
    { model: config.model, training: config.training },
  ).filter(({ key }) => !implied.has(key));
  const data = shownPath(String(description.data));
  return `npm run ablation -- ${quoted([
    '--config',
    preset,
    '--iterations',
    String(iterations),
    '--seeds',
    String(Math.max(...runs.map(({ seed }) => seed)) + 1),
    ...(results.length < ABLATION_ROWS.length ? ['--rows', results.map(({ row }) => row).join(',')] : []),
    ...(data === EMBEDDED_DATA ? [] : ['--data', data]),
    ...changed.flatMap(({ key, right }) => [
      '--set',
      `${key}=${typeof right === 'string' ? right : JSON.stringify(right)}`,
    ]),
  ])}`;
}

/** Arguments as a shell takes them. */
function quoted(argv: readonly string[]): string {
  return argv
    .map((argument) => (/^[\w./,=:+-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

/**
 * Notes a signal, so that no further run begins. A run that trains saves itself and ends; where none does (a device is being opened, say),
 * nothing would be lost, and the signal ends the process as usual. So does a second one.
 */
function onSignal(): { stopped: boolean; release(): void } {
  const handler = (signal: NodeJS.Signals): void => {
    state.stopped = true;
    state.release();
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  };
  const state = {
    stopped: false,
    release(): void {
      process.off('SIGINT', handler);
      process.off('SIGTERM', handler);
    },
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return state;
}
