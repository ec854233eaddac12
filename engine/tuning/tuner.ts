/**
 * Picks among variants of a kernel by measuring them on this adapter.
 *
 * Where an op has several ways to compute the same (tile, operands from textures or buffers, slices of a sum, direct
 * or Winograd, rows a lane), a cost model expects one to be the fastest.
 * Its op asks `choose` with a key of the shape class: the exact sizes, and whatever else decides which variants are
 * right. `tune` runs every variant of each class seen so far
 * on random operands, drops those whose result is not that of the plain variant, times the others, and keeps the
 * fastest. Without tuned choices nothing changes.
 *
 * Choices are JSON (`export`, `import`), for one adapter and driver; each carries a hash of its class's kernels, so
 * that changed kernels are measured anew.
 * Another set of choices rounds differently: the same seed gives the same bits for one set of choices. A capture keeps
 * the variants it was recorded with.
 */
import { sizeOf } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import type { VariantChooser } from '../core/variants.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import { Bench, type BenchmarkDevice, type Exclusion } from './benchmark.ts';
import { hash, parseTunedChoices, sourceHash, TUNING_VERSION, type TunedChoice, type TunedChoices } from './choices.ts';
import type { Candidate, TuningProblem } from './problem.ts';

/** What the tuner uses of a device. */
export interface TunableDevice extends BenchmarkDevice {
  readonly info: { readonly description: string };
  /** Whether the body of a capture is running. */
  readonly capturing: boolean;
}

/** What became of a shape class. */
export interface TunedClass {
  readonly shapeClass: string;
  /** Null where nothing was measured or no variant was right: then the cost model's choice stays. */
  readonly choice: TunedChoice | null;
  /** Why there is no choice. */
  readonly skipped: string | null;
  /** Variants that were wrong or failed, with the reason. */
  readonly excluded: readonly Exclusion[];
}

export interface TuningProgress {
  readonly done: number;
  /** Grows where a variant turns out to contain products of sizes not seen before. */
  readonly total: number;
  readonly latest: TunedClass;
}

export interface TuneOptions {
  /** Called after each shape class. */
  readonly onProgress?: (progress: TuningProgress) => void;
  /** Stops before the next class; what was tuned until then is kept. */
  readonly signal?: AbortSignal;
  /** Interleaved rounds, of which the median counts; default 5. */
  readonly rounds?: number;
  /** About how long a sample takes, in milliseconds; default 12. */
  readonly sampleMs?: number;
  /** Classes whose operands and results take more bytes than this keep the cost model's choice; default 512 MiB. */
  readonly maxBytes?: number;
}

interface Seen {
  readonly problem: TuningProblem<unknown>;
  readonly chosen: Candidate<unknown>;
  /** Whether there is something to measure that has not been. */
  readonly pending: boolean;
}

/** Shape classes remembered at once; the one seen first is forgotten first. */
const MAX_SEEN = 8192;

/** The candidates with the expected one at the head, each name once. */
function allCandidates({ expected, candidates }: TuningProblem<unknown>): Candidate<unknown>[] {
  return [
    expected,
    ...candidates.filter(
      ({ name }, i) => name !== expected.name && candidates.findIndex((other) => other.name === name) === i,
    ),
  ];
}

const kernelsHash = (problem: TuningProblem<unknown>): string =>
  hash(
    new Set(
      allCandidates(problem)
        .flatMap(({ kernels }) => kernels())
        .map(sourceHash),
    ).values(),
  );

/** A device's tuner: `device.tuner`. */
export class Tuner implements VariantChooser<Tensor> {
  /** Vendor, architecture and device of the adapter. */
  readonly adapter: string;
  private readonly seen = new Map<string, Seen>();
  private choices = new Map<string, TunedChoice>();
  private readonly outdated = new Set<string>();
  /** Classes asked for since the last validation began. */
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
   * The variant to run: the tuned choice, or the expected one where there is none, where its kernels have changed, and
   * on devices with forced variants (`DeviceOptions.force`).
   * Remembers the class for `tune`.
   *
   * @param family   of the op, e.g. `matmul`
   * @param key      of the shape class within the family: all that decides which variants are right and fast
   * @param describe called where the class has not been seen before
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

  /** Shape classes that were seen and have more than one variant, but no tuned choice. */
  get pending(): readonly string[] {
    return [...this.seen].flatMap(([shapeClass, { pending }]) => (pending ? [shapeClass] : []));
  }

  /**
   * Seen classes whose choice does not count, because a kernel has changed since it was measured; `tune` measures
   * them anew.
   */
  get stale(): readonly string[] {
    return [...this.outdated];
  }

  /** Names the choices at hand: equal ones give equal bits. `none` where there are none. */
  get fingerprint(): string {
    return this.choices.size === 0
      ? 'none'
      : hash([...this.choices].map(([shapeClass, { variant }]) => `${shapeClass}: ${variant}`).sort()).slice(0, 12);
  }

  /** The choices at hand in a few words, for logs: how many, and their fingerprint. */
  get summary(): string {
    const { size } = this.choices;
    return size === 0 ? 'none' : `${size} tuned ${size === 1 ? 'choice' : 'choices'} (${this.fingerprint})`;
  }

  /** All choices, for `import` on a device of the same adapter and driver. */
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
   * Takes over choices, in addition to those at hand. What was captured before keeps its variants.
   *
   * @param json   what `export` gave, also by way of JSON
   * @param source named in errors
   * @returns      how many choices were taken over; 0 where they are another adapter's, driver's or subgroup size's
   * @throws TuningError where it is no such thing, naming the field
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

  /** Forgets all choices: the cost model's hold again. */
  reset(): void {
    this.choices.clear();
    this.resolveAll();
  }

  /**
   * Measures the variants of each class seen so far without a choice, and keeps the fastest; the expected one unless
   * another is clearly faster. A variant whose result is not
   * the plain one's within its precision, or that fails, is left out and reported. Takes about a second a class, and
   * compiles all variants.
   *
   * Nothing else may be recorded on the device meanwhile. Throws where tuning or a profile is running already, in a
   * capture, and on devices with forced variants.
   */
  async tune({
    onProgress,
    signal,
    rounds = 5,
    sampleMs = 12,
    maxBytes = 512 * 2 ** 20,
  }: TuneOptions = {}): Promise<readonly TunedClass[]> {
    const { device } = this;
    if (this.running) throw new Error('tune: the device is being tuned already');
    if (device.capturing) throw new Error('tune: variants cannot be measured while a capture is recorded');
    if (this.forced) throw new Error('tune: the device was opened with forced variants, which leave nothing to choose');
    this.running = true;
    const results: TunedClass[] = [];
    const visited = new Set<string>();
    const bench = new Bench(device, this.dispatcher);
    const tuneOne = async (shapeClass: string): Promise<void> => {
      visited.add(shapeClass);
      const { problem } = this.seen.get(shapeClass)!;
      const candidates = allCandidates(problem);
      this.touched.clear();
      const result = await bench.measure(problem, candidates, {
        rounds,
        sampleMs,
        maxBytes,
        afterValidation: () => tuneInner([...this.touched]),
      });
      let choice: TunedChoice | null = null;
      if (result.best !== null) {
        choice = {
          variant: result.best.name,
          kernels: kernelsHash(problem),
          ms: result.best.ms,
          expected: problem.expected.name,
          expectedMs: result.expectedMs,
        };
        this.choices.set(shapeClass, choice);
        this.seen.set(shapeClass, this.resolve(shapeClass, problem));
      }
      const latest = { shapeClass, choice, skipped: result.skipped, excluded: result.excluded };
      results.push(latest);
      onProgress?.({
        done: results.length,
        total: results.length + this.pending.filter((name) => !visited.has(name)).length,
        latest,
      });
    };
    // A variant may contain problems with classes of their own, as Winograd's convolutions contain matrix products:
    // those are tuned before it is timed.
    const tuneInner = async (inner: readonly string[]): Promise<void> => {
      for (const shapeClass of inner)
        if (!visited.has(shapeClass) && this.seen.get(shapeClass)?.pending && !signal?.aborted)
          await tuneOne(shapeClass);
    };
    try {
      await device.synchronize();
      bench.open();
      for (;;) {
        const next = this.pending.find((name) => !visited.has(name));
        if (next === undefined || signal?.aborted) return results;
        await tuneOne(next);
      }
    } finally {
      this.running = false;
      bench.close();
    }
  }

  private get forced(): boolean {
    return Object.values(this.device.force).some((variant) => variant !== undefined);
  }

  private resolve(shapeClass: string, problem: TuningProblem<unknown>): Seen {
    const candidates = allCandidates(problem);
    const stored = this.choices.get(shapeClass);
    const chosen =
      stored && !this.forced && stored.kernels === kernelsHash(problem)
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
