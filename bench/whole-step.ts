/** A whole training step as a job, and its parameter update alone. */
import { backward, type Device, type Tensor } from '../engine/index.ts';
import type { ModelConfig } from '../model/index.ts';
import { createDetector } from '../training/core/create-detector.ts';
import { computeLosses } from '../training/core/detector.ts';
import type { TrainingConfig } from '../training/core/recipe.ts';
import { TrainingStep } from '../training/core/step.ts';
import { deviceJob } from './jobs.ts';
import type { Job } from './measure.ts';
import { randomBatch, type StepSizes } from './step-batch.ts';

export interface WholeStep {
  readonly job: Job;
  /** The update alone, with gradients that its first run computes. */
  readonly update: Job;
  /** Resolves to the peak memory of tensors during a step, in bytes. */
  peakBytes(): Promise<number>;
}

/**
 * The step of training/commands/train.ts, with replay if the preset has it. The learning rate is 0, so that all steps
 * cost the same.
 */
export function wholeStep(device: Device, config: ModelConfig, sizes: StepSizes, training: TrainingConfig): WholeStep {
  const model = createDetector(device, config);
  const step = new TrainingStep(device, model, { ...training, accumulation: 1 });
  const { images, targets } = randomBatch(sizes, config.numClasses);
  const parameters = model.trainable();
  /** Gradients that the first update computes. All updates use them, because a whole step frees its own gradients. */
  const gradients: (Tensor | null)[] = [];
  const job: Job = {
    name: 'whole step',
    run: async (times) => {
      for (let i = 0; i < times; i++) {
        const result = await step.run(async () => ({ images, targets }), { learningRate: 0, values: {} });
        result.dispose();
      }
      await device.synchronize();
    },
  };
  return {
    job,
    update: deviceJob(device, 'update', () =>
      device.scope(() => {
        if (gradients.length === 0) {
          backward(computeLosses(model, images, targets).total);
          gradients.push(...parameters.map(({ tensor }) => tensor.grad && device.keep(tensor.grad.detach())));
        }
        parameters.forEach(({ tensor }, i) => {
          const gradient = gradients[i];
          if (gradient && tensor.grad === null) tensor.grad = device.keep(gradient.detach());
        });
        step.optimizer.step({ learningRate: 0, maxGradientNorm: training.clipNorm || undefined });
      }),
    ),
    peakBytes: async () => {
      await job.run(3);
      device.resetPeak();
      await job.run(1);
      return device.memory().peakBytes;
    },
  };
}
