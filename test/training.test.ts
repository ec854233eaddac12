/**
 * Training from the command line: the same seed gives the same bits, a resumed run equals an uninterrupted one, memory
 * does not grow, files are complete.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { AdamW, backward, Random } from '../engine/index.ts';
import { DynamicSparseRCNN, MODEL_PRESETS } from '../model/index.ts';
import { readDescription, readWeightsFile } from '../training/checkpoints/weights-file.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { runEvaluate } from '../training/commands/evaluate.ts';
import { runPredict } from '../training/commands/predict.ts';
import { readMetrics } from '../training/output/metrics-files.ts';
import { runTrain } from '../training/commands/train.ts';
import { testDevice } from './devices.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'training-test-'));
const data = join(folder, 'shapes');
beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation(() => undefined);
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  await ensureShapesDataset(data, { trainImages: 20, valImages: 6, imageSize: 64 });
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

const train = (out: string, ...more: string[]): Promise<number> =>
  runTrain([
    '--data',
    data,
    '--config',
    'tiny',
    '--iterations',
    '10',
    '--set',
    'accumulation=2',
    '--set',
    'drawImages=2',
    '--out',
    join(folder, out),
    ...more,
  ]);
/** The lines of metrics.jsonl without the times of steps. */
const losses = (out: string): unknown[] =>
  readMetrics(join(folder, out, 'metrics.jsonl')).map(({ step_ms, ...rest }) => rest);
const weights = (out: string): Buffer => readFileSync(join(folder, out, 'last', 'model.safetensors'));

describe('a run', () => {
  test('writes its files', async () => {
    expect(await train('whole')).toBe(0);
    const out = join(folder, 'whole');
    expect(readMetrics(join(out, 'metrics.jsonl')).map(({ iteration }) => iteration)).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
    ]);
    expect(readdirSync(join(out, 'predictions')).filter((name) => name.endsWith('.png'))).toHaveLength(2);
    expect(JSON.parse(readFileSync(join(out, 'evaluation.json'), 'utf8'))).toMatchObject({
      iteration: 10,
      split: 'val',
      images: 6,
    });
    expect(Array.isArray(JSON.parse(readFileSync(join(out, 'detections.json'), 'utf8')))).toBe(true);
    const { config, classNames, iteration } = readDescription(
      readWeightsFile(join(out, 'best.safetensors')),
      'best.safetensors',
    );
    expect({ depth: config.model.depth, iteration, classes: classNames.length }).toEqual({
      depth: 18,
      iteration: 10,
      classes: 4,
    });
    expect(
      readdirSync(out).filter((name) => name.includes('.tmp') || name.includes('.next') || name.includes('.previous')),
    ).toEqual([]);
  });

  test('with the same seed writes the same losses and weights bit for bit', async () => {
    expect(await train('again')).toBe(0);
    expect(losses('again')).toEqual(losses('whole'));
    expect(weights('again').equals(weights('whole'))).toBe(true);
  });

  test('with another seed does not', async () => {
    expect(await train('other', '--seed', '1')).toBe(0);
    expect(losses('other')).not.toEqual(losses('whole'));
  });

  test('that was stopped and resumed equals an uninterrupted one', async () => {
    const metricsFile = join(folder, 'stopped', 'metrics.jsonl');
    const watch = setInterval(() => {
      if (existsSync(metricsFile) && readMetrics(metricsFile).length >= 3) {
        clearInterval(watch);
        process.emit('SIGINT', 'SIGINT');
      }
    }, 5);
    vi.spyOn(process.stderr, 'write').mockReturnValueOnce(true);
    expect(await train('stopped')).toBe(130);
    expect(losses('stopped').length).toBeLessThan(10);
    expect(await runTrain(['--resume', join(folder, 'stopped')])).toBe(0);
    expect(losses('stopped')).toEqual(losses('whole'));
    expect(weights('stopped').equals(weights('whole'))).toBe(true);
  });

  test('is evaluated again with the same numbers, and predicts from its weights alone', async () => {
    const best = join(folder, 'whole', 'best.safetensors');
    const out = join(folder, 'evaluated');
    expect(await runEvaluate(['--weights', best, '--data', data, '--out', out])).toBe(0);
    const { AP, AR100 } = JSON.parse(readFileSync(join(folder, 'whole', 'evaluation.json'), 'utf8'));
    expect(JSON.parse(readFileSync(join(out, 'evaluation.json'), 'utf8'))).toMatchObject({ AP, AR100 });
    const image = join(data, 'val', readdirSync(join(data, 'val'))[0]);
    expect(await runPredict(['--weights', best, '--score', '0', '--out', join(folder, 'predicted'), image])).toBe(0);
    const [prediction] = JSON.parse(readFileSync(join(folder, 'predicted', 'predictions.json'), 'utf8'));
    expect(prediction.file).toBe(image);
    expect(existsSync(prediction.drawn)).toBe(true);
    for (const {
      box: [x0, y0, x1, y1],
      score,
    } of prediction.detections) {
      expect(x0 >= 0 && y0 >= 0 && x1 <= 64 && y1 <= 64 && x0 <= x1 && y0 <= y1 && score >= 0 && score <= 1).toBe(true);
    }
  });
});

describe('bad input', () => {
  const refused = async (pattern: RegExp, ...argv: string[]): Promise<void> =>
    expect(await inputErrorOf(() => runTrain(argv))).toMatch(pattern);

  test('is refused by name', async () => {
    await refused(/train: Unknown option '--dta'/, '--dta', 'x');
    await refused(/--set depht: expected one of the keys depth, stemChannels, .*, got depht/, '--set', 'depht=18');
    await refused(/model\.depth: expected one of 18, 34, 50, 101, got 19/, '--set', 'depth=19');
    await refused(/training\.learningRate: expected a number > 0, got "fast"/, '--set', 'learningRate=fast');
    await refused(/--iterations: expected an integer >= 1, got "-1"/, '--iterations=-1');
    await refused(
      /--config: expected a preset \(paper-r50, .*\) or a JSON file, got .*nothing\.json: nothing there/,
      '--config',
      join(folder, 'nothing.json'),
    );
    await refused(/expected the folder of a data set, got nothing there/, '--data', join(folder, 'nothing'));
    await refused(/already holds a run/, '--data', data, '--out', join(folder, 'whole'));
    await refused(/--seed does not go with --resume/, '--resume', join(folder, 'whole'), '--seed', '3');
    await refused(
      /nothing.*expected the configuration of a run, got nothing there/,
      '--resume',
      join(folder, 'nothing'),
    );
    await refused(
      /model\.numClasses: expected 4, the number of classes of the data set \(circle, .*\), got 7/,
      '--data',
      data,
      '--out',
      join(folder, 'seven'),
      '--set',
      'numClasses=7',
    );
  });

  test("weights of another shape are refused by the tensor's name", async () => {
    await refused(
      /best\.safetensors: .*less than half .*another shape.*--partial/,
      '--data',
      data,
      '--config',
      'small',
      '--out',
      join(folder, 'mismatch'),
      '--weights',
      join(folder, 'whole', 'best.safetensors'),
    );
  });
});

test('500 steps end with the same live GPU bytes as 5', async () => {
  const device = await testDevice();
  const model = new DynamicSparseRCNN(device, { ...MODEL_PRESETS.tiny, numStages: 1 });
  const optimizer = new AdamW(model.trainable(), { weightDecay: 1e-4 });
  const random = new Random(1);
  const image = { data: Uint8Array.from({ length: 32 * 32 * 3 }, () => random.integer(256)), width: 32, height: 32 };
  // The number of objects varies from step to step, as in real data.
  const target = (objects: number) => ({
    boxes: Float32Array.from({ length: objects * 4 }, (_, i) => [4, 6, 20, 24][i % 4] + Math.floor(i / 4)),
    labels: new Uint32Array(objects),
  });
  const liveAt = new Map<number, number>();
  for (let step = 1; step <= 500; step++) {
    device.scope(() => {
      backward(model.loss([image], [target(step % 4)], 1).total);
      optimizer.step({ learningRate: 1e-4, maxGradientNorm: 1 });
      optimizer.zeroGrad();
    });
    if (step % 20 === 0) await device.synchronize();
    liveAt.set(step, device.memory().liveBytes);
  }
  expect(liveAt.get(500)).toBe(liveAt.get(5));
});
