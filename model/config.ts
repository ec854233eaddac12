/**
 * The model's configuration: one readonly object, validated, and the presets.
 *
 * Sources: [SR] Sparse R-CNN, arXiv 2011.12450; [DSR] Dynamic Sparse R-CNN, arXiv 2205.02101; [OTA] arXiv 2103.14259.
 */

export interface ModelConfig {
  /** ResNet depth: 18 and 34 have basic blocks, 50 and 101 bottlenecks with the stride in the 3x3. */
  readonly depth: 18 | 34 | 50 | 101;
  /** Channels of the stem; 64 in the paper. The four residual stages have 1, 2, 4 and 8 times as many (times 4 with bottlenecks). */
  readonly stemChannels: number;
  /** `frozen_bn` for pre-trained backbones, `gn` (GroupNorm) for training from scratch. */
  readonly norm: 'frozen_bn' | 'gn';
  /** Backbone parts without gradient: 1 the stem, 2 also res2, ... 5 all; 0 none. */
  readonly freezeAt: number;
  /** RGB, 0..255. */
  readonly pixelMean: readonly [number, number, number];
  readonly pixelStd: readonly [number, number, number];
  readonly numClasses: number;
  /** N: proposals of an image. */
  readonly numProposals: number;
  /** T: stages of the dynamic head. */
  readonly numStages: number;
  /** d: channels of the feature pyramid and width of the head. */
  readonly hiddenDim: number;
  readonly numAttentionHeads: number;
  readonly feedforwardDim: number;
  /** Inner width of the dynamic interaction. */
  readonly dynamicDim: number;
  readonly numClassLayers: number;
  readonly numRegressionLayers: number;
  /** RoIAlign gives this many bins a side. */
  readonly poolerResolution: number;
  readonly poolerSamplingRatio: number;
  /** Score that every class starts with: the focal loss's prior. */
  readonly priorProbability: number;
  /** Where the proposal boxes start: the whole image [SR], or a regular grid (training from scratch). */
  readonly proposalInit: 'image' | 'grid';
  /** Dynamic proposal generation [DSR 3.3]: off, from P5 only, or with the staircase over P2..P5. */
  readonly dpg: 'none' | 'plain' | 'staircase';
  readonly numExperts: number;
  /** The expert weight generator resizes its features to a square map of this side. */
  readonly expertMapSize: number;
  readonly expertHiddenDim: number;
  readonly matcher: 'hungarian' | 'ota';
  /** Units each ground truth supplies; 0: dynamic k [OTA 3.3]. */
  readonly otaK: number;
  /** q: dynamic k sums the q largest IoUs. */
  readonly otaTopQ: number;
  /** Fewer units at early stages [DSR 3.2]. */
  readonly unitIncreasing: boolean;
  readonly unitStep: number;
  /** At most this share of the proposals becomes positive. */
  readonly maxPositiveFraction: number;
  readonly sinkhornEpsilon: number;
  readonly sinkhornIterations: number;
  /** Weights of the class, L1 and GIoU terms in loss and matching. */
  readonly classWeight: number;
  readonly l1Weight: number;
  readonly giouWeight: number;
  readonly focalAlpha: number;
  readonly focalGamma: number;
  /** IoU above which NMS drops the lower score of a class; used with the many-to-one matcher only. */
  readonly nmsThreshold: number;
  /** Recompute residual blocks and head stages in the backward pass instead of keeping what they compute: less memory, about a third more time. */
  readonly gradientCheckpointing: boolean;
}

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
  priorProbability: 0.01,
  proposalInit: 'image',
  dpg: 'staircase',
  numExperts: 4,
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

/** The whole method at small width, for training from scratch: GroupNorm, nothing frozen, boxes that start as a grid. */
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
  expertMapSize: 8,
  expertHiddenDim: 64,
};

export const MODEL_PRESETS = {
  'paper-r50': PAPER_R50,
  'paper-r101': { ...PAPER_R50, depth: 101 },
  'sparse-rcnn-r50': { ...PAPER_R50, dpg: 'none', matcher: 'hungarian' },
  small: SMALL,
  /** For tests and quick looks: everything there, as narrow as it goes. */
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

type Check = (value: unknown) => string | null;

const integer =
  (min: number, max = Number.MAX_SAFE_INTEGER): Check =>
  (value) =>
    Number.isInteger(value) && (value as number) >= min && (value as number) <= max
      ? null
      : `an integer ${max === Number.MAX_SAFE_INTEGER ? `>= ${min}` : `in ${min} .. ${max}`}`;
const number =
  (min: number, max = Infinity, open = false): Check =>
  (value) =>
    typeof value === 'number' && Number.isFinite(value) && (open ? value > min : value >= min) && value <= max
      ? null
      : `a number ${open ? '>' : '>='} ${min}${max === Infinity ? '' : ` and <= ${max}`}`;
const oneOf =
  (...allowed: readonly (string | number)[]): Check =>
  (value) =>
    allowed.includes(value as string | number) ? null : `one of ${allowed.join(', ')}`;
const boolean: Check = (value) => (typeof value === 'boolean' ? null : 'true or false');
const three =
  (each: Check): Check =>
  (value) =>
    Array.isArray(value) && value.length === 3 && value.every((v) => each(v) === null)
      ? null
      : `three numbers, each ${each(undefined)}`;

// The upper bounds are far beyond anything sensible: they are there so that a slip of the hand is named, and does not take all memory first.
const CHECKS: Record<keyof ModelConfig, Check> = {
  depth: oneOf(18, 34, 50, 101),
  stemChannels: integer(4, 1024),
  norm: oneOf('frozen_bn', 'gn'),
  freezeAt: integer(0, 5),
  pixelMean: three(number(0)),
  pixelStd: three(number(0, Infinity, true)),
  numClasses: integer(1, 100000),
  numProposals: integer(1, 10000),
  numStages: integer(1, 64),
  hiddenDim: integer(4, 4096),
  numAttentionHeads: integer(1, 1024),
  feedforwardDim: integer(1, 65536),
  dynamicDim: integer(4, 1024),
  numClassLayers: integer(0, 64),
  numRegressionLayers: integer(0, 64),
  poolerResolution: integer(1, 64),
  poolerSamplingRatio: integer(1, 16),
  priorProbability: number(0, 0.5, true),
  proposalInit: oneOf('image', 'grid'),
  dpg: oneOf('none', 'plain', 'staircase'),
  numExperts: integer(1, 1024),
  expertMapSize: integer(1, 256),
  expertHiddenDim: integer(1, 65536),
  matcher: oneOf('hungarian', 'ota'),
  otaK: number(0),
  otaTopQ: integer(1, 64),
  unitIncreasing: boolean,
  unitStep: number(0),
  maxPositiveFraction: number(0, 1, true),
  sinkhornEpsilon: number(0, Infinity, true),
  sinkhornIterations: integer(1, 10000),
  classWeight: number(0),
  l1Weight: number(0),
  giouWeight: number(0),
  focalAlpha: number(0, 1),
  focalGamma: number(0),
  nmsThreshold: number(0, 1),
  gradientCheckpointing: boolean,
};

/**
 * Checks every field of a model configuration, and that no other is there.
 * @param source names where it comes from (a file, a preset) in errors
 * @throws ConfigError naming the source, the field, what was expected and what came
 */
export function validateModelConfig(config: Readonly<Record<string, unknown>>, source: string): ModelConfig {
  const fail = (field: string, expected: string): never => {
    throw new ConfigError(
      `${source}: model.${field} must be ${expected}, got ${JSON.stringify(config[field]) ?? 'nothing'}`,
    );
  };
  for (const field of Object.keys(config)) {
    if (!Object.hasOwn(CHECKS, field))
      throw new ConfigError(
        `${source}: model.${field} is not a field of the model (there are: ${Object.keys(CHECKS).join(', ')})`,
      );
  }
  for (const [field, check] of Object.entries(CHECKS)) {
    const expected = check(config[field]);
    if (expected !== null) fail(field, expected);
  }
  const valid = { ...config } as Record<string, unknown> as Readonly<Record<keyof ModelConfig, number>>;
  if (valid.hiddenDim % valid.numAttentionHeads !== 0)
    fail('hiddenDim', `a multiple of numAttentionHeads (${valid.numAttentionHeads})`);
  for (const field of ['hiddenDim', 'dynamicDim', 'stemChannels'] as const)
    if (valid[field] % 4 !== 0) fail(field, 'a multiple of 4');
  return config as Readonly<Record<string, unknown>> & ModelConfig;
}
