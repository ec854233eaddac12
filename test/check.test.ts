/** The check of a data set: damaged images, sizes, bit depths, copies, boxes and classes, and the records then. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { runCheck } from '../training/commands/check.ts';
import { InputError } from '../training/core/errors.ts';
import { briefLines, checkDataset, requireStrict, surveyDataset, type CheckedDataset } from '../training/data/check.ts';
import { decodeImage } from '../training/data/decode.ts';
import { factsFile } from '../training/data/facts-cache.ts';
import { openDataset } from '../training/data/index.ts';
import { createEvaluationLoader } from '../training/data/loader.ts';
import { surveyImages } from '../training/data/survey.ts';
import { inspectImages } from '../training/data/survey-threads.ts';
import { escapeHtml } from '../training/pictures/html.ts';

const folder = mkdtempSync(join(tmpdir(), 'check-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const resize = { shortSide: 48, maxSize: 96, fixedSize: null };

/** A textured picture of 64 x 48 pixels; each seed gives another one. */
const pixels = (seed: number, width = 64, height = 48): Uint8Array =>
  Uint8Array.from({ length: width * height * 3 }, (_, i) => 60 + ((i * 31 + ((i * i * (seed + 1)) >> 7)) % 150));
const picture = (seed: number, width = 64, height = 48) =>
  sharp(pixels(seed, width, height), { raw: { width, height, channels: 3 } });
const jpeg = (seed: number): Promise<Buffer> => picture(seed).jpeg().toBuffer();

type Numbers = readonly [number, number, number, number];
interface TestImage {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly size?: readonly [number, number];
  readonly boxes?: readonly Numbers[];
}

let count = 0;
/** A COCO data set. Boxes are x, y, width, height of the class "cell". */
function dataset(splits: Readonly<Record<string, readonly TestImage[]>>): string {
  const root = join(folder, `set-${count++}`);
  for (const [split, images] of Object.entries(splits)) {
    let id = 0;
    const json = {
      images: images.map(({ name, size: [width, height] = [64, 48] }, i) => ({
        id: i,
        file_name: name,
        width,
        height,
      })),
      categories: [{ id: 1, name: 'cell' }],
      annotations: images.flatMap(({ boxes = [[8, 8, 20, 16]] }, i) =>
        boxes.map((bbox) => ({ id: id++, image_id: i, category_id: 1, bbox, iscrowd: 0 })),
      ),
    };
    const file = join(root, 'annotations', `instances_${split}.json`);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, JSON.stringify(json));
    mkdirSync(join(root, split), { recursive: true });
    for (const { name, bytes } of images) writeFileSync(join(root, split, name), bytes);
  }
  return root;
}

async function check(root: string, strict = false): Promise<CheckedDataset> {
  return checkDataset(await surveyDataset(await openDataset(root), { cache: null }), { resize, strict });
}

const kinds = ({ findings }: CheckedDataset): string[] =>
  findings.filter(({ kind }) => kind !== 'rare-classes').map(({ kind }) => kind);
const textsOf = ({ findings }: CheckedDataset, kind: string): string[] =>
  findings.filter((finding) => finding.kind === kind).flatMap(({ cases }) => cases.map(({ text }) => text));

const good = async (seed: number, change: Partial<TestImage> = {}): Promise<TestImage> => ({
  name: `${seed}.jpg`,
  bytes: await jpeg(seed),
  ...change,
});
const val = [await good(100)];

describe('images', () => {
  test('of an intact data set: nothing but notes', async () => {
    const checked = await check(dataset({ train: [await good(1), await good(2)], val }));
    expect(kinds(checked)).toEqual([]);
    expect(briefLines(checked)).toEqual([]);
    expect(() => requireStrict(checked)).not.toThrow();
  });

  test('a truncated JPEG is used, named, and refused by --strict', async () => {
    const whole = await jpeg(1);
    const root = dataset({ train: [await good(1, { bytes: whole.subarray(0, -20) }), await good(2)], val });
    const checked = await check(root);
    expect(kinds(checked)).toEqual(['damaged-images']);
    const file = join(root, 'train/1.jpg');
    expect(textsOf(checked, 'damaged-images')).toEqual([
      expect.stringContaining(`${file}: its data has errors or ends early; nearly all`),
    ]);
    expect(briefLines(checked)[0]).toBe('damaged images, used as far as they decode: 1');
    expect(checked.dataset.splits.train.map((record) => record.name)).toEqual(['1.jpg', '2.jpg']);
    const loader = createEvaluationLoader({ records: checked.dataset.splits.train, batchSize: 2, resize, workers: 0 });
    for await (const { images, targets } of loader) {
      const { data } = await decodeImage(file);
      expect(images[0].unreadable).toBe(false);
      expect(images[0].data).toEqual(data);
      expect([...targets[0].boxes]).toEqual([8, 8, 28, 24]);
    }
    await loader.close();
    expect((await check(root, true)).findings[0].severity).toBe('error');
    expect(() => requireStrict(checked)).toThrow(InputError);
    expect(() => requireStrict(checked)).toThrow(file);
  });

  test('an empty file, a header without pixels and a text are left out and named', async () => {
    const root = dataset({
      train: [
        await good(1, { bytes: Buffer.alloc(0) }),
        await good(2),
        await good(3, { bytes: (await picture(3).png().toBuffer()).subarray(0, 45) }),
        await good(4, { bytes: Buffer.from('no image') }),
      ],
      val,
    });
    const checked = await check(root);
    expect(checked.dataset.splits.train.map(({ name }) => name)).toEqual(['2.jpg']);
    expect(textsOf(checked, 'unreadable-images').map((text) => text.split(': ')[0])).toEqual(
      ['1.jpg', '3.jpg', '4.jpg'].map((name) => join(root, 'train', name)),
    );
    expect(textsOf(checked, 'unreadable-images')[0]).toContain('the file is empty');
  });

  test('12-bit values in 16-bit files are scaled alike in all splits, and their pixels are right', async () => {
    const deep = (seed: number, factor: number) =>
      sharp(
        Uint16Array.from(
          pixels(seed).filter((_, i) => i % 3 === 0),
          (value) => value * factor,
        ),
        {
          raw: { width: 64, height: 48, channels: 1 },
        },
      )
        .toColourspace('grey16')
        .png()
        .toBuffer();
    const image = async (seed: number, factor: number) => ({ name: `${seed}.png`, bytes: await deep(seed, factor) });
    const root = dataset({ train: [await image(1, 16), await image(2, 2)], val: [await image(3, 1)] });
    const checked = await check(root);
    expect(briefLines(checked)[0]).toBe('images of more than 8 bits; their values 0 .. 4095 become 0 .. 255: 3');
    for (const [split, seed, shift] of [
      ['train', 1, 0],
      ['train', 2, 3],
      ['val', 3, 4],
    ] as const) {
      const record = checked.dataset.splits[split].find(({ name }) => name === `${seed}.png`);
      if (!record) throw new Error('no record');
      const { data } = await decodeImage(record.file, record, record.white);
      expect([...data.filter((_, i) => i % 3 === 0)]).toEqual(
        [...pixels(seed).filter((_, i) => i % 3 === 0)].map((value) => value >> shift),
      );
    }
    // A split alone is scaled as in the whole data set.
    const alone = await openDataset(root, { splits: ['val'] });
    const scaled = await surveyDataset(alone, { cache: null, whole: () => openDataset(root) });
    expect(scaled.dataset.splits.val[0].white).toBe(4095);
    expect((await surveyDataset(alone, { cache: null })).dataset.splits.val[0].white).toBe(255);
  });

  test('exchanged width and height: no box is lost', async () => {
    const boxes: Numbers[] = [[50, 4, 12, 40]];
    const root = dataset({ train: [await good(1, { size: [48, 64], boxes })], val });
    // Before the images are opened, the box seems to lie outside.
    expect((await openDataset(root)).splits.train[0].objects).toEqual([]);
    const checked = await check(root);
    expect(kinds(checked)).toEqual(['size-exchanged']);
    expect(textsOf(checked, 'size-exchanged')).toEqual([
      `${join(root, 'annotations/instances_train.json')}: 1.jpg: width x height: expected 64 x 48, ` +
        'as the image has, got 48 x 64',
    ]);
    const [record] = checked.dataset.splits.train;
    expect([record.width, record.height, record.objects[0].box]).toEqual([64, 48, [50, 4, 62, 44]]);
    expect(checked.dataset.warnings).toEqual([]);
  });

  test('images that were resized after they were annotated: boxes are scaled', async () => {
    const at = (seed: number, boxes: Numbers[]) => good(seed, { size: [128, 96], boxes });
    const root = dataset({ train: [await at(1, [[100, 80, 28, 16]]), await at(2, [[2, 2, 20, 20]])], val });
    const checked = await check(root);
    expect(kinds(checked)).toEqual(['size-scaled']);
    expect(checked.dataset.splits.train.map(({ objects }) => objects[0].box)).toEqual([
      [50, 40, 64, 48],
      [1, 1, 11, 11],
    ]);
    // If all boxes fit the real size, only the stated size is wrong.
    const small = dataset({ train: [await at(1, [[30, 20, 28, 16]]), await at(2, [[2, 2, 20, 20]])], val });
    const wrong = await check(small);
    expect(kinds(wrong)).toEqual(['size-other']);
    expect(wrong.dataset.splits.train[0].objects[0].box).toEqual([30, 20, 58, 36]);
  });

  test('copies are named within a split and across splits, also in another file format', async () => {
    const png = await picture(1).png().toBuffer();
    const tiff = await picture(1).tiff({ compression: 'none' }).toBuffer();
    const image = (name: string, bytes: Uint8Array): TestImage => ({ name, bytes });
    const across = await check(dataset({ train: [image('a.png', png), await good(2)], val: [image('b.tif', tiff)] }));
    expect(kinds(across)).toEqual(['copies-across-splits']);
    expect(textsOf(across, 'copies-across-splits')[0]).toMatch(/a\.png \(train\), .*b\.tif \(val\)/);
    const within = await check(dataset({ train: [image('a.png', png), image('b.png', png)], val }));
    expect(kinds(within)).toEqual(['copies-in-split']);
    expect(briefLines(within)).toEqual([]);
  });

  test('of one color, of unusual sizes, transparent, or with several pages', async () => {
    const create = (width: number, height: number, alpha = 1) =>
      sharp({ create: { width, height, channels: 4, background: { r: 9, g: 200, b: 30, alpha } } })
        .png()
        .toBuffer();
    const gif = await sharp([await create(40, 40), await picture(5, 40, 40).png().toBuffer()], {
      join: { animated: true },
    })
      .gif()
      .toBuffer();
    const size = [40, 40] as const;
    const checked = await check(
      dataset({
        train: [
          { name: 'one.png', bytes: await create(40, 40), size },
          { name: 'clear.png', bytes: await create(40, 40, 0.5), size },
          { name: 'long.png', bytes: await create(400, 20), size: [400, 20] },
          { name: 'pages.gif', bytes: gif, size },
        ],
        val,
      }),
    );
    expect(textsOf(checked, 'transparent-images')).toEqual([expect.stringContaining('clear.png')]);
    expect(textsOf(checked, 'unusual-sizes')).toEqual([expect.stringContaining('long.png: 400 x 20 pixels')]);
    expect(textsOf(checked, 'several-pages')).toEqual([expect.stringContaining('pages.gif: 2 pages')]);
    expect(textsOf(checked, 'uniform-images').length).toBe(4);
  });
});

describe('boxes', () => {
  test('of corners instead of sizes are named with the splits that have them', async () => {
    const corners: Numbers[] = [
      [10, 10, 40, 40],
      [30, 20, 60, 44],
      [20, 30, 50, 47],
      [1, 1, 20, 20],
    ];
    const checked = await check(dataset({ train: [await good(1, { boxes: corners })], val }));
    expect(checked.findings[0].kind).toBe('box-form');
    expect(textsOf(checked, 'box-form')).toEqual([
      'split "train": boxes: expected x, y, width, height, got corners x0, y0, x1, y1, it seems: ' +
        '3 of 4 boxes do not fit their images, but all fit if they are read that way',
    ]);
    expect(briefLines(checked).join('\n')).toContain('convert the boxes to the form of the format');
    expect(() => requireStrict(checked)).toThrow('got corners x0, y0, x1, y1');
    // One box that fits neither way, and there is no evidence.
    const mixed = await check(dataset({ train: [await good(1, { boxes: [...corners, [30, 30, 20, 30]] })], val }));
    expect(kinds(mixed)).not.toContain('box-form');
  });

  test('outside, degenerate, reaching out, tiny and doubled ones are named with their annotation', async () => {
    const boxes: Numbers[] = [
      [70, 2, 10, 10],
      [5, 5, 0, 9],
      [50, 30, 30, 10],
      [3, 3, 0.5, 20],
      [10, 10, 20, 20],
      [10, 10, 20, 20.3],
      [11, 11, 10, 10],
    ];
    const checked = await check(dataset({ train: [await good(1, { boxes })], val }));
    const objects = (kind: string) =>
      checked.findings.filter((found) => found.kind === kind).map(({ cases }) => cases.map((one) => one.objects));
    expect(objects('boxes-outside')).toEqual([[[0]]]);
    expect(objects('boxes-degenerate')).toEqual([[[1]]]);
    expect(objects('boxes-reaching')).toEqual([[[2]]]);
    expect(objects('boxes-tiny')).toEqual([[[3]]]);
    expect(objects('boxes-doubled')).toEqual([[[5, 4]]]);
    expect(textsOf(checked, 'boxes-outside')[0]).toContain(
      'annotation 0 (1.jpg): bbox [70, 2, 10, 10] in an image of 64 x 48',
    );
    expect(briefLines(checked)[0]).toBe('objects annotated twice: 1');
  });
});

describe('classes', () => {
  test('images without objects, crowded images, and a training split without objects', async () => {
    const many = Array.from({ length: 101 }, (_, i): Numbers => [i % 40, Math.floor(i / 40) * 9, 8, 6]);
    const checked = await check(
      dataset({ train: [await good(1, { boxes: many }), await good(2, { boxes: [] })], val }),
    );
    expect(textsOf(checked, 'images-without-objects')).toEqual([expect.stringContaining('2.jpg (train)')]);
    expect(textsOf(checked, 'many-objects')).toEqual([expect.stringContaining('1.jpg (train): 101 objects')]);
    const empty = await check(dataset({ train: [await good(1, { boxes: [] })], val }));
    expect(empty.findings[0]).toMatchObject({ kind: 'no-objects', severity: 'error' });
  });
});

describe('survey', () => {
  test('keeps facts of unchanged files, and opens changed ones again', async () => {
    const cache = join(folder, 'cache', 'facts.json');
    const files = [0, 1, 2].map((i) => join(folder, `cached-${i}.jpg`));
    for (const [i, file] of files.entries()) writeFileSync(file, await jpeg(i));
    const opened = async () => {
      let number = 0;
      const survey = await surveyImages(files, { cache, progress: () => number++ });
      return { number, ...survey };
    };
    const first = await opened();
    expect([first.number, first.problem]).toEqual([3, null]);
    const second = await opened();
    expect([second.number, second.problem]).toEqual([0, null]);
    expect([...second.facts]).toEqual([...first.facts]);
    truncateSync(files[1], 400);
    utimesSync(files[2], 1, 1);
    expect((await opened()).number).toBe(2);
    writeFileSync(cache, '{"version": 3');
    const damaged = await opened();
    expect(damaged.number).toBe(3);
    expect(damaged.problem).toContain(`${cache}: damaged`);
    expect((await opened()).number).toBe(0);
  });

  test('a cache that cannot be written is said, and changes nothing else', async () => {
    const file = join(folder, 'plain.jpg');
    writeFileSync(file, await jpeg(1));
    const { facts, problem } = await surveyImages([file], { cache: join(file, 'below-a-file.json') });
    expect(facts.get(file)?.unreadable).toBeNull();
    expect(problem).toContain('the next check looks at all images again');
  });

  test('threads find the same as no threads', async () => {
    const files: string[] = [];
    for (let i = 0; i < 6; i++) {
      files.push(join(folder, `thread-${i}.jpg`));
      writeFileSync(files[i], (await jpeg(i)).subarray(0, i === 3 ? 500 : i === 4 ? 0 : undefined));
    }
    const inspect = async (threads: number) => {
      const facts = new Map<string, unknown>();
      await inspectImages(files, (file, found) => facts.set(file, found), threads);
      return files.map((file) => facts.get(file));
    };
    expect(await inspect(2)).toEqual(await inspect(0));
  });

  test('the file of the cache depends on the data set, and can be switched off', () => {
    const environment = { DSRCNN_CACHE: folder };
    expect(factsFile('/a', environment)).not.toBe(factsFile('/b', environment));
    expect(factsFile('/a', { ...environment, DSRCNN_IMAGE_CACHE: 'off' })).toBeNull();
  });
});

describe('the command', () => {
  let printed: string[] = [];
  beforeEach(() => {
    printed = [];
    vi.spyOn(console, 'log').mockImplementation((line: string) => printed.push(line));
    vi.spyOn(process.stderr, 'write').mockImplementation(() => true);
    return () => vi.restoreAllMocks();
  });

  test('writes a table, JSON with all cases, and a page that shows nothing from files as HTML', async () => {
    const name = '<img src=x onerror=alert(1)>.jpg';
    const train = [
      { name, bytes: (await jpeg(1)).subarray(0, -20) },
      ...(await Promise.all([2, 3].map((seed) => good(seed)))),
    ];
    const root = dataset({ train, val });
    const out = join(folder, 'out');
    expect(await runCheck(['--data', root, '--out', out, '--json', join(folder, 'own.json')])).toBe(0);
    const text = printed.join('\n');
    expect(text).toContain('warning   damaged images, used as far as they decode: 1');
    expect(text).toContain('a training can use this data');
    const json = JSON.parse(readFileSync(join(out, 'check.json'), 'utf8'));
    expect(JSON.parse(readFileSync(join(folder, 'own.json'), 'utf8'))).toEqual(json);
    expect(json).toMatchObject({ usable: true, splits: { train: { images: 3, objects: 3 } } });
    expect(json.findings[0]).toMatchObject({ kind: 'damaged-images', count: 1 });
    expect(json.findings[0].cases[0].image).toBe(join(root, 'train', name));
    const page = readFileSync(join(out, 'check.html'), 'utf8');
    expect(page).not.toContain('<img');
    expect(page).toContain('&lt;img src=x onerror=alert(1)&gt;');
    expect(page).not.toMatch(/(src|href)="(?!data:)/);
    expect(page.match(/<figure>/g)?.length).toBe(4);
    expect(await runCheck(['--data', root, '--strict'])).toBe(2);
    expect(await runCheck(['--data', root, '--strict', '--split', 'val'])).toBe(0);
  });

  test('exits with 2 if no image of the training split can be read', async () => {
    const root = dataset({ train: [await good(1, { bytes: Buffer.from('text') })], val });
    const out = join(folder, 'unreadable');
    expect(await runCheck(['--data', root, '--out', out])).toBe(2);
    expect(existsSync(join(out, 'check.html'))).toBe(true);
    expect(printed.join('\n')).toContain('a training cannot use this data');
  });

  test('without --data names the option and the command for developers', async () => {
    await expect(runCheck([])).rejects.toThrow(
      'check: --data: expected the folder of a data set, got nothing; developers: npm run lint',
    );
  });
});

test('text in HTML is escaped completely', () => {
  expect(escapeHtml(`<a href="x">'&'</a>\u0007\n`)).toBe(
    '&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;\ufffd ',
  );
});
