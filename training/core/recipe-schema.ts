/** The schema of a run's configuration, and its check. */
import * as v from 'valibot';
import { ConfigError, PAPER_R50, validateModelConfig, type ModelConfig } from '../../model/index.ts';
import { fields, firstProblem, integer, number, oneOf, trueOrFalse } from '../../model/schema.ts';
import { AUGMENTATION_SCHEMA, EVALUATION_RESIZE_SCHEMA, PLAIN_AUGMENTATION } from './augmentation.ts';
import { isObject, wrong, type JsonObject } from './checks.ts';
import { InputError } from './errors.ts';
import type { RunConfig, TrainingConfig } from './recipe.ts';

const MILESTONES = 'a rising list of numbers in 0 .. 1';
const rising = (list: number[]): boolean => list.every((share, i) => i === 0 || share > list[i - 1]);
const share = number({ min: 0, max: 1 });

/** The upper bounds catch typing errors, which would otherwise exhaust the memory. */
const FIELDS: { readonly [K in keyof TrainingConfig]: v.GenericSchema } = {
  seed: integer(0, 0xffffffff),
  iterations: integer(1),
  batchSize: integer(1, 4096),
  accumulation: integer(1, 65536),
  replay: trueOrFalse,
  optimizer: oneOf(['adamw', 'sgd']),
  learningRate: number({ above: 0 }),
  momentum: number({ min: 0, below: 1 }),
  weightDecay: number({ min: 0 }),
  clipNorm: number({ min: 0 }),
  warmupIterations: integer(0),
  warmupFactor: share,
  backboneLearningRateFactor: number({ min: 0 }),
  schedule: oneOf(['steps', 'cosine']),
  finalFactor: share,
  milestones: v.pipe(v.array(share, MILESTONES), v.check(rising, MILESTONES)),
  decayFactor: share,
  emaDecay: number({ min: 0, below: 1 }),
  temperatureStart: number({ min: 1 }),
  temperatureFraction: share,
  augmentation: AUGMENTATION_SCHEMA,
  repeatThreshold: share,
  evaluationResize: EVALUATION_RESIZE_SCHEMA,
  evaluateEvery: integer(0),
  patience: integer(0),
  saveEvery: integer(1),
  workers: integer(0, 64),
  drawImages: integer(0),
};

const SCHEMA = fields(FIELDS);

/** Fields that configurations of earlier versions do not have, with their values. */
const ADDED_FIELDS: Partial<TrainingConfig> = {
  replay: true,
  backboneLearningRateFactor: 1,
  schedule: 'steps',
  finalFactor: 0.01,
  emaDecay: 0,
  repeatThreshold: 0,
  patience: 0,
};
const { boxMinLogScale, boxMaxLogScale, expertInput } = PAPER_R50;
const ADDED_MODEL_FIELDS: Partial<ModelConfig> = { boxMinLogScale, boxMaxLogScale, expertInput };

/**
 * Checks a whole configuration.
 * @param source names the origin of the configuration (a file, a preset) in errors
 * @throws InputError naming the source, the field, the expected and the found value
 */
export function validateRunConfig(config: unknown, source: string): RunConfig {
  if (!isObject(config)) throw wrong(source, 'the configuration', 'an object with model and training', config);
  for (const name of ['model', 'training'])
    if (!isObject(config[name])) throw wrong(source, name, 'an object', config[name]);
  const model = validateModel({ ...ADDED_MODEL_FIELDS, ...(config.model as object) }, source);
  const given = config.training as JsonObject;
  const training: JsonObject = {
    ...ADDED_FIELDS,
    ...given,
    ...(isObject(given.augmentation) && { augmentation: { ...PLAIN_AUGMENTATION, ...given.augmentation } }),
  };
  const problem = firstProblem(SCHEMA, training, 'training');
  if (problem !== null) throw new InputError(`${source}: ${problem}`);
  return {
    preset: typeof config.preset === 'string' ? config.preset : 'custom',
    model,
    training: training as object as TrainingConfig,
  };
}

function validateModel(config: Readonly<Record<string, unknown>>, source: string): RunConfig['model'] {
  try {
    return validateModelConfig(config, source);
  } catch (error) {
    throw error instanceof ConfigError ? new InputError(error.message) : error;
  }
}
