/** The order of training images: permutations, and repeat-factor sampling for rare classes. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ImageRecord } from '../training/core/image-record.ts';
import { createEpochOrder, repeatFactors } from '../training/core/sampling.ts';

/** An image with objects of these classes. */
const image = (labels: readonly number[], crowd = false): ImageRecord => ({
  id: 1,
  file: '1.png',
  name: '1.png',
  width: 10,
  height: 10,
  objects: labels.map((label) => ({ id: label, label, box: [0, 0, 5, 5], area: 25, crowd })),
});

const counts = (order: Iterable<number>, length: number): number[] => {
  const result = new Array<number>(length).fill(0);
  for (const index of order) result[index]++;
  return result;
};

const lists = fc.array(fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 4 }), { minLength: 1, maxLength: 40 });

describe('repeat factors', () => {
  test('are those of the rarest class: max(1, sqrt(t / f))', () => {
    // Class 0 is in all of 16 images, class 1 in one, class 2 in four.
    const records = Array.from({ length: 16 }, (_, i) => image([0, 0, ...(i === 3 ? [1] : []), ...(i < 4 ? [2] : [])]));
    const factors = [...repeatFactors(records, 0.25)];
    expect(factors).toEqual([1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    expect(repeatFactors(records, 1)[0]).toBe(2);
    expect(repeatFactors(records, 1)[3]).toBe(4);
  });

  test('ignore crowds, and are 1 for images without objects', () => {
    const records = [image([]), image([1], true), ...Array.from({ length: 8 }, () => image([0]))];
    expect([...repeatFactors(records, 0.5)]).toEqual(new Array(10).fill(1));
  });
});

describe('epochs', () => {
  test('have every image about as often as its factor says, and never less than once', () => {
    fc.assert(
      fc.property(lists, fc.double({ min: 0.001, max: 1, noNaN: true }), (labels, threshold) => {
        const records = labels.map((list) => image(list));
        const factors = repeatFactors(records, threshold);
        const order = createEpochOrder(records, 7, threshold);
        const total = factors.reduce((a, b) => a + b, 0);
        expect(order.length).toBe(Math.ceil(total - 1e-6));
        const epoch = order.at(3);
        expect(epoch.length).toBe(order.length);
        counts(epoch, records.length).forEach((count, i) => {
          expect(count).toBeGreaterThanOrEqual(1);
          expect(Math.abs(count - (factors[i] * order.length) / total)).toBeLessThan(1 + 1e-6);
        });
      }),
      { seed: 1, numRuns: 200 },
    );
  });

  test('have the factors on average', () => {
    const records = [image([1]), image([2]), image([2]), ...Array.from({ length: 17 }, () => image([0]))];
    const factors = repeatFactors(records, 0.3);
    const order = createEpochOrder(records, 1, 0.3);
    const sums = new Array<number>(records.length).fill(0);
    for (let epoch = 0; epoch < 400; epoch++)
      counts(order.at(epoch), records.length).forEach((count, i) => {
        sums[i] += count / 400;
      });
    const total = factors.reduce((a, b) => a + b, 0);
    // Four standard deviations of the mean of 400 coins are at most 0.1.
    sums.forEach((mean, i) => expect(Math.abs(mean - (factors[i] * order.length) / total)).toBeLessThan(0.1));
  });

  test('depend only on seed and epoch, in whatever order they are asked for', () => {
    const records = Array.from({ length: 30 }, (_, i) => image([i % 7 === 0 ? 1 : 0]));
    const epochs = (list: readonly number[], threshold: number, seed = 5) => {
      const order = createEpochOrder(records, seed, threshold);
      return new Map(list.map((epoch) => [epoch, [...order.at(epoch)]]));
    };
    for (const threshold of [0, 0.5]) {
      const rising = epochs([0, 1, 2, 3, 4], threshold);
      const mixed = epochs([4, 0, 3, 1, 2], threshold);
      for (const [epoch, order] of rising) expect(mixed.get(epoch)).toEqual(order);
      expect(rising.get(0)).not.toEqual(rising.get(1));
      expect(epochs([0], threshold, 6).get(0)).not.toEqual(rising.get(0));
    }
  });

  test('are permutations without a threshold, and with one that makes no class rare', () => {
    const records = Array.from({ length: 20 }, () => image([0]));
    for (const threshold of [0, 0.5])
      expect(counts(createEpochOrder(records, 2, threshold).at(1), 20)).toEqual(new Array(20).fill(1));
  });
});
