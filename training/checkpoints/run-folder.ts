/** The folder of a training run: the paths of its files, and config.json, which describes the run. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { anyInteger, checked, list, withFields } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import type { RunConfig } from '../core/recipe.ts';
import { readJson } from '../data/files.ts';

/** Paths of the files of a run. */
export interface RunFiles {
  readonly folder: string;
  /** A `RunDescription` as JSON. */
  readonly config: string;
  /** One line per step. */
  readonly metrics: string;
  /** One line per evaluation. */
  readonly evaluations: string;
  /** The best evaluation, its detections and its weights. */
  readonly evaluation: string;
  readonly detections: string;
  /** The evaluation of the best weights on the test split, at the end of the training. */
  readonly testEvaluation: string;
  readonly best: string;
  /** Picture of the first training images. */
  readonly batches: string;
  /** Folder of the last checkpoint. */
  readonly last: string;
  /** The plot of the loss, which is drawn at the end. */
  readonly lossPlot: string;
  /** Report on the weights that training started from. */
  readonly weights: string;
  /** Trace of a profile. */
  readonly trace: string;
}

export function runFiles(folder: string): RunFiles {
  return {
    folder,
    config: join(folder, 'config.json'),
    metrics: join(folder, 'metrics.jsonl'),
    evaluations: join(folder, 'evaluations.jsonl'),
    evaluation: join(folder, 'evaluation.json'),
    detections: join(folder, 'detections.json'),
    testEvaluation: join(folder, 'evaluation-test.json'),
    best: join(folder, 'best.safetensors'),
    batches: join(folder, 'train-batches.png'),
    last: join(folder, 'last'),
    lossPlot: join(folder, 'loss.png'),
    weights: join(folder, 'weights.json'),
    trace: join(folder, 'trace.json'),
  };
}

/** The content of config.json: the configuration, and the origin of data and classes. */
export interface RunDescription extends RunConfig {
  /** Folder of the data set. */
  readonly data: string;
  readonly classNames: readonly string[];
  readonly categoryIds: readonly number[];
  /**
   * Fingerprint of the tuned choices of kernel variants at the start of the run (npm run tune). Other choices round
   * differently.
   */
  readonly tuning: string;
}

/** Whether a folder holds a run. A run that ended in its first iteration, as after a bad image, does not count. */
export function holdsRun({ config, metrics, last, best }: RunFiles): boolean {
  if (!existsSync(config)) return false;
  const metricsBytes = statSync(metrics, { throwIfNoEntry: false })?.size ?? 0;
  return metricsBytes > 0 || [last, best].some((path) => existsSync(path));
}

const text = v.string('a text');

const ORIGIN = withFields({
  data: v.string("a folder's path"),
  classNames: list(text),
  categoryIds: list(anyInteger),
  tuning: v.optional(text, 'none'),
});

/** Reads a run's config.json. Throws InputError naming file and field. */
export function readRunDescription(file: string): RunDescription {
  if (!existsSync(file)) throw new InputError(`${file}: expected the configuration of a run, got nothing there`);
  const json = readJson(file);
  return { ...checked(ORIGIN, json, file), ...validateRunConfig(json, file) };
}
