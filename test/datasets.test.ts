/** Data sets: COCO and Pascal VOC folders read as they are meant, bad ones refused with file and field, the shapes the same each time. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseGroundTruth } from '../training/evaluation/coco-files.ts';
import { cocoAnnotations, ensureShapesDataset, openDataset, splitRecords } from '../training/data/index.ts';
import { InputError } from '../training/core/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'datasets-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let image = Buffer.alloc(0);
beforeAll(async () => {
  image = await sharp({ create: { width: 40, height: 30, channels: 3, background: 'teal' } })
    .jpeg()
    .toBuffer();
});

let made = 0;
/** Writes files (text, an object as JSON, or null for an image) into a new folder. */
function write(files: Readonly<Record<string, string | object | null>>): string {
  const root = join(folder, `set-${made++}`);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(
      join(root, name),
      content === null ? image : typeof content === 'string' ? content : JSON.stringify(content),
    );
  }
  return root;
}

/** Message of the InputError that `action` throws. */
function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof InputError) return error.message;
    throw error;
  }
  throw new Error('expected an InputError');
}

type Entry = Record<string, unknown>;
const categories: Entry[] = [
  { id: 7, name: 'dog' },
  { id: 3, name: 'cat' },
];
const picture = (id: number, change: Entry = {}): Entry => ({
  id,
  file_name: `${id}.jpg`,
  width: 40,
  height: 30,
  ...change,
});
const annotation = (id: number, change: Entry = {}): Entry => ({
  id,
  image_id: 1,
  category_id: 3,
  bbox: [10, 5, 20, 10],
  area: 150,
  iscrowd: 0,
  ...change,
});
const instances = (change: Entry = {}): Entry => ({
  images: [picture(1)],
  annotations: [annotation(1)],
  categories,
  ...change,
});

/** A COCO data set whose train file is changed. */
const coco = (change: Entry) =>
  write({
    'annotations/instances_train.json': instances(change),
    'annotations/instances_val.json': instances(),
    'train/1.jpg': null,
    'train/2.jpg': null,
    'val/1.jpg': null,
  });

describe('COCO', () => {
  test('is read: classes in the order of category ids, boxes as xyxy, crowds marked, images without objects kept', () => {
    const root = coco({
      images: [picture(1), picture(2)],
      annotations: [
        annotation(1),
        annotation(5, { category_id: 7, bbox: [0, 0, 40, 30], iscrowd: 1 }),
        annotation(6, { bbox: [1, 2, 3, 4], area: undefined, iscrowd: undefined }),
      ],
    });
    const dataset = openDataset(root);
    expect(dataset).toMatchObject({
      root,
      format: 'coco',
      classNames: ['cat', 'dog'],
      categoryIds: [3, 7],
      warnings: [],
      allWarnings: [],
    });
    expect(dataset.splits['train']).toEqual([
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
    expect(dataset.splits['val'].length).toBe(1);
  });

  test.each([
    ['COCO 2017', 'train2017.json', 'train2017/1.jpg', 'val2017.json', 'val2017/1.jpg'],
    ['folders in images/', 'train2017.json', 'images/train2017/1.jpg', 'val2017.json', 'images/val2017/1.jpg'],
    ['plain folders, suffixed files', 'train2017.json', 'train/1.jpg', 'val2017.json', 'val/1.jpg'],
    ['one folder for all', 'train.json', 'images/1.jpg', 'val.json', 'images/1.jpg'],
  ])('layout: %s', (_, train, trainImage, val, valImage) => {
    const root = write({
      [`annotations/instances_${train}`]: instances(),
      [`annotations/instances_${val}`]: instances(),
      [trainImage]: null,
      [valImage]: null,
    });
    const { splits } = openDataset(root);
    expect([splits['train'][0].file, splits['val'][0].file]).toEqual([join(root, trainImage), join(root, valImage)]);
  });

  test('file names with folders are relative to the image folders or the data set', () => {
    const root = write({
      'annotations/instances_train.json': instances({ images: [picture(1, { file_name: 'a/1.jpg' })] }),
      'images/a/1.jpg': null,
      'annotations/instances_val.json': instances({ images: [picture(1, { file_name: 'elsewhere/1.jpg' })] }),
      'elsewhere/1.jpg': null,
    });
    const { splits } = openDataset(root);
    expect([splits['train'][0].file, splits['val'][0].file]).toEqual([
      join(root, 'images/a/1.jpg'),
      join(root, 'elsewhere/1.jpg'),
    ]);
  });

  test('only the splits asked for are read', () => {
    const root = write({
      'annotations/instances_train.json': 'broken',
      'annotations/instances_val.json': instances(),
      'val/1.jpg': null,
    });
    expect(Object.keys(openDataset(root, { splits: ['val'] }).splits)).toEqual(['val']);
    expect(refusal(() => openDataset(root))).toContain('malformed JSON');
  });

  test('ground truth for evaluation is the file again', () => {
    const root = coco({
      annotations: [annotation(1), annotation(2, { category_id: 7, iscrowd: 1, bbox: [0.5, 1.25, 10.5, 8] })],
    });
    const written: unknown = JSON.parse(readFileSync(join(root, 'annotations/instances_train.json'), 'utf8'));
    const truth = cocoAnnotations(openDataset(root), 'train');
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
    ['an image that is none', { images: [3] }, 'images[0]: expected an object, got 3'],
    [
      'an image without a name',
      { images: [picture(1, { file_name: undefined })] },
      'images[0].file_name: expected a text that is not empty, got nothing',
    ],
    [
      'a size that is none',
      { images: [picture(1, { width: '40' })] },
      'images[0].width: expected an integer of at least 1, got "40"',
    ],
    [
      'two images of an id',
      { images: [picture(1), picture(1)] },
      'images[1].id: expected an id that no other image has, got 1',
    ],
    ['no categories', { categories: [] }, 'categories: expected at least one category, got []'],
    [
      'two categories of an id',
      { categories: [...categories, { id: 3, name: 'cow' }] },
      'categories[2].id: expected an id that no other category has, got 3',
    ],
    [
      'two categories of a name',
      { categories: [...categories, { id: 4, name: 'cat' }] },
      'categories[2].name: expected a name that no other category has, got "cat"',
    ],
    ['no annotations', { annotations: undefined }, 'annotations: expected an array, got nothing'],
    [
      'two annotations of an id',
      { annotations: [annotation(1), annotation(1)] },
      'annotations[1].id: expected an id that no other annotation has, got 1',
    ],
    [
      'an annotation without id',
      { annotations: [annotation(1, { id: undefined })] },
      'annotations[0].id: expected an integer of at least 0, got nothing',
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
      'annotation 4: bbox: expected an array, got nothing',
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
  test.each(bad)('%s is refused', (_, change, message) => {
    const root = coco(change);
    expect(refusal(() => openDataset(root))).toBe(`${join(root, 'annotations/instances_train.json')}: ${message}`);
  });

  test('malformed JSON is refused with its position', () => {
    const root = write({
      'annotations/instances_train.json': '{\n  "images": [1, 2,,]\n}',
      'annotations/instances_val.json': instances(),
    });
    expect(refusal(() => openDataset(root))).toMatch(
      /instances_train\.json: malformed JSON at line 2, column 19: value expected$/,
    );
    const empty = write({ 'annotations/instances_train.json': '', 'annotations/instances_val.json': instances() });
    expect(refusal(() => openDataset(empty))).toMatch(
      /instances_train\.json: malformed JSON at line 1, column 1: value expected$/,
    );
  });

  test('missing images are counted, named, and where they were looked for is said', () => {
    const root = coco({ images: [1, 2, 3, 4].map((id) => picture(id)) });
    expect(refusal(() => openDataset(root))).toBe(
      `${join(root, 'annotations/instances_train.json')}: 2 of 4 images are missing: 3.jpg (image 3), 4.jpg (image 4); looked in ${join(root, 'train')}`,
    );
    const none = write({
      'annotations/instances_train.json': instances(),
      'annotations/instances_val.json': instances(),
    });
    expect(refusal(() => openDataset(none))).toContain(`looked in ${join(none, 'train')} (no such folder)`);
  });

  test('files that disagree about the categories are both named, with the difference', () => {
    const root = coco({
      categories: [
        { id: 3, name: 'cat' },
        { id: 7, name: 'wolf' },
        { id: 8, name: 'cow' },
      ],
    });
    expect(refusal(() => openDataset(root))).toBe(
      `${join(root, 'annotations/instances_train.json')} and ${join(root, 'annotations/instances_val.json')}: the categories disagree: ` +
        'id 7 is "wolf" in the first and "dog" in the second; id 8 is "cow" in the first and nothing in the second',
    );
  });

  test('two files for a split are refused', () => {
    const root = write({
      'annotations/instances_train2014.json': instances(),
      'annotations/instances_train2017.json': instances(),
    });
    expect(refusal(() => openDataset(root))).toContain(
      'two annotation files for the split "train": annotations/instances_train2014.json and annotations/instances_train2017.json',
    );
  });

  test('degenerate boxes are dropped, those reaching out are clipped; each is named and counted, none is silent', () => {
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
    const dataset = openDataset(root);
    expect(dataset.splits['train'][0].objects.map(({ id, box }) => [id, box])).toEqual([
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

  test('NaN, as Python writes it, makes a degenerate box; in a text it stays', () => {
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
    const dataset = openDataset(root);
    expect(dataset.splits['train'][0].objects.map(({ id }) => id)).toEqual([1]);
    expect(dataset.allWarnings).toEqual([
      `${join(root, 'annotations/instances_train.json')}: annotation 2 (NaN "1".jpg): bbox [NaN, 1, 2, 3] has no extent`,
    ]);
  });

  test('many warnings are shown ten of a kind, with how many more there are, and kept whole', () => {
    const dataset = openDataset(
      coco({ annotations: Array.from({ length: 25 }, (_, i) => annotation(i, { bbox: [0, 0, 0, 0] })) }),
    );
    expect(dataset.warnings.length).toBe(12);
    expect([dataset.warnings[0], dataset.warnings[11]]).toEqual(['degenerate boxes, dropped: 25', '  ... and 15 more']);
    expect(dataset.allWarnings.length).toBe(25);
  });
});

const object = (name: string, [xmin, ymin, xmax, ymax]: readonly (number | string)[], extra = '') =>
  `<object><name>${name}</name>${extra}<bndbox><xmin>${xmin}</xmin><ymin>${ymin}</ymin><xmax>${xmax}</xmax><ymax>${ymax}</ymax></bndbox></object>`;
const xml = (...objects: string[]) => `<annotation verified="yes"><filename>whatever.jpg</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>${objects.join('')}</annotation>\n`;
/** Three images, one a list; the annotation of the first is given. */
const voc = (first: string, change: Readonly<Record<string, string | null>> = {}) =>
  write({
    'ImageSets/Main/train.txt': 'a\n',
    'ImageSets/Main/val.txt': '\uFEFFb  \r\n\r\n',
    'ImageSets/Main/test.txt': 'c',
    'Annotations/a.xml': first,
    'Annotations/b.xml': xml(object('zebra', [1, 1, 40, 30])),
    'Annotations/c.xml': xml(),
    'JPEGImages/a.jpg': null,
    'JPEGImages/b.JPG': null,
    'JPEGImages/c.png': null,
    'JPEGImages/readme.txt': 'no image',
    ...change,
  });

describe('Pascal VOC', () => {
  test('is read: boxes from 1-based and inclusive to xyxy, classes of all lists sorted, difficult as crowd', () => {
    const root = voc(
      xml(
        object('dog &amp; cat', [11, 6, 30, 15]),
        object('007', ['1.0', 1, 1, 1], '<difficult>1</difficult><part><name>head</name></part>'),
      ),
    );
    const dataset = openDataset(root);
    expect(dataset).toMatchObject({
      format: 'voc',
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

  test('degenerate boxes and those of tools that count from 0 are named', () => {
    const root = voc(
      xml(object('dog', [0, 0, 10, 10]), object('dog', [20, 5, 19, 9]), object('cat', ['nan', 1, 2, 3])),
    );
    const dataset = openDataset(root);
    const file = join(root, 'Annotations/a.xml');
    expect(dataset.splits['train'][0].objects.map(({ box }) => box)).toEqual([[0, 0, 10, 10]]);
    expect(dataset.allWarnings).toEqual([
      `${file}: object 1 (dog): bndbox 0..10, 0..10 (counted from 1) in an image of 40 x 30`,
      `${file}: object 2 (dog): bndbox 20..19, 5..9 (counted from 1) has no extent`,
      `${file}: object 3 (cat): bndbox NaN..2, 1..3 (counted from 1) has no extent`,
    ]);
  });

  const bad: [string, string, string][] = [
    ['malformed XML', '<annotation>\n<size></annotation>', 'malformed XML at line 2, column 7: '],
    ['an empty file', '', 'malformed XML at line 1'],
    ['another root', '<note></note>', 'annotation: expected an object, got nothing'],
    ['no size', '<annotation></annotation>', 'annotation: expected an object, got ""'],
    ['a width that is none', xml().replace('40', 'wide'), 'size: width: expected a number, got "wide"'],
    ['a width of 0', xml().replace('40', '0'), 'size: width: expected an integer of at least 1, got "0"'],
    ['an object without name', xml('<object></object>'), 'object 1: expected an object, got ""'],
    [
      'an object without box',
      xml(object('a', [1, 2, 3, 4]), '<object><name>b</name></object>'),
      'object 2 (b): bndbox: expected an object, got nothing',
    ],
    ['an edge that is none', xml(object('a', ['x', 2, 3, 4])), 'object 1 (a): xmin: expected a number, got "x"'],
    [
      'an unknown difficult',
      xml(object('a', [1, 2, 3, 4], '<difficult>very</difficult>')),
      'object 1 (a): difficult: expected 0 or 1, got "very"',
    ],
  ];
  test.each(bad)('%s is refused', (_, first, message) => {
    const root = voc(first);
    expect(refusal(() => openDataset(root))).toContain(`${join(root, 'Annotations/a.xml')}: ${message}`);
  });

  test('a listed image without annotation, without file, with two files, or listed twice is refused', () => {
    const message = (change: Readonly<Record<string, string | null>>) => refusal(() => openDataset(voc(xml(), change)));
    expect(message({ 'ImageSets/Main/train.txt': 'a\nd\n', 'JPEGImages/d.jpg': null })).toMatch(
      /Annotations: expected an annotation file for each of the 4 images .*, got none for 1: d\.xml/,
    );
    expect(message({ 'ImageSets/Main/train.txt': 'a\nd\n', 'Annotations/d.xml': xml() })).toContain(
      '1 of 4 images are missing: d.jpg; looked in',
    );
    expect(message({ 'JPEGImages/a.png': null })).toContain('two images of the name "a": a.jpg and a.png; keep one');
    expect(message({ 'ImageSets/Main/train.txt': 'a\na\n' })).toContain(
      'train.txt: line 2: expected every image once, got "a", which is in line 1 too',
    );
    expect(message({ 'ImageSets/Main/train.txt': '\n' })).toContain(
      'train.txt: expected image names, one a line, got an empty list',
    );
  });
});

describe('folders', () => {
  test('without a data set are refused with what was looked for', () => {
    expect(refusal(() => openDataset(write({ 'photos/1.jpg': null })))).toMatch(
      /no data set here; looked for COCO's annotations\/instances_.*Pascal VOC's ImageSets\/Main/,
    );
    expect(refusal(() => openDataset(join(folder, 'nowhere')))).toContain(
      'nowhere: expected the folder of a data set, got nothing there',
    );
  });

  test('without a validation split are refused with how to make one; a split that is asked for must be there', () => {
    const cocoRoot = write({ 'annotations/instances_train.json': instances(), 'train/1.jpg': null });
    expect(refusal(() => openDataset(cocoRoot))).toContain(
      'no split "val" (there is: train); to make one, write annotations/instances_val.json with images in val/',
    );
    const vocRoot = write({
      'ImageSets/Main/train.txt': 'a',
      'Annotations/a.xml': xml(object('dog', [1, 1, 2, 2])),
      'JPEGImages/a.jpg': null,
    });
    expect(refusal(() => openDataset(vocRoot))).toContain(
      'to make one, write ImageSets/Main/val.txt, one image name a line',
    );
    expect(refusal(() => openDataset(vocRoot, { splits: ['test'] }))).toContain('no split "test" (there is: train)');
    expect(refusal(() => splitRecords(openDataset(vocRoot, { splits: ['train'] }), 'toString'))).toContain(
      'no split "toString"',
    );
  });

  test('of both formats are refused', () => {
    expect(
      refusal(() =>
        openDataset(write({ 'annotations/instances_train.json': instances(), 'ImageSets/Main/train.txt': 'a' })),
      ),
    ).toContain('got both');
  });
});

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

  test('are the same bytes for the same options, other images for another seed, other images in train and val', async () => {
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

  test('are read back without a warning: four classes, one to five objects, inside, of the sizes promised, overlapping little', async () => {
    const dataset = openDataset(
      await ensureShapesDataset(join(folder, 'shapes-many'), { trainImages: 150, valImages: 100 }),
    );
    expect(dataset).toMatchObject({ classNames: ['circle', 'square', 'triangle', 'star'], warnings: [] });
    expect([dataset.splits['train'].length, dataset.splits['val'].length]).toEqual([150, 100]);
    const records = dataset.splits['train'];
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

  test('boxes fit what is drawn', async () => {
    const root = await ensureShapesDataset(join(folder, 'shapes-many'), { trainImages: 150, valImages: 100 });
    for (const record of openDataset(root).splits['train'].filter(({ objects }) => objects.length === 1)) {
      const { data } = await sharp(record.file).raw().toBuffer({ resolveWithObject: true });
      const {
        label,
        box: [x0, y0, x1, y1],
      } = record.objects[0];
      // An object's colour differs by 110 or more from the background's two; two pixels are enough to go all the way over a smoothed edge.
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

  test('are left alone when there, made anew for other options, and never put over other files', async () => {
    const root = join(folder, 'shapes-d');
    const said: string[] = [];
    const log = (line: string) => said.push(line);
    await ensureShapesDataset(root, { ...options, log });
    await ensureShapesDataset(root, { ...options, log });
    expect(said.length).toBe(1);
    await ensureShapesDataset(root, { ...options, trainImages: 4, log });
    expect(openDataset(root).splits['train'].length).toBe(4);
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

  test('asked for twice at the same time are made once', async () => {
    const root = join(folder, 'shapes-e');
    await Promise.all([ensureShapesDataset(root, options), ensureShapesDataset(root, options)]);
    expect(digests(root)).toEqual(digests(await ensureShapesDataset(join(folder, 'shapes-a'), options)));
  });
});
