/** The picture of the first training images: its size, and boxes where the targets are. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, expect, test } from 'vitest';
import type { LoadedBatch } from '../training/data/loader.ts';
import { colorOf } from '../training/pictures/colors.ts';
import { drawBatches } from '../training/pictures/draw-batches.ts';

const folder = mkdtempSync(join(tmpdir(), 'draw-batches-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A batch of gray images with one object each. */
function batch(images: number, width: number, height: number): LoadedBatch {
  const record = { id: 1, file: '1.png', name: '1.png', width, height, objects: [] };
  return {
    iteration: 0,
    images: Array.from({ length: images }, () => ({
      data: new Uint8Array(width * height * 3).fill(90),
      width,
      height,
      record,
      scale: [1, 1],
      unreadable: false,
    })),
    targets: Array.from({ length: images }, () => ({
      boxes: Float32Array.of(0.25 * width, 0.5 * height, 0.75 * width, 0.9 * height),
      labels: Uint32Array.of(1),
    })),
  };
}

test('shows the first images in rows of four, with boxes in the colors of their classes', async () => {
  const path = join(folder, 'sheet.png');
  await drawBatches(path, [batch(3, 160, 120), batch(3, 160, 120)], ['cat', 'dog'], 5);
  const { data, info } = await sharp(path).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  // Images are enlarged to 480 x 360, with gaps of 8 pixels.
  expect([info.width, info.height]).toEqual([4 * 488 + 8, 2 * 368 + 8]);
  const pixel = (x: number, y: number) => {
    const at = (y * info.width + x) * 3;
    return `#${[...data.subarray(at, at + 3)].map((value) => value.toString(16).padStart(2, '0')).join('')}`;
  };
  for (const [column, row] of [
    [0, 0],
    [3, 0],
    [0, 1],
  ]) {
    const [left, top] = [8 + column * 488, 8 + row * 368];
    // The middle of the box's left edge, and of its bottom edge.
    expect(pixel(left + 120, top + 252)).toBe(colorOf(1));
    expect(pixel(left + 240, top + 324)).toBe(colorOf(1));
    expect(pixel(left + 60, top + 100)).toBe('#5a5a5a');
  }
  // Only five images are drawn.
  expect(pixel(8 + 488 + 100, 8 + 368 + 100)).toBe('#ffffff');
});

test('large images are reduced, and without an image nothing is written', async () => {
  const path = join(folder, 'large.png');
  await drawBatches(path, [batch(1, 1280, 640)], ['cat', 'dog'], 8);
  expect(await sharp(path).metadata()).toMatchObject({ width: 640 + 16, height: 320 + 16 });
  const none = join(folder, 'none.png');
  await drawBatches(none, [batch(1, 64, 64)], ['cat', 'dog'], 0);
  expect(existsSync(none)).toBe(false);
});
