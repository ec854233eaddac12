/**
 * The recipe for own data: settings that depend on the number of images and objects, and on the weights that the
 * training starts from. docs/training.md lists them.
 */
import type { ModelConfig } from '../../model/index.ts';
import type { Augmentation } from './augmentation.ts';
import type { Choice } from './choice.ts';
import type { ImageRecord } from './image-record.ts';
import type { RunConfig, TrainingConfig } from './recipe.ts';

/** Epochs of a training, and bounds for the number of iterations that follows. */
const EPOCHS = 30;
const MIN_ITERATIONS = 600;
const MAX_ITERATIONS = 4000;
/** Above this number of training images, batches are twice as large. */
const LARGE_DATA = 1000;
/** Learning rate at batch 4. It grows with the square root of the batch, as is usual for AdamW. */
const LEARNING_RATE = 5e-4;
/** Evaluations during a training. */
const EVALUATIONS = 5;
/** A class is rare if less than this share of the images has it. */
const RARE_SHARE = 0.1;

/** Colors, sizes and cut objects vary. The numbers are moderate, because colors often tell classes apart. */
const AUGMENTATION = {
  color: { brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 5, gray: 0 },
  scale: [0.7, 1.4],
  aspectJitter: 0.1,
  minVisible: 0.3,
  keepObject: true,
} as const satisfies Partial<Augmentation>;

export interface OwnDataOptions {
  readonly config: RunConfig;
  /** Full keys that the user has set. They are not changed. */
  readonly given: ReadonlySet<string>;
  readonly records: readonly ImageRecord[];
  /** Whether the training starts from trained weights of a whole detector. */
  readonly pretrained: boolean;
}

/** The configuration for own data, and the choices made. Keys that the user has set stay as they are. */
export function ownDataRecipe(options: OwnDataOptions): { config: RunConfig; choices: readonly Choice[] } {
  const draft = new Draft(options.config, options.given);
  chooseLength(draft, options.records.length);
  chooseLearningRate(draft);
  chooseAugmentation(draft, options.records);
  // A temperature above 1 would make the experts of trained weights equal again.
  if (options.pretrained) draft.set({ temperatureStart: 1 });
  choosePositives(draft);
  return { config: { ...options.config, model: draft.model, training: draft.training }, choices: draft.choices };
}

/** The configuration while its values are chosen. */
class Draft {
  readonly choices: Choice[] = [];
  model: ModelConfig;
  training: TrainingConfig;

  constructor(
    { model, training }: RunConfig,
    private readonly given: ReadonlySet<string>,
  ) {
    this.model = model;
    this.training = training;
  }

  /** Whether the user has set neither a key nor a part of it. */
  isFree(key: string): boolean {
    return ![...this.given].some((name) => name === key || name.startsWith(`${key}.`));
  }

  /** Changes the free keys among some keys of the training. */
  set(values: Partial<TrainingConfig>): void {
    const free = Object.entries(values).filter(([key]) => this.isFree(`training.${key}`));
    this.training = { ...this.training, ...Object.fromEntries(free) };
  }

  /** Images per optimizer step. */
  get imagesPerStep(): number {
    return this.training.batchSize * this.training.accumulation;
  }
}

/** Batch and iterations. */
function chooseLength(draft: Draft, images: number): void {
  draft.set({ batchSize: images > LARGE_DATA ? 8 : 4 });
  draft.set({ iterations: chooseIterations(images, draft.training.batchSize) });
  const { batchSize, iterations } = draft.training;
  const epochs = (iterations * draft.imagesPerStep) / images;
  draft.choices.push(
    { value: `batch ${batchSize}`, reason: `${images} training images`, key: '--batch N' },
    {
      value: `${iterations} iterations`,
      reason: `about ${Math.round(epochs)} epochs, at least ${MIN_ITERATIONS} and at most ${MAX_ITERATIONS} iterations`,
      key: '--iterations N, --time T',
    },
  );
}

/** Learning rate and its schedule, the average of the weights, and evaluations. */
function chooseLearningRate(draft: Draft): void {
  const { iterations } = draft.training;
  draft.set({
    learningRate: Number((LEARNING_RATE * Math.sqrt(draft.imagesPerStep / 4)).toPrecision(2)),
    schedule: 'cosine',
    finalFactor: 0.05,
    warmupIterations: Math.min(100, Math.ceil(iterations / 10)),
    emaDecay: 0.998,
    evaluateEvery: Math.ceil(iterations / EVALUATIONS),
  });
  draft.choices.push({
    value: `learning rate ${draft.training.learningRate}, ${draft.training.schedule}`,
    reason: `fits batch ${draft.imagesPerStep}; averaged weights are evaluated`,
    key: '--set learningRate=X, schedule, emaDecay',
  });
}

/** Augmentation, and how often images of rare classes occur. */
function chooseAugmentation(draft: Draft, records: readonly ImageRecord[]): void {
  if (draft.isFree('training.augmentation')) {
    draft.set({ augmentation: { ...draft.training.augmentation, ...AUGMENTATION } });
    draft.choices.push({
      value: 'colors and sizes vary',
      reason: 'augmentation for small data',
      key: '--set scale=[1,1], brightness, contrast, saturation, hue',
    });
  }
  const rare = rareClasses(records);
  if (rare === 0 || !draft.isFree('training.repeatThreshold')) return;
  draft.set({ repeatThreshold: RARE_SHARE });
  draft.choices.push({
    value: 'rare classes occur more often',
    reason: `${rare} of the classes in less than ${RARE_SHARE * 100} % of the images`,
    key: '--set repeatThreshold=0',
  });
}

/** The number of positives per object, unless the user has set a part of the matching. */
function choosePositives(draft: Draft): void {
  if (!['model.matcher', 'model.otaK', 'model.unitIncreasing'].every((key) => draft.isFree(key))) return;
  draft.model = { ...draft.model, otaK: 3, unitIncreasing: false };
  draft.choices.push({
    value: '3 positives per object',
    reason: 'short trainings learn faster than with a dynamic number',
    key: '--set otaK=0, unitIncreasing=true',
  });
}

/** Iterations for a number of images: a number of epochs, within bounds. */
function chooseIterations(images: number, batch: number): number {
  const iterations = Math.ceil((EPOCHS * images) / batch / 100) * 100;
  return Math.min(MAX_ITERATIONS, Math.max(MIN_ITERATIONS, iterations));
}

/** The number of classes that occur, but in less than `RARE_SHARE` of the images. */
function rareClasses(records: readonly ImageRecord[]): number {
  const images = new Map<number, number>();
  for (const { objects } of records)
    for (const label of new Set(objects.map((object) => object.label))) images.set(label, (images.get(label) ?? 0) + 1);
  return [...images.values()].filter((count) => count < RARE_SHARE * records.length).length;
}
