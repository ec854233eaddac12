/**
 * Checkpoints of a training run. A checkpoint is a folder with `model.safetensors`, `optimizer.safetensors` and
 * `state.json`. A checkpoint is written under another name and then renamed, so an interruption leaves a complete one.
 */
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import * as v from 'valibot';
import { writeSafetensors, type SafetensorsFile } from '../../engine/index.ts';
import type { StoredTensor } from '../../engine/nn/index.ts';
import { checked, withFields, integer } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { readJson, writeFileAtomic, writeJson } from '../data/files.ts';
import { floatTensors, readWeightsFile, saveWeights, type WeightsDescription } from './weights-file.ts';

const metric = v.number('a number');

/** Reasons for the end of a training before its last iteration. */
const ENDINGS = ['no improvement', 'out of time'] as const;

const STATE = withFields({
  /** Optimizer steps done. */
  iteration: integer(0),
  /** Steps that the optimizer has counted. */
  optimizerSteps: integer(0),
  /** The evaluation with the highest AP. */
  best: v.nullish(withFields({ iteration: integer(0), AP: metric, AP50: metric }), null),
  /** Evaluations since AP last grew. */
  evaluationsSinceBest: v.nullish(integer(0), 0),
  /** Why the training ended before its last iteration; null: it did not. */
  ended: v.nullish(v.picklist(ENDINGS, `one of ${ENDINGS.join(', ')}, or null`), null),
});

/** The content of `state.json`. */
export type TrainingState = Readonly<v.InferOutput<typeof STATE>>;

const PARTS = { model: 'model.safetensors', optimizer: 'optimizer.safetensors', state: 'state.json' } as const;

export interface CheckpointContent {
  readonly model: ReadonlyMap<string, StoredTensor>;
  readonly optimizer: ReadonlyMap<string, StoredTensor>;
  readonly state: TrainingState;
  /** The metadata of the model's weights. */
  readonly description: WeightsDescription;
}

/** Writes the checkpoint `folder` and replaces the previous checkpoint. */
export function saveCheckpoint(folder: string, { model, optimizer, state, description }: CheckpointContent): void {
  const next = `${folder}.next`;
  const previous = `${folder}.previous`;
  rmSync(next, { recursive: true, force: true });
  mkdirSync(next, { recursive: true });
  saveWeights(join(next, PARTS.model), model, description);
  writeFileAtomic(join(next, PARTS.optimizer), writeSafetensors(optimizer));
  writeJson(join(next, PARTS.state), state);
  rmSync(previous, { recursive: true, force: true });
  if (existsSync(folder)) renameSync(folder, previous);
  renameSync(next, folder);
  rmSync(previous, { recursive: true, force: true });
}

export interface Checkpoint {
  readonly model: SafetensorsFile;
  readonly optimizer: ReadonlyMap<string, StoredTensor>;
  readonly state: TrainingState;
  /** The file of the model's weights, for errors. */
  readonly path: string;
  /** The file of the optimizer's state, for errors. */
  readonly optimizerPath: string;
}

/** The folder of the checkpoint, or of the previous one after an interruption between two renames; null without one. */
const completeFolder = (folder: string): string | null =>
  [folder, `${folder}.previous`].find((candidate) => existsSync(join(candidate, PARTS.state))) ?? null;

/** Whether there is a checkpoint to resume from. */
export const hasCheckpoint = (folder: string): boolean => completeFolder(folder) !== null;

/**
 * Reads the checkpoint `folder`. After an interruption between two renames, reads the previous checkpoint.
 * @throws InputError naming the file that is missing or invalid
 */
export function readCheckpoint(folder: string): Checkpoint {
  const complete = completeFolder(folder);
  if (!complete)
    throw new InputError(`${dirname(folder)}: no checkpoint to resume from: expected ${join(folder, PARTS.state)}`);
  const statePath = join(complete, PARTS.state);
  const optimizerPath = join(complete, PARTS.optimizer);
  const path = join(complete, PARTS.model);
  return {
    state: checked(STATE, readJson(statePath), statePath),
    model: readWeightsFile(path),
    optimizer: floatTensors(readWeightsFile(optimizerPath), optimizerPath),
    path,
    optimizerPath,
  };
}
