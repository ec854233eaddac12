/**
 * How the tuner measures one shape class: random operands, every variant held against the plain one, and those that
 * are right timed beside each other.
 */
import { bandwidthKernel } from '../../kernels/roofline.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import { errorMessage } from '../core/errors.ts';
import { Random } from '../core/random.ts';
import { sizeOf } from '../core/shape.ts';
import { median } from '../core/statistics.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import type { Profile, ProfileOptions } from '../profiling/profile.ts';
import type { Candidate, TuningProblem } from './problem.ts';

/** What the benchmark uses of a device. */
export interface BenchmarkDevice extends TensorDevice {
  readonly gpu: GPUDevice;
  readonly lost: Promise<string>;
  /** Dispatches encoded since the device was opened. */
  readonly dispatches: number;
  synchronize(): Promise<void>;
  forgetOperands(): void;
  profile(work: () => unknown, options: ProfileOptions): Promise<Profile>;
}

export interface Exclusion {
  readonly variant: string;
  readonly reason: string;
}

export interface MeasureOptions {
  readonly rounds: number;
  readonly sampleMs: number;
  readonly maxBytes: number;
  /** Called when all variants have run once, before any is timed. */
  readonly afterValidation: () => Promise<void>;
}

export interface Measured {
  /** The variant to keep and the milliseconds of one run; null where nothing could be measured. */
  readonly best: { readonly name: string; readonly ms: number } | null;
  /** Null where the expected variant was excluded, or nothing measured. */
  readonly expectedMs: number | null;
  /** Why there is no best. */
  readonly skipped: string | null;
  readonly excluded: readonly Exclusion[];
}

type Tensors = Readonly<Record<string, Tensor>>;

/** A variant must take less than this part of the expected one's time to replace it: noise shall not. */
const CLEARLY_FASTER = 0.95;
/** Variants that take more than this many times the fastest one's time are measured once only. */
const HOPELESS = 1.6;
const MAX_REPEATS = 256;
/**
 * Dispatches of a sample: below what a submit holds (dispatcher.ts), so that one pair of timestamps spans all of it.
 */
const SAMPLE_DISPATCHES = 88;
/**
 * Random values, repeated where operands are longer: a multiple of 64 (see `Device.view`) that hardly any line's
 * length divides.
 */
const BLOCK = 64 * 4093;

const firstLine = (error: unknown): string => errorMessage(error).split('\n')[0];

/** Relative L2 distance; NaN where a value is not finite. */
function distance(actual: Float32Array, expected: Float32Array): number {
  let difference = 0,
    size = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i] - expected[i]) ** 2;
    size += expected[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / size);
}

const outputsOf = ({ output }: TuningProblem<unknown>): readonly string[] =>
  typeof output === 'string' ? [output] : output;

/** Internal: `Tuner.tune` makes one. */
export class Bench {
  private random!: Tensor;
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
    [this.random, this.poison] = [new Random(1).uniformArray(BLOCK, -1, 1), new Float32Array(BLOCK).fill(NaN)].map(
      (values) => device.keep(device.tensor(values)),
    );
  }

  close(): void {
    this.random?.dispose();
    this.poison?.dispose();
  }

  /** Measures one class; the expected candidate comes first. Its tensors live for the time of the call. */
  async measure(
    problem: TuningProblem<unknown>,
    candidates: readonly Candidate<unknown>[],
    options: MeasureOptions,
  ): Promise<Measured> {
    const bytes = Object.values(problem.tensors).reduce((sum, shape) => sum + 4 * sizeOf(shape), 0);
    const skip = (skipped: string, excluded: readonly Exclusion[] = []): Measured => ({
      best: null,
      expectedMs: null,
      skipped,
      excluded,
    });
    if (bytes > options.maxBytes)
      return skip(
        `operands and results take ${Math.ceil(bytes / 2 ** 20)} MiB, more than ${Math.floor(options.maxBytes / 2 ** 20)}`,
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
      const excluded: Exclusion[] = [];
      const right: Candidate<unknown>[] = [];
      for (const candidate of candidates) {
        const result = await this.attempt(problem, candidate.variant, tensors);
        const reason =
          typeof result === 'string' ? result : this.difference(problem, result, reference, candidate.tolerance);
        if (reason === null) right.push(candidate);
        else excluded.push({ variant: candidate.name, reason });
      }
      if (right.length === 0) return skip('no variant is right', excluded);
      await options.afterValidation();
      return { ...(await this.fastest(problem, right, tensors, options)), skipped: null, excluded };
    } finally {
      for (const tensor of Object.values(tensors)) tensor.dispose();
    }
  }

  private allocate(problem: TuningProblem<unknown>, tensors: Record<string, Tensor>): void {
    const { device } = this;
    const outputs = outputsOf(problem);
    let start = 0;
    for (const [name, shape] of Object.entries(problem.tensors)) {
      tensors[name] = device.keep(device.empty(shape));
      const values = problem.values?.[name];
      if (values) device.write(tensors[name], values(new Random(2), sizeOf(shape)));
      // Each from another place of the random values, so that no two operands are alike.
      else if (!outputs.includes(name)) this.fill(tensors[name], this.random, (start += 64 * 509));
    }
  }

  /** What is wrong with a variant's results beside the plain one's; null where the differences are rounding. */
  private difference(
    problem: TuningProblem<unknown>,
    results: readonly Float32Array[],
    reference: readonly Float32Array[],
    tolerance: number,
  ): string | null {
    const names = outputsOf(problem);
    for (const [i, name] of names.entries()) {
      const error = distance(results[i], reference[i]);
      if (error <= tolerance) continue;
      return `its ${names.length === 1 ? 'result' : name} is wrong: it differs from the plain variant's by ${error.toExponential(1)} of its size, at most ${tolerance.toExponential(1)} is rounding`;
    }
    return null;
  }

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

  /**
   * The results of a variant in the order of the problem's outputs, or what went wrong. Values that it does not write
   * are NaN.
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

  /** Times variants that are right, and says which to keep. */
  private async fastest(
    problem: TuningProblem<unknown>,
    candidates: readonly Candidate<unknown>[],
    tensors: Tensors,
    { rounds, sampleMs }: MeasureOptions,
  ): Promise<Pick<Measured, 'best' | 'expectedMs'>> {
    const { device } = this;
    const expected = candidates.find(({ name }) => name === problem.expected.name) ?? null;
    const jobs: {
      readonly candidate: Candidate<unknown>;
      readonly first: number;
      readonly repeats: number;
      readonly samples: number[];
    }[] = [];
    for (const candidate of candidates) {
      const before = device.dispatches;
      const first = await this.sample(problem, candidate, tensors, 1);
      const dispatches = Math.max(1, device.dispatches - before - 1);
      jobs.push({
        candidate,
        first,
        repeats: Math.max(
          1,
          Math.min(
            MAX_REPEATS,
            Math.round(sampleMs / Math.max(1e-3, first)),
            Math.floor(SAMPLE_DISPATCHES / dispatches),
          ),
        ),
        samples: [],
      });
    }
    const least = Math.min(...jobs.map(({ first }) => first));
    const hopeful = jobs.filter(({ candidate, first }) => first <= least * HOPELESS || candidate === expected);
    const measureRounds = async (list: typeof jobs): Promise<void> => {
      for (const { samples } of list) samples.length = 0;
      for (let round = 0; round < rounds; round++)
        for (const { candidate, repeats, samples } of list)
          samples.push(await this.sample(problem, candidate, tensors, repeats));
    };
    await measureRounds(hopeful);
    let best = hopeful.reduce((a, b) => (median(b.samples) < median(a.samples) ? b : a));
    const own = hopeful.find(({ candidate }) => candidate === expected);
    if (own && best !== own) {
      // Of many, the one that seems fastest has been lucky as well: it must be so once more, alone against the
      // expected one.
      const other = best;
      const faster = (): boolean =>
        median(other.samples) < CLEARLY_FASTER * median(own.samples) &&
        median(other.samples.map((ms, i) => ms / own.samples[i])) < CLEARLY_FASTER;
      if (faster()) await measureRounds([own, other]);
      if (!faster()) best = own;
    }
    return {
      best: { name: best.candidate.name, ms: median(best.samples) },
      expectedMs: own ? median(own.samples) : null,
    };
  }

  /**
   * Milliseconds of a run: by timestamps where the adapter's are to be believed, otherwise by the wall clock, the
   * time that JavaScript records not included.
   */
  private async sample(
    problem: TuningProblem<unknown>,
    { variant }: Candidate<unknown>,
    tensors: Tensors,
    times: number,
  ): Promise<number> {
    const { device, dispatcher, random } = this;
    const profile = await device.profile(
      () => {
        // Timestamps are those of passes: an empty one at the front, so that the copies to textures before the first
        // dispatch are inside.
        dispatcher.run(bandwidthKernel(), { count4: 0 }, { input: random, output: this.poison }, [1, 1, 1]);
        for (let i = 0; i < times; i++) {
          device.forgetOperands(); // which a step has rarely used before
          device.scope(() => problem.run(variant, tensors));
        }
      },
      { detail: 'submits' },
    );
    return profile.deviceMs / times;
  }
}
