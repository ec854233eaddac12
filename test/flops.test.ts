/** Counted FLOPs against published figures and against what must scale how. */
import { describe, expect, test } from 'vitest';
import { countFlops, PAPER_R50 } from '../model/index.ts';

describe('counted FLOPs', () => {
  test('of ResNet-50 at 224 x 224 are the published 4.09 G multiply-adds (less 2 M of its classifier)', () => {
    expect(countFlops(PAPER_R50, 224, 224).backbone / 2e9).toBeCloseTo(4.087, 2);
  });

  test('of ResNet-18 and -101 are the published 1.82 and 7.80 G multiply-adds', () => {
    expect(countFlops({ ...PAPER_R50, depth: 18 }, 224, 224).backbone / 2e9).toBeCloseTo(1.814, 2);
    expect(countFlops({ ...PAPER_R50, depth: 101 }, 224, 224).backbone / 2e9).toBeCloseTo(7.8, 1);
  });

  test('of the head do not depend on the image, those of the backbone grow with its area', () => {
    const small = countFlops(PAPER_R50, 320, 320),
      large = countFlops(PAPER_R50, 640, 640);
    expect(large['dynamic interaction']).toBe(small['dynamic interaction']);
    expect(large.backbone / small.backbone).toBeCloseTo(4, 5);
  });

  test('of the staircase are a small part: the paper counts 0.02 G of 23.30 G', () => {
    const parts = countFlops(PAPER_R50, 480, 640);
    const total = Object.values(parts).reduce((a, b) => a + b, 0);
    expect(parts.proposals / total).toBeLessThan(0.001);
  });
});
