/**
 * Sigmoid focal loss and L1 loss of single elements, and their gradients. Also the WGSL functions of the focal loss,
 * which matching and the set loss share.
 */
import { defineKernel, kernelFamily } from './kernel.ts';

/**
 * WGSL of the sigmoid, softplus, and the terms of the focal loss.
 * softplus uses a series for log(1 + e), because WGSL guarantees only absolute accuracy of log near 1.
 * The focal loss uses 1 - sigmoid(x) = exp(-softplus(x)), which avoids powers of a rounded difference.
 */
export const FOCAL = /* wgsl */ `
fn log1pUnit(e: f32) -> f32 { // log(1 + e) for 0 <= e <= 1: 2 artanh(e / (2 + e))
  let s = e / (2.0 + e);
  let q = s * s;
  let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0
    + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * (1.0 / 13.0 + q / 15.0))))));
  return 2.0 * s * series;
}
struct Logistic { p: f32, q: f32, plus: f32, minus: f32 } // sigmoid(x), sigmoid(-x), softplus(x), softplus(-x)
fn logistic(x: f32) -> Logistic {
  let e = exp(-abs(x));
  let small = e / (1.0 + e);
  let large = 1.0 / (1.0 + e);
  let rest = log1pUnit(e);
  let positive = x >= 0.0;
  let p = select(small, large, positive);
  let q = select(large, small, positive);
  return Logistic(p, q, max(x, 0.0) + rest, max(-x, 0.0) + rest);
}
fn focalPositive(l: Logistic, alpha: f32, gamma: f32) -> f32 { return alpha * exp(-gamma * l.plus) * l.minus; }
fn focalNegative(l: Logistic, alpha: f32, gamma: f32) -> f32 { return (1.0 - alpha) * exp(-gamma * l.minus) * l.plus; }
fn focalPositiveDerivative(l: Logistic, alpha: f32, gamma: f32) -> f32 {
  return -alpha * exp(-gamma * l.plus) * (gamma * l.p * l.minus + l.q);
}
fn focalNegativeDerivative(l: Logistic, alpha: f32, gamma: f32) -> f32 {
  return (1.0 - alpha) * exp(-gamma * l.minus) * (gamma * l.q * l.plus + l.p);
}`;

/** `index`: one class number per row of `classes` logits. `dense`: one weight of the positive term per logit. */
export type FocalTargets = 'index' | 'dense';

interface FocalBody {
  readonly targets: FocalTargets;
  /** WGSL functions of the two terms. */
  readonly positive: string;
  readonly negative: string;
  /** Name of the output buffer. */
  readonly output: string;
  /** WGSL of a factor of the result, or ''. */
  readonly factor: string;
}

const focalBody = ({ targets, positive, negative, output, factor }: FocalBody): string => /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let l = logistic(logits[i]);
  let weight = ${targets === 'dense' ? 'targets[i]' : 'select(0.0, 1.0, targets[i / p.classes] == i % p.classes)'};
  let positive = weight * ${positive}(l, p.alpha, p.gamma);
  ${output}[i] = ${factor}(positive + (1.0 - weight) * ${negative}(l, p.alpha, p.gamma));`;

export const sigmoidFocalLossKernel = kernelFamily((targets: FocalTargets) =>
  defineKernel({
    name: `sigmoid_focal_loss_${targets}_f32`,
    workgroup: [64],
    params: { count: 'u32', classes: 'u32', alpha: 'f32', gamma: 'f32' },
    buffers: { logits: 'read f32', targets: targets === 'dense' ? 'read f32' : 'read u32', output: 'write f32' },
    module: FOCAL,
    body: focalBody({
      targets,
      positive: 'focalPositive',
      negative: 'focalNegative',
      output: 'output',
      factor: '',
    }),
  }),
);

export const sigmoidFocalLossGradientKernel = kernelFamily((targets: FocalTargets) =>
  defineKernel({
    name: `sigmoid_focal_loss_${targets}_gradient_f32`,
    workgroup: [64],
    params: { count: 'u32', classes: 'u32', alpha: 'f32', gamma: 'f32' },
    buffers: {
      logits: 'read f32',
      targets: targets === 'dense' ? 'read f32' : 'read u32',
      upstream: 'read f32',
      gradient: 'write f32',
    },
    module: FOCAL,
    body: focalBody({
      targets,
      positive: 'focalPositiveDerivative',
      negative: 'focalNegativeDerivative',
      output: 'gradient',
      factor: 'upstream[i] * ',
    }),
  }),
);

export const l1LossKernel = kernelFamily(() =>
  defineKernel({
    name: 'l1_loss_f32_vec4',
    workgroup: [64],
    params: { count4: 'u32' },
    buffers: { a: 'read vec4f', b: 'read vec4f', output: 'write vec4f' },
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count4) { return; }
  output[i] = abs(a[i] - b[i]);`,
  }),
);

/** Gradient with respect to the first input (factor 1) or the second (factor -1). */
export const l1LossGradientKernel = kernelFamily(() =>
  defineKernel({
    name: 'l1_loss_gradient_f32_vec4',
    workgroup: [64],
    params: { count4: 'u32', factor: 'f32' },
    buffers: { a: 'read vec4f', b: 'read vec4f', upstream: 'read vec4f', gradient: 'write vec4f' },
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count4) { return; }
  gradient[i] = p.factor * upstream[i] * sign(a[i] - b[i]);`,
  }),
);
