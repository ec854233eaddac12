/** The runs of an ablation on disk: one folder per row and seed, as the `train` command writes it. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { ABLATION_ROWS, type AblationRow, settingsOf, VARIED_KEYS } from '../core/ablation-rows.ts';
import { anyObject, checked, integer, isObject, shown, withFields } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import type { RunConfig } from '../core/recipe.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import { readJson } from '../data/files.ts';
import { type EvaluationLine, readEvaluations } from './metrics-files.ts';

export interface AblationRun {
  readonly row: AblationRow;
  readonly seed: number;
  readonly folder: string;
  /** config.json without the tuning, which changes only the rounding of results. */
  readonly description: Readonly<Record<string, unknown>>;
  readonly config: RunConfig;
  readonly evaluations: readonly EvaluationLine[];
  /** Iteration of the last checkpoint; null without a checkpoint. */
  readonly checkpoint: number | null;
  /** Whether the last iteration has been evaluated, or the last one before the training ended early. */
  readonly finished: boolean;
}

/** The fields of a checkpoint's state that matter here. */
const STATE = withFields({ iteration: integer(0), ended: v.nullish(v.string('a text'), null) });

/** The folder of a run. */
export function runFolder(out: string, row: AblationRow, seed: number): string {
  return join(out, `${row.name}-seed${seed}`);
}

/** Reads a run; null if it has not begun. Throws InputError naming the file that is malformed. */
export function readRun(folder: string, row: AblationRow, seed: number): AblationRun | null {
  const file = join(folder, 'config.json');
  if (!existsSync(file)) return null;
  const { tuning, ...description } = checked(anyObject, readJson(file), file);
  const config = validateRunConfig({ ...description }, file);
  const evaluations = readEvaluations(join(folder, 'evaluations.jsonl'));
  // An interruption between the two renames of saving leaves only the previous checkpoint.
  const state = ['last', 'last.previous']
    .map((name) => join(folder, name, 'state.json'))
    .find((path) => existsSync(path));
  const { iteration: checkpoint, ended } =
    state === undefined ? { iteration: null, ended: null } : checked(STATE, readJson(state), state);
  const finished = evaluations.at(-1)?.iteration === (ended ? checkpoint : config.training.iterations);
  // Keys that an earlier version did not have are there with their values.
  return { row, seed, folder, description: { ...description, ...config }, config, evaluations, checkpoint, finished };
}

/** All runs of these rows that have begun, ordered by row and seed. */
export function findRuns(out: string, rows: readonly AblationRow[] = ABLATION_ROWS): AblationRun[] {
  const names = existsSync(out) ? readdirSync(out) : [];
  const seedOf = (name: string, row: AblationRow): number | null => {
    const prefix = `${row.name}-seed`;
    const digits = name.slice(prefix.length);
    return name.startsWith(prefix) && /^(0|[1-9]\d*)$/.test(digits) ? Number(digits) : null;
  };
  return rows.flatMap((row) =>
    names
      .flatMap((name) => seedOf(name, row) ?? [])
      .sort((a, b) => a - b)
      .flatMap((seed) => readRun(runFolder(out, row, seed), row, seed) ?? []),
  );
}

export interface Difference {
  readonly key: string;
  readonly left: unknown;
  readonly right: unknown;
}

/** The differences of two JSON values, by dotted key. */
export function differences(left: unknown, right: unknown, key = ''): Difference[] {
  if (isObject(left) && isObject(right)) {
    const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
    return [...keys].flatMap((inner) => differences(left[inner], right[inner], key === '' ? inner : `${key}.${inner}`));
  }
  return JSON.stringify(left) === JSON.stringify(right) ? [] : [{ key, left, right }];
}

/**
 * Checks that the runs differ only in their rows and seeds, so that one table can compare them.
 * Throws InputError naming the run and the key.
 */
export function requireAlike(runs: readonly AblationRun[]): void {
  const varied = [...VARIED_KEYS.map((key) => `model.${key}`), 'training.seed'];
  for (const { row, seed, folder, config, description } of runs) {
    const file = join(folder, 'config.json');
    const refuse = (key: string, expected: string, got: unknown): InputError =>
      new InputError(`ablation: ${file}: ${key}: expected ${expected}, got ${shown(got)}`);
    const settings = settingsOf(row);
    for (const key of VARIED_KEYS) {
      if (config.model[key] !== settings[key])
        throw refuse(`model.${key}`, `${shown(settings[key])} in the row ${row.name}`, config.model[key]);
    }
    if (config.training.seed !== seed)
      throw refuse('training.seed', `${seed} as in the name of the folder`, config.training.seed);
    const other = differences(runs[0].description, description).find(({ key }) => !varied.includes(key));
    if (other) throw refuse(other.key, `${shown(other.left)} as in ${runs[0].folder}`, other.right);
  }
}
