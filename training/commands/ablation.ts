/**
 * The `ablation` command: trains the rows of the paper's ablation tables over several seeds and reports their metrics.
 * Each run is an ordinary run of `train` in a folder `<row>-seed<k>`. So an ablation can be stopped at any time. The
 * same command then continues the ablation.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { ABLATION_ROWS, type AblationRow, settingsOf, VARIED_KEYS } from '../core/ablation-rows.ts';
import { shown } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { fitToData } from '../core/fit-to-data.ts';
import { type ConfigSource, loadConfig } from '../data/config-file.ts';
import { EMBEDDED_DATA, ensureShapesDataset, openDataset, splitRecords } from '../data/index.ts';
import { evaluationInterval } from '../output/ablation-results.ts';
import { differences, findRuns, readRun, runFolder } from '../output/ablation-runs.ts';
import { quoteArguments } from '../output/command-line.ts';
import { formatDuration } from '../output/duration.ts';
import { writeAblationReport } from '../pictures/ablation-report.ts';
import { integerOption, parseArguments } from './arguments.ts';
import { runTrain } from './train.ts';

const DEFAULT_OUT = join('runs', 'ablation');
const DEFAULT_ITERATIONS = 400;

const rowHelp = ({ name, shows, paperAP }: AblationRow): string =>
  `  ${name.padEnd(16)} ${shows.padEnd(36)} ${paperAP.toFixed(1)} AP in the paper`;

const HELP = `ablation: trains the rows of the paper's ablation tables over several seeds; writes a table and a plot

  npm run ablation -- [options]

  --seeds N        seeds 0 .. N - 1 (default 3); first all rows with seed 0, then all rows with seed 1, ...
  --iterations N   optimizer steps of each run (default ${DEFAULT_ITERATIONS})
  --rows A,B       only these rows (default: all)
  --config C       a preset or a JSON file as for train (default small)
  --set KEY=VALUE  changes one key for all rows, as for train; can be repeated
  --data DIR       a data set with train and val splits (default: the embedded one, generated on first use)
  --out DIR        the folder of each run is DIR/<row>-seed<k> (default: ${DEFAULT_OUT})
  --report         does not train; makes table and plot from the finished runs in --out
  --help           print this text

The same command again continues an ablation that was stopped: it keeps finished runs and resumes interrupted runs
from their last checkpoint. It writes to --out: ablation.md, ablation.json, ablation.svg, ablation.png.

rows:
${ABLATION_ROWS.map(rowHelp).join('\n')}
`;

type Train = (argv: readonly string[]) => Promise<number>;

/** Runs the subcommand; resolves to the exit code, 130 after a signal. `train` is runTrain, or a test's substitute. */
export async function runAblation(argv: readonly string[], train: Train = runTrain): Promise<number> {
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
    console.log(await writeAblationReport(out, rows));
    return 0;
  }

  const seeds = integerOption('ablation', 'seeds', values.seeds ?? '3', 1);
  const shared = sharedSettings({ config: values.config ?? 'small', set: values.set ?? [] }, values.iterations);
  const data = resolve(values.data ?? (await ensureShapesDataset(EMBEDDED_DATA, { log: (line) => console.log(line) })));
  await requireSameSettings(out, shared, data);
  mkdirSync(out, { recursive: true });

  // Seed by seed, so that at any time all rows have about as many runs.
  const plan = Array.from({ length: seeds }, (_, seed) => rows.map((row) => ({ row, seed }))).flat();
  const stop = onSignal();
  try {
    const stopped = await trainAll({ plan, out, shared, data, train, isStopped: () => stop.stopped });
    if (stopped !== null) {
      if (findRuns(out, rows).some(({ finished }) => finished)) console.log(await writeAblationReport(out, rows));
      const command = `npm run ablation${argv.length > 0 ? ` -- ${quoteArguments(argv)}` : ''}`;
      console.log(`stopped at run ${stopped.run} of ${plan.length}; the same command continues: ${command}`);
      return stopped.code;
    }
  } finally {
    stop.release();
  }
  console.log(await writeAblationReport(out, rows));
  return 0;
}

/** The rows that `--rows` names; all rows without it. */
function selectRows(text: string | undefined): readonly AblationRow[] {
  if (text === undefined) return ABLATION_ROWS;
  const known = ABLATION_ROWS.map(({ name }) => name);
  const names = text.split(',').map((name) => name.trim());
  for (const name of names) {
    if (!known.includes(name))
      throw new InputError(`ablation: --rows: expected rows of ${known.join(', ')}, got ${JSON.stringify(name)}`);
  }
  return ABLATION_ROWS.filter(({ name }) => names.includes(name));
}

/**
 * The settings of all rows, with the defaults of an ablation for keys that are not given.
 * Throws InputError for a given key that the rows or runs vary.
 */
function sharedSettings({ config, set }: ConfigSource, iterations: string | undefined): ConfigSource {
  const { given } = loadConfig({ config, set });
  const refuse = (key: string, varies: string, option: string): InputError =>
    new InputError(`ablation: --config and --set: ${key}: expected no value, because ${varies} it; use ${option}`);
  for (const key of VARIED_KEYS)
    if (given.has(`model.${key}`)) throw refuse(`model.${key}`, 'the rows vary', '--rows to choose rows');
  if (given.has('training.seed')) throw refuse('training.seed', 'the runs of a row vary', '--seeds');
  const shared = [...set];
  if (iterations !== undefined)
    shared.push(`training.iterations=${integerOption('ablation', 'iterations', iterations, 1)}`);
  else if (!given.has('training.iterations')) shared.push(`training.iterations=${DEFAULT_ITERATIONS}`);
  const length = loadConfig({ config, set: shared }).config.training.iterations;
  if (!given.has('training.evaluateEvery')) shared.push(`training.evaluateEvery=${evaluationInterval(length)}`);
  if (!given.has('training.drawImages')) shared.push('training.drawImages=0');
  return { config, set: shared };
}

/** The settings of one run. They contain every varied key, so they do not depend on the preset. */
function runSettings({ config, set }: ConfigSource, row: AblationRow, seed: number): ConfigSource {
  const settings = settingsOf(row);
  const varied = VARIED_KEYS.map((key) => `model.${key}=${settings[key]}`);
  return { config, set: [...set, ...varied, `training.seed=${seed}`] };
}

/** Throws InputError if a run in `out`, of any row, was trained with other settings or other data. */
async function requireSameSettings(out: string, shared: ConfigSource, data: string): Promise<void> {
  const dataset = await openDataset(data, { splits: ['train', 'val'] });
  const records = splitRecords(dataset, 'train');
  const { classNames, categoryIds } = dataset;
  for (const { row, seed, folder, description, finished, checkpoint } of findRuns(out)) {
    if (!finished && checkpoint === null) continue;
    const { config } = fitToData(loadConfig(runSettings(shared, row, seed)), records, classNames);
    const [first, ...more] = differences({ ...config, data, classNames, categoryIds }, description);
    if (!first) continue;
    const keys = more.slice(0, 5).map(({ key }) => key);
    const others = more.length > 0 ? ` (and ${more.length} more: ${keys.join(', ')})` : '';
    throw new InputError(
      `ablation: ${join(folder, 'config.json')}: ${first.key}: expected ${shown(first.left)} as in the options, ` +
        `got ${shown(first.right)}${others}; use the options that this ablation began with, or another --out`,
    );
  }
}

interface TrainAllOptions {
  readonly plan: readonly { readonly row: AblationRow; readonly seed: number }[];
  readonly out: string;
  readonly shared: ConfigSource;
  readonly data: string;
  readonly train: Train;
  readonly isStopped: () => boolean;
}

/** Trains all runs that are not finished. Resolves to the run and exit code that ended the ablation early, or null. */
async function trainAll(options: TrainAllOptions): Promise<{ run: number; code: number } | null> {
  const { plan, out, shared, data, train, isStopped } = options;
  const { iterations } = loadConfig(shared).config.training;
  const done = { iterations: 0, seconds: 0 };
  for (const [index, { row, seed }] of plan.entries()) {
    const folder = runFolder(out, row, seed);
    const before = readRun(folder, row, seed);
    const title = `run ${index + 1} of ${plan.length}: ${row.name}, seed ${seed}`;
    if (before?.finished) {
      console.log(`${title}: already finished, AP ${before.evaluations[before.evaluations.length - 1].AP.toFixed(3)}`);
      continue;
    }
    const remaining = plan.slice(index).reduce((sum, later) => {
      const run = readRun(runFolder(out, later.row, later.seed), later.row, later.seed);
      return sum + (run?.finished ? 0 : iterations - (run?.checkpoint ?? 0));
    }, 0);
    const left = formatDuration((remaining * done.seconds) / done.iterations);
    console.log(`\n${title}${done.iterations > 0 ? `; ${left} left for all` : ''}`);
    const from = before?.checkpoint ?? null;
    // A run without a checkpoint starts again. train refuses a folder that contains a configuration.
    if (before && from === null) rmSync(join(folder, 'config.json'));
    const { config, set } = runSettings(shared, row, seed);
    const keys = set.flatMap((item) => ['--set', item]);
    const fresh = ['--data', data, '--from', 'scratch', '--recipe', 'preset', '--config', config, ...keys];
    fresh.push('--out', folder);
    const started = performance.now();
    const code = await trainOne(train, from === null ? fresh : ['--resume', folder], `${row.name}, seed ${seed}`);
    // A signal during the last iteration of a run does not interrupt that run.
    if (code !== 0) return { run: index + 1, code };
    if (isStopped() && index < plan.length - 1) return { run: index + 1, code: 130 };
    if (!readRun(folder, row, seed)?.finished)
      throw new InputError(
        `ablation: ${join(folder, 'evaluations.jsonl')}: expected a line of iteration ${iterations} after the ` +
          'training, got none; remove this folder to train the run again',
      );
    done.iterations += iterations - (from ?? 0);
    done.seconds += (performance.now() - started) / 1000;
  }
  return null;
}

/** Trains one run; resolves to the exit code. Errors name the run. */
async function trainOne(train: Train, argv: readonly string[], name: string): Promise<number> {
  try {
    return await train(argv);
  } catch (error) {
    throw error instanceof InputError ? new InputError(`ablation: ${name}: ${error.message}`) : error;
  }
}

/**
 * Remembers a signal, so that no further run begins. A run in training handles the signal itself: it saves and ends.
 * Without such a run, for example while a device is opened, nothing is lost, and the signal ends the process. A second
 * signal also ends the process.
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
