/** Cases of nearest-neighbor and bilinear resizing. */
import fc from 'fast-check';
import { resizeBilinear, upsampleNearest } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type NdArray, type OpCase } from '../op-harness.ts';

type Pixel = (image: number, y: number, x: number, channel: number) => number;

/** An image whose pixels are each computed from the pixels of another image. */
function pixelwise(
  { shape: [B, H, W, C], data }: NdArray,
  [OH, OW]: readonly [number, number],
  value: (input: Pixel) => Pixel,
): NdArray {
  const input: Pixel = (b, y, x, c) => data[((b * H + y) * W + x) * C + c];
  const output = value(input);
  const y: number[] = [];
  for (let b = 0; b < B; b++)
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++) for (let c = 0; c < C; c++) y.push(output(b, oy, ox, c));
  return ndarray([B, OH, OW, C], y);
}

function upsampleCase(shape: readonly number[], factor: number): OpCase {
  return {
    name: `[${shape.join(', ')}] by ${factor}`,
    inputs: [randomInput(shape, 1)],
    run: ([x]) => upsampleNearest(x, factor),
    reference: ([x]) =>
      pixelwise(
        x,
        [shape[1] * factor, shape[2] * factor],
        (input) => (b, y, u, c) => input(b, Math.floor(y / factor), Math.floor(u / factor), c),
      ),
  };
}

function bilinearCase(shape: readonly number[], size: readonly [number, number]): OpCase {
  const [, H, W] = shape;
  /** Position of an output pixel's center among `from` input pixels: the pixels before and after it, and the weight. */
  const between = (at: number, from: number, to: number): [number, number, number] => {
    const position = Math.max(((at + 0.5) * from) / to - 0.5, 0);
    const low = Math.min(Math.floor(position), from - 1);
    return [low, Math.min(low + 1, from - 1), position - low];
  };
  return {
    name: `[${shape.join(', ')}] to ${size.join(' x ')}`,
    inputs: [randomInput(shape, 2)],
    run: ([x]) => resizeBilinear(x, size),
    reference: ([x]) =>
      pixelwise(x, size, (input) => (b, oy, ox, c) => {
        const [top, bottom, v] = between(oy, H, size[0]);
        const [left, right, u] = between(ox, W, size[1]);
        return (
          (input(b, top, left, c) * (1 - u) + input(b, top, right, c) * u) * (1 - v) +
          (input(b, bottom, left, c) * (1 - u) + input(b, bottom, right, c) * u) * v
        );
      }),
  };
}

const side = fc.integer({ min: 1, max: 12 });
const shapes = fc.tuple(fc.integer({ min: 1, max: 2 }), side, side, fc.integer({ min: 1, max: 8 }));

export const resizeCases = {
  upsampleNearest: [
    upsampleCase([2, 3, 5, 8], 2),
    upsampleCase([1, 4, 2, 3], 2),
    upsampleCase([1, 2, 3, 4], 3),
    upsampleCase([1, 3, 3, 5], 1),
    upsampleCase([0, 3, 3, 4], 2),
    upsampleCase([2, 0, 3, 4], 2),
  ],
  resizeBilinear: [
    bilinearCase([2, 24, 18, 8], [5, 7]),
    bilinearCase([1, 4, 3, 4], [9, 8]),
    bilinearCase([1, 31, 2, 3], [2, 30]),
    bilinearCase([1, 1, 1, 4], [3, 2]),
    bilinearCase([1, 6, 5, 3], [1, 1]),
    bilinearCase([1, 5, 5, 4], [5, 5]),
    bilinearCase([0, 4, 4, 4], [2, 2]),
    bilinearCase([1, 4, 4, 0], [2, 2]),
    ...sampleCases(4, fc.tuple(shapes, side, side), ([shape, height, width]) => bilinearCase(shape, [height, width])),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
