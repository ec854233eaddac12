/**
 * Label assignment on the device: matching costs, supplies, optimal transport, linear sum assignment. Without gradients, and nothing is read back.
 *
 * Glossary: T stages, B images, P problems (T * B of them, stage-major), N proposals, C classes, M rows of padded ground truths of an image.
 */
import {
  countPositivesKernel,
  matchingCostsKernel,
  MAX_TOP_Q,
  supplyKernel,
  type CostForm,
} from '../../../kernels/assignment-costs.ts';
import { linearGrid } from '../../../kernels/kernel.ts';
import { linearSumAssignmentKernel } from '../../../kernels/linear-sum-assignment.ts';
import { sinkhornKernel, transportPlanKernel } from '../../../kernels/sinkhorn.ts';
import { formatShape, sameShape, shapeError, type Shape } from '../../core/shape.ts';
import type { DType, Tensor } from '../../core/tensor.ts';
import { checkFocal } from './boxes.ts';

function check(op: string, argument: string, x: Tensor, shape: Shape, dtype: DType = 'f32'): void {
  if (x.dtype !== dtype) shapeError(op, argument, `dtype ${dtype}`, x.dtype);
  if (!sameShape(x.shape, shape)) shapeError(op, argument, formatShape(shape), x.shape);
}

/** Ground truths of a batch, padded to M rows an image. */
export interface PaddedTargets {
  /** u32 [B, M], classes. */
  readonly labels: Tensor;
  /** f32 [B, M, 4], xyxy in pixels. */
  readonly boxes: Tensor;
  /** u32 [B]: rows in use. What is beyond has no influence. */
  readonly counts: Tensor;
  /** f32 [B, 4]: width, height, width, height of the unpadded images in pixels. */
  readonly sizes: Tensor;
}

/** Checks a batch's targets against each other; returns B and M. */
export function checkTargets(op: string, targets: PaddedTargets): { images: number; rows: number } {
  if (targets.labels.rank !== 2) shapeError(op, 'targets.labels', '[B, M]', targets.labels.shape);
  const [images, rows] = targets.labels.shape;
  check(op, 'targets.labels', targets.labels, [images, rows], 'u32');
  check(op, 'targets.boxes', targets.boxes, [images, rows, 4]);
  check(op, 'targets.counts', targets.counts, [images], 'u32');
  check(op, 'targets.sizes', targets.sizes, [images, 4]);
  return { images, rows };
}

export interface MatchingWeights {
  readonly classWeight: number;
  readonly l1Weight: number;
  readonly giouWeight: number;
  readonly alpha: number;
  readonly gamma: number;
}

/**
 * Costs of giving a ground truth to a proposal: focal class cost, L1 of the boxes divided by the image's size, GIoU, weighted.
 * `hungarian`: class (positive - negative) + L1 - GIoU [Sparse R-CNN 3.1]. `transport`: the foreground's minus the background's cost [OTA]:
 * class (positive - negative) + L1 + (1 - GIoU). NaN and costs beyond 1e6 become 1e6.
 *
 * @param logits [T, B, N, C]
 * @param boxes  [T, B, N, 4] xyxy in pixels
 * @returns      [T, B, M, N]; rows beyond an image's count are undefined
 */
export function matchingCosts(
  logits: Tensor,
  boxes: Tensor,
  targets: PaddedTargets,
  form: CostForm,
  weights: MatchingWeights,
): Tensor {
  const { images, rows } = checkTargets('matchingCosts', targets);
  if (logits.rank !== 4 || logits.shape[1] !== images)
    shapeError('matchingCosts', 'logits', `[T, ${images}, N, C]`, logits.shape);
  const [stages, , proposals, classes] = logits.shape;
  check('matchingCosts', 'logits', logits, logits.shape);
  check('matchingCosts', 'boxes', boxes, [stages, images, proposals, 4]);
  checkFocal('matchingCosts', weights);
  const { alpha, gamma, classWeight, l1Weight, giouWeight } = weights;
  const { device } = logits;
  const costs = device.empty([stages, images, rows, proposals]);
  device.run(
    matchingCostsKernel(form),
    { count: costs.size, proposals, rows, classes, images, alpha, gamma, classWeight, l1Weight, giouWeight },
    {
      logits,
      boxes,
      labels: targets.labels,
      targetBoxes: targets.boxes,
      counts: targets.counts,
      sizes: targets.sizes,
      costs,
    },
    linearGrid(Math.ceil(costs.size / 64)),
  );
  return costs;
}

export interface SupplyOptions {
  /** Units each ground truth supplies; 0: dynamic k, floor of the sum of the `topQ` largest IoUs, at least 1. */
  readonly k: number;
  /** 1 .. 64 */
  readonly topQ: number;
  /** Units less for every stage before the last, never below 1; null: all stages alike. */
  readonly unitStep: number | null;
  /** At most this share of the proposals becomes positive: beyond it all supplies are scaled down. */
  readonly maxPositiveFraction: number;
}

/**
 * Units that each supplier gives: dynamic k [OTA 3.3], unit increasing and the bound on positives [Dynamic Sparse R-CNN 3.2].
 *
 * @param boxes [T, B, N, 4] predicted boxes, xyxy in pixels
 * @returns     [T, B, M + 1]: ground truths, zero where padded, then the background, which gives the rest of the N units
 */
export function transportSupply(boxes: Tensor, targets: PaddedTargets, options: SupplyOptions): Tensor {
  const { images, rows } = checkTargets('transportSupply', targets);
  if (boxes.rank !== 4 || boxes.shape[1] !== images || boxes.shape[3] !== 4)
    shapeError('transportSupply', 'boxes', `[T, ${images}, N, 4]`, boxes.shape);
  const { k, topQ, unitStep, maxPositiveFraction } = options;
  if (k === 0 && !(Number.isInteger(topQ) && topQ >= 1 && topQ <= MAX_TOP_Q))
    throw new RangeError(`transportSupply: topQ must be an integer in 1 .. ${MAX_TOP_Q}, got ${topQ}`);
  if (!(k >= 0 && Number.isFinite(k)))
    throw new RangeError(`transportSupply: k must be a finite number of at least 0, got ${k}`);
  const [stages, , proposals] = boxes.shape;
  const problems = stages * images;
  const { device } = boxes;
  const supply = device.empty([stages, images, rows + 1]);
  const params = {
    problems,
    proposals,
    rows,
    images,
    stages,
    fixed: k,
    leastUnits: unitStep === null ? 0 : 1,
    unitStep: unitStep ?? 0,
    limit: maxPositiveFraction * proposals,
  };
  device.run(
    supplyKernel(k > 0 ? 0 : topQ),
    params,
    { boxes, targetBoxes: targets.boxes, counts: targets.counts, supply },
    linearGrid(problems),
  );
  return supply;
}

export interface TransportOptions {
  readonly iterations: number;
  /** Also computes the plan. */
  readonly plan?: boolean;
}

/**
 * Optimal transport by Sinkhorn's iterations in the log domain, and its decoding [OTA 3.1]: every row of the plan is divided by its maximum, every
 * proposal goes to the supplier with the largest entry of its column, the lowest one among equals.
 *
 * @param costs  [T, B, M, N], relative to the background's and divided by epsilon, the strength of the entropy term
 * @param supply [T, B, M + 1], background last; its sum should be N
 * @param counts u32 [B]: rows in use
 * @returns matched i32 [T, B, N]: the row, or -1 for the background; plan [T, B, M + 1, N] where asked for, background last, padded rows zero
 */
export function transportAssignment(
  costs: Tensor,
  supply: Tensor,
  counts: Tensor,
  options: TransportOptions,
): { matched: Tensor; plan: Tensor | null } {
  if (costs.rank !== 4) shapeError('transportAssignment', 'costs', '[T, B, M, N]', costs.shape);
  const [stages, images, rows, columns] = costs.shape;
  check('transportAssignment', 'costs', costs, costs.shape);
  check('transportAssignment', 'supply', supply, [stages, images, rows + 1]);
  check('transportAssignment', 'counts', counts, [images], 'u32');
  const { iterations } = options;
  if (!Number.isInteger(iterations) || iterations < 1)
    throw new RangeError(`transportAssignment: iterations must be an integer of at least 1, got ${iterations}`);
  const { device } = costs;
  return device.scope(() => {
    const problems = stages * images;
    const matched = device.empty([stages, images, columns], 'i32');
    const rowState = device.empty([problems, 2, rows + 1]),
      columnState = device.empty([problems, columns]);
    const narrow = device.subgroupSize > 0 && device.subgroupSize <= 16; // a workgroup of one subgroup needs no barriers, but is too few lanes for a GPU
    const kernel = narrow
      ? sinkhornKernel(device.subgroupSize, true)
      : sinkhornKernel(columns <= 128 ? 64 : 256, false);
    device.run(
      kernel,
      { problems, rows, columns, images, iterations },
      { costs, counts, supply, rowState, columnState, matched },
      linearGrid(problems),
    );
    if (!options.plan) return { matched, plan: null };
    const plan = device.empty([stages, images, rows + 1, columns]);
    const buffers = { costs, counts, rowState, columnState, plan };
    device.run(
      transportPlanKernel(),
      { count: plan.size, rows, columns, images },
      buffers,
      linearGrid(Math.ceil(plan.size / 64)),
    );
    return { matched, plan };
  });
}

/**
 * How many proposals of each stage are matched.
 *
 * @param matched i32 [T, ...], negative where unmatched
 * @returns counts u32 [T], and positives f32 [T] = max(1, count), what losses are divided by
 */
export function countPositives(matched: Tensor): { counts: Tensor; positives: Tensor } {
  if (matched.rank < 1) shapeError('countPositives', 'matched', '[T, ...]', matched.shape);
  check('countPositives', 'matched', matched, matched.shape, 'i32');
  const stages = matched.shape[0];
  const { device } = matched;
  const counts = device.empty([stages], 'u32'),
    positives = device.empty([stages]);
  device.run(
    countPositivesKernel(),
    { stages, entries: stages === 0 ? 0 : matched.size / stages },
    { matched, counts, positives },
    linearGrid(stages),
  );
  return { counts, positives };
}

/**
 * Exact linear sum assignment of many rectangular problems at once, by shortest augmenting paths (Jonker and Volgenant, in Crouse's form, as in scipy).
 * Ties go to columns that are still free, then to the lowest index. Costs are used in f32; NaN, infinities and what is beyond 1e30 count as 1e30.
 *
 * @param costs  [..., n, m], n or m the larger
 * @param counts u32 [B]: rows in use, problem p having counts[p mod B]; default: all
 * @returns columns i32 [..., n]: the column of each row, -1 where it has none; rows i32 [..., m]: the row of each column. min(n, m) pairs.
 */
export function assignLinearSum(costs: Tensor, counts?: Tensor): { columns: Tensor; rows: Tensor } {
  if (costs.rank < 2) shapeError('linearSumAssignment', 'costs', '[..., n, m]', costs.shape);
  check('linearSumAssignment', 'costs', costs, costs.shape);
  const { device } = costs;
  const leading = costs.shape.slice(0, -2),
    [n, m] = costs.shape.slice(-2);
  const problems = leading.reduce((product, size) => product * size, 1);
  return device.scope(() => {
    const used = counts ?? device.tensor(Uint32Array.of(n), [1]);
    check('linearSumAssignment', 'counts', used, [used.size], 'u32');
    if (used.size === 0 || problems % used.size !== 0)
      shapeError('linearSumAssignment', 'counts', `[B] with B a divisor of ${problems}`, used.shape);
    const columns = device.empty([...leading, n], 'i32'),
      rows = device.empty([...leading, m], 'i32');
    const values = device.empty([problems, n + m + Math.max(n, m)]),
      links = device.empty([problems, n + m + Math.max(n, m)], 'i32');
    device.run(
      linearSumAssignmentKernel(device.subgroupSize),
      { problems, rows: n, columns: m, images: used.size },
      { costs, counts: used, columnOfRow: columns, rowOfColumn: rows, values, links },
      linearGrid(problems),
    );
    return { columns, rows };
  });
}

/** The column of each row in the least-cost one-to-one assignment: costs [..., n, m] -> i32 [..., n], -1 where n > m leaves a row without one. See assignLinearSum. */
export const linearSumAssignment = (costs: Tensor): Tensor => costs.device.scope(() => assignLinearSum(costs).columns);
