/**
 * Label assignment on the device: matching costs, supplies, optimal transport and linear sum assignment. These
 * functions have no gradients and read nothing back.
 *
 * Glossary: T stages, B images, P = T * B problems in stage-major order, N proposals, C classes, M rows of padded
 * ground truths per image.
 */
import {
  countPositivesKernel,
  matchingCostsKernel,
  MAX_TOP_Q,
  supplyKernel,
  type CostForm,
} from '../../../kernels/assignment-costs.ts';
import { itemGrid, linearGrid } from '../../../kernels/kernel.ts';
import { linearSumAssignmentKernel } from '../../../kernels/linear-sum-assignment.ts';
import { sinkhornKernel, transportPlanKernel } from '../../../kernels/sinkhorn.ts';
import { shapeError } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import {
  checkFocal,
  checksOf,
  checkTargets,
  type MatchingWeights,
  type PaddedTargets,
  type Predictions,
} from './arguments.ts';

/**
 * Costs of assigning ground truths to proposals: focal class cost, L1 of the boxes divided by the image's size, and
 * GIoU, weighted. NaN and costs beyond 1e6 become 1e6.
 *
 * `hungarian`: class (positive - negative) + L1 - GIoU [Sparse R-CNN 3.1].
 * `transport`: the foreground's minus the background's cost [OTA]: class (positive - negative) + L1 + (1 - GIoU).
 *
 * @returns [T, B, M, N]; rows beyond an image's count are undefined
 * @throws ShapeError or RangeError where an argument does not fit
 */
export function matchingCosts(
  { logits, boxes }: Predictions,
  targets: PaddedTargets,
  form: CostForm,
  weights: MatchingWeights,
): Tensor {
  const { images, rows } = checkTargets('matchingCosts', targets);
  if (logits.rank !== 4 || logits.shape[1] !== images)
    shapeError('matchingCosts', 'logits', `[T, ${images}, N, C]`, logits.shape);
  const [stages, , proposals, classes] = logits.shape;
  const check = checksOf('matchingCosts');
  check('logits', logits, logits.shape);
  check('boxes', boxes, [stages, images, proposals, 4]);
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
    itemGrid(costs.size),
  );
  return costs;
}

export interface SupplyOptions {
  /**
   * Units that each ground truth supplies. 0: dynamic k, the floor of the sum of the `topQ` largest IoUs, at least 1.
   */
  readonly k: number;
  /** Number of IoUs of dynamic k, 1 .. 64. */
  readonly topQ: number;
  /**
   * Decrease of the units from a stage to the stage before it, never below 1 unit. Null: all stages have the same
   * units.
   */
  readonly unitStep: number | null;
  /** Maximum share of positive proposals. All supplies are scaled down where they exceed it. */
  readonly maxPositiveFraction: number;
}

/**
 * Units that each supplier gives: dynamic k [OTA 3.3], unit increasing and the bound on positives
 * [Dynamic Sparse R-CNN 3.2].
 *
 * @param boxes [T, B, N, 4] predicted boxes, xyxy in pixels
 * @returns [T, B, M + 1]: the ground truths' units, zero where padded, then the background's, which are the rest of N
 * @throws ShapeError or RangeError where an argument does not fit
 */
export function transportSupply(boxes: Tensor, targets: PaddedTargets, options: SupplyOptions): Tensor {
  const { images, rows } = checkTargets('transportSupply', targets);
  if (boxes.rank !== 4 || boxes.shape[1] !== images || boxes.shape[3] !== 4)
    shapeError('transportSupply', 'boxes', `[T, ${images}, N, 4]`, boxes.shape);
  const { k, topQ, unitStep, maxPositiveFraction } = options;
  if (k === 0 && !(Number.isInteger(topQ) && topQ >= 1 && topQ <= MAX_TOP_Q))
    throw new RangeError(`transportSupply: topQ: expected an integer in 1 .. ${MAX_TOP_Q}, got ${topQ}`);
  if (!(k >= 0 && Number.isFinite(k)))
    throw new RangeError(`transportSupply: k: expected a finite number >= 0, got ${k}`);
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
    minUnits: unitStep === null ? 0 : 1,
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
  /** Whether to compute the plan too; default false. */
  readonly plan?: boolean;
}

/**
 * Optimal transport by Sinkhorn's iterations in the log domain, and its decoding [OTA 3.1]. Every row of the plan is
 * divided by its maximum; then every proposal goes to the supplier with the largest entry in its column. Among equal
 * entries the lowest row wins.
 *
 * @param costs  [T, B, M, N], relative to the background's and divided by epsilon, the strength of the entropy term
 * @param supply [T, B, M + 1], background last; its sum should be N
 * @param counts u32 [B]: rows in use
 * @returns matched i32 [T, B, N]: the row, or -1 for the background. plan [T, B, M + 1, N] with `options.plan`:
 *   background last, padded rows zero
 * @throws ShapeError or RangeError where an argument does not fit
 */
export function transportAssignment(
  costs: Tensor,
  supply: Tensor,
  counts: Tensor,
  options: TransportOptions,
): { matched: Tensor; plan: Tensor | null } {
  if (costs.rank !== 4) shapeError('transportAssignment', 'costs', '[T, B, M, N]', costs.shape);
  const [stages, images, rows, columns] = costs.shape;
  const check = checksOf('transportAssignment');
  check('costs', costs, costs.shape);
  check('supply', supply, [stages, images, rows + 1]);
  check('counts', counts, [images], 'u32');
  const { iterations } = options;
  if (!Number.isInteger(iterations) || iterations < 1)
    throw new RangeError(`transportAssignment: iterations: expected an integer >= 1, got ${iterations}`);
  const { device } = costs;
  return device.scope(() => {
    const problems = stages * images;
    const matched = device.empty([stages, images, columns], 'i32');
    const rowState = device.empty([problems, 2, rows + 1]);
    const columnState = device.empty([problems, columns]);
    // A workgroup of one subgroup needs no barriers. On GPUs it would have too few lanes.
    const narrow = device.subgroupSize > 0 && device.subgroupSize <= 16;
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
    device.run(transportPlanKernel(), { count: plan.size, rows, columns, images }, buffers, itemGrid(plan.size));
    return { matched, plan };
  });
}

/**
 * Number of matched proposals of each stage.
 *
 * @param matched i32 [T, ...], negative where unmatched
 * @returns counts u32 [T], and positives f32 [T] = max(1, count), the divisors of losses
 */
export function countPositives(matched: Tensor): { counts: Tensor; positives: Tensor } {
  if (matched.rank < 1) shapeError('countPositives', 'matched', '[T, ...]', matched.shape);
  checksOf('countPositives')('matched', matched, matched.shape, 'i32');
  const stages = matched.shape[0];
  const { device } = matched;
  const counts = device.empty([stages], 'u32');
  const positives = device.empty([stages]);
  device.run(
    countPositivesKernel(),
    { stages, entries: stages === 0 ? 0 : matched.size / stages },
    { matched, counts, positives },
    linearGrid(stages),
  );
  return { counts, positives };
}

/**
 * Exact linear sum assignment of many rectangular problems at once, by shortest augmenting paths (Jonker and Volgenant,
 * in Crouse's form, as in scipy). Ties go to columns that are still free, then to the lowest index. Costs are used in
 * f32; NaN, infinities and costs beyond 1e30 count as 1e30.
 *
 * @param costs  [..., n, m]; either may be the larger
 * @param counts u32 [B]: rows in use; problem p has counts[p mod B]. Default: all rows
 * @returns columns i32 [..., n]: the column of each row; rows i32 [..., m]: the row of each column; -1 where there is
 *   none. Each problem has min(n, m) pairs
 * @throws ShapeError where an argument does not fit
 */
export function linearSumAssignment(costs: Tensor, counts?: Tensor): { columns: Tensor; rows: Tensor } {
  if (costs.rank < 2) shapeError('linearSumAssignment', 'costs', '[..., n, m]', costs.shape);
  const check = checksOf('linearSumAssignment');
  check('costs', costs, costs.shape);
  const { device } = costs;
  const leading = costs.shape.slice(0, -2);
  const [n, m] = costs.shape.slice(-2);
  const problems = leading.reduce((product, size) => product * size, 1);
  return device.scope(() => {
    const used = counts ?? device.tensor(Uint32Array.of(n), [1]);
    check('counts', used, [used.size], 'u32');
    if (used.size === 0 || problems % used.size !== 0)
      shapeError('linearSumAssignment', 'counts', `[B] with B a divisor of ${problems}`, used.shape);
    const columns = device.empty([...leading, n], 'i32');
    const rows = device.empty([...leading, m], 'i32');
    const values = device.empty([problems, n + m + Math.max(n, m)]);
    const links = device.empty([problems, n + m + Math.max(n, m)], 'i32');
    device.run(
      linearSumAssignmentKernel(device.subgroupSize),
      { problems, rows: n, columns: m, images: used.size },
      { costs, counts: used, columnOfRow: columns, rowOfColumn: rows, values, links },
      linearGrid(problems),
    );
    return { columns, rows };
  });
}
