/**
 * Timing of jobs in interleaved rounds, so that a slow phase of the machine affects all jobs; statistics of times;
 * errors of values.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { median } from '../engine/core/statistics.ts';

/** Work to time. */
export interface Job {
  readonly name: string;
  /** Does the work `times` times, one after the other; resolves when the device has finished. */
  run(times: number): Promise<void>;
}

/**
 * Environment of a PyTorch process that is compared with our engine. It makes glibc keep freed memory, as our buffer
 * pool does. Otherwise PyTorch on the processor gets new pages from the system in every step. On some machines that
 * takes most of its time.
 */
export const KEEPS_MEMORY = { MALLOC_MMAP_MAX_: '0', MALLOC_TRIM_THRESHOLD_: String(2 ** 40) };

/** Milliseconds of one execution, over the rounds. */
export interface Timing {
  readonly median: number;
  readonly lower: number;
  readonly upper: number;
  readonly min: number;
  readonly max: number;
  readonly rounds: number;
}

export interface TimingOptions {
  readonly rounds: number;
  /**
   * A sample repeats the work until it takes at least half of this time. Otherwise the cost of submitting and waiting
   * would exceed that of a short kernel. Default 40.
   */
  readonly sampleMs?: number;
  /** A monotonic clock in milliseconds. */
  readonly clock?: () => number;
}

/** The quantile `q` (0 .. 1) of the values, interpolated between neighbors. Throws RangeError without values. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) throw new RangeError('quantile: expected at least one value');
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const below = Math.floor(at);
  return sorted[below] + (at - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}

export function summarize(samples: readonly number[]): Timing {
  return {
    median: median(samples),
    lower: quantile(samples, 0.25),
    upper: quantile(samples, 0.75),
    min: Math.min(...samples),
    max: Math.max(...samples),
    rounds: samples.length,
  };
}

const MAX_REPEATS = 1000;
/** A sample that exceeds the requested time by this factor is long because of its work, not of an interruption. */
const LONG_WORK_FACTOR = 4;

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

/**
 * Finds the number of repetitions of a job in a sample. The search increases the number step by step: one wait for the
 * device takes as long as a dozen short executions, and an interruption takes longer.
 */
async function repeatsFor(sampleMs: number, once: (times: number) => Promise<number>): Promise<number> {
  let times = 1;
  for (;;) {
    let took = times * (await once(times));
    if (took < LONG_WORK_FACTOR * sampleMs) took = Math.min(took, times * (await once(times)));
    if (took >= sampleMs / 2 || times === MAX_REPEATS)
      return Math.max(1, Math.round(times * Math.min(1, sampleMs / Math.max(1e-3, took))));
    times = Math.min(MAX_REPEATS, Math.max(times + 1, Math.round((times * sampleMs) / Math.max(1e-3, took))));
  }
}

/**
 * Times jobs in turns. First each job warms up (shaders compile at their first dispatch) and finds its number of
 * repetitions. Then every round takes one sample of each job. Garbage is collected before each sample, outside the
 * timed section. Otherwise the garbage of one engine could be collected in the time of the next engine.
 * Returns the samples (milliseconds of one execution) of each job, by round.
 */
export async function sampleInterleaved(
  jobs: readonly Job[],
  { rounds, sampleMs = 40, clock = () => performance.now() }: TimingOptions,
): Promise<number[][]> {
  const once = async (job: Job, times: number): Promise<number> => {
    collectGarbage();
    const start = clock();
    await job.run(times);
    return (clock() - start) / times;
  };
  const repeats: number[] = [];
  for (const job of jobs) {
    await once(job, 1);
    repeats.push(await repeatsFor(sampleMs, (times) => once(job, times)));
  }
  const samples = jobs.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, job] of jobs.entries()) samples[i].push(await once(job, repeats[i]));
  }
  return samples;
}

/** The median over the rounds of the time of `other` divided by the time of `own` in the same round. */
export const medianRatio = (own: readonly number[], other: readonly number[]): number =>
  median(other.map((value, i) => value / own[i]));

/**
 * The largest difference, relative to the root mean square of the expected values. So entries near zero need no high
 * relative accuracy. Infinite if a value is not finite. Throws RangeError for lists of different lengths.
 */
export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length)
    throw new RangeError(`largestError: expected ${expected.length} values, got ${actual.length}`);
  let squares = 0,
    worst = 0;
  for (let i = 0; i < expected.length; i++) {
    squares += expected[i] ** 2;
    const difference = Math.abs(actual[i] - expected[i]);
    worst = Number.isFinite(difference) ? Math.max(worst, difference) : Infinity;
  }
  return worst === 0 ? 0 : worst / Math.max(Math.sqrt(squares / expected.length), 1e-30);
}

export interface PowerLaw {
  /** y = factor * x ** exponent. */
  readonly exponent: number;
  readonly factor: number;
  /** Share of the variance of log y that the law explains. */
  readonly r2: number;
}

/** Fits a power law by least squares of logarithms. Throws RangeError unless x has two values and all are positive. */
export function fitPowerLaw(points: readonly (readonly [x: number, y: number])[]): PowerLaw {
  if (points.some(([x, y]) => !(x > 0 && y > 0))) throw new RangeError('fitPowerLaw: expected positive values');
  const logs = points.map(([x, y]) => [Math.log(x), Math.log(y)] as const);
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  const [mx, my] = [mean(logs.map(([x]) => x)), mean(logs.map(([, y]) => y))];
  const xx = logs.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
  const yy = logs.reduce((sum, [, y]) => sum + (y - my) ** 2, 0);
  if (xx === 0) throw new RangeError('fitPowerLaw: expected two different x');
  const xy = logs.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  const exponent = xy / xx;
  return { exponent, factor: Math.exp(my - exponent * mx), r2: yy === 0 ? 1 : xy ** 2 / (xx * yy) };
}
