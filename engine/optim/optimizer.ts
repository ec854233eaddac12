/** What AdamW and SGD share: flat parameters, the gradients' norm, the order of a step, and state for checkpoints. */
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
  /** A function is asked at each step: also at each replay of a captured one. */
  readonly learningRate: number | (() => number);
}

/** All that a resumed training needs to go on with the same bits. */
export interface OptimizerState {
  /** Calls of `step`. */
  readonly step: number;
  /** Moments by `kind.parameter`, and `steps`, the number of updates of each parameter. */
  readonly tensors: ReadonlyMap<string, StoredValues>;
}

export abstract class Optimizer {
  protected readonly flat: FlatParameters;
  protected readonly clipping: GradientNorm;
  /** Updates that each parameter has had: one without a gradient has none. */
  private updates: number[];
  private steps = 0;
  /** Parameters whose gradients `accumulate` has put into the flat buffers since `zeroGrad`. */
  private readonly accumulated = new Set<FlatEntry>();
  /** [parameters, 4]: a row of `rates` for each run of parameters that an update takes together. */
  private readonly rateTable: Tensor;
  private readonly moments: Readonly<Record<string, FlatTensors>>;

  /** @param kinds names of the buffers of state that a parameter needs */
  protected constructor(
    private readonly owner: string,
    parameters: readonly NamedParameter[],
    kinds: readonly string[],
  ) {
    this.flat = new FlatParameters(owner, parameters);
    this.clipping = new GradientNorm(this.flat);
    this.updates = parameters.map(() => 0);
    this.rateTable = this.flat.device.keep(this.flat.device.zeros([parameters.length, 4]));
    this.moments = Object.fromEntries(kinds.map((kind) => [kind, this.flat.zeros()]));
  }

  /** What an update depends on that changes from step to step, at most four numbers: kernels take them from device memory, so that a captured step can be replayed. */
  protected abstract rates(learningRate: number, updates: number): readonly number[];

  /** Updates runs of parameters from the flat gradients; the rates of run i are row i of `rates`. */
  protected abstract update(runs: readonly FlatRun[], rates: Tensor): void;

  protected moment(kind: string): FlatTensors {
    return this.moments[kind];
  }

  /**
   * Updates all parameters that have a gradient; those without are left as they are, as in PyTorch: no decay, no change of moments, and the step that
   * corrects their moments' bias is the number of their own updates. Records work and reads nothing back. Gradients stay: call `zeroGrad`.
   *
   * @returns the total norm of the gradients, scaled and not yet clipped, [1]; it belongs to the optimiser, and the next step overwrites it
   */
  step(options: StepOptions): Tensor {
    const { device, entries } = this.flat;
    device.noGrad(() =>
      device.scope(() => {
        if (this.accumulated.size > 0) this.accumulate();
        const aside = this.accumulated.size;
        const present =
          aside > 0
            ? entries.filter((entry) => this.accumulated.has(entry))
            : entries.filter(({ tensor }) => tensor.grad !== null);
        if (aside === 0) this.flat.gatherGradients(present);
        device.eachTime(() => {
          if (this.accumulated.size !== aside)
            throw new Error(
              `${this.owner}: a step captured with ${aside} gradients put aside was replayed with ${this.accumulated.size}`,
            );
        });
        this.clipping.compute(this.owner, present, options);
        const runs = this.flat.runs(present, ({ index }) => this.updates[index]);
        device.eachTime(() => this.advance(runs, options.learningRate));
        this.update(runs, this.rateTable);
      }),
    );
    return this.clipping.norm;
  }

  /** The host's part of a step: counts it, and writes the rates of each run. */
  private advance(runs: readonly FlatRun[], given: StepOptions['learningRate']): void {
    const learningRate = typeof given === 'function' ? given() : given;
    if (!Number.isFinite(learningRate) || learningRate < 0)
      throw new RangeError(`${this.owner}: learningRate must be a number >= 0, got ${learningRate}`);
    for (const {
      entries: [first, ...others],
    } of runs) {
      const other = others.find(({ index }) => this.updates[index] !== this.updates[first.index]);
      if (other)
        throw new Error(
          `${this.owner}: ${first.name} has had ${this.updates[first.index]} updates and ${other.name} ${this.updates[other.index]}, which were as many when the step was captured: capture it anew`,
        );
    }
    const table = new Float32Array(this.rateTable.size);
    for (const [row, { entries }] of runs.entries()) {
      for (const { index } of entries) this.updates[index]++;
      table.set(this.rates(learningRate, this.updates[entries[0].index]), 4 * row);
    }
    this.steps++;
    this.flat.device.write(this.rateTable, table);
  }

  /**
   * Adds the gradients that the parameters have now to those put aside since `zeroGrad`, and frees them; `step` then takes the sums. For passes that are
   * captured: a replayed `backward` leaves nothing in the parameters' `grad`.
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
            `${this.owner}: a captured accumulate was replayed where ${entry.name} had ${earlier.has(entry) ? 'no gradient put aside' : 'a gradient put aside'}, unlike at the capture`,
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

  /** Takes up a state that `state` of an optimiser for the same parameters gave. Throws ShapeError naming the tensor that is missing, unknown or misshapen. */
  loadState({ step, tensors }: OptimizerState): void {
    if (!Number.isInteger(step) || step < 0)
      throw new RangeError(`${this.owner}: step must be an integer >= 0, got ${step}`);
    this.flat.check(this.owner, Object.keys(this.moments), tensors, { steps: [this.updates.length] });
    for (const [kind, flat] of Object.entries(this.moments)) this.flat.write(flat, kind, tensors);
    this.updates = [...(tensors.get('steps')?.data ?? [])];
    this.steps = step;
  }

  /** Frees the optimiser's memory; the parameters stay usable. */
  dispose(): void {
    for (const flat of Object.values(this.moments)) for (const tensor of flat) tensor.dispose();
    this.clipping.dispose();
    this.rateTable.dispose();
    this.flat.dispose();
  }
}

/** Throws unless 0 <= value < limit. */
export function checkFraction(owner: string, field: string, value: number, limit = 1): void {
  if (!(value >= 0 && value < limit))
    throw new RangeError(
      `${owner}: ${field} must be a number >= 0${limit === Infinity ? '' : ` and < ${limit}`}, got ${value}`,
    );
}
