/** Cases of the set loss. */
import { Random, setLoss, type MatchingWeights } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { integerInput, ndarray, randomInput, type NdArray, type OpCase, type OpInput } from '../op-harness.ts';
import { boxesInput, focal, overlaps } from './boxes.ts';

const PAPER: MatchingWeights = { classWeight: 2, l1Weight: 5, giouWeight: 2, alpha: 0.25, gamma: 2 };

function reference(
  [logits, boxes, matched, positives, labels, objects, sizes]: readonly NdArray[],
  weights: MatchingWeights,
): NdArray {
  const [stages, images, n, classes] = logits.shape,
    capacity = labels.shape[1];
  const parts = new Float64Array(stages * 3);
  const row = (x: NdArray, i: number): Float64Array => x.data.subarray(4 * i, 4 * i + 4);
  for (let at = 0; at < stages * images * n; at++) {
    const image = Math.floor(at / n) % images,
      stage = Math.floor(at / (images * n));
    const object = matched.data[at] < 0 ? null : image * capacity + matched.data[at];
    for (let c = 0; c < classes; c++) {
      const target = Number(object !== null && labels.data[object] === c);
      parts[stage * 3] +=
        (focal(logits.data[at * classes + c], target, weights.alpha, weights.gamma) * weights.classWeight) /
        positives.data[stage];
    }
    if (object === null) continue;
    const box = row(boxes, at),
      truth = row(objects, object),
      size = row(sizes, image);
    for (let k = 0; k < 4; k++)
      parts[stage * 3 + 1] += (Math.abs(box[k] - truth[k]) / size[k] / positives.data[stage]) * weights.l1Weight;
    parts[stage * 3 + 2] += ((1 - overlaps(box, truth).giou) / positives.data[stage]) * weights.giouWeight;
  }
  return ndarray([stages, 3], parts);
}

/** @param share the share of the proposals that are matched */
function lossCase(
  name: string,
  [stages, images, n, classes, capacity]: readonly [number, number, number, number, number],
  share: number,
  weights = PAPER,
): OpCase {
  const random = new Random(n + classes);
  const matched = Float64Array.from({ length: stages * images * n }, () =>
    random.uniform() < share ? random.integer(capacity) : -1,
  );
  const positives = Float64Array.from({ length: stages }, (_, t) =>
    Math.max(1, matched.subarray(t * images * n, (t + 1) * images * n).filter((i) => i >= 0).length),
  );
  const constant = (shape: readonly number[], data: Float64Array): OpInput => ({ shape, data, differentiate: false });
  return {
    name,
    inputs: [
      randomInput([stages, images, n, classes], 1, { scale: 2, shift: -1 }),
      boxesInput([stages, images, n, 4], 2),
      { shape: [stages, images, n], data: matched, dtype: 'i32' },
      constant([stages], positives),
      integerInput([images, capacity], classes, 3),
      boxesInput([images, capacity, 4], 4, false),
      constant(
        [images, 4],
        Float64Array.from({ length: images * 4 }, (_, i) => 100 + 10 * (i % 2)),
      ),
    ],
    run: ([logits, boxes, found, count, labels, objects, sizes]) => {
      const counts = labels.device.tensor(new Uint32Array(images).fill(capacity), [images]);
      return setLoss(
        { logits, boxes },
        { matched: found, positives: count },
        { labels, boxes: objects, counts, sizes },
        weights,
      );
    },
    reference: (inputs) => reference(inputs, weights),
  };
}

export const setLossCases = {
  setLoss: [
    lossCase('one of everything, matched', [1, 1, 1, 1, 1], 1),
    lossCase('one of everything, unmatched', [1, 1, 1, 1, 1], 0),
    lossCase('three stages, rows not a multiple of a group, groups across images', [3, 2, 21, 5, 4], 0.3),
    lossCase('more groups than lanes', [2, 3, 350, 3, 8], 0.2),
    lossCase('80 classes, all matched', [1, 2, 17, 80, 3], 1),
    lossCase('no proposal', [2, 1, 0, 3, 2], 0),
    lossCase('other weights, gamma 0', [1, 2, 19, 4, 4], 0.5, {
      classWeight: 1,
      l1Weight: 0.5,
      giouWeight: 3,
      alpha: 0.6,
      gamma: 0,
    }),
    lossCase('gamma 3.7', [1, 2, 19, 4, 4], 0.5, { ...PAPER, gamma: 3.7 }),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
