/** Timing and its statistics: jobs measured in interleaved rounds, so that a machine that slows down slows all of them; values held against expected ones. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Something to be timed. */
export interface Job {
  readonly name: string;
  /** Does the work `times` times, one after the other, and resolves when the device has done all of it. */
  run(times: number): Promise<void>;
}

/**
 * Environment of a PyTorch that is timed beside us: glibc then keeps freed memory instead of giving it back to the system, as our buffer pool does. Without it PyTorch on the
 * processor pays for fresh pages in every step, which on some machines is most of its time.
 */
export const KEEPS_MEMORY = { MALLOC_MMAP_MAX_: '0', MALLOC_TRIM_THRESHOLD_: String(2 ** 40) };

/** Milliseconds of one execution over the rounds. */
export interface Timing {
  readonly median: number;
  readonly lower: number;
  readonly upper: number;
  readonly least: number;
  readonly most: number;
  readonly rounds: number;
}

export interface TimingOptions {
  readonly rounds: number;
  /** A sample repeats the work until it takes at least half as long as this: short kernels are drowned by the cost of submitting and waiting otherwise. Default 40. */
  readonly sampleMs?: number;
  readonly clock?: () => number;
}

/** The value below which the share `q` (0 .. 1) of the values lies, interpolated between neighbours. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) throw new RangeError('quantile: expected at least one value');
  const sorted = [...values].sort((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const below = Math.floor(at);
  return sorted[below] + (at - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

export function summarize(samples: readonly number[]): Timing {
  return {
    median: median(samples),
    lower: quantile(samples, 0.25),
    upper: quantile(samples, 0.75),
    least: Math.min(...samples),
    most: Math.max(...samples),
    rounds: samples.length,
  };
}

const MAX_REPEATS = 1000;
/** A sample this many times as long as asked for is no hiccup. */
const SURELY_LONG = 4;

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

/** How often a job is repeated in a sample: measured with more and more repeats, since waiting takes as long as a dozen short executions, and a hiccup longer. */
async function repeatsFor(sampleMs: number, once: (times: number) => Promise<number>): Promise<number> {
  let times = 1;
  for (;;) {
    let took = times * (await once(times));
    if (took < SURELY_LONG * sampleMs) took = Math.min(took, times * (await once(times)));
    if (took >= sampleMs / 2 || times === MAX_REPEATS)
      return Math.max(1, Math.round(times * Math.min(1, sampleMs / Math.max(1e-3, took))));
    times = Math.min(MAX_REPEATS, Math.max(times + 1, Math.round((times * sampleMs) / Math.max(1e-3, took))));
  }
}

/**
 * Times jobs beside each other: each is run to warm up (shaders compile at their first dispatch) and to find its repeats, then every round runs each of them once. Garbage is collected before each sample,
 * untimed: what one engine leaves behind would otherwise be cleared away in the time of the next, by threads that it needs.
 * Returns their samples (milliseconds of one execution) by round, in the order of the jobs.
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

/** The median over the rounds of how many times longer `other` took than `own` in the same round. */
export const medianRatio = (own: readonly number[], other: readonly number[]): number =>
  median(other.map((value, i) => value / own[i]));

/** The largest difference, relative to the root mean square of what is expected: an entry that happens to be near zero need not be exact. Infinite where a value is not finite. */
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

/** Least squares in logarithms. Needs two different x; all values positive. */
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
