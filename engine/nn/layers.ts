/** Layers with parameters. Layers and parameters are named as in PyTorch. */
import type { Device } from '../device/device.ts';
import { multiheadAttention } from '../ops/attention.ts';
import { conv2d } from '../ops/conv2d.ts';
import { linear, type LinearOptions } from '../ops/matmul.ts';
import { div, mul, sub } from '../ops/binary.ts';
import { groupNorm } from '../ops/group-norm.ts';
import { layerNorm } from '../ops/layer-norm.ts';
import { scaleShift } from '../ops/scale-shift.ts';
import { affine, sqrt } from '../ops/unary.ts';
import type { Random } from '../core/random.ts';
import { shapeError } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { constant, kaimingNormalFanOut, kaimingUniform, uniformBias, xavierUniform } from './initializers.ts';
import { Module } from './module.ts';

export interface Activation {
  readonly activation?: 'relu';
}

export interface NormOptions extends Activation {
  /** A tensor with the shape of the output. It is added after the normalization and before the activation. */
  readonly residual?: Tensor;
}

/** x [..., inputs] -> act(x weight^T + bias + residual) [..., outputs], with weight [outputs, inputs]. */
export class Linear extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  /** @param init `xavier`: Glorot uniform weights; `default`: PyTorch's weights. Both have PyTorch's default biases. */
  constructor(
    device: Device,
    random: Random,
    inputs: number,
    outputs: number,
    { bias = true, init = 'default' }: { bias?: boolean; init?: 'default' | 'xavier' } = {},
  ) {
    super(device);
    const length = inputs * outputs;
    const values =
      init === 'xavier'
        ? xavierUniform(random, length, inputs, outputs)
        : kaimingUniform(random, length, inputs, Math.sqrt(5));
    this.weight = this.parameter('weight', [outputs, inputs], values);
    this.bias = bias ? this.parameter('bias', [outputs], uniformBias(random, outputs, inputs)) : null;
  }

  forward(x: Tensor, options: LinearOptions = {}): Tensor {
    return linear(x, this.weight, this.bias, options);
  }
}

export interface Conv2dOptions {
  readonly stride?: number;
  readonly padding?: number;
  readonly groups?: number;
  readonly bias?: boolean;
  /** `fan-out`: He normal, fan-out mode. `c2-xavier`: Detectron2's for FPN, with zero biases. `default`: PyTorch's. */
  readonly init?: 'fan-out' | 'c2-xavier' | 'default';
}

/**
 * x [B, H, W, inputs] -> [B, H', W', outputs], with weight [k, k, inputs / groups, outputs]. Default padding: k / 2.
 */
export class Conv2d extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  private readonly stride: number;
  private readonly padding: number;
  private readonly groups: number;

  constructor(
    device: Device,
    random: Random,
    inputs: number,
    outputs: number,
    kernel: number,
    options: Conv2dOptions = {},
  ) {
    super(device);
    const { stride = 1, padding = Math.floor(kernel / 2), groups = 1, bias = false, init = 'default' } = options;
    if (inputs % groups !== 0 || outputs % groups !== 0)
      shapeError('Conv2d', 'groups', `a divisor of ${inputs} and ${outputs}`, String(groups));
    this.stride = stride;
    this.padding = padding;
    this.groups = groups;
    const fanIn = (inputs / groups) * kernel * kernel;
    const length = fanIn * outputs;
    const values =
      init === 'fan-out'
        ? kaimingNormalFanOut(random, length, outputs * kernel * kernel)
        : kaimingUniform(random, length, fanIn, init === 'c2-xavier' ? 1 : Math.sqrt(5));
    this.weight = this.parameter('weight', [kernel, kernel, inputs / groups, outputs], values, 'conv');
    this.bias = bias
      ? this.parameter(
          'bias',
          [outputs],
          init === 'c2-xavier' ? constant(outputs, 0) : uniformBias(random, outputs, fanIn),
        )
      : null;
  }

  /**
   * @param norm scale and shift of a frozen batch norm, applied in the same kernel
   * @throws Error if `norm` is given and the convolution has a bias
   */
  forward(
    x: Tensor,
    epilogue: NormOptions = {},
    norm: { readonly scale: Tensor; readonly shift: Tensor } | null = null,
  ): Tensor {
    if (norm && this.bias)
      throw new Error('Conv2d: norm: expected a convolution without bias, because the norm replaces the bias');
    return conv2d(x, this.weight, norm ? norm.shift : this.bias, {
      stride: this.stride,
      padding: this.padding,
      groups: this.groups,
      ...epilogue,
      ...(norm && { scale: norm.scale }),
    });
  }
}

/** Layer normalization over the last axis. */
export class LayerNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;

  constructor(device: Device, features: number) {
    super(device);
    this.weight = this.parameter('weight', [features], constant(features, 1));
    this.bias = this.parameter('bias', [features], constant(features, 0));
  }

  forward(x: Tensor, options: Activation = {}): Tensor {
    return layerNorm(x, this.weight, this.bias, options);
  }
}

/** Group normalization: each image is normalized over groups of channels. Channels are the last axis. */
export class GroupNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor;

  constructor(
    device: Device,
    private readonly groups: number,
    channels: number,
  ) {
    super(device);
    this.weight = this.parameter('weight', [channels], constant(channels, 1));
    this.bias = this.parameter('bias', [channels], constant(channels, 0));
  }

  forward(x: Tensor, options: NormOptions = {}): Tensor {
    return groupNorm(x, this.weight, this.bias, this.groups, options);
  }
}

/**
 * Batch normalization with fixed statistics: y = x * scale + shift, with scale = weight / sqrt(running_var + 1e-5) and
 * shift = bias - running_mean * scale. It has no trainable parameters.
 */
export class FrozenBatchNorm extends Module {
  private readonly weight: Tensor;
  private readonly bias: Tensor;
  private readonly mean: Tensor;
  private readonly variance: Tensor;
  private folded: { scale: Tensor; shift: Tensor } | null = null;

  constructor(device: Device, channels: number) {
    super(device);
    this.weight = this.buffer('weight', [channels], constant(channels, 1));
    this.bias = this.buffer('bias', [channels], constant(channels, 0));
    this.mean = this.buffer('running_mean', [channels], constant(channels, 0));
    this.variance = this.buffer('running_var', [channels], constant(channels, 1));
  }

  protected override loaded(): void {
    this.folded?.scale.dispose();
    this.folded?.shift.dispose();
    this.folded = null;
  }

  forward(x: Tensor, options: NormOptions = {}): Tensor {
    const { scale, shift } = this.scaleAndShift();
    return scaleShift(x, scale, shift, options);
  }

  /** Scale and shift of each channel, [channels]. */
  scaleAndShift(): { readonly scale: Tensor; readonly shift: Tensor } {
    this.folded ??= this.fold();
    return this.folded;
  }

  private fold(): { scale: Tensor; shift: Tensor } {
    const { device } = this;
    const folded = device.noGrad(() =>
      device.scope(() => {
        const scale = div(this.weight, sqrt(affine(this.variance, 1, 1e-5)));
        return { scale, shift: sub(this.bias, mul(this.mean, scale)) };
      }),
    );
    device.keep(folded.scale);
    device.keep(folded.shift);
    return folded;
  }
}

/** Self-attention over the second axis: x [B, N, features] -> [B, N, features]. A residual of this shape is added. */
export class MultiheadAttention extends Module {
  private readonly projection: Tensor;
  private readonly projectionBias: Tensor;
  private readonly output: Linear;

  constructor(
    device: Device,
    random: Random,
    features: number,
    private readonly heads: number,
  ) {
    super(device);
    if (features % heads !== 0) shapeError('MultiheadAttention', 'heads', `a divisor of ${features}`, String(heads));
    this.projection = this.parameter(
      'in_proj_weight',
      [3 * features, features],
      xavierUniform(random, 3 * features * features, features, 3 * features),
    );
    this.projectionBias = this.parameter('in_proj_bias', [3 * features], constant(3 * features, 0));
    this.output = this.child('out_proj', new Linear(device, random, features, features, { init: 'xavier' }));
    device.write(this.output.bias!, constant(features, 0));
  }

  forward(x: Tensor, residual?: Tensor): Tensor {
    const qkv = linear(x, this.projection, this.projectionBias);
    return this.output.forward(multiheadAttention(qkv, this.heads), { residual });
  }
}
