/** Layouts of Pascal VOC as tools export them: what is recognized, and how boxes are counted. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openDataset } from '../training/data/index.ts';
import { object, write, xml } from './dataset-files.ts';

type Files = Readonly<Record<string, string | object | null>>;

const catXml = xml(object('cat', [11, 6, 30, 15]));

describe('Pascal VOC', () => {
  const layouts: [string, Files, string, string[]][] = [
    ['flat', { 'a.jpg': null, 'a.xml': catXml, 'b.JPG': null, 'b.xml': xml() }, '', ['a.jpg', 'b.JPG']],
    [
      'annots and images',
      { 'images/a.jpg': null, 'annots/a.xml': catXml, 'images/b.png': null, 'annots/b.xml': xml() },
      '',
      ['images/a.jpg', 'images/b.png'],
    ],
    [
      'labels and images',
      { 'images/a.jpg': null, 'labels/a.xml': catXml, 'images/b.jpg': null, 'labels/b.xml': xml() },
      '',
      ['images/a.jpg', 'images/b.jpg'],
    ],
    [
      'annotations and the root',
      { 'a.jpg': null, 'annotations/a.xml': catXml, 'b.jpg': null, 'annotations/b.xml': xml() },
      '',
      ['a.jpg', 'b.jpg'],
    ],
    [
      'Annotations and JPEGImages without lists',
      { 'JPEGImages/a.jpg': null, 'Annotations/a.xml': catXml, 'JPEGImages/b.jpg': null, 'Annotations/b.xml': xml() },
      'Pascal VOC: not divided into splits',
      ['JPEGImages/a.jpg', 'JPEGImages/b.jpg'],
    ],
    [
      'Roboflow',
      {
        'train/a.jpg': null,
        'train/a.xml': catXml,
        'valid/a.jpg': null,
        'valid/a.xml': xml(),
        'test/c.jpg': null,
        'test/c.xml': xml(),
      },
      'Roboflow Pascal VOC: train, valid -> val, test',
      ['train/a.jpg', 'valid/a.jpg', 'test/c.jpg'],
    ],
    [
      'splits in folders of annotations and of images',
      {
        'images/train/a.jpg': null,
        'Annotations/train/a.xml': catXml,
        'images/val/b.jpg': null,
        'Annotations/val/b.xml': xml(),
      },
      'Pascal VOC: train, val',
      ['images/train/a.jpg', 'images/val/b.jpg'],
    ],
    [
      'splits of the images alone',
      { 'images/train/a.jpg': null, 'annotations/a.xml': catXml, 'images/val/b.jpg': null, 'annotations/b.xml': xml() },
      'Pascal VOC: train, val',
      ['images/train/a.jpg', 'images/val/b.jpg'],
    ],
    [
      'a folder for each class',
      { 'cats/a.jpg': null, 'cats/a.xml': catXml, 'dogs/b.jpg': null, 'dogs/b.xml': xml() },
      '',
      ['cats/a.jpg', 'dogs/b.jpg'],
    ],
    [
      'lists with other folders',
      {
        'ImageSets/train.txt': 'a.jpg\n',
        'ImageSets/val.txt': 'b\n',
        'images/a.jpg': null,
        'images/b.jpg': null,
        'xmls/a.xml': catXml,
        'xmls/b.xml': xml(),
      },
      'Pascal VOC: train, val',
      ['images/a.jpg', 'images/b.jpg'],
    ],
  ];
  test.each(layouts)('%s', async (_, files, recognized, expected) => {
    const root = write(files);
    const dataset = await openDataset(root);
    if (recognized !== '') expect(dataset.recognized).toBe(recognized);
    const records = Object.values(dataset.splits).flat();
    expect(records.map(({ file }) => file).sort()).toEqual(expected.map((path) => join(root, path)).sort());
    expect(records.flatMap(({ objects }) => objects.map(({ box }) => box))).toEqual([[10, 5, 30, 15]]);
    expect([dataset.classNames, dataset.warnings]).toEqual([['cat'], []]);
  });

  test('floats, a BOM, a missing size and a missing difficult are read', async () => {
    const floats = object('cat', ['11.5', '6.25', '30', '15.0']);
    const noSize = `\uFEFF<annotation><filename>x.jpg</filename>${floats}</annotation>`;
    const { splits } = await openDataset(write({ 'a.jpg': null, 'a.xml': noSize, 'b.jpg': null, 'b.xml': catXml }));
    const record = [...splits.train, ...splits.val].find(({ name }) => name === 'a.jpg');
    expect(record).toMatchObject({ width: 40, height: 30, objects: [{ box: [10.5, 5.25, 30, 15], crowd: false }] });
  });

  test('an image with the name of <filename> is found if none has the name of the XML file', async () => {
    const named = catXml.replace('whatever.jpg', 'photo.jpg');
    const root = write({
      'images/photo.jpg': null,
      'annots/1.xml': named,
      'images/b.jpg': null,
      'annots/b.xml': xml(),
    });
    const { splits, warnings } = await openDataset(root);
    expect([...splits.train, ...splits.val].map(({ name }) => name).sort()).toEqual(['b.jpg', 'photo.jpg']);
    expect(warnings[0]).toContain('images named by <filename>');
  });

  test('images without annotation file are left out with a warning', async () => {
    const root = write({ 'a.jpg': null, 'a.xml': catXml, 'b.jpg': null, 'b.xml': xml(), 'c.jpg': null });
    expect((await openDataset(root)).allWarnings).toEqual([join(root, 'c.jpg')]);
  });

  test('boxes that begin at 0 show that a data set counts from 0: none of its boxes is moved', async () => {
    const root = write({
      'a.jpg': null,
      'a.xml': xml(object('cat', [0, 5, 10, 15]), object('cat', [3, 4, 5, 6])),
      'b.jpg': null,
      'b.xml': xml(object('cat', [7, 8, 40, 30])),
    });
    const { splits, notes, warnings } = await openDataset(root);
    const boxes = [...splits.train, ...splits.val].sort((a, b) => a.id - b.id).flatMap(({ objects }) => objects);
    expect(boxes.map(({ box }) => box)).toEqual([
      [0, 5, 10, 15],
      [3, 4, 5, 6],
      [7, 8, 40, 30],
    ]);
    expect(notes[0]).toContain('boxes count pixels from 0 (1 begin there, 0 at 1)');
    expect(warnings).toEqual([]);
  });
});
