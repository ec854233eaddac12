/** Splits: names of other tools, created validation splits, the order of images, and equal data in all formats. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { divideImages, imageKey } from '../training/data/created-splits.ts';
import { openDataset, type Dataset } from '../training/data/index.ts';
import { annotation, folder, instances, object, picture, write, xml } from './dataset-files.ts';
import { inputErrorOf } from './input-errors.ts';

const names = (dataset: Dataset, split: string) => dataset.splits[split].map(({ name }) => name);

/** A COCO data set with one file for all images. */
const oneFile = (ids: readonly number[]) => {
  const images = ids.map((id) => picture(id, { file_name: `photo-${id}.jpg` }));
  const files = Object.fromEntries(ids.map((id) => [`images/photo-${id}.jpg`, `content ${id}`]));
  return write({ 'result.json': instances({ images, annotations: [annotation(1, { image_id: ids[0] })] }), ...files });
};

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

describe('a validation split that is missing', () => {
  test('is created by a hash of the names, with about 15 % of the images', async () => {
    const dataset = await openDataset(oneFile(range(200)));
    const [train, val] = [names(dataset, 'train'), names(dataset, 'val')];
    expect([...train, ...val].sort()).toEqual(
      range(200)
        .map((id) => `photo-${id}.jpg`)
        .sort(),
    );
    expect(val.length).toBeGreaterThan(15);
    expect(val.length).toBeLessThan(50);
    expect(dataset.recognized).toBe('COCO: not divided into splits');
    expect(dataset.notes).toEqual([expect.stringContaining(`${val.length} of the 200 images became it`)]);
  });

  test('is the same for evaluation, and images that are added move no others', async () => {
    const root = oneFile(range(60));
    const both = await openDataset(root);
    expect(names(await openDataset(root, { splits: ['val'] }), 'val')).toEqual(names(both, 'val'));
    expect(names(await openDataset(root, { splits: ['train'] }), 'train')).toEqual(names(both, 'train'));
    const more = await openDataset(oneFile(range(90)));
    expect(names(more, 'val')).toEqual(expect.arrayContaining(names(both, 'val')));
    expect(names(more, 'train')).toEqual(expect.arrayContaining(names(both, 'train')));
  });

  test('has an image, and leaves one, if there are two', async () => {
    for (let first = 0; first < 20; first++) {
      const { splits } = await openDataset(oneFile([first, first + 100]));
      expect([splits.train.length, splits.val.length]).toEqual([1, 1]);
    }
    expect(await inputErrorOf(() => openDataset(oneFile([1])))).toContain('no split "val" (there is: all)');
  });

  test('comes from train, never from test', async () => {
    const images = range(30).map((id) => picture(id));
    const root = write({
      'annotations/instances_train.json': instances({ images, annotations: [annotation(1)] }),
      'annotations/instances_test.json': instances({ images: [picture(90)], annotations: [] }),
      ...Object.fromEntries(range(30).map((id) => [`train/${id}.jpg`, null])),
      'test/90.jpg': null,
    });
    const dataset = await openDataset(root);
    expect(names(dataset, 'test')).toEqual(['90.jpg']);
    expect(dataset.splits.train.length + dataset.splits.val.length).toBe(30);
    expect(dataset.splits.val.length).toBeGreaterThan(0);
  });

  test('keeps copies together: those of Roboflow, and those of equal content', async () => {
    const files = range(40).flatMap((id) =>
      ['aaaaaaaaaaaa', 'bbbbbbbbbbbb'].map((hash) => `p${id}_jpg.rf.${hash}.jpg`),
    );
    const divided = await divideImages(files.map((file) => ({ file: join(folder, 'absent', file) })));
    const sides = [divided?.train, divided?.val].map((list) => new Set(list?.map(({ file }) => imageKey(file))));
    expect(sides[0].size + sides[1].size).toBe(40);

    const root = join(folder, 'copies');
    const paths = range(40).map((id) => join(root, `image ${id}.bin`));
    mkdirSync(dirname(paths[0]), { recursive: true });
    paths.forEach((path, id) => writeFileSync(path, `content ${String(id % 20).padStart(2, '0')}`));
    const copies = await divideImages(paths.map((file) => ({ file })));
    expect(copies?.duplicates).toBe(20);
    const val = new Set(copies?.val.map(({ file }) => file));
    range(20).forEach((id) => expect(val.has(paths[id])).toBe(val.has(paths[id + 20])));
  });

  test('is one of equal images, if all are equal', async () => {
    const { splits } = await openDataset(
      write({ 'a.jpg': null, 'a.xml': xml(object('x', [1, 1, 5, 5])), 'b.jpg': null, 'b.xml': xml() }),
    );
    expect([splits.train.length, splits.val.length]).toEqual([1, 1]);
  });

  test('depends on the names alone, not on their order', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 2, maxLength: 30 }), async (list) => {
        const files = list.map((name) => ({ file: `/absent/${name.replaceAll('/', '_').replaceAll('\0', '')}.jpg` }));
        const [a, b] = [await divideImages(files), await divideImages([...files].reverse())];
        const sorted = (items?: readonly { file: string }[]) => items?.map(({ file }) => file).sort();
        expect(sorted(a?.val)).toEqual(sorted(b?.val));
        expect(a?.val.length).toBeGreaterThan(0);
        expect(a?.train.length).toBeGreaterThan(0);
      }),
      { numRuns: 30 },
    );
  });
});

test('the images of a split are in the order of their names, in every format', async () => {
  const order = ['B', 'a', 'a b', 'a10', 'a2', 'é'];
  const mixed = ['a2', 'é', 'a', 'B', 'a10', 'a b'];
  const images = Object.fromEntries(mixed.flatMap((name) => ['t', 'v'].map((s) => [`images/${s}/${name}.jpg`, null])));
  const rename = (split: string) => (path: string) => path.replace('/t/', '/train/').replace('/v/', `/${split}/`);
  const files = (extra: Readonly<Record<string, string | object>>, val = 'val') =>
    write({ ...Object.fromEntries(Object.keys(images).map((path) => [rename(val)(path), null])), ...extra });
  const box = { bbox: [4, 3, 20, 12], area: 240 };
  const cocoFile = instances({
    images: mixed.map((name, id) => picture(id, { file_name: `${name}.jpg` })),
    annotations: mixed.map((_, id) => annotation(id, { image_id: id, ...box })),
    categories: [{ id: 3, name: 'cat' }],
  });
  const roots = [
    files({ 'annotations/instances_train.json': cocoFile, 'annotations/instances_val.json': cocoFile }),
    files({
      'data.yaml': 'train: images/train\nval: images/val\nnames: [cat]\n',
      ...Object.fromEntries(
        ['train', 'val'].flatMap((split) => mixed.map((name) => [`labels/${split}/${name}.txt`, '0 0.35 0.3 0.5 0.4'])),
      ),
    }),
    files(
      Object.fromEntries(
        ['train', 'valid'].flatMap((split) =>
          mixed.map((name) => [`images/${split}/${name}.xml`, xml(object('cat', [5, 4, 24, 15]))]),
        ),
      ),
      'valid',
    ),
  ];
  for (const root of roots) {
    const { splits, classNames } = await openDataset(root);
    expect(classNames).toEqual(['cat']);
    for (const split of ['train', 'val']) {
      expect(splits[split].map(({ name }) => name)).toEqual(order.map((name) => `${name}.jpg`));
      for (const { width, height, objects } of splits[split])
        expect([width, height, objects.map((entry) => [entry.label, entry.box, entry.area])]).toEqual([
          40,
          30,
          [[0, [4, 3, 24, 15], 240]],
        ]);
    }
  }
});

test('the names of splits of other tools', async () => {
  for (const name of ['val', 'valid', 'validation', 'val2017', 'dev']) {
    const root = write({
      'train/_annotations.coco.json': instances(),
      'train/1.jpg': null,
      [`${name}/_annotations.coco.json`]: instances(),
      [`${name}/1.jpg`]: null,
    });
    const dataset = await openDataset(root);
    expect(dataset.recognized).toBe(`Roboflow COCO: train, ${name === 'val' ? 'val' : `${name} -> val`}`);
    expect(dataset.splits.val[0].file).toBe(join(root, name, '1.jpg'));
  }
});
