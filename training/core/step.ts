/**
 * One optimizer step: forward and backward passes over batches, then the update. Steps with repeated shapes are
 * captured and replayed; the bits are the same as those of steps without capture.
 */
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
import type { ImageTargets } from '../../model/index.ts';
import type { Detector, DetectorBatch, StepValues } from './detector.ts';
import { InputError } from './errors.ts';
import type { TrainingConfig } from './recipe.ts';

/**
 * Maximum number of captures that are kept. The commands of a capture take about a megabyte on the host. On the device,
 * all captures share their memory.
 */
const MAX_CAPTURES = 8;

export interface PassData {
  readonly images: readonly ImageData[];
  readonly targets: readonly ImageTargets[];
}

/** The losses of one forward and backward pass, still on the device. S stages, P parts. */
export interface PassLosses {
  /** f32 [S, P]: the parts of the loss, in the order of the detector's `lossParts`. */
  readonly parts: Tensor;
  /** [S]: positive predictions, over the batch. */
  readonly positives: Tensor;
}

export interface StepSettings {
  readonly learningRate: number;
  /** Numbers that the detector reads by name. */
  readonly values: StepValues;
}

/** The numbers of a step, still on the device. The caller owns them and calls `dispose`. */
export interface StepResult {
  readonly passes: readonly PassLosses[];
  /** [1]: total L2 norm of the gradients before clipping. */
  readonly norm: Tensor;
  dispose(): void;
}

interface Update {
  /** [1]: total L2 norm of the gradients before clipping. */
  readonly norm: Tensor;
}

/** Throws InputError if a factor of the backbone is given, and the detector has no backbone. */
function createOptimizer(detector: Detector, training: TrainingConfig): AdamW | SGD {
  const { optimizer, weightDecay, momentum, emaDecay, backboneLearningRateFactor: factor } = training;
  const { backbonePrefix } = detector;
  if (factor !== 1 && backbonePrefix === undefined)
    throw new InputError(
      `training.backboneLearningRateFactor: expected 1 for a model without a backbone of its own, got ${factor}`,
    );
  const options = {
    weightDecay,
    averageDecay: emaDecay,
    learningRateFactor: (name: string) =>
      backbonePrefix !== undefined && name.startsWith(backbonePrefix) ? factor : 1,
  };
  const parameters = detector.trainable();
  return optimizer === 'adamw' ? new AdamW(parameters, options) : new SGD(parameters, { ...options, momentum });
}

const NO_INPUTS = { dispose: (): void => undefined };

export class TrainingStep {
  readonly optimizer: AdamW | SGD;
  private learningRate = 0;
  /**
   * With accumulation, a pass adds its gradients to the optimizer's sums, and the update is a capture of its own.
   * Without accumulation, one capture holds the pass and the update.
   */
  private readonly passes: CaptureCache<DetectorBatch, PassLosses & Partial<Update>>;
  private readonly updates: CaptureCache<typeof NO_INPUTS, Update>;

  constructor(
    private readonly device: Device,
    private readonly detector: Detector,
    private readonly training: TrainingConfig,
  ) {
    const { accumulation, replay: enabled } = training;
    this.optimizer = createOptimizer(detector, training);
    this.passes = new CaptureCache(
      device,
      (batch) => {
        const { total, parts, counts } = detector.lossOf(batch);
        backward(total);
        const losses = { parts: parts.detach(), positives: counts };
        if (accumulation === 1) return { ...losses, ...this.update() };
        this.optimizer.accumulate();
        return losses;
      },
      { capacity: MAX_CAPTURES, enabled },
    );
    this.updates = new CaptureCache(device, () => this.update(), { enabled });
  }

  /**
   * Submits the commands of a step; nothing is read back.
   * @param next gives the data of the next pass; it is called `accumulation` times
   */
  async run(next: () => Promise<PassData>, { learningRate, values }: StepSettings): Promise<StepResult> {
    this.learningRate = learningRate;
    const passes: PassLosses[] = [];
    let norm: Tensor | undefined;
    for (let pass = 0; pass < this.training.accumulation; pass++) {
      const { images, targets } = await next();
      // The first pass overwrites the sums of the gradients. Other passes add to these sums.
      const key = `${this.detector.batchKey(images, targets)}${pass === 0 ? '' : '+'}`;
      const result = this.passes.run(
        key,
        () => this.detector.makeBatch(images, targets),
        (batch) => batch.write(images, targets, values),
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
    const tensors = [norm, ...passes.flatMap(({ parts, positives }) => [parts, positives])];
    return {
      passes,
      norm,
      dispose: () => {
        for (const tensor of tensors) tensor.dispose();
      },
    };
  }

  /** The captures that are kept now. */
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

  /** The next replay overwrites the outputs of a capture, so the caller gets copies. */
  private copy(tensor: Tensor): Tensor {
    const copy = this.device.keep(this.device.empty(tensor.shape, tensor.dtype));
    this.device.copy(tensor, copy);
    return copy;
  }
}
