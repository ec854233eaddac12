/**
 * The set loss of all stages: focal loss of every logit, L1 and GIoU of matched boxes. Sums are taken in two dispatches
 * in a fixed order. Also its gradients.
 *
 * Glossary: T stages, B images, N proposals, C classes, M rows of padded ground truths per image.
 */
import { OVERLAP } from './boxes.ts';
import { defineKernel, kernelFamily } from './kernel.ts';
import { FOCAL } from './losses.ts';

/** Proposals that one workgroup of the first dispatch sums over. */
export const PROPOSALS_PER_GROUP = 16;

/** WGSL of the sum of 64 invocations' vec3f in a fixed order. Lane 0 gets the result. */
const SUM_LANES = /* wgsl */ `
var<workgroup> laneSums: array<vec3f, 64>;
fn sumLanes(lane: u32, own: vec3f) -> vec3f {
  laneSums[lane] = own;
  workgroupBarrier();
  if (lane % 8u == 0u) {
    var sum = own;
    for (var k = 1u; k < 8u; k++) { sum += laneSums[lane + k]; }
    laneSums[lane] = sum;
  }
  workgroupBarrier();
  var total = vec3f();
  if (lane == 0u) { for (var k = 0u; k < 64u; k += 8u) { total += laneSums[k]; } }
  return total;
}`;

/** The negative loss of x is the positive loss of -x with weight 1 - alpha. */
const SIDE = /* wgsl */ `
struct Side { logistic: Logistic, weight: f32, sign: f32 }
fn side(x: f32, positive: bool, alpha: f32) -> Side {
  let sign = select(-1.0, 1.0, positive);
  return Side(logistic(sign * x), select(1.0 - alpha, alpha, positive), sign);
}`;

/**
 * logits [T, B * N, C], boxes [T, B * N] -> partials [T, groups]: unweighted sums of class, L1 and GIoU loss, and a
 * zero.
 */
export const setLossPartialsKernel = kernelFamily(() =>
  defineKernel({
    name: 'set_loss_partials_f32',
    workgroup: [64],
    params: {
      stages: 'u32',
      groups: 'u32',
      rows: 'u32',
      proposals: 'u32',
      classes: 'u32',
      capacity: 'u32',
      alpha: 'f32',
      gamma: 'f32',
    },
    buffers: {
      logits: 'read f32',
      boxes: 'read vec4f',
      matched: 'read i32',
      labels: 'read u32',
      targetBoxes: 'read vec4f',
      sizes: 'read vec4f',
      partials: 'write vec4f',
    },
    module: `${OVERLAP}${FOCAL}${SUM_LANES}${SIDE}\nvar<workgroup> classOf: array<u32, ${PROPOSALS_PER_GROUP}>;`,
    body: /* wgsl */ `
  if (linearGroup >= p.stages * p.groups) { return; }
  let first = linearGroup % p.groups * ${PROPOSALS_PER_GROUP}u;
  let rows = min(${PROPOSALS_PER_GROUP}u, p.rows - first);
  let base = linearGroup / p.groups * p.rows + first;
  var parts = vec3f();
  if (lane < rows) {
    let object = matched[base + lane];
    var label = 0xffffffffu;
    if (object >= 0) {
      let image = (first + lane) / p.proposals;
      let at = image * p.capacity + u32(object);
      let box = boxes[base + lane];
      label = labels[at];
      parts.y = dot(abs(box - targetBoxes[at]) / sizes[image], vec4f(1.0));
      parts.z = 1.0 - giou(box, targetBoxes[at]);
    }
    classOf[lane] = label;
  }
  workgroupBarrier();
  for (var e = lane; e < rows * p.classes; e += 64u) {
    let s = side(logits[base * p.classes + e], classOf[e / p.classes] == e % p.classes, p.alpha);
    parts.x += focalPositive(s.logistic, s.weight, p.gamma);
  }
  let sum = sumLanes(lane, parts);
  if (lane == 0u) { partials[linearGroup] = vec4f(sum, 0.0); }`,
  }),
);

/**
 * partials [T, groups], positives [T] -> parts [T, 3], weighted and divided by the stage's positives. One workgroup per
 * stage.
 */
export const setLossTotalsKernel = kernelFamily(() =>
  defineKernel({
    name: 'set_loss_totals_f32',
    workgroup: [64],
    params: { stages: 'u32', groups: 'u32', classWeight: 'f32', l1Weight: 'f32', giouWeight: 'f32' },
    buffers: { partials: 'read vec4f', positives: 'read f32', parts: 'write f32' },
    module: SUM_LANES,
    body: /* wgsl */ `
  if (linearGroup >= p.stages) { return; }
  var own = vec3f();
  for (var i = lane; i < p.groups; i += 64u) { own += partials[linearGroup * p.groups + i].xyz; }
  let sum = sumLanes(lane, own) * vec3f(p.classWeight, p.l1Weight, p.giouWeight) / positives[linearGroup];
  if (lane == 0u) {
    parts[3u * linearGroup] = sum.x;
    parts[3u * linearGroup + 1u] = sum.y;
    parts[3u * linearGroup + 2u] = sum.z;
  }`,
  }),
);

/** Gradient with respect to the logits. One invocation per logit. */
export const setLossLogitsGradientKernel = kernelFamily(() =>
  defineKernel({
    name: 'set_loss_logits_gradient_f32',
    workgroup: [64],
    params: {
      count: 'u32',
      rows: 'u32',
      proposals: 'u32',
      classes: 'u32',
      capacity: 'u32',
      alpha: 'f32',
      gamma: 'f32',
      classWeight: 'f32',
    },
    buffers: {
      logits: 'read f32',
      matched: 'read i32',
      labels: 'read u32',
      positives: 'read f32',
      upstream: 'read f32',
      gradient: 'write f32',
    },
    module: FOCAL + SIDE,
    body: /* wgsl */ `
  let at = linearGroup * 64u + lane;
  if (at >= p.count) { return; }
  let row = at / p.classes;
  let stage = row / p.rows;
  let object = matched[row];
  var positive = false;
  if (object >= 0) { positive = labels[row % p.rows / p.proposals * p.capacity + u32(object)] == at % p.classes; }
  let s = side(logits[at], positive, p.alpha);
  gradient[at] = upstream[3u * stage] * p.classWeight / positives[stage] * s.sign
    * focalPositiveDerivative(s.logistic, s.weight, p.gamma);`,
  }),
);

/** Gradient with respect to the boxes, zero for unmatched boxes. One invocation per box. */
export const setLossBoxesGradientKernel = kernelFamily(() =>
  defineKernel({
    name: 'set_loss_boxes_gradient_f32',
    workgroup: [64],
    params: { count: 'u32', rows: 'u32', proposals: 'u32', capacity: 'u32', l1Weight: 'f32', giouWeight: 'f32' },
    buffers: {
      boxes: 'read vec4f',
      matched: 'read i32',
      targetBoxes: 'read vec4f',
      sizes: 'read vec4f',
      positives: 'read f32',
      upstream: 'read f32',
      gradient: 'write vec4f',
    },
    module: OVERLAP,
    body: /* wgsl */ `
  let row = linearGroup * 64u + lane;
  if (row >= p.count) { return; }
  let object = matched[row];
  var sum = vec4f();
  if (object >= 0) {
    let stage = row / p.rows;
    let image = row % p.rows / p.proposals;
    let truth = targetBoxes[image * p.capacity + u32(object)];
    let box = boxes[row];
    sum = (upstream[3u * stage + 1u] * p.l1Weight * sign(box - truth) / sizes[image]
      - upstream[3u * stage + 2u] * p.giouWeight * giouDerivative(box, truth)) / positives[stage];
  }
  gradient[row] = sum;`,
  }),
);
