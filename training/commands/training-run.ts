/**
 * A training run and its files. It prepares the run's folder, trains, evaluates, saves, and draws the result. The loop
 * is in `core/loop.ts`.
 */
import { relative } from 'node:path';
import { ShapeError, type Device } from '../../engine/index.ts';
import { readCheckpoint, saveCheckpoint, type TrainingState } from '../checkpoints/checkpoint.ts';
import { loadPretrained, type PretrainedReport } from '../checkpoints/load-weights.ts';
import type { RunDescription, RunFiles } from '../checkpoints/run-folder.ts';
import { loadWeights, readWeightsFile, saveWeights, type WeightsDescription } from '../checkpoints/weights-file.ts';
import type { Choice } from '../core/choice.ts';
import { createDetector } from '../core/create-detector.ts';
import type { Detector } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image-record.ts';
import { trainLoop } from '../core/loop.ts';
import { MetricsLog, type StepSummary } from '../core/metrics-log.ts';
import type { RunConfig } from '../core/recipe.ts';
import { TrainingStep } from '../core/step.ts';
import { evaluationsAfter, TimeLeft } from '../core/time-left.ts';
import { fitLength, isOutOfTime } from '../core/time-plan.ts';
import { writeFileAtomic, writeJson } from '../data/files.ts';
import { splitRecords, type Dataset } from '../data/index.ts';
import { createTrainingLoader, type LoadedBatch, type TrainingLoader } from '../data/loader.ts';
import { writeDetections } from '../evaluation/coco-files.ts';
import { evaluateModel, evaluationReport, type ModelEvaluation } from '../evaluation/evaluate-model.ts';
import { appendLine, keepLinesUntil } from '../output/metrics-files.ts';
import { formatDuration } from '../output/duration.ts';
import { metricsTable } from '../output/metrics-table.ts';
import { Progress } from '../output/progress.ts';
import { describeReport } from '../output/weights-report.ts';
import { drawBatches } from '../pictures/draw-batches.ts';
import { drawRun } from '../pictures/draw-run.ts';
import { outputFolder } from './arguments.ts';
import type { Interrupt } from './interrupt.ts';
import { profileStart, StepProfiler } from './profile.ts';
import { elapsedOf, measureStart, type TimeLimit } from './time-limit.ts';

/** The parts of a run that are known before a device is opened. */
export interface RunPlan {
  readonly files: RunFiles;
  readonly config: RunConfig;
  readonly dataset: Dataset;
  /** Images of the split "train". */
  readonly records: readonly ImageRecord[];
}

export interface PretrainedOptions {
  /** Weights to start from. */
  readonly file: string;
  /** Accepts files of which less than half fits. */
  readonly partial: boolean;
}

export interface RunOptions {
  readonly interrupt: Interrupt;
  /** Writes the trace of a few profiled steps to this file; null: no profile. */
  readonly traceFile: string | null;
  /** The duration that the training must keep; null: none. */
  readonly limit: TimeLimit | null;
}

/** Drawing an image takes as long as a short training step, so the start of a training draws few. */
const MAX_DRAWN_BATCH_IMAGES = 8;

export interface FinishedRun {
  /** The evaluation of the best weights on the test split; null without such a split. */
  readonly test: ModelEvaluation | null;
  /** Paths of the pictures. */
  readonly pictures: readonly string[];
}

const START: TrainingState = {
  iteration: 0,
  optimizerSteps: 0,
  best: null,
  evaluationsSinceBest: 0,
  ended: null,
};

/** `--time` makes a longer warm-up shorter. */
const MAX_WARMUP_SHARE = 0.1;

const path = (file: string): string => relative('.', file);

export class TrainingRun {
  readonly detector: Detector;
  private readonly step: TrainingStep;
  private readonly progress = new Progress();
  private readonly timeLeft: TimeLeft;
  private readonly pretrained: PretrainedReport | null;
  private state: TrainingState = START;
  /** The configuration of the plan; `fitToTime` changes its length. */
  config: RunConfig;
  private limit: TimeLimit | null = null;

  /** Files that could not be read since the training began, although the check before it read them. */
  readonly unreadable = new Set<string>();

  /** Creates the model and the optimizer, and loads pretrained weights. Writes no file. */
  constructor(
    private readonly device: Device,
    private readonly plan: RunPlan,
    private readonly log: (line: string) => void,
    pretrained: PretrainedOptions | null,
  ) {
    const { config, files, dataset } = plan;
    this.config = config;
    this.detector = createDetector(device, config.model, config.training.seed);
    this.pretrained =
      pretrained &&
      loadPretrained(this.detector, pretrained.file, {
        partial: pretrained.partial,
        classNames: dataset.classNames,
      });
    if (this.pretrained) for (const line of describeReport(this.pretrained, path(files.weights))) log(line);
    this.step = new TrainingStep(device, this.detector, config.training);
    this.timeLeft = new TimeLeft({
      ...config.training,
      evaluationImages: splitRecords(dataset, 'val').length,
      testImages: dataset.splits.test?.length ?? 0,
    });
    const count = this.detector.trainable().reduce((sum, { tensor }) => sum + tensor.size, 0);
    log(`model     ${config.preset}: ${this.detector.summary}, ${(count / 1e6).toFixed(2)} M trainable parameters`);
  }

  /** Iterations done. */
  get iteration(): number {
    return this.state.iteration;
  }

  get best(): TrainingState['best'] {
    return this.state.best;
  }

  /** Whether nothing is left to train. */
  get finished(): boolean {
    return this.iteration >= this.config.training.iterations || this.state.ended !== null;
  }

  /** Why the training ended before its last iteration; null: it did not. */
  get ended(): TrainingState['ended'] {
    return this.state.ended;
  }

  /**
   * Measures the start of the training, and chooses the number of iterations so that all of it ends in time. Call it
   * before `begin`.
   * @throws InputError if the time does not suffice for one step
   */
  async fitToTime(limit: TimeLimit): Promise<Choice> {
    const { device, detector, step, timeLeft, progress } = this;
    const { records, dataset } = this.plan;
    const { training } = this.config;
    const endWatch = device.watchPipelines((count) => progress.compiling(count, elapsedOf(limit)));
    try {
      const validation = splitRecords(dataset, 'val');
      await measureStart({ detector, step, training, records, validation, timeLeft }, limit);
    } finally {
      endWatch();
      progress.end();
    }
    const elapsed = elapsedOf(limit);
    const times = {
      step: timeLeft.stepSeconds ?? Infinity,
      evaluation: timeLeft.evaluationSeconds,
      end: timeLeft.endSeconds,
    };
    const length = fitLength(limit.seconds, elapsed, times, limit.evaluateEvery);
    if (length === null)
      throw new InputError(
        'train: --time: expected more than ' +
          `${formatDuration(elapsed + times.step + times.evaluation + times.end)}, got ` +
          `${formatDuration(limit.seconds)}: a step takes ${times.step.toFixed(2)} s, an evaluation ` +
          `${times.evaluation.toFixed(0)} s, the preparation took ${elapsed.toFixed(0)} s`,
      );
    const warmup = Math.min(training.warmupIterations, Math.floor(length.iterations * MAX_WARMUP_SHARE));
    const warmupIterations = limit.givenWarmup ? training.warmupIterations : warmup;
    this.config = { ...this.config, training: { ...training, ...length, warmupIterations } };
    timeLeft.setLength(length);
    const evaluations = evaluationsAfter(0, length);
    return {
      value: `${length.iterations} iterations`,
      reason:
        `${formatDuration(limit.seconds)} in all, ${formatDuration(elapsed)} of it so far; ` +
        `${times.step.toFixed(2)} s per step, ${evaluations} ${evaluations === 1 ? 'evaluation' : 'evaluations'} of ` +
        `${times.evaluation.toFixed(1)} s, ${warmupIterations} iterations of warm-up`,
      key: '--time, --iterations N',
    };
  }

  /** Writes config.json. */
  describe(tuning: string): void {
    const { files, dataset } = this.plan;
    const { root: data, classNames, categoryIds } = dataset;
    const run: RunDescription = { ...this.config, data, classNames, categoryIds, tuning };
    writeJson(files.config, run);
  }

  /** Makes the folder of a new run. Throws InputError if it cannot be written. */
  begin(tuning: string): void {
    const { files } = this.plan;
    outputFolder('train', files.folder);
    this.describe(tuning);
    if (this.pretrained) writeJson(files.weights, this.pretrained);
    for (const file of [files.metrics, files.evaluations]) writeFileAtomic(file, '');
  }

  /**
   * Loads the last checkpoint, and drops later lines of metrics.jsonl and evaluations.jsonl. Throws InputError if the
   * checkpoint does not fit.
   */
  resume(): void {
    const { files } = this.plan;
    const checkpoint = readCheckpoint(files.last);
    loadWeights(this.detector, checkpoint.model, checkpoint.path);
    try {
      this.step.optimizer.loadState({ tensors: checkpoint.optimizer, step: checkpoint.state.optimizerSteps });
    } catch (error) {
      throw error instanceof ShapeError
        ? new InputError(`${checkpoint.optimizerPath}: ${error.message}; perhaps ${files.config} was edited`)
        : error;
    }
    const { ended } = checkpoint.state;
    // The rest of a training whose time was over has no limit.
    this.state = { ...checkpoint.state, ended: ended === 'out of time' ? null : ended };
    for (const file of [files.metrics, files.evaluations]) keepLinesUntil(file, this.iteration);
    this.log(`resume    ${path(files.folder)} at iteration ${this.iteration}`);
  }

  /**
   * Trains until the end, or until the interrupt. An interrupted run is saved; a finished run is evaluated and saved.
   * @returns time and memory of the steps
   */
  async train({ interrupt, traceFile, limit }: RunOptions): Promise<StepSummary> {
    this.limit = limit;
    const { training } = this.config;
    const { accumulation, iterations } = training;
    const totalBatches = iterations * accumulation;
    const loader = createTrainingLoader({
      ...training,
      records: this.plan.records,
      totalBatches,
      onUnreadable: this.onUnreadable,
    });
    const start = performance.now();
    const endWatch = this.device.watchPipelines((count) =>
      this.progress.compiling(count, (performance.now() - start) / 1000),
    );
    try {
      if (this.iteration === 0) await this.drawBatches(loader);
      loader.seek(this.iteration * accumulation);
      const profiler =
        traceFile === null ? null : new StepProfiler(this.device, profileStart(this.iteration, training), traceFile);
      const log = this.createLog();
      await trainLoop({
        training,
        step: this.step,
        log,
        start: this.iteration,
        next: () => loader.next(),
        stopped: () => interrupt.signal !== null,
        outOfTime: () => this.outOfTime(),
        converged: () => this.converged(),
        beforeStep: async (iteration) => profiler?.before(iteration),
        afterStep: async (iteration) => {
          this.state = { ...this.state, iteration };
          const report = await profiler?.after(iteration);
          if (report) this.progress.note(report);
        },
        evaluate: () => this.evaluate(),
        save: () => this.save(),
      });
      if (!this.finished) await this.save();
      return log.summary();
    } finally {
      endWatch();
      this.progress.end();
      await loader.close();
    }
  }

  /**
   * Loads the best weights, evaluates them on the test split if there is one, and draws the run. Evaluates the model
   * first if no evaluation exists.
   */
  async finish(): Promise<FinishedRun> {
    const { config } = this;
    const { files, dataset } = this.plan;
    try {
      if (this.state.best === null) await this.evaluate();
      loadWeights(this.detector, readWeightsFile(files.best), files.best);
      const test = await this.evaluateTest();
      const drawn = splitRecords(dataset, 'val').slice(0, config.training.drawImages);
      const pictures = await drawRun(this.detector, drawn, {
        out: files.folder,
        resize: config.training.evaluationResize,
        classNames: dataset.classNames,
        metricsFile: files.metrics,
        evaluationsFile: files.evaluations,
        onUnreadable: this.onUnreadable,
      });
      return { test, pictures };
    } finally {
      this.progress.end();
    }
  }

  private readonly onUnreadable = (file: string, reason: string): void => {
    if (this.unreadable.has(file)) return;
    this.unreadable.add(file);
    this.progress.note(`warning: ${reason}; the run goes on without this image`);
  };

  /** Draws the first training images. The caller then seeks the first batch again. */
  private async drawBatches(loader: TrainingLoader): Promise<void> {
    const { config } = this;
    const { files, dataset } = this.plan;
    const { batchSize, drawImages } = config.training;
    const count = Math.min(MAX_DRAWN_BATCH_IMAGES, drawImages);
    if (count === 0) return;
    const batches: LoadedBatch[] = [];
    while (batches.length * batchSize < count) batches.push(await loader.next());
    await drawBatches(files.batches, batches, dataset.classNames, count);
    this.log(`batches   ${path(files.batches)}: the first training images with their boxes`);
  }

  private createLog(): MetricsLog {
    const { config } = this;
    const { files } = this.plan;
    return new MetricsLog({
      device: this.device,
      parts: this.detector.lossParts.map(({ name }) => name),
      stages: this.detector.stages,
      iterations: config.training.iterations,
      timeLeft: this.timeLeft,
      onMetrics: (line) => appendLine(files.metrics, line),
      onProgress: (row) => this.progress.update(row),
    });
  }

  private description(): WeightsDescription {
    const { config } = this;
    const { dataset } = this.plan;
    const { classNames, categoryIds } = dataset;
    const { white } = this.plan.records.find((record) => record.white !== undefined) ?? {};
    return { config, classNames, categoryIds, white, iteration: this.iteration };
  }

  private async save(): Promise<void> {
    const { tensors: optimizer, step: optimizerSteps } = await this.step.optimizer.state();
    this.state = { ...this.state, optimizerSteps };
    saveCheckpoint(this.plan.files.last, {
      model: await this.detector.save(),
      optimizer,
      state: this.state,
      description: this.description(),
    });
  }

  private async evaluate(): Promise<void> {
    await this.step.optimizer.withAverage(() => this.evaluateWeights());
  }

  /** Evaluates the weights that the model holds now, and saves them if they are the best so far. */
  private async evaluateWeights(): Promise<void> {
    const result = await this.measure('val', 'evaluation');
    const { iteration } = this;
    const { best, evaluationsSinceBest } = this.state;
    const { AP, AP50 } = result.evaluation.metrics;
    appendLine(this.plan.files.evaluations, { iteration, ...result.evaluation.metrics });
    // Without any AP yet, the training has not begun to learn, and cannot have ended to improve.
    const improved = best === null || AP > best.AP || best.AP <= 0;
    this.state = { ...this.state, evaluationsSinceBest: improved ? 0 : evaluationsSinceBest + 1 };
    const against = improved || !best ? '' : `; best ${best.AP.toFixed(3)} at iteration ${best.iteration}`;
    this.progress.note(`evaluation at iteration ${iteration}: AP ${AP.toFixed(3)}, AP50 ${AP50.toFixed(3)}${against}`);
    if (best && best.AP > AP) return;
    this.state = { ...this.state, best: { iteration, AP, AP50 } };
    await this.saveBest(result);
    if (iteration === this.config.training.iterations) this.progress.note(metricsTable(result.evaluation));
  }

  /** Evaluates the weights that the model holds now on a split, with progress. */
  private async measure(split: string, title: string): Promise<ModelEvaluation> {
    const { config } = this;
    const { dataset } = this.plan;
    const { batchSize, evaluationResize: resize, workers } = config.training;
    const start = performance.now();
    const seconds = (): number => (performance.now() - start) / 1000;
    const result = await evaluateModel(this.detector, dataset, split, {
      batchSize,
      resize,
      workers,
      onUnreadable: this.onUnreadable,
      progress: (done, total) => this.progress.working(title, done, total, seconds()),
    });
    this.timeLeft.addEvaluation(seconds(), splitRecords(dataset, split).length);
    return result;
  }

  /** Whether the machine has become so slow that the training must end now to keep its duration. */
  private outOfTime(): boolean {
    const { limit, timeLeft, iteration } = this;
    if (limit === null || iteration >= this.config.training.iterations) return false;
    const times = { evaluation: timeLeft.evaluationSeconds, end: timeLeft.endSeconds };
    if (!isOutOfTime(limit.seconds, elapsedOf(limit), times)) return false;
    this.state = { ...this.state, ended: 'out of time' };
    return true;
  }

  /** Whether AP has not grown for `patience` evaluations. The training then ends. */
  private converged(): boolean {
    const { patience } = this.config.training;
    if (patience === 0 || this.state.evaluationsSinceBest < patience) return false;
    this.state = { ...this.state, ended: 'no improvement' };
    return true;
  }

  /** Evaluates the best weights, which the model holds, on the test split. Null: there is nothing to measure by. */
  private async evaluateTest(): Promise<ModelEvaluation | null> {
    const { dataset, files } = this.plan;
    const records = dataset.splits.test ?? [];
    if (records.every(({ objects }) => objects.every(({ crowd }) => crowd))) return null;
    const result = await this.measure('test', 'evaluation of the test split');
    const report = evaluationReport(result, 'test', 'best.safetensors');
    writeJson(files.testEvaluation, { iteration: this.state.best?.iteration, ...report });
    return result;
  }

  private async saveBest(result: ModelEvaluation): Promise<void> {
    const { files } = this.plan;
    saveWeights(files.best, await this.detector.save(), this.description());
    writeDetections(files.detections, result.detections);
    const report = evaluationReport(result, 'val', 'best.safetensors');
    writeJson(files.evaluation, { iteration: this.iteration, ...report });
  }
}
