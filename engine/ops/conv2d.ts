/**
 * 2-D convolution (cross-correlation, as is usual in deep learning), NHWC: dense, grouped, depthwise, and pointwise.
 */
import { defineOp, opFunction } from '../core/op.ts';
import { formatShape, sameShape, shapeError, type Shape } from '../core/shape.ts';
import type { EarlierGradients, Tensor, TensorDevice } from '../core/tensor.ts';
import { padChannels } from './conv2d-channels.ts';
import { denseForward, denseInputGradient } from './conv2d-dense.ts';
import { depthwiseForward, depthwiseGradients } from './conv2d-depthwise.ts';
import {
  geometryOf,
  isDepthwise,
  isPointwise,
  type Conv2dAttributes,
  type Conv2dOptions,
  type Geometry,
} from './conv2d-geometry.ts';
import { denseWeightGradient } from './conv2d-weight-gradient.ts';
import { gemm } from './gemm.ts';
import { columnSums } from './matmul-sums.ts';
import { maskGradient } from './relu-gradient.ts';
import { scaleShiftGradients } from './scale-shift-gradients.ts';

export type { Conv2dOptions } from './conv2d-geometry.ts';

type Inputs = readonly [x: Tensor, weight: Tensor, bias: Tensor | null, scale: Tensor | null, residual: Tensor | null];

function checkAttributes({ stride, padding, groups }: Conv2dAttributes): void {
  if (!Number.isInteger(stride) || stride < 1) shapeError('conv2d', 'stride', 'a positive integer', String(stride));
  if (!Number.isInteger(padding) || padding < 0)
    shapeError('conv2d', 'padding', 'a non-negative integer', String(padding));
  if (!Number.isInteger(groups) || groups < 1) shapeError('conv2d', 'groups', 'a positive integer', String(groups));
}

/** The output's shape. Throws ShapeError where inputs or attributes do not fit. */
function outputShape([x, weight, bias, scale, residual]: Inputs, attributes: Conv2dAttributes): Shape {
  const { padding, groups } = attributes;
  checkAttributes(attributes);
  if (x.rank !== 4) shapeError('conv2d', 'x', '[B, H, W, C]', x.shape);
  if (weight.rank !== 4 || weight.size === 0)
    shapeError('conv2d', 'weight', '[kh, kw, C / groups, O], not empty', weight.shape);
  const C = x.shape[3];
  if (C % groups !== 0) shapeError('conv2d', 'x', `[B, H, W, C] with C a multiple of ${groups} groups`, x.shape);
  if (C !== weight.shape[2] * groups)
    shapeError('conv2d', 'weight', `[kh, kw, ${C / groups}, O] for ${C} channels in ${groups} groups`, weight.shape);
  const [kh, kw, , O] = weight.shape;
  if (O % groups !== 0)
    shapeError('conv2d', 'weight', `[kh, kw, C / groups, O] with O a multiple of ${groups} groups`, weight.shape);
  for (const [name, tensor] of Object.entries({ bias, scale })) {
    if (tensor && (tensor.rank !== 1 || tensor.size !== O)) shapeError('conv2d', name, `[${O}]`, tensor.shape);
  }
  if (scale?.requiresGrad) {
    const expected = 'a constant (scaleShift computes that gradient)';
    shapeError('conv2d', 'scale', expected, 'a tensor that requires a gradient');
  }
  for (const [name, tensor] of Object.entries({ x, weight, bias, scale, residual })) {
    if (tensor && tensor.dtype !== 'f32') shapeError('conv2d', name, 'dtype f32', tensor.dtype);
  }
  const { batch, outH, outW } = geometryOf(x, weight, attributes);
  if (outH < 1 || outW < 1) {
    const expected = `a map at least as large as the kernel [${kh}, ${kw}] with padding ${padding}`;
    shapeError('conv2d', 'x', expected, x.shape);
  }
  const shape = [batch, outH, outW, O];
  if (residual && !sameShape(residual.shape, shape))
    shapeError('conv2d', 'residual', `the result's shape ${formatShape(shape)}`, residual.shape);
  return shape;
}

/** The operands of the epilogue's gradients. */
interface EpilogueCall {
  readonly upstream: Tensor;
  readonly output: Tensor;
  readonly scale: Tensor | null;
  readonly relu: boolean;
  /** Whether bias or residual need a gradient. */
  readonly needsAdded: boolean;
}

/** Gradients with respect to the sum over taps, and with respect to its addends (bias and residual). */
function epilogueGradients({ upstream, output, scale, relu, needsAdded }: EpilogueCall): {
  sum: Tensor;
  added: Tensor | null;
} {
  if (scale) {
    const { scaled, plain } = scaleShiftGradients(upstream, scale, relu ? output : null, {
      scaled: true,
      plain: needsAdded,
    });
    return { sum: scaled ?? upstream, added: plain };
  }
  const sum = relu ? maskGradient(upstream.device, upstream, output) : upstream;
  return { sum, added: needsAdded ? sum : null };
}

/** A pointwise convolution is a matrix product. */
interface PointwiseCall {
  readonly g: Geometry;
  readonly x: Tensor;
  readonly weight: Tensor;
}

/** Gradients of a pointwise convolution with respect to x and weight; null for those not needed. */
function pointwiseGradients(
  device: TensorDevice,
  { g: { batch, outH, outW, C, O }, x, weight }: PointwiseCall,
  gradient: Tensor,
  { needs, earlier }: { readonly needs: readonly boolean[]; readonly earlier: EarlierGradients },
): [input: Tensor | null, weight: Tensor | null] {
  const pixels = batch * outH * outW;
  const inputGradient = needs[0] ? device.empty(x.shape) : null;
  if (inputGradient)
    gemm(device, {
      a: gradient,
      transposeA: false,
      b: weight,
      transposeB: true,
      output: inputGradient,
      m: pixels,
      n: C,
      k: O,
      residual: earlier(0),
    });
  const weightGradient = needs[1] ? device.empty(weight.shape) : null;
  if (weightGradient)
    gemm(device, {
      a: x,
      transposeA: true,
      b: gradient,
      transposeB: false,
      output: weightGradient,
      m: C,
      n: O,
      k: pixels,
    });
  return [inputGradient, weightGradient];
}

const conv2dOp = defineOp({
  name: 'conv2d',
  shape: (inputs: Inputs, attributes: Conv2dAttributes) => ({ shape: outputShape(inputs, attributes) }),

  forward: ({ device, inputs, attributes, output, requiresGrad, inference, half }): { source?: Tensor } => {
    if (output.size === 0) return {};
    const [x, weight, bias, scale, residual] = inputs;
    const g = geometryOf(x, weight, attributes);
    const operands = { scale, bias, residual, relu: attributes.relu };
    if (isDepthwise(g)) {
      depthwiseForward(device, { g, attributes, x, weight }, operands, output);
      return {};
    }
    if (isPointwise(g, attributes)) {
      gemm(device, {
        a: x,
        transposeA: false,
        b: weight,
        transposeB: false,
        output,
        m: g.batch * g.outH * g.outW,
        n: g.O,
        k: g.C,
        half,
        ...operands,
      });
      return {};
    }
    const source = denseForward(device, { g, attributes, x, weight }, operands, {
      output,
      winograd: inference ? [2, 4] : [2],
      half,
    });
    return requiresGrad && weight.requiresGrad && source && source !== x ? { source } : {};
  },

  backward: ({ device, inputs, attributes, output, saved, gradient: upstream, needs, earlier }) => {
    const [x, weight, , scale] = inputs;
    if (upstream.size === 0) return inputs.map((input, i) => (input && needs[i] ? device.zeros(input.shape) : null));
    const g = geometryOf(x, weight, attributes);
    const { sum: gradient, added } = epilogueGradients({
      upstream,
      output,
      scale,
      relu: attributes.relu,
      needsAdded: needs[2] || needs[4],
    });
    const biasGradient = added && needs[2] ? columnSums(device, added, null) : null;
    const rest = [biasGradient, null, needs[4] ? added : null];
    const call = { g, attributes, x, weight };
    if (isDepthwise(g)) return [...depthwiseGradients(call, gradient, needs), ...rest];
    if (isPointwise(g, attributes)) return [...pointwiseGradients(device, call, gradient, { needs, earlier }), ...rest];
    const { groups } = attributes;
    const padded = padChannels(gradient, { groups, columns: g.O });
    const inputGradient = needs[0] ? denseInputGradient(device, call, padded, earlier) : null;
    const weightGradient = needs[1]
      ? denseWeightGradient(call, saved.source ?? padChannels(x, { groups, columns: g.C }), padded)
      : null;
    return [inputGradient, weightGradient, ...rest];
  },
});

/** Operations after a convolution, in the same kernel: act(convolution * scale + bias + residual). */
export interface Conv2dEpilogue {
  /** [O], a factor for each channel, e.g. of a frozen batch norm, with its shift as bias. It has no gradient. */
  readonly scale?: Tensor;
  /** Of the result's shape, added before the activation. */
  readonly residual?: Tensor;
  readonly activation?: 'relu';
}

/**
 * Convolution of x with weight, plus bias, with scale, residual and ReLU where given.
 *
 * @param x      [B, H, W, C]
 * @param weight [kh, kw, C / groups, O]; for a depthwise convolution groups = C and weight [kh, kw, 1, C]
 * @param bias   [O], or null
 * @returns [B, OH, OW, O] with OH = floor((H + 2 padding - kh) / stride) + 1, and OW likewise
 * @throws ShapeError where shapes do not fit, where the kernel is larger than the padded image, or where scale requires
 *   a gradient
 */
export const conv2d = opFunction(
  conv2dOp,
  (
    x: Tensor,
    weight: Tensor,
    bias: Tensor | null,
    { stride = 1, padding = 0, groups = 1, scale, residual, activation }: Conv2dOptions & Conv2dEpilogue = {},
  ): Tensor => {
    const attributes = { stride, padding, groups, relu: activation === 'relu' };
    return conv2dOp([x, weight, bias, scale ?? null, residual ?? null], attributes);
  },
);
