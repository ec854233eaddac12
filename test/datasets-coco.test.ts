/** COCO data sets: folders are read as documented; bad files are refused with file and field. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { cocoAnnotations, openDataset } from '../training/data/index.ts';
import { parseGroundTruth } from '../training/evaluation/coco-files.ts';
import { annotation, categories, coco, instances, picture, write, type Entry } from './dataset-files.ts';
import { inputErrorOf } from './input-errors.ts';

describe('COCO', () => {
  test('classes come in the order of category ids, boxes are xyxy, images without objects are kept', async () => {
    const root = coco({
      images: [picture(1), picture(2)],
      annotations: [
        annotation(1),
        annotation(5, { category_id: 7, bbox: [0, 0, 40, 30], iscrowd: 1 }),
        annotation(6, { bbox: [1, 2, 3, 4], area: undefined, iscrowd: undefined }),
      ],
    });
    const dataset = await openDataset(root);
    expect(dataset).toMatchObject({
      root,
      format: { name: 'COCO' },
      classNames: ['cat', 'dog'],
      categoryIds: [3, 7],
      warnings: [],
      allWarnings: [],
    });
    expect(dataset.splits.train).toEqual([
      {
        id: 1,
        file: join(root, 'train/1.jpg'),
        name: '1.jpg',
        width: 40,
        height: 30,
        objects: [
          { id: 1, label: 0, box: [10, 5, 30, 15], area: 150, crowd: false },
          { id: 5, label: 1, box: [0, 0, 40, 30], area: 150, crowd: true },
          { id: 6, label: 0, box: [1, 2, 4, 6], area: 12, crowd: false },
        ],
      },
      { id: 2, file: join(root, 'train/2.jpg'), name: '2.jpg', width: 40, height: 30, objects: [] },
    ]);
    expect(dataset.splits.val.length).toBe(1);
  });

  test.each([
    ['COCO 2017', 'train2017.json', 'train2017/1.jpg', 'val2017.json', 'val2017/1.jpg'],
    ['folders in images/', 'train2017.json', 'images/train2017/1.jpg', 'val2017.json', 'images/val2017/1.jpg'],
    ['plain folders, suffixed files', 'train2017.json', 'train/1.jpg', 'val2017.json', 'val/1.jpg'],
    ['one folder for all', 'train.json', 'images/1.jpg', 'val.json', 'images/1.jpg'],
  ])('layout: %s', async (_, train, trainImage, val, valImage) => {
    const root = write({
      [`annotations/instances_${train}`]: instances(),
      [`annotations/instances_${val}`]: instances(),
      [trainImage]: null,
      [valImage]: null,
    });
    const { splits } = await openDataset(root);
    expect([splits.train[0].file, splits.val[0].file]).toEqual([join(root, trainImage), join(root, valImage)]);
  });

  test('file names with folders are relative to the image folders or the data set', async () => {
    const root = write({
      'annotations/instances_train.json': instances({ images: [picture(1, { file_name: 'a/1.jpg' })] }),
      'images/a/1.jpg': null,
      'annotations/instances_val.json': instances({ images: [picture(1, { file_name: 'elsewhere/1.jpg' })] }),
      'elsewhere/1.jpg': null,
    });
    const { splits } = await openDataset(root);
    expect([splits.train[0].file, splits.val[0].file]).toEqual([
      join(root, 'images/a/1.jpg'),
      join(root, 'elsewhere/1.jpg'),
    ]);
  });

  test('only the splits that are asked for are read', async () => {
    const root = write({
      'annotations/instances_train.json': 'broken',
      'annotations/instances_val.json': instances(),
      'val/1.jpg': null,
    });
    expect(Object.keys((await openDataset(root, { splits: ['val'] })).splits)).toEqual(['val']);
    expect(await inputErrorOf(() => openDataset(root))).toContain('malformed JSON');
  });

  test('the ground truth for evaluation equals the file', async () => {
    const root = coco({
      annotations: [annotation(1), annotation(2, { category_id: 7, iscrowd: 1, bbox: [0.5, 1.25, 10.5, 8] })],
    });
    const written: unknown = JSON.parse(readFileSync(join(root, 'annotations/instances_train.json'), 'utf8'));
    const truth = cocoAnnotations(await openDataset(root), 'train');
    expect(truth).toEqual({
      ...parseGroundTruth(written, 'train'),
      categories: [
        { id: 3, name: 'cat' },
        { id: 7, name: 'dog' },
      ],
    });
  });

  const bad: [string, Entry, string][] = [
    ['no images', { images: undefined }, 'images: expected an array, got nothing'],
    ['images of another type', { images: {} }, 'images: expected an array, got {}'],
    ['an image that is a number', { images: [3] }, 'images[0]: expected an object, got 3'],
    [
      'an image without a name',
      { images: [picture(1, { file_name: undefined })] },
      'images[0].file_name: expected a text that is not empty, got nothing',
    ],
    [
      'a width that is text',
      { images: [picture(1, { width: '40' })] },
      'images[0].width: expected an integer >= 1, got "40"',
    ],
    [
      'two images with one id',
      { images: [picture(1), picture(1)] },
      'images[1].id: expected an id that no other image has, got 1',
    ],
    ['no categories', { categories: [] }, 'categories: expected at least one category, got []'],
    [
      'two categories with one id',
      { categories: [...categories, { id: 3, name: 'cow' }] },
      'categories[2].id: expected an id that no other category has, got 3',
    ],
    [
      'two categories with one name',
      { categories: [...categories, { id: 4, name: 'cat' }] },
      'categories[2].name: expected a name that no other category has, got "cat"',
    ],
    ['no annotations', { annotations: undefined }, 'annotations: expected an array, got nothing'],
    [
      'two annotations with one id',
      { annotations: [annotation(1), annotation(1)] },
      'annotations[1].id: expected an id that no other annotation has, got 1',
    ],
    [
      'an id that is no number',
      { annotations: [annotation(1, { id: 'one' })] },
      'annotations[0].id: expected an integer >= 0, got "one"',
    ],
    [
      'an unknown image',
      { annotations: [annotation(4, { image_id: 9 })] },
      'annotation 4: image_id: expected the id of one of the images, got 9',
    ],
    [
      'an unknown category',
      { annotations: [annotation(4, { category_id: 5 })] },
      'annotation 4: category_id: expected one of the categories (3, 7), got 5',
    ],
    [
      'no box',
      { annotations: [annotation(4, { bbox: undefined })] },
      'annotation 4: bbox: expected four numbers [x, y, width, height], got nothing',
    ],
    [
      'half a box',
      { annotations: [annotation(4, { bbox: [1, 2] })] },
      'annotation 4: bbox: expected four numbers [x, y, width, height], got [1,2]',
    ],
    [
      'a box of text',
      { annotations: [annotation(4, { bbox: ['1', 2, 3, 4] })] },
      'annotation 4: bbox: expected four numbers [x, y, width, height], got ["1",2,3,4]',
    ],
    [
      'a negative area',
      { annotations: [annotation(4, { area: -1 })] },
      'annotation 4: area: expected a number of at least 0, got -1',
    ],
    [
      'an unknown iscrowd',
      { annotations: [annotation(4, { iscrowd: 2 })] },
      'annotation 4: iscrowd: expected 0 or 1, got 2',
    ],
  ];
  test.each(bad)('%s is refused', async (_, change, message) => {
    const root = coco(change);
    expect(await inputErrorOf(() => openDataset(root))).toBe(
      `${join(root, 'annotations/instances_train.json')}: ${message}`,
    );
  });

  test('malformed JSON is refused with its position', async () => {
    const root = write({
      'annotations/instances_train.json': '{\n  "images": [1, 2,,]\n}',
      'annotations/instances_val.json': instances(),
    });
    expect(await inputErrorOf(() => openDataset(root))).toMatch(
      /instances_train\.json: expected JSON, got malformed JSON at line 2, column 19: value expected$/,
    );
    const empty = write({ 'annotations/instances_train.json': '', 'annotations/instances_val.json': instances() });
    expect(await inputErrorOf(() => openDataset(empty))).toMatch(
      /instances_train\.json: expected JSON, got malformed JSON at line 1, column 1: value expected$/,
    );
  });

  test('an error about missing images has their number, the first names, and the searched folders', async () => {
    const root = coco({ images: [1, 2, 3, 4].map((id) => picture(id)) });
    expect(await inputErrorOf(() => openDataset(root))).toBe(
      `${join(root, 'annotations/instances_train.json')}: 2 of 4 images are missing: ` +
        `3.jpg (image 3), 4.jpg (image 4); looked in ${join(root, 'train')}`,
    );
    const none = write({
      'annotations/instances_train.json': instances(),
      'annotations/instances_val.json': instances(),
    });
    expect(await inputErrorOf(() => openDataset(none))).toContain(`looked in ${join(none, 'train')} (no such folder)`);
  });

  test('files with different categories are refused with both names and the differences', async () => {
    const root = coco({
      categories: [
        { id: 3, name: 'cat' },
        { id: 7, name: 'wolf' },
        { id: 8, name: 'cow' },
      ],
    });
    expect(await inputErrorOf(() => openDataset(root))).toBe(
      `${join(root, 'annotations/instances_train.json')} and ${join(root, 'annotations/instances_val.json')}: ` +
        'expected the same categories, got differences: ' +
        'id 7 is "wolf" in the first and "dog" in the second; id 8 is "cow" in the first and nothing in the second',
    );
  });

  test('two files for a split are refused', async () => {
    const root = write({
      'annotations/instances_train2014.json': instances(),
      'annotations/instances_train2017.json': instances(),
    });
    expect(await inputErrorOf(() => openDataset(root))).toContain(
      'expected one annotation file for the split "train", ' +
        'got annotations/instances_train2014.json and annotations/instances_train2017.json',
    );
  });

  test('degenerate boxes are dropped and boxes that reach out are clipped, each with a warning', async () => {
    const boxes = [
      [1, 1, 0, 5],
      [1, 1, 5, -2],
      [50, 2, 5, 5],
      [-4, -3, 10, 10],
      [30, 20, 20, 20],
      [0, 0, 40.001, 30],
      [2, 2, 3, 3],
    ];
    const root = coco({ annotations: boxes.map((bbox, i) => annotation(i + 1, { bbox })) });
    const file = join(root, 'annotations/instances_train.json');
    const dataset = await openDataset(root);
    expect(dataset.splits.train[0].objects.map(({ id, box }) => [id, box])).toEqual([
      [4, [0, 0, 6, 7]],
      [5, [30, 20, 40, 30]],
      [6, [0, 0, 40, 30]],
      [7, [2, 2, 5, 5]],
    ]);
    expect(dataset.warnings).toEqual([
      'degenerate boxes, dropped: 2',
      `  ${file}: annotation 1 (1.jpg): bbox [1, 1, 0, 5] has no extent`,
      `  ${file}: annotation 2 (1.jpg): bbox [1, 1, 5, -2] has no extent`,
      'boxes outside of their image, dropped: 1',
      `  ${file}: annotation 3 (1.jpg): bbox [50, 2, 5, 5] in an image of 40 x 30`,
      'boxes that reach out of their image, clipped: 2',
      `  ${file}: annotation 4 (1.jpg): bbox [-4, -3, 10, 10] in an image of 40 x 30`,
      `  ${file}: annotation 5 (1.jpg): bbox [30, 20, 20, 20] in an image of 40 x 30`,
    ]);
    expect(dataset.allWarnings.length).toBe(5);
  });

  test('NaN, as Python writes it, makes a degenerate box; NaN in a text stays', async () => {
    const root = write({
      'annotations/instances_train.json': JSON.stringify(
        instances({
          images: [picture(1, { file_name: 'NaN "1".jpg' })],
          annotations: [annotation(1), annotation(2, { bbox: ['@', 1, 2, 3] })],
        }),
      ).replace('"@"', 'NaN'),
      'annotations/instances_val.json': instances(),
      'train/NaN "1".jpg': null,
      'val/1.jpg': null,
    });
    const dataset = await openDataset(root);
    expect(dataset.splits.train[0].objects.map(({ id }) => id)).toEqual([1]);
    expect(dataset.allWarnings).toEqual([
      `${join(root, 'annotations/instances_train.json')}: annotation 2 (NaN "1".jpg): ` +
        'bbox [NaN, 1, 2, 3] has no extent',
    ]);
  });

  test('the summary of warnings has ten cases of each kind; the whole list is kept', async () => {
    const dataset = await openDataset(
      coco({ annotations: Array.from({ length: 25 }, (_, i) => annotation(i, { bbox: [0, 0, 0, 0] })) }),
    );
    expect(dataset.warnings.length).toBe(12);
    expect([dataset.warnings[0], dataset.warnings[11]]).toEqual(['degenerate boxes, dropped: 25', '  ... and 15 more']);
    expect(dataset.allWarnings.length).toBe(25);
  });
});
