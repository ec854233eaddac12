/** Augmentation: boxes and sizes after a transform, and pixels that follow their boxes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import type { Sharp } from 'sharp';
import { afterAll, describe, expect, test } from 'vitest';
import { Random } from '../engine/core/random.ts';
import type { Box, Size } from '../training/core/image-record.ts';
import { InputError } from '../training/core/errors.ts';
import { decodeImage, ImageCache, transformImage } from '../training/data/images.ts';
import type { PixelImage } from '../training/data/images.ts';
import { PAPER_AUGMENTATION, PLAIN_AUGMENTATION, validateAugmentation } from '../training/core/augmentation.ts';
import { planAugmentation, planEvaluation, resizedSize, scaleOf, transformBox } from '../training/core/transforms.ts';
import type { Augmentation } from '../training/core/augmentation.ts';
import type { ImageTransform } from '../training/core/transforms.ts';

const folder = mkdtempSync(join(tmpdir(), 'transforms-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sizes = fc.record({ width: fc.integer({ min: 1, max: 2000 }), height: fc.integer({ min: 1, max: 2000 }) });
const seeds = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const runs = { seed: 1, numRuns: 300 };

/** A box within an image, from four numbers in 0 .. 1. */
function boxIn({ width, height }: Size, [a, b, c, d]: readonly number[]): Box {
  return [Math.min(a, b) * width, Math.min(c, d) * height, Math.max(a, b) * width, Math.max(c, d) * height];
}
const unit = fc.double({ min: 0, max: 1, noNaN: true });
const quarters = fc.tuple(unit, unit, unit, unit);

describe('sizes', () => {
  test("equal Detectron2's ResizeShortestEdge", () => {
    // From the formula of detectron2.data.transforms.ResizeShortestEdge.get_output_shape, with int(x + 0.5).
    expect(resizedSize({ width: 640, height: 480 }, 800, 1333)).toEqual({ width: 1067, height: 800 });
    expect(resizedSize({ width: 480, height: 640 }, 800, 1333)).toEqual({ width: 800, height: 1067 });
    expect(resizedSize({ width: 500, height: 375 }, 608, 1333)).toEqual({ width: 811, height: 608 });
    expect(resizedSize({ width: 640, height: 200 }, 800, 1333)).toEqual({ width: 1333, height: 417 });
    expect(resizedSize({ width: 333, height: 333 }, 500, 400)).toEqual({ width: 400, height: 400 });
  });

  test('a side of one pixel stays', () => {
    expect(resizedSize({ width: 5000, height: 1 }, 800, 1333)).toEqual({ width: 1333, height: 1 });
  });

  // The short side is in the list, or the long side is at the limit. Crops have sides of 384 to 600, and are cut from
  // an image resized to 400, 500 or 600.
  test('of the paper are within its bounds', () => {
    fc.assert(
      fc.property(sizes, seeds, (size, seed) => {
        const transform = planAugmentation(size, PAPER_AUGMENTATION, new Random(seed));
        const [short, long] = [
          Math.min(transform.width, transform.height),
          Math.max(transform.width, transform.height),
        ];
        expect(long <= 1333).toBe(true);
        expect(PAPER_AUGMENTATION.shortSides.includes(short) || long === 1333).toBe(true);
        const { uncropped, crop } = transform;
        if (uncropped === null || crop === null) return;
        expect([400, 500, 600]).toContain(Math.min(uncropped.width, uncropped.height));
        for (const [side, whole] of [
          [crop.width, uncropped.width],
          [crop.height, uncropped.height],
        ]) {
          expect(side >= Math.min(384, whole) && side <= Math.min(600, whole)).toBe(true);
        }
        expect(
          crop.x >= 0 &&
            crop.y >= 0 &&
            crop.x + crop.width <= uncropped.width &&
            crop.y + crop.height <= uncropped.height,
        ).toBe(true);
      }),
      runs,
    );
  });

  test('equal a fixed size exactly, also after a crop, and in evaluation', () => {
    const augmentation: Augmentation = {
      ...PAPER_AUGMENTATION,
      fixedSize: [192, 256],
      crop: { probability: 1, shortSides: [], minSize: 8, maxSize: 16 },
    };
    expect(planAugmentation({ width: 640, height: 480 }, augmentation, new Random(3))).toMatchObject({
      width: 256,
      height: 192,
      uncropped: { width: 640, height: 480 },
    });
    const evaluation = planEvaluation(
      { width: 640, height: 480 },
      { shortSide: 800, maxSize: 1333, fixedSize: [192, 256] },
    );
    expect(evaluation).toEqual({ uncropped: null, crop: null, width: 256, height: 192, flip: false });
    expect(scaleOf(evaluation, { width: 640, height: 480 })).toEqual([0.4, 0.4]);
  });

  test('flips and crops occur with the probabilities of the settings', () => {
    const plans = Array.from({ length: 2000 }, (_, i) =>
      planAugmentation({ width: 640, height: 480 }, PAPER_AUGMENTATION, new Random(7, i)),
    );
    // Four standard deviations of 2000 fair coins are 89.
    expect(Math.abs(plans.filter(({ flip }) => flip).length - 1000)).toBeLessThan(90);
    expect(Math.abs(plans.filter(({ crop }) => crop !== null).length - 1000)).toBeLessThan(90);
    expect(new Set(plans.map(({ width, height }) => Math.min(width, height))).size).toBeGreaterThanOrEqual(
      PAPER_AUGMENTATION.shortSides.length,
    );
  });
});

describe('boxes', () => {
  test('stay inside the image, with a positive extent', () => {
    fc.assert(
      fc.property(sizes, seeds, quarters, (size, seed, numbers) => {
        const transform = planAugmentation(size, PAPER_AUGMENTATION, new Random(seed));
        const box = transformBox(boxIn(size, numbers), transform, size);
        if (box === null) return;
        expect(
          box[0] >= 0 &&
            box[1] >= 0 &&
            box[2] <= transform.width &&
            box[3] <= transform.height &&
            box[2] > box[0] &&
            box[3] > box[1],
        ).toBe(true);
      }),
      runs,
    );
  });

  test('flipped twice are unchanged', () => {
    fc.assert(
      fc.property(sizes, quarters, (size, numbers) => {
        const flip: ImageTransform = { uncropped: null, crop: null, ...size, flip: true };
        const box = boxIn(size, numbers);
        const once = transformBox(box, flip, size);
        const twice = once && transformBox(once, flip, size);
        // width - (width - x) is exact up to one rounding at the magnitude of the width.
        twice?.forEach((edge, i) => expect(Math.abs(edge - box[i])).toBeLessThanOrEqual(1e-12 * size.width + 1e-12));
      }),
      runs,
    );
  });

  test('outside the crop are dropped, others are clipped', () => {
    const transform: ImageTransform = {
      uncropped: { width: 100, height: 100 },
      crop: { x: 50, y: 20, width: 50, height: 60 },
      width: 100,
      height: 120,
      flip: false,
    };
    const size = { width: 200, height: 200 };
    expect(transformBox([0, 0, 100, 200], transform, size)).toBeNull();
    expect(transformBox([0, 0, 110, 200], transform, size)).toEqual([0, 0, 10, 120]);
    expect(transformBox([120, 60, 140, 100], transform, size)).toEqual([20, 20, 40, 60]);
    expect(transformBox([120, 60, 140, 100], { ...transform, flip: true }, size)).toEqual([60, 20, 80, 60]);
  });
});

/** A black image with a white rectangle. */
function drawn({ width, height }: Size, [x0, y0, x1, y1]: Box): PixelImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = y0; y < y1; y++) data.fill(255, (y * width + x0) * 3, (y * width + x1) * 3);
  return { data, width, height };
}

/** Bounds of the pixels brighter than half. */
function brightBounds({ data, width, height }: PixelImage): Box {
  const bounds: Box = [width, height, 0, 0];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (data[(y * width + x) * 3 + 1] < 128) continue;
      [bounds[0], bounds[1], bounds[2], bounds[3]] = [
        Math.min(bounds[0], x),
        Math.min(bounds[1], y),
        Math.max(bounds[2], x + 1),
        Math.max(bounds[3], y + 1),
      ];
    }
  }
  return bounds;
}

describe('pixels', () => {
  test('follow their boxes through crops, resizes and flips', async () => {
    const augmentation: Augmentation = {
      ...PLAIN_AUGMENTATION,
      flip: 0.5,
      shortSides: [60, 90, 120],
      maxSize: 160,
      crop: { probability: 0.5, shortSides: [80, 100], minSize: 60, maxSize: 90 },
      fixedSize: null,
    };
    const size = { width: 120, height: 90 };
    for (let i = 0; i < 40; i++) {
      const random = new Random(11, i);
      const [x, y] = [random.integer(60), random.integer(40)];
      const box: Box = [x, y, x + 30 + random.integer(30), y + 20 + random.integer(30)];
      const transform = planAugmentation(size, augmentation, random);
      const image = await transformImage(drawn(size, box), transform);
      expect([image.width, image.height, image.data.length]).toEqual([
        transform.width,
        transform.height,
        transform.width * transform.height * 3,
      ]);
      const expected = transformBox(box, transform, size);
      // A threshold at half the brightness finds an edge to the nearest pixel after each of up to two resizes. The
      // second resize scales the error of the first by up to 2.
      if (expected !== null && expected[2] - expected[0] > 4 && expected[3] - expected[1] > 4) {
        brightBounds(image).forEach((edge, k) =>
          expect(Math.abs(edge - expected[k]), `image ${i}, edge ${k}`).toBeLessThanOrEqual(2),
        );
      }
    }
  });

  test('flipped twice are the same bytes, and an unchanged image is a copy', async () => {
    const size = { width: 7, height: 5 };
    const image: PixelImage = { ...size, data: Uint8Array.from({ length: 105 }, (_, i) => i * 2) };
    const flip: ImageTransform = { uncropped: null, crop: null, ...size, flip: true };
    const once = await transformImage(image, flip);
    expect([...once.data.subarray(0, 3)]).toEqual([...image.data.subarray(18, 21)]);
    expect((await transformImage(once, flip)).data).toEqual(image.data);
    const same = await transformImage(image, { ...flip, flip: false });
    expect(same.data).toEqual(image.data);
    expect(same.data.buffer).not.toBe(image.data.buffer);
  });

  test('of gray, palette, alpha and 16-bit files become 8-bit RGB', async () => {
    const pixels = Uint8Array.from({ length: 48 }, (_, i) => i * 5);
    const rgb = sharp(pixels, { raw: { width: 4, height: 4, channels: 3 } });
    const write = async (name: string, image: Sharp) => {
      await image.toFile(join(folder, name));
      return decodeImage(join(folder, name));
    };
    expect((await write('rgb.png', rgb.clone().png())).data).toEqual(pixels);
    expect((await write('alpha.png', rgb.clone().ensureAlpha(0.5).png())).data).toEqual(pixels);
    expect((await write('deep.png', rgb.clone().toColourspace('rgb16').png())).data).toEqual(pixels);
    const gray = await write(
      'gray.png',
      sharp(pixels.subarray(0, 16), { raw: { width: 4, height: 4, channels: 1 } })
        .toColourspace('b-w')
        .png(),
    );
    expect([...gray.data]).toEqual([...pixels.subarray(0, 16)].flatMap((value) => [value, value, value]));
    const cmyk = await write('cmyk.jpg', rgb.clone().toColourspace('cmyk').jpeg());
    expect([cmyk.width, cmyk.height, cmyk.data.length]).toEqual([4, 4, 48]);
  });

  test('an EXIF orientation is applied, unless the annotations state the size before rotation', async () => {
    const file = join(folder, 'turned.jpg');
    await sharp({ create: { width: 20, height: 10, channels: 3, background: 'red' } })
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toFile(file);
    const sizeOf = ({ width, height }: Size) => ({ width, height });
    expect(sizeOf(await decodeImage(file))).toEqual({ width: 10, height: 20 });
    expect(sizeOf(await decodeImage(file, { width: 10, height: 20 }))).toEqual({ width: 10, height: 20 });
    expect(sizeOf(await decodeImage(file, { width: 20, height: 10 }))).toEqual({ width: 20, height: 10 });
    await expect(decodeImage(file, { width: 21, height: 10 })).rejects.toThrow(
      `${file}: width x height: expected 21 x 10, as the annotations state, got 10 x 20`,
    );
  });

  test('the cache drops the least recently used image, and ignores images larger than itself', () => {
    const image = (bytes: number): PixelImage => ({ data: new Uint8Array(bytes), width: bytes / 3, height: 1 });
    const cache = new ImageCache(30);
    cache.set('a', image(12));
    cache.set('b', image(12));
    cache.get('a');
    cache.set('c', image(12));
    cache.set('huge', image(33));
    expect(['a', 'b', 'c', 'huge'].filter((key) => cache.get(key) !== undefined)).toEqual(['a', 'c']);
  });
});

describe('bad settings are refused', () => {
  const bad: [string, Partial<Augmentation>][] = [
    ['augmentation.flip: expected a probability in 0 .. 1, got 1.5', { flip: 1.5 }],
    ['augmentation.shortSides: expected at least one size, or a fixedSize, got []', { shortSides: [] }],
    ['augmentation.shortSides[1]: expected an integer of at least 1 (pixels), got 0.5', { shortSides: [480, 0.5] }],
    ['augmentation.maxSize: expected an integer of at least 1 (pixels), got 0', { maxSize: 0 }],
    ['augmentation.fixedSize[0]: expected an integer of at least 1 (pixels), got -1', { fixedSize: [-1, 10] }],
    [
      'augmentation.crop.maxSize: expected at least crop.minSize (384), got 300',
      { crop: { probability: 0.5, shortSides: [400], minSize: 384, maxSize: 300 } },
    ],
  ];
  test.each(bad)('%s', (message, change) => {
    expect(() => validateAugmentation({ ...PAPER_AUGMENTATION, ...change })).toThrow(new InputError(message));
  });
});
