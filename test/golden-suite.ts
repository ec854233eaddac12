/**
 * Tests that compare the whole model with PyTorch runs in float64: every intermediate result, all gradients, three
 * AdamW steps, and detections (see test/golden/README.md).
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { channelsFirst, channelsLast } from '../bench/layout.ts';
import { AdamW, backward, type Device } from '../engine/index.ts';
import { openDevice, type NodeDeviceOptions } from '../engine/node/index.ts';
import { toStored } from '../engine/nn/index.ts';
import { DynamicSparseRCNN, PAPER_R50, validateModelConfig, type ModelConfig } from '../model/index.ts';
import { criterion } from '../model/criterion.ts';
import { uploadTargets, type Targets } from '../model/targets.ts';
import type { Predictions } from '../model/dynamic-sparse-rcnn.ts';
import { GOLDEN_NAMES, readGolden, type Golden, type GoldenName } from './golden-files.ts';
import { relativeError } from './op-harness.ts';

/** Relative L2 error. PyTorch's own float32 run stays within 1.5e-4 of these files. */
const TOLERANCE = 5e-4;

/** Our configuration from that of the reference, which has snake_case names. */
function modelConfig(golden: Golden): ModelConfig {
  const renamed: Record<string, string> = {
    num_cls_layers: 'numClassLayers',
    num_reg_layers: 'numRegressionLayers',
    prior_prob: 'priorProbability',
  };
  const config: Record<string, unknown> = { ...PAPER_R50, proposalInit: 'image' };
  for (const [key, value] of Object.entries(golden.config)) {
    if (key === 'fpn_channels') continue;
    config[renamed[key] ?? key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())] = value;
  }
  return validateModelConfig(config, 'golden file');
}

function images(golden: Golden): { data: Float32Array; width: number; height: number }[] {
  return golden.meta.sizes.map((_, i) => {
    const {
      shape: [, height, width],
      data,
    } = golden.floats(`images.${i}`);
    return { data: channelsLast(data, [1, 3, height, width]), width, height };
  });
}

function targets(golden: Golden): { labels: Uint32Array<ArrayBuffer>; boxes: Float32Array<ArrayBuffer> }[] {
  return golden.meta.sizes.map((_, i) => ({
    labels: Uint32Array.from(golden.integers(`targets.${i}.labels`).data),
    boxes: golden.floats(`targets.${i}.boxes`).data,
  }));
}

/** Loads the initial weights of the file. */
function loadInitial(model: DynamicSparseRCNN, golden: Golden): void {
  const prefix = 'weights.';
  const values = new Map(
    [...golden.tensors.keys()]
      .filter((name) => name.startsWith(prefix))
      .map((name) => [name.slice(prefix.length), golden.floats(name)]),
  );
  expect(model.load(values)).toEqual({ missing: [], unexpected: [] });
}

/**
 * Two scores with a smaller relative difference count as equal, because rounding in float32 can swap them: a score is
 * the sigmoid of sums of thousands of products.
 */
const TIE = 1e-5;

/**
 * For each expected detection the rank of the found detection: the same rank, or among equal scores the first unused
 * rank with the same label.
 */
function orderOfTies(scores: ArrayLike<number>, expected: readonly number[], found: readonly number[]): number[] {
  const unused = new Set(found.keys());
  return expected.map((label, i) => {
    const ties = [...unused].filter((j) => Math.abs(scores[j] - scores[i]) <= TIE * scores[i]);
    const rank = ties.find((j) => found[j] === label) ?? i;
    unused.delete(rank);
    return rank;
  });
}

/** Device options with which other kernels run. */
const VARIANTS = {
  'as chosen': {},
  "WebGPU's default limits": { limits: 'default' },
  'default limits, no subgroups': { limits: 'default', subgroups: false },
  'operands in textures, Winograd F(2x2)': { force: { operands: 'texture', convolution: 'winograd2' } },
  'operands in buffers, Winograd F(4x4)': { force: { operands: 'buffer', convolution: 'winograd4' } },
  'direct convolutions': { force: { convolution: 'direct' } },
} satisfies Readonly<Record<string, NodeDeviceOptions>>;
export type Variant = keyof typeof VARIANTS;
export const VARIANT_NAMES = Object.keys(VARIANTS) as Variant[];
/** A separate file tests this variant, because its kernels use no subgroups (see vitest.config.ts). */
export const WITHOUT_SUBGROUPS: Variant = 'default limits, no subgroups';
/**
 * The golden file that runs with every variant. The other files run with the kernels as chosen. The environment
 * variable `GOLDEN_VARIANTS=all` runs every file with every variant, in about 8 minutes.
 */
const WITH_ALL_VARIANTS: GoldenName = 'r18-staircase-ota';

interface Run {
  readonly name: GoldenName;
  readonly variant: Variant;
  readonly options: NodeDeviceOptions;
}

/** Registers the tests of golden files with variants. */
export function testGolden(variants: readonly Variant[]): void {
  const runs = GOLDEN_NAMES.flatMap((name) =>
    variants
      .filter(
        (variant) => variant === 'as chosen' || name === WITH_ALL_VARIANTS || process.env.GOLDEN_VARIANTS === 'all',
      )
      .map((variant): Run => ({ name, variant, options: VARIANTS[variant] })),
  );
  describe.each(runs)('$name, $variant', testRun);
}

function testRun({ name, options }: Run): void {
  const golden = readGolden(name);
  const config = modelConfig(golden);
  const batch = images(golden);
  const { temperature } = golden.meta;
  let device: Device;
  let model: DynamicSparseRCNN;

  beforeAll(async () => {
    device = await openDevice({ ...options, tuning: 'off' });
    model = new DynamicSparseRCNN(device, config);
    loadInitial(model, golden);
  });
  afterAll(() => device.destroy());

  const agree = (label: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void => {
    expect(relativeError(actual, expected), `relative L2 error of ${label}`).toBeLessThanOrEqual(TOLERANCE);
  };
  const upload = (): Targets =>
    uploadTargets(
      device,
      targets(golden),
      batch.map(({ width, height }) => [width, height] as const),
    );
  const keepAll = (predictions: Predictions): void => {
    for (const tensor of [
      ...predictions.pyramid,
      predictions.proposals.boxes,
      predictions.proposals.features,
      predictions.initialBoxes,
    ])
      device.keep(tensor);
    if (predictions.proposals.expertWeights) device.keep(predictions.proposals.expertWeights);
    for (const { logits, boxes } of predictions.stages) [logits, boxes].forEach((tensor) => device.keep(tensor));
  };

  test('features, experts, proposals, logits and boxes of every stage', async () => {
    const predictions = device.noGrad(() =>
      device.scope(() => {
        const run = model.forward(batch, temperature);
        keepAll(run);
        return run;
      }),
    );
    for (const [i, feature] of predictions.pyramid.entries())
      agree(
        `features.p${i + 2}`,
        channelsFirst(await feature.read(), feature.shape),
        golden.floats(`features.p${i + 2}`).data,
      );
    if (predictions.proposals.expertWeights)
      agree('experts', await predictions.proposals.expertWeights.read(), golden.floats('experts').data);
    agree('proposals.boxes', await predictions.initialBoxes.read(), golden.floats('proposals.boxes').data);
    agree('proposals.features', await predictions.proposals.features.read(), golden.floats('proposals.features').data);
    for (const [s, { logits, boxes }] of predictions.stages.entries()) {
      agree(`stage${s}.logits`, await logits.read(), golden.floats(`stage${s}.logits`).data);
      agree(`stage${s}.boxes`, await boxes.read(), golden.floats(`stage${s}.boxes`).data);
    }
  });

  const expectLosses = (parts: ArrayLike<number>): void => {
    for (let s = 0; s < config.numStages; s++)
      ['ce', 'l1', 'giou'].forEach((part, k) =>
        agree(`loss.${part}_${s}`, [parts[s * 3 + k]], golden.floats(`loss.${part}_${s}`).data),
      );
  };
  /** `matched` has the object of each proposal, or -1, for each stage and image. */
  const expectMatches = (matched: ArrayLike<number>): void => {
    for (let s = 0; s < config.numStages; s++)
      for (let b = 0; b < batch.length; b++) {
        const {
          shape: [, count],
          data,
        } = golden.integers(`stage${s}.match.${b}`);
        const expected = new Array<number>(config.numProposals).fill(-1);
        for (let i = 0; i < count; i++) expected[data[i]] = data[count + i];
        const at = (s * batch.length + b) * config.numProposals;
        expect(Array.from(matched).slice(at, at + config.numProposals), `matches of stage ${s}, image ${b}`).toEqual(
          expected,
        );
      }
  };
  const expectGradients = async (): Promise<void> => {
    const expectedNames = [...golden.tensors.keys()]
      .filter((tensor) => tensor.startsWith('grads.'))
      .map((tensor) => tensor.slice('grads.'.length));
    expect(
      model
        .trainable()
        .map((parameter) => parameter.name)
        .sort(),
      'parameters with a gradient',
    ).toEqual(expectedNames.sort());
    for (const parameter of model.trainable()) {
      const { grad } = parameter.tensor;
      if (!grad) throw new Error(`${parameter.name}: expected a gradient, got none`);
      const stored = toStored(parameter, (await grad.read()) as Float32Array<ArrayBuffer>);
      agree(`grads.${parameter.name}`, stored.data, golden.floats(`grads.${parameter.name}`).data);
    }
  };

  test('matches, losses and all gradients; three training steps', async () => {
    const optimizer = new AdamW(model.trainable(), { weightDecay: 1e-4 });
    for (let step = 0; step < 3; step++) {
      const kept = device.scope(() => {
        const losses = criterion(model.forward(batch, temperature).stages, upload(), config);
        backward(losses.total);
        [losses.total, losses.parts, losses.matched].forEach((tensor) => device.keep(tensor));
        return losses;
      });
      if (step === 0) {
        expectLosses(await kept.parts.read());
        expectMatches(await kept.matched.read());
        agree('loss.total', await kept.total.read(), golden.floats('loss.total').data);
        await expectGradients();
      }
      agree(`step${step}.loss`, await kept.total.read(), golden.floats(`step${step}.loss`).data);
      const norm = optimizer.step({ learningRate: 2.5e-5, maxGradientNorm: 1 });
      agree(`step${step}.grad_norm`, await norm.read(), golden.floats(`step${step}.grad_norm`).data);
      optimizer.zeroGrad();
      for (const tensor of [kept.total, kept.parts, kept.matched]) tensor.dispose();
    }
    const trained = await model.save();
    for (const [tensor, { data }] of trained) {
      const expected = golden.tensors.has(`trained.${tensor}`) ? `trained.${tensor}` : `weights.${tensor}`;
      agree(expected, data, golden.floats(expected).data);
    }
  });

  test('gradient checkpointing gives the same gradients with less memory', async () => {
    const run = async (gradientCheckpointing: boolean): Promise<{ gradients: Float32Array[]; peak: number }> => {
      const other = new DynamicSparseRCNN(device, { ...config, gradientCheckpointing });
      loadInitial(other, golden);
      const before = device.memory().liveBytes;
      device.resetPeak();
      device.scope(() => backward(criterion(other.forward(batch, temperature).stages, upload(), config).total));
      const peak = device.memory().peakBytes - before;
      const gradients: Float32Array[] = [];
      for (const { tensor } of other.trainable()) gradients.push((await tensor.grad!.read()) as Float32Array);
      other.dispose();
      return { gradients, peak };
    };
    const plain = await run(false),
      saving = await run(true);
    // The order of the sums differs. F(4x4) rounds more coarsely.
    const rounding = options.force?.convolution === 'winograd4' ? 2e-5 : 1e-5;
    saving.gradients.forEach((gradient, i) =>
      expect(relativeError(gradient, plain.gradients[i])).toBeLessThanOrEqual(rounding),
    );
    // The peak includes scratch memory and textures of operands, which checkpointing does not reduce. In small networks
    // their share is large.
    expect(saving.peak).toBeLessThan(0.9 * plain.peak);
  });

  test('detections, best first', async () => {
    loadInitial(model, golden);
    const found = await model.detect(batch);
    for (const [b, { scores, labels, boxes }] of found.entries()) {
      const expected = {
        scores: golden.floats(`detect.${b}.scores`).data,
        labels: golden.integers(`detect.${b}.labels`).data,
        boxes: golden.floats(`detect.${b}.boxes`).data,
      };
      expect(Array.from(scores), `scores of image ${b}`).toEqual(Array.from(scores).sort((x, y) => y - x));
      agree(`detect.${b}.scores`, scores, expected.scores);
      const order = orderOfTies(expected.scores, Array.from(expected.labels), Array.from(labels));
      expect(
        order.map((i) => labels[i]),
        `labels of image ${b}`,
      ).toEqual(Array.from(expected.labels));
      agree(
        `detect.${b}.boxes`,
        order.flatMap((i) => Array.from(boxes.subarray(4 * i, 4 * i + 4))),
        expected.boxes,
      );
    }
  });
}
