/** Weights files of this project: safetensors with the configuration and the class names in their metadata. */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';
import {
  readSafetensors,
  ShapeError,
  WeightsError,
  writeSafetensors,
  type SafetensorsFile,
} from '../../engine/index.ts';
import type { Module, StoredTensor } from '../../engine/nn/index.ts';
import { anyInteger, checked, list, wrong } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import type { RunConfig } from '../core/recipe.ts';
import { writeFileAtomic } from '../data/files.ts';

/** The configuration and class names of weights. Prediction needs no other file. */
export interface ModelDescription {
  readonly config: RunConfig;
  readonly classNames: readonly string[];
  /** The COCO category id of each class. */
  readonly categoryIds: readonly number[];
  /** The value that becomes 255 in images of more than 8 bits, as in the training. Absent if it had no such images. */
  readonly white?: number | undefined;
}

/** The metadata of a weights file. */
export interface WeightsDescription extends ModelDescription {
  /** Optimizer steps that the weights were trained for. */
  readonly iteration: number;
}

/** The metadata keys of a weights file of this project, in every format that is written. */
export const OWN_METADATA: readonly string[] = [
  'config',
  'class_names',
  'category_ids',
  'white',
  'iteration',
  'origin',
];

/** The metadata of a file with this description. */
export function toMetadata(description: WeightsDescription): Record<string, string> {
  const { config, classNames, categoryIds, white, iteration } = description;
  return {
    format: 'pt',
    config: JSON.stringify(config),
    class_names: JSON.stringify(classNames),
    category_ids: JSON.stringify(categoryIds),
    ...(white !== undefined && { white: String(white) }),
    iteration: String(iteration),
  };
}

/** Writes a model's weights as safetensors under their Detectron2 names. */
export function saveWeights(
  path: string,
  values: ReadonlyMap<string, StoredTensor>,
  description: WeightsDescription,
): void {
  writeFileAtomic(path, writeSafetensors(values, toMetadata(description)));
}

/** The content of a file. Throws InputError naming the file if it cannot be read. */
export function readBytes(path: string): Uint8Array<ArrayBuffer> {
  let buffer: Buffer<ArrayBuffer>;
  try {
    buffer = readFileSync(path);
  } catch (error) {
    throw new InputError(`${path}: cannot be read: ${(error as Error).message}`);
  }
  // Node may return a part of a larger shared buffer. The caller gets a buffer with only the file's bytes.
  return buffer.byteLength === buffer.buffer.byteLength ? new Uint8Array(buffer.buffer) : new Uint8Array(buffer);
}

/** Runs `body`; the engine's WeightsError becomes an InputError. */
export function weightsErrorsAsInput<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw error instanceof WeightsError ? new InputError(error.message) : error;
  }
}

/** Reads a safetensors file. Throws InputError naming the file. */
export function readWeightsFile(path: string): SafetensorsFile {
  return weightsErrorsAsInput(() => readSafetensors(readBytes(path).buffer, path));
}

/** The f32 tensors of a file. Throws InputError where a tensor has another type. */
export function floatTensors(file: SafetensorsFile, path: string): Map<string, StoredTensor> {
  const values = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape, data }] of file.tensors) {
    if (!(data instanceof Float32Array)) throw new InputError(`${path}: ${name}: expected dtype F32, got ${dtype}`);
    values.set(name, { shape, data });
  }
  return values;
}

const WHITE = v.pipe(v.number('a number above 0'), v.gtValue(0, 'a number above 0'));
const CLASS_NAMES = list(v.string('text'));

/**
 * The metadata of a weights file of this project.
 * @throws InputError if the file has none, or if a field is wrong
 */
export function readDescription(file: Pick<SafetensorsFile, 'metadata'>, path: string): WeightsDescription {
  const source = `${path}: metadata`;
  const field = (name: string): unknown => {
    const text = file.metadata[name];
    if (text === undefined)
      throw new InputError(`${source}: expected "${name}", got nothing: not a weights file of this project`);
    try {
      return JSON.parse(text);
    } catch {
      throw wrong(source, name, 'JSON', text);
    }
  };
  const classNames = checked(CLASS_NAMES, field('class_names'), source, 'class_names');
  const categoryIds = checked(list(anyInteger), field('category_ids'), source, 'category_ids');
  if (categoryIds.length !== classNames.length)
    throw wrong(source, 'category_ids', `${classNames.length} integers, one for each class`, categoryIds);
  const config = validateRunConfig(field('config'), `${source}: config`);
  if (config.model.numClasses !== classNames.length)
    throw wrong(source, 'class_names', `${config.model.numClasses} classes, as in the configuration`, classNames);
  const white = file.metadata.white === undefined ? undefined : checked(WHITE, field('white'), source, 'white');
  return { config, classNames, categoryIds, white, iteration: Number(file.metadata.iteration ?? 0) };
}

/**
 * Loads all weights of a model.
 * @throws InputError naming the file if tensors are missing, unknown, or have another shape
 */
export function loadWeights(model: Pick<Module, 'load'>, file: SafetensorsFile, path: string): void {
  try {
    const { missing, unexpected } = model.load(floatTensors(file, path));
    if (missing.length > 0)
      throw new InputError(`${path}: lacks ${missing.length} tensors of the model: ${firstOf(missing)}`);
    if (unexpected.length > 0)
      throw new InputError(`${path}: has ${unexpected.length} tensors that the model lacks: ${firstOf(unexpected)}`);
  } catch (error) {
    throw error instanceof ShapeError ? new InputError(`${path}: ${error.message}`) : error;
  }
}

/** The first items of a list, for a message, and the number of the others. */
export function firstOf(items: readonly string[], count = 5): string {
  const more = items.length > count ? ` and ${items.length - count} more` : '';
  return items.slice(0, count).join(', ') + more;
}
