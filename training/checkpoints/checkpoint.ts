/**
 * Weights files and checkpoints. A checkpoint is a folder: `model.safetensors`, `optimizer.safetensors` and `state.json`.
 * Everything is written beside its place and then renamed, so that an interruption at any moment leaves a whole checkpoint behind.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  readSafetensors,
  ShapeError,
  WeightsError,
  writeSafetensors,
  type SafetensorsFile,
} from '../../engine/index.ts';
import type { Module, StoredTensor } from '../../engine/nn/index.ts';
import { asInteger, asObject, wrong } from '../core/checks.ts';
import { readJson, writeFileAtomic } from '../data/files.ts';
import { InputError } from '../core/errors.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import type { RunConfig } from '../core/recipe.ts';

/** What a weights file says about itself: enough to predict with nothing else. */
export interface WeightsDescription {
  readonly config: RunConfig;
  readonly classNames: readonly string[];
  readonly categoryIds: readonly number[];
  readonly iteration: number;
}

export interface TrainingState {
  /** Optimiser steps done. */
  readonly iteration: number;
  /** Steps the optimiser has counted. */
  readonly optimizerSteps: number;
  readonly best: { readonly iteration: number; readonly AP: number; readonly AP50: number } | null;
}

function describe({ config, classNames, categoryIds, iteration }: WeightsDescription): Record<string, string> {
  return {
    format: 'pt',
    config: JSON.stringify(config),
    class_names: JSON.stringify(classNames),
    category_ids: JSON.stringify(categoryIds),
    iteration: String(iteration),
  };
}

/** Writes a model's weights as safetensors under their Detectron2 names. */
export function saveWeights(
  path: string,
  values: ReadonlyMap<string, StoredTensor>,
  description: WeightsDescription,
): void {
  writeFileAtomic(path, writeSafetensors(values, describe(description)));
}

/** Reads a safetensors file. Throws InputError naming it. */
export function readWeightsFile(path: string): SafetensorsFile {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new InputError(`${path}: cannot be read: ${(error as Error).message}`);
  }
  try {
    return readSafetensors(new Uint8Array(bytes).buffer, path);
  } catch (error) {
    throw error instanceof WeightsError ? new InputError(error.message) : error;
  }
}

/** The f32 tensors of a file. Throws InputError where one has another type. */
export function floatTensors(file: SafetensorsFile, path: string): Map<string, StoredTensor> {
  const values = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape, data }] of file.tensors) {
    if (!(data instanceof Float32Array)) throw new InputError(`${path}: ${name}: expected dtype F32, got ${dtype}`);
    values.set(name, { shape, data });
  }
  return values;
}

/** The configuration and names that a weights file of ours carries. Throws InputError where it carries none. */
export function readDescription(file: Pick<SafetensorsFile, 'metadata'>, path: string): WeightsDescription {
  const field = (name: string): unknown => {
    const text = file.metadata[name];
    if (text === undefined)
      throw new InputError(`${path}: has no "${name}" in its metadata: not a weights file of this project`);
    try {
      return JSON.parse(text);
    } catch {
      throw new InputError(`${path}: metadata "${name}" is not JSON: ${text.slice(0, 60)}`);
    }
  };
  const classNames = field('class_names'),
    categoryIds = field('category_ids');
  if (!Array.isArray(classNames) || !classNames.every((name) => typeof name === 'string'))
    throw new InputError(`${path}: metadata "class_names" must be a list of names`);
  if (
    !Array.isArray(categoryIds) ||
    categoryIds.length !== classNames.length ||
    !categoryIds.every(Number.isSafeInteger)
  )
    throw new InputError(`${path}: metadata "category_ids" must be ${classNames.length} integers`);
  const config = validateRunConfig(field('config') as Record<string, unknown>, `${path}: metadata "config"`);
  if (config.model.numClasses !== classNames.length)
    throw new InputError(
      `${path}: metadata names ${classNames.length} classes, the configuration ${config.model.numClasses}`,
    );
  return { config, classNames, categoryIds, iteration: Number(file.metadata.iteration ?? 0) };
}

/** Loads all of a model's weights. Throws InputError naming the file where tensors are missing or have another shape. */
export function loadWeights(model: Pick<Module, 'load'>, file: SafetensorsFile, path: string): void {
  try {
    const { missing, unexpected } = model.load(floatTensors(file, path));
    const list = (names: readonly string[]): string =>
      `${names.slice(0, 5).join(', ')}${names.length > 5 ? ` and ${names.length - 5} more` : ''}`;
    if (missing.length > 0)
      throw new InputError(`${path}: lacks ${missing.length} tensors of the model: ${list(missing)}`);
    if (unexpected.length > 0)
      throw new InputError(`${path}: has ${unexpected.length} tensors that the model does not: ${list(unexpected)}`);
  } catch (error) {
    throw error instanceof ShapeError ? new InputError(`${path}: ${error.message}`) : error;
  }
}

const PARTS = { model: 'model.safetensors', optimizer: 'optimizer.safetensors', state: 'state.json' } as const;

/** Writes the checkpoint `folder`, replacing the one before. */
export function saveCheckpoint(
  folder: string,
  model: ReadonlyMap<string, StoredTensor>,
  optimizer: ReadonlyMap<string, StoredTensor>,
  state: TrainingState,
  description: WeightsDescription,
): void {
  const next = `${folder}.next`,
    previous = `${folder}.previous`;
  rmSync(next, { recursive: true, force: true });
  mkdirSync(next, { recursive: true });
  saveWeights(join(next, PARTS.model), model, description);
  writeFileAtomic(join(next, PARTS.optimizer), writeSafetensors(optimizer));
  writeFileAtomic(join(next, PARTS.state), `${JSON.stringify(state, null, 2)}\n`);
  rmSync(previous, { recursive: true, force: true });
  if (existsSync(folder)) renameSync(folder, previous);
  renameSync(next, folder);
  rmSync(previous, { recursive: true, force: true });
}

export interface Checkpoint {
  readonly model: SafetensorsFile;
  readonly optimizer: ReadonlyMap<string, StoredTensor>;
  readonly state: TrainingState;
  /** Of the model's weights and of the optimiser's state, for errors. */
  readonly path: string;
  readonly optimizerPath: string;
}

/** Reads the checkpoint `folder` (or the one before it, if an interruption came between two renames). Throws InputError naming what is missing or broken. */
export function readCheckpoint(folder: string): Checkpoint {
  const present = [folder, `${folder}.previous`].find((candidate) => existsSync(join(candidate, PARTS.state)));
  if (!present)
    throw new InputError(`${dirname(folder)}: no checkpoint to resume from: expected ${join(folder, PARTS.state)}`);
  const path = join(present, PARTS.state);
  const json = asObject(readJson(path), path, 'the whole file');
  const [iteration, optimizerSteps] = ['iteration', 'optimizerSteps'].map((key) => asInteger(json[key], 0, path, key));
  let best: TrainingState['best'] = null;
  if (json.best !== null && json.best !== undefined) {
    const fields = asObject(json.best, path, 'best');
    const [AP, AP50] = (['AP', 'AP50'] as const).map((key) => {
      const value = fields[key];
      if (typeof value !== 'number') throw wrong(path, `best.${key}`, 'a number', value);
      return value;
    });
    best = { iteration: asInteger(fields.iteration, 0, path, 'best.iteration'), AP, AP50 };
  }
  const optimizerPath = join(present, PARTS.optimizer),
    modelPath = join(present, PARTS.model);
  return {
    model: readWeightsFile(modelPath),
    optimizer: floatTensors(readWeightsFile(optimizerPath), optimizerPath),
    state: { iteration, optimizerSteps, best },
    path: modelPath,
    optimizerPath,
  };
}
