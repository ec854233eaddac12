/** Measures the start of a training, so that its number of iterations can be fitted to a duration (`--time`). */
import type { Detector } from '../core/detector.ts';
import type { ImageRecord } from '../core/image-record.ts';
import { MetricsLog } from '../core/metrics-log.ts';
import type { TrainingConfig } from '../core/recipe.ts';
import { stepValuesAt } from '../core/schedules.ts';
import type { TrainingStep } from '../core/step.ts';
import type { TimeLeft } from '../core/time-left.ts';
import { createEvaluationLoader, createTrainingLoader } from '../data/loader.ts';

/** The duration of `--time`. */
export interface TimeLimit {
  readonly seconds: number;
  /** `performance.now()` when the command began. */
  readonly startedAt: number;
  /** The user's `evaluateEvery`; null: it is chosen. */
  readonly evaluateEvery: number | null;
  /** Whether the user gave `warmupIterations`. Otherwise the warm-up takes at most a tenth of the training. */
  readonly givenWarmup: boolean;
}

/** Seconds since the command began. */
export const elapsedOf = ({ startedAt }: TimeLimit): number => (performance.now() - startedAt) / 1000;

/** Steps that are measured after the kernels were compiled, and the least number of them where steps are long. */
const MEASURED_STEPS = 20;
const MIN_MEASURED_STEPS = 3;
/** Measuring long steps ends after this share of the duration. */
const MEASURED_SHARE = 0.05;
/** Kernels that are compiled later than this are compiled during the training. */
const MAX_STEPS = 60;
/** Batches of the evaluation that are measured, after the first one. */
const MEASURED_BATCHES = 3;

export interface MeasuredRun {
  readonly detector: Detector;
  readonly step: TrainingStep;
  readonly training: TrainingConfig;
  readonly records: readonly ImageRecord[];
  /** Images of the validation split. */
  readonly validation: readonly ImageRecord[];
  /** Gets the measurements. */
  readonly timeLeft: TimeLeft;
}

/**
 * Runs training steps with a learning rate of zero, and a part of an evaluation. Afterwards, weights and optimizer are
 * as before, so that the training has the same bits as one of the same length without `--time`.
 */
export async function measureStart(run: MeasuredRun, limit: TimeLimit): Promise<void> {
  await measureSteps(run, limit);
  run.step.optimizer.reset();
  await measureDetection(run);
}

async function measureSteps({ detector, step, training, records, timeLeft }: MeasuredRun, limit: TimeLimit) {
  const loader = createTrainingLoader({
    ...training,
    records,
    totalBatches: training.iterations * training.accumulation,
  });
  const log = new MetricsLog({
    device: detector.device,
    parts: detector.lossParts.map(({ name }) => name),
    stages: detector.stages,
    iterations: training.iterations,
    timeLeft,
    onMetrics: () => undefined,
    onProgress: () => undefined,
  });
  try {
    let compiledAt: number | null = null;
    for (let done = 1; done <= MAX_STEPS && timeLeft.measuredSteps < MEASURED_STEPS; done++) {
      const result = await step.run(() => loader.next(), { learningRate: 0, values: stepValuesAt(0, training) });
      await log.add(done, 0, result);
      if (timeLeft.measuredSteps > 0) compiledAt ??= elapsedOf(limit);
      const enough = timeLeft.measuredSteps >= MIN_MEASURED_STEPS;
      if (compiledAt !== null && enough && elapsedOf(limit) - compiledAt > MEASURED_SHARE * limit.seconds) break;
    }
    await log.finish();
  } finally {
    await loader.close();
  }
}

async function measureDetection({ detector, training, validation, timeLeft }: MeasuredRun): Promise<void> {
  const { batchSize, evaluationResize: resize, workers } = training;
  const records = validation.slice(0, (1 + MEASURED_BATCHES) * batchSize);
  const loader = createEvaluationLoader({ records, batchSize, resize, workers });
  try {
    let images = 0;
    let start: number | null = null;
    // With a single batch, its second round is measured.
    for (let round = 0; images === 0 && round < 2; round++)
      for await (const batch of loader) {
        await detector.detect(batch.images);
        if (start !== null) images += batch.images.length;
        start ??= performance.now();
      }
    if (start !== null) timeLeft.addEvaluation((performance.now() - start) / 1000, images);
  } finally {
    await loader.close();
  }
}
