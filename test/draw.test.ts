/**
 * Pictures of detections: legible at any image size, inside the picture, and independent of installed fonts. Plots
 * render to PNG with the same fonts.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { colorOf, textColorOn } from '../training/pictures/colors.ts';
import { contactSheet } from '../training/pictures/contact-sheet.ts';
import { drawBoxes, type DrawnBox } from '../training/pictures/draw-boxes.ts';
import { rasterizeSvg, writePng } from '../training/pictures/png.ts';
import type { Canvas } from '@napi-rs/canvas';
import { InputError } from '../training/core/errors.ts';
import type { PixelImage } from '../training/data/images.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'draw-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const GRAY = 128;
const gray = (width: number, height: number): PixelImage => ({
  data: new Uint8Array(width * height * 3).fill(GRAY),
  width,
  height,
});

/** [red, green, blue] at a pixel. */
function at(canvas: Canvas, x: number, y: number): number[] {
  return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)];
}

const rgb = (color: string) => [1, 3, 5].map((start) => Number.parseInt(color.slice(start, start + 2), 16));

/** Pixels within [x, x + width) x [y, y + height) that are not the background. */
function marked(canvas: Canvas, x: number, y: number, width: number, height: number): number {
  const { data } = canvas.getContext('2d').getImageData(x, y, width, height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    count += Number(data[i] !== GRAY || data[i + 1] !== GRAY || data[i + 2] !== GRAY);
  return count;
}

describe('boxes', () => {
  test('small images are enlarged to a legible size, large ones stay as they are', async () => {
    for (const [side, expected] of [
      [96, 480],
      [64, 512],
      [20, 160],
      [320, 640],
      [640, 640],
      [1000, 1000],
    ]) {
      expect((await drawBoxes(gray(side, side), [])).width, `${side}`).toBe(expected);
    }
    const { width, height } = await drawBoxes(gray(96, 50), [], { scale: 1.5 });
    expect([width, height]).toEqual([144, 75]);
  });

  test('lines have the color of the class and lie where the box is, also after enlargement', async () => {
    const box: DrawnBox = { box: [100, 200, 300, 400], label: 3, name: 'cat', score: 0.5 };
    const whole = await drawBoxes(gray(640, 480), [box]);
    for (const [x, y] of [
      [100, 300],
      [300, 300],
      [200, 200],
      [200, 400],
    ])
      expect(at(whole, x, y)).toEqual(rgb(colorOf(3)));
    expect(at(whole, 200, 300)).toEqual([GRAY, GRAY, GRAY]);
    const small = await drawBoxes(gray(96, 96), [{ ...box, box: [10, 40, 50, 80] }]);
    for (const [x, y] of [
      [50, 300],
      [250, 300],
      [150, 200],
      [150, 400],
    ])
      expect(at(small, x, y)).toEqual(rgb(colorOf(3)));
  });

  test('nothing is drawn outside boxes and their tags', async () => {
    const canvas = await drawBoxes(gray(640, 480), [{ box: [300, 200, 400, 300], label: 0, name: 'cat', score: 0.5 }]);
    expect(marked(canvas, 0, 0, 640, 170)).toBe(0);
    expect(marked(canvas, 0, 0, 290, 480)).toBe(0);
    expect(marked(canvas, 0, 310, 640, 170)).toBe(0);
    expect(marked(canvas, 300, 175, 60, 20)).toBeGreaterThan(600);
  });

  test('a tag outside the picture is moved inside: at every corner all of its pixels are visible', async () => {
    const tagPixels = async (box: DrawnBox['box']) => {
      const canvas = await drawBoxes(gray(640, 480), [{ box, label: 2, name: 'a long enough name', score: 0.9 }]);
      const { data } = canvas.getContext('2d').getImageData(0, 0, 640, 480);
      const [red, green, blue] = rgb(textColorOn(colorOf(2)));
      let count = 0;
      for (let i = 0; i < data.length; i += 4)
        count += Number(data[i] === red && data[i + 1] === green && data[i + 2] === blue);
      return count;
    };
    const middle = await tagPixels([200, 200, 300, 300]);
    expect(middle).toBeGreaterThan(300);
    for (const box of [
      [0, 0, 60, 60],
      [580, 0, 640, 60],
      [0, 420, 60, 480],
      [580, 420, 640, 480],
      [-50, -50, 700, 500],
    ] as const) {
      expect(await tagPixels(box)).toBe(middle);
    }
  });

  test('tags of two equal boxes do not cover each other', async () => {
    const one: DrawnBox = { box: [200, 200, 300, 300], label: 0, name: 'cat', score: 0.9 };
    const two: DrawnBox = { ...one, label: 1, name: 'dog', score: 0.8 };
    const tagged = await drawBoxes(gray(640, 480), [one, two]);
    const bare = await drawBoxes(gray(640, 480), [
      { ...one, name: '', score: undefined },
      { ...two, name: '', score: undefined },
    ]);
    const alone = await drawBoxes(gray(640, 480), [one]);
    const above = [190, 170, 120, 26] as const;
    expect(marked(bare, ...above)).toBeLessThan(10);
    expect(marked(tagged, ...above)).toBe(marked(alone, ...above));
    expect(marked(tagged, 0, 0, 640, 480)).toBeGreaterThan(marked(alone, 0, 0, 640, 480) + 400);
  });

  test('ground truth is visible where it equals a box', async () => {
    const box: DrawnBox = { box: [200, 200, 300, 300], label: 0, name: 'cat' };
    const plain = await drawBoxes(gray(640, 480), [box]);
    const both = await drawBoxes(gray(640, 480), [box], { groundTruth: [box] });
    const along = (canvas: Canvas) => Array.from({ length: 60 }, (_, n) => at(canvas, 220 + n, 300).join());
    expect(new Set(along(plain)).size).toBe(1);
    expect(new Set(along(both)).size).toBeGreaterThan(1);
  });

  test('any boxes, names and image sizes can be drawn', async () => {
    const coordinate = fc.integer({ min: -40, max: 140 });
    const box = fc
      .tuple(coordinate, coordinate, coordinate, coordinate)
      .map(([a, b, c, d]): DrawnBox['box'] => [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)]);
    const drawn = fc.record({
      box,
      label: fc.nat(200),
      name: fc.string({ maxLength: 60 }),
      score: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 100 }),
        fc.integer({ min: 1, max: 100 }),
        fc.array(drawn, { maxLength: 12 }),
        async (width, height, boxes) => {
          const canvas = await drawBoxes(gray(width, height), boxes);
          expect(canvas.width / canvas.height).toBeCloseTo(width / height, 10);
        },
      ),
      { seed: 5, numRuns: 25 },
    );
  });

  test('malformed boxes, pixels and scales are refused by name', async () => {
    const box = (...box: [number, number, number, number]): DrawnBox => ({ box, label: 0, name: '' });
    await expect(drawBoxes(gray(8, 8), [box(0, 0, 1, 1), box(3, 0, 2, 1)])).rejects.toThrow(
      'boxes[1].box: expected [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, got [3, 0, 2, 1]',
    );
    await expect(drawBoxes(gray(8, 8), [], { groundTruth: [box(0, 0, NaN, 1)] })).rejects.toThrow('groundTruth[0].box');
    await expect(drawBoxes(gray(8, 8), [{ ...box(0, 0, 1, 1), label: -1 }])).rejects.toThrow('boxes[0].label');
    await expect(drawBoxes({ ...gray(8, 8), width: 9 }, [])).rejects.toThrow(
      'image.data: expected height * width * 3 = 216 bytes, got 192',
    );
    await expect(drawBoxes(gray(8, 8), [], { scale: 0 })).rejects.toThrow('scale');
  });
});

describe('files', () => {
  test('an image file is drawn upright and written as PNG', async () => {
    const path = join(folder, 'image.png');
    const out = join(folder, 'drawn.png');
    await sharp({ create: { width: 30, height: 20, channels: 3, background: { r: 10, g: 200, b: 90 } } })
      .png()
      .toFile(path);
    writePng(out, await drawBoxes(path, [], { scale: 2 }));
    const { data, info } = await sharp(out).removeAlpha().raw().toBuffer({ resolveWithObject: true });
    expect([info.width, info.height]).toEqual([60, 40]);
    expect([...data.subarray(0, 3)]).toEqual([10, 200, 90]);
    expect(new Set(data).size).toBe(3);

    const turned = join(folder, 'turned.jpg');
    await sharp(path).withMetadata({ orientation: 6 }).jpeg().toFile(turned);
    const { width, height } = await drawBoxes(turned, [], { scale: 1 });
    expect([width, height]).toEqual([20, 30]);
  });

  test('gray images have three channels too', async () => {
    const path = join(folder, 'gray.png');
    await sharp(Buffer.alloc(600, 77), { raw: { width: 30, height: 20, channels: 1 } })
      .toColourspace('b-w')
      .png()
      .toFile(path);
    expect(at(await drawBoxes(path, [], { scale: 1 }), 10, 10)).toEqual([77, 77, 77]);
  });

  test('a file that is no image is an input error', async () => {
    const path = join(folder, 'text.jpg');
    writeFileSync(path, 'no image');
    await expect(drawBoxes(path, [])).rejects.toBeInstanceOf(InputError);
    await expect(drawBoxes(path, [])).rejects.toThrow(path);
    await expect(drawBoxes(join(folder, 'nowhere.jpg'), [])).rejects.toBeInstanceOf(InputError);
  });
});

describe('colors', () => {
  const luminance = (color: string) => {
    const [red, green, blue] = rgb(color).map((value) =>
      value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };

  test('text on every class color has a contrast of 4.5 to 1, as WCAG requires for small text', () => {
    for (let label = 0; label < 1300; label++) {
      const [darker, lighter] = [luminance(colorOf(label)), luminance(textColorOn(colorOf(label)))].sort(
        (a, b) => a - b,
      );
      expect((lighter + 0.05) / (darker + 0.05), `class ${label} ${colorOf(label)}`).toBeGreaterThan(4.5);
    }
  });

  test('all classes of COCO have different colors', () => {
    expect(new Set(Array.from({ length: 80 }, (_, label) => colorOf(label))).size).toBe(80);
  });
});

describe('contact sheet', () => {
  test('pictures are tiled row by row, and the last row can be short', async () => {
    const images = await Promise.all([30, 20, 30, 10, 30].map((side) => drawBoxes(gray(side, 16), [], { scale: 1 })));
    const sheet = contactSheet(images, 3, { gap: 4, background: '#ffffff' });
    expect([sheet.width, sheet.height]).toEqual([3 * 34 + 4, 2 * 20 + 4]);
    expect(at(sheet, 4, 4)).toEqual([GRAY, GRAY, GRAY]);
    // The second picture, 20 wide, is centered in its 30.
    expect(at(sheet, 42, 10)).toEqual([255, 255, 255]);
    expect(at(sheet, 43, 10)).toEqual([GRAY, GRAY, GRAY]);
    expect(at(sheet, 90, 30)).toEqual([255, 255, 255]);
  });

  test('there are no empty columns; no pictures or no columns are refused', async () => {
    const image = await drawBoxes(gray(10, 10), [], { scale: 1 });
    expect(contactSheet([image], 4, { gap: 0 }).width).toBe(10);
    expect(() => contactSheet([], 2)).toThrow('images: expected at least one, got none');
    expect(() => contactSheet([image], 0)).toThrow('columns: expected a positive integer, got 0');
  });
});

test('letters are drawn with their glyphs, not as empty boxes', async () => {
  const drawn = async (name: string) =>
    Buffer.from(
      (await drawBoxes(gray(200, 100), [{ box: [50, 50, 150, 90], label: 0, name }], { scale: 1 })).toBuffer(
        'image/png',
      ),
    );
  const pictures = await Promise.all(['b', 'd', 'p', 'q'].map(drawn));
  expect(new Set(pictures.map((picture) => picture.toString('base64'))).size).toBe(4);
  const text = (letters: string) =>
    `<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"><text x="30" y="20" text-anchor="middle" font-size="16">${letters}</text></svg>`;
  const plots = await Promise.all(
    ['b', 'd', ''].map(async (letters) => (await rasterizeSvg(text(letters))).toBuffer('image/png').toString('base64')),
  );
  expect(new Set(plots).size).toBe(3);
});
