/** Counted FLOPs: those of models compared with published numbers, and those that kernels declare. */
import { describe, expect, test } from 'vitest';
import { defineKernel, dispatchFlops } from '../kernels/kernel.ts';
import { tiledMatmulKernel } from '../kernels/matmul-tiled.ts';
import { countFlops, PAPER_R50 } from '../model/index.ts';

describe('counted FLOPs of a model', () => {
  test('ResNet-50 at 224 x 224 has the published 4.09 G multiply-adds (without the 2 M of its classifier)', () => {
    expect(countFlops(PAPER_R50, 224, 224).backbone / 2e9).toBeCloseTo(4.087, 2);
  });

  test('ResNet-18 and -101 have the published 1.82 and 7.80 G multiply-adds', () => {
    expect(countFlops({ ...PAPER_R50, depth: 18 }, 224, 224).backbone / 2e9).toBeCloseTo(1.814, 2);
    expect(countFlops({ ...PAPER_R50, depth: 101 }, 224, 224).backbone / 2e9).toBeCloseTo(7.8, 1);
  });

  test('the head does not depend on the image size, the backbone grows with the area of the image', () => {
    const small = countFlops(PAPER_R50, 320, 320);
    const large = countFlops(PAPER_R50, 640, 640);
    expect(large['dynamic interaction']).toBe(small['dynamic interaction']);
    expect(large.backbone / small.backbone).toBeCloseTo(4, 5);
  });

  test('the staircase takes a small share of the FLOPs: 0.02 G of 23.30 G in the paper', () => {
    const parts = countFlops(PAPER_R50, 480, 640);
    const total = Object.values(parts).reduce((a, b) => a + b, 0);
    expect(parts.proposals / total).toBeLessThan(0.001);
  });
});

describe('declared FLOPs of a kernel', () => {
  const grid = [1, 1, 1] as const;
  const product = tiledMatmulKernel({
    form: 'nn',
    size: 'small',
    access: 'vec4',
    precision: 'f32',
    vec4Output: true,
    epilogue: '',
  });

  test('are computed from the params of a dispatch', () => {
    expect(dispatchFlops(product, { m: 8, n: 12, k: 16, batch: 3 }, grid)).toBe(2 * 8 * 12 * 16 * 3);
  });

  test('need all params that they read', () => {
    expect(() => dispatchFlops(product, { m: 8, n: 12, k: 16 }, grid)).toThrow(
      `${product.name}: params: expected all params of its FLOPs, got m, n, k`,
    );
  });

  test('are null where a kernel declares none', () => {
    const copy = defineKernel({ name: 'copy', workgroup: [64], params: {}, buffers: {}, body: '' });
    expect(dispatchFlops(copy, {}, grid)).toBeNull();
  });
});
