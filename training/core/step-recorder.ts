/** What a training step leaves behind: its numbers are read while the next step already runs, written to metrics.jsonl and shown as progress. */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import type { Device, Tensor } from '../../engine/index.ts';
import { writeFileAtomic } from '../data/files.ts';
import type { CocoMetrics } from './coco-metrics.ts';
import { InputError } from './errors.ts';
import type { TrainingConfig } from './recipe.ts';
import { formatDuration } from '../output/duration.ts';
import { type Progress } from '../output/progress.ts';

/** One line of metrics.jsonl. Lists have one entry a stage. */
export interface StepMetrics {
  readonly iteration: number;
  /** Sum of all parts; the mean over the passes where gradients are accumulated. */
  readonly loss: number;
  readonly class_loss: readonly number[];
  readonly l1_loss: readonly number[];
  readonly giou_loss: readonly number[];
  readonly lr: number;
  /** Total L2 norm of the gradients before clipping. */
  readonly grad_norm: number;
  readonly step_ms: number;
  /** Proposals matched to an object, over the batch. */
  readonly positives: readonly number[];
}

/** Of one forward and backward pass, still on the device. */
export interface PassStatistics {
  /** f32 [T, 3]: class, L1 and GIoU loss of each stage. */
  readonly parts: Tensor;
  /** u32 [T]: proposals matched to an object. */
  readonly positives: Tensor;
}

/** Steps whose losses may arrive together: the time between two arrivals is then next to nothing or twice a step. */
const ARRIVE_TOGETHER = 4;

/** Milliseconds of a typical step: the median over means of a few neighbouring ones. */
export function pace(times: readonly number[]): number {
  const width = Math.min(ARRIVE_TOGETHER, times.length);
  const means = times
    .slice(width - 1)
    .map((_, i) => times.slice(i, i + width).reduce((a, b) => a + b, 0) / width)
    .sort((a, b) => a - b);
  return means[Math.floor(means.length / 2)] ?? 0;
}

export class StepRecorder {
  private pending: Promise<void> = Promise.resolve();
  private lastTime = performance.now();
  private readonly startTime = performance.now();
  private readonly times: number[] = [];

  /** @param from the iteration that training starts at */
  constructor(
    private readonly device: Device,
    private readonly stages: number,
    private readonly training: TrainingConfig,
    private readonly metricsFile: string,
    private readonly progress: Progress,
    private readonly from: number,
  ) {}

  /**
   * Takes over a step's tensors and reads them; `norm` is the gradient's, [1].
   * Resolves when the step before has been recorded, so that the host is never more than a step ahead.
   * Rejects where a loss is not finite: the weights are then worthless, and the last checkpoint is what remains.
   */
  async record(iteration: number, lr: number, passes: readonly PassStatistics[], norm: Tensor): Promise<void> {
    const before = this.pending;
    this.pending = this.write(before, iteration, lr, passes, norm);
    this.pending.catch(() => undefined);
    await before;
  }

  /** Waits for the last step. */
  async finish(): Promise<void> {
    await this.pending;
  }

  /** Time of the steps, in a sentence. */
  summary(): string {
    return `${this.times.length} steps in ${formatDuration((performance.now() - this.startTime) / 1000)}, median ${pace(this.times).toFixed(0)} ms a step, at most ${Math.round(this.device.memory().peakBytes / 1e6)} MB on the device`;
  }

  private async write(
    before: Promise<void>,
    iteration: number,
    lr: number,
    passes: readonly PassStatistics[],
    norm: Tensor,
  ): Promise<void> {
    const [gradientNorm, ...values] = await Promise.all([
      norm.item(),
      ...passes.map(async ({ parts, positives }) => ({ parts: await parts.read(), positives: await positives.read() })),
    ]);
    for (const tensor of [norm, ...passes.flatMap(({ parts, positives }) => [parts, positives])]) tensor.dispose();
    await before;
    const stages = Array.from({ length: this.stages }, (_, s) => s);
    const [class_loss, l1_loss, giou_loss] = [0, 1, 2].map((part) =>
      stages.map((s) => values.reduce((total, { parts }) => total + parts[s * 3 + part], 0) / values.length),
    );
    const positives = stages.map((s) => values.reduce((total, pass) => total + pass.positives[s], 0));
    const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
    const now = performance.now();
    const step_ms = now - this.lastTime;
    this.lastTime = now;
    this.times.push(step_ms);
    const metrics: StepMetrics = {
      iteration,
      loss: sum(class_loss) + sum(l1_loss) + sum(giou_loss),
      class_loss,
      l1_loss,
      giou_loss,
      lr,
      grad_norm: gradientNorm,
      step_ms: Math.round(step_ms * 10) / 10,
      positives,
    };
    if (!Number.isFinite(metrics.loss) || !Number.isFinite(metrics.grad_norm)) {
      throw new InputError(
        `training diverged at iteration ${iteration}: loss ${metrics.loss}, gradient norm ${metrics.grad_norm}; a lower learning rate (now ${lr}) may help: --set learningRate=...`,
      );
    }
    appendFileSync(this.metricsFile, `${JSON.stringify(metrics)}\n`);
    const { iterations } = this.training;
    this.progress.update({
      iteration,
      iterations,
      loss: metrics.loss,
      parts: { class: sum(class_loss), l1: sum(l1_loss), giou: sum(giou_loss) },
      learningRate: lr,
      millisecondsPerStep: pace(this.times.slice(-50)),
      secondsLeft: ((now - this.startTime) / 1000 / (iteration - this.from)) * (iterations - iteration),
      megabytes: this.device.memory().peakBytes / 1e6,
    });
  }
}

/** One line of evaluations.jsonl: COCO's numbers on the validation split at an iteration. */
export type EvaluationLine = CocoMetrics & { readonly iteration: number };

/** Reads a file of one JSON object a line. Throws InputError naming the line that is broken; a last line cut short by an interruption is left out. */
function readLines<T>(file: string): T[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
  return lines.flatMap((line, i) => {
    try {
      return [JSON.parse(line) as T];
    } catch (error) {
      if (i === lines.length - 1) return [];
      throw new InputError(`${file}: line ${i + 1} is not JSON: ${(error as Error).message}`);
    }
  });
}

/** Reads metrics.jsonl. */
export function readMetrics(file: string): StepMetrics[] {
  return readLines<StepMetrics>(file);
}

/** Reads evaluations.jsonl. */
export function readEvaluations(file: string): EvaluationLine[] {
  return readLines<EvaluationLine>(file);
}

/** Drops the lines past an iteration: what was done after the checkpoint is done again. */
export function keepLinesUntil(file: string, iteration: number): void {
  const kept = readLines<{ iteration: number }>(file).filter((line) => line.iteration <= iteration);
  writeFileAtomic(file, kept.map((line) => `${JSON.stringify(line)}\n`).join(''));
}
