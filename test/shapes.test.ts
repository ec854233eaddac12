/** The embedded data set: the same options give the same bytes, and the images show the annotated objects. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { ensureShapesDataset, openDataset } from '../training/data/index.ts';
import { folder, write } from './dataset-files.ts';

describe('shapes', () => {
  const options = { trainImages: 12, valImages: 5, imageSize: 80, seed: 3 };
  /** Every file of a folder with its digest. */
  const digests = (root: string) =>
    Object.fromEntries(
      readdirSync(root, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => [
          join(parentPath, name).slice(root.length),
          createHash('sha256')
            .update(readFileSync(join(parentPath, name)))
            .digest('hex'),
        ])
        .sort(),
    );

  test('have the same bytes for the same options; another seed and another split give other images', async () => {
    const first = await ensureShapesDataset(join(folder, 'shapes-a'), options);
    const again = await ensureShapesDataset(join(folder, 'shapes-b'), options);
    expect(digests(again)).toEqual(digests(first));
    expect(Object.keys(digests(first)).length).toBe(12 + 5 + 3);
    const other = await ensureShapesDataset(join(folder, 'shapes-c'), { ...options, seed: 4 });
    const images = [first, other].flatMap((root) =>
      Object.entries(digests(root))
        .filter(([name]) => name.endsWith('.png'))
        .map(([, digest]) => digest),
    );
    expect(new Set(images).size).toBe(2 * 17);
  });

  test('are read without a warning; classes, numbers, places and sizes of objects are as documented', async () => {
    const dataset = await openDataset(
      await ensureShapesDataset(join(folder, 'shapes-many'), { trainImages: 150, valImages: 100 }),
    );
    expect(dataset).toMatchObject({ classNames: ['circle', 'square', 'triangle', 'star'], warnings: [] });
    expect([dataset.splits.train.length, dataset.splits.val.length]).toEqual([150, 100]);
    const records = dataset.splits.train;
    const objects = records.flatMap((record) => record.objects);
    expect(new Set(objects.map(({ label }) => label)).size).toBe(4);
    expect([...new Set(records.map((record) => record.objects.length))].sort()).toEqual([1, 2, 3, 4, 5]);
    for (const {
      box: [x0, y0, x1, y1],
      area,
    } of objects) {
      expect(x0 >= 0.99 && y0 >= 0.99 && x1 <= 95.01 && y1 <= 95.01).toBe(true);
      const longSide = Math.max(x1 - x0, y1 - y0);
      // Rounded to a hundredth of a pixel in the file.
      expect(longSide >= 15.98 && longSide <= 48.02).toBe(true);
      expect(area > 0 && area <= (x1 - x0) * (y1 - y0) + 0.1).toBe(true);
    }
  });

  test('have boxes that fit the drawn objects', async () => {
    const root = await ensureShapesDataset(join(folder, 'shapes-many'), { trainImages: 150, valImages: 100 });
    for (const record of (await openDataset(root)).splits.train.filter(({ objects }) => objects.length === 1)) {
      const { data } = await sharp(record.file).raw().toBuffer({ resolveWithObject: true });
      const {
        label,
        box: [x0, y0, x1, y1],
      } = record.objects[0];
      // An object's color differs from both background colors by at least 110. A smoothed edge is two pixels wide.
      const edges: [number, number][] = [];
      for (let y = 0; y < 96; y++) {
        for (let x = 1; x < 95; x++) {
          const step = Math.hypot(
            ...[0, 1, 2].map((c) => data[(y * 96 + x + 1) * 3 + c] - data[(y * 96 + x - 1) * 3 + c]),
          );
          if (step > 70) edges.push([x, y]);
        }
      }
      for (const [x, y] of edges)
        expect(x >= x0 - 2 && x <= x1 + 1 && y >= y0 - 1 && y <= y1, `${record.name}: ${x}, ${y}`).toBe(true);
      // Tips of triangles and stars are thinner than a pixel.
      const tolerance = label === 0 ? 2 : label === 1 ? 4 : 8;
      const [xs, ys] = [edges.map(([x]) => x), edges.map(([, y]) => y)];
      const slack = [Math.min(...xs) - x0, Math.min(...ys) - y0, x1 - Math.max(...xs), y1 - Math.max(...ys)];
      for (const side of slack) expect(side, record.name).toBeLessThan(tolerance);
    }
  });

  test('are kept for the same options, generated again for other options, and never replace other files', async () => {
    const root = join(folder, 'shapes-d');
    const said: string[] = [];
    const log = (line: string) => said.push(line);
    await ensureShapesDataset(root, { ...options, log });
    await ensureShapesDataset(root, { ...options, log });
    expect(said.length).toBe(1);
    await ensureShapesDataset(root, { ...options, trainImages: 4, log });
    expect((await openDataset(root)).splits.train.length).toBe(4);
    const taken = write({ 'thesis.txt': 'do not lose' });
    await expect(ensureShapesDataset(taken, options)).rejects.toThrow(
      `${taken}: expected an empty folder or an earlier shapes data set`,
    );
    expect(readdirSync(taken)).toEqual(['thesis.txt']);
    expect(readdirSync(folder).filter((name) => name.includes('partial'))).toEqual([]);
    await expect(ensureShapesDataset(root, { imageSize: 10 })).rejects.toThrow(
      'shapes data set: imageSize: expected an integer of at least 64, got 10',
    );
  });

  test('can be requested twice at the same time', async () => {
    const root = join(folder, 'shapes-e');
    await Promise.all([ensureShapesDataset(root, options), ensureShapesDataset(root, options)]);
    expect(digests(root)).toEqual(digests(await ensureShapesDataset(join(folder, 'shapes-a'), options)));
  });
});
