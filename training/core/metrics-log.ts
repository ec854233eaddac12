/**
 * Reads the numbers of training steps back from the device, while the next step runs. The caller gets each step as a
 * line of metrics, which it writes, and as a row of progress, which it shows.
 */
import type { Device } from '../../engine/index.ts';
import { InputError } from './errors.ts';
import type { TimeLeft } from './time-left.ts';
import type { StepResult } from './step.ts';

/** One line of metrics.jsonl. Lists have one entry per stage. */
export interface StepMetrics {
  readonly iteration: number;
  /** Sum of all parts; with accumulation, the mean over the passes. */
  readonly loss: number;
  /** Parts of the loss by their names in `Detector.lossParts`, e.g. `class_loss`. */
  readonly [part: `${string}_loss`]: readonly number[];
  readonly lr: number;
  /** Total L2 norm of the gradients before clipping. */
  readonly grad_norm: number;
  readonly step_ms: number;
  /** Positive predictions, over the batch. */
  readonly positives: readonly number[];
}

/** A row of progress, for the user. */
export interface StepProgress {
  /** Iterations done, from 1 to `iterations`. */
  readonly iteration: number;
  readonly iterations: number;
  readonly loss: number;
  /**
   * Parts of the loss by name, summed over the stages, the most important part first. A narrow terminal drops the last
   * parts first.
   */
  readonly parts: Readonly<Record<string, number>>;
  readonly learningRate: number;
  readonly millisecondsPerStep: number;
  /** Null while kernels are compiled: before a step was measured in which nothing was compiled. */
  readonly secondsLeft: number | null;
  /** Peak of the device's memory, in MB (10^6 bytes). */
  readonly megabytes: number;
}

/** Time and memory of the steps so far. */
export interface StepSummary {
  readonly steps: number;
  readonly seconds: number;
  readonly millisecondsPerStep: number;
  readonly peakBytes: number;
}

export interface MetricsLogOptions {
  readonly device: Device;
  /** Names of the loss's parts. */
  readonly parts: readonly string[];
  readonly stages: number;
  /** Steps of the whole training. */
  readonly iterations: number;
  readonly timeLeft: TimeLeft;
  readonly onMetrics: (line: StepMetrics) => void;
  readonly onProgress: (row: StepProgress) => void;
}

/**
 * Neighboring steps whose times are averaged. The losses of several steps can arrive together, so that the time
 * between two arrivals is about zero or a multiple of a step's time.
 */
const MAX_TOGETHER = 4;

/** The progress row shows the typical time of this number of latest steps. */
const RECENT_STEPS = 50;

/**
 * Steps at the beginning that never count as measured. The first one allocates, the second one is captured if it has
 * the shape of the first.
 */
const WARMUP_STEPS = 2;

/** The time of a typical step in milliseconds: the median over means of a few neighboring steps. */
export function pace(times: readonly number[]): number {
  const width = Math.min(MAX_TOGETHER, times.length);
  const means = times
    .slice(width - 1)
    .map((_, i) => times.slice(i, i + width).reduce((a, b) => a + b, 0) / width)
    .sort((a, b) => a - b);
  return means[Math.floor(means.length / 2)] ?? 0;
}

const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

export class MetricsLog {
  private pending: Promise<void> = Promise.resolve();
  private lastTime = performance.now();
  private readonly startTime = performance.now();
  /** Milliseconds of the measured steps. */
  private readonly times: number[] = [];
  /** Milliseconds of the steps in which kernels were compiled, and of the first ones. */
  private readonly compiling: number[] = [];
  private pipelines = 0;

  constructor(private readonly options: MetricsLogOptions) {
    this.pipelines = options.device.pipelines;
  }

  /**
   * Reads a step's result and disposes it.
   * Resolves when the previous step has been logged, so that the host is never more than one step ahead.
   * @throws InputError if the loss or the gradient norm is not finite. The weights are then useless; the last
   *   checkpoint remains
   */
  async add(iteration: number, learningRate: number, result: StepResult): Promise<void> {
    const before = this.pending;
    this.pending = this.log(before, iteration, learningRate, result);
    this.pending.catch(() => undefined);
    await before;
  }

  /** Waits for the last step. */
  async finish(): Promise<void> {
    await this.pending;
  }

  /** Leaves the time since the last step, which an evaluation or a checkpoint took, out of the next step's time. */
  skipTime(): void {
    this.lastTime = performance.now();
    this.pipelines = this.options.device.pipelines;
  }

  summary(): StepSummary {
    return {
      steps: this.times.length + this.compiling.length,
      seconds: (performance.now() - this.startTime) / 1000,
      millisecondsPerStep: pace(this.times.length > 0 ? this.times : this.compiling),
      peakBytes: this.options.device.memory().peakBytes,
    };
  }

  private async log(before: Promise<void>, iteration: number, learningRate: number, result: StepResult): Promise<void> {
    const { parts: names, stages: stageCount, onMetrics } = this.options;
    const [gradientNorm, ...values] = await Promise.all([
      result.norm.item(),
      ...result.passes.map(async ({ parts, positives }) => ({
        parts: await parts.read(),
        positives: await positives.read(),
      })),
    ]);
    result.dispose();
    await before;
    const stages = Array.from({ length: stageCount }, (_, s) => s);
    const parts = names.map((_, part) =>
      stages.map((s) => values.reduce((total, pass) => total + pass.parts[s * names.length + part], 0) / values.length),
    );
    const positives = stages.map((s) => values.reduce((total, pass) => total + pass.positives[s], 0));
    const now = performance.now();
    const elapsed = now - this.lastTime;
    this.lastTime = now;
    this.addTime(elapsed);
    const loss = sum(parts.map(sum));
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      throw new InputError(
        `training diverged at iteration ${iteration}: loss ${loss}, gradient norm ${gradientNorm}; ` +
          `a lower learning rate (now ${learningRate}) may help: --set learningRate=...`,
      );
    }
    onMetrics({
      iteration,
      loss,
      ...Object.fromEntries(names.map((name, part) => [`${name}_loss`, parts[part]])),
      lr: learningRate,
      grad_norm: gradientNorm,
      step_ms: Math.round(elapsed * 10) / 10,
      positives,
    });
    this.showProgress(iteration, learningRate, loss, Object.fromEntries(names.map((name, i) => [name, sum(parts[i])])));
  }

  private addTime(elapsed: number): void {
    const { device, timeLeft } = this.options;
    const compiled = device.pipelines !== this.pipelines;
    this.pipelines = device.pipelines;
    if (compiled || this.compiling.length < WARMUP_STEPS) {
      this.compiling.push(elapsed);
      return;
    }
    this.times.push(elapsed);
    timeLeft.addStep(elapsed / 1000);
  }

  private get typicalStep(): number {
    return pace(this.times.length > 0 ? this.times.slice(-RECENT_STEPS) : this.compiling);
  }

  private showProgress(
    iteration: number,
    learningRate: number,
    loss: number,
    parts: Readonly<Record<string, number>>,
  ): void {
    const { device, iterations, timeLeft, onProgress } = this.options;
    onProgress({
      iteration,
      iterations,
      loss,
      parts,
      learningRate,
      millisecondsPerStep: this.typicalStep,
      secondsLeft: timeLeft.after(iteration),
      megabytes: device.memory().peakBytes / 1e6,
    });
  }
}
