/** One optimiser step: passes over batches, and the update. Shapes that come again are captured and replayed; the bits are those of running every step anew. */
import {
  AdamW,
  backward,
  CaptureCache,
  SGD,
  type CaptureReport,
  type Device,
  type ImageData,
  type Tensor,
} from '../../engine/index.ts';
import { batchShape, shapeKey, type Batch, type DynamicSparseRCNN, type ImageTargets } from '../../model/index.ts';
import type { TrainingConfig } from './recipe.ts';
import type { PassStatistics } from './step-recorder.ts';

/** Captures that live at once: their commands take about a megabyte of the host each, their memory on the device they share. */
const CAPTURES = 8;

export interface PassData {
  readonly images: readonly ImageData[];
  readonly targets: readonly ImageTargets[];
}

export interface StepSettings {
  readonly learningRate: number;
  /** Of the softmax over experts. */
  readonly temperature: number;
}

interface Update {
  /** [1]: of the gradients before clipping. */
  readonly norm: Tensor;
}

const NO_INPUTS = { dispose: (): void => undefined };

export class TrainingStep {
  readonly optimizer: AdamW | SGD;
  private learningRate = 0;
  /** With accumulation a pass puts its gradients aside, and the update is a capture of its own; without, both are one. */
  private readonly passes: CaptureCache<Batch, PassStatistics & Partial<Update>>;
  private readonly updates: CaptureCache<typeof NO_INPUTS, Update>;

  constructor(
    private readonly device: Device,
    private readonly model: DynamicSparseRCNN,
    private readonly training: TrainingConfig,
  ) {
    const { optimizer, weightDecay, momentum, accumulation, replay: enabled } = training;
    const parameters = model.trainable();
    this.optimizer =
      optimizer === 'adamw' ? new AdamW(parameters, { weightDecay }) : new SGD(parameters, { weightDecay, momentum });
    this.passes = new CaptureCache(
      device,
      (batch) => {
        const { total, parts, counts } = model.lossOf(batch);
        backward(total);
        const statistics = { parts: parts.detach(), positives: counts };
        if (accumulation === 1) return { ...statistics, ...this.update() };
        this.optimizer.accumulate();
        return statistics;
      },
      { capacity: CAPTURES, enabled },
    );
    this.updates = new CaptureCache(device, () => this.update(), { enabled });
  }

  /**
   * Records the step's work; nothing is read back.
   * @param next gives the data of the next pass; called `accumulation` times
   * @returns copies of the passes' numbers, and of the gradients' norm, [1]: the caller's to dispose
   */
  async run(
    next: () => Promise<PassData>,
    { learningRate, temperature }: StepSettings,
  ): Promise<{ passes: PassStatistics[]; norm: Tensor }> {
    this.learningRate = learningRate;
    const passes: PassStatistics[] = [];
    let norm: Tensor | undefined;
    for (let pass = 0; pass < this.training.accumulation; pass++) {
      const { images, targets } = await next();
      const shape = batchShape(images, targets);
      // The first pass sets the gradients put aside, the others add to them.
      const key = `${shapeKey(shape)}${pass === 0 ? '' : '+'}`;
      const result = this.passes.run(
        key,
        () => this.model.batch(shape),
        (batch) => batch.write(images, targets, temperature),
      );
      passes.push({ parts: this.copy(result.parts), positives: this.copy(result.positives) });
      ({ norm } = result);
    }
    norm ??= this.updates.run(
      'update',
      () => NO_INPUTS,
      () => undefined,
    ).norm;
    norm = this.copy(norm);
    this.device.flush();
    return { passes, norm };
  }

  /** What is captured at the moment. */
  get captures(): readonly CaptureReport[] {
    return [...this.passes.reports, ...this.updates.reports];
  }

  dispose(): void {
    this.passes.dispose();
    this.updates.dispose();
    this.optimizer.dispose();
  }

  private update(): Update {
    const { clipNorm, accumulation } = this.training;
    const norm = this.optimizer.step({
      learningRate: () => this.learningRate,
      maxGradientNorm: clipNorm || undefined,
      gradientScale: 1 / accumulation,
    });
    this.optimizer.zeroGrad();
    return { norm: norm.detach() };
  }

  /** Outputs are overwritten by the next replay. */
  private copy(tensor: Tensor): Tensor {
    const copy = this.device.keep(this.device.empty(tensor.shape, tensor.dtype));
    this.device.copy(tensor, copy);
    return copy;
  }
}
