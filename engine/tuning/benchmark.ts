/**
 * The measurement of one shape class: every variant runs on random operands, its results are compared with those of the
 * plain variant, and the valid variants are timed.
 */
import { bandwidthKernel } from '../../kernels/roofline.ts';
import { errorMessage } from '../core/errors.ts';
import { Random } from '../core/random.ts';
import { sizeOf } from '../core/shape.ts';
import { median } from '../core/statistics.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import type { Profile, ProfileOptions } from '../profiling/profile.ts';
import { outputsOf, type Candidate, type TuningProblem } from './problem.ts';

/** The part of a device that the benchmark uses. */
export interface BenchmarkDevice extends TensorDevice {
  readonly gpu: GPUDevice;
  readonly lost: Promise<string>;
  /** Number of dispatches since the device was opened. */
  readonly dispatches: number;
  synchronize(): Promise<void>;
  forgetOperands(): void;
  profile(work: () => unknown, options: ProfileOptions): Promise<Profile>;
}

/** A variant that is not valid, and why. */
export interface Exclusion {
  readonly variant: string;
  readonly reason: string;
}

export interface MeasureOptions {
  readonly rounds: number;
  readonly sampleMs: number;
  readonly maxBytes: number;
  /** Called after all variants have run once, before any of them is timed. */
  readonly afterValidation: () => Promise<void>;
}

export interface Measured {
  /** The variant to keep and its milliseconds per run; null if nothing could be measured. */
  readonly best: { readonly name: string; readonly ms: number } | null;
  /** Null if the expected variant was excluded, or nothing was measured. */
  readonly expectedMs: number | null;
  /** Why there is no best variant. */
  readonly skipped: string | null;
  readonly excluded: readonly Exclusion[];
}

type Tensors = Readonly<Record<string, Tensor>>;

/** The samples of one variant. */
interface Job {
  readonly candidate: Candidate<unknown>;
  /** Milliseconds of the first run. */
  readonly first: number;
  /** Runs per sample. */
  readonly repeats: number;
  /** Milliseconds per run. */
  samples: number[];
}

/** A variant replaces the expected one if it takes less than this fraction of its time. So noise does not decide. */
const CLEARLY_FASTER = 0.95;
/** A variant that takes more than this many times the time of the fastest one is measured only once. */
const CLEARLY_SLOWER = 1.6;
const MAX_REPEATS = 256;
/** Dispatches per sample: fewer than a submit holds (dispatcher.ts), so that one pair of timestamps spans them all. */
const SAMPLE_DISPATCHES = 88;
/**
 * Number of random values. Longer operands repeat them. It is a multiple of 64, as `TensorDevice.view` requires. Line
 * lengths are hardly ever multiples of it, so lines differ.
 */
const BLOCK = 64 * 4093;

const firstLine = (error: unknown): string => errorMessage(error).split('\n')[0];

/** Relative L2 distance; NaN if a value is not finite. */
function distance(actual: Float32Array, expected: Float32Array): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i] - expected[i]) ** 2;
    size += expected[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
}

/** Says how a variant's results differ from those of the plain variant. Null if rounding explains the differences. */
function wrongResult(
  problem: TuningProblem<unknown>,
  results: readonly Float32Array[],
  reference: readonly Float32Array[],
  tolerance: number,
): string | null {
  const names = outputsOf(problem);
  for (const [i, name] of names.entries()) {
    const error = distance(results[i], reference[i]);
    if (error <= tolerance) continue;
    const output = names.length === 1 ? 'result' : name;
    return (
      `its ${output} is wrong: expected a relative difference of at most ${tolerance.toExponential(1)} ` +
      `from the plain variant's, got ${error.toExponential(1)}`
    );
  }
  return null;
}

/** Measures shape classes on a device. Internal: `Tuner.tune` makes one. */
export class VariantBenchmark {
  /** Random values for the operands. */
  private random!: Tensor;
  /** NaN values for the outputs, to find elements that a variant does not write. */
  private poison!: Tensor;
  private lost: string | null = null;

  constructor(
    private readonly device: BenchmarkDevice,
    private readonly dispatcher: Dispatcher,
  ) {
    void device.lost.then((reason) => {
      this.lost = reason;
    });
  }

  open(): void {
    const { device } = this;
    this.random = device.keep(device.tensor(new Random(1).uniformArray(BLOCK, -1, 1)));
    this.poison = device.keep(device.tensor(new Float32Array(BLOCK).fill(NaN)));
  }

  close(): void {
    this.random?.dispose();
    this.poison?.dispose();
  }

  /** Measures one class. The expected candidate comes first. The tensors of the problem live during the call. */
  async measure(
    problem: TuningProblem<unknown>,
    candidates: readonly Candidate<unknown>[],
    options: MeasureOptions,
  ): Promise<Measured> {
    const skip = (skipped: string, excluded: readonly Exclusion[] = []): Measured => ({
      best: null,
      expectedMs: null,
      skipped,
      excluded,
    });
    const bytes = Object.values(problem.tensors).reduce((sum, shape) => sum + 4 * sizeOf(shape), 0);
    if (bytes > options.maxBytes)
      return skip(
        `operands and results take ${Math.ceil(bytes / 2 ** 20)} MiB, ` +
          `more than ${Math.floor(options.maxBytes / 2 ** 20)}`,
      );
    const tensors: Record<string, Tensor> = {};
    try {
      try {
        this.allocate(problem, tensors);
      } catch (error) {
        return skip(firstLine(error));
      }
      const reference = await this.attempt(problem, problem.plain, tensors);
      if (typeof reference === 'string') return skip(`the plain variant fails: ${reference}`);
      const { valid, excluded } = await this.validate(problem, candidates, reference, tensors);
      if (valid.length === 0) return skip('no variant is right', excluded);
      await options.afterValidation();
      return { ...(await this.fastest(problem, valid, tensors, options)), skipped: null, excluded };
    } finally {
      for (const tensor of Object.values(tensors)) tensor.dispose();
    }
  }

  /** Makes the tensors of a problem and fills its operands. */
  private allocate(problem: TuningProblem<unknown>, tensors: Record<string, Tensor>): void {
    const { device } = this;
    const outputs = outputsOf(problem);
    let start = 0;
    for (const [name, shape] of Object.entries(problem.tensors)) {
      tensors[name] = device.keep(device.empty(shape));
      const values = problem.values?.[name];
      if (values) device.write(tensors[name], values(new Random(2), sizeOf(shape)));
      else if (!outputs.includes(name)) {
        start += 64 * 509; // each operand starts at another of the random values, so that operands differ
        this.fill(tensors[name], this.random, start);
      }
    }
  }

  /**
   * Fills a tensor with the values of a block from element `start` on. At its end, the block repeats from element 0.
   */
  private fill(tensor: Tensor, block: Tensor, start: number): void {
    const { device } = this;
    device.scope(() => {
      for (let at = 0, from = start % BLOCK; at < tensor.size; from = 0) {
        const count = Math.min(tensor.size - at, BLOCK - from);
        device.copy(device.view(block, from, [count]), device.view(tensor, at, [count]));
        at += count;
      }
    });
  }

  /** Runs every candidate once, and separates the valid ones from those that fail or give other results. */
  private async validate(
    problem: TuningProblem<unknown>,
    candidates: readonly Candidate<unknown>[],
    reference: readonly Float32Array[],
    tensors: Tensors,
  ): Promise<{ readonly valid: Candidate<unknown>[]; readonly excluded: Exclusion[] }> {
    const valid: Candidate<unknown>[] = [];
    const excluded: Exclusion[] = [];
    for (const candidate of candidates) {
      const result = await this.attempt(problem, candidate.variant, tensors);
      const reason = typeof result === 'string' ? result : wrongResult(problem, result, reference, candidate.tolerance);
      if (reason === null) valid.push(candidate);
      else excluded.push({ variant: candidate.name, reason });
    }
    return { valid, excluded };
  }

  /**
   * Runs a variant once. Returns its results in the order of the problem's outputs, or a text that says what failed.
   * Elements that the variant does not write are NaN.
   */
  private async attempt(
    problem: TuningProblem<unknown>,
    variant: unknown,
    tensors: Tensors,
  ): Promise<readonly Float32Array[] | string> {
    const { device, dispatcher } = this;
    const { gpu } = device;
    const outputs = outputsOf(problem).map((name) => tensors[name]);
    for (const output of outputs) this.fill(output, this.poison, 0);
    await device.synchronize();
    gpu.pushErrorScope('out-of-memory');
    gpu.pushErrorScope('validation');
    let failure: string | null = null;
    try {
      device.scope(() => problem.run(variant, tensors));
      dispatcher.flush();
    } catch (error) {
      failure = firstLine(error);
    }
    const errors = await Promise.all([gpu.popErrorScope(), gpu.popErrorScope()]);
    const compilation = await dispatcher.takeFailure();
    if (this.lost !== null) throw new Error(`the GPU device was lost: ${this.lost}`);
    failure ??= compilation === null ? null : firstLine(compilation);
    failure ??= errors.find((error) => error !== null)?.message.split('\n')[0] ?? null;
    if (failure !== null) return failure;
    const results: Float32Array[] = [];
    for (const output of outputs) results.push(new Float32Array(await device.readBytes(output)));
    return results;
  }

  /** Times valid variants, and picks the one to keep. */
  private async fastest(
    problem: TuningProblem<unknown>,
    candidates: readonly Candidate<unknown>[],
    tensors: Tensors,
    { rounds, sampleMs }: MeasureOptions,
  ): Promise<Pick<Measured, 'best' | 'expectedMs'>> {
    const measureRounds = async (jobs: readonly Job[]): Promise<void> => {
      for (const job of jobs) job.samples = [];
      for (let round = 0; round < rounds; round++)
        for (const { candidate, repeats, samples } of jobs)
          samples.push(await this.sample(problem, candidate, tensors, repeats));
    };
    const jobs: Job[] = [];
    for (const candidate of candidates) jobs.push(await this.firstRun(problem, candidate, tensors, sampleMs));
    const shortest = Math.min(...jobs.map(({ first }) => first));
    const isExpected = ({ candidate }: Job): boolean => candidate.name === problem.expected.name;
    const competing = jobs.filter((job) => job.first <= shortest * CLEARLY_SLOWER || isExpected(job));
    await measureRounds(competing);
    const fastest = competing.reduce((a, b) => (median(b.samples) < median(a.samples) ? b : a));
    const expected = competing.find(isExpected);
    let best = fastest;
    if (expected && fastest !== expected) {
      const faster = (): boolean =>
        median(fastest.samples) < CLEARLY_FASTER * median(expected.samples) &&
        median(fastest.samples.map((ms, i) => ms / expected.samples[i])) < CLEARLY_FASTER;
      // The fastest of many variants may owe its time to chance, so it is measured again together with the expected
      // one.
      if (faster()) await measureRounds([expected, fastest]);
      if (!faster()) best = expected;
    }
    return {
      best: { name: best.candidate.name, ms: median(best.samples) },
      expectedMs: expected ? median(expected.samples) : null,
    };
  }

  /** Runs a variant once, and derives how often a sample repeats it. */
  private async firstRun(
    problem: TuningProblem<unknown>,
    candidate: Candidate<unknown>,
    tensors: Tensors,
    sampleMs: number,
  ): Promise<Job> {
    const { device } = this;
    const before = device.dispatches;
    const first = await this.sample(problem, candidate, tensors, 1);
    const dispatches = Math.max(1, device.dispatches - before - 1);
    const wanted = Math.round(sampleMs / Math.max(1e-3, first));
    const repeats = Math.max(1, Math.min(MAX_REPEATS, wanted, Math.floor(SAMPLE_DISPATCHES / dispatches)));
    return { candidate, first, repeats, samples: [] };
  }

  /**
   * Milliseconds per run. They are measured by timestamps if the adapter's timestamps are reliable. Otherwise they are
   * measured by the wall clock, without the time in which JavaScript encodes.
   */
  private async sample(
    problem: TuningProblem<unknown>,
    { variant }: Candidate<unknown>,
    tensors: Tensors,
    times: number,
  ): Promise<number> {
    const { device, dispatcher, random, poison } = this;
    const profile = await device.profile(
      () => {
        // Timestamps belong to passes. This empty dispatch opens a pass, so that copies to textures are timed as well.
        dispatcher.run(bandwidthKernel(), { count4: 0 }, { input: random, output: poison }, [1, 1, 1]);
        for (let i = 0; i < times; i++) {
          device.forgetOperands(); // in a real step, most operands are not in textures yet
          device.scope(() => problem.run(variant, tensors));
        }
      },
      { detail: 'submits' },
    );
    return profile.deviceMs / times;
  }
}
