/**
 * The training loop: one optimizer step after the other, with evaluations and checkpoints between them.
 * Callbacks do everything that needs files or a screen, so that the loop runs in Node and in browsers.
 */
import type { MetricsLog } from './metrics-log.ts';
import type { TrainingConfig } from './recipe.ts';
import { scheduledLearningRate, stepValuesAt } from './schedules.ts';
import type { PassData, TrainingStep } from './step.ts';
import { isEvaluated } from './time-left.ts';

export interface LoopOptions {
  readonly training: TrainingConfig;
  readonly step: TrainingStep;
  readonly log: MetricsLog;
  /** Iterations done before: 0, or those of a checkpoint. */
  readonly start: number;
  /** The data of the next pass. */
  readonly next: () => Promise<PassData>;
  /** Called before each iteration; true ends the loop. */
  readonly stopped: () => boolean;
  /** Asked after each step: true makes it the last one, because the time is over. */
  readonly outOfTime?: (iteration: number) => boolean;
  /** Asked after each evaluation: true ends the training, because it no longer improves. */
  readonly converged?: () => boolean;
  /** Measures the model after `iteration` iterations. */
  readonly evaluate: (iteration: number) => Promise<void>;
  /** Saves a checkpoint after `iteration` iterations. */
  readonly save: (iteration: number) => Promise<void>;
  /** Called before a step and after it, with the iterations done so far. */
  readonly beforeStep?: (iteration: number) => Promise<void>;
  readonly afterStep?: (iteration: number) => Promise<void>;
}

/**
 * Trains until the last iteration, or until `stopped`, `outOfTime` or `converged`. The last iteration is always
 * evaluated and then saved, unless `stopped` ended the loop.
 * @returns the iterations done
 */
export async function trainLoop(options: LoopOptions): Promise<number> {
  const { training, step, log } = options;
  const { iterations, saveEvery } = training;
  let done = options.start;
  while (done < iterations && !options.stopped()) {
    const learningRate = scheduledLearningRate(done, training);
    const values = stepValuesAt(done, training);
    await options.beforeStep?.(done);
    const result = await step.run(options.next, { learningRate, values });
    done++;
    await log.add(done, learningRate, result);
    await options.afterStep?.(done);

    const last = done === iterations || (options.outOfTime?.(done) ?? false);
    const evaluating = last || isEvaluated(done, training);
    const saving = last || done % saveEvery === 0;
    if (!evaluating && !saving) continue;
    await log.finish();
    if (evaluating) await options.evaluate(done);
    const ended = last || (evaluating && (options.converged?.() ?? false));
    if (saving || ended) await options.save(done);
    if (ended) break;
    log.skipTime();
  }
  await log.finish();
  return done;
}
