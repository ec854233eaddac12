/** Cases for RoIAlign: levels, borders, sampling, and degenerate boxes. */
import fc from 'fast-check';
import { Random, roiAlign } from '../../engine/index.ts';
import type { RoiAlignOptions } from '../../engine/ops/detection/roi-align.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type NdArray, type OpCase, type OpInput } from '../op-harness.ts';

type Pair = readonly [number, number];

/** Bilinear value at (y, x) of one channel of one image, as torchvision's bilinear_interpolate. */
function bilinear(map: NdArray, image: number, channel: number, [y, x]: Pair): number {
  const [, height, width, channels] = map.shape;
  if (y < -1 || y > height || x < -1 || x > width) return 0;
  const axis = (at: number, size: number): [low: number, high: number, fraction: number] => {
    const low = Math.floor(Math.max(at, 0));
    return low >= size - 1 ? [size - 1, size - 1, 0] : [low, low + 1, Math.max(at, 0) - low];
  };
  const [y0, y1, fy] = axis(y, height);
  const [x0, x1, fx] = axis(x, width);
  const value = (row: number, column: number): number =>
    map.data[((image * height + row) * width + column) * channels + channel];
  return (
    (1 - fy) * ((1 - fx) * value(y0, x0) + fx * value(y0, x1)) + fy * ((1 - fx) * value(y1, x0) + fx * value(y1, x1))
  );
}

/** The level by the formula of the FPN paper. Boxes without a positive area belong to the finest level. */
function levelOf([x1, y1, x2, y2]: readonly number[], levels: number, canonicalSize: number): number {
  const area = Math.max(0, (x2 - x1) * (y2 - y1));
  return Math.min(Math.max(Math.floor(4 + Math.log2(Math.sqrt(area) / canonicalSize + 1e-8)), 2), levels + 1) - 2;
}

function reference(
  features: readonly NdArray[],
  boxes: NdArray,
  { resolution: r = 7, samplingRatio: n = 2, strides = [4, 8, 16, 32], canonicalSize = 224 }: RoiAlignOptions,
): NdArray {
  const [images, perImage] = boxes.shape;
  const channels = features[0].shape[3];
  const out = new Float64Array(images * perImage * r * r * channels);
  for (let box = 0; box < images * perImage; box++) {
    const corners = boxes.data.subarray(box * 4, box * 4 + 4);
    if (!corners.every(Number.isFinite)) continue;
    const level = levelOf([...corners], features.length, canonicalSize);
    const [x1, y1, x2, y2] = corners.map((v) => v / strides[level] - 0.5);
    const binHeight = (y2 - y1) / r,
      binWidth = (x2 - x1) / r;
    for (let by = 0; by < r; by++)
      for (let bx = 0; bx < r; bx++)
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          for (let sy = 0; sy < n; sy++)
            for (let sx = 0; sx < n; sx++) {
              const y = y1 + by * binHeight + ((sy + 0.5) * binHeight) / n;
              const x = x1 + bx * binWidth + ((sx + 0.5) * binWidth) / n;
              sum += bilinear(features[level], Math.floor(box / perImage), c, [y, x]);
            }
          out[((box * r + by) * r + bx) * channels + c] = sum / (n * n);
        }
  }
  return ndarray([images * perImage, r * r, channels], out);
}

function make(
  name: string,
  maps: readonly (readonly number[])[],
  boxes: OpInput,
  options: RoiAlignOptions = {},
): OpCase {
  return {
    name,
    inputs: [{ ...boxes, differentiate: false }, ...maps.map((shape, i) => randomInput(shape, 40 + i))],
    run: ([box, ...features]) => roiAlign(features, box, options),
    reference: ([box, ...features]) => reference(features, box, options),
    // Sample positions of tens of pixels are off by about 1e-6 in f32, and random maps change by 1 per pixel.
    tolerance: 2e-5,
  };
}

/** Boxes [batch, count, 4] of all sizes with centers in an image [height, width] and slightly outside. */
function randomBoxes([batch, count]: Pair, [height, width]: Pair, seed: number): OpInput {
  const random = new Random(seed);
  const data = Array.from({ length: batch * count }, () => {
    const w = width * random.uniform() ** 2 * 1.2,
      h = height * random.uniform() ** 2 * 1.2;
    const x = (random.uniform() * 1.2 - 0.1) * width,
      y = (random.uniform() * 1.2 - 0.1) * height;
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2].map(Math.fround);
  });
  return { shape: [batch, count, 4], data: Float64Array.from(data.flat()) };
}

const listed = (boxes: readonly (readonly number[])[]): OpInput => ({
  shape: [1, boxes.length, 4],
  data: Float64Array.from(boxes.flat()),
});
const pyramid = (batch: number, size: number, channels: number): number[][] =>
  [1, 2, 4, 8].map((s) => [batch, Math.ceil(size / s), Math.ceil(size / s) + 1, channels]);

const awkward = listed([
  [0, 0, 96, 96], // whole image
  [-300, -300, -200, -200], // outside: all outputs are zero
  [-6, -6, 10, 10],
  [86, 80, 130, 118], // across the borders
  [30, 30, 30, 30],
  [20, 10, 20, 60], // a point, a line
  [60, 50, 20, 10],
  [60, 10, 20, 50], // inverted in both axes (positive area), in one
  [NaN, 0, 10, 10],
  [0, 0, 10, NaN],
  [0, 0, Infinity, 10],
  [-Infinity, 0, Infinity, 10],
  [3e38, -3e38, 3e38, 3e38],
  [-1e9, -1e9, 1e9, 1e9],
]);

const geometries = fc.record({
  height: fc.integer({ min: 1, max: 19 }),
  width: fc.integer({ min: 1, max: 19 }),
  channels: fc.constantFrom(1, 3, 4, 7, 8),
  batch: fc.integer({ min: 1, max: 3 }),
  boxes: fc.integer({ min: 1, max: 6 }),
  resolution: fc.constantFrom(1, 2, 3, 7),
  samplingRatio: fc.integer({ min: 1, max: 3 }),
});

export const roiAlignCases = {
  roiAlign: [
    make('four levels, 12 channels', pyramid(2, 24, 12), randomBoxes([2, 9], [96, 100], 1), { canonicalSize: 100 }),
    make('channels not a multiple of 4', pyramid(2, 9, 5), randomBoxes([2, 9], [36, 40], 2), { canonicalSize: 40 }),
    make(
      'boxes on the thresholds between levels',
      pyramid(1, 28, 4),
      listed([28, 56, 112, 224, 448].map((s) => [4, 4, 4 + s, 4 + s])),
    ),
    make('points, lines, inverted, outside, not finite', pyramid(1, 24, 4), awkward, { canonicalSize: 50 }),
    make('points, lines, inverted, outside, not finite, in whole subgroups', pyramid(1, 24, 32), awkward, {
      canonicalSize: 50,
    }),
    make('whole subgroups', pyramid(2, 24, 64), randomBoxes([2, 9], [96, 100], 5), { canonicalSize: 100 }),
    make(
      'in textures',
      [
        [2, 6, 8, 64],
        [2, 3, 4, 64],
      ],
      randomBoxes([2, 5], [48, 64], 4),
      { strides: [8, 16], canonicalSize: 90 },
    ),
    make(
      'two levels',
      [
        [1, 6, 6, 4],
        [1, 3, 3, 4],
      ],
      randomBoxes([1, 8], [48, 48], 3),
      { strides: [8, 16], canonicalSize: 90 },
    ),
    make('no boxes', [[2, 4, 5, 4]], { shape: [2, 0, 4], data: new Float64Array() }),
    ...sampleCases(5, geometries, ({ height, width, channels, batch, boxes, resolution, samplingRatio }, i) =>
      make(
        `one map of ${height} x ${width} x ${channels}, ${resolution} bins of ${samplingRatio} samples`,
        [[batch, height, width, channels]],
        randomBoxes([batch, boxes], [height * 8, width * 8], 10 + i),
        { resolution, samplingRatio, strides: [8] },
      ),
    ),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
