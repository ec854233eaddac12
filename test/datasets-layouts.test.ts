/** Layouts of COCO as tools export them, folders of no format or of two, and which image an annotation means. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openDataset } from '../training/data/index.ts';
import { annotation, categories, instances, object, picture, write, xml, type Entry } from './dataset-files.ts';
import { inputErrorOf } from './input-errors.ts';

type Files = Readonly<Record<string, string | object | null>>;

const two = instances({ images: [picture(1), picture(2)] });
const catXml = xml(object('cat', [11, 6, 30, 15]));

describe('COCO', () => {
  const layouts: [string, Files, string, string[]][] = [
    [
      'Roboflow',
      {
        'train/_annotations.coco.json': instances(),
        'train/1.jpg': null,
        'valid/_annotations.coco.json': instances(),
        'valid/1.jpg': null,
        'README.roboflow.txt': 'x',
      },
      'Roboflow COCO: train, valid -> val',
      ['train/1.jpg', 'valid/1.jpg'],
    ],
    [
      'one file beside a folder',
      { 'result.json': two, 'images/1.jpg': null, 'images/2.jpg': null },
      '',
      ['images/1.jpg', 'images/2.jpg'],
    ],
    [
      'instances_default.json',
      { 'annotations/instances_default.json': two, 'images/1.jpg': null, 'images/2.jpg': null },
      'COCO: not divided into splits',
      ['images/1.jpg', 'images/2.jpg'],
    ],
    [
      'one file among the images',
      { 'images/annotations.json': two, 'images/1.jpg': null, 'images/2.jpg': null },
      '',
      ['images/1.jpg', 'images/2.jpg'],
    ],
    ['everything in the root', { 'labels.json': two, '1.jpg': null, '2.jpg': null }, '', ['1.jpg', '2.jpg']],
    [
      'a folder of any name',
      { 'x.json': two, 'photos of May/1.jpg': null, 'photos of May/2.jpg': null },
      '',
      ['photos of May/1.jpg', 'photos of May/2.jpg'],
    ],
    [
      'files named after splits',
      {
        'annotations/train.json': instances(),
        'annotations/val.json': instances(),
        'train/1.jpg': null,
        'val/1.jpg': null,
      },
      'COCO: train, val',
      ['train/1.jpg', 'val/1.jpg'],
    ],
    [
      'validation under its long name',
      {
        'annotations/instances_train.json': instances(),
        'annotations/instances_validation.json': instances(),
        'train/1.jpg': null,
        'validation/1.jpg': null,
      },
      'COCO: train, validation -> val',
      ['train/1.jpg', 'validation/1.jpg'],
    ],
    [
      'a file in each folder of a split',
      {
        'train/labels.json': instances(),
        'train/data/1.jpg': null,
        'test/labels.json': instances(),
        'test/data/1.jpg': null,
        'val/labels.json': instances(),
        'val/data/1.jpg': null,
      },
      'COCO: train, val, test',
      ['train/data/1.jpg', 'val/data/1.jpg', 'test/data/1.jpg'],
    ],
    [
      'only a training file',
      { 'annotations/instances_train.json': two, 'train/1.jpg': null, 'train/2.jpg': null },
      'COCO: train',
      ['train/1.jpg', 'train/2.jpg'],
    ],
  ];
  test.each(layouts)('%s', async (_, files, recognized, expected) => {
    const root = write(files);
    const dataset = await openDataset(root);
    if (recognized !== '') expect(dataset.recognized).toBe(recognized);
    const found = Object.values(dataset.splits).flatMap((records) => records.map(({ file }) => file));
    expect(found.sort()).toEqual(expected.map((path) => join(root, path)).sort());
    expect(dataset.classNames).toEqual(['cat', 'dog']);
    expect(dataset.warnings).toEqual([]);
  });

  test('captions and keypoints beside the boxes are no annotation files of their own', async () => {
    const root = write({
      'captions_train.json': instances(),
      'person_keypoints_train.json': instances(),
      'train.json': instances(),
      'val.json': instances(),
      'train/1.jpg': null,
      'val/1.jpg': null,
    });
    expect((await openDataset(root)).recognized).toBe('COCO: train, val');
  });

  test('two files for the same images are refused', async () => {
    const root = write({ 'a.json': two, 'b.json': two, 'images/1.jpg': null, 'images/2.jpg': null });
    expect(await inputErrorOf(() => openDataset(root))).toContain(
      'expected one annotation file, got a.json and b.json',
    );
  });

  const grouped = [
    { id: 0, name: 'animals', supercategory: 'none' },
    { id: 3, name: 'cat', supercategory: 'animals' },
    { id: 7, name: 'dog', supercategory: 'animals' },
  ];
  const roboflow = (change: Entry, valid: Entry = {}) =>
    write({
      'train/_annotations.coco.json': instances({ categories: grouped, ...change }),
      'train/1.jpg': null,
      'valid/_annotations.coco.json': instances({ categories: grouped, ...valid }),
      'valid/1.jpg': null,
    });

  test('a category that groups all others and owns no box is no class; another without boxes is one', async () => {
    const dataset = await openDataset(roboflow({}));
    expect([dataset.classNames, dataset.categoryIds]).toEqual([
      ['cat', 'dog'],
      [3, 7],
    ]);
    expect(dataset.notes).toEqual(['the category "animals" (id 0) groups all others and owns no box: it is no class']);
    const same = grouped.map((entry) =>
      entry.id === 0 ? { ...entry, name: 'cat' } : { ...entry, supercategory: 'cat' },
    );
    expect((await openDataset(roboflow({ categories: same }, { categories: same }))).classNames).toEqual([
      'cat',
      'dog',
    ]);
  });

  test('a category that groups others stays a class if it owns a box in any split', async () => {
    const root = roboflow({}, { annotations: [annotation(1, { category_id: 0 })] });
    for (const splits of [['train'], ['valid'].map(() => 'val')])
      expect((await openDataset(root, { splits })).classNames).toEqual(['animals', 'cat', 'dog']);
  });

  test('paths of another machine fit by their last parts, with a warning', async () => {
    const paths = ['C:\\Users\\me\\images\\1.jpg', '/home/me/images/a/2.jpg', 'other/A/3.JPG'];
    const root = write({
      'annotations/instances_train.json': instances({
        images: paths.map((file_name, i) => picture(i + 1, { file_name })),
      }),
      'annotations/instances_val.json': instances(),
      'train/1.jpg': null,
      'train/a/2.jpg': null,
      'train/b/2.jpg': null,
      'train/a/3.jpg': null,
      'val/1.jpg': null,
    });
    const { splits, allWarnings } = await openDataset(root);
    expect(splits.train.map(({ file, name }) => [file, name])).toEqual([
      [join(root, 'train/1.jpg'), paths[0]],
      [join(root, 'train/a/2.jpg'), paths[1]],
      [join(root, 'train/a/3.jpg'), paths[2]],
    ]);
    expect(allWarnings).toContain(
      `${join(root, 'annotations/instances_train.json')}: images[0].file_name: ${paths[0]} is train/1.jpg`,
    );
  });

  test('two paths of one image are refused; a plain name can be in a folder of an image folder', async () => {
    const images = [picture(1, { file_name: 'C:\\a\\1.jpg' }), picture(2, { file_name: 'D:\\b\\1.jpg' })];
    const root = write({ 'result.json': instances({ images }), 'images/1.jpg': null });
    expect(await inputErrorOf(() => openDataset(root))).toContain(
      'images[1].file_name: expected a path that fits another image than C:\\a\\1.jpg (both fit images/1.jpg)',
    );
    const nested = write({ 'result.json': two, 'images/default/1.jpg': null, 'images/default/2.jpg': null });
    expect((await openDataset(nested)).warnings).toEqual([]);
  });

  test('a path that fits several images is refused', async () => {
    const root = write({
      'result.json': instances({ images: [picture(1, { file_name: '/home/me/1.jpg' }), picture(2)] }),
      'images/a/1.jpg': null,
      'images/b/1.jpg': null,
      'images/2.jpg': null,
    });
    expect(await inputErrorOf(() => openDataset(root))).toContain(
      'result.json: images[0].file_name: expected a path that fits one image ' +
        '(it fits images/a/1.jpg, images/b/1.jpg), got "/home/me/1.jpg"',
    );
  });

  test('a name does not fit an image of another split', async () => {
    const root = write({
      'annotations/instances_train.json': two,
      'annotations/instances_val.json': instances(),
      'train/1.jpg': null,
      'val/1.jpg': null,
      'val/2.jpg': null,
    });
    expect(await inputErrorOf(() => openDataset(root))).toContain('1 of 2 images are missing: 2.jpg (image 2)');
  });

  test('a tenth of the images may be missing: they are left out with a warning', async () => {
    const images = Array.from({ length: 20 }, (_, i) => picture(i + 1));
    const present = images.slice(2).map(({ file_name }) => [`train/${String(file_name)}`, null] as const);
    const root = write({
      'annotations/instances_train.json': instances({
        images,
        annotations: [annotation(1), annotation(2, { image_id: 3 })],
      }),
      'annotations/instances_val.json': instances(),
      ...Object.fromEntries(present),
      'val/1.jpg': null,
    });
    const { splits, warnings } = await openDataset(root);
    expect([splits.train.length, splits.train.flatMap(({ objects }) => objects).length]).toEqual([18, 1]);
    expect(warnings[0]).toBe('images that do not exist, left out: 2');
  });

  test('ids that are text, annotations without id, polygons without box and images without size are read', async () => {
    const root = write({
      'result.json': instances({
        images: [picture(1, { id: '1', width: undefined, height: null }), picture(2)],
        annotations: [
          annotation(5, { image_id: '1', category_id: '3' }),
          annotation(0, {
            id: undefined,
            bbox: undefined,
            segmentation: [
              [1, 2, 11, 2, 11, 22],
              [20, 2, 21, 3, 20, 4],
            ],
          }),
          annotation(0, { id: null, bbox: [], segmentation: [[1, 2, 11, 2, 11, 22]] }),
        ],
        categories: categories.map(({ id, name }) => ({ id: String(id), name })),
      }),
      'images/1.jpg': null,
      'images/2.jpg': null,
    });
    const { splits, warnings } = await openDataset(root);
    const [first] = [...splits.train, ...splits.val].filter(({ id }) => id === 1);
    expect(first).toMatchObject({ width: 40, height: 30 });
    expect(first.objects.map(({ id, box }) => [id, box])).toEqual([
      [5, [10, 5, 30, 15]],
      [6, [1, 2, 21, 22]],
      [7, [1, 2, 11, 22]],
    ]);
    const text = warnings.join('\n');
    expect(text).toContain('images[].id: 1 such as "1"');
    expect(text).toContain('annotations without id, numbered: 1');
    expect(text).toContain('annotations without bbox, with the box of their polygon: 1');
  });
});

describe('folders', () => {
  test('of no format: the error has the layouts as trees, what was found, and data sets inside', async () => {
    const root = write({
      'export/result.json': two,
      'export/images/1.jpg': null,
      'photos/1.jpg': null,
      'notes.txt': 'x',
      'more/deep/x.csv': '',
    });
    const message = await inputErrorOf(() => openDataset(join(root, 'photos')));
    expect(message).toContain('found: 1.jpg (files: 1 .jpg)');
    for (const text of ['Roboflow', 'data.yaml', 'classes.txt', 'ImageSets/Main/']) expect(message).toContain(text);
    expect(await inputErrorOf(() => openDataset(write({ 'a/data/b/x.json': '{}' })))).toContain('files: 1 .json');
    const nested = write({
      'set/images/a.jpg': null,
      'set/labels/a.txt': '0 0.5 0.5 1 1',
      'set/classes.txt': 'x',
      'readme.md': 'x',
    });
    expect(await inputErrorOf(() => openDataset(nested))).toContain(`there is a data set in ${join(nested, 'set')}`);
  });

  test('of two formats: the error says how to choose, and --format chooses', async () => {
    const root = write({
      'images/a.jpg': null,
      'images/b.jpg': null,
      'labels/a.txt': '0 0.5 0.5 1 1',
      'labels/b.txt': '',
      'classes.txt': 'cat',
      'Annotations/a.xml': catXml,
      'Annotations/b.xml': xml(),
    });
    expect(await inputErrorOf(() => openDataset(root))).toMatch(/choose one with --format voc or --format yolo$/);
    for (const format of ['voc', 'yolo']) expect((await openDataset(root, { format })).format.key).toBe(format);
    expect(await inputErrorOf(() => openDataset(root, { format: 'csv' }))).toContain(
      '--format: expected one of coco, voc, yolo, got "csv"',
    );
    expect(await inputErrorOf(() => openDataset(root, { format: 'coco' }))).toContain('expected a data set');
  });
});
