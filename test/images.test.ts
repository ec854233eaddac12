/** Conversion of decoded images to the network's input: values, padding, and errors that name the image. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { normalizeImages, Random, ShapeError, type ImageData, type NormalizeOptions } from '../engine/index.ts';
import { testDevice } from './devices.ts';

const device = await testDevice();
const statistics: NormalizeOptions = { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375] };

function randomImage(width: number, height: number, seed: number, float = false): ImageData {
  const random = new Random(seed);
  const values = Array.from({ length: width * height * 3 }, () =>
    float ? random.uniform() * 255 : random.integer(256),
  );
  return { width, height, data: float ? Float32Array.from(values) : Uint8Array.from(values) };
}

/** (x - mean) / std inside the image, 0 elsewhere. */
function reference(images: readonly ImageData[], H: number, W: number, { mean, std }: NormalizeOptions): Float64Array {
  const batch = new Float64Array(images.length * H * W * 3);
  images.forEach(({ data, width, height }, b) => {
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        for (let c = 0; c < 3; c++) {
          batch[((b * H + y) * W + x) * 3 + c] = (data[(y * width + x) * 3 + c] - mean[c]) / std[c];
        }
  });
  return batch;
}

async function check(images: readonly ImageData[], options: NormalizeOptions, H: number, W: number): Promise<void> {
  const before = device.memory().liveBytes;
  const batch = normalizeImages(device, images, options);
  expect(batch.shape).toEqual([images.length, H, W, 3]);
  expect(batch.requiresGrad).toBe(false);
  const expected = reference(images, H, W, options);
  // A subtraction and a division of numbers up to 255 round by some units in the last place of 255 / std.
  (await batch.read()).forEach((value, i) => {
    if (!(Math.abs(value - expected[i]) <= 2e-6)) throw new Error(`value ${i}: expected ${expected[i]}, got ${value}`);
  });
  batch.dispose();
  expect(device.memory().liveBytes, 'nothing but the result is kept').toBe(before);
}

describe('normalizeImages', () => {
  test('pads a mixed batch at right and bottom to the largest sides, rounded up', async () => {
    await check([randomImage(40, 21, 1), randomImage(17, 33, 2)], statistics, 64, 64);
  });
  test('an image that fills the batch gets no padding', async () => {
    await check([randomImage(64, 32, 3)], statistics, 32, 64);
  });
  test('bytes and floats may be mixed', async () => {
    await check(
      [randomImage(5, 3, 4), randomImage(3, 4, 5, true), randomImage(1, 1, 6)],
      { ...statistics, divisor: 1 },
      4,
      5,
    );
  });
  test('a given size is the size of every batch', async () => {
    await check([randomImage(20, 10, 7)], { ...statistics, height: 40, width: 96 }, 64, 96);
  });
  test('images of any sizes', async () => {
    const side = fc.integer({ min: 1, max: 20 });
    const image = fc
      .tuple(side, side, fc.nat(), fc.boolean())
      .map(([width, height, seed, float]) => randomImage(width, height, seed, float));
    await fc.assert(
      fc.asyncProperty(
        fc.array(image, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 9 }),
        async (images, divisor) => {
          const up = (side: 'height' | 'width'): number =>
            Math.ceil(Math.max(...images.map((i) => i[side])) / divisor) * divisor;
          await check(images, { ...statistics, divisor }, up('height'), up('width'));
        },
      ),
      { seed: 20220521, numRuns: 12 },
    );
  });
  test('one dispatch per batch', () => {
    const before = device.dispatches;
    device.scope(() => {
      normalizeImages(device, [randomImage(8, 8, 8), randomImage(9, 9, 9)], statistics);
    });
    expect(device.dispatches - before).toBe(1);
  });
  test('errors name the image and the wrong value', () => {
    const fails = (images: readonly ImageData[], options: Partial<NormalizeOptions>, message: string): void => {
      const run = (): void => {
        normalizeImages(device, images, { ...statistics, ...options });
      };
      expect(run).toThrow(ShapeError);
      expect(run).toThrow(message);
    };
    fails([], {}, 'images: expected at least one image');
    fails(
      [randomImage(2, 2, 1), { ...randomImage(2, 2, 1), width: 3 }],
      {},
      'images[1].data: expected 2 x 3 x 3 values, got 12',
    );
    fails(
      [{ data: new Uint8Array(0), width: 0, height: 4 }],
      {},
      'images[0].width: expected a positive integer, got 0',
    );
    fails(
      [randomImage(4, 9, 1)],
      { height: 8 },
      "height: expected an integer of at least 9, the largest image's, got 8",
    );
    fails([randomImage(4, 4, 1)], { divisor: 0 }, 'divisor: expected a positive integer, got 0');
    fails([randomImage(4, 4, 1)], { std: [1, 0, 1] }, 'std: expected three positive numbers, got [1, 0, 1]');
  });
});
