/** Stochastic gradient descent with momentum. A few dispatches update all parameters. */
import { sgdKernel, type MomentumKind } from '../../kernels/optimizers.ts';
import { elementwise } from '../core/elementwise.ts';
import type { Tensor } from '../core/tensor.ts';
import type { FlatRun, NamedParameter } from './flat-parameters.ts';
import { checkFraction, Optimizer, type OptimizerOptions } from './optimizer.ts';

export interface SGDOptions extends OptimizerOptions {
  /** Default 0: no momentum, and no memory for it. */
  readonly momentum?: number;
  /** Nesterov momentum; needs `momentum` > 0. Default false. */
  readonly nesterov?: boolean;
  /** Each step adds weightDecay * parameter to the clipped gradient; default 0. */
  readonly weightDecay?: number;
}

/** torch.optim.SGD without dampening. The optimizer moves the parameters' memory (see FlatParameters). */
export class SGD extends Optimizer {
  private readonly momentum: number;
  private readonly kind: MomentumKind;
  private readonly weightDecay: number;

  constructor(
    parameters: readonly NamedParameter[],
    { momentum = 0, nesterov = false, weightDecay = 0, ...others }: SGDOptions = {},
  ) {
    checkFraction('SGD', 'momentum', momentum);
    checkFraction('SGD', 'weightDecay', weightDecay, Infinity);
    if (nesterov && momentum === 0) throw new RangeError('SGD: momentum: expected a number > 0 with nesterov, got 0');
    super('SGD', parameters, momentum > 0 ? ['momentum'] : [], others);
    this.momentum = momentum;
    this.kind = nesterov ? 'nesterov' : momentum > 0 ? 'momentum' : 'plain';
    this.weightDecay = weightDecay;
  }

  protected override rates(learningRate: number): readonly number[] {
    return [learningRate];
  }

  protected override update(runs: readonly FlatRun[], rates: Tensor): void {
    const { device, values, gradients } = this.flat;
    for (const [slot, { chunk, offset, count }] of runs.entries()) {
      const params = {
        first4: offset / 4,
        count4: count / 4,
        slot,
        weightDecay: this.weightDecay,
        momentum: this.momentum,
      };
      const { lanes, grid } = elementwise(device, count / 4);
      const velocity: Record<string, Tensor> =
        this.kind === 'plain' ? {} : { velocity: this.moment('momentum')[chunk] };
      device.run(
        sgdKernel(this.kind, lanes),
        params,
        { gradient: gradients[chunk], factor: this.clipping.factor, rates, value: values[chunk], ...velocity },
        grid,
      );
    }
  }
}
