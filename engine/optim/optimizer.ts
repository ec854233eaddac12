/** What AdamW and SGD share: flat parameters, the gradients' norm, the order of a step, and state for checkpoints. */
import type { Tensor } from '../tensor.ts';
import { FlatParameters, type FlatEntry, type FlatTensors, type NamedParameter, type StoredValues } from './flat-parameters.ts';
import { GradientNorm, type ClippingOptions } from './gradient-norm.ts';

export interface StepOptions extends ClippingOptions {
  readonly learningRate: number;
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
  protected updates: number[];
  private steps = 0;
  private readonly moments: Readonly<Record<string, FlatTensors>>;

  /** @param kinds names of the buffers of state that a parameter needs */
  protected constructor(private readonly owner: string, parameters: readonly NamedParameter[], kinds: readonly string[]) {
    this.flat = new FlatParameters(owner, parameters);
    this.clipping = new GradientNorm(this.flat);
    this.updates = parameters.map(() => 0);
    this.moments = Object.fromEntries(kinds.map((kind) => [kind, this.flat.zeros()]));
  }

  /** Updates the parameters of `entries`, which have had their gradients gathered and their `updates` counted. */
  protected abstract update(entries: readonly FlatEntry[], learningRate: number): void;

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
    const { learningRate } = options;
    if (!Number.isFinite(learningRate) || learningRate < 0) throw new RangeError(`${this.owner}: learningRate must be a number >= 0, got ${learningRate}`);
    const { device } = this.flat;
    device.noGrad(() => device.scope(() => {
      const entries = this.flat.gatherGradients();
      this.clipping.compute(this.owner, entries, options);
      for (const { index } of entries) this.updates[index]++;
      this.update(entries, learningRate);
    }));
    this.steps++;
    return this.clipping.norm;
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    this.flat.zeroGrad();
  }

  /** Copies the state to the host. */
  async state(): Promise<OptimizerState> {
    const step = this.steps;
    const tensors = new Map<string, StoredValues>([['steps', { shape: [this.updates.length], data: new Float32Array(this.updates) }]]);
    for (const [kind, flat] of Object.entries(this.moments)) for (const [name, values] of await this.flat.read(flat, kind)) tensors.set(name, values);
    return { step, tensors };
  }

  /** Takes up a state that `state` of an optimiser for the same parameters gave. Throws ShapeError naming the tensor that is missing, unknown or misshapen. */
  loadState({ step, tensors }: OptimizerState): void {
    if (!Number.isInteger(step) || step < 0) throw new RangeError(`${this.owner}: step must be an integer >= 0, got ${step}`);
    this.flat.check(this.owner, Object.keys(this.moments), tensors, { steps: [this.updates.length] });
    for (const [kind, flat] of Object.entries(this.moments)) this.flat.write(flat, kind, tensors);
    this.updates = [...(tensors.get('steps')?.data ?? [])];
    this.steps = step;
  }

  /** Frees the optimiser's memory; the parameters stay usable. */
  dispose(): void {
    for (const flat of Object.values(this.moments)) for (const tensor of flat) tensor.dispose();
    this.clipping.dispose();
    this.flat.dispose();
  }
}

/** Throws unless 0 <= value < limit. */
export function checkFraction(owner: string, field: string, value: number, limit = 1): void {
  if (!(value >= 0 && value < limit)) throw new RangeError(`${owner}: ${field} must be a number >= 0${limit === Infinity ? '' : ` and < ${limit}`}, got ${value}`);
}
