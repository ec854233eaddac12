/** The results of an ablation: metrics of each row over its seeds, and the command that reproduces the runs. */
import {
  ABLATION_ROWS,
  type AblationRow,
  settingsOf,
  VARIED_KEYS,
  type VariedSettings,
} from '../core/ablation-rows.ts';
import { PRESET_NAMES, presetConfig } from '../core/recipe.ts';
import { EMBEDDED_DATA } from '../data/index.ts';
import { type AblationRun, differences } from './ablation-runs.ts';
import { quoteArguments, shortPath } from './command-line.ts';

/** Evaluations per run, which are the points of the run's AP curve. */
const CURVE_POINTS = 8;

/** The default of `training.evaluateEvery` in an ablation. */
export const evaluationInterval = (iterations: number): number => Math.ceil(iterations / CURVE_POINTS);

export interface Statistics {
  /** In percent; NaN without ground truth. */
  readonly mean: number;
  /** Sample standard deviation over the seeds; NaN for one seed. */
  readonly deviation: number;
  /** One value per seed. */
  readonly values: readonly number[];
}

type Curve = readonly (readonly [iteration: number, percent: number])[];

export interface RowResult {
  readonly row: string;
  readonly shows: string;
  readonly settings: VariedSettings;
  readonly seeds: readonly number[];
  /**
   * At the last iteration. The best iteration would depend on the validation images, which would favour unstable rows.
   */
  readonly AP: Statistics;
  readonly AP50: Statistics;
  readonly paperAP: number;
  /** AP: the mean over the seeds. */
  readonly curve: Curve;
  /** AP of each seed. */
  readonly curves: readonly Curve[];
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

/** COCO's -1 stands for a metric without ground truth. */
const percent = (value: number): number => (value === -1 ? NaN : 100 * value);

/** The result of a row from its runs; at least one. */
export function rowResult(row: AblationRow, runs: readonly AblationRun[]): RowResult {
  const last = runs.map(({ evaluations }) => evaluations[evaluations.length - 1]);
  const curves = runs.map(({ evaluations }) =>
    evaluations.map(({ iteration, AP }) => [iteration, percent(AP)] as const),
  );
  const iterations = [...new Set(curves.flat().map(([iteration]) => iteration))].sort((a, b) => a - b);
  const valuesAt = (iteration: number): number[] =>
    curves.flatMap((curve) => curve.filter(([x]) => x === iteration).map(([, y]) => y));
  return {
    row: row.name,
    shows: row.shows,
    settings: settingsOf(row),
    seeds: runs.map(({ seed }) => seed),
    AP: statistics(last.map(({ AP }) => percent(AP))),
    AP50: statistics(last.map(({ AP50 }) => percent(AP50))),
    paperAP: row.paperAP,
    curve: iterations.map((iteration) => [iteration, statistics(valuesAt(iteration)).mean] as const),
    curves,
  };
}

/** The command that reproduces these runs: a preset, and options for all settings that differ from the preset. */
export function reproducingCommand(runs: readonly AblationRun[], results: readonly RowResult[]): string {
  const { config, description } = runs[0];
  const preset = PRESET_NAMES.find((name) => name === config.preset) ?? 'small';
  const { iterations, evaluateEvery, drawImages } = config.training;
  // The ablation sets these keys itself.
  const implied = new Set([
    ...VARIED_KEYS.map((key) => `model.${key}`),
    'training.seed',
    'training.iterations',
    ...(evaluateEvery === evaluationInterval(iterations) ? ['training.evaluateEvery'] : []),
    ...(drawImages === 0 ? ['training.drawImages'] : []),
  ]);
  const base = presetConfig(preset);
  const changed = differences(
    { model: base.model, training: base.training },
    { model: config.model, training: config.training },
  ).filter(({ key }) => !implied.has(key));
  const data = shortPath(String(description.data));
  const seeds = Math.max(...runs.map(({ seed }) => seed)) + 1;
  return `npm run ablation -- ${quoteArguments([
    ...['--config', preset, '--iterations', String(iterations), '--seeds', String(seeds)],
    ...(results.length < ABLATION_ROWS.length ? ['--rows', results.map(({ row }) => row).join(',')] : []),
    ...(data === EMBEDDED_DATA ? [] : ['--data', data]),
    ...changed.flatMap(({ key, right }) => [
      '--set',
      `${key}=${typeof right === 'string' ? right : JSON.stringify(right)}`,
    ]),
  ])}`;
}
