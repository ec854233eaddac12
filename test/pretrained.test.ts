/** Weights in: what `--weights` takes from files of this project and of others, what it says of the rest, and what evaluation and prediction refuse. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { writeDetectron2Pickle, writeTorchZip, type CheckpointTensor } from '../engine/index.ts';
import { DynamicSparseRCNN, exportNames, MODEL_PRESETS, type ModelConfig } from '../model/index.ts';
import { saveWeights } from '../training/checkpoints/checkpoint.ts';
import { COCO_CATEGORY_IDS, COCO_CLASS_NAMES } from '../training/data/coco-classes.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { InputError } from '../training/core/errors.ts';
import { runEvaluate } from '../training/commands/evaluate.ts';
import { runPredict } from '../training/commands/predict.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { runTrain } from '../training/commands/train.ts';
import {
  describeReport,
  describeWeights,
  loadPretrained,
  loadWhole,
  readAnyWeights,
  type PretrainedReport,
} from '../training/checkpoints/weights.ts';
import { testDevice } from './devices.ts';

const folder = mkdtempSync(join(tmpdir(), 'pretrained-test-'));
const at = (name: string): string => join(folder, name);
const RESNET18 = new URL('golden/weights/resnet18.torchvision.pth', import.meta.url).pathname;
const CLASSES = ['circle', 'square', 'triangle', 'star'];
/** As narrow as it goes, and without experts: what Sparse R-CNN's checkpoints hold. */
const SPARSE: ModelConfig = { ...MODEL_PRESETS.tiny, dpg: 'none' };

const device = await testDevice();
const silent = (): void => undefined;
const lines: string[] = [];

type Values = ReadonlyMap<string, CheckpointTensor>;
let tiny: Values, sparse: Values;

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line));
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  tiny = await new DynamicSparseRCNN(device, MODEL_PRESETS.tiny, 11).save();
  sparse = await new DynamicSparseRCNN(device, SPARSE, 12).save();
  saveWeights(at('tiny.safetensors'), tiny, {
    config: presetConfig('tiny'),
    classNames: CLASSES,
    categoryIds: [1, 2, 3, 4],
    iteration: 5,
  });
  writeFileSync(at('tiny.pth'), writeTorchZip(tiny));
  writeFileSync(at('sparse.pkl'), writeDetectron2Pickle(exportNames(sparse).tensors, 'the test'));
  await ensureShapesDataset(at('shapes'), { trainImages: 8, valImages: 2, imageSize: 64 });
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

/** A model with another seed than the files'. */
const freshModel = (config: ModelConfig): DynamicSparseRCNN => new DynamicSparseRCNN(device, config, 1);

/** The names of tensors whose values are `file`'s, of all that both have in the same shape. */
async function equalTo(model: DynamicSparseRCNN, file: Values): Promise<{ same: string[]; different: string[] }> {
  const same: string[] = [],
    different: string[] = [];
  for (const [name, { data }] of await model.save()) {
    const theirs = file.get(name);
    if (theirs)
      (theirs.data.length === data.length && theirs.data.every((value, i) => value === data[i])
        ? same
        : different
      ).push(name);
  }
  return { same, different };
}

const errorOf = async (run: () => unknown): Promise<string> => {
  const error = await Promise.resolve()
    .then(run)
    .then(
      () => null,
      (reason: unknown) => reason,
    );
  expect(error).toBeInstanceOf(InputError);
  return (error as Error).message;
};

describe('training starts from', () => {
  test.each(['tiny.safetensors', 'tiny.pth'])('%s: every value of the file', async (file) => {
    const model = freshModel(MODEL_PRESETS.tiny);
    const report = loadPretrained(model, at(file), { log: silent });
    expect(report).toMatchObject({ source: 'ours', missing: [], unexpected: [], reshaped: [], skipped: [] });
    expect((await equalTo(model, tiny)).different).toEqual([]);
  });

  test('a detector without experts: its proposals go to every expert, the generator starts fresh', async () => {
    const model = freshModel(MODEL_PRESETS.tiny);
    const report = loadPretrained(model, at('sparse.pkl'), { log: silent });
    expect(report).toMatchObject({ format: 'detectron2-pickle', source: 'detectron2', unexpected: [], reshaped: [] });
    expect(report.missing.length).toBeGreaterThan(0);
    expect(report.missing.every((name) => name.startsWith('proposals.weights.'))).toBe(true);
    expect(report.notes.filter((note) => note.includes("each of the model's 2 starts from its values"))).toHaveLength(
      2,
    );
    const boxes = (await model.save()).get('proposals.boxes')!.data,
      theirs = sparse.get('proposals.boxes')!.data;
    expect([...boxes]).toEqual([...theirs, ...theirs]);
  });

  test('a detector of other classes: their layers start fresh, and it is said which', async () => {
    const config = { ...MODEL_PRESETS.tiny, numClasses: 7 };
    const initial = await freshModel(config).save();
    const model = freshModel(config);
    const log: string[] = [];
    const report = loadPretrained(model, at('tiny.pth'), { log: (line) => log.push(line) });
    expect(report.reshaped).toContainEqual({
      name: 'head.head_series.0.class_logits.weight',
      expected: [7, 16],
      got: [4, 16],
    });
    expect(report.reshaped).toHaveLength(2 * MODEL_PRESETS.tiny.numStages);
    expect(log.join('\n')).toMatch(/another shape +4 +start fresh/);
    expect(log).toContain('    head.head_series.0.class_logits.weight is [7, 16], in the file [4, 16]');
    const { different } = await equalTo(model, tiny);
    expect(different.sort()).toEqual(report.reshaped.map(({ name }) => name).sort());
    expect((await model.save()).get('head.head_series.1.class_logits.weight')).toEqual(
      initial.get('head.head_series.1.class_logits.weight'),
    );
  });

  test('as many classes of other names: loaded, with a note', () => {
    const report = loadPretrained(freshModel(MODEL_PRESETS.tiny), at('tiny.safetensors'), {
      log: silent,
      classNames: ['a', 'b', 'c', 'd'],
    });
    expect(report.notes).toEqual([
      expect.stringMatching(/classes are circle, square, triangle, star, the data's a, b, c, d/),
    ]);
    expect(
      loadPretrained(freshModel(MODEL_PRESETS.tiny), at('tiny.safetensors'), { log: silent, classNames: CLASSES })
        .notes,
    ).toEqual([]);
  });

  test('less than half of the model only where --partial asks for it', async () => {
    const wide = { ...MODEL_PRESETS.tiny, hiddenDim: 32, stemChannels: 16 };
    expect(await errorOf(() => loadPretrained(freshModel(wide), at('tiny.pth'), { log: silent }))).toMatch(
      /tiny\.pth: \d+ of the model's \d+ tensors match, less than half .*--partial/,
    );
    const model = freshModel(wide);
    const report = loadPretrained(model, at('tiny.pth'), { partial: true, log: silent });
    const { same } = await equalTo(model, tiny);
    for (const { name } of report.loaded) expect(same).toContain(name);
    expect(report.reshaped.length).toBeGreaterThan(report.loaded.length);
  });
});

describe('the table', () => {
  const names = (count: number): string[] => Array.from({ length: count }, (_, i) => `head.w${i}`);
  const report: PretrainedReport = {
    file: 'a.pth',
    format: 'torch-zip',
    source: 'detectron2',
    scope: 'model',
    loaded: names(300).map((name) => ({ name, from: name })),
    missing: names(20),
    unexpected: ['x'],
    reshaped: [{ name: 'y', expected: [2], got: [3] }],
    notes: ['said'],
    skipped: [{ name: 'optimizer', reason: 'a dict of 2' }],
  };

  test('has counts first, then names; long lists are shortened, with where to see all', () => {
    expect(describeReport(report, 'runs/a/weights.json').join('\n')).toBe(
      `
weights   a.pth: torch-zip, names as of detectron2
  tensors        count  what becomes of them
  -------------  -----  -----------------------------------
  loaded           300  of the model's 321
  missing           20  not in the file: start fresh
  unexpected         1  not in the model: left out
  another shape      1  start fresh
  not read           1  no tensors of the weights: left out
  missing in the file:
    head.w0
    head.w1
    head.w2
    head.w3
    head.w4
    head.w5
    ... and 14 more
  unexpected in the file:
    x
  of another shape:
    y is [2], in the file [3]
  not read:
    optimizer: a dict of 2
  all names: runs/a/weights.json
  note: said`.slice(1),
    );
  });

  test('says nothing of lists that are empty or whole', () => {
    const text = describeReport(
      { ...report, missing: ['a'], unexpected: [], reshaped: [], skipped: [], notes: [] },
      'all.json',
    ).join('\n');
    expect(text).not.toMatch(/unexpected in|another shape:|not read|all names|note/);
  });
});

describe('npm run train', () => {
  const train = (out: string, ...more: string[]): Promise<number> =>
    runTrain([
      '--data',
      at('shapes'),
      '--config',
      'tiny',
      '--iterations',
      '1',
      '--batch',
      '2',
      '--set',
      'drawImages=1',
      '--set',
      'freezeAt=5',
      '--out',
      at(out),
      ...more,
    ]);

  test("starts from torchvision's ResNet: a frozen backbone keeps its values; the whole table is in weights.json", async () => {
    const file = readAnyWeights(RESNET18).tensors;
    expect(await train('resnet', '--weights', RESNET18, '--set', 'stemChannels=4', '--set', 'norm=frozen_bn')).toBe(0);
    const report = JSON.parse(readFileSync(at('resnet/weights.json'), 'utf8')) as PretrainedReport;
    expect(report).toMatchObject({
      file: RESNET18,
      format: 'torch-zip',
      source: 'torchvision',
      scope: 'backbone',
      unexpected: ['fc.weight', 'fc.bias'],
      reshaped: [],
    });
    expect(report.loaded).toHaveLength(100);
    expect(report.missing.some((name) => name.startsWith('backbone.bottom_up.'))).toBe(false);
    const trained = readAnyWeights(at('resnet/best.safetensors')).tensors;
    for (const { name, from } of report.loaded) expect(trained.get(name), name).toEqual(file.get(from!));
    expect(lines.some((line) => line.includes('names as of torchvision, a backbone only'))).toBe(true);
  });

  test('refuses by name what it cannot start from', async () => {
    expect(await errorOf(() => train('a', '--weights', at('nothing.pth')))).toMatch(/nothing\.pth: cannot be read/);
    writeFileSync(at('text.pth'), 'not weights at all');
    expect(await errorOf(() => train('b', '--weights', at('text.pth')))).toMatch(/text\.pth: not a checkpoint/);
    copyFileSync(new URL('golden/weights/hostile.reduce.pkl', import.meta.url), at('hostile.pkl'));
    expect(await errorOf(() => train('c', '--weights', at('hostile.pkl')))).toMatch(/hostile\.pkl: .*posix\.system/);
    expect(await errorOf(() => train('d', '--weights', RESNET18))).toMatch(
      /resnet18.* of the backbone's \d+ tensors match, less than half .*--partial/,
    );
    expect(await errorOf(() => train('e', '--partial'))).toMatch(/--partial goes with --weights/);
    expect(await errorOf(() => runTrain(['--resume', at('resnet'), '--weights', RESNET18]))).toMatch(
      /--weights does not go with --resume/,
    );
    expect(await errorOf(() => runTrain(['--dry-run', '--config', 'tiny', '--weights', RESNET18]))).toMatch(
      /--dry-run does not go with --weights/,
    );
  });
});

describe('evaluation and prediction', () => {
  const image = (): string => join(at('shapes/val'), readdirSync(at('shapes/val'))[0]);
  const predict = (...argv: string[]): Promise<number> =>
    runPredict(['--score', '0', '--out', at('predictions'), ...argv, image()]);
  const predictions = (): unknown => JSON.parse(readFileSync(at('predictions/predictions.json'), 'utf8'));

  test('take a PyTorch file with --config and --classes, and detect what our own file detects', async () => {
    expect(await predict('--weights', at('tiny.safetensors'))).toBe(0);
    const own = predictions();
    writeFileSync(at('classes.json'), JSON.stringify(CLASSES));
    expect(await predict('--weights', at('tiny.pth'), '--config', 'tiny', '--classes', at('classes.json'))).toBe(0);
    expect(predictions()).toEqual(own);
    expect(
      await runEvaluate([
        '--weights',
        at('tiny.pth'),
        '--config',
        'tiny',
        '--classes',
        at('classes.json'),
        '--data',
        at('shapes'),
        '--out',
        at('evaluated'),
      ]),
    ).toBe(0);
    expect(JSON.parse(readFileSync(at('evaluated/evaluation.json'), 'utf8'))).toMatchObject({
      images: 2,
      weights: at('tiny.pth'),
    });
  });

  test('refuse files that leave tensors of the model missing', async () => {
    const classes = ['--config', 'tiny', '--classes', at('classes.json')];
    expect(await errorOf(() => predict('--weights', RESNET18, ...classes))).toMatch(
      /resnet18.*a backbone only .* lacks \d+ of the model's \d+ tensors: backbone\.\S+, .* and \d+ more/,
    );
    const model = freshModel(MODEL_PRESETS.tiny);
    expect(await errorOf(() => loadWhole(model, readAnyWeights(at('sparse.pkl')), 'sparse.pkl', silent))).toMatch(
      /sparse\.pkl: lacks \d+ of .*names as of detectron2\): proposals\.weights\./,
    );
    expect(
      await errorOf(() =>
        loadWhole(
          freshModel({ ...MODEL_PRESETS.tiny, numClasses: 5 }),
          readAnyWeights(at('tiny.pth')),
          'tiny.pth',
          silent,
        ),
      ),
    ).toMatch(
      /tiny\.pth: has 4 .*in another shape: head\.head_series\.0\.class_logits\.weight: the model has shape \[5, 16\], the file \[4, 16\]/,
    );
  });

  test("tell what of a file is not the model's", () => {
    writeFileSync(
      at('more.pth'),
      writeTorchZip(new Map([...tiny, ['head.extra', { shape: [1], data: Float32Array.of(1) }]])),
    );
    const log: string[] = [];
    loadWhole(freshModel(MODEL_PRESETS.tiny), readAnyWeights(at('more.pth')), 'more.pth', (line) => log.push(line));
    expect(log).toEqual(['warning: more.pth: not in the model and left out (1): head.extra']);
  });
});

describe('configuration and class names', () => {
  const described = (file: string, options: { config?: string; classes?: string }) =>
    describeWeights('predict', file, readAnyWeights(at(file)), options);
  const json = (name: string, value: unknown): string => {
    writeFileSync(at(name), JSON.stringify(value));
    return at(name);
  };

  test('come out of our own files, which options cannot contradict', async () => {
    expect(described('tiny.safetensors', {})).toMatchObject({
      config: { preset: 'tiny' },
      classNames: CLASSES,
      categoryIds: [1, 2, 3, 4],
    });
    expect(await errorOf(() => described('tiny.safetensors', { config: 'tiny' }))).toMatch(
      /--config: tiny\.safetensors carries its own configuration/,
    );
    expect(await errorOf(() => described('tiny.safetensors', { classes: 'x.json' }))).toMatch(
      /--classes: tiny\.safetensors carries its own class names/,
    );
  });

  test("come from the options for others: COCO's classes where there are 80", async () => {
    expect(described('tiny.pth', { config: 'paper-r50' })).toMatchObject({
      classNames: COCO_CLASS_NAMES,
      categoryIds: COCO_CATEGORY_IDS,
    });
    expect(described('tiny.pth', { config: 'tiny', classes: json('three.json', ['a', 'b', 'c']) })).toMatchObject({
      classNames: ['a', 'b', 'c'],
      categoryIds: [1, 2, 3],
      config: { model: { numClasses: 3 } },
    });
    expect(
      described('tiny.pth', {
        config: 'tiny',
        classes: json('coco.json', {
          categories: [
            { id: 9, name: 'z' },
            { id: 2, name: 'y' },
          ],
        }),
      }),
    ).toMatchObject({ classNames: ['y', 'z'], categoryIds: [2, 9] });
    const run = json('run.json', { preset: 'tiny', classNames: ['q', 'r'], categoryIds: [4, 5] });
    expect(described('tiny.pth', { config: run })).toMatchObject({
      classNames: ['q', 'r'],
      categoryIds: [4, 5],
      config: { model: { numClasses: 2 } },
    });
    expect(await errorOf(() => described('tiny.pth', {}))).toMatch(/tiny\.pth: carries no configuration.*--config/);
    expect(await errorOf(() => described('tiny.pth', { config: 'tiny' }))).toMatch(
      /carries no class names: expected --classes FILE\.json with the 4 classes of tiny/,
    );
    expect(
      await errorOf(() =>
        described('tiny.pth', {
          config: json('five.json', { preset: 'tiny', model: { numClasses: 5 } }),
          classes: at('three.json'),
        }),
      ),
    ).toMatch(/three\.json: has 3 classes, .*five\.json has 5/);
    for (const [value, message] of [
      [[], /at least one class/],
      [['a', 'a'], /\[1\]: expected a name that no other class has/],
      [{}, /categories: expected an array/],
      [[1], /\[0\]: expected an object/],
    ] as const) {
      expect(await errorOf(() => described('tiny.pth', { config: 'tiny', classes: json('bad.json', value) }))).toMatch(
        message,
      );
    }
  });

  test("COCO's: 80 names, ids 1 .. 90 of which ten are not used", () => {
    const unused = Array.from({ length: 90 }, (_, i) => i + 1).filter((id) => !COCO_CATEGORY_IDS.includes(id));
    expect(unused).toEqual([12, 26, 29, 30, 45, 66, 68, 69, 71, 83]);
    expect(new Set(COCO_CLASS_NAMES).size).toBe(80);
    expect(COCO_CATEGORY_IDS).toEqual([...COCO_CATEGORY_IDS].sort((a, b) => a - b));
    const idOf = (name: string): number => COCO_CATEGORY_IDS[COCO_CLASS_NAMES.indexOf(name)];
    expect(['person', 'stop sign', 'backpack', 'hair drier', 'toothbrush', 'tv', 'dining table'].map(idOf)).toEqual([
      1, 13, 27, 89, 90, 72, 67,
    ]);
  });
});
