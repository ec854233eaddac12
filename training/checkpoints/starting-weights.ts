/**
 * The starting weights in `training/starting-weights/`: learned from formula images alone, by `npm run pretrain`.
 * Trainings on own data start from them.
 */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { toHalf, writeSafetensors, type SafetensorData } from '../../engine/index.ts';
import type { ModelConfig } from '../../model/index.ts';
import { writeFileAtomic } from '../data/files.ts';
import { floatTensors, readDescription, readWeightsFile, toMetadata } from './weights-file.ts';

/** The file of a preset. */
const FILES: Readonly<Record<string, string>> = { small: 'small.safetensors' };

/** The keys that decide whether the weights fit: the shapes of nearly all tensors depend on them. */
const ARCHITECTURE = [
  'depth',
  'stemChannels',
  'norm',
  'numStages',
  'hiddenDim',
  'numAttentionHeads',
  'feedforwardDim',
  'dynamicDim',
  'numClassLayers',
  'numRegressionLayers',
  'poolerResolution',
] as const satisfies readonly (keyof ModelConfig)[];

/** The file to start from, or the reason why there is none. */
export type StartingWeights = { readonly file: string } | { readonly file: null; readonly reason: string };

/** The starting weights that fit a model. */
export function startingWeightsFor(preset: string, model: ModelConfig): StartingWeights {
  const name = Object.hasOwn(FILES, preset) ? FILES[preset] : undefined;
  if (name === undefined) return { file: null, reason: `there are no starting weights for the preset ${preset}` };
  const file = fileURLToPath(new URL(`../starting-weights/${name}`, import.meta.url));
  if (!existsSync(file)) return { file: null, reason: `${file} is missing` };
  const trained = readDescription(readWeightsFile(file), file).config.model;
  const differs = ARCHITECTURE.find((key) => trained[key] !== model[key]);
  if (differs === undefined) return { file };
  return {
    file: null,
    reason: `the starting weights have ${differs} ${trained[differs]}, the model has ${model[differs]}`,
  };
}

/**
 * Writes a run's weights as starting weights: f16, with the origin of the weights in the metadata.
 * @param from   weights of a run of `pretrain`
 * @param origin how the weights were made
 */
export function writeStartingWeights(path: string, from: string, origin: Readonly<Record<string, unknown>>): void {
  const file = readWeightsFile(from);
  const tensors = new Map<string, { readonly shape: readonly number[]; readonly data: SafetensorData }>();
  for (const [name, { shape, data }] of floatTensors(file, from)) tensors.set(name, { shape, data: toHalf(data) });
  const metadata = { ...toMetadata(readDescription(file, from)), origin: JSON.stringify(origin) };
  writeFileAtomic(path, writeSafetensors(tensors, metadata));
}
