/** YOLO data sets: layouts, boxes, polygons and class names are read as documented; bad files are refused. */
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { openDataset, type Dataset } from '../training/data/index.ts';
import { write } from './dataset-files.ts';
import { inputErrorOf } from './input-errors.ts';

type Files = Readonly<Record<string, string | object | null>>;

const YAML = 'path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n';
const BOX = '1 0.500000 0.500000 0.250000 0.200000\n';

/** A data set with an image in each split. `change` replaces or adds files. */
const yolo = (change: Files = {}): string =>
  write({
    'data.yaml': YAML,
    'images/train/a.jpg': null,
    'labels/train/a.txt': BOX,
    'images/val/b.jpg': null,
    'labels/val/b.txt': '0 0.5 0.5 1 1\n',
    ...change,
  });

const names = (records: readonly { readonly name: string }[]) => records.map(({ name }) => name);

const summary = ({ recognized, classNames, splits }: Dataset) => ({
  recognized,
  classNames,
  ...Object.fromEntries(Object.entries(splits).map(([split, records]) => [split, records.map(({ name }) => name)])),
});

describe('YOLO', () => {
  test('boxes are in pixels of the image, classes are those of data.yaml by their numbers', async () => {
    const root = yolo();
    const dataset = await openDataset(root);
    expect(dataset).toMatchObject({ format: { key: 'yolo' }, categoryIds: [1, 2], warnings: [], notes: [] });
    expect(dataset.splits).toEqual({
      train: [
        {
          id: 1,
          file: join(root, 'images/train/a.jpg'),
          name: 'a.jpg',
          width: 40,
          height: 30,
          objects: [{ id: 1, label: 1, box: [15, 12, 25, 18], area: 60, crowd: false }],
        },
      ],
      val: [expect.objectContaining({ id: 2, objects: [expect.objectContaining({ label: 0, box: [0, 0, 40, 30] })] })],
    });
  });

  const noYaml = { 'images/a.jpg': null, 'images/b.jpg': null, 'labels/a.txt': BOX, 'labels/b.txt': BOX };
  const layouts: [string, Files, object][] = [
    ['split folders inside images and labels', { 'data.yaml': YAML }, { train: ['a.jpg'], val: ['b.jpg'] }],
    [
      'names as a map, paths of another machine',
      {
        'data.yaml':
          'path: /content/datasets/x\ntrain: C:\\data\\images\\train\nval: /home/me/images/val\n' +
          'names:\n  0: cat\n  1: dog\n',
      },
      { train: ['a.jpg'], val: ['b.jpg'] },
    ],
    [
      'lists of images',
      {
        'data.yaml': 'train: train.txt\nval: [val.txt]\nnames: [cat, dog]\n',
        'train.txt': './images/train/a.jpg\n',
        'val.txt': '/home/me/images/val/b.jpg\n',
      },
      { train: ['a.jpg'], val: ['b.jpg'] },
    ],
    ['no data.yaml, classes.txt', { 'data.yaml': 'other: 1\n', 'classes.txt': 'cat\ndog\n' }, { train: ['a.jpg'] }],
  ];
  test.each(layouts)('layout: %s', async (_, change, expected) => {
    expect(summary(await openDataset(yolo(change)))).toMatchObject({ classNames: ['cat', 'dog'], ...expected });
  });

  const others: [string, Files, object][] = [
    [
      'Roboflow',
      {
        'data.yaml':
          'train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: [cat, dog]\n' +
          'roboflow:\n  workspace: x\n',
        'train/images/a.jpg': null,
        'train/labels/a.txt': BOX,
        'valid/images/b.jpg': null,
        'valid/labels/b.txt': BOX,
      },
      { recognized: 'Roboflow YOLO: train, val', train: ['a.jpg'], val: ['b.jpg'] },
    ],
    [
      'split folders outside',
      {
        'train/images/a.jpg': null,
        'train/labels/a.txt': BOX,
        'valid/images/b.jpg': null,
        'valid/labels/b.txt': BOX,
        'classes.txt': 'cat\ndog\n',
      },
      { recognized: 'YOLO: train, valid -> val', train: ['a.jpg'], val: ['b.jpg'] },
    ],
    [
      'no splits, classes.txt',
      { ...noYaml, 'classes.txt': 'cat\ndog\n' },
      { recognized: 'YOLO: not divided into splits' },
    ],
    ['no splits, labels/classes.txt', { ...noYaml, 'labels/classes.txt': 'cat\r\ndog\r\n' }, {}],
    ['no splits, obj.names', { ...noYaml, 'obj.names': 'cat\ndog' }, {}],
    ['no splits, names in data.yaml', { ...noYaml, 'data.yaml': 'names: [cat, dog]' }, {}],
    [
      'labels beside the images',
      { 'a.jpg': null, 'a.txt': BOX, 'b.jpg': null, 'b.txt': BOX, 'classes.txt': 'cat\ndog' },
      {},
    ],
    [
      'only the images are in splits',
      {
        'images/train/a.jpg': null,
        'images/val/b.jpg': null,
        'labels/a.txt': BOX,
        'labels/b.txt': BOX,
        'classes.txt': 'cat\ndog',
      },
      { train: ['a.jpg'], val: ['b.jpg'] },
    ],
    [
      'darknet',
      {
        'obj.data': 'classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n',
        'obj.names': 'cat\ndog\n',
        'train.txt': 'data/obj_train_data/a.jpg\n',
        'valid.txt': 'data/obj_train_data/b.jpg\n',
        'obj_train_data/a.jpg': null,
        'obj_train_data/a.txt': BOX,
        'obj_train_data/b.jpg': null,
        'obj_train_data/b.txt': BOX,
      },
      { train: ['a.jpg'], val: ['b.jpg'] },
    ],
  ];
  test.each(others)('layout: %s', async (_, files, expected) => {
    const dataset = await openDataset(write(files));
    expect(summary(dataset)).toMatchObject({ classNames: ['cat', 'dog'], ...expected });
    const records = [...dataset.splits.train, ...dataset.splits.val];
    expect(records.map(({ name }) => name).sort()).toEqual(['a.jpg', 'b.jpg']);
    for (const { objects } of records) expect(objects.map(({ box }) => box)).toEqual([[15, 12, 25, 18]]);
  });

  test('a split that data.yaml names and that does not exist is in the notes', async () => {
    const { notes, splits } = await openDataset(yolo({ 'data.yaml': `${YAML}test: ../test/images\n` }));
    expect(Object.keys(splits)).toEqual(['train', 'val']);
    expect(notes).toEqual([expect.stringMatching(/data\.yaml: test: \.\.\/test\/images does not exist/)]);
  });

  test('folders count if the training images of data.yaml are nowhere', async () => {
    const yaml = 'train: somewhere/else\nval: images/val\nnames: [cat, dog]\n';
    const { notes, splits, classNames } = await openDataset(yolo({ 'data.yaml': yaml }));
    expect([names(splits.train), names(splits.val), classNames]).toEqual([['a.jpg'], ['b.jpg'], ['cat', 'dog']]);
    expect(notes).toEqual([expect.stringContaining('data.yaml: train: somewhere/else does not exist')]);
  });

  test('a polygon becomes its box; keypoints behind a box are skipped if data.yaml states them', async () => {
    const polygon = '0 0.25 0.5 0.75 0.1 0.5 0.9\n';
    const { splits } = await openDataset(yolo({ 'labels/train/a.txt': polygon }));
    expect(splits.train[0].objects[0].box).toEqual([10, 3, 30, 27]);
    const points = await openDataset(
      yolo({
        'data.yaml': `${YAML}kpt_shape: [1, 3]\n`,
        'labels/train/a.txt': '1 0.5 0.5 0.25 0.2 0.1 0.2 2\n',
        'labels/val/b.txt': '0 0.5 0.5 1 1 0.1 0.1 0\n',
      }),
    );
    expect(points.splits.train[0].objects[0].box).toEqual([15, 12, 25, 18]);
  });

  test('numbers that are rounded to six digits give the original edges; short ones are exact', async () => {
    const box = (x0: number, y0: number, x1: number, y1: number) =>
      [(x0 + x1) / 2 / 40, (y0 + y1) / 2 / 30, (x1 - x0) / 40, (y1 - y0) / 30].map((part) =>
        String(Number(part.toPrecision(6))),
      );
    const rows = [box(0, 0, 1, 1), box(3, 7, 36, 20), box(1.25, 2.75, 3.5, 11.01)];
    const { splits } = await openDataset(
      yolo({
        'labels/train/a.txt': rows.map((row) => `0 ${row.join(' ')}`).join('\n'),
        'labels/val/b.txt': '0 0.52 0.5 0.3 0.5',
      }),
    );
    expect(splits.train[0].objects.map((object) => object.box)).toEqual([
      [0, 0, 1, 1],
      [3, 7, 36, 20],
      [1.25, 2.75, 3.5, 11.01],
    ]);
    expect(splits.val[0].objects[0].box).toEqual([14.8, 7.5, 26.8, 22.5]);
  });

  test('an EXIF rotation exchanges the sides of the image', async () => {
    const rotated = await sharp({ create: { width: 40, height: 30, channels: 3, background: 'teal' } })
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toBuffer();
    const { splits } = await openDataset(yolo({ 'images/train/a.jpg': rotated }));
    expect(splits.train[0]).toMatchObject({ width: 30, height: 40, objects: [{ box: [11.25, 16, 18.75, 24] }] });
  });

  test('images without label file have no objects; boxes that reach out are clipped; both are warnings', async () => {
    const root = yolo({ 'images/train/c.png': null, 'labels/train/a.txt': '1 0.0 0.5 0.5 0.2\n0 nan 0.5 0.1 0.1\n' });
    const { splits, allWarnings } = await openDataset(root);
    expect(splits.train.map(({ name, objects }) => [name, objects.map(({ box }) => box)])).toEqual([
      ['a.jpg', [[0, 12, 10, 18]]],
      ['c.png', []],
    ]);
    const label = join(root, 'labels/train/a.txt');
    expect(allWarnings).toEqual([
      join(root, 'images/train/c.png'),
      `${label}: line 1: box 0 0.5 0.5 0.2 in an image of 40 x 30`,
      `${label}: line 2: box NaN 0.5 0.1 0.1 has no extent`,
    ]);
  });

  test('an image that cannot be read is left out with a warning', async () => {
    const { splits, warnings } = await openDataset(
      yolo({
        'images/train/c.jpg': '',
        'labels/train/c.txt': BOX,
        'images/train/d.jpg': null,
        'labels/train/d.txt': '',
      }),
    );
    expect(splits.train.map(({ name }) => name)).toEqual(['a.jpg', 'd.jpg']);
    expect(warnings.join('\n')).toContain('c.jpg');
  });

  test('without names the classes are numbered, by the labels of all splits, with a warning', async () => {
    const root = yolo({ 'data.yaml': 'train: images/train\nval: images/val\n' });
    for (const splits of [['train', 'val'], ['val']]) {
      const dataset = await openDataset(root, { splits });
      expect(dataset.classNames).toEqual(['class 0', 'class 1']);
      expect(dataset.warnings[0]).toContain('no class names found');
    }
  });

  test('class names stay text, whatever they look like', async () => {
    const { classNames } = await openDataset(
      yolo({ 'data.yaml': "train: images/train\nval: images/val\nnames: [007, no, '__proto__', 名前, <b>]\n" }),
    );
    expect(classNames).toEqual(['007', 'no', '__proto__', '名前', '<b>']);
  });

  const bad: [string, Files, string][] = [
    [
      'a confidence behind a box',
      { 'labels/train/a.txt': '\n1 0.5 0.5 0.2 0.2 0.93\n' },
      'a.txt: line 2: expected a class and four',
    ],
    [
      'a track behind a confidence',
      { 'labels/train/a.txt': '1 0.5 0.5 0.2 0.2 0.93 12' },
      'got "1 0.5 0.5 0.2 0.2 0.93 12"',
    ],
    ['a half box', { 'labels/train/a.txt': '1 0.5 0.5' }, 'a.txt: line 1: expected a class and four numbers'],
    [
      'text',
      { 'labels/train/a.txt': 'a cat' },
      'a.txt: line 1: expected the number of a class at the beginning, got "a cat"',
    ],
    [
      'a word among the numbers',
      { 'labels/train/a.txt': '1 0.5 x 0.2 0.2' },
      'line 1: expected numbers behind the class',
    ],
    [
      'an unknown class',
      { 'labels/train/a.txt': '2 0.5 0.5 0.2 0.2' },
      'a.txt: line 1: class: expected one of the 2 classes',
    ],
    ['a negative class', { 'labels/train/a.txt': '-1 0.5 0.5 0.2 0.2' }, 'line 1: expected the number of a class'],
    [
      'boxes in pixels',
      { 'labels/train/a.txt': '1 20 15 10 6', 'labels/val/b.txt': '1 20 15 10 6' },
      '2 of 2 boxes seem to be in pixels',
    ],
    ['malformed YAML', { 'data.yaml': 'train: [a' }, 'data.yaml: expected YAML, got malformed YAML: '],
    [
      'a class without name',
      { 'data.yaml': 'train: images/train\nnames: [cat, "", dog]' },
      'data.yaml: names[1]: expected a name, got ""',
    ],
    [
      'a class name twice',
      { 'data.yaml': 'train: images/train\nnames: [cat, cat]' },
      'data.yaml: names[1]: expected a name that no other class has',
    ],
    [
      'no class names at all',
      { 'data.yaml': 'train: images/train\nnames: []' },
      'data.yaml: names: expected at least one class name',
    ],
    [
      'listed images that are missing',
      { 'data.yaml': 'train: train.txt\nnames: [cat, dog]', 'train.txt': 'images/train/a.jpg\nimages/train/z.jpg\n' },
      'train.txt: 1 of 2 images are missing: images/train/z.jpg',
    ],
    [
      'labels without images',
      { 'labels/train/z.txt': BOX },
      'labels/train: 1 of 2 images are missing: the image of z.txt',
    ],
  ];
  test.each(bad)('%s: refused with file and field', async (_, change, message) => {
    expect(await inputErrorOf(() => openDataset(yolo(change)))).toContain(message);
  });

  test('a number of classes that differs from the names is a warning', async () => {
    const { warnings } = await openDataset(yolo({ 'data.yaml': YAML.replace('nc: 2', 'nc: 3') }));
    expect(warnings.join('\n')).toMatch(/data\.yaml: nc: expected 2, got 3/);
  });

  test('a folder of labels in splits and outside of them is refused', async () => {
    expect(await inputErrorOf(() => openDataset(yolo({ 'data.yaml': 'x: 1', 'labels/c.txt': BOX })))).toContain(
      'expected annotations either in folders of splits or outside of them, ' +
        'got some in labels/train and some in labels',
    );
  });
});
