/**
 * The base class of AdamW and SGD: flat parameters, the norm of the gradients, steps, the average of the weights, and
 * state for checkpoints.
 */
import { averageKernel } from '../../kernels/optimizers.ts';
import { elementwise } from '../core/elementwise.ts';
import type { Tensor } from '../core/tensor.ts';
import {
  FlatParameters,
  type FlatEntry,
  type FlatRun,
  type FlatTensors,
  type NamedParameter,
  type StoredValues,
} from './flat-parameters.ts';
import { GradientNorm, type ClippingOptions } from './gradient-norm.ts';

export interface StepOptions extends ClippingOptions {
  /** If it is a function, it is called at every step, including every replay of a captured step. */
  readonly learningRate: number | (() => number);
}

/** Options that all optimizers have. */
export interface OptimizerOptions {
  /**
   * Highest decay of an exponential moving average of all parameters; default 0: no average, and no memory for it. The
   * decay of a step grows as `averageDecayAt` says.
   */
  readonly averageDecay?: number;
  /** Factor of the learning rate of a parameter, by its name; default 1 for all. */
  readonly learningRateFactor?: (name: string) => number;
}

/**
 * Decay of the average at a step counted from 0: (1 + step) / (10 + step), at most `decay`, as in TensorFlow's
 * ExponentialMovingAverage and timm's ModelEma. So the average always covers about the last tenth of the steps so far,
 * and initial values fade fast.
 */
export const averageDecayAt = (step: number, decay: number): number => Math.min(decay, (1 + step) / (10 + step));

/** The name of the average among the moments, and the prefix of its values in a state. */
const AVERAGE = 'average';

/** The state of an optimizer. A training that resumes from it continues with the same bits. */
export interface OptimizerState {
  /** Number of calls of `step`. */
  readonly step: number;
  /** Moments and the average by `kind.parameter`, and `steps`, the number of updates of each parameter. */
  readonly tensors: ReadonlyMap<string, StoredValues>;
}

/** An optimizer of named parameters. Its steps can be captured and replayed (see engine/device/capture.ts). */
export abstract class Optimizer {
  protected readonly flat: FlatParameters;
  protected readonly clipping: GradientNorm;
  /** Number of updates of each parameter. A step in which the parameter has no gradient is no update. */
  private updates: number[];
  private steps = 0;
  /** Parameters whose gradients `accumulate` has added to the flat buffers since `zeroGrad`. */
  private readonly accumulated = new Set<FlatEntry>();
  /**
   * [parameters + 1, 4]: row i holds the `rates` of run i of parameters. The last row holds 1 - decay of the average.
   */
  private readonly rateTable: Tensor;
  private readonly moments: Readonly<Record<string, FlatTensors>>;
  private readonly averageDecay: number;
  /** Factor of the learning rate of each parameter. */
  private readonly factors: readonly number[];

  /** @param kinds names of the moments that each parameter has */
  protected constructor(
    private readonly owner: string,
    parameters: readonly NamedParameter[],
    kinds: readonly string[],
    { averageDecay = 0, learningRateFactor = () => 1 }: OptimizerOptions,
  ) {
    checkFraction(owner, 'averageDecay', averageDecay);
    this.factors = parameters.map(({ name }) => learningRateFactor(name));
    for (const [i, factor] of this.factors.entries())
      checkFraction(owner, `learningRateFactor of ${parameters[i].name}`, factor, Infinity);
    this.flat = new FlatParameters(owner, parameters);
    this.clipping = new GradientNorm(this.flat);
    this.updates = parameters.map(() => 0);
    this.rateTable = this.flat.device.keep(this.flat.device.zeros([parameters.length + 1, 4]));
    this.averageDecay = averageDecay;
    const all = averageDecay > 0 ? [...kinds, AVERAGE] : kinds;
    this.moments = Object.fromEntries(all.map((kind) => [kind, this.flat.zeros()]));
    this.startAverage();
  }

  /**
   * The numbers of an update that change from step to step, at most four. Kernels read them from device memory, so that
   * a captured step can be replayed.
   */
  protected abstract rates(learningRate: number, updates: number): readonly number[];

  /** Updates runs of parameters from the flat gradients. Row i of `rates` belongs to run i. */
  protected abstract update(runs: readonly FlatRun[], rates: Tensor): void;

  /** The flat buffers of a moment. */
  protected moment(kind: string): FlatTensors {
    return this.moments[kind];
  }

  /**
   * Updates all parameters that have a gradient. As in PyTorch, parameters without a gradient do not change: no decay,
   * and no change of moments. The bias correction of moments uses the parameter's own number of updates. Nothing is
   * read back. Gradients stay: call `zeroGrad`.
   *
   * @returns the norm of all gradients, scaled and before clipping, [1]. It belongs to the optimizer; the next step
   *   overwrites it
   * @throws RangeError if an option is out of range
   */
  step(options: StepOptions): Tensor {
    const { device, entries } = this.flat;
    device.noGrad(() =>
      device.scope(() => {
        if (this.accumulated.size > 0) this.accumulate();
        const accumulatedCount = this.accumulated.size;
        const present =
          accumulatedCount > 0
            ? entries.filter((entry) => this.accumulated.has(entry))
            : entries.filter(({ tensor }) => tensor.grad !== null);
        if (accumulatedCount === 0) this.flat.gatherGradients(present);
        device.eachTime(() => {
          const { size } = this.accumulated;
          if (size !== accumulatedCount)
            throw new Error(
              `${this.owner}: replayed step: expected ${accumulatedCount} accumulated gradients as at the capture, ` +
                `got ${size}`,
            );
        });
        this.clipping.compute(this.owner, present, options);
        const runs = this.flat.runs(present, ({ index }) => `${this.updates[index]} ${this.factors[index]}`);
        device.eachTime(() => this.advance(runs, options.learningRate));
        this.update(runs, this.rateTable);
        this.updateAverage();
      }),
    );
    return this.clipping.norm;
  }

  /** The host's part of a step: counts updates and writes the rates of each run. */
  private advance(runs: readonly FlatRun[], option: StepOptions['learningRate']): void {
    const learningRate = typeof option === 'function' ? option() : option;
    if (!Number.isFinite(learningRate) || learningRate < 0)
      throw new RangeError(`${this.owner}: learningRate: expected a number >= 0, got ${learningRate}`);
    for (const {
      entries: [first, ...others],
    } of runs) {
      const other = others.find(({ index }) => this.updates[index] !== this.updates[first.index]);
      if (other)
        throw new Error(
          `${this.owner}: replayed step: expected as many updates of ${first.name} as of ${other.name}, as at the ` +
            `capture, got ${this.updates[first.index]} and ${this.updates[other.index]}; capture the step again`,
        );
    }
    const table = new Float32Array(this.rateTable.size);
    for (const [row, { entries }] of runs.entries()) {
      for (const { index } of entries) this.updates[index]++;
      const { index } = entries[0];
      table.set(this.rates(learningRate * this.factors[index], this.updates[index]), 4 * row);
    }
    table[4 * this.averageSlot] = 1 - averageDecayAt(this.steps, this.averageDecay);
    this.steps++;
    this.flat.device.write(this.rateTable, table);
  }

  /**
   * Adds the parameters' current gradients to the gradients accumulated since `zeroGrad`, and frees the current ones.
   * `step` then uses the sums. Captured passes need this, because a replayed `backward` leaves nothing in the
   * parameters' `grad`.
   */
  accumulate(): void {
    const { device, entries } = this.flat;
    const present = entries.filter(({ tensor }) => tensor.grad !== null);
    const earlier = new Set(this.accumulated);
    device.noGrad(() => this.flat.gatherGradients(present, (entry) => earlier.has(entry)));
    device.eachTime(() => {
      for (const entry of present) {
        if (this.accumulated.has(entry) !== earlier.has(entry))
          throw new Error(
            `${this.owner}: replayed accumulate: expected ${accumulatedText(earlier, entry)} as at the capture, ` +
              `got ${accumulatedText(this.accumulated, entry)}`,
          );
      }
      for (const entry of present) this.accumulated.add(entry);
    });
    this.flat.zeroGrad();
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    this.flat.zeroGrad();
    this.flat.device.eachTime(() => this.accumulated.clear());
  }

  /** Whether there is an average of the parameters. */
  get averages(): boolean {
    return this.averageDecay > 0;
  }

  /**
   * Runs `body` while the parameters hold the average; then they get their own values back, bit for bit. Without an
   * average, the parameters keep their values. `body` must not change them, and must not call `step`.
   */
  async withAverage<T>(body: () => Promise<T>): Promise<T> {
    if (!this.averages) return await body();
    this.exchangeAverage();
    try {
      return await body();
    } finally {
      this.exchangeAverage();
    }
  }

  /** Forgets all steps: no moments, no updates, and an average that starts at the current values. */
  reset(): void {
    const { device } = this.flat;
    for (const flat of Object.values(this.moments))
      for (const tensor of flat) device.scope(() => device.copy(device.zeros(tensor.shape), tensor));
    this.startAverage();
    this.updates = this.updates.map(() => 0);
    this.steps = 0;
    this.accumulated.clear();
  }

  private get averageSlot(): number {
    return this.updates.length;
  }

  private startAverage(): void {
    if (!this.averages) return;
    for (const [chunk, average] of this.moment(AVERAGE).entries())
      this.flat.device.copy(this.flat.values[chunk], average);
  }

  private updateAverage(): void {
    if (!this.averages) return;
    const { device, values } = this.flat;
    for (const [chunk, average] of this.moment(AVERAGE).entries()) {
      const count4 = average.size / 4;
      const { lanes, grid } = elementwise(device, count4);
      const buffers = { rates: this.rateTable, value: values[chunk], average };
      device.run(averageKernel(lanes), { count4, slot: this.averageSlot }, buffers, grid);
    }
  }

  private exchangeAverage(): void {
    const { device, values } = this.flat;
    for (const [chunk, average] of this.moment(AVERAGE).entries())
      device.scope(() => {
        const kept = device.empty(average.shape);
        device.copy(average, kept);
        device.copy(values[chunk], average);
        device.copy(kept, values[chunk]);
      });
  }

  /** Copies the state to the host. */
  async state(): Promise<OptimizerState> {
    const step = this.steps;
    const tensors = new Map<string, StoredValues>([
      ['steps', { shape: [this.updates.length], data: new Float32Array(this.updates) }],
    ]);
    for (const [kind, flat] of Object.entries(this.moments))
      for (const [name, values] of await this.flat.read(flat, kind)) tensors.set(name, values);
    return { step, tensors };
  }

  /**
   * Loads a state that `state` returned for an optimizer of the same parameters.
   * @throws ShapeError with the name of a tensor that is missing, unknown or of another shape
   */
  loadState({ step, tensors }: OptimizerState): void {
    if (!Number.isInteger(step) || step < 0)
      throw new RangeError(`${this.owner}: step: expected an integer >= 0, got ${step}`);
    this.flat.check(this.owner, Object.keys(this.moments), tensors, { steps: [this.updates.length] });
    for (const [kind, flat] of Object.entries(this.moments)) this.flat.write(flat, kind, tensors);
    this.updates = [...(tensors.get('steps')?.data ?? [])];
    this.steps = step;
  }

  /** Frees the optimizer's memory. The parameters stay usable. */
  dispose(): void {
    for (const flat of Object.values(this.moments)) for (const tensor of flat) tensor.dispose();
    this.clipping.dispose();
    this.rateTable.dispose();
    this.flat.dispose();
  }
}

/** `no accumulated gradient of x` or `an accumulated gradient of x`. */
function accumulatedText(accumulated: ReadonlySet<FlatEntry>, entry: FlatEntry): string {
  return `${accumulated.has(entry) ? 'an' : 'no'} accumulated gradient of ${entry.name}`;
}

/** Throws RangeError unless 0 <= value < limit. */
export function checkFraction(owner: string, field: string, value: number, limit = 1): void {
  if (!(value >= 0 && value < limit))
    throw new RangeError(
      `${owner}: ${field}: expected a number >= 0${limit === Infinity ? '' : ` and < ${limit}`}, got ${value}`,
    );
}
