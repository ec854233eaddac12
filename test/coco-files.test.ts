/** COCO files: written files read back, bad files are refused with file, entry and field; the coco-eval command. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCocoEval } from '../training/commands/coco-eval.ts';
import type { CocoDetection, CocoGroundTruth } from '../training/core/coco-types.ts';
import {
  parseDetections,
  parseGroundTruth,
  readDetections,
  readGroundTruth,
  writeDetections,
  writeGroundTruth,
} from '../training/evaluation/coco-files.ts';
import { InputError } from '../training/core/errors.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'coco-files-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const image = { id: 7, file_name: 'a.jpg', width: 64, height: 48 };
const category = { id: 3, name: 'cat' };
const annotation = {
  id: 1,
  image_id: 7,
  category_id: 3,
  bbox: [1.5, 2, 10, 20] as [number, number, number, number],
  area: 200,
  iscrowd: 0 as const,
};
const groundTruth: CocoGroundTruth = { images: [image], annotations: [annotation], categories: [category] };
const detection: CocoDetection = { image_id: 7, category_id: 3, bbox: [1, 2, 10, 20], score: 0.1 + 0.2 };

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function expectInputError(run: () => unknown, ...parts: string[]) {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(InputError);
    for (const part of parts) expect((error as Error).message).toContain(part);
    return;
  }
  throw new Error(`accepted; expected an InputError with ${parts.join(', ')}`);
}

describe('round trip', () => {
  test('files read back as they were written, scores to the last bit', () => {
    const truthPath = join(folder, 'gt.json');
    const foundPath = join(folder, 'dt.json');
    writeGroundTruth(truthPath, groundTruth);
    writeDetections(foundPath, [detection, { ...detection, score: 1e-9 }]);
    expect(readGroundTruth(truthPath)).toEqual(groundTruth);
    expect(readDetections(foundPath, groundTruth)).toEqual([detection, { ...detection, score: 1e-9 }]);
  });

  test('empty lists are allowed', () => {
    const path = join(folder, 'empty.json');
    writeDetections(path, []);
    expect(readDetections(path, groundTruth)).toEqual([]);
    writeGroundTruth(path, { images: [], annotations: [], categories: [] });
    expect(readGroundTruth(path)).toEqual({ images: [], annotations: [], categories: [] });
  });

  test('fields that detection does not need are ignored', () => {
    const rich = {
      info: {},
      licenses: [],
      images: [{ ...image, license: 1 }],
      categories: [{ ...category, supercategory: 'animal' }],
      annotations: [{ ...annotation, segmentation: [[1, 2]] }],
    };
    expect(parseGroundTruth(rich, 'gt.json')).toEqual(groundTruth);
    expect(parseDetections([{ ...detection, id: 4, area: 3 }], 'dt.json', groundTruth)).toEqual([detection]);
  });

  test('a score that JSON cannot hold is refused, and the earlier file stays', () => {
    const path = join(folder, 'kept.json');
    writeDetections(path, [detection]);
    expect(() => writeDetections(path, [detection, { ...detection, score: NaN }])).toThrow('detections[1]');
    expect(readDetections(path, groundTruth)).toEqual([detection]);
  });
});

describe('refused ground truths', () => {
  const without = (entry: object, field: string) =>
    Object.fromEntries(Object.entries(entry).filter(([name]) => name !== field));
  const cases: [string, unknown, string[]][] = [
    ['not an object', [], ['gt.json: expected an object', 'got []']],
    ['no images', without(groundTruth, 'images'), ['gt.json: images: expected an array', 'got nothing']],
    ['annotations not an array', { ...groundTruth, annotations: {} }, ['annotations: expected an array', 'got {}']],
    ...Object.keys(annotation).map((field): [string, unknown, string[]] => [
      `annotation without ${field}`,
      { ...groundTruth, annotations: [annotation, without({ ...annotation, id: 2 }, field)] },
      [`gt.json: annotations[1].${field}: expected`, 'got nothing'],
    ]),
    ...Object.keys(image).map((field): [string, unknown, string[]] => [
      `image without ${field}`,
      { ...groundTruth, images: [without(image, field)] },
      [`images[0].${field}: expected`, 'got nothing'],
    ]),
    [
      'category without name',
      { ...groundTruth, categories: [{ id: 3 }] },
      ['categories[0].name: expected a text that is not empty', 'got nothing'],
    ],
    [
      'image twice',
      { ...groundTruth, images: [image, image] },
      ['images[1].id: expected another id than that of images[0], got 7'],
    ],
    [
      'annotation id twice',
      { ...groundTruth, annotations: [annotation, annotation] },
      ['annotations[1].id: expected another id than that of annotations[0], got 1'],
    ],
    [
      'unknown image',
      { ...groundTruth, annotations: [{ ...annotation, image_id: 8 }] },
      ['annotations[0].image_id: expected the id of an image in "images", got 8'],
    ],
    [
      'unknown category',
      { ...groundTruth, annotations: [{ ...annotation, category_id: 8 }] },
      ['annotations[0].category_id', 'got 8'],
    ],
    [
      'negative width',
      { ...groundTruth, annotations: [{ ...annotation, bbox: [0, 0, -1, 2] }] },
      ['annotations[0].bbox[2]: expected a width of at least 0, got -1'],
    ],
    [
      'negative area',
      { ...groundTruth, annotations: [{ ...annotation, area: -2 }] },
      ['annotations[0].area', 'got -2'],
    ],
    [
      'text for a number',
      { ...groundTruth, annotations: [{ ...annotation, bbox: [0, '1', 1, 2] }] },
      ['annotations[0].bbox[1]: expected a finite number, got "1"'],
    ],
    [
      'crowd 2',
      { ...groundTruth, annotations: [{ ...annotation, iscrowd: 2 }] },
      ['annotations[0].iscrowd: expected 0 or 1, got 2'],
    ],
    [
      'image with width 0',
      { ...groundTruth, images: [{ ...image, width: 0 }] },
      ['images[0].width: expected an integer >= 1', 'got 0'],
    ],
    [
      'id with a fraction',
      { ...groundTruth, images: [{ ...image, id: 7.5 }] },
      ['images[0].id: expected an integer, got 7.5'],
    ],
    ['null entry', { ...groundTruth, images: [null] }, ['images[0]: expected an object, got null']],
  ];
  test.each(cases)('%s', (_, json, parts) => expectInputError(() => parseGroundTruth(json, 'gt.json'), ...parts));
});

describe('refused detections', () => {
  const cases: [string, unknown, string[]][] = [
    ['not an array', { annotations: [] }, ['dt.json: expected an array of detections, got {"annotations":[]}']],
    [
      'unknown image',
      [detection, { ...detection, image_id: 8 }],
      ['dt.json: detections[1].image_id: expected the id of an image of the ground truth, got 8'],
    ],
    [
      'unknown category',
      [{ ...detection, category_id: 8 }],
      ['detections[0].category_id: expected the id of a category of the ground truth, got 8'],
    ],
    ['no score', [{ ...detection, score: undefined }], ['detections[0].score: expected a finite number, got nothing']],
    ['NaN score', [{ ...detection, score: NaN }], ['detections[0].score: expected a finite number, got NaN']],
    [
      'three numbers',
      [{ ...detection, bbox: [1, 2, 3] }],
      ['detections[0].bbox: expected [x, y, width, height], got [1,2,3]'],
    ],
    [
      'infinite x',
      [{ ...detection, bbox: [Infinity, 2, 3, 4] }],
      ['detections[0].bbox[0]: expected a finite number, got Infinity'],
    ],
    [
      'negative height',
      [{ ...detection, bbox: [1, 2, 3, -4] }],
      ['detections[0].bbox[3]: expected a height of at least 0, got -4'],
    ],
  ];
  test.each(cases)('%s', (_, json, parts) =>
    expectInputError(() => parseDetections(json, 'dt.json', groundTruth), ...parts),
  );
});

describe('files that are not JSON', () => {
  test.each([
    ['broken', '[{"score": 1,]', 'malformed JSON at line 1, column 14: property name expected'],
    ['NaN as Python writes it', '[{"score": NaN}]', 'malformed JSON at line 1, column 12: invalid symbol'],
    ['empty', '', 'malformed JSON at line 1, column 1: value expected'],
  ])('%s', (_, content, got) => {
    const path = file('bad.json', content);
    expectInputError(() => readDetections(path, groundTruth), path, 'expected JSON', got);
  });

  test('missing file', () => {
    const path = join(folder, 'nowhere.json');
    expectInputError(() => readGroundTruth(path), path, 'cannot be read');
  });

  test('a byte order mark is allowed', () => {
    expect(readDetections(file('bom.json', '\ufeff[]'), groundTruth)).toEqual([]);
  });
});

describe('coco-eval', () => {
  const golden = new URL('golden/coco-metrics/', import.meta.url).pathname;

  async function run(...argv: string[]) {
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    const code = await runCocoEval(argv, stdout, stderr);
    return { code, stdout: String(stdout.read() ?? ''), stderr: String(stderr.read() ?? '') };
  }

  test('prints the twelve metrics by name, for all categories and for each', async () => {
    const { code, stdout, stderr } = await run(
      '--annotations',
      join(golden, '1.gt.json'),
      '--detections',
      join(golden, '1.dt.json'),
    );
    const expected = JSON.parse(readFileSync(join(golden, '1.expected.json'), 'utf8')) as {
      stats: number[];
      ap_by_category: Record<string, number>;
    };
    expect(code).toBe(0);
    expect(stderr).toBe('');
    const printed = JSON.parse(stdout) as Record<string, number> & {
      byCategory: { id: number; name: string; AP: number }[];
    };
    const names = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl'];
    expect(Object.keys(printed).slice(0, 12)).toEqual(names);
    names.forEach((name, n) => expect(printed[name]).toBeCloseTo(expected.stats[n], 12));
    for (const { id, AP } of printed.byCategory) expect(AP).toBeCloseTo(expected.ap_by_category[id], 12);
  });

  test('help', async () => {
    const { code, stdout } = await run('--help');
    expect(code).toBe(0);
    for (const option of ['--annotations', '--detections', '--help']) expect(stdout).toContain(option);
  });

  test.each([
    [[]],
    [['--annotations', 'x.json', '--detections', 'y.json']],
    [['--unknown']],
    [['--annotations']],
    [['stray']],
  ])('bad arguments %j', async (argv) => {
    await expect(run(...argv)).rejects.toBeInstanceOf(InputError);
  });

  test('a warning about an annotation with id 0 goes to stderr, not to the JSON', async () => {
    writeGroundTruth(join(folder, 'zero.json'), { ...groundTruth, annotations: [{ ...annotation, id: 0 }] });
    writeDetections(join(folder, 'found.json'), [detection]);
    const { stdout, stderr } = await run(
      '--annotations',
      join(folder, 'zero.json'),
      '--detections',
      join(folder, 'found.json'),
    );
    expect(stderr).toContain('id 0');
    expect((JSON.parse(stdout) as { AP: number }).AP).toBe(0);
  });
});
