/**
 * Label assignment: which proposal answers for which ground truth, at every stage. On the device, without gradients, for all stages and images at once.
 *
 * Glossary: B images, N proposals, C classes, M rows of ground truths of an image (padded), T stages. Boxes are xyxy, pixels of the padded batch.
 * Sources: [SR] Sparse R-CNN, arXiv 2011.12450; [OTA] Optimal Transport Assignment, arXiv 2103.14259; [DSR] Dynamic Sparse R-CNN, arXiv 2205.02101.
 */
import {
  assignLinearSum,
  countPositives,
  matchingCosts,
  transportAssignment,
  transportSupply,
  type Device,
  type MatchingWeights,
  type PaddedTargets,
  type Tensor,
} from '../engine/index.ts';
import type { ModelConfig } from './config.ts';

/** The objects of one image. */
export interface ImageTargets {
  /** M class numbers. */
  readonly labels: ArrayLike<number>;
  /** 4 M numbers, xyxy in pixels. */
  readonly boxes: ArrayLike<number>;
}

/** The objects of a batch on the device, padded so that shapes repeat from step to step. */
export interface Targets extends PaddedTargets {
  /** M: rows of an image, in use or not. */
  readonly maxObjects: number;
  /** The highest class number among them, -1 without objects. */
  readonly highestLabel: number;
}

/** Fewest rows a batch is padded to; beyond, powers of two. */
const MIN_ROWS = 8;

/** Rows that a batch is padded to: the next of 8, 16, 32, ... that holds the most objects of an image. */
export function targetRows(perImage: readonly ImageTargets[]): number {
  const most = perImage.reduce((largest, { labels }) => Math.max(largest, labels.length), 1);
  return Math.max(MIN_ROWS, 2 ** Math.ceil(Math.log2(most)));
}

/** A batch's objects as they go to the device: see Targets. */
export interface PackedTargets {
  readonly labels: Uint32Array<ArrayBuffer>;
  readonly boxes: Float32Array<ArrayBuffer>;
  readonly counts: Uint32Array<ArrayBuffer>;
  readonly highestLabel: number;
}

/** Checks a batch's objects and pads them to `rows` an image. Throws RangeError naming image and field, `owner` first. */
export function packTargets(owner: string, perImage: readonly ImageTargets[], rows: number): PackedTargets {
  const labels = new Uint32Array(perImage.length * rows),
    boxes = new Float32Array(perImage.length * rows * 4);
  let highestLabel = -1;
  perImage.forEach((image, b) => {
    if (image.boxes.length !== 4 * image.labels.length) {
      throw new RangeError(
        `${owner}: boxes of image ${b} must be ${4 * image.labels.length} numbers for ${image.labels.length} labels, got ${image.boxes.length}`,
      );
    }
    if (image.labels.length > rows)
      throw new RangeError(`${owner}: image ${b} must have at most ${rows} objects, got ${image.labels.length}`);
    for (let i = 0; i < image.labels.length; i++) {
      const label = image.labels[i];
      if (!Number.isInteger(label) || label < 0)
        throw new RangeError(`${owner}: labels of image ${b} must be integers of at least 0, got ${label} at ${i}`);
      highestLabel = Math.max(highestLabel, label);
    }
    for (let i = 0; i < image.boxes.length; i++) {
      if (!Number.isFinite(image.boxes[i]))
        throw new RangeError(
          `${owner}: boxes of image ${b} must be finite, got ${image.boxes[i]} in box ${Math.floor(i / 4)}`,
        );
    }
    labels.set(image.labels, b * rows);
    boxes.set(image.boxes, b * rows * 4);
  });
  return { labels, boxes, counts: Uint32Array.from(perImage, (image) => image.labels.length), highestLabel };
}

/**
 * Copies a batch's objects to the device.
 *
 * @param sizes    width and height of each image, unpadded, in pixels
 * @param capacity rows an image; default: the next of 8, 16, 32, ... that holds the most objects of an image
 */
export function uploadTargets(
  device: Device,
  perImage: readonly ImageTargets[],
  sizes: readonly (readonly [width: number, height: number])[],
  capacity?: number,
): Targets {
  if (sizes.length !== perImage.length)
    throw new RangeError(`uploadTargets: sizes must be of ${perImage.length} images, got ${sizes.length}`);
  const most = perImage.reduce((largest, { labels }) => Math.max(largest, labels.length), 1);
  const rows = capacity ?? targetRows(perImage);
  if (!Number.isInteger(rows) || rows < most)
    throw new RangeError(`uploadTargets: capacity must be an integer of at least ${most}, got ${capacity}`);
  const { labels, boxes, counts, highestLabel } = packTargets('uploadTargets', perImage, rows);
  return {
    labels: device.tensor(labels, [perImage.length, rows]),
    boxes: device.tensor(boxes, [perImage.length, rows, 4]),
    counts: device.tensor(counts, [perImage.length]),
    sizes: device.tensor(Float32Array.from(sizes.flatMap(([w, h]) => [w, h, w, h])), [perImage.length, 4]),
    maxObjects: rows,
    highestLabel,
  };
}

export interface Assignment {
  /** i32 [T, B, N]: the ground truth of each proposal, -1 for a negative. */
  readonly matched: Tensor;
  /** f32 [T]: max(1, matched proposals of the batch), what the stage's losses are divided by. */
  readonly positives: Tensor;
  /** u32 [T]: matched proposals of the batch. */
  readonly counts: Tensor;
  /** OTA, where details are asked for: f32 [T, B, M + 1], units of each ground truth and last of the background. */
  readonly supply: Tensor | null;
  /** OTA, where details are asked for: f32 [T, B, M + 1, N], the transport plan. */
  readonly plan: Tensor | null;
}

export type MatchingConfig = Pick<
  ModelConfig,
  | 'matcher'
  | 'otaK'
  | 'otaTopQ'
  | 'unitIncreasing'
  | 'unitStep'
  | 'maxPositiveFraction'
  | 'sinkhornEpsilon'
  | 'sinkhornIterations'
  | 'classWeight'
  | 'l1Weight'
  | 'giouWeight'
  | 'focalAlpha'
  | 'focalGamma'
>;

/**
 * Assigns labels at all stages.
 * - `hungarian` [SR]: one proposal a ground truth at the least total cost of class, L1 and GIoU.
 * - `ota` [OTA, DSR 3.2]: optimal transport from ground truths and background to proposals; each ground truth supplies k units, more at later stages.
 *
 * @param logits  [T, B, N, C], of all stages
 * @param boxes   [T, B, N, 4]
 * @param details also returns supply and plan (OTA)
 */
export function assign(
  logits: Tensor,
  boxes: Tensor,
  targets: Targets,
  config: MatchingConfig,
  details = false,
): Assignment {
  const classes = logits.shape[logits.rank - 1];
  if (targets.highestLabel >= classes)
    throw new RangeError(`assign: labels must be below the model's ${classes} classes, got ${targets.highestLabel}`);
  const { classWeight, l1Weight, giouWeight, focalAlpha: alpha, focalGamma: gamma } = config;
  const weights = (scale: number): MatchingWeights => ({
    classWeight: classWeight * scale,
    l1Weight: l1Weight * scale,
    giouWeight: giouWeight * scale,
    alpha,
    gamma,
  });
  return logits.device.scope(() => {
    if (config.matcher === 'hungarian') {
      const { rows: matched } = assignLinearSum(
        matchingCosts(logits, boxes, targets, 'hungarian', weights(1)),
        targets.counts,
      );
      return { matched, ...countPositives(matched), supply: null, plan: null };
    }
    const costs = matchingCosts(logits, boxes, targets, 'transport', weights(1 / config.sinkhornEpsilon));
    const supply = transportSupply(boxes, targets, {
      k: config.otaK,
      topQ: config.otaTopQ,
      unitStep: config.unitIncreasing ? config.unitStep : null,
      maxPositiveFraction: config.maxPositiveFraction,
    });
    const { matched, plan } = transportAssignment(costs, supply, targets.counts, {
      iterations: config.sinkhornIterations,
      plan: details,
    });
    return { matched, ...countPositives(matched), supply: details ? supply : null, plan };
  });
}
