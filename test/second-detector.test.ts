/**
 * Training, evaluation and drawing work with any `Detector`. The one in this file is a small dense one-stage detector
 * like FCOS (arXiv 1904.01355). It has other loss parts, and no proposals, matching, stages or temperature.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  abs,
  mul,
  normalizePacked,
  packImages,
  paddedSize,
  Random,
  reshape,
  sigmoidFocalLoss,
  stack,
  sub,
  sum,
  writeSafetensors,
  type Device,
  type ImageData,
  type Tensor,
} from '../engine/index.ts';
import { constant, Conv2d, Module } from '../engine/nn/index.ts';
import { clipBoxes, nms, topScores } from '../model/boxes.ts';
import { FPN } from '../model/fpn.ts';
import { MODEL_PRESETS, type Detections, type ImageTargets, type ModelConfig } from '../model/index.ts';
import { loadPretrained } from '../training/checkpoints/load-weights.ts';
import { PLAIN_AUGMENTATION } from '../training/core/augmentation.ts';
import type { Detector, DetectorBatch, DetectorLosses } from '../training/core/detector.ts';
import { trainLoop } from '../training/core/loop.ts';
import { MetricsLog, type StepMetrics } from '../training/core/metrics-log.ts';
import { presetConfig, type TrainingConfig } from '../training/core/recipe.ts';
import { TimeLeft } from '../training/core/time-left.ts';
import { TrainingStep } from '../training/core/step.ts';
import { ensureShapesDataset, openDataset, splitRecords, type Dataset } from '../training/data/index.ts';
import { createTrainingLoader } from '../training/data/loader.ts';
import { evaluateModel } from '../training/evaluation/evaluate-model.ts';
import { drawRun } from '../training/pictures/draw-run.ts';
import { testDevice } from './devices.ts';

/** Pixels per cell of P3, the only level that the detector reads. */
const STRIDE = 8;
const DIVISOR = 32;
const MAX_DETECTIONS = 20;

/**
 * The targets of a batch. Each cell whose center lies in an object learns the object's class and the distances to its
 * four sides. C classes.
 */
class DenseBatch implements DetectorBatch {
  readonly height: number;
  readonly width: number;
  readonly packed: Tensor;
  /** [B, h, w, C], one-hot. */
  readonly classes: Tensor;
  /** [B, h, w, 4] in strides. */
  readonly distances: Tensor;
  /** [B, h, w, 1]: 1 in cells with an object. */
  readonly mask: Tensor;
  /** [1]: 1 / number of cells with an object. */
  readonly scale: Tensor;

  constructor(
    private readonly device: Device,
    readonly images: readonly ImageData[],
    private readonly numClasses: number,
  ) {
    [this.height, this.width] = paddedSize(images, { divisor: DIVISOR });
    const cells = [images.length, this.height / STRIDE, this.width / STRIDE] as const;
    this.packed = device.empty([packImages(images).length], 'u32');
    this.classes = device.empty([...cells, numClasses]);
    this.distances = device.empty([...cells, 4]);
    this.mask = device.empty([...cells, 1]);
    this.scale = device.empty([1]);
  }

  write(images: readonly ImageData[], targets: readonly ImageTargets[]): void {
    const { device, numClasses } = this;
    this.writeImages(images);
    const [classes, distances, mask] = [this.classes, this.distances, this.mask].map(
      ({ size }) => new Float32Array(size),
    );
    const columns = this.width / STRIDE,
      cells = columns * (this.height / STRIDE);
    targets.forEach(({ labels, boxes }, image) => {
      for (let object = 0; object < labels.length; object++) {
        const [x0, y0, x1, y1] = Array.from({ length: 4 }, (_, side) => boxes[4 * object + side]);
        for (let cell = 0; cell < cells; cell++) {
          const [x, y] = [(cell % columns) + 0.5, Math.floor(cell / columns) + 0.5].map((center) => center * STRIDE);
          if (x < x0 || x >= x1 || y < y0 || y >= y1) continue;
          const at = image * cells + cell;
          classes.fill(0, at * numClasses, (at + 1) * numClasses)[at * numClasses + labels[object]] = 1;
          distances.set(
            [x - x0, y - y0, x1 - x, y1 - y].map((distance) => distance / STRIDE),
            4 * at,
          );
          mask[at] = 1;
        }
      }
    });
    const positives = mask.reduce((total, value) => total + value, 0);
    device.write(this.classes, classes);
    device.write(this.distances, distances);
    device.write(this.mask, mask);
    device.write(this.scale, Float32Array.of(1 / Math.max(1, positives)));
  }

  writeImages(images: readonly ImageData[]): void {
    this.device.write(this.packed, packImages(images));
  }

  dispose(): void {
    for (const tensor of [this.packed, this.classes, this.distances, this.mask, this.scale]) tensor.dispose();
  }
}

class DenseDetector extends Module implements Detector<DenseBatch> {
  readonly summary = 'dense detector on P3';
  readonly lossParts = [
    { name: 'class', label: 'class' },
    { name: 'distance', label: 'distance' },
  ];
  readonly stages = 1;
  readonly pixelMean: readonly number[];
  readonly pixelStd: readonly number[];
  private readonly backbone: FPN;
  private readonly classHead: Conv2d;
  private readonly boxHead: Conv2d;

  constructor(
    device: Device,
    private readonly config: ModelConfig,
    seed = 0,
  ) {
    super(device);
    const random = new Random(seed);
    this.pixelMean = config.pixelMean;
    this.pixelStd = config.pixelStd;
    this.backbone = this.child('backbone', new FPN(device, random, config));
    this.classHead = this.child(
      'head.classes',
      new Conv2d(device, random, config.hiddenDim, config.numClasses, 3, { bias: true }),
    );
    this.boxHead = this.child('head.distances', new Conv2d(device, random, config.hiddenDim, 4, 3, { bias: true }));
    device.write(this.classHead.bias!, constant(config.numClasses, -Math.log(99)));
  }

  batchKey(images: readonly ImageData[]): string {
    return [images.length, ...paddedSize(images, { divisor: DIVISOR }), packImages(images).length].join('x');
  }

  makeBatch(images: readonly ImageData[]): DenseBatch {
    return new DenseBatch(this.device, images, this.config.numClasses);
  }

  /** Logits [B, h, w, C] and distances [B, h, w, 4]. */
  private forwardBatch({ packed, images, height, width }: DenseBatch): { logits: Tensor; distances: Tensor } {
    const { pixelMean: mean, pixelStd: std } = this.config;
    const x = this.device.opScope(() => normalizePacked(packed, images.length, { mean, std, height, width }));
    const level = this.backbone.forward(x)[1];
    return { logits: this.classHead.forward(level), distances: this.boxHead.forward(level) };
  }

  lossOf(batch: DenseBatch): DetectorLosses {
    const { logits, distances } = this.forwardBatch(batch);
    const { classes, distances: expected, mask, scale } = batch;
    const classLoss = mul(sum(sigmoidFocalLoss(logits, classes, { alpha: 0.25, gamma: 2 })), scale);
    const distanceLoss = mul(sum(mul(abs(sub(distances, expected)), mask)), scale);
    const parts = stack([classLoss, distanceLoss], 1);
    return { total: sum(parts), parts, counts: reshape(sum(mask), [1]) };
  }

  async detect(images: readonly ImageData[]): Promise<Detections[]> {
    const { device, config } = this;
    const batch = this.makeBatch(images);
    batch.writeImages(images);
    const { logits, distances } = device.noGrad(() =>
      device.scope(() => {
        const output = this.forwardBatch(batch);
        return { logits: device.keep(output.logits), distances: device.keep(output.distances) };
      }),
    );
    const [scores, sides] = [await logits.read(), await distances.read()];
    for (const disposable of [logits, distances, batch]) disposable.dispose();
    const columns = batch.width / STRIDE;
    const cells = sides.length / 4 / images.length;
    return images.map(({ width, height }, image) => {
      const boxes = Array.from({ length: cells }, (_, cell) => {
        const [x, y] = [(cell % columns) + 0.5, Math.floor(cell / columns) + 0.5];
        const [left, top, right, bottom] = sides.subarray(4 * (image * cells + cell), 4 * (image * cells + cell + 1));
        return [x - left, y - top, x + right, y + bottom].map((side) => side * STRIDE);
      });
      const C = config.numClasses;
      const top = topScores(scores.subarray(image * cells * C, (image + 1) * cells * C), C, MAX_DETECTIONS);
      const found = Array.from(top.proposals, (cell) => boxes[cell]).flat();
      const kept = nms(found, top.scores, top.labels, 0.5);
      return {
        scores: Float32Array.from(kept, (i) => top.scores[i]),
        labels: Uint32Array.from(kept, (i) => top.labels[i]),
        boxes: clipBoxes(
          kept.flatMap((i) => found.slice(4 * i, 4 * i + 4)),
          [width, height],
        ),
        proposals: Uint32Array.from(kept, (i) => top.proposals[i]),
      };
    });
  }

  countFlops(height: number, width: number): Record<string, number> {
    const cells = (height / STRIDE) * (width / STRIDE);
    return { heads: 2 * cells * 9 * this.config.hiddenDim * (this.config.numClasses + 4) };
  }
}

const folder = mkdtempSync(join(tmpdir(), 'second-detector-'));
const device = await testDevice();
const config: ModelConfig = { ...MODEL_PRESETS.tiny, numClasses: 4 };
const training: TrainingConfig = {
  ...presetConfig('tiny').training,
  iterations: 40,
  batchSize: 4,
  warmupIterations: 4,
  evaluateEvery: 20,
  saveEvery: 15,
  augmentation: { ...PLAIN_AUGMENTATION, flip: 0.5, shortSides: [64], maxSize: 64, crop: null, fixedSize: [64, 64] },
};
let dataset: Dataset;

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation(() => undefined);
  dataset = await openDataset(
    await ensureShapesDataset(join(folder, 'shapes'), { trainImages: 16, valImages: 4, imageSize: 64 }),
  );
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

/** Trains with the loop of the `train` command; returns metrics, and evaluations and checkpoints in their order. */
async function train(detector: Detector, replay: boolean): Promise<{ lines: StepMetrics[]; events: string[] }> {
  const settings = { ...training, replay };
  const { seed, batchSize, augmentation, iterations } = settings;
  const records = splitRecords(dataset, 'train');
  const loader = createTrainingLoader({ records, batchSize, seed, augmentation, workers: 0 });
  const step = new TrainingStep(device, detector, settings);
  const lines: StepMetrics[] = [];
  const events: string[] = [];
  const log = new MetricsLog({
    device,
    parts: detector.lossParts.map(({ name }) => name),
    stages: detector.stages,
    iterations,
    timeLeft: new TimeLeft({ ...settings, evaluationImages: 0, testImages: 0 }),
    onMetrics: (line) => lines.push(line),
    onProgress: ({ parts }) => expect(Object.keys(parts)).toEqual(['class', 'distance']),
  });
  const done = await trainLoop({
    training: settings,
    step,
    log,
    start: 0,
    next: () => loader.next(),
    stopped: () => false,
    evaluate: async (iteration) => void events.push(`evaluate ${iteration}`),
    save: async (iteration) => void events.push(`save ${iteration}`),
  });
  expect(done).toBe(iterations);
  step.dispose();
  await loader.close();
  return { lines, events };
}

const withoutTimes = (lines: readonly StepMetrics[]) => lines.map(({ step_ms, ...line }) => line);

describe('a detector with other loss parts', () => {
  const detector: Detector = new DenseDetector(device, config, 1);
  let lines: StepMetrics[];

  test('is trained by the same loop, and its loss falls', async () => {
    const trained = await train(detector, true);
    ({ lines } = trained);
    expect(trained.events).toEqual(['save 15', 'evaluate 20', 'save 30', 'evaluate 40', 'save 40']);
    expect(lines.map(({ iteration }) => iteration)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    expect(Object.keys(lines[0])).toEqual([
      'iteration',
      'loss',
      'class_loss',
      'distance_loss',
      'lr',
      'grad_norm',
      'step_ms',
      'positives',
    ]);
    for (const { loss, class_loss, distance_loss, positives } of lines) {
      expect([class_loss.length, distance_loss.length, positives.length]).toEqual([1, 1, 1]);
      expect(loss).toBe(class_loss[0] + distance_loss[0]);
    }
    const mean = (part: readonly StepMetrics[]) => part.reduce((total, { loss }) => total + loss, 0) / part.length;
    expect(mean(lines.slice(-8))).toBeLessThan(0.5 * mean(lines.slice(0, 8)));
  });

  test('has the same bits when its steps are replayed', async () => {
    const plain = new DenseDetector(device, config, 1);
    expect(withoutTimes((await train(plain, false)).lines)).toEqual(withoutTimes(lines));
    plain.dispose();
  });

  test('is evaluated and drawn by the same code', async () => {
    const resize = { shortSide: 64, maxSize: 64, fixedSize: null };
    const { evaluation, detections } = await evaluateModel(detector, dataset, 'val', {
      batchSize: 2,
      resize,
      workers: 0,
    });
    expect(evaluation.images).toBe(4);
    expect(evaluation.metrics.AR100).toBeGreaterThan(0);
    expect(detections.length).toBeGreaterThan(0);
    const [metricsFile, evaluationsFile] = ['metrics', 'evaluations'].map((name) => join(folder, `${name}.jsonl`));
    writeFileSync(metricsFile, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    writeFileSync(evaluationsFile, '');
    const drawn = await drawRun(detector, splitRecords(dataset, 'val').slice(0, 1), {
      out: folder,
      resize,
      classNames: dataset.classNames,
      metricsFile,
      evaluationsFile,
    });
    expect(drawn).toContain(join(folder, 'loss.png'));
    for (const path of drawn) expect(existsSync(path)).toBe(true);
  });

  test('gets its weights back from a file', async () => {
    const file = join(folder, 'weights.safetensors');
    writeFileSync(file, writeSafetensors(await detector.save()));
    expect(readFileSync(file).length).toBeGreaterThan(0);
    const other: Detector = new DenseDetector(device, config, 2);
    const { missing, reshaped } = loadPretrained(other, file);
    expect([...missing, ...reshaped]).toEqual([]);
    const image = { data: new Uint8Array(64 * 64 * 3).fill(90), width: 64, height: 64 };
    expect(await other.detect([image])).toEqual(await detector.detect([image]));
    other.dispose();
  });
});
