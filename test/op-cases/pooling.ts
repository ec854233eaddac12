/** Cases of max pooling: overlapping and disjoint windows, padding, ties. */
import fc from 'fast-check';
import { maxPool2d, type MaxPool2dOptions } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type NdArray, type OpCase, type OpInput } from '../op-harness.ts';

/**
 * Max pooling whose winners are the first maxima of `chosenBy`. With the case's own input as `chosenBy`, the steps of
 * the central differences do not change the winners.
 */
function reference(
  { shape: [B, H, W, C], data }: NdArray,
  chosenBy: NdArray,
  { kernel, stride = kernel, padding = 0 }: MaxPool2dOptions,
): NdArray {
  const OH = Math.floor((H + 2 * padding - kernel) / stride) + 1;
  const OW = Math.floor((W + 2 * padding - kernel) / stride) + 1;
  const y = new Float64Array(B * OH * OW * C);
  for (let b = 0; b < B; b++)
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++)
        for (let c = 0; c < C; c++) {
          let winner = -1;
          for (let ky = 0; ky < kernel; ky++)
            for (let kx = 0; kx < kernel; kx++) {
              const [iy, ix] = [oy * stride + ky - padding, ox * stride + kx - padding];
              if (iy < 0 || iy >= H || ix < 0 || ix >= W) continue;
              const i = ((b * H + iy) * W + ix) * C + c;
              if (winner < 0 || chosenBy.data[i] > chosenBy.data[winner]) winner = i;
            }
          y[((b * OH + oy) * OW + ox) * C + c] = data[winner];
        }
  return ndarray([B, OH, OW, C], y);
}

/** Integers, so that many windows have several equal maxima. */
function withTies(shape: readonly number[], seed: number): OpInput {
  const { data } = randomInput(shape, seed);
  return { shape, data: data.map((value) => Math.round(value * 2)) };
}

function poolCase(shape: readonly number[], options: MaxPool2dOptions, seed: number, name = ''): OpCase {
  const input = withTies(shape, seed);
  return {
    name: `${name}[${shape.join(', ')}] ${JSON.stringify(options)}`,
    inputs: [input],
    run: ([x]) => maxPool2d(x, options),
    reference: ([x]) => reference(x, input, options),
  };
}

const random = fc.record({
  shape: fc.tuple(
    fc.integer({ min: 1, max: 2 }),
    fc.integer({ min: 4, max: 9 }),
    fc.integer({ min: 4, max: 9 }),
    fc.integer({ min: 1, max: 8 }),
  ),
  kernel: fc.integer({ min: 2, max: 4 }),
  stride: fc.integer({ min: 1, max: 5 }),
  padding: fc.integer({ min: 0, max: 1 }),
});

export const poolingCases = {
  maxPool2d: [
    poolCase([2, 9, 12, 8], { kernel: 3, stride: 2, padding: 1 }, 1, 'as after the stem: '),
    poolCase([1, 8, 6, 5], { kernel: 2 }, 2, 'disjoint windows: '),
    poolCase([1, 1, 1, 3], { kernel: 1 }, 3, 'one pixel: '),
    poolCase([1, 11, 9, 4], { kernel: 5, stride: 2, padding: 2 }, 6, 'a window too large to unroll: '),
    poolCase([1, 7, 7, 2], { kernel: 2, stride: 3 }, 4, 'pixels in no window: '),
    poolCase([0, 4, 4, 4], { kernel: 2 }, 5, 'empty batch: '),
    {
      name: 'windows of -infinity: padding never wins',
      inputs: [{ shape: [1, 3, 3, 4], data: new Float64Array(36).fill(-Infinity), differentiate: false }],
      run: ([x]) => maxPool2d(x, { kernel: 3, stride: 2, padding: 1 }),
      reference: () => ndarray([1, 2, 2, 4], new Float64Array(16).fill(-Infinity)),
    },
    {
      name: 'NaN wins',
      inputs: [{ shape: [1, 2, 2, 1], data: Float64Array.of(1, NaN, 3, 2), differentiate: false }],
      run: ([x]) => maxPool2d(x, { kernel: 2 }),
      reference: () => ndarray([1, 1, 1, 1], [NaN]),
    },
    ...sampleCases(4, random, ({ shape, ...options }, i) => poolCase(shape, options, i + 10)),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
