/** Fits a configuration to the data, except for the keys that the user has set. */
import type { ModelConfig } from '../../model/index.ts';
import type { Choice } from './choice.ts';
import { InputError } from './errors.ts';
import type { ImageRecord } from './image-record.ts';
import { ownDataRecipe, type OwnDataOptions } from './own-data-recipe.ts';
import { presetConfig, type RunConfig, type TrainingConfig } from './recipe.ts';

/** A configuration and its origin. */
export interface LoadedConfig {
  readonly config: RunConfig;
  /** Full keys that a file or `--set` gave. Fitting to the data does not change them. */
  readonly given: ReadonlySet<string>;
  /** The data set and its classes that the file names, such as a run's config.json. */
  readonly data: string | null;
  readonly classNames: readonly string[] | null;
}

/** Maximum short side in pixels of images that fitting chooses. */
const MAX_FITTED_SIDE = 192;
/** Maximum number of proposals before fitting rounds it up to a square number. */
const MAX_FITTED_PROPOSALS = 300;
/** Minimum number of iterations between evaluations that fitting chooses. */
const MIN_EVALUATE_EVERY = 50;
/** Names that a message lists in full. */
const MAX_LISTED_NAMES = 6;

/** Keys that decide the size of images. If one is given, fitting does not change any. */
const SIZE_KEYS = [
  'augmentation',
  'augmentation.shortSides',
  'augmentation.maxSize',
  'augmentation.fixedSize',
  'evaluationResize',
  'evaluationResize.shortSide',
  'evaluationResize.maxSize',
  'evaluationResize.fixedSize',
];

/** A list of names as text. Of more than six names, it has the first five. */
export function listNames(names: readonly string[]): string {
  return names.length > MAX_LISTED_NAMES ? `${names.slice(0, MAX_LISTED_NAMES - 1).join(', ')}, ...` : names.join(', ');
}

/** Whether two lists have the same class names in the same order. */
export const sameClasses = (a: readonly string[], b: readonly string[]): boolean => a.join('\n') === b.join('\n');

/** The middle value, of an even number of values the upper of the two middle ones. */
function upperMedian(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

export interface Fitted {
  readonly config: RunConfig;
  /** What was chosen in place of the user, in the order of printing. */
  readonly choices: readonly Choice[];
  /** Remarks that are no choices. */
  readonly notes: readonly string[];
}

export interface FitOptions {
  /** For a training of the preset `small` on own data. Null: the preset keeps its recipe, as for embedded data. */
  readonly own?: Pick<OwnDataOptions, 'pretrained'> | null;
}

/**
 * Fits a configuration to data. This changes the number of classes. For the presets that train from scratch, it also
 * changes the image size (small images keep their size) and the number of proposals (several per object of a crowded
 * image). For own data, it also changes the recipe.
 * @throws InputError if the user has set another number of classes
 */
export function fitToData(
  loaded: LoadedConfig,
  records: readonly ImageRecord[],
  classNames: readonly string[],
  { own = null }: FitOptions = {},
): Fitted {
  const { config, given, classNames: named } = loaded;
  const choices: Choice[] = [];
  const notes: string[] = [];
  let { model, training } = config;
  if (named && !sameClasses(named, classNames))
    notes.push(
      `the classes are those of the data set (${listNames(classNames)}), ` +
        `not those that the configuration names (${listNames(named)})`,
    );
  if (model.numClasses !== classNames.length) {
    if (given.has('model.numClasses'))
      throw new InputError(
        `model.numClasses: expected ${classNames.length}, the number of classes of the data set ` +
          `(${classNames.join(', ')}), got ${model.numClasses}`,
      );
    model = { ...model, numClasses: classNames.length };
  }
  if ((config.preset === 'small' || config.preset === 'tiny') && records.length > 0) {
    if (SIZE_KEYS.every((key) => !given.has(`training.${key}`))) training = fitSizes(training, records, choices);
    if (!given.has('model.numProposals')) model = fitProposals(model, records, choices);
    if (own !== null && config.preset === 'small') {
      const recipe = ownDataRecipe({ config: { ...config, model, training }, given, records, ...own });
      return { config: recipe.config, choices: [...choices, ...recipe.choices], notes };
    }
    if (!given.has('training.evaluateEvery')) training = fitEvaluations(config.preset, training, choices);
  }
  return { config: { ...config, model, training }, choices, notes };
}

/** A shorter training than the preset's has as many evaluations, unless they would follow closely on each other. */
function fitEvaluations(preset: 'small' | 'tiny', training: TrainingConfig, choices: Choice[]): TrainingConfig {
  const { iterations, evaluateEvery } = presetConfig(preset).training;
  if (evaluateEvery === 0 || training.iterations >= iterations) return training;
  const scaled = Math.max(MIN_EVALUATE_EVERY, Math.ceil((training.iterations * evaluateEvery) / iterations));
  if (scaled === training.evaluateEvery || scaled >= training.iterations) return training;
  choices.push({
    value: `evaluation every ${scaled} iterations`,
    reason: `${training.iterations} iterations instead of ${iterations}`,
    key: '--set evaluateEvery=N',
  });
  return { ...training, evaluateEvery: scaled };
}

function fitSizes(training: TrainingConfig, records: readonly ImageRecord[], choices: Choice[]): TrainingConfig {
  const ownSide = upperMedian(records.map(({ width, height }) => Math.min(width, height)));
  const side = Math.min(MAX_FITTED_SIDE, ownSide);
  if (side === training.evaluationResize.shortSide) return training;
  const aspect = upperMedian(records.map(({ width, height }) => Math.max(width, height) / Math.min(width, height)));
  const maxSize = Math.ceil((side * Math.min(aspect, 2) * 1.25) / 32) * 32;
  choices.push({
    value: `short side ${side} px, long side at most ${maxSize}`,
    reason: `median short side of the images: ${ownSide} px`,
    key: '--set shortSides=[N] --set shortSide=N, augmentation.maxSize, evaluationResize.maxSize',
  });
  return {
    ...training,
    augmentation: { ...training.augmentation, shortSides: [side], maxSize },
    evaluationResize: { ...training.evaluationResize, shortSide: side, maxSize },
  };
}

function fitProposals(model: ModelConfig, records: readonly ImageRecord[], choices: Choice[]): ModelConfig {
  const maxObjects = Math.max(...records.map(({ objects }) => objects.length));
  // A square number, so that the initial boxes fill a grid.
  const proposals = Math.ceil(Math.sqrt(Math.min(2 * maxObjects, MAX_FITTED_PROPOSALS))) ** 2;
  if (proposals <= model.numProposals) return model;
  choices.push({
    value: `${proposals} proposals`,
    reason: `up to ${maxObjects} objects in an image`,
    key: '--set numProposals=N',
  });
  return { ...model, numProposals: proposals };
}
