/**
 * The tuner: picks among variants of kernels by measuring them on this adapter.
 *
 * An op may have several ways to compute the same result: tiles, operands from textures or buffers, slices of a sum,
 * direct or Winograd, rows per lane. A cost model expects one of them to be fastest. The op asks `choose` with a key of
 * the shape class: the exact sizes, and everything else that decides which variants are valid.
 * `tune` runs every variant of each class seen so far on random operands, drops those whose result differs from the
 * plain variant's, times the others, and keeps the fastest. Without tuned choices nothing changes.
 *
 * Choices are JSON (`export`, `import`) for one adapter and driver. Each has a hash of its class's kernels, so that
 * changed kernels are measured again. Different variants round differently, so a seed gives the same bits only with the
 * same set of choices. A capture keeps its variants.
 */
import { sizeOf } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import type { VariantChooser } from '../core/variants.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import { VariantBenchmark, type BenchmarkDevice, type Exclusion } from './benchmark.ts';
import {
  fingerprintOf,
  kernelsHash,
  parseTunedChoices,
  TUNING_VERSION,
  type TunedChoice,
  type TunedChoices,
} from './choices.ts';
import { allCandidates, type Candidate, type TuningProblem } from './problem.ts';

/** The part of a device that the tuner uses. */
export interface TunableDevice extends BenchmarkDevice {
  readonly info: { readonly description: string };
  /** Whether the body of a capture is running. */
  readonly capturing: boolean;
}

/** The result for one shape class. */
export interface TunedClass {
  readonly shapeClass: string;
  /** Null if nothing was measured or all variants failed. The cost model's choice then stays. */
  readonly choice: TunedChoice | null;
  /** Why there is no choice. */
  readonly skipped: string | null;
  /** Variants that were wrong or failed, with the reason. */
  readonly excluded: readonly Exclusion[];
}

export interface TuningProgress {
  readonly done: number;
  /** Number of classes. It grows if a variant uses classes that were not seen before, e.g. products of new sizes. */
  readonly total: number;
  readonly latest: TunedClass;
}

export interface TuneOptions {
  /** Called after each shape class. */
  readonly onProgress?: (progress: TuningProgress) => void;
  /** Stops before the next class. Choices made until then are kept. */
  readonly signal?: AbortSignal;
  /** Number of rounds, default 5. In each round every variant is sampled once. The median of the rounds counts. */
  readonly rounds?: number;
  /** Approximate duration of a sample in milliseconds, default 12. */
  readonly sampleMs?: number;
  /** Classes with more bytes of operands and results keep the cost model's choice. Default 512 MiB. */
  readonly maxBytes?: number;
}

/** A shape class that an op has asked for. */
interface SeenClass {
  readonly problem: TuningProblem<unknown>;
  readonly chosen: Candidate<unknown>;
  /** Whether it has several variants and no tuned choice. */
  readonly pending: boolean;
}

/** State of one call of `tune`. */
interface TuningRun {
  readonly benchmark: VariantBenchmark;
  readonly options: Required<Pick<TuneOptions, 'rounds' | 'sampleMs' | 'maxBytes'>> & TuneOptions;
  readonly results: TunedClass[];
  readonly visited: Set<string>;
}

/** Maximum number of shape classes that the tuner remembers. The class seen first is forgotten first. */
const MAX_SEEN = 8192;

const hashOf = (problem: TuningProblem<unknown>): string =>
  kernelsHash(allCandidates(problem).flatMap(({ kernels }) => kernels()));

/** A device's tuner: `device.tuner`. */
export class Tuner implements VariantChooser<Tensor> {
  /** Vendor, architecture and device of the adapter. */
  readonly adapter: string;
  private readonly seen = new Map<string, SeenClass>();
  private choices = new Map<string, TunedChoice>();
  /** Classes whose stored choice does not fit their current kernels or variants. */
  private readonly outdated = new Set<string>();
  /** Classes that ops asked for since the last validation began. */
  private readonly touched = new Set<string>();
  private running = false;

  constructor(
    private readonly device: TunableDevice,
    private readonly dispatcher: Dispatcher,
    { vendor, architecture, device: name }: GPUAdapterInfo,
  ) {
    this.adapter = [vendor, architecture, name].filter((part) => part).join(' ') || 'unknown';
  }

  /**
   * The variant to run: the tuned choice, or else the expected variant. A choice is ignored if its kernels have
   * changed, or if the device has forced variants (`DeviceOptions.force`). The tuner remembers the class for `tune`.
   * `VariantChooser` describes the parameters.
   */
  choose<V>(family: string, key: string, describe: () => TuningProblem<V>): V {
    const shapeClass = `${family} ${key}`;
    let seen = this.seen.get(shapeClass);
    if (!seen) {
      if (this.seen.size >= MAX_SEEN) this.seen.delete(this.seen.keys().next().value!);
      seen = this.resolve(shapeClass, describe() as TuningProblem<unknown>);
      this.seen.set(shapeClass, seen);
    }
    if (this.running) this.touched.add(shapeClass);
    return seen.chosen.variant as V;
  }

  /** Shape classes seen so far that have more than one variant and no tuned choice. */
  get pending(): readonly string[] {
    return [...this.seen].flatMap(([shapeClass, { pending }]) => (pending ? [shapeClass] : []));
  }

  /** Seen classes whose choice is ignored because a kernel or variant has changed. `tune` measures them again. */
  get stale(): readonly string[] {
    return [...this.outdated];
  }

  /** A name of the current choices: equal choices give equal bits. `none` without choices. */
  get fingerprint(): string {
    return fingerprintOf(this.choices);
  }

  /** The number of choices and their fingerprint, for logs. */
  get summary(): string {
    const { size } = this.choices;
    return size === 0 ? 'none' : `${size} tuned ${size === 1 ? 'choice' : 'choices'} (${this.fingerprint})`;
  }

  /** All choices, for `import` on a device with the same adapter and driver. */
  export(): TunedChoices {
    const { info, subgroupSize } = this.device;
    return {
      version: TUNING_VERSION,
      adapter: this.adapter,
      driver: info.description,
      subgroupSize,
      choices: Object.fromEntries([...this.choices].sort(([a], [b]) => (a < b ? -1 : 1))),
    };
  }

  /**
   * Adds choices to the current ones. Earlier captures keep their variants.
   *
   * @param json   the result of `export`, or JSON of it
   * @param source named in errors
   * @returns      the number of choices added; 0 if they are for another adapter, driver or subgroup size
   * @throws TuningError naming the field if the format is wrong
   */
  import(json: unknown, source = 'import'): number {
    const given = parseTunedChoices(json, source);
    if (!this.fits(given)) return 0;
    const entries = Object.entries(given.choices);
    for (const [shapeClass, choice] of entries) this.choices.set(shapeClass, choice);
    this.resolveAll();
    return entries.length;
  }

  /** Whether choices are for this adapter, driver and subgroup size. */
  fits({ adapter, driver, subgroupSize }: Pick<TunedChoices, 'adapter' | 'driver' | 'subgroupSize'>): boolean {
    return (
      adapter === this.adapter && driver === this.device.info.description && subgroupSize === this.device.subgroupSize
    );
  }

  /** Forgets all choices: the cost model decides again. */
  reset(): void {
    this.choices.clear();
    this.resolveAll();
  }

  /**
   * Measures the variants of each class seen so far that has no choice, and keeps the fastest variant. The expected
   * variant stays unless another is clearly faster. A variant is excluded and reported if it fails, or if its result
   * differs from that of the plain variant by more than rounding. Tuning takes about a second per class, and compiles
   * all variants.
   *
   * No other work may use the device meanwhile. Throws if tuning or a profile is running already, in a capture, and on
   * devices with forced variants.
   */
  async tune(options: TuneOptions = {}): Promise<readonly TunedClass[]> {
    const { device } = this;
    if (this.running) throw new Error('tune: the device is being tuned already');
    if (device.capturing) throw new Error('tune: variants cannot be measured during a capture');
    if (this.forced) throw new Error('tune: the device was opened with forced variants, which leave nothing to choose');
    this.running = true;
    const { rounds = 5, sampleMs = 12, maxBytes = 512 * 2 ** 20 } = options;
    const run: TuningRun = {
      benchmark: new VariantBenchmark(device, this.dispatcher),
      options: { ...options, rounds, sampleMs, maxBytes },
      results: [],
      visited: new Set(),
    };
    try {
      await device.synchronize();
      run.benchmark.open();
      for (;;) {
        const next = this.pending.find((name) => !run.visited.has(name));
        if (next === undefined || options.signal?.aborted) return run.results;
        await this.tuneClass(next, run);
      }
    } finally {
      this.running = false;
      run.benchmark.close();
    }
  }

  /** Measures one class, stores its choice, and reports progress. */
  private async tuneClass(shapeClass: string, run: TuningRun): Promise<void> {
    const { benchmark, results, visited } = run;
    const { rounds, sampleMs, maxBytes, onProgress } = run.options;
    visited.add(shapeClass);
    const { problem } = this.seen.get(shapeClass)!;
    this.touched.clear();
    const result = await benchmark.measure(problem, allCandidates(problem), {
      rounds,
      sampleMs,
      maxBytes,
      afterValidation: () => this.tuneContained([...this.touched], run),
    });
    let choice: TunedChoice | null = null;
    if (result.best !== null) {
      choice = {
        variant: result.best.name,
        kernels: hashOf(problem),
        ms: result.best.ms,
        expected: problem.expected.name,
        expectedMs: result.expectedMs,
      };
      this.choices.set(shapeClass, choice);
      this.seen.set(shapeClass, this.resolve(shapeClass, problem));
    }
    const latest = { shapeClass, choice, skipped: result.skipped, excluded: result.excluded };
    results.push(latest);
    const left = this.pending.filter((name) => !visited.has(name)).length;
    onProgress?.({ done: results.length, total: results.length + left, latest });
  }

  /**
   * Tunes the classes that the variants of another class use, before that class is timed.
   * Winograd convolutions, for example, contain matrix products.
   */
  private async tuneContained(shapeClasses: readonly string[], run: TuningRun): Promise<void> {
    for (const shapeClass of shapeClasses)
      if (!run.visited.has(shapeClass) && this.seen.get(shapeClass)?.pending && !run.options.signal?.aborted)
        await this.tuneClass(shapeClass, run);
  }

  private get forced(): boolean {
    return Object.values(this.device.force).some((variant) => variant !== undefined);
  }

  /** Looks up the choice of a class: the stored one if it is valid, else the expected one. */
  private resolve(shapeClass: string, problem: TuningProblem<unknown>): SeenClass {
    const candidates = allCandidates(problem);
    const stored = this.choices.get(shapeClass);
    const chosen =
      stored && !this.forced && stored.kernels === hashOf(problem)
        ? candidates.find(({ name }) => name === stored.variant)
        : undefined;
    if (stored && !this.forced && !chosen) this.outdated.add(shapeClass);
    else this.outdated.delete(shapeClass);
    const measurable = candidates.length > 1 && !Object.values(problem.tensors).some((shape) => sizeOf(shape) === 0);
    return { problem, chosen: chosen ?? problem.expected, pending: measurable && !chosen };
  }

  private resolveAll(): void {
    this.outdated.clear();
    for (const [shapeClass, { problem }] of this.seen) this.seen.set(shapeClass, this.resolve(shapeClass, problem));
  }
}
