/** Conversions between the formats keep everything; the result is complete or absent; the command says what it did. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { runConvert } from '../training/commands/convert.ts';
import type { ImageRecord } from '../training/core/image-record.ts';
import { CONVERSION_FILE } from '../training/data/conversion.ts';
import { convertDataset, WRITERS } from '../training/data/convert.ts';
import type { DataWriter } from '../training/data/data-writer.ts';
import { openDataset } from '../training/data/index.ts';
import { cornerAndSize } from '../training/data/write-coco.ts';
import { CountProgress } from '../training/output/count-progress.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'convert-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let printed: string[] = [];
beforeEach(() => {
  printed = [];
  vi.spyOn(console, 'log').mockImplementation((line: string) => {
    printed.push(line);
  });
});

const SIZE = { width: 40, height: 30 };
const pixels = sharp({ create: { ...SIZE, channels: 3, background: 'teal' } });
const jpeg = await pixels.clone().jpeg().toBuffer();
const png = await pixels.clone().png().toBuffer();

const TARGETS: readonly (readonly [string, DataWriter])[] = [...WRITERS].flatMap(([to, layouts]) =>
  [...layouts].map(([layout, writer]) => [`${to}, ${layout}`, writer] as const),
);

let count = 0;
const newPath = (): string => join(folder, `set-${count++}`);

interface CocoImage {
  readonly id: number;
  readonly file_name: string;
  readonly content?: Buffer;
}
interface CocoObject {
  readonly id: number;
  readonly image_id: number;
  readonly category_id: number;
  readonly bbox: readonly number[];
  readonly area?: number;
  readonly iscrowd?: number;
}
interface CocoSet {
  readonly categories: readonly { readonly id: number; readonly name: string }[];
  readonly splits: Readonly<
    Record<string, { readonly images: readonly CocoImage[]; readonly annotations: readonly CocoObject[] }>
  >;
}

/** Writes a COCO data set. The split "all" is a single file. */
function writeSet({ categories, splits }: CocoSet): string {
  const root = newPath();
  mkdirSync(join(root, 'annotations'), { recursive: true });
  for (const [split, { images, annotations }] of Object.entries(splits)) {
    const all = split === 'all';
    for (const { file_name, content = jpeg } of images) {
      const file = join(root, all ? 'images' : split, file_name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
    }
    const entries = images.map(({ id, file_name }) => ({ id, file_name, ...SIZE }));
    const name = all ? 'annotations.json' : `annotations/instances_${split}.json`;
    writeFileSync(join(root, name), JSON.stringify({ images: entries, annotations, categories }));
  }
  return root;
}

const convert = (data: string, writer: DataWriter, change: Partial<Parameters<typeof convertDataset>[0]> = {}) => {
  const out = newPath();
  return convertDataset({
    data,
    format: null,
    writer,
    out,
    copy: false,
    progress: () => undefined,
    signal: new AbortController().signal,
    ...change,
  }).then((result) => ({ ...result, out }));
};

/** All that a data set says, without the places of its files. */
async function contentOf(root: string) {
  const { classNames, categoryIds, splits } = await openDataset(root, { divide: false });
  const withoutFile = ({ file: _, ...record }: ImageRecord) => ({
    ...record,
    objects: record.objects.map(({ id, label, box, area, crowd }) => ({ id, label, box, area, crowd })),
  });
  const entries = Object.entries(splits).map(([split, records]) => [split, records.map(withoutFile)] as const);
  return { classNames, categoryIds, splits: Object.fromEntries(entries) };
}

const object = (id: number, change: Partial<CocoObject> = {}): CocoObject => ({
  id,
  image_id: 1,
  category_id: 3,
  bbox: [10, 5, 20, 10],
  area: 200,
  iscrowd: 0,
  ...change,
});
const CATEGORIES = [
  { id: 3, name: 'zebra' },
  { id: 7, name: 'cat' },
];
const small = (): CocoSet => ({
  categories: CATEGORIES,
  splits: {
    train: { images: [{ id: 1, file_name: 'a.jpg' }], annotations: [object(1)] },
    val: { images: [{ id: 1, file_name: 'b.jpg' }], annotations: [] },
  },
});

describe('conversions keep everything', () => {
  const className = fc.oneof(
    fc.string({ minLength: 1, maxLength: 12, unit: 'grapheme' }).filter((name) => name.trim() !== ''),
    fc.constantFrom(
      '__proto__',
      'a b',
      ' a b',
      '<b>&amp;"\'',
      '007',
      'ñandú',
      'true',
      'null',
      '1e3',
      'a: b',
      '- x',
      '犬',
      'a\nb',
    ),
  );
  const part = fc.constantFrom(
    'a',
    'A',
    'b c',
    'ü',
    'ü'.normalize('NFD'),
    '犬',
    'x.y',
    '<&>',
    "'",
    '#1',
    '_2',
    'a_2',
    '%41',
    '..b',
    '.c',
  );
  const imageName = fc
    .tuple(
      fc.array(fc.constantFrom('d', 'train', 'labels', '.h'), { maxLength: 2 }),
      part,
      fc.constantFrom('.jpg', '.JPG', '.png', '.jpeg'),
    )
    .map(([parts, stem, extension]) => [...parts, `${stem}${extension}`].join('/'));
  /** Edges in pixels: integers, decimals as tools write them, and any numbers. */
  const edges = (size: number) => {
    const edge = fc.oneof(
      fc.integer({ min: 0, max: size }),
      fc.integer({ min: 0, max: size * 100 }).map((value) => value / 100),
      fc.double({ min: 0, max: size, noNaN: true }),
    );
    return fc
      .tuple(edge, edge)
      .filter(([a, b]) => Math.abs(a - b) > 1e-6)
      .map(([a, b]) => [Math.min(a, b), Math.abs(b - a)]);
  };
  const box = fc.tuple(edges(SIZE.width), edges(SIZE.height)).map(([[x, width], [y, height]]) => [x, y, width, height]);

  const dataSet: fc.Arbitrary<CocoSet> = fc
    .record({
      names: fc.uniqueArray(className, { minLength: 1, maxLength: 4 }),
      firstId: fc.integer({ min: 0, max: 5 }),
      splitNames: fc.constantFrom(['all'], ['train'], ['train', 'val'], ['test', 'train', 'val']),
      images: fc.array(
        fc.record({
          split: fc.nat(),
          name: imageName,
          objects: fc.array(
            fc.record({
              category: fc.nat(),
              box,
              area: fc.option(fc.double({ min: 0, max: 1000, noNaN: true }), { nil: undefined }),
              crowd: fc.boolean(),
            }),
            { maxLength: 4 },
          ),
        }),
        { minLength: 1, maxLength: 8 },
      ),
      idStep: fc.integer({ min: 1, max: 1000 }),
    })
    .map(({ names, firstId, splitNames, images, idStep }) => {
      const categories = names.map((name, i) => ({ id: firstId + i * 2, name }));
      let id = 0;
      const entries = splitNames.map((split, s) => {
        const own = images.filter((image, i) => (i < splitNames.length ? i : image.split) % splitNames.length === s);
        // Two images of one name, up to case and the form of Unicode, are one file on some systems.
        const unique = [...new Map(own.map((image) => [image.name.normalize('NFC').toLowerCase(), image])).values()];
        const listed = unique.map((image, i) => ({ ...image, id: (unique.length - i) * idStep }));
        const annotations = listed.flatMap((image) =>
          image.objects.map(({ category, box: bbox, area, crowd }) => ({
            id: ++id * idStep,
            image_id: image.id,
            category_id: categories[category % categories.length].id,
            bbox,
            ...(area === undefined ? {} : { area }),
            iscrowd: crowd ? 1 : 0,
          })),
        );
        const files = listed.map((image) => ({
          id: image.id,
          file_name: image.name,
          content: image.name.endsWith('png') ? png : jpeg,
        }));
        return [split, { images: files, annotations }] as const;
      });
      return { categories, splits: Object.fromEntries(entries.filter(([, { images: own }]) => own.length > 0)) };
    })
    .filter(({ splits }) => Object.values(splits).some(({ annotations }) => annotations.length > 0));

  test.each(TARGETS)('from COCO to %s, and back', async (_, writer) => {
    await fc.assert(
      fc.asyncProperty(dataSet, async (set) => {
        const root = writeSet(set);
        const source = await contentOf(root);
        const there = await convert(root, writer);
        const isRoboflow = writer === WRITERS.get('coco')?.get('roboflow');
        const { all } = source.splits;
        const expected = isRoboflow && all !== undefined ? { ...source, splits: { train: all } } : source;
        expect(await contentOf(there.out)).toEqual(expected);
        const back = await convert(there.out, WRITERS.get('coco')!.get('standard')!);
        expect(await contentOf(back.out)).toEqual(expected);
      }),
      { numRuns: 10 },
    );
  });
});

const target = (to: string, layout = 'standard'): DataWriter => WRITERS.get(to)!.get(layout)!;
const readText = (...parts: string[]): string => readFileSync(join(...parts), 'utf8');
const readJson = (...parts: string[]) => JSON.parse(readText(...parts));

describe('the written files', () => {
  const set = (): CocoSet => ({
    categories: CATEGORIES,
    splits: {
      train: {
        images: [
          { id: 5, file_name: 'a & b.jpg' },
          { id: 6, file_name: 'none.jpg' },
        ],
        annotations: [
          object(1, { image_id: 5, bbox: [10, 6, 20, 9], area: 180 }),
          object(2, { image_id: 5, bbox: [0, 0, 40, 30], iscrowd: 1, category_id: 7 }),
          object(3, { image_id: 5, bbox: [0.5, 1.25, 2, 3], area: 6 }),
        ],
      },
      val: { images: [{ id: 9, file_name: 'c.jpg' }], annotations: [object(4, { image_id: 9, category_id: 7 })] },
    },
  });

  test('COCO: everything is in the JSON files; there is no side file', async () => {
    const { out, conversion } = await convert(writeSet(set()), target('coco'));
    expect(conversion).toBe(null);
    expect(readdirSync(out).sort()).toEqual(['annotations', 'train', 'val']);
    expect(readJson(out, 'annotations', 'instances_train.json')).toEqual({
      images: [
        { id: 5, file_name: 'a & b.jpg', ...SIZE },
        { id: 6, file_name: 'none.jpg', ...SIZE },
      ],
      annotations: set().splits.train.annotations.map((entry) => ({ ...entry, area: entry.area })),
      categories: CATEGORIES,
    });
  });

  test('Roboflow: annotations lie beside the images', async () => {
    const { out } = await convert(writeSet(set()), target('coco', 'roboflow'));
    expect(readdirSync(join(out, 'valid')).sort()).toEqual(['_annotations.coco.json', 'c.jpg']);
    expect((await openDataset(out)).recognized).toBe('Roboflow COCO: train, valid -> val');
  });

  test('VOC: pixels count from 1; the side file has what VOC lacks', async () => {
    const { out, conversion } = await convert(writeSet(set()), target('voc'));
    const xml = readText(out, 'Annotations', 'a & b.xml');
    expect(xml).toContain('<filename>a &amp; b.jpg</filename>');
    expect(xml.match(/<name>.*|<difficult>.*|<[xy]m.*/g)).toEqual([
      ...['<name>zebra</name>', '<difficult>0</difficult>'],
      ...['<xmin>11</xmin>', '<ymin>7</ymin>', '<xmax>30</xmax>', '<ymax>15</ymax>'],
      ...['<name>cat</name>', '<difficult>1</difficult>'],
      ...['<xmin>1</xmin>', '<ymin>1</ymin>', '<xmax>40</xmax>', '<ymax>30</ymax>'],
      ...['<name>zebra</name>', '<difficult>0</difficult>'],
      ...['<xmin>1.5</xmin>', '<ymin>2.25</ymin>', '<xmax>2.5</xmax>', '<ymax>4.25</ymax>'],
    ]);
    expect(readText(out, 'ImageSets', 'Main', 'train.txt')).toBe('a & b\nnone\n');
    expect(conversion).toMatchObject({
      classes: [
        { name: 'zebra', id: 3 },
        { name: 'cat', id: 7 },
      ],
      images: [
        { file: 'JPEGImages/a & b.jpg', id: 5, areas: [180, 200, 6] },
        { file: 'JPEGImages/none.jpg', id: 6 },
        { file: 'JPEGImages/c.jpg', id: 9 },
      ],
    });
    expect(readJson(out, CONVERSION_FILE)).toEqual(conversion);
  });

  test('YOLO: 17 decimals; crowds are only in the side file', async () => {
    const { out, conversion } = await convert(writeSet(set()), target('yolo'));
    expect(readText(out, 'labels', 'train', 'a & b.txt').split('\n')).toEqual([
      '0 0.50000000000000000 0.34999999999999998 0.50000000000000000 0.29999999999999999',
      '0 0.03750000000000000 0.09166666666666666 0.05000000000000000 0.10000000000000001',
      '',
    ]);
    expect(readText(out, 'labels', 'train', 'none.txt')).toBe('');
    expect(conversion?.images[0]).toMatchObject({
      file: 'images/train/a & b.jpg',
      hidden: [{ at: 1, id: 2, label: 1, box: [0, 0, 40, 30], area: 200, crowd: true }],
    });
    expect(conversion?.images[0].boxes).toBe(undefined);
  });

  test.each(TARGETS)('names that collide, %s: images and order stay', async (_, writer) => {
    const images = ['a.png', 'a.jpg', 'sub/a.jpg', 'a_2.jpg', '../up.jpg', 'C:\\photos\\w.jpg', ' s .jpg', '.x.jpg'];
    const root = newPath();
    mkdirSync(join(root, 'annotations'), { recursive: true });
    mkdirSync(join(root, 'train', 'sub'), { recursive: true });
    const fileOf = (name: string) => (name.startsWith('..') ? join(root, 'up.jpg') : join(root, 'train', name));
    // A file of each name; the path from Windows fits by its last part.
    for (const name of images) writeFileSync(name.startsWith('C:') ? fileOf('w.jpg') : fileOf(name), jpeg);
    for (const split of ['train', 'val']) {
      const entries = (split === 'val' ? ['a.jpg'] : images).map((file_name, i) => ({ id: i + 1, file_name, ...SIZE }));
      const content = { images: entries, annotations: [object(1)], categories: CATEGORIES };
      writeFileSync(join(root, 'annotations', `instances_${split}.json`), JSON.stringify(content));
    }
    mkdirSync(join(root, 'val'));
    writeFileSync(join(root, 'val', 'a.jpg'), png);
    const { out } = await convert(root, writer);
    expect(await contentOf(out)).toEqual(await contentOf(root));
    const { splits } = await openDataset(out);
    expect(readFileSync(splits.val[0].file)).toEqual(png);
    expect(new Set(splits.train.map(({ file }) => file)).size).toBe(images.length);
    for (const { file } of splits.train) expect(file.startsWith(join(out, '/'))).toBe(true);
  });

  test('an image of several splits is in one place in VOC; a split of shared images returns from COCO', async () => {
    const { splits, categories } = small();
    const images = [...splits.train.images, { id: 2, file_name: 'b.jpg' }];
    const root = await convert(
      writeSet({
        categories,
        splits: { train: splits.train, val: { images: images.slice(1), annotations: [object(2, { image_id: 2 })] } },
      }),
      target('voc'),
    );
    writeFileSync(join(root.out, 'ImageSets', 'Main', 'trainval.txt'), 'b\na\n');
    const expected = await contentOf(root.out);
    expect(Object.keys(expected.splits)).toEqual(['train', 'val', 'trainval']);
    const there = await convert(root.out, target('coco'));
    expect(await contentOf(there.out)).toEqual(expected);
    expect(there.conversion?.splits).toEqual([{ name: 'trainval', files: ['train/a.jpg', 'val/b.jpg'] }]);
    expect((await openDataset(there.out, { splits: ['trainval'] })).splits.trainval.length).toBe(2);
    const back = await convert(there.out, target('voc'));
    expect(await contentOf(back.out)).toEqual(expected);
    expect(readdirSync(join(back.out, 'JPEGImages'))).toEqual(['a.jpg', 'b.jpg']);
    writeFileSync(join(root.out, 'ImageSets', 'Main', 'train.txt'), 'b\n');
    expect(await inputErrorOf(() => convert(root.out, target('coco')))).toContain('--to voc can hold them');
  });

  test('the real size of an image counts; images that cannot be read are left out', async () => {
    const root = writeSet({
      categories: CATEGORIES,
      splits: {
        train: {
          images: [
            { id: 1, file_name: 'a.jpg' },
            { id: 2, file_name: 'broken.jpg', content: Buffer.from('no image') },
            { id: 3, file_name: 'b.jpg', content: await pixels.clone().resize(30, 40).jpeg().toBuffer() },
          ],
          annotations: [object(1, { image_id: 3, bbox: [5, 5, 40, 30] })],
        },
      },
    });
    const { out, source } = await convert(root, target('coco'));
    expect(source.warnings.join('\n')).toMatch(/b\.jpg: expected 40 x 30, got 30 x 40/);
    expect(source.warnings.join('\n')).toMatch(/broken\.jpg/);
    const { splits } = await openDataset(out, { divide: false });
    expect(splits.train.map(({ name }) => name)).toEqual(['a.jpg', 'b.jpg']);
    expect(splits.train[1]).toMatchObject({ width: 30, height: 40, objects: [{ box: [5, 5, 30, 35] }] });
  });

  test('bbox gives the edges but for the last bit, and whole pixels exactly', () => {
    const twoEdges = (edge: fc.Arbitrary<number>) =>
      fc.tuple(edge, edge).map(([a, b]): [number, number] => [Math.min(a, b), Math.max(a, b)]);
    fc.assert(
      fc.property(twoEdges(fc.double({ min: 0, max: 1e5, noNaN: true })), twoEdges(fc.nat(1e5)), (some, whole) => {
        const [x, y, width, height] = cornerAndSize([some[0], whole[0], some[1], whole[1]]);
        expect([x, y, y + height]).toEqual([some[0], whole[0], whole[1]]);
        expect(Math.abs(x + width - some[1])).toBeLessThanOrEqual(Number.EPSILON * some[1]);
      }),
    );
  });
});

describe('the result can be edited', () => {
  const converted = async () => {
    const { out } = await convert(
      writeSet({
        categories: CATEGORIES,
        splits: {
          train: {
            images: [
              { id: 5, file_name: 'a.jpg' },
              { id: 6, file_name: 'b.jpg' },
            ],
            annotations: [object(11, { image_id: 5, area: 7 }), object(12, { image_id: 6, area: 7 })],
          },
        },
      }),
      target('voc'),
    );
    return out;
  };
  const objectsIn = async (root: string) =>
    (await openDataset(root, { divide: false })).splits.train.map(({ objects }) =>
      objects.map(({ id, label, area }) => [id, label, area]),
    );

  test('changed objects count as they are, with a warning; others keep their ids', async () => {
    const out = await converted();
    expect(await objectsIn(out)).toEqual([[[11, 0, 7]], [[12, 0, 7]]]);
    const file = join(out, 'Annotations', 'a.xml');
    writeFileSync(file, readText(file).replace('<xmin>11<', '<xmin>21<').replace('zebra', 'ant'));
    const dataset = await openDataset(out, { divide: false });
    expect(dataset.classNames).toEqual(['zebra', 'cat', 'ant']);
    expect(dataset.categoryIds).toEqual([3, 7, 8]);
    expect(await objectsIn(out)).toEqual([[[1, 2, 100]], [[12, 0, 7]]]);
    expect(dataset.warnings[0]).toContain('changed after the conversion');
    expect(dataset.notes.join()).toContain('the class "ant" is not in');
  });

  test('the side file may be deleted; a malformed one is an error with its field', async () => {
    const out = await converted();
    const side = join(out, CONVERSION_FILE);
    const content = readJson(side);
    const errorWith = (change: object) => {
      writeFileSync(side, JSON.stringify({ ...content, ...change }));
      return inputErrorOf(() => openDataset(out));
    };
    expect(await errorWith({ version: 2 })).toBe(
      `${side}: version: expected 1, the version that this program reads, got 2`,
    );
    expect(await errorWith({ images: [{ ...content.images[0], areas: [1, 2] }] })).toContain(
      `${side}: areas of JPEGImages/a.jpg: expected 1 entries, one for each object`,
    );
    expect(await errorWith({ images: [{ ...content.images[0], hidden: [{ at: 0 }] }] })).toContain(
      'images[0].hidden[0].id: expected an integer >= 0, got nothing',
    );
    expect(await errorWith({ classes: [content.classes[0], content.classes[0]] })).toContain('classes: expected names');
    rmSync(side);
    expect(await objectsIn(out)).toEqual([[[1, 0, 200]], [[2, 0, 200]]]);
  });
});

describe('the command', () => {
  const run = (...argv: string[]) => runConvert(argv);

  test('prints what it did, and what other tools do not see', async () => {
    const data = writeSet(small());
    const out = newPath();
    expect(await run('--data', data, '--to', 'voc', '--out', out)).toBe(0);
    const text = printed.join('\n');
    expect(text).toContain('format    COCO: train, val');
    expect(text).toContain('order, ids or names of the 2 classes');
    expect(text).toContain(`wrote     ${out}: 2 images linked; read back: the same as the source`);
    expect(text).toMatch(/train +1 +1 +0/);
  });

  test('links images, copies them on request, and follows symbolic links', async () => {
    const data = writeSet(small());
    const original = join(folder, 'original.jpg');
    writeFileSync(original, jpeg);
    rmSync(join(data, 'val', 'b.jpg'));
    symlinkSync(original, join(data, 'val', 'b.jpg'));
    const [linked, copied] = [newPath(), newPath()];
    await run('--data', data, '--to', 'coco', '--out', linked);
    await run('--data', data, '--to', 'coco', '--out', copied, '--copy');
    const inode = (root: string, path: string) => lstatSync(join(root, path)).ino;
    expect(inode(linked, 'train/a.jpg')).toBe(inode(data, 'train/a.jpg'));
    expect(inode(linked, 'val/b.jpg')).toBe(lstatSync(original).ino);
    expect(inode(copied, 'train/a.jpg')).not.toBe(inode(data, 'train/a.jpg'));
    expect(readFileSync(join(copied, 'val/b.jpg'))).toEqual(jpeg);
  });

  test('refuses targets that are in use and bad options', async () => {
    const data = writeSet(small());
    const error = (...argv: string[]) => inputErrorOf(() => run('--data', data, ...argv));
    const used = newPath();
    mkdirSync(used);
    expect(await run('--data', data, '--to', 'coco', '--out', used)).toBe(0);
    expect(await error('--to', 'coco', '--out', used)).toBe(
      `convert: --out: expected a new or empty folder, got ${used} with 3 entries`,
    );
    expect(await error('--to', 'coco', '--out', join(used, 'train/a.jpg'))).toContain('got the file');
    expect(await error('--to', 'coco', '--out', join(data, 'converted'))).toContain('expected a folder outside of');
    expect(await error('--to', 'toto', '--out', used)).toBe(
      'convert: --to: expected one of coco, voc, yolo, got "toto"',
    );
    expect(await error('--to', 'voc', '--layout', 'roboflow', '--out', used)).toBe(
      'convert: --layout: expected one of standard for voc, got "roboflow"',
    );
    expect(await error('--to', 'coco')).toBe('convert: --out: expected a new or empty folder, got nothing');
    expect(await inputErrorOf(() => run('--to', 'coco', '--out', used))).toContain('convert: --data: expected');
  });

  test('an error or an interruption leaves nothing', async () => {
    const { categories, splits } = small();
    const empty = writeSet({ categories, splits: { val: splits.val } });
    const parent = newPath();
    const out = join(parent, 'deep', 'result');
    expect(await inputErrorOf(() => run('--data', empty, '--to', 'voc', '--out', out))).toContain(
      'at least one object',
    );
    const stopping = new AbortController();
    const progress = (task: string) => {
      if (task === 'images linked or copied') stopping.abort();
    };
    const stopped = convert(writeSet(small()), target('coco'), { out, progress, signal: stopping.signal });
    await expect(stopped).rejects.toThrow('abort');
    expect(existsSync(out)).toBe(false);
    expect(readdirSync(join(parent, 'deep'))).toEqual([]);
  });
});

test('CountProgress shows a count with the time left', () => {
  const written: string[] = [];
  let now = 0;
  const stream = { write: (text: string) => written.push(text), isTTY: true, columns: 60 };
  const progress = new CountProgress({ stream, clock: () => now });
  for (let done = 1; done <= 4; done++) {
    progress.update('images', done, 100);
    now += 1000;
  }
  progress.update('sizes', 1, 2);
  progress.end();
  expect(written.map((text) => text.replace('\r\x1b[K', ''))).toEqual([
    'images: 2 of 100, 0:49 left',
    'images: 3 of 100, 1:05 left',
    'images: 4 of 100, 1:12 left',
    '',
  ]);
});
