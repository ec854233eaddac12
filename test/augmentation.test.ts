/** Augmentation on a canvas: geometry of pieces and boxes, pixels that follow their boxes, colors, and settings. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Random } from '../engine/core/random.ts';
import {
  PAPER_AUGMENTATION,
  PLAIN_AUGMENTATION,
  usesCanvas,
  validateAugmentation,
  type Augmentation,
} from '../training/core/augmentation.ts';
import { colorChange, drawColorChange } from '../training/core/color-change.ts';
import {
  canvasOf,
  pieceBox,
  planComposition,
  visibleObjects,
  workingSize,
  type Composition,
} from '../training/core/composition.ts';
import { InputError } from '../training/core/errors.ts';
import type { Box, ImageRecord, Size } from '../training/core/image-record.ts';
import { planAugmentation, scaleOf } from '../training/core/transforms.ts';
import { changeColors, composeImage, orientImage } from '../training/data/augment-pixels.ts';
import { resizeImage, transformImage, type PixelImage } from '../training/data/images.ts';
import { applyOverride } from '../training/core/overrides.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { validateRunConfig } from '../training/core/recipe-schema.ts';

const plain: Augmentation = {
  ...PLAIN_AUGMENTATION,
  flip: 0,
  shortSides: [60],
  maxSize: 120,
  crop: null,
  fixedSize: null,
};
const everything: Augmentation = {
  ...plain,
  flip: 0.5,
  flipVertical: 0.5,
  rotate90: 0.5,
  shortSides: [50, 60],
  crop: { probability: 0.3, shortSides: [60, 80], minSize: 30, maxSize: 60 },
  color: { brightness: 0.3, contrast: 0.3, saturation: 0.5, hue: 30, gray: 0.2 },
  scale: [0.4, 2],
  aspectJitter: 0.3,
  mosaic: 0.5,
};

const sizes = fc.record({ width: fc.integer({ min: 1, max: 300 }), height: fc.integer({ min: 1, max: 300 }) });
const unit = fc.double({ min: 0, max: 1, noNaN: true });
const quarters = fc.tuple(unit, unit, unit, unit);
const seeds = fc.integer({ min: 0, max: 2 ** 32 - 1 });
const runs = { seed: 1, numRuns: 300 };

function record(size: Size, boxes: readonly Box[], id = 1): ImageRecord {
  const objects = boxes.map((box, i) => ({ id: i, label: i, box, area: 1, crowd: false }));
  return { id, file: `${id}.png`, name: `${id}.png`, ...size, objects };
}

function boxIn({ width, height }: Size, [a, b, c, d]: readonly number[]): Box {
  return [Math.min(a, b) * width, Math.min(c, d) * height, Math.max(a, b) * width, Math.max(c, d) * height];
}

const areaOf = ([x0, y0, x1, y1]: readonly number[]): number => (x1 - x0) * (y1 - y0);

function plan(records: readonly ImageRecord[], augmentation: Augmentation, seed: number): Composition {
  const random = new Random(seed);
  const options = { records, augmentation, canvas: canvasOf(records, augmentation) };
  return planComposition(options, 0, random, () => random.integer(records.length));
}

/** Width and height of a piece in the result. */
function shownSize({ transform: { width, height }, transpose }: Composition['pieces'][number]): Size {
  return transpose ? { width: height, height: width } : { width, height };
}

describe('pieces', () => {
  test('lie inside the canvas and do not overlap; crops lie inside the working size', () => {
    fc.assert(
      fc.property(fc.array(sizes, { minLength: 1, maxLength: 4 }), seeds, (list, seed) => {
        const records = list.map((size, i) => record(size, [], i));
        const { width, height, pieces } = plan(records, everything, seed);
        expect({ width, height }).toEqual(canvasOf(records, everything));
        const rectangles = pieces.map((piece) => ({ x: piece.x, y: piece.y, ...shownSize(piece) }));
        for (const { x, y, width: w, height: h } of rectangles)
          expect(x >= 0 && y >= 0 && w >= 1 && h >= 1 && x + w <= width && y + h <= height).toBe(true);
        for (const [i, a] of rectangles.entries())
          for (const b of rectangles.slice(i + 1)) {
            const apart =
              a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
            expect(apart).toBe(true);
          }
        for (const { index, transform } of pieces) {
          expect(transform.uncropped).toEqual(workingSize(records[index], everything));
          const { uncropped, crop } = transform;
          const inside =
            crop !== null &&
            uncropped !== null &&
            [crop.x, crop.y, crop.width, crop.height].every(Number.isInteger) &&
            Math.min(crop.x, crop.y) >= 0 &&
            Math.min(crop.width, crop.height) >= 1 &&
            crop.x + crop.width <= uncropped.width &&
            crop.y + crop.height <= uncropped.height;
          expect(inside).toBe(true);
        }
      }),
      runs,
    );
  });

  test('are whole images of the canvas at scale 1, and the canvas is the usual size of the data', () => {
    const jitter = { ...plain, mosaic: 1e-9 };
    const records = [record({ width: 640, height: 480 }, []), record({ width: 64, height: 48 }, [])];
    expect(plan(records, jitter, 4)).toEqual({
      width: 80,
      height: 60,
      pieces: [
        {
          index: 0,
          transform: {
            uncropped: { width: 80, height: 60 },
            crop: { x: 0, y: 0, width: 80, height: 60 },
            width: 80,
            height: 60,
            flip: false,
          },
          flipVertical: false,
          transpose: false,
          color: null,
          x: 0,
          y: 0,
        },
      ],
    });
    const mixed = [...records, record({ width: 480, height: 640 }, []), record({ width: 30, height: 40 }, [])];
    expect(canvasOf(mixed, jitter)).toEqual({ width: 80, height: 80 });
    expect(canvasOf(mixed, { ...jitter, fixedSize: [32, 48] })).toEqual({ width: 48, height: 32 });
    expect(canvasOf(mixed, plain)).toBeNull();
  });

  test('have scales in the given range, and mosaics the given probability', () => {
    const records = [record({ width: 200, height: 150 }, [])];
    const scaled = Array.from({ length: 300 }, (_, seed) => plan(records, { ...plain, scale: [0.5, 0.8] }, seed));
    const widths = scaled.map(({ pieces: [{ transform }] }) => transform.width);
    expect(Math.min(...widths)).toBeGreaterThanOrEqual(40);
    expect(Math.min(...widths)).toBeLessThan(43);
    expect(Math.max(...widths)).toBeLessThanOrEqual(64);
    expect(Math.max(...widths)).toBeGreaterThan(61);
    // Images in mosaics are reduced further, but not below the smaller of both minima.
    const reduced = Array.from({ length: 100 }, (_, seed) =>
      plan(records, { ...plain, scale: [0.5, 1.5], mosaic: 1 }, seed),
    ).flatMap(({ pieces }) => pieces.map(({ transform }) => scaleOf(transform, records[0])[0] / (60 / 150)));
    // Whole pixels change the ratio of a cut of few pixels.
    expect(Math.min(...reduced)).toBeGreaterThan(0.45);
    expect(Math.max(...reduced)).toBeGreaterThan(1.2);
    const mosaics = Array.from({ length: 1000 }, (_, seed) => plan(records, { ...plain, mosaic: 0.3 }, seed));
    const count = mosaics.filter(({ pieces }) => pieces.length === 4).length;
    // Four standard deviations of 1000 coins of probability 0.3 are 58.
    expect(Math.abs(count - 300)).toBeLessThan(58);
    expect(mosaics.every(({ pieces }) => pieces.length === 4 || pieces.length === 1)).toBe(true);
  });

  test('turn by 90, 180 and 270 degrees without mirroring', () => {
    const size = { width: 60, height: 60 };
    const records = [record(size, [[0, 0, 20, 10]])];
    const corners = new Set<string>();
    for (let seed = 0; seed < 40; seed++) {
      const composition = plan(records, { ...plain, rotate90: 1 }, seed);
      corners.add(visibleObjects(composition, records, 0).boxes.join());
    }
    expect([...corners].sort()).toEqual(['0,40,10,60', '40,50,60,60', '50,0,60,20']);
  });
});

describe('boxes', () => {
  test('stay inside their piece, with an area in proportion to the scale', () => {
    fc.assert(
      fc.property(sizes, quarters, seeds, (size, numbers, seed) => {
        const box = boxIn(size, numbers);
        const records = [record(size, [box])];
        for (const piece of plan(records, everything, seed).pieces) {
          const result = pieceBox(box, piece, size, 0);
          if (result === null) continue;
          const shown = shownSize(piece);
          const margin = 1e-9;
          expect(result[0] >= piece.x - margin && result[1] >= piece.y - margin).toBe(true);
          expect(result[2] <= piece.x + shown.width + margin && result[3] <= piece.y + shown.height + margin).toBe(
            true,
          );
          const { uncropped, crop, width, height } = piece.transform;
          if (uncropped === null || crop === null) throw new Error('expected a crop');
          const scale = ((uncropped.width / size.width) * width * uncropped.height * height) / size.height;
          expect(areaOf(result)).toBeLessThanOrEqual(
            ((areaOf(box) * scale) / crop.width / crop.height) * (1 + 1e-9) + 1e-6,
          );
        }
      }),
      runs,
    );
  });

  test('of which less than minVisible remains are dropped', () => {
    const size = { width: 100, height: 100 };
    const piece = {
      index: 0,
      transform: {
        uncropped: size,
        crop: { x: 50, y: 0, width: 50, height: 100 },
        width: 100,
        height: 200,
        flip: true,
      },
      flipVertical: false,
      transpose: false,
      color: null,
      x: 3,
      y: 5,
    };
    // A quarter of the box is right of x = 50.
    const box: Box = [20, 10, 60, 30];
    expect(pieceBox(box, piece, size, 0.25)).toEqual([83, 25, 103, 65]);
    expect(pieceBox(box, piece, size, 0.26)).toBeNull();
    expect(pieceBox(box, piece, size, 0)).toEqual([83, 25, 103, 65]);
    expect(pieceBox([50, 0, 100, 100], piece, size, 1)).toEqual([3, 5, 103, 205]);
  });

  test('with keepObject, crops and zooms show an object of at least minVisible', () => {
    const records = [record({ width: 300, height: 200 }, [[250, 20, 290, 50]])];
    const crop = { probability: 1, shortSides: [], minSize: 100, maxSize: 150 };
    for (const settings of [{ crop }, { crop, scale: [1, 2] as const }, { scale: [1.5, 2] as const }]) {
      const count = (keepObject: boolean) =>
        Array.from({ length: 60 }, (_, seed) => {
          const augmentation = { ...plain, ...settings, minVisible: 0.5, keepObject };
          const { boxes } = visibleObjects(plan(records, augmentation, seed), records, 0.5);
          return boxes.length / 4;
        }).reduce((sum, visible) => sum + visible, 0);
      // Half a percent of the single draws succeed at least, so that 50 draws nearly always do.
      expect(count(true)).toBeGreaterThanOrEqual(55);
      expect(count(false)).toBeLessThan(45);
    }
    const empty = [record({ width: 300, height: 200 }, [])];
    expect(plan(empty, { ...plain, crop, keepObject: true }, 1).pieces.length).toBe(1);
  });

  test('of crowds are no targets', () => {
    const one = record({ width: 60, height: 60 }, [[0, 0, 20, 20]]);
    const crowd = { ...one, objects: one.objects.map((object) => ({ ...object, crowd: true })) };
    expect(visibleObjects(plan([crowd], plain, 1), [crowd], 0)).toEqual({ boxes: [], labels: [] });
  });
});

/** A dark image with a bright rectangle. */
function drawn({ width, height }: Size, [x0, y0, x1, y1]: Box): PixelImage {
  const data = new Uint8Array(width * height * 3);
  for (let y = y0; y < y1; y++) data.fill(255, (y * width + x0) * 3, (y * width + x1) * 3);
  return { data, width, height };
}

/** Bounds of the pixels of a piece that are brighter than the canvas color, in the result. */
function brightBounds({ data, width }: PixelImage, piece: Composition['pieces'][number]): Box {
  const size = shownSize(piece);
  const bounds: Box = [Infinity, Infinity, 0, 0];
  for (let y = piece.y; y < piece.y + size.height; y++)
    for (let x = piece.x; x < piece.x + size.width; x++) {
      if (data[(y * width + x) * 3 + 1] < 128) continue;
      bounds[0] = Math.min(bounds[0], x);
      bounds[1] = Math.min(bounds[1], y);
      bounds[2] = Math.max(bounds[2], x + 1);
      bounds[3] = Math.max(bounds[3], y + 1);
    }
  return bounds;
}

describe('pixels', () => {
  test('follow their boxes through crops, scales, turns and mosaics', async () => {
    const augmentation: Augmentation = { ...everything, color: PLAIN_AUGMENTATION.color };
    let compared = 0;
    for (let seed = 0; seed < 60; seed++) {
      const random = new Random(17, seed);
      const records = [0, 1, 2].map((id) => {
        const size = { width: 90 + random.integer(60), height: 70 + random.integer(60) };
        const [x, y] = [random.integer(50), random.integer(40)];
        return record(size, [[x, y, x + 20 + random.integer(20), y + 15 + random.integer(15)]], id);
      });
      const composition = plan(records, augmentation, seed);
      const pixels: PixelImage[] = [];
      for (const { index, transform, flipVertical, transpose } of composition.pieces) {
        const source = drawn(records[index], records[index].objects[0].box);
        const working = await resizeImage(source, workingSize(records[index], augmentation));
        pixels.push(orientImage(await transformImage(working, transform), flipVertical, transpose));
      }
      const image = composeImage(composition, pixels);
      expect(image.data.length).toBe(composition.width * composition.height * 3);
      for (const piece of composition.pieces) {
        const expected = pieceBox(records[piece.index].objects[0].box, piece, records[piece.index], 0);
        if (expected === null || expected[2] - expected[0] < 6 || expected[3] - expected[1] < 6) continue;
        compared++;
        // Each resize finds an edge to the nearest pixel; the second one enlarges the first error by up to 2.5.
        brightBounds(image, piece).forEach((edge, k) =>
          expect(Math.abs(edge - expected[k]), `seed ${seed}, edge ${k}`).toBeLessThanOrEqual(2.5),
        );
      }
    }
    expect(compared).toBeGreaterThan(60);
  });

  test('beyond the images have the canvas color', () => {
    const piece = plan([record({ width: 3, height: 2 }, [])], plain, 1).pieces[0];
    const image = { width: 1, height: 1, data: Uint8Array.of(1, 2, 3) };
    const { data } = composeImage({ width: 2, height: 2, pieces: [{ ...piece, x: 1, y: 0 }] }, [image]);
    expect([...data]).toEqual([124, 116, 104, 1, 2, 3, 124, 116, 104, 124, 116, 104]);
  });

  test('turn: a vertical flip and a transposition are a turn clockwise', () => {
    const image = { width: 3, height: 2, data: Uint8Array.from([1, 2, 3, 4, 5, 6].flatMap((v) => [v, v, v])) };
    const reds = ({ data }: PixelImage) => [...data].filter((_, i) => i % 3 === 0);
    expect(orientImage(image, false, false)).toBe(image);
    expect(reds(orientImage(image, true, false))).toEqual([4, 5, 6, 1, 2, 3]);
    expect(reds(orientImage(image, false, true))).toEqual([1, 4, 2, 5, 3, 6]);
    const turned = orientImage(image, true, true);
    expect([turned.width, turned.height]).toEqual([2, 3]);
    expect(reds(turned)).toEqual([4, 1, 5, 2, 6, 3]);
  });
});

describe('colors', () => {
  const neutral = { brightness: 1, contrast: 1, saturation: 1, hue: 0 };
  const changed = (color: readonly number[], change: Partial<typeof neutral>) => {
    const image = { width: 1, height: 1, data: Uint8Array.from(color) };
    changeColors(image, colorChange({ ...neutral, ...change }));
    return [...image.data];
  };

  test('without a change stay the same', () => {
    const image = { width: 256, height: 3, data: Uint8Array.from({ length: 2304 }, (_, i) => (i * 37) % 256) };
    const before = image.data.slice();
    changeColors(image, colorChange(neutral));
    expect(image.data).toEqual(before);
  });

  test('change as the formulas say, and are clamped', () => {
    expect(changed([100, 50, 200], { brightness: 1.5 })).toEqual([150, 75, 255]);
    expect(changed([100, 50, 200], { contrast: 0.5 })).toEqual([114, 89, 164]);
    const luma = Math.round(0.299 * 100 + 0.587 * 50 + 0.114 * 200);
    expect(changed([100, 50, 200], { saturation: 0 })).toEqual([luma, luma, luma]);
    expect(changed([80, 80, 80], { hue: 120 })).toEqual([80, 80, 80]);
    // The turn keeps the luma.
    const [r, g, b] = changed([120, 100, 90], { hue: 40 });
    expect([r, g, b]).not.toEqual([120, 100, 90]);
    expect(Math.abs(0.299 * r + 0.587 * g + 0.114 * b - (0.299 * 120 + 0.587 * 100 + 0.114 * 90))).toBeLessThan(1);
    // Three turns by 120 degrees are a whole turn; each rounds.
    const thrice = [1, 2, 3].reduce((color) => changed(color, { hue: 120 }), [120, 110, 100]);
    [120, 110, 100].forEach((value, i) => expect(Math.abs(thrice[i] - value)).toBeLessThanOrEqual(2));
  });

  test('are drawn within their ranges; gray images have the given probability; no range draws no number', () => {
    const random = new Random(3);
    const settings = { brightness: 0.2, contrast: 0, saturation: 0, hue: 0, gray: 0.3 };
    const changes = Array.from({ length: 1000 }, () => drawColorChange(settings, random));
    const gains = changes.map((change) => (change ? change[0][0] + change[0][1] + change[0][2] : 0));
    expect(Math.min(...gains)).toBeGreaterThanOrEqual(0.8 - 1e-6);
    expect(Math.max(...gains)).toBeLessThanOrEqual(1.2 + 1e-6);
    expect(Math.max(...gains) - Math.min(...gains)).toBeGreaterThan(0.35);
    const gray = changes.filter((change) => change && Math.abs(change[0][1] - change[1][1]) < 1e-4).length;
    // Four standard deviations of 1000 coins of probability 0.3 are 58.
    expect(Math.abs(gray - 300)).toBeLessThan(58);
    const untouched = new Random(9);
    expect(drawColorChange(PLAIN_AUGMENTATION.color, untouched)).toBeNull();
    expect(untouched.uint32()).toBe(new Random(9).uint32());
  });
});

describe('settings', () => {
  test('of the paper give the same plans as before the fields for small data existed', () => {
    expect(usesCanvas(PAPER_AUGMENTATION)).toBe(false);
    const hash = createHash('sha256');
    for (let i = 0; i < 500; i++) {
      const size = { width: 300 + i, height: 640 };
      const { uncropped: u, crop: c, width, height, flip } = planAugmentation(size, PAPER_AUGMENTATION, new Random(i));
      hash.update([u?.width, u?.height, c?.x, c?.y, c?.width, c?.height, width, height, flip].join());
      const records = [record(size, [])];
      const options = { records, augmentation: PAPER_AUGMENTATION, canvas: null };
      expect(planComposition(options, 0, new Random(i), () => 0)).toEqual({
        width,
        height,
        pieces: [
          {
            index: 0,
            transform: { uncropped: u, crop: c, width, height, flip },
            flipVertical: false,
            transpose: false,
            color: null,
            x: 0,
            y: 0,
          },
        ],
      });
    }
    expect(hash.digest('hex').slice(0, 16)).toBe('b6d59bb3b80f2108');
  });

  const bad: [string, Partial<Augmentation>][] = [
    ['augmentation.rotate90: expected a probability in 0 .. 1, got -1', { rotate90: -1 }],
    [
      'augmentation.scale: expected [minimum, maximum] with 0.05 <= minimum <= maximum <= 20, got [2,1]',
      { scale: [2, 1] },
    ],
    ['augmentation.mosaicEnd: expected a number >= 0 and <= 1, got 2', { mosaicEnd: 2 }],
    [
      'augmentation.color.hue: expected a number >= 0 and <= 180, got 200',
      { color: { ...PLAIN_AUGMENTATION.color, hue: 200 } },
    ],
  ];
  test.each(bad)('%s', (message, change) => {
    expect(() => validateAugmentation({ ...plain, ...change })).toThrow(new InputError(message));
  });

  test('have short keys, and configurations of earlier versions get them', () => {
    let config: Record<string, unknown> = { ...presetConfig('small') };
    for (const item of ['mosaic=0.5', 'scale=[0.5,1.5]', 'hue=12', 'rotate90=0.5', 'keepObject=true'])
      ({ config } = applyOverride(config, item));
    const { training } = validateRunConfig(config, 'test');
    expect(training.augmentation).toMatchObject({ mosaic: 0.5, scale: [0.5, 1.5], rotate90: 0.5, keepObject: true });
    expect(training.augmentation.color).toEqual({ ...PLAIN_AUGMENTATION.color, hue: 12 });
    const { flip, shortSides, maxSize, crop, fixedSize } = presetConfig('small').training.augmentation;
    const earlier = {
      ...config,
      training: { ...training, augmentation: { flip, shortSides, maxSize, crop, fixedSize } },
    };
    expect(validateRunConfig(earlier, 'test').training.augmentation).toEqual(
      presetConfig('small').training.augmentation,
    );
  });
});
