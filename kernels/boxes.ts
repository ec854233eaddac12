/**
 * Boxes: delta coding, formats, pairwise IoU and GIoU, each with its gradient. Also the WGSL functions for overlap,
 * which matching and the set loss share. A box is xyxy in one vec4f.
 */
import { defineKernel, kernelFamily } from './kernel.ts';

/**
 * WGSL of iou(a, b), giou(a, b) and their derivatives with respect to `a`.
 * At ties of max and min each side gets half of the derivative, as in PyTorch. Ties are common: a proposal that starts
 * as the whole image ties with every object at the image's edge.
 * Boxes without area have IoU 0 with every box, so 0 / 0 cannot arise.
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
fn greater(a: vec2f, b: vec2f) -> vec2f {
  return select(vec2f(), vec2f(1.0), a > b) + select(vec2f(), vec2f(0.5), a == b);
}
// Derivative of a rectangle's area with respect to box a. 'lower' and 'upper' are 1 where the corner belongs to a.
fn areaDerivative(sides: vec2f, lower: vec2f, upper: vec2f) -> vec4f {
  return vec4f(-lower * sides.yx, upper * sides.yx);
}
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

/** deltas, boxes [count, 4] -> decoded boxes. dw and dh are clamped to `minLogScale` .. `maxLogScale`. */
export const decodeBoxesKernel = kernelFamily(() =>
  defineKernel({
    name: 'decode_boxes_f32',
    workgroup: [64],
    params: { count: 'u32', minLogScale: 'f32', maxLogScale: 'f32' },
    buffers: { deltas: 'read vec4f', boxes: 'read vec4f', output: 'write vec4f' },
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let box = boxes[i];
  let delta = deltas[i];
  let size = box.zw - box.xy;
  let center = box.xy + 0.5 * size + 0.5 * delta.xy * size;
  let decoded = exp(max(min(delta.zw, vec2f(p.maxLogScale)), vec2f(p.minLogScale))) * size;
  output[i] = vec4f(center - 0.5 * decoded, center + 0.5 * decoded);`,
  }),
);

export const decodeBoxesGradientKernel = kernelFamily(() =>
  defineKernel({
    name: 'decode_boxes_gradient_f32',
    workgroup: [64],
    params: { count: 'u32', minLogScale: 'f32', maxLogScale: 'f32' },
    buffers: {
      deltas: 'read vec4f',
      boxes: 'read vec4f',
      upstream: 'read vec4f',
      deltasGradient: 'write vec4f',
      boxesGradient: 'write vec4f',
    },
    body: /* wgsl */ `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let box = boxes[i];
  let delta = deltas[i];
  let g = upstream[i];
  let size = box.zw - box.xy;
  let scale = exp(max(min(delta.zw, vec2f(p.maxLogScale)), vec2f(p.minLogScale)));
  let centerGradient = g.xy + g.zw;
  let sizeGradient = 0.5 * (g.zw - g.xy);
  let clamped = (delta.zw > vec2f(p.maxLogScale)) | (delta.zw < vec2f(p.minLogScale));
  deltasGradient[i] = vec4f(0.5 * centerGradient * size, select(sizeGradient * scale * size, vec2f(), clamped));
  let oldSizeGradient = 0.5 * delta.xy * centerGradient + sizeGradient * scale;
  boxesGradient[i] = vec4f(0.5 * centerGradient - oldSizeGradient, 0.5 * centerGradient + oldSizeGradient);`,
  }),
);

/** boxes [B * proposals, 4] as cxcywh in units of the image, sizes [B, 4] -> xyxy in pixels. */
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

/** a [batch, n, 4], b [batch, m, 4] -> [batch, n, m]. One invocation per pair. */
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

/**
 * Gradient with respect to `own`. One invocation per box of `own`, which sums over `other`. The overlap is symmetric,
 * so the kernel serves both inputs: the caller exchanges the strides of upstream.
 */
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
