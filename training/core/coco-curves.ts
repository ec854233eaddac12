/**
 * Precision and recall from matched detections, and the twelve metrics, as pycocotools' COCOeval computes them.
 * Letters for dimensions are explained in coco-protocol.ts.
 */
import { FALSE_POSITIVE, TRUE_POSITIVE, type Matches } from './coco-matching.ts';
import { A, DETECTION_CAPS, IOU_THRESHOLDS, M, R, RECALLS, T } from './coco-protocol.ts';

/** Precision and recall of one category. -1: the category has no ground truth to find. */
export interface Curves {
  /** [A, T, R] at the cap of 100 detections. */
  precision: Float64Array;
  /** [A, T, M] the highest recall. */
  recall: Float64Array;
}

/** Precision over recall of one category, from its detections by descending score. */
export function accumulate({ score, rank, outcome, positives }: Matches): Curves {
  const D = score.length;
  const order = Uint32Array.from(score.keys()).sort((a, b) => score[b] - score[a] || a - b);
  const precision = new Float64Array(A * T * R).fill(-1);
  const recall = new Float64Array(A * T * M).fill(-1);
  const precisionAt = new Float64Array(D);
  const recallAt = new Float64Array(D);
  for (let a = 0; a < A; a++) {
    if (positives[a] === 0) continue;
    for (let t = 0; t < T; t++) {
      const row = a * T + t;
      const foundByCap = [0, 0, 0];
      let truePositives = 0;
      let falsePositives = 0;
      for (let n = 0; n < D; n++) {
        const d = order[n];
        const result = outcome[row * D + d];
        if (result === TRUE_POSITIVE) {
          truePositives++;
          for (let m = 0; m < M; m++) if (rank[d] < DETECTION_CAPS[m]) foundByCap[m]++;
        } else if (result === FALSE_POSITIVE) falsePositives++;
        recallAt[n] = truePositives / positives[a];
        precisionAt[n] = truePositives / (falsePositives + truePositives + Number.EPSILON);
      }
      for (let n = D - 1; n > 0; n--) precisionAt[n - 1] = Math.max(precisionAt[n - 1], precisionAt[n]);
      for (let r = 0, n = 0; r < R; r++) {
        while (n < D && recallAt[n] < RECALLS[r]) n++;
        precision[row * R + r] = n < D ? precisionAt[n] : 0;
      }
      for (let m = 0; m < M; m++) recall[row * M + m] = foundByCap[m] / positives[a];
    }
  }
  return { precision, recall };
}

/**
 * The twelve metrics in the order of METRIC_NAMES.
 * Each is a mean over those categories, IoU thresholds and recalls that have ground truth; -1 if there are none.
 */
export function summarize(categories: readonly Curves[]): number[] {
  const AP50 = IOU_THRESHOLDS.indexOf(0.5);
  const AP75 = IOU_THRESHOLDS.indexOf(0.75);
  const averagePrecision = (a: number, from = 0, to = T) =>
    meanOfMeasured(categories.map(({ precision }) => precision.subarray((a * T + from) * R, (a * T + to) * R)));
  const averageRecall = (a: number, m: number) =>
    meanOfMeasured(
      categories.map(({ recall }) => recall.subarray(a * T * M, (a + 1) * T * M).filter((_, index) => index % M === m)),
    );
  return [
    averagePrecision(0),
    averagePrecision(0, AP50, AP50 + 1),
    averagePrecision(0, AP75, AP75 + 1),
    averagePrecision(1),
    averagePrecision(2),
    averagePrecision(3),
    averageRecall(0, 0),
    averageRecall(0, 1),
    averageRecall(0, 2),
    averageRecall(1, 2),
    averageRecall(2, 2),
    averageRecall(3, 2),
  ];
}

function meanOfMeasured(parts: readonly Float64Array[]): number {
  let sum = 0;
  let count = 0;
  for (const part of parts) {
    for (const value of part) {
      if (value <= -1) continue;
      sum += value;
      count++;
    }
  }
  return count === 0 ? -1 : sum / count;
}
