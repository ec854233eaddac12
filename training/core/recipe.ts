/**
 * How a run is made: model and training configuration in one validated object, from a preset or a JSON file, with `key=value` changes on top,
 * fitted to the data where nobody said otherwise; and the schedules that follow from it.
 */
import {
  ConfigError,
  MODEL_PRESETS,
  validateModelConfig,
  type ModelConfig,
  type PresetName,
} from '../../model/index.ts';
import { insteadOfFile } from '../commands/arguments.ts';
import { readJson } from '../data/files.ts';
import type { ImageRecord } from './image-record.ts';
import { InputError } from './errors.ts';
import {
  PAPER_AUGMENTATION,
  validateAugmentation,
  validateEvaluationResize,
  type Augmentation,
  type EvaluationResize,
} from './transforms.ts';

export interface TrainingConfig {
  readonly seed: number;
  /** Optimiser steps. */
  readonly iterations: number;
  /** Images of a forward and backward pass. */
  readonly batchSize: number;
  /** Passes whose gradients are averaged into one optimiser step. */
  readonly accumulation: number;
  /**
   * Whether steps whose shapes come again are recorded and replayed: the same bits, less work for the host, and the memory of a recorded step kept for it. Worth it where
   * steps are short and shapes few.
   */
  readonly replay: boolean;
  readonly optimizer: 'adamw' | 'sgd';
  readonly learningRate: number;
  /** Of SGD. */
  readonly momentum: number;
  readonly weightDecay: number;
  /** Gradients are scaled down to this total L2 norm; 0: never. */
  readonly clipNorm: number;
  /** The learning rate grows linearly from `warmupFactor` times its value over this many iterations. */
  readonly warmupIterations: number;
  readonly warmupFactor: number;
  /** Shares of the training, rising, at which the learning rate is multiplied by `decayFactor`. */
  readonly milestones: readonly number[];
  readonly decayFactor: number;
  /** Softmax temperature of the experts: from start linearly to 1 over this share of the training. */
  readonly temperatureStart: number;
  readonly temperatureFraction: number;
  readonly augmentation: Augmentation;
  /** How images are resized for evaluation and prediction. */
  readonly evaluationResize: EvaluationResize;
  /** Iterations between evaluations; the end is always evaluated. 0: only the end. */
  readonly evaluateEvery: number;
  /** Iterations between checkpoints; the end is always saved. */
  readonly saveEvery: number;
  /** Threads that decode and augment. */
  readonly workers: number;
  /** Validation images drawn with their detections at the end. */
  readonly drawImages: number;
}

export interface RunConfig {
  readonly preset: string;
  readonly model: ModelConfig;
  readonly training: TrainingConfig;
}

/** COCO train2017 has 118,287 images: 36 epochs at batch 16. */
const PAPER_ITERATIONS = 36 * Math.ceil(118287 / 16);

const PAPER_TRAINING: TrainingConfig = {
  seed: 0,
  iterations: PAPER_ITERATIONS,
  batchSize: 1,
  accumulation: 16,
  replay: false,
  optimizer: 'adamw',
  learningRate: 2.5e-5,
  momentum: 0.9,
  weightDecay: 1e-4,
  clipNorm: 1,
  warmupIterations: 1000,
  warmupFactor: 0.01,
  milestones: [27 / 36, 33 / 36],
  decayFactor: 0.1,
  temperatureStart: 30,
  temperatureFraction: 0.1,
  augmentation: PAPER_AUGMENTATION,
  evaluationResize: { shortSide: 800, maxSize: 1333, fixedSize: null },
  evaluateEvery: 7500,
  saveEvery: 1000,
  workers: 2,
  drawImages: 16,
};

/** From scratch in minutes. The sizes are those of the embedded data set; `fitToData` changes them for other data. */
const SMALL_TRAINING: TrainingConfig = {
  ...PAPER_TRAINING,
  iterations: 1500,
  batchSize: 8,
  accumulation: 1,
  replay: true,
  learningRate: 7e-4,
  warmupIterations: 50,
  milestones: [0.85],
  augmentation: { flip: 0.5, shortSides: [96], maxSize: 160, crop: null, fixedSize: null },
  evaluationResize: { shortSide: 96, maxSize: 160, fixedSize: null },
  evaluateEvery: 500,
  saveEvery: 100,
  workers: 1,
  drawImages: 12,
};

const TRAINING_PRESETS: Record<PresetName, TrainingConfig> = {
  'paper-r50': PAPER_TRAINING,
  'paper-r101': PAPER_TRAINING,
  'sparse-rcnn-r50': PAPER_TRAINING,
  small: SMALL_TRAINING,
  tiny: {
    ...SMALL_TRAINING,
    iterations: 100,
    batchSize: 4,
    learningRate: 2e-3,
    warmupIterations: 20,
    evaluateEvery: 0,
    drawImages: 4,
  },
};

export const PRESET_NAMES = Object.keys(MODEL_PRESETS) as PresetName[];

type Json = Record<string, unknown>;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function presetConfig(name: PresetName): RunConfig {
  return { preset: name, model: MODEL_PRESETS[name], training: TRAINING_PRESETS[name] };
}

/** Leaves of the configuration as dotted keys, e.g. `training.augmentation.flip`. */
function leaves(value: unknown, path: string): string[] {
  return isObject(value)
    ? Object.entries(value).flatMap(([key, inner]) => leaves(inner, `${path}${path ? '.' : ''}${key}`))
    : [path];
}

function valueAt(root: Json, path: readonly string[]): unknown {
  return path.reduce<unknown>((at, key) => (isObject(at) ? at[key] : undefined), root);
}

function withValue(root: Json, [key, ...rest]: readonly string[], value: unknown): Json {
  const inner = root[key];
  return { ...root, [key]: rest.length === 0 ? value : withValue(isObject(inner) ? inner : {}, rest, value) };
}

/** Finds the full key of `model.depth`, `depth` or `augmentation.flip`. */
function resolveKey(config: Json, key: string): string[] {
  const groups = ['training.augmentation', 'training.augmentation.crop', 'training.evaluationResize'];
  const known = [
    ...new Set([
      ...leaves(config.model, 'model'),
      ...leaves(config.training, 'training'),
      ...leaves(PAPER_AUGMENTATION.crop, groups[1]),
      ...groups,
    ]),
  ];
  const all = known.filter((full) => full === key || full.endsWith(`.${key}`));
  // "shortSides" is the augmentation's own, not its crop's.
  const own = all.filter((full) => !full.startsWith(`${groups[1]}.`));
  const matches = own.length > 0 ? own : all;
  if (matches.length === 1) return matches[0].split('.');
  if (matches.length > 1 && matches.includes(key)) return key.split('.');
  if (matches.length > 1) throw new InputError(`--set ${key}: is ambiguous, write one of ${matches.join(', ')}`);
  throw new InputError(
    `--set ${key}: there is no such key; there are ${known.map((full) => full.replace(/^(model|training)\./, '')).join(', ')}`,
  );
}

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export interface ConfigSource {
  /** A preset's name or a JSON file: `{ "preset": "small", "model": { ... }, "training": { ... } }`, where what is not said comes from the preset. */
  readonly config: string;
  /** `key=value` each; the value is JSON or plain text. */
  readonly set: readonly string[];
}

export interface LoadedConfig {
  readonly config: RunConfig;
  /** Full keys that the file or `--set` gave, which fitting to the data leaves alone. */
  readonly given: ReadonlySet<string>;
  /** The data set that the file names, as a run's config.json does, and its classes there. */
  readonly data: string | null;
  readonly classNames: readonly string[] | null;
}

/** Reads and validates. Throws InputError naming the file or option, the key, what was expected and what came. */
export function loadConfig({ config: name, set }: ConfigSource): LoadedConfig {
  const given = new Set<string>();
  let merged: Json;
  let source = name;
  let data: LoadedConfig['data'] = null,
    classNames: LoadedConfig['classNames'] = null;
  if ((PRESET_NAMES as string[]).includes(name)) {
    merged = { ...presetConfig(name as PresetName) };
    source = `preset ${name}`;
  } else {
    const file = readConfigFile(name);
    const preset = file.preset ?? 'small';
    data = optional(
      file.data,
      `${name}: data`,
      "a folder's path",
      (value): value is string => typeof value === 'string' && value !== '',
    );
    classNames = optional(
      file.classNames,
      `${name}: classNames`,
      'a list of names',
      (value): value is string[] => Array.isArray(value) && value.every((one) => typeof one === 'string'),
    );
    if (!(PRESET_NAMES as unknown[]).includes(preset))
      throw new InputError(`${name}: preset must be one of ${PRESET_NAMES.join(', ')}, got ${JSON.stringify(preset)}`);
    merged = { ...presetConfig(preset as PresetName) };
    for (const section of ['model', 'training'] as const) {
      const values = file[section] ?? {};
      if (!isObject(values))
        throw new InputError(`${name}: ${section} must be an object, got ${JSON.stringify(values)}`);
      for (const key of leaves(values, section)) {
        if (key === section) continue;
        merged = withValue(merged, key.split('.'), valueAt(file, key.split('.')));
        given.add(key);
      }
    }
  }
  for (const item of set) {
    const equals = item.indexOf('=');
    if (equals < 1) throw new InputError(`--set ${item}: expected key=value`);
    const path = resolveKey(merged, item.slice(0, equals));
    merged = withValue(merged, path, parseValue(item.slice(equals + 1)));
    given.add(path.join('.'));
  }
  if (set.length > 0) source = `${source} with --set ${set.join(' ')}`;
  return { config: validateRunConfig(merged, source), given, data, classNames };
}

/** A field that may be missing (null then). */
function optional<T>(value: unknown, field: string, expected: string, holds: (value: unknown) => value is T): T | null {
  if (value === undefined) return null;
  if (!holds(value)) throw new InputError(`${field}: must be ${expected}, got ${JSON.stringify(value)}`);
  return value;
}

function readConfigFile(file: string): Json {
  const instead = insteadOfFile(file);
  if (instead !== null)
    throw new InputError(`--config ${file}: neither a preset (${PRESET_NAMES.join(', ')}) nor a JSON file: ${instead}`);
  const json = readJson(file);
  if (!isObject(json)) throw new InputError(`${file}: expected a JSON object`);
  const known = ['preset', 'model', 'training', 'data', 'classNames', 'categoryIds', 'tuning'];
  for (const key of Object.keys(json))
    if (!known.includes(key)) throw new InputError(`${file}: ${key} is not a key; there are ${known.join(', ')}`);
  return json;
}

type Rule = readonly [expected: string, holds: (value: unknown) => boolean];

const whole = (least: number, most = Number.MAX_SAFE_INTEGER): Rule => [
  most === Number.MAX_SAFE_INTEGER ? `an integer >= ${least}` : `an integer in ${least} .. ${most}`,
  (v) => Number.isSafeInteger(v) && (v as number) >= least && (v as number) <= most,
];
const real = (least: number, most = Infinity): Rule => [
  `a number in ${least} .. ${most}`,
  (v) => typeof v === 'number' && Number.isFinite(v) && v >= least && v <= most,
];

const TRAINING_RULES: Record<Exclude<keyof TrainingConfig, 'augmentation' | 'evaluationResize'>, Rule> = {
  seed: [
    'an integer in 0 .. 4294967295',
    (v) => Number.isSafeInteger(v) && (v as number) >= 0 && (v as number) <= 0xffffffff,
  ],
  iterations: whole(1),
  batchSize: whole(1, 4096),
  accumulation: whole(1, 65536),
  replay: ['true or false', (v) => typeof v === 'boolean'],
  optimizer: ['adamw or sgd', (v) => v === 'adamw' || v === 'sgd'],
  learningRate: ['a number > 0', (v) => typeof v === 'number' && Number.isFinite(v) && v > 0],
  momentum: ['a number >= 0 and < 1', (v) => typeof v === 'number' && v >= 0 && v < 1],
  weightDecay: real(0),
  clipNorm: real(0),
  warmupIterations: whole(0),
  warmupFactor: real(0, 1),
  milestones: [
    'a rising list of numbers in 0 .. 1',
    (v) =>
      Array.isArray(v) && v.every((m, i) => typeof m === 'number' && m >= 0 && m <= 1 && (i === 0 || m > v[i - 1])),
  ],
  decayFactor: real(0, 1),
  temperatureStart: ['a number >= 1', (v) => typeof v === 'number' && Number.isFinite(v) && v >= 1],
  temperatureFraction: real(0, 1),
  evaluateEvery: whole(0),
  saveEvery: whole(1),
  workers: whole(0, 64),
  drawImages: whole(0),
};

/** Checks a whole configuration. */
export function validateRunConfig(config: unknown, source: string): RunConfig {
  try {
    if (!isObject(config) || !isObject(config.model) || !isObject(config.training))
      throw new InputError(`${source}: expected model and training`);
    const model = validateModelConfig(config.model, source);
    const training: Json = { replay: true, ...config.training }; // a key that earlier runs and weights do not have
    for (const [key, [expected, holds]] of Object.entries(TRAINING_RULES)) {
      if (!holds(training[key]))
        throw new InputError(
          `${source}: training.${key} must be ${expected}, got ${JSON.stringify(training[key]) ?? 'nothing'}`,
        );
    }
    for (const key of Object.keys(training)) {
      if (!Object.hasOwn(TRAINING_RULES, key) && key !== 'augmentation' && key !== 'evaluationResize')
        throw new InputError(`${source}: training.${key} is not a key of the training`);
    }
    const { augmentation, evaluationResize } = training;
    if (!isObject(augmentation) || !isObject(evaluationResize))
      throw new InputError(`${source}: training.augmentation and training.evaluationResize must be objects`);
    for (const [name, value, like] of [
      ['augmentation', augmentation, PAPER_AUGMENTATION],
      ['evaluationResize', evaluationResize, PAPER_TRAINING.evaluationResize],
    ] as const) {
      for (const key of Object.keys(like))
        if (!Object.hasOwn(value, key)) throw new InputError(`${source}: training.${name}.${key} is missing`);
      for (const key of Object.keys(value))
        if (!Object.hasOwn(like, key))
          throw new InputError(
            `${source}: training.${name}.${key} is not a key; there are ${Object.keys(like).join(', ')}`,
          );
    }
    try {
      validateAugmentation(augmentation as Json & Augmentation);
      validateEvaluationResize(evaluationResize as Json & EvaluationResize);
    } catch (error) {
      throw error instanceof InputError ? new InputError(`${source}: training.${error.message}`) : error;
    }
    return {
      preset: typeof config.preset === 'string' ? config.preset : 'custom',
      model,
      training: training as Json & TrainingConfig,
    };
  } catch (error) {
    if (error instanceof ConfigError) throw new InputError(error.message);
    throw error;
  }
}

const MAX_FITTED_SIDE = 192;

function shortened(names: readonly string[]): string {
  return names.length > 6 ? `${names.slice(0, 5).join(', ')}, ...` : names.join(', ');
}

function median(values: number[]): number {
  const sorted = values.sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

/**
 * Adapts a configuration to data where nothing was said: the number of classes, and for the presets that train from scratch the image size
 * (the images' own where it is small) and the number of proposals (several for each object of a crowded image).
 * @returns the configuration and a sentence for each change
 */
export function fitToData(
  { config, given, classNames: named }: LoadedConfig,
  records: readonly ImageRecord[],
  classNames: readonly string[],
): { config: RunConfig; notes: string[] } {
  const notes: string[] = [];
  let { model, training } = config;
  if (named && named.join('\n') !== classNames.join('\n'))
    notes.push(
      `the classes are those of the data set (${shortened(classNames)}), not those that the configuration names (${shortened(named)})`,
    );
  if (model.numClasses !== classNames.length) {
    if (given.has('model.numClasses'))
      throw new InputError(
        `model.numClasses is ${model.numClasses}, but the data set has ${classNames.length} classes (${classNames.join(', ')})`,
      );
    model = { ...model, numClasses: classNames.length };
  }
  if ((config.preset === 'small' || config.preset === 'tiny') && records.length > 0) {
    const sizeKeys = [
      'augmentation',
      'augmentation.shortSides',
      'augmentation.maxSize',
      'augmentation.fixedSize',
      'evaluationResize',
      'evaluationResize.shortSide',
      'evaluationResize.maxSize',
      'evaluationResize.fixedSize',
    ];
    const untouched = sizeKeys.every((key) => !given.has(`training.${key}`));
    const own = median(records.map(({ width, height }) => Math.min(width, height)));
    const side = Math.min(MAX_FITTED_SIDE, own);
    if (untouched && side !== training.evaluationResize.shortSide) {
      const aspect = median(records.map(({ width, height }) => Math.max(width, height) / Math.min(width, height)));
      const maxSize = Math.ceil((side * Math.min(aspect, 2) * 1.25) / 32) * 32;
      training = {
        ...training,
        augmentation: { ...training.augmentation, shortSides: [side], maxSize },
        evaluationResize: { ...training.evaluationResize, shortSide: side, maxSize },
      };
      notes.push(
        `short side ${side} px (the images': ${own}); change with --set shortSides=[N] --set shortSide=N and augmentation.maxSize, evaluationResize.maxSize (${maxSize}) for the long side`,
      );
    }
    const most = Math.max(...records.map(({ objects }) => objects.length));
    const wanted = Math.ceil(Math.sqrt(Math.min(2 * most, 300))) ** 2;
    if (!given.has('model.numProposals') && wanted > model.numProposals) {
      model = { ...model, numProposals: wanted };
      notes.push(`${wanted} proposals (up to ${most} objects an image); change with --set numProposals=N`);
    }
  }
  return { config: { ...config, model, training }, notes };
}

/** Softmax temperature of the experts at an iteration counted from 0 [DC, arXiv 1912.03458]: linear from the start value to 1, then 1. */
export function temperatureAt(
  iteration: number,
  { temperatureStart, temperatureFraction, iterations }: TrainingConfig,
): number {
  const length = temperatureFraction * iterations;
  return iteration >= length ? 1 : temperatureStart + ((1 - temperatureStart) * iteration) / length;
}
