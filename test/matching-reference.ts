/** Optimal transport assignment in float64, written for clarity. The device's assignment is compared with it. */
import type { MatchingConfig } from '../model/matching.ts';
import { focal, overlaps } from './op-cases/boxes.ts';

/** One image at one stage: N proposals, M objects, C classes. */
export interface Problem {
  readonly classes: number;
  /** N * C values. */
  readonly logits: ArrayLike<number>;
  /** N * 4 values, xyxy in pixels. */
  readonly boxes: ArrayLike<number>;
  /** M values. */
  readonly labels: ArrayLike<number>;
  /** M * 4 values. */
  readonly objects: ArrayLike<number>;
  readonly size: readonly [number, number];
}

const row = (data: ArrayLike<number>, i: number): number[] => Array.from({ length: 4 }, (_, k) => data[4 * i + k]);
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const logSumExp = (values: readonly number[]): number => {
  const top = Math.max(...values);
  return top + Math.log(sum(values.map((x) => Math.exp(x - top))));
};

/** Transport costs [M + 1][N] with the focal loss of all classes, as in the paper. The background is the last row. */
export function transportCosts(
  { classes, logits, boxes, labels, objects, size }: Problem,
  config: MatchingConfig,
): number[][] {
  const n = boxes.length / 4,
    scale = [size[0], size[1], size[0], size[1]];
  const classCost = (j: number, label: number): number =>
    config.classWeight *
    sum(
      Array.from({ length: classes }, (_, c) =>
        focal(logits[j * classes + c], Number(c === label), config.focalAlpha, config.focalGamma),
      ),
    );
  const costs = Array.from(labels, (label, i) =>
    Array.from({ length: n }, (_, j) => {
      const box = row(boxes, j),
        truth = row(objects, i);
      const l1 = sum(box.map((x, k) => Math.abs(x - truth[k]) / scale[k]));
      return classCost(j, label) + config.l1Weight * l1 + config.giouWeight * (1 - overlaps(box, truth).giou);
    }),
  );
  return [...costs, Array.from({ length: n }, (_, j) => classCost(j, -1))];
}

/** Units of each object at a stage (1-based) of `stages`. */
export function supplies({ boxes, objects }: Problem, stage: number, stages: number, config: MatchingConfig): number[] {
  const n = boxes.length / 4;
  let units = Array.from({ length: objects.length / 4 }, (_, i) => {
    if (config.otaK > 0) return config.otaK;
    const ious = Array.from({ length: n }, (_, j) => overlaps(row(boxes, j), row(objects, i)).iou).sort(
      (a, b) => b - a,
    );
    return Math.max(1, Math.floor(sum(ious.slice(0, config.otaTopQ))));
  });
  if (config.unitIncreasing) units = units.map((k) => Math.max(1, k - config.unitStep * (stages - stage)));
  return units.map((k) => k * Math.min(1, (config.maxPositiveFraction * n) / sum(units)));
}

/** The transport plan [M + 1][N]. Iterations start from u = v = 1 and update v first. */
export function sinkhorn(
  costs: readonly (readonly number[])[],
  supply: readonly number[],
  config: MatchingConfig,
): number[][] {
  const epsilon = config.sinkhornEpsilon,
    columns = costs[0].map((_, j) => j);
  let u = supply.map(() => 1),
    v = columns.map(() => 1);
  for (let iteration = 0; iteration < config.sinkhornIterations; iteration++) {
    v = columns.map(
      (j) => epsilon * (Math.log(1 + 1e-8) - logSumExp(u.map((x, i) => (x + v[j] - costs[i][j]) / epsilon))) + v[j],
    );
    u = u.map(
      (x, i) =>
        epsilon * (Math.log(supply[i] + 1e-8) - logSumExp(columns.map((j) => (x + v[j] - costs[i][j]) / epsilon))) + x,
    );
  }
  return costs.map((cost, i) => cost.map((c, j) => Math.exp((u[i] + v[j] - c) / epsilon)));
}

/** The object of each proposal, -1 for the background, which is the last row. */
export function decodePlan(plan: readonly (readonly number[])[]): number[] {
  const scaled = plan.map((entries) => entries.map((x) => x / Math.max(...entries)));
  return plan[0].map((_, j) => {
    const best = scaled.reduce((top, entries, i) => (entries[j] > scaled[top][j] ? i : top), 0);
    return best === plan.length - 1 ? -1 : best;
  });
}
