/**
 * The interface between training and a model. Training, evaluation and drawing use a detector only through it.
 * A detector usually extends the engine's `Module`, which has `tensors`, `trainable`, `save`, `load` and `dispose`.
 */
import type { Device, ImageData, Tensor } from '../../engine/index.ts';
import type { NamedTensor, StoredTensor } from '../../engine/nn/index.ts';
import type { Detections, ImageTargets, Trace } from '../../model/index.ts';

/**
 * Numbers that change from step to step and that the model reads by name, such as `temperature`.
 * The model has a default for each: the value of inference.
 */
export type StepValues = Readonly<Record<string, number>>;

/** The device memory of a batch. Its values can be overwritten, so that a captured step can be replayed on it. */
export interface DetectorBatch {
  /** Overwrites all values. Throws RangeError if images or objects do not fit the shape of the batch. */
  write(images: readonly ImageData[], targets: readonly ImageTargets[], values: StepValues): void;
  dispose(): void;
}

/** One term of the loss, such as `class` or `l1`. */
export interface LossPart {
  /** Name in metrics.jsonl (with `_loss` appended) and in the progress line. */
  readonly name: string;
  /** Name in plots. */
  readonly label: string;
}

/** S stages, P parts. */
export interface DetectorLosses {
  /** Scalar: the sum of `parts`. Gradients start here. */
  readonly total: Tensor;
  /** f32 [S, P]: the parts of each stage, in the order of `lossParts`. */
  readonly parts: Tensor;
  /**
   * u32 or f32 [S]: positive predictions of each stage, over the batch. `lossOf` computes this tensor, like `parts`. It
   * cannot return a tensor of the batch itself, which does not outlive the pass.
   */
  readonly counts: Tensor;
}

/** @typeParam B the detector's own class of batches */
export interface Detector<B extends DetectorBatch = DetectorBatch> {
  readonly device: Device;
  /** One line for the user, e.g. "ResNet-18, 25 proposals, 3 stages". */
  readonly summary: string;
  /** Names of the columns of `DetectorLosses.parts`. */
  readonly lossParts: readonly LossPart[];
  /** S: rows of `DetectorLosses.parts`. A model without stages has 1. */
  readonly stages: number;
  /** Normalization of RGB images (0 .. 255). Stems trained with another normalization are converted to it. */
  readonly pixelMean: readonly number[];
  readonly pixelStd: readonly number[];

  /**
   * The names of the backbone's parameters begin with this text. A detector without a backbone of its own has none;
   * `backboneLearningRateFactor` must then be 1.
   */
  readonly backbonePrefix?: string;

  /** Equal keys mean equal shapes: batches of one key can use the same memory and the same captured step. */
  batchKey(images: readonly ImageData[], targets: readonly ImageTargets[]): string;
  /** Allocates memory for a batch of the shape of `images` and `targets`; nothing is written. */
  makeBatch(images: readonly ImageData[], targets: readonly ImageTargets[]): B;
  /** Losses of a batch with its current values. It reads nothing back, so that it can be captured. */
  lossOf(batch: B): DetectorLosses;
  /** Detections of each image, best first; boxes are xyxy in pixels of the given images. */
  detect(images: readonly ImageData[]): Promise<Detections[]>;
  /** Detections with every stage's boxes and scores, for drawing. A detector without stages has no `trace`. */
  trace?(image: ImageData): Promise<Trace>;
  /** FLOPs of a forward pass on one image (pixels, after padding), by part of the model. */
  countFlops(height: number, width: number): Readonly<Record<string, number>>;

  tensors(): Iterable<NamedTensor>;
  trainable(): NamedTensor[];
  save(): Promise<Map<string, StoredTensor>>;
  load(values: ReadonlyMap<string, StoredTensor>): { missing: string[]; unexpected: string[] };
  dispose(): void;
}

/** Losses of a batch that is used once. Its memory belongs to the current scope of the device. */
export function computeLosses(
  detector: Detector,
  images: readonly ImageData[],
  targets: readonly ImageTargets[],
  values: StepValues = {},
): DetectorLosses {
  const batch = detector.makeBatch(images, targets);
  batch.write(images, targets, values);
  return detector.lossOf(batch);
}
