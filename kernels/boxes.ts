/**
 * Boxes: delta coding, formats, pairwise IoU and GIoU, each with its derivative; sigmoid focal loss and L1 per element.
 * Also the WGSL functions for overlap and focal loss that matching and the set loss share. Boxes are xyxy as vec4f.
 */
import { defineKernel, kernelFamily } from './kernel.ts';

/**
 * iou(a, b), giou(a, b) and the derivative of either by `a`. Ties of max and min share the derivative, as in PyTorch: a proposal that starts as
 * the whole image ties with every object at the image's edge. Boxes without area overlap with nothing (IoU 0) rather than giving 0 / 0.
 */
export const OVERLAP = /* wgsl */ `
fn ratio(a: f32, b: f32) -> f32 { return select(0.0, a / b, b > 0.0); }
fn boxArea(a: vec4f) -> f32 { return (a.z - a.x) * (a.w - a.y); }
fn intersectionSides(a: vec4f, b: vec4f) -> vec2f { return min(a.zw, b.zw) - max(a.xy, b.xy); }
fn hullSides(a: vec4f, b: vec4f) -> vec2f { return max(a.zw, b.zw) - min(a.xy, b.xy); }
fn iou(a: vec4f, b: vec4f) -> f32 {
  let sides = max(intersectionSides(a, b), vec2f());
  let inter = sides.x * sides.y;
  return ratio(inter, boxArea(a) + boxArea(b) - inter);
}
fn giou(a: vec4f, b: vec4f) -> f32 {
  let sides = max(intersectionSides(a, b), vec2f());
  let inter = sides.x * sides.y;
  let joint = boxArea(a) + boxArea(b) - inter;
  let enclosing = hullSides(a, b);
  let hull = enclosing.x * enclosing.y;
  return ratio(inter, joint) - ratio(hull - joint, hull);
}
fn greater(a: vec2f, b: vec2f) -> vec2f { return select(vec2f(), vec2f(1.0), a > b) + select(vec2f(), vec2f(0.5), a == b); }
/** d area / d (lower, upper) for the sides of a rectangle, through the corners that 'lower' and 'upper' say are a's own */
fn areaDerivative(sides: vec2f, lower: vec2f, upper: vec2f) -> vec4f { return vec4f(-lower * sides.yx, upper * sides.yx); }
fn intersectionDerivative(a: vec4f, b: vec4f) -> vec4f {
  let sides = intersectionSides(a, b);
  let open = select(vec2f(), vec2f(1.0), sides >= vec2f());
  return areaDerivative(max(sides, vec2f()), open * greater(a.xy, b.xy), open * greater(b.zw, a.zw));
}
fn iouDerivative(a: vec4f, b: vec4f) -> vec4f {
  let sides = max(intersectionSides(a, b), vec2f());
  let inter = sides.x * sides.y;
  let joint = boxArea(a) + boxArea(b) - inter;
  let dInter = intersectionDerivative(a, b);
  let dJoint = areaDerivative(a.zw - a.xy, vec2f(1.0), vec2f(1.0)) - dInter;
  return select(vec4f(), (dInter - inter / joint * dJoint) / joint, joint > 0.0);
}
fn giouDerivative(a: vec4f, b: vec4f) -> vec4f {
  let sides = max(intersectionSides(a, b), vec2f());
  let joint = boxArea(a) + boxArea(b) - sides.x * sides.y;
  let enclosing = hullSides(a, b);
  let hull = enclosing.x * enclosing.y;
  let dJoint = areaDerivative(a.zw - a.xy, vec2f(1.0), vec2f(1.0)) - intersectionDerivative(a, b);
  let dHull = areaDerivative(enclosing, greater(b.xy, a.xy), greater(a.zw, b.zw));
  return iouDerivative(a, b) + select(vec4f(), (dJoint - joint / hull * dHull) / hull, hull > 0.0);
}`;

/**
 * softplus by a series for log(1 + e), because WGSL's log promises only absolute accuracy near 1; and the focal loss in its terms:
 * 1 - sigmoid(x) = exp(-softplus(x)), so that no power of a rounded difference is taken.
 */
export const FOCAL = /* wgsl */ `
fn log1pUnit(e: f32) -> f32 { // log(1 + e) for 0 <= e <= 1: 2 artanh(e / (2 + e))
  let s = e / (2.0 + e);
  let q = s * s;
  let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * (1.0 / 13.0 + q / 15.0))))));
  return 2.0 * s * series;
}
struct Logistic { p: f32, q: f32, plus: f32, minus: f32 } // sigmoid(x), sigmoid(-x), softplus(x), softplus(-x)
fn logistic(x: f32) -> Logistic {
  let e = exp(-abs(x));
  let small = e / (1.0 + e);
  let large = 1.0 / (1.0 + e);
  let rest = log1pUnit(e);
  return Logistic(select(small, large, x >= 0.0), select(large, small, x >= 0.0), max(x, 0.0) + rest, max(-x, 0.0) + rest);
}
fn focalPositive(l: Logistic, alpha: f32, gamma: f32) -> f32 { return alpha * exp(-gamma * l.plus) * l.minus; }
fn focalNegative(l: Logistic, alpha: f32, gamma: f32) -> f32 { return (1.0 - alpha) * exp(-gamma * l.minus) * l.plus; }
fn focalPositiveDerivative(l: Logistic, alpha: f32, gamma: f32) -> f32 { return -alpha * exp(-gamma * l.plus) * (gamma * l.p * l.minus + l.q); }
fn focalNegativeDerivative(l: Logistic, alpha: f32, gamma: f32) -> f32 { return (1.0 - alpha) * exp(-gamma * l.minus) * (gamma * l.q * l.plus + l.p); }`;

/** log(100000 / 16): above it dw and dh are clamped [Sparse R-CNN]. */
export const MAX_LOG_SCALE = Math.log(100000 / 16);

const DECODE = /* wgsl */ `const MAX_LOG_SCALE = ${MAX_LOG_SCALE.toFixed(9)};`;

export const decodeBoxesKernel = kernelFamily(() =>
  defineKernel({
    name: 'decode_boxes_f32',
    workgroup: [64],
    params: { count: 'u32' },
    buffers: { deltas: 'read vec4f', boxes: 'read vec4f', output: 'write vec4f' },
    module: DECODE,
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let box = boxes[i];
  let delta = deltas[i];
  let size = box.zw - box.xy;
  let centre = box.xy + 0.5 * size + 0.5 * delta.xy * size;
  let decoded = exp(min(delta.zw, vec2f(MAX_LOG_SCALE))) * size;
  output[i] = vec4f(centre - 0.5 * decoded, centre + 0.5 * decoded);`,
  }),
);

export const decodeBoxesGradientKernel = kernelFamily(() =>
  defineKernel({
    name: 'decode_boxes_gradient_f32',
    workgroup: [64],
    params: { count: 'u32' },
    buffers: {
      deltas: 'read vec4f',
      boxes: 'read vec4f',
      upstream: 'read vec4f',
      deltasGradient: 'write vec4f',
      boxesGradient: 'write vec4f',
    },
    module: DECODE,
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let box = boxes[i];
  let delta = deltas[i];
  let g = upstream[i];
  let size = box.zw - box.xy;
  let scale = exp(min(delta.zw, vec2f(MAX_LOG_SCALE)));
  let byCentre = g.xy + g.zw;
  let bySize = 0.5 * (g.zw - g.xy);
  let clamped = delta.zw > vec2f(MAX_LOG_SCALE);
  deltasGradient[i] = vec4f(0.5 * byCentre * size, select(bySize * scale * size, vec2f(), clamped));
  let byOldSize = 0.5 * delta.xy * byCentre + bySize * scale;
  boxesGradient[i] = vec4f(0.5 * byCentre - byOldSize, 0.5 * byCentre + byOldSize);`,
  }),
);

export const initialBoxesKernel = kernelFamily(() =>
  defineKernel({
    name: 'initial_boxes_f32',
    workgroup: [64],
    params: { count: 'u32', proposals: 'u32' },
    buffers: { boxes: 'read vec4f', sizes: 'read vec4f', output: 'write vec4f' },
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let b = boxes[i];
  output[i] = vec4f(b.xy - 0.5 * b.zw, b.xy + 0.5 * b.zw) * sizes[i / p.proposals];`,
  }),
);

export const initialBoxesGradientKernel = kernelFamily(() =>
  defineKernel({
    name: 'initial_boxes_gradient_f32',
    workgroup: [64],
    params: { count: 'u32', proposals: 'u32' },
    buffers: { sizes: 'read vec4f', upstream: 'read vec4f', gradient: 'write vec4f' },
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let g = upstream[i] * sizes[i / p.proposals];
  gradient[i] = vec4f(g.xy + g.zw, 0.5 * (g.zw - g.xy));`,
  }),
);

export type Overlap = 'iou' | 'giou';

/** One lane a pair: a [batch, n, 4], b [batch, m, 4] -> [batch, n, m]. */
export const pairwiseOverlapKernel = kernelFamily((overlap: Overlap) =>
  defineKernel({
    name: `pairwise_${overlap}_f32`,
    workgroup: [64],
    params: { count: 'u32', n: 'u32', m: 'u32' },
    buffers: { a: 'read vec4f', b: 'read vec4f', output: 'write f32' },
    module: OVERLAP,
    body: /* wgsl */ `
  let at = linearGroup * 64u + lane;
  if (at >= p.count) { return; }
  let row = at / p.m;
  output[at] = ${overlap}(a[row], b[row / p.n * p.m + at % p.m]);`,
  }),
);

/** One lane a box of `own`, which sums over `other`; the overlap is symmetric, so both inputs' gradients come from this with the strides of upstream exchanged. */
export const pairwiseOverlapGradientKernel = kernelFamily((overlap: Overlap) =>
  defineKernel({
    name: `pairwise_${overlap}_gradient_f32`,
    workgroup: [64],
    params: { count: 'u32', n: 'u32', m: 'u32', ownStride: 'u32', otherStride: 'u32' },
    buffers: { own: 'read vec4f', other: 'read vec4f', upstream: 'read f32', gradient: 'write vec4f' },
    module: OVERLAP,
    body: /* wgsl */ `
  let at = linearGroup * 64u + lane;
  if (at >= p.count) { return; }
  let problem = at / p.n;
  let base = problem * p.n * p.m + at % p.n * p.ownStride;
  let box = own[at];
  var sum = vec4f();
  for (var j = 0u; j < p.m; j++) {
    sum += upstream[base + j * p.otherStride] * ${overlap}Derivative(box, other[problem * p.m + j]);
  }
  gradient[at] = sum;`,
  }),
);

/** `index`: targets are class numbers, one a row of `classes` logits; `dense`: a weight of the positive term for every logit. */
export type FocalTargets = 'index' | 'dense';

const focalBody = (
  targets: FocalTargets,
  positive: string,
  negative: string,
  output: string,
  factor: string,
): string => /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let l = logistic(logits[i]);
  let weight = ${targets === 'dense' ? 'targets[i]' : 'select(0.0, 1.0, targets[i / p.classes] == i % p.classes)'};
  ${output}[i] = ${factor}(weight * ${positive}(l, p.alpha, p.gamma) + (1.0 - weight) * ${negative}(l, p.alpha, p.gamma));`;

export const sigmoidFocalLossKernel = kernelFamily((targets: FocalTargets) =>
  defineKernel({
    name: `sigmoid_focal_loss_${targets}_f32`,
    workgroup: [64],
    params: { count: 'u32', classes: 'u32', alpha: 'f32', gamma: 'f32' },
    buffers: { logits: 'read f32', targets: targets === 'dense' ? 'read f32' : 'read u32', output: 'write f32' },
    module: FOCAL,
    body: focalBody(targets, 'focalPositive', 'focalNegative', 'output', ''),
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
    body: focalBody(targets, 'focalPositiveDerivative', 'focalNegativeDerivative', 'gradient', 'upstream[i] * '),
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

/** Writes the gradient of the first input, or (factor -1) of the second. */
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
