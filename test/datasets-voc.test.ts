/** Pascal VOC data sets: folders are read as documented; bad files are refused with file and field. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { cocoAnnotations, openDataset } from '../training/data/index.ts';
import { object, voc, xml } from './dataset-files.ts';
import { inputErrorOf } from './input-errors.ts';

describe('Pascal VOC', () => {
  test('1-based inclusive boxes become xyxy, classes of all lists are sorted, difficult becomes crowd', async () => {
    const root = voc(
      xml(
        object('dog &amp; cat', [11, 6, 30, 15]),
        object('007', ['1.0', 1, 1, 1], '<difficult>1</difficult><part><name>head</name></part>'),
      ),
    );
    const dataset = await openDataset(root);
    expect(dataset).toMatchObject({
      format: { name: 'Pascal VOC' },
      classNames: ['007', 'dog & cat', 'zebra'],
      categoryIds: [1, 2, 3],
      warnings: [],
    });
    expect(dataset.splits).toEqual({
      train: [
        {
          id: 1,
          file: join(root, 'JPEGImages/a.jpg'),
          name: 'a.jpg',
          width: 40,
          height: 30,
          objects: [
            { id: 1, label: 1, box: [10, 5, 30, 15], area: 200, crowd: false },
            { id: 2, label: 0, box: [0, 0, 1, 1], area: 1, crowd: true },
          ],
        },
      ],
      val: [
        {
          id: 2,
          file: join(root, 'JPEGImages/b.JPG'),
          name: 'b.JPG',
          width: 40,
          height: 30,
          objects: [{ id: 3, label: 2, box: [0, 0, 40, 30], area: 1200, crowd: false }],
        },
      ],
      test: [{ id: 3, file: join(root, 'JPEGImages/c.png'), name: 'c.png', width: 40, height: 30, objects: [] }],
    });
    expect(cocoAnnotations(dataset, 'train')).toEqual({
      images: [{ id: 1, file_name: 'a.jpg', width: 40, height: 30 }],
      annotations: [
        { id: 1, image_id: 1, category_id: 2, bbox: [10, 5, 20, 10], area: 200, iscrowd: 0 },
        { id: 2, image_id: 1, category_id: 1, bbox: [0, 0, 1, 1], area: 1, iscrowd: 1 },
      ],
      categories: [
        { id: 1, name: '007' },
        { id: 2, name: 'dog & cat' },
        { id: 3, name: 'zebra' },
      ],
    });
  });

  test('degenerate boxes, and boxes of tools that count from 0, are in the warnings', async () => {
    const root = voc(
      xml(object('dog', [0, 0, 10, 10]), object('dog', [20, 5, 19, 9]), object('cat', ['nan', 1, 2, 3])),
    );
    const dataset = await openDataset(root);
    const file = join(root, 'Annotations/a.xml');
    expect(dataset.splits.train[0].objects.map(({ box }) => box)).toEqual([[0, 0, 10, 10]]);
    expect(dataset.allWarnings).toEqual([
      `${file}: object 1 (dog): bndbox 0..10, 0..10 (counted from 1) in an image of 40 x 30`,
      `${file}: object 2 (dog): bndbox 20..19, 5..9 (counted from 1) has no extent`,
      `${file}: object 3 (cat): bndbox NaN..2, 1..3 (counted from 1) has no extent`,
    ]);
  });

  const bad: [string, string, string][] = [
    ['malformed XML', '<annotation>\n<size></annotation>', 'expected XML, got malformed XML at line 2, column 7: '],
    ['an empty file', '', 'expected XML, got malformed XML at line 1'],
    ['another root', '<note></note>', 'annotation: expected an object, got nothing'],
    ['no size', '<annotation></annotation>', 'annotation: expected an object, got ""'],
    ['a width that is text', xml().replace('40', 'wide'), 'size.width: expected a number, got "wide"'],
    ['a width of 0', xml().replace('40', '0'), 'size.width: expected an integer >= 1, got 0'],
    ['an object without name', xml('<object></object>'), 'object 1: expected an object, got ""'],
    [
      'an object without box',
      xml(object('a', [1, 2, 3, 4]), '<object><name>b</name></object>'),
      'object 2 (b): bndbox: expected an object, got nothing',
    ],
    ['an edge that is text', xml(object('a', ['x', 2, 3, 4])), 'object 1 (a): bndbox.xmin: expected a number, got "x"'],
    [
      'an unknown difficult',
      xml(object('a', [1, 2, 3, 4], '<difficult>very</difficult>')),
      'object 1 (a): difficult: expected 0 or 1, got "very"',
    ],
  ];
  test.each(bad)('%s is refused', async (_, first, message) => {
    const root = voc(first);
    expect(await inputErrorOf(() => openDataset(root))).toContain(`${join(root, 'Annotations/a.xml')}: ${message}`);
  });

  test('a listed image without annotation, without file, with two files, or in a list twice is refused', async () => {
    const message = (change: Readonly<Record<string, string | null>>) =>
      inputErrorOf(() => openDataset(voc(xml(), change)));
    expect(await message({ 'ImageSets/Main/train.txt': 'a\nd\n', 'JPEGImages/d.jpg': null })).toMatch(
      /Annotations: expected an annotation file for each of the 4 images .*, got none for 1: d\.xml/,
    );
    expect(await message({ 'ImageSets/Main/train.txt': 'a\nd\n', 'Annotations/d.xml': xml() })).toContain(
      '1 of 4 images are missing: d.jpg; looked in',
    );
    expect(await message({ 'JPEGImages/a.png': null })).toContain(
      'expected one image of the name "a", got a.jpg and a.png',
    );
    expect(await message({ 'ImageSets/Main/train.txt': 'a\na\n' })).toContain(
      'train.txt: line 2: expected every image once, got "a", which is in line 1 too',
    );
    expect(await message({ 'ImageSets/Main/train.txt': '\n' })).toContain(
      'train.txt: expected image names, one per line, got an empty list',
    );
  });
});
