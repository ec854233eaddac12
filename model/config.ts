/**
 * The model's configuration: one readonly object, its schema, and the presets.
 *
 * Sources: [SR] Sparse R-CNN, arXiv 2011.12450; [DSR] Dynamic Sparse R-CNN, arXiv 2205.02101; [OTA] arXiv 2103.14259.
 */
import * as v from 'valibot';
import { MATCHER_NAMES, type MatchingConfig } from './matching.ts';
import { fields, firstProblem, integer, number, oneOf, trueOrFalse } from './schema.ts';

/** A number for each channel of an image. */
type Rgb = readonly [number, number, number];

/** The fields of matching and loss are described in `MatcherConfig`. */
export interface ModelConfig extends MatchingConfig {
  /** ResNet depth: 18 and 34 have basic blocks, 50 and 101 bottlenecks with the stride in the 3x3 convolution. */
  readonly depth: 18 | 34 | 50 | 101;
  /**
   * Channels of the stem; 64 in the paper. The four residual stages have 1, 2, 4 and 8 times as many, with bottlenecks
   * 4, 8, 16 and 32 times as many. A multiple of 4.
   */
  readonly stemChannels: number;
  /** `frozen_bn` for pre-trained backbones, `gn` (GroupNorm) for training from scratch. */
  readonly norm: 'frozen_bn' | 'gn';
  /** Number of frozen backbone parts: 0 none, 1 the stem, 2 stem and res2, ... 5 all. */
  readonly freezeAt: number;
  /** RGB, 0..255. */
  readonly pixelMean: Rgb;
  readonly pixelStd: Rgb;
  readonly numClasses: number;
  /** N: proposals per image. */
  readonly numProposals: number;
  /** T: stages of the dynamic head. */
  readonly numStages: number;
  /** d: channels of the feature pyramid and width of the head. A multiple of 4 and of `numAttentionHeads`. */
  readonly hiddenDim: number;
  readonly numAttentionHeads: number;
  readonly feedforwardDim: number;
  /** Inner width of the dynamic interaction. A multiple of 4. */
  readonly dynamicDim: number;
  readonly numClassLayers: number;
  readonly numRegressionLayers: number;
  /** Bins per side of RoIAlign. */
  readonly poolerResolution: number;
  readonly poolerSamplingRatio: number;
  /**
   * Bounds of dw and dh: the logarithms of the factors by which a stage may change the sides of a box. Sparse R-CNN has
   * only the upper bound log(100000 / 16); mmdetection has log(16 / 1000) and log(1000 / 16). Null: no lower bound.
   */
  readonly boxMinLogScale: number | null;
  readonly boxMaxLogScale: number;
  /** Initial score of every class: the prior of the focal loss. */
  readonly priorProbability: number;
  /** Initial proposal boxes: the whole image [SR], or a regular grid (training from scratch). */
  readonly proposalInit: 'image' | 'grid';
  /** Dynamic proposal generation [DSR 3.3]: off, from P5 only, or with the staircase over P2..P5. */
  readonly dpg: 'none' | 'plain' | 'staircase';
  readonly numExperts: number;
  /**
   * What the generator of expert weights computes them from. `map` [DSR 3.3]: the sum over channels, resized to a
   * square map. `mean`: the mean of each channel over the image, normalized, as in [DC, arXiv 1912.03458]. Small images
   * need `mean`: the last map of a 96 x 96 image has 2 x 2 positions.
   */
  readonly expertInput: 'map' | 'mean';
  /** With `expertInput: 'map'`, the side of the square map. */
  readonly expertMapSize: number;
  readonly expertHiddenDim: number;
  /** IoU above which NMS drops the lower score of a class. Used unless the matcher is one-to-one. */
  readonly nmsThreshold: number;
  /**
   * Recompute residual blocks and head stages in the backward pass instead of keeping their values. This takes less
   * memory and about a third more time.
   */
  readonly gradientCheckpointing: boolean;
}

/** An invalid configuration. The message names the source, the field, the expected and the found value. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** The paper's network, ResNet-50: 300 proposals, 6 stages, staircase DPG, OTA with dynamic k and unit increasing. */
export const PAPER_R50: ModelConfig = {
  depth: 50,
  stemChannels: 64,
  norm: 'frozen_bn',
  freezeAt: 2,
  pixelMean: [123.675, 116.28, 103.53],
  pixelStd: [58.395, 57.12, 57.375],
  numClasses: 80,
  numProposals: 300,
  numStages: 6,
  hiddenDim: 256,
  numAttentionHeads: 8,
  feedforwardDim: 2048,
  dynamicDim: 64,
  numClassLayers: 1,
  numRegressionLayers: 3,
  poolerResolution: 7,
  poolerSamplingRatio: 2,
  boxMinLogScale: null,
  boxMaxLogScale: Math.log(100000 / 16),
  priorProbability: 0.01,
  proposalInit: 'image',
  dpg: 'staircase',
  numExperts: 4,
  expertInput: 'map',
  expertMapSize: 30,
  expertHiddenDim: 1500,
  matcher: 'ota',
  otaK: 0,
  otaTopQ: 8,
  unitIncreasing: true,
  unitStep: 0.5,
  maxPositiveFraction: 0.8,
  sinkhornEpsilon: 0.1,
  sinkhornIterations: 50,
  classWeight: 2,
  l1Weight: 5,
  giouWeight: 2,
  focalAlpha: 0.25,
  focalGamma: 2,
  nmsThreshold: 0.7,
  gradientCheckpointing: false,
};

/** The paper's network with fewer proposals and stages. */
const FINE_TUNED: ModelConfig = { ...PAPER_R50, numProposals: 100, numStages: 4 };

/** The complete method with few channels, for training from scratch: GroupNorm, nothing frozen, boxes on a grid. */
const SMALL: ModelConfig = {
  ...PAPER_R50,
  depth: 18,
  stemChannels: 16,
  norm: 'gn',
  freezeAt: 0,
  numClasses: 4,
  numProposals: 25,
  numStages: 3,
  hiddenDim: 64,
  numAttentionHeads: 4,
  feedforwardDim: 128,
  dynamicDim: 16,
  proposalInit: 'grid',
  expertInput: 'mean',
  expertMapSize: 8,
  expertHiddenDim: 64,
};

export const MODEL_PRESETS = {
  'paper-r50': PAPER_R50,
  'paper-r101': { ...PAPER_R50, depth: 101 },
  'sparse-rcnn-r50': { ...PAPER_R50, dpg: 'none', matcher: 'hungarian' },
  /** For a start from torchvision's backbones, on a GPU: full width, fewer proposals and stages than the paper's. */
  r18: { ...FINE_TUNED, depth: 18 },
  r50: { ...FINE_TUNED, depth: 50 },
  small: SMALL,
  /** For tests and quick experiments: the complete method with as few channels as possible. */
  tiny: {
    ...SMALL,
    stemChannels: 8,
    numProposals: 16,
    numStages: 2,
    hiddenDim: 16,
    feedforwardDim: 32,
    dynamicDim: 4,
    expertMapSize: 4,
    expertHiddenDim: 16,
    numExperts: 2,
  },
} as const satisfies Record<string, ModelConfig>;

export type PresetName = keyof typeof MODEL_PRESETS;

/** A number of channels: a multiple of 4, because kernels read four channels at a time. */
const width = (min: number, max: number) => v.pipe(integer(min, max), v.multipleOf(4, 'a multiple of 4'));

/** Three numbers. The length is checked before the numbers, so that the message shows the whole list. */
const rgb = (channel: v.GenericSchema<number>) =>
  v.pipe(
    v.custom<Rgb>((value) => Array.isArray(value) && value.length === 3, 'three numbers, for red, green and blue'),
    v.tuple([channel, channel, channel]),
  );

/**
 * The upper bounds are far beyond sensible values. They catch typing errors that would use up the memory.
 */
const FIELDS: { readonly [K in keyof ModelConfig]: v.GenericSchema<ModelConfig[K]> } = {
  depth: oneOf([18, 34, 50, 101]),
  stemChannels: width(4, 1024),
  norm: oneOf(['frozen_bn', 'gn']),
  freezeAt: integer(0, 5),
  pixelMean: rgb(number({ min: 0 })),
  pixelStd: rgb(number({ above: 0 })),
  numClasses: integer(1, 100000),
  numProposals: integer(1, 10000),
  numStages: integer(1, 64),
  hiddenDim: width(4, 4096),
  numAttentionHeads: integer(1, 1024),
  feedforwardDim: integer(1, 65536),
  dynamicDim: width(4, 1024),
  numClassLayers: integer(0, 64),
  numRegressionLayers: integer(0, 64),
  poolerResolution: integer(1, 64),
  poolerSamplingRatio: integer(1, 16),
  boxMinLogScale: v.nullable(number({ min: -80, max: 0 })),
  boxMaxLogScale: number({ min: 0, max: 80 }),
  priorProbability: number({ above: 0, max: 0.5 }),
  proposalInit: oneOf(['image', 'grid']),
  dpg: oneOf(['none', 'plain', 'staircase']),
  numExperts: integer(1, 1024),
  expertInput: oneOf(['map', 'mean']),
  expertMapSize: integer(1, 256),
  expertHiddenDim: integer(1, 65536),
  matcher: oneOf(MATCHER_NAMES),
  otaK: number({ min: 0 }),
  otaTopQ: integer(1, 64),
  unitIncreasing: trueOrFalse,
  unitStep: number({ min: 0 }),
  maxPositiveFraction: number({ above: 0, max: 1 }),
  sinkhornEpsilon: number({ above: 0 }),
  sinkhornIterations: integer(1, 10000),
  classWeight: number({ min: 0 }),
  l1Weight: number({ min: 0 }),
  giouWeight: number({ min: 0 }),
  focalAlpha: number({ min: 0, max: 1 }),
  focalGamma: number({ min: 0 }),
  nmsThreshold: number({ min: 0, max: 1 }),
  gradientCheckpointing: trueOrFalse,
};

const SCHEMA = v.pipe(
  fields(FIELDS),
  v.forward(
    v.check(
      ({ hiddenDim, numAttentionHeads }) => hiddenDim % numAttentionHeads === 0,
      ({ input }) => `a multiple of numAttentionHeads (${input.numAttentionHeads})`,
    ),
    ['hiddenDim'],
  ),
);

/**
 * Checks every field of a model configuration, and that there is no other field.
 * @param source names the origin of the configuration (a file, a preset) in errors
 * @throws ConfigError naming the source, the field, the expected and the found value
 */
export function validateModelConfig(config: Readonly<Record<string, unknown>>, source: string): ModelConfig {
  const problem = firstProblem(SCHEMA, config, 'model');
  if (problem !== null) throw new ConfigError(`${source}: ${problem}`);
  return config as Readonly<Record<string, unknown>> & ModelConfig;
}
