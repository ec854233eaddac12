/** Opening a data set: the format is recognized, and the splits that are asked for must exist. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { openDataset, splitRecords } from '../training/data/index.ts';
import { folder, instances, object, write, xml } from './dataset-files.ts';
import { inputErrorOf } from './input-errors.ts';

describe('folders', () => {
  test('without a data set are refused; the error lists the known formats', async () => {
    expect(await inputErrorOf(() => openDataset(write({ 'photos/1.jpg': null })))).toMatch(
      /a data set, got none of the known formats: COCO \(annotations\/instances_.*\), Pascal VOC \(ImageSets\/Main/,
    );
    expect(await inputErrorOf(() => openDataset(join(folder, 'nowhere')))).toContain(
      'nowhere: expected the folder of a data set, got nothing there',
    );
  });

  test('without a split that is needed are refused; the error says how to make the split', async () => {
    const cocoRoot = write({ 'annotations/instances_train.json': instances(), 'train/1.jpg': null });
    expect(await inputErrorOf(() => openDataset(cocoRoot))).toContain(
      'no split "val" (there is: train); to make one, write annotations/instances_val.json with images in val/',
    );
    const vocRoot = write({
      'ImageSets/Main/train.txt': 'a',
      'Annotations/a.xml': xml(object('dog', [1, 1, 2, 2])),
      'JPEGImages/a.jpg': null,
    });
    expect(await inputErrorOf(() => openDataset(vocRoot))).toContain(
      'to make one, write ImageSets/Main/val.txt, one image name per line',
    );
    expect(await inputErrorOf(() => openDataset(vocRoot, { splits: ['test'] }))).toContain(
      'no split "test" (there is: train)',
    );
    expect(
      await inputErrorOf(async () => splitRecords(await openDataset(vocRoot, { splits: ['train'] }), 'toString')),
    ).toContain('no split "toString"');
  });

  test('of two formats are refused', async () => {
    expect(
      await inputErrorOf(() =>
        openDataset(write({ 'annotations/instances_train.json': instances(), 'ImageSets/Main/train.txt': 'a' })),
      ),
    ).toMatch(/expected one format, got COCO \(annotations\/instances_.*\) and Pascal VOC \(ImageSets\/Main/);
  });
});
