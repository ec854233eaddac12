/**
 * Costs of assigning proposals to ground truths, the units each ground truth supplies, and counts of positives.
 *
 * Glossary: T stages, B images, P = T * B problems, N proposals, C classes, M rows of padded ground truths per image;
 * `counts` rows of an image are in use.
 * Sources: [SR] Sparse R-CNN, arXiv 2011.12450; [DSR] Dynamic Sparse R-CNN, arXiv 2205.02101; [OTA] arXiv 2103.14259.
 */
import { OVERLAP } from './boxes.ts';
import { defineKernel, kernelFamily } from './kernel.ts';
import { FOCAL } from './losses.ts';
import { range } from './repeat.ts';

/** Maximum cost. Larger costs and NaN become this value. */
const MAX_COST = 1e6;

/**
 * WGSL that limits a cost. It compares bits, because comparisons with NaN are unreliable. Infinities and NaN have
 * larger bits than all finite numbers.
 */
const FINITE = /* wgsl */ `
fn finiteCost(c: f32) -> f32 {
  let magnitude = bitcast<u32>(c) & 0x7fffffffu;
  return select(c, ${MAX_COST.toFixed(1)}, magnitude > bitcast<u32>(${MAX_COST.toFixed(1)}f));
}`;

/**
 * `hungarian` [SR]: class (positive - negative, 1e-8 inside the logarithms) + L1 - GIoU.
 *
 * `transport` [OTA]: the cost of the ground truth minus the cost of the background. Both contain the focal loss of all
 * classes with target zero, which cancels except in the target class. An offset of a proposal's column does not change
 * the transport plan, so the background's row may become zero. The difference has no large common part that would cost
 * precision.
 */
export type CostForm = 'hungarian' | 'transport';

const CLASS_COST: Record<CostForm, string> = {
  hungarian: [
    'p.alpha * exp(-p.gamma * l.plus) * -log(l.p + 1e-8)',
    '(1.0 - p.alpha) * exp(-p.gamma * l.minus) * -log(l.q + 1e-8)',
  ].join(' - '),
  transport: 'focalPositive(l, p.alpha, p.gamma) - focalNegative(l, p.alpha, p.gamma)',
};

/**
 * -> costs [P, M, N]. Rows beyond an image's count are not written, and no kernel reads them. One invocation per pair.
 */
export const matchingCostsKernel = kernelFamily((form: CostForm) =>
  defineKernel({
    name: `matching_costs_${form}_f32`,
    workgroup: [64],
    params: {
      count: 'u32',
      proposals: 'u32',
      rows: 'u32',
      classes: 'u32',
      images: 'u32',
      alpha: 'f32',
      gamma: 'f32',
      classWeight: 'f32',
      l1Weight: 'f32',
      giouWeight: 'f32',
    },
    buffers: {
      logits: 'read f32',
      boxes: 'read vec4f',
      labels: 'read u32',
      targetBoxes: 'read vec4f',
      counts: 'read u32',
      sizes: 'read vec4f',
      costs: 'write f32',
    },
    module: OVERLAP + FOCAL + FINITE,
    body: /* wgsl */ `
  let at = linearGroup * 64u + lane;
  if (at >= p.count) { return; }
  let row = at / p.proposals % p.rows;
  let problem = at / p.proposals / p.rows;
  let image = problem % p.images;
  if (row >= counts[image]) { return; }
  let proposal = problem * p.proposals + at % p.proposals;
  let box = boxes[proposal];
  let truth = targetBoxes[image * p.rows + row];
  let l = logistic(logits[proposal * p.classes + labels[image * p.rows + row]]);
  let distance = dot(abs(box - truth) / sizes[image], vec4f(1.0));
  let similarity = giou(box, truth);
  let classCost = ${CLASS_COST[form]};
  let overlapCost = ${form === 'transport' ? '1.0 - similarity' : '-similarity'};
  costs[at] = finiteCost(p.classWeight * classCost + p.l1Weight * distance + p.giouWeight * overlapCost);`,
  }),
);

/** Maximum q of dynamic k: the q largest values are held in registers. */
export const MAX_TOP_Q = 64;

/**
 * -> supply [P, M + 1]: the units that each ground truth supplies, then those of the background. One workgroup per
 * problem, one invocation per ground truth.
 * `topQ` > 0: dynamic k = floor(sum of the q largest IoUs), at least 1 [OTA 3.3]. `topQ` = 0: k = p.fixed.
 * Unit increasing and the bound on positives follow [DSR 3.2].
 */
export const supplyKernel = kernelFamily((topQ: number) => {
  const slots = range(topQ);
  const dynamic = /* wgsl */ `
    ${slots.map((i) => `var top${i} = 0.0;`).join(' ')}
    let truth = targetBoxes[image * p.rows + i];
    for (var j = 0u; j < p.proposals; j++) {
      var x = iou(boxes[problem * p.proposals + j], truth);
      var larger = x;
      ${slots.map((i) => `larger = max(top${i}, x); x = min(top${i}, x); top${i} = larger;`).join('\n      ')}
    }
    units = clamp(floor(${slots.map((i) => `top${i}`).join(' + ')}), 1.0, ${Math.max(1, topQ)}.0);`;
  return defineKernel({
    name: topQ > 0 ? `supply_dynamic_top${topQ}_f32` : 'supply_fixed_f32',
    workgroup: [64],
    params: {
      problems: 'u32',
      proposals: 'u32',
      rows: 'u32',
      images: 'u32',
      fixed: 'f32',
      minUnits: 'f32',
      unitStep: 'f32',
      stages: 'u32',
      limit: 'f32',
    },
    buffers: { boxes: 'read vec4f', targetBoxes: 'read vec4f', counts: 'read u32', supply: 'write f32' },
    module: OVERLAP,
    body: /* wgsl */ `
  let problem = linearGroup;
  if (problem >= p.problems) { return; }
  let image = problem % p.images;
  let count = counts[image];
  let base = problem * (p.rows + 1u);
  let earlier = f32(p.stages - 1u - problem / p.images) * p.unitStep;
  for (var i = lane; i < p.rows; i += 64u) {
    var units = 0.0;
    if (i < count) {
      units = p.fixed;
      ${topQ > 0 ? dynamic : ''}
      units = max(units - earlier, p.minUnits);
    }
    supply[base + i] = units;
  }
  storageBarrier();
  var total = 0.0;
  for (var i = 0u; i < count; i++) { total += supply[base + i]; }
  storageBarrier(); // all invocations read before any invocation scales
  let scale = min(1.0, p.limit / max(total, 1e-30));
  for (var i = lane; i < count; i += 64u) { supply[base + i] *= scale; }
  if (lane == 0u) { supply[base + p.rows] = f32(p.proposals) - total * scale; }`,
  });
});

/**
 * matched [T, entries] -> counts [T], the matched entries of each stage, and positives [T] = max(1, count). One
 * workgroup per stage.
 */
export const countPositivesKernel = kernelFamily(() =>
  defineKernel({
    name: 'count_positives',
    workgroup: [64],
    params: { stages: 'u32', entries: 'u32' },
    buffers: { matched: 'read i32', counts: 'write u32', positives: 'write f32' },
    module: 'var<workgroup> found: atomic<u32>;', // integers: the order does not matter
    body: /* wgsl */ `
  if (linearGroup >= p.stages) { return; }
  var own = 0u;
  for (var i = lane; i < p.entries; i += 64u) { own += select(0u, 1u, matched[linearGroup * p.entries + i] >= 0); }
  atomicAdd(&found, own);
  workgroupBarrier();
  if (lane == 0u) {
    counts[linearGroup] = atomicLoad(&found);
    positives[linearGroup] = f32(max(1u, atomicLoad(&found)));
  }`,
  }),
);
