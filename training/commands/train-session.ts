/**
 * Trains a run on a device and prints the result. If the device runs out of memory, the training continues with a
 * smaller batch on a new device.
 */
import { existsSync } from 'node:fs';
import { relative } from 'node:path';
import { OutOfMemoryError, type Device } from '../../engine/index.ts';
import { openDevice } from '../../engine/node/index.ts';
import { hasCheckpoint } from '../checkpoints/checkpoint.ts';
import type { RunDescription, RunFiles } from '../checkpoints/run-folder.ts';
import { smallerBatch } from '../core/batch-search.ts';
import { InputError } from '../core/errors.ts';
import { listNames } from '../core/fit-to-data.ts';
import { learningRateWarning } from '../core/learning-rate-rule.ts';
import type { RunConfig } from '../core/recipe.ts';
import type { ModelEvaluation } from '../evaluation/evaluate-model.ts';
import { describeChoices } from '../output/choices.ts';
import { deviceLine } from '../output/device-line.ts';
import { formatDuration } from '../output/duration.ts';
import { metricsTable } from '../output/metrics-table.ts';
import { chooseBatch } from './batch-size.ts';
import { onInterrupt } from './interrupt.ts';
import type { TimeLimit } from './time-limit.ts';
import { TrainingRun, type PretrainedOptions, type RunPlan } from './training-run.ts';

export interface Session {
  readonly plan: RunPlan;
  /** The run to continue; null: a new run. */
  readonly earlier: RunDescription | null;
  readonly pretrained: PretrainedOptions | null;
  /** Writes the trace of a few profiled steps to this file; null: no profile. */
  readonly traceFile: string | null;
  /** The duration of `--time`; null: none. */
  readonly limit: TimeLimit | null;
  /** `--batch auto`. */
  readonly autoBatch: boolean;
  /** Whether the user gave the learning rate. */
  readonly givenRate: boolean;
}

const log = (line: string): void => console.log(line);

/** A session, or its continuation with a smaller batch. */
interface Attempt extends Session {
  /** Whether the training begins, or continues from the last checkpoint. */
  readonly start: 'new' | 'checkpoint';
  /** Whether the batch was made smaller than that of config.json. */
  readonly smaller: boolean;
}

/** Trains, evaluates and draws; resolves to the exit code. */
export async function trainSession(session: Session): Promise<number> {
  let attempt: Attempt = { ...session, start: session.earlier ? 'checkpoint' : 'new', smaller: false };
  for (;;) {
    const device = await openDevice();
    let run: TrainingRun | null = null;
    try {
      if (!attempt.smaller) describeDevice(device, session.earlier);
      if (attempt.autoBatch && attempt.start === 'new') {
        const { plan, exhausted } = await withChosenBatch(device, attempt);
        attempt = { ...attempt, plan, autoBatch: false };
        // The device is of no use after it ran out of memory.
        if (exhausted) continue;
      }
      run = new TrainingRun(device, attempt.plan, log, attempt.start === 'new' ? attempt.pretrained : null);
      await prepare(run, device, attempt);
      return await trainAndFinish(run, attempt);
    } catch (error) {
      if (!(error instanceof OutOfMemoryError)) throw error;
      attempt = withSmallerBatch(attempt, run?.config ?? attempt.plan.config, error);
    } finally {
      device.destroy();
    }
  }
}

async function withChosenBatch(
  device: Device,
  { plan, givenRate }: Session,
): Promise<{ plan: RunPlan; exhausted: boolean }> {
  const { config, choices, exhausted } = await chooseBatch(device, plan.config, plan.records, givenRate);
  for (const line of describeChoices(choices)) log(line);
  return { plan: { ...plan, config }, exhausted };
}

/**
 * The attempt with a smaller batch and as many images per step. It continues from the last checkpoint, or begins again
 * if there is none. Throws InputError if the batch is one image.
 */
function withSmallerBatch(attempt: Attempt, { training, ...config }: RunConfig, error: OutOfMemoryError): Attempt {
  const { files } = attempt.plan;
  const smaller = smallerBatch(training.batchSize, training.accumulation);
  if (smaller === null)
    throw new InputError(
      `train: expected memory for a batch of one image, got too little (${error.message}); smaller images need less ` +
        '(--set shortSides=[N]), and so does --set gradientCheckpointing=true',
    );
  const start = hasCheckpoint(files.last) ? 'checkpoint' : 'new';
  log(
    `memory    the device ran out of memory with batch ${training.batchSize} (${error.message}); continuing from ` +
      `${start === 'checkpoint' ? 'the last checkpoint' : 'the beginning'} with batch ${smaller.batchSize} and ` +
      `${smaller.accumulation} passes per step`,
  );
  const plan = { ...attempt.plan, config: { ...config, training: { ...training, ...smaller } } };
  return { ...attempt, plan, traceFile: null, start, smaller: true };
}

/** Begins or resumes the run. */
async function prepare(
  run: TrainingRun,
  device: Device,
  { earlier, start, smaller, limit, plan }: Attempt,
): Promise<void> {
  const tuning = earlier?.tuning ?? device.tuner.fingerprint;
  if (start === 'checkpoint') {
    if (smaller) run.describe(tuning);
    run.resume();
  } else {
    if (limit) for (const line of describeChoices([await run.fitToTime(limit)])) log(line);
    run.begin(tuning);
  }
  const warning = learningRateWarning(run.config);
  if (warning !== null) log(`warning: ${warning}`);
  log(`run       ${relative('.', plan.files.folder)}`);
}

/** Trains and prints the result; resolves to the exit code. */
async function trainAndFinish(run: TrainingRun, { plan: { files }, traceFile, limit }: Attempt): Promise<number> {
  const { iterations, patience } = run.config.training;
  const ended = run.ended === null ? '' : ` of ${iterations} (${run.ended})`;
  if (run.finished) {
    log(`finished  nothing is left to train: the run ended at iteration ${run.iteration}${ended}`);
    // An interruption may have prevented the pictures.
    if (existsSync(files.lossPlot)) describeBest(run, files, '');
    else await finish(run, files, '');
    return 0;
  }
  const interrupt = onInterrupt('saving after this iteration');
  try {
    const { steps, seconds, millisecondsPerStep, peakBytes } = await run.train({ interrupt, traceFile, limit });
    const resume = `npm run train -- --resume ${relative('.', files.folder)}`;
    if (!run.finished) {
      log(`stopped at iteration ${run.iteration} of ${iterations}; continue with ${resume}`);
      return 130;
    }
    if (run.ended !== null)
      log(
        `ended     at iteration ${run.iteration} of ${iterations}: ` +
          (run.ended === 'out of time'
            ? `steps took longer than expected, and the time of --time is over; the rest: ${resume}`
            : `AP did not grow in ${patience} evaluations (--set patience=N)`),
      );
    await finish(
      run,
      files,
      `; ${steps} steps in ${formatDuration(seconds)}, median ${millisecondsPerStep.toFixed(0)} ms per step, ` +
        `at most ${Math.round(peakBytes / 1e6)} MB on the device`,
    );
    return 0;
  } finally {
    interrupt.release();
  }
}

/** Evaluates the test split, draws, and prints the result. `details` follows in the line of the best evaluation. */
async function finish(run: TrainingRun, files: RunFiles, details: string): Promise<void> {
  const { test, pictures } = await run.finish();
  describeUnreadable(run);
  if (test) describeTest(test, files);
  describeBest(run, files, details);
  log(`measures  ${relative('.', files.evaluation)}, ${relative('.', files.metrics)}`);
  log(`drawn     ${pictures.map((file) => relative('.', file)).join(', ')}`);
}

/** Prints the best evaluation and its weights. `details` follows in the line of the evaluation. */
function describeBest({ best }: TrainingRun, files: RunFiles, details: string): void {
  if (best)
    log(`best      AP ${best.AP.toFixed(3)}, AP50 ${best.AP50.toFixed(3)} at iteration ${best.iteration}${details}`);
  const weights = relative('.', files.best);
  log(`weights   ${weights}   (npm run predict -- --weights ${weights} IMAGE...)`);
}

/** Says how many images could not be read after the check. Each was named when it happened. */
function describeUnreadable({ unreadable }: TrainingRun): void {
  if (unreadable.size === 0) return;
  log(
    `warning: images that could not be read during the training, with gray images without objects in their place: ` +
      `${unreadable.size}: ${listNames([...unreadable])}`,
  );
}

/** Prints the evaluation of the test split, which no choice depended on. */
function describeTest({ evaluation }: ModelEvaluation, files: RunFiles): void {
  const { AP, AP50 } = evaluation.metrics;
  log(metricsTable(evaluation));
  log(
    `test      AP ${AP.toFixed(3)}, AP50 ${AP50.toFixed(3)} of the best weights on the ${evaluation.images} images ` +
      `of the test split (${relative('.', files.testEvaluation)})`,
  );
}

function describeDevice(device: Device, earlier: RunDescription | null): void {
  log(deviceLine(device));
  const { tuner } = device;
  const changed =
    earlier && earlier.tuning !== tuner.fingerprint
      ? `; the run began with ${earlier.tuning}: from here on it rounds differently`
      : '';
  log(`tuning    ${tuner.summary}${changed}`);
}
