/**
 * AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019). A few dispatches update all
 * parameters.
 */
import { adamwKernel } from '../../kernels/optimizers.ts';
import { elementwise } from '../core/elementwise.ts';
import type { Tensor } from '../core/tensor.ts';
import type { FlatRun, NamedParameter } from './flat-parameters.ts';
import { checkFraction, Optimizer, type OptimizerOptions } from './optimizer.ts';

export interface AdamWOptions extends OptimizerOptions {
  /** Decay rates of the first and second moment; default [0.9, 0.999]. */
  readonly betas?: readonly [number, number];
  /** Added to the square root of the second moment; default 1e-8. */
  readonly epsilon?: number;
  /** Each step subtracts weightDecay * learningRate * parameter from a parameter; default 0.01. */
  readonly weightDecay?: number;
}

/**
 * torch.optim.AdamW, with the same defaults, and the same numbers except for f32 rounding. The optimizer moves the
 * parameters' memory (see FlatParameters).
 */
export class AdamW extends Optimizer {
  private readonly betas: readonly [number, number];
  private readonly epsilon: number;
  private readonly weightDecay: number;

  constructor(
    parameters: readonly NamedParameter[],
    { betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0.01, ...others }: AdamWOptions = {},
  ) {
    checkFraction('AdamW', 'betas[0]', betas[0]);
    checkFraction('AdamW', 'betas[1]', betas[1]);
    checkFraction('AdamW', 'epsilon', epsilon, Infinity);
    checkFraction('AdamW', 'weightDecay', weightDecay, Infinity);
    super('AdamW', parameters, ['firstMoment', 'secondMoment'], others);
    this.betas = betas;
    this.epsilon = epsilon;
    this.weightDecay = weightDecay;
  }

  protected override rates(learningRate: number, updates: number): readonly number[] {
    const [beta1, beta2] = this.betas;
    return [
      learningRate / (1 - beta1 ** updates),
      1 / Math.sqrt(1 - beta2 ** updates),
      1 - learningRate * this.weightDecay,
    ];
  }

  protected override update(runs: readonly FlatRun[], rates: Tensor): void {
    const { device, values, gradients } = this.flat;
    const [beta1, beta2] = this.betas;
    const first = this.moment('firstMoment');
    const second = this.moment('secondMoment');
    for (const [slot, { chunk, offset, count }] of runs.entries()) {
      const params = {
        first4: offset / 4,
        count4: count / 4,
        slot,
        mix1: 1 - beta1,
        beta2,
        mix2: 1 - beta2,
        epsilon: this.epsilon,
      };
      const { lanes, grid } = elementwise(device, count / 4);
      device.run(
        adamwKernel(lanes),
        params,
        {
          gradient: gradients[chunk],
          factor: this.clipping.factor,
          rates,
          value: values[chunk],
          first: first[chunk],
          second: second[chunk],
        },
        grid,
      );
    }
  }
}
