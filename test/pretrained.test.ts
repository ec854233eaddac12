/** Weights of this project and of others: training starts from the tensors that fit; evaluation needs every tensor. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { writeDetectron2Pickle, writeTorchZip, type CheckpointTensor } from '../engine/index.ts';
import { DynamicSparseRCNN, exportNames, MODEL_PRESETS, type ModelConfig } from '../model/index.ts';
import { saveWeights } from '../training/checkpoints/weights-file.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { runEvaluate } from '../training/commands/evaluate.ts';
import { runPredict } from '../training/commands/predict.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { runTrain } from '../training/commands/train.ts';
import {
  loadPretrained,
  loadWhole,
  readAnyWeights,
  type PretrainedReport,
} from '../training/checkpoints/load-weights.ts';
import { describeReport } from '../training/output/weights-report.ts';
import { testDevice } from './devices.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'pretrained-test-'));
const at = (name: string): string => join(folder, name);
const RESNET18 = new URL('golden/weights/resnet18.torchvision.pth', import.meta.url).pathname;
const CLASSES = ['circle', 'square', 'triangle', 'star'];
/** The smallest model, without experts, as in Sparse R-CNN's checkpoints. */
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

/** A model whose seed differs from that of the files. */
const freshModel = (config: ModelConfig): DynamicSparseRCNN => new DynamicSparseRCNN(device, config, 1);

/** Compares a model with a file: the names of tensors with the same values, and of tensors with other values. */
async function equalTo(model: DynamicSparseRCNN, file: Values): Promise<{ same: string[]; different: string[] }> {
  const same: string[] = [];
  const different: string[] = [];
  for (const [name, { data }] of await model.save()) {
    const stored = file.get(name)?.data;
    if (stored === undefined) continue;
    const isSame = stored.length === data.length && stored.every((value, i) => value === data[i]);
    (isSame ? same : different).push(name);
  }
  return { same, different };
}

describe('training starts from', () => {
  test.each(['tiny.safetensors', 'tiny.pth'])('%s: every value of the file', async (file) => {
    const model = freshModel(MODEL_PRESETS.tiny);
    const report = loadPretrained(model, at(file));
    expect(report).toMatchObject({ source: 'ours', missing: [], unexpected: [], reshaped: [], skipped: [] });
    expect((await equalTo(model, tiny)).different).toEqual([]);
  });

  test('a detector without experts: its proposals go to every expert, the expert weights start fresh', async () => {
    const model = freshModel(MODEL_PRESETS.tiny);
    const report = loadPretrained(model, at('sparse.pkl'));
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

  test('a detector of other classes: the class layers start fresh, and the report names them', async () => {
    const config = { ...MODEL_PRESETS.tiny, numClasses: 7 };
    const initial = await freshModel(config).save();
    const model = freshModel(config);
    const report = loadPretrained(model, at('tiny.pth'));
    const log = describeReport(report);
    expect(report.reshaped).toContainEqual({
      name: 'head.head_series.0.class_logits.weight',
      expected: [7, 16],
      got: [4, 16],
    });
    expect(report.reshaped).toHaveLength(2 * MODEL_PRESETS.tiny.numStages);
    expect(log.join('\n')).toMatch(/another shape +4 +initial values are kept/);
    expect(log).toContain('    head.head_series.0.class_logits.weight is [7, 16], in the file [4, 16]');
    const { different } = await equalTo(model, tiny);
    expect(different.sort()).toEqual(report.reshaped.map(({ name }) => name).sort());
    expect((await model.save()).get('head.head_series.1.class_logits.weight')).toEqual(
      initial.get('head.head_series.1.class_logits.weight'),
    );
  });

  test('the same number of other classes: loaded, with a note', () => {
    const report = loadPretrained(freshModel(MODEL_PRESETS.tiny), at('tiny.safetensors'), {
      classNames: ['a', 'b', 'c', 'd'],
    });
    expect(report.notes).toEqual([
      expect.stringMatching(/classes are circle, square, triangle, star, the data's a, b, c, d/),
    ]);
    expect(
      loadPretrained(freshModel(MODEL_PRESETS.tiny), at('tiny.safetensors'), { classNames: CLASSES }).notes,
    ).toEqual([]);
  });

  test('less than half of the model only with --partial', async () => {
    const wide = { ...MODEL_PRESETS.tiny, hiddenDim: 32, stemChannels: 16 };
    expect(await inputErrorOf(() => loadPretrained(freshModel(wide), at('tiny.pth')))).toMatch(
      /tiny\.pth: \d+ of the model's \d+ tensors match, less than half .*--partial/,
    );
    const model = freshModel(wide);
    const report = loadPretrained(model, at('tiny.pth'), { partial: true });
    const { same } = await equalTo(model, tiny);
    for (const { name } of report.loaded) expect(same).toContain(name);
    expect(report.reshaped.length).toBeGreaterThan(report.loaded.length);
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

  test("starts from torchvision's ResNet; a frozen backbone keeps its values; the report is written", async () => {
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

  test('refuses files that it cannot start from, with their names', async () => {
    expect(await inputErrorOf(() => train('a', '--weights', at('nothing.pth')))).toMatch(
      /nothing\.pth: cannot be read/,
    );
    writeFileSync(at('text.pth'), 'not weights at all');
    expect(await inputErrorOf(() => train('b', '--weights', at('text.pth')))).toMatch(/text\.pth: not a checkpoint/);
    copyFileSync(new URL('golden/weights/hostile.reduce.pkl', import.meta.url), at('hostile.pkl'));
    expect(await inputErrorOf(() => train('c', '--weights', at('hostile.pkl')))).toMatch(
      /hostile\.pkl: .*posix\.system/,
    );
    expect(await inputErrorOf(() => train('d', '--weights', RESNET18))).toMatch(
      /resnet18.* of the backbone's \d+ tensors match, less than half .*--partial/,
    );
    expect(await inputErrorOf(() => train('e', '--partial'))).toMatch(/--partial: expected with --weights only/);
    expect(await inputErrorOf(() => runTrain(['--resume', at('resnet'), '--weights', RESNET18]))).toMatch(
      /--weights does not go with --resume/,
    );
    expect(await inputErrorOf(() => runTrain(['--dry-run', '--config', 'tiny', '--weights', RESNET18]))).toMatch(
      /--dry-run does not go with --weights/,
    );
  });
});

describe('evaluation and prediction', () => {
  const image = (): string => join(at('shapes/val'), readdirSync(at('shapes/val'))[0]);
  const predict = (...argv: string[]): Promise<number> =>
    runPredict(['--score', '0', '--out', at('predictions'), ...argv, image()]);
  const predictions = (): unknown => JSON.parse(readFileSync(at('predictions/predictions.json'), 'utf8'));

  test('take a PyTorch file with --config and --classes, and detect the same as with our own file', async () => {
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

  test('refuse files that lack tensors of the model', async () => {
    const classes = ['--config', 'tiny', '--classes', at('classes.json')];
    expect(await inputErrorOf(() => predict('--weights', RESNET18, ...classes))).toMatch(
      /resnet18.*a backbone only .* lacks \d+ of the model's \d+ tensors: backbone\.\S+, .* and \d+ more/,
    );
    const model = freshModel(MODEL_PRESETS.tiny);
    expect(await inputErrorOf(() => loadWhole(model, readAnyWeights(at('sparse.pkl')), 'sparse.pkl', silent))).toMatch(
      /sparse\.pkl: lacks \d+ of .*names as of detectron2\): proposals\.weights\./,
    );
    expect(
      await inputErrorOf(() =>
        loadWhole(
          freshModel({ ...MODEL_PRESETS.tiny, numClasses: 5 }),
          readAnyWeights(at('tiny.pth')),
          'tiny.pth',
          silent,
        ),
      ),
    ).toMatch(
      /has 4 .*another shape: head\.head_series\.0\.class_logits\.weight: expected shape \[5, 16\], got \[4, 16\]/,
    );
  });

  test('warn about tensors that are not in the model', () => {
    writeFileSync(
      at('more.pth'),
      writeTorchZip(new Map([...tiny, ['head.extra', { shape: [1], data: Float32Array.of(1) }]])),
    );
    const log: string[] = [];
    loadWhole(freshModel(MODEL_PRESETS.tiny), readAnyWeights(at('more.pth')), 'more.pth', (line) => log.push(line));
    expect(log).toEqual(['warning: more.pth: not in the model and ignored (1): head.extra']);
  });
});
