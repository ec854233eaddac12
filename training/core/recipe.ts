/** The configuration of a run: model and training in one object, and the presets. */
import { MODEL_PRESETS, type ModelConfig, type PresetName } from '../../model/index.ts';
import { PAPER_AUGMENTATION, PLAIN_AUGMENTATION, type Augmentation, type EvaluationResize } from './augmentation.ts';

export interface TrainingConfig {
  readonly seed: number;
  /** Optimizer steps. */
  readonly iterations: number;
  /** Images per forward and backward pass. */
  readonly batchSize: number;
  /** Passes whose gradients are averaged into one optimizer step. */
  readonly accumulation: number;
  /**
   * Whether steps with repeated shapes are captured and replayed. The bits are the same and the host has less work, but
   * the device keeps the memory of a captured step. Replay pays off if steps are short and shapes are few.
   */
  readonly replay: boolean;
  readonly optimizer: 'adamw' | 'sgd';
  readonly learningRate: number;
  /** SGD only. */
  readonly momentum: number;
  readonly weightDecay: number;
  /** Maximum total L2 norm of the gradients; larger gradients are scaled down. 0: no maximum. */
  readonly clipNorm: number;
  /** Over this number of iterations, the learning rate grows linearly from `warmupFactor` times its value. */
  readonly warmupIterations: number;
  readonly warmupFactor: number;
  /**
   * Factor of the learning rate of the backbone's parameters, as in DETR. Pretrained backbones need smaller steps than
   * a new head. 1: no difference.
   */
  readonly backboneLearningRateFactor: number;
  /** After the warm-up: a decay at each milestone, or half a cosine down to `finalFactor`. */
  readonly schedule: 'steps' | 'cosine';
  /** Cosine only: factor of the learning rate at the end. */
  readonly finalFactor: number;
  /** Steps only. Ascending shares of the training, at which the learning rate is multiplied by `decayFactor`. */
  readonly milestones: readonly number[];
  readonly decayFactor: number;
  /**
   * Highest decay of the exponential moving average of the weights, which is evaluated, saved as the best weights and
   * drawn (see `averageDecayAt` of the engine). 0: no average.
   */
  readonly emaDecay: number;
  /**
   * The softmax temperature of the experts falls linearly from `temperatureStart` to 1, over the first
   * `temperatureFraction` of the training.
   */
  readonly temperatureStart: number;
  readonly temperatureFraction: number;
  readonly augmentation: Augmentation;
  /**
   * Images with rare classes occur more often in an epoch: repeat-factor sampling (LVIS, arXiv 1908.03195, section
   * 4.2). A class is rare if less than this share of the images has it, 0 .. 1. 0: every image occurs once.
   */
  readonly repeatThreshold: number;
  /** The resize of images for evaluation and prediction. */
  readonly evaluationResize: EvaluationResize;
  /** Iterations between evaluations; the last iteration is always evaluated. 0: only the last. */
  readonly evaluateEvery: number;
  /**
   * The training ends after this number of evaluations in a row in which AP did not grow. 0: it always takes all
   * iterations.
   */
  readonly patience: number;
  /** Iterations between checkpoints; the last iteration is always saved. */
  readonly saveEvery: number;
  /** Threads that decode and augment images. */
  readonly workers: number;
  /** Validation images drawn with their detections at the end. At the start, as many training images, but at most 8. */
  readonly drawImages: number;
}

export interface RunConfig {
  /** Name of the preset that the configuration started from. */
  readonly preset: string;
  readonly model: ModelConfig;
  readonly training: TrainingConfig;
}

/** 36 epochs at batch 16. COCO train2017 has 118,287 images. */
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
  backboneLearningRateFactor: 1,
  schedule: 'steps',
  finalFactor: 0.01,
  milestones: [27 / 36, 33 / 36],
  decayFactor: 0.1,
  emaDecay: 0,
  temperatureStart: 30,
  temperatureFraction: 0.1,
  augmentation: PAPER_AUGMENTATION,
  repeatThreshold: 0,
  evaluationResize: { shortSide: 800, maxSize: 1333, fixedSize: null },
  evaluateEvery: 7500,
  patience: 0,
  saveEvery: 1000,
  workers: 2,
  drawImages: 16,
};

/** Fine-tunes pretrained weights on own data, on a GPU. */
const FINE_TUNING: TrainingConfig = {
  ...PAPER_TRAINING,
  iterations: 3000,
  batchSize: 4,
  accumulation: 1,
  learningRate: 1e-4,
  warmupIterations: 100,
  milestones: [0.7, 0.9],
  augmentation: { ...PAPER_AUGMENTATION, shortSides: [416, 448, 480, 512, 544], maxSize: 800, crop: null },
  evaluationResize: { shortSide: 480, maxSize: 800, fixedSize: null },
  evaluateEvery: 500,
  saveEvery: 250,
};

/** Trains from scratch in minutes. The sizes fit the embedded data set; `fitToData` changes them for other data. */
const SMALL_TRAINING: TrainingConfig = {
  ...PAPER_TRAINING,
  iterations: 1500,
  batchSize: 8,
  accumulation: 1,
  replay: true,
  learningRate: 7e-4,
  warmupIterations: 50,
  milestones: [0.85],
  augmentation: { ...PLAIN_AUGMENTATION, flip: 0.5, shortSides: [96], maxSize: 160, crop: null, fixedSize: null },
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
  r18: FINE_TUNING,
  r50: FINE_TUNING,
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

export function presetConfig(name: PresetName): RunConfig {
  return { preset: name, model: MODEL_PRESETS[name], training: TRAINING_PRESETS[name] };
}

export const isPresetName = (name: unknown): name is PresetName => (PRESET_NAMES as readonly unknown[]).includes(name);
