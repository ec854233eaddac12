/** Boxes on the host: clipping, best scores, NMS, and detections compared with the golden files. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { clipBoxes, nms, selectDetections, topScores } from '../model/boxes.ts';
import { readGolden } from './golden-files.ts';
import { boxesInput, overlaps } from './op-cases/boxes.ts';
import { relativeError } from './op-harness.ts';

const settings = { seed: 20220521, numRuns: 200 };
const box = (boxes: ArrayLike<number>, i: number): number[] => Array.from({ length: 4 }, (_, k) => boxes[4 * i + k]);

test('clipBoxes moves corners into the image', () =>
  expect([...clipBoxes([-3, 5, 120, 90, 10, 10, 20, 20], [100, 50])]).toEqual([0, 5, 100, 50, 10, 10, 20, 20]));

describe('topScores', () => {
  test('sorts by score, then by index, and returns proposals and classes', () => {
    const { scores, labels, proposals } = topScores([0, 2, -1, 2, 5, 0], 2, 5);
    expect([...proposals]).toEqual([2, 0, 1, 0, 2]);
    expect([...labels]).toEqual([0, 1, 1, 0, 1]);
    expect(scores[0]).toBeCloseTo(1 / (1 + Math.exp(-5)), 6);
  });
  test('returns fewer scores where there are fewer', () => expect(topScores([1, 2], 1, 10).scores.length).toBe(2));
});

describe('nms', () => {
  test('a box survives if and only if no better survivor of its class overlaps it by more than the threshold', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 40 }),
        fc.nat(1000),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (n, seed, threshold) => {
          const boxes = boxesInput([n, 4], seed).data;
          const scores = Array.from({ length: n }, (_, i) => ((i * 7 + seed) % 11) / 11),
            labels = Array.from({ length: n }, (_, i) => (i * 3 + seed) % 3);
          const kept = nms(boxes, scores, labels, threshold);
          const better = (a: number, b: number): boolean => scores[a] > scores[b] || (scores[a] === scores[b] && a < b);
          for (let k = 1; k < kept.length; k++) expect(better(kept[k - 1], kept[k])).toBe(true);
          for (let i = 0; i < n; i++) {
            const beaten = kept.some(
              (j) => better(j, i) && labels[j] === labels[i] && overlaps(box(boxes, j), box(boxes, i)).iou > threshold,
            );
            expect(kept.includes(i)).toBe(!beaten);
          }
        },
      ),
      settings,
    );
  });
  test('a box with an overlap of exactly the threshold survives', () =>
    expect(nms([0, 0, 2, 1, 0, 0, 1, 1], [0.9, 0.8], [0, 0], 0.5)).toEqual([0, 1]));
  test('boxes of other classes do not compete', () =>
    expect(nms([0, 0, 1, 1, 0, 0, 1, 1], [0.5, 0.9], [0, 1], 0.1)).toEqual([1, 0]));
});

// In the other golden files, the detections have another softmax temperature than the stages. The golden test of the
// whole model covers them.
test('golden file: the same detections in the same order', () => {
  const golden = readGolden('r50-sparse-rcnn');
  const number = (key: string): number => Number(golden.config[key]);
  const config = {
    numProposals: number('num_proposals'),
    numClasses: number('num_classes'),
    matcher: 'hungarian',
    nmsThreshold: number('nms_threshold'),
  } as const;
  golden.meta.sizes.forEach((_, b) => {
    const [height, width] = golden.floats(`images.${b}`).shape.slice(1);
    const last = (part: string, size: number): Float32Array =>
      golden
        .floats(`stage${number('num_stages') - 1}.${part}`)
        .data.subarray(b * config.numProposals * size, (b + 1) * config.numProposals * size);
    const { scores, labels, boxes } = selectDetections(
      last('logits', config.numClasses),
      last('boxes', 4),
      [width, height],
      config,
    );
    expect([...labels]).toEqual(golden.integers(`detect.${b}.labels`).data);
    // Golden values are rounded from float64.
    expect(relativeError(scores, golden.floats(`detect.${b}.scores`).data)).toBeLessThanOrEqual(1e-6);
    expect(relativeError(boxes, golden.floats(`detect.${b}.boxes`).data)).toBeLessThanOrEqual(1e-6);
  });
});

test('the many-to-one matcher suppresses duplicates, the one-to-one matcher keeps them', () => {
  const config = { numProposals: 3, numClasses: 1, nmsThreshold: 0.7 };
  const logits = [0, 2, 1],
    boxes = [0, 0, 10, 10, 0, 0, 10, 9, 5, 5, 30, 30];
  expect([...selectDetections(logits, boxes, [20, 20], { ...config, matcher: 'hungarian' }).boxes]).toEqual([
    0, 0, 10, 9, 5, 5, 20, 20, 0, 0, 10, 10,
  ]);
  expect([...selectDetections(logits, boxes, [20, 20], { ...config, matcher: 'ota' }).boxes]).toEqual([
    0, 0, 10, 9, 5, 5, 20, 20,
  ]);
  expect([...selectDetections(logits, boxes, [20, 20], { ...config, matcher: 'hungarian' }).proposals]).toEqual([
    1, 2, 0,
  ]);
  expect([...selectDetections(logits, boxes, [20, 20], { ...config, matcher: 'ota' }).proposals]).toEqual([1, 2]);
});
