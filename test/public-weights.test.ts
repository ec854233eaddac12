/** Public weights by name: the table, the configurations that fit, and files with the names of the real ones. */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Random, writeTorchZip, type CheckpointTensor } from '../engine/index.ts';
import { userCacheFolder } from '../engine/node/index.ts';
import { DynamicSparseRCNN, MODEL_PRESETS, type ModelConfig } from '../model/index.ts';
import { loadPretrained, loadWhole, readAnyWeights } from '../training/checkpoints/load-weights.ts';
import {
  backboneFor,
  configurationChoice,
  fileName,
  inferenceConfigOf,
  PUBLIC_WEIGHTS,
  publicWeightsNamed,
  trainingConfigOf,
  type PublicWeights,
} from '../training/checkpoints/public-weights.ts';
import { saveWeights } from '../training/checkpoints/weights-file.ts';
import { runEvaluate } from '../training/commands/evaluate.ts';
import { runExport } from '../training/commands/export.ts';
import { runPredict } from '../training/commands/predict.ts';
import { runTrain } from '../training/commands/train.ts';
import { COCO_CATEGORY_IDS, COCO_CLASS_NAMES } from '../training/data/coco-classes.ts';
import { loadConfig } from '../training/data/config-file.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { testDevice } from './devices.ts';
import { serveFile, type FileServer } from './file-server.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'public-weights-test-'));
const at = (name: string): string => join(folder, name);
const device = await testDevice();
const lines: string[] = [];

/** mmdetection's Sparse R-CNN at small width. Depth, proposals, stages and layers are those of the real file. */
const SMALL: Partial<ModelConfig> = {
  stemChannels: 4,
  hiddenDim: 16,
  numAttentionHeads: 4,
  feedforwardDim: 32,
  dynamicDim: 4,
};
const named = (name: string): PublicWeights => PUBLIC_WEIGHTS.find((weights) => weights.name === name)!;
const configOf = (weights: PublicWeights): ModelConfig => loadConfig(inferenceConfigOf(weights)).config.model;

/** The names and shapes of the modules of a ResNet, as in torchvision and mmdetection. */
function resnetShapes({ depth, stemChannels }: ModelConfig, prefix: string): [string, number[]][] {
  const shapes: [string, number[]][] = [];
  const conv = (name: string, outputs: number, inputs: number, kernel: number): void =>
    void shapes.push([`${prefix}${name}.weight`, [outputs, inputs, kernel, kernel]]);
  const norm = (name: string, channels: number): void => {
    for (const part of ['weight', 'bias', 'running_mean', 'running_var'])
      shapes.push([`${prefix}${name}.${part}`, [channels]]);
    shapes.push([`${prefix}${name}.num_batches_tracked`, []]);
  };
  conv('conv1', stemChannels, 3, 7);
  norm('bn1', stemChannels);
  let inputs = stemChannels;
  const counts = { 18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3] }[depth];
  counts.forEach((count, stage) => {
    const middle = stemChannels * 2 ** stage;
    const outputs = depth >= 50 ? 4 * middle : middle;
    for (let block = 0; block < count; block++) {
      const name = `layer${stage + 1}.${block}`;
      const convs: readonly (readonly [number, number, number])[] =
        depth >= 50
          ? [
              [middle, inputs, 1],
              [middle, middle, 3],
              [outputs, middle, 1],
            ]
          : [
              [outputs, inputs, 3],
              [outputs, outputs, 3],
            ];
      convs.forEach(([to, from, kernel], i) => {
        conv(`${name}.conv${i + 1}`, to, from, kernel);
        norm(`${name}.bn${i + 1}`, to);
      });
      if (block === 0 && (stage > 0 || inputs !== outputs)) {
        conv(`${name}.downsample.0`, outputs, inputs, 1);
        norm(`${name}.downsample.1`, outputs);
      }
      inputs = outputs;
    }
  });
  return shapes;
}

/** The names and shapes of mmdetection's SparseRCNN, in the order of its modules. */
function mmdetectionShapes(config: ModelConfig): [string, number[]][] {
  const { hiddenDim: d, dynamicDim: k, feedforwardDim: f, poolerResolution: r } = config;
  const shapes = resnetShapes(config, 'backbone.');
  const linear = (name: string, outputs: number, inputs: number, bias = true): void => {
    shapes.push([`${name}.weight`, [outputs, inputs]]);
    if (bias) shapes.push([`${name}.bias`, [outputs]]);
  };
  const norm = (name: string, width: number): void =>
    void shapes.push([`${name}.weight`, [width]], [`${name}.bias`, [width]]);
  for (let level = 0; level < 4; level++) {
    const channels = config.stemChannels * 4 * 2 ** level;
    shapes.push([`neck.lateral_convs.${level}.conv.weight`, [d, channels, 1, 1]]);
    shapes.push([`neck.lateral_convs.${level}.conv.bias`, [d]]);
    shapes.push([`neck.fpn_convs.${level}.conv.weight`, [d, d, 3, 3]]);
    shapes.push([`neck.fpn_convs.${level}.conv.bias`, [d]]);
  }
  shapes.push(['rpn_head.init_proposal_bboxes.weight', [config.numProposals, 4]]);
  shapes.push(['rpn_head.init_proposal_features.weight', [config.numProposals, d]]);
  for (let stage = 0; stage < 6; stage++) {
    const head = `roi_head.bbox_head.${stage}`;
    const dynamic = `${head}.instance_interactive_conv`;
    linear(`${head}.fc_cls`, 80, d);
    linear(`${head}.fc_reg`, 4, d);
    shapes.push([`${head}.attention.attn.in_proj_weight`, [3 * d, d]]);
    shapes.push([`${head}.attention.attn.in_proj_bias`, [3 * d]]);
    linear(`${head}.attention.attn.out_proj`, d, d);
    norm(`${head}.attention_norm`, d);
    linear(`${dynamic}.dynamic_layer`, 2 * d * k, d);
    norm(`${dynamic}.norm_in`, k);
    norm(`${dynamic}.norm_out`, d);
    linear(`${dynamic}.fc_layer`, d, d * r * r);
    norm(`${dynamic}.fc_norm`, d);
    norm(`${head}.instance_interactive_conv_norm`, d);
    linear(`${head}.ffn.layers.0.0`, f, d);
    linear(`${head}.ffn.layers.1`, d, f);
    norm(`${head}.ffn_norm`, d);
    linear(`${head}.cls_fcs.0`, d, d, false);
    norm(`${head}.cls_fcs.1`, d);
    for (const layer of [0, 3, 6]) {
      linear(`${head}.reg_fcs.${layer}`, d, d, false);
      norm(`${head}.reg_fcs.${layer + 1}`, d);
    }
  }
  return shapes;
}

/** Tensors of random values. Variances are positive, and weights small enough that nothing overflows. */
function randomTensors(shapes: readonly [string, readonly number[]][], seed: number): Map<string, CheckpointTensor> {
  const random = new Random(seed);
  return new Map(
    shapes.map(([name, shape]) => {
      const count = shape.reduce((a, b) => a * b, 1);
      const fanIn = shape.slice(1).reduce((a, b) => a * b, 1);
      const value = (): number => {
        if (name.endsWith('num_batches_tracked')) return 1000;
        if (name.endsWith('running_var')) return 0.5 + random.uniform();
        if (shape.length === 1 && name.endsWith('weight')) return 0.75 + random.uniform() / 2;
        if (name.endsWith('init_proposal_bboxes.weight')) return 0.3 + 0.4 * random.uniform();
        return random.normal() / Math.sqrt(fanIn);
      };
      return [name, { shape, data: Float32Array.from({ length: count }, value) }];
    }),
  );
}

/** An entry of the table whose file a local server has. */
const added: PublicWeights[] = [];
const served = new Map<string, Uint8Array>();
const servers: FileServer[] = [];
async function publish(base: PublicWeights, name: string, bytes: Uint8Array): Promise<PublicWeights> {
  const sha256 = createHash('sha256').update(bytes).digest('hex').slice(0, 8);
  const server = await serveFile(() => bytes);
  servers.push(server);
  const address = server.address(`${name}-${sha256}.pth`);
  const entry = { ...base, name, address, sha256, model: { ...base.model, ...SMALL } };
  served.set(name, bytes);
  added.push(entry);
  (PUBLIC_WEIGHTS as PublicWeights[]).push(entry);
  return entry;
}

let detector: PublicWeights;
let backbone: PublicWeights;
let tensors: Map<string, CheckpointTensor>;
beforeAll(async () => {
  // Compiled shaders stay in the usual folder.
  vi.stubEnv('MESA_SHADER_CACHE_DIR', process.env.MESA_SHADER_CACHE_DIR ?? userCacheFolder());
  vi.stubEnv('DSRCNN_CACHE', at('cache'));
  vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line));
  vi.spyOn(process.stdout, 'write').mockImplementation((line) => lines.push(String(line)) > 0);
  const small = { ...configOf(named('sparse-rcnn-r50')), ...SMALL };
  tensors = randomTensors(mmdetectionShapes(small), 3);
  detector = await publish(named('sparse-rcnn-r50'), 'small-sparse-rcnn', writeTorchZip(tensors));
  const resnet = [...resnetShapes({ ...small, depth: 18 }, ''), ['fc.weight', [1000, 32]], ['fc.bias', [1000]]];
  backbone = await publish(
    { ...named('resnet18'), preset: 'tiny' },
    'small-resnet',
    writeTorchZip(randomTensors(resnet as [string, number[]][], 4)),
  );
  (backbone.model as { norm: string }).norm = 'frozen_bn';
  await ensureShapesDataset(at('shapes'), { trainImages: 4, valImages: 2, imageSize: 64 });
  // Resized to 1333 x 27 pixels, which is fast. A square would become 800 x 800.
  const pixels = Uint8Array.from({ length: 500 * 10 * 3 }, (_, i) => (i * 37) % 256);
  await sharp(pixels, { raw: { width: 500, height: 10, channels: 3 } }).toFile(at('wide.png'));
});
afterAll(async () => {
  for (const entry of added) (PUBLIC_WEIGHTS as PublicWeights[]).splice(PUBLIC_WEIGHTS.indexOf(entry), 1);
  await Promise.all(servers.map((server) => server.close()));
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe('the table', () => {
  const table = PUBLIC_WEIGHTS.slice();

  test('has the names of the documents, each once', () => {
    expect(table.map(({ name }) => name)).toEqual([
      'resnet18',
      'resnet34',
      'resnet50',
      'resnet101',
      'sparse-rcnn-r50',
      'sparse-rcnn-r50-300',
      'sparse-rcnn-r101',
      'sparse-rcnn-r101-300',
    ]);
  });

  test.each(table.map((weights) => [weights.name, weights] as const))(
    '%s has an address with its hash',
    (_, weights) => {
      expect(weights.address).toMatch(/^https:\/\/download\.(pytorch\.org\/models|openmmlab\.com\/mmdetection)\//);
      expect(weights.sha256).toMatch(/^[0-9a-f]{8}$/);
      expect(fileName(weights)).toMatch(new RegExp(`-${weights.sha256}\\.pth$`));
    },
  );

  test.each(table.map((weights) => [weights.name, weights] as const))('%s fits its configurations', (_, weights) => {
    const { model, training } = loadConfig(trainingConfigOf(weights)).config;
    expect(model).toMatchObject({ depth: Number(/\d+/.exec(weights.name)![0]), norm: 'frozen_bn', freezeAt: 2 });
    expect(training).toMatchObject({ batchSize: 4, learningRate: 1e-4, evaluationResize: { shortSide: 480 } });
    if (weights.content === 'backbone') {
      expect(model).toMatchObject({ numProposals: 100, numStages: 4, dpg: 'staircase', matcher: 'ota' });
      return;
    }
    const inference = loadConfig(inferenceConfigOf(weights)).config;
    expect({ ...model, numClasses: 80 }).toEqual(inference.model);
    expect(inference.model).toMatchObject({
      numProposals: weights.name.endsWith('-300') ? 300 : 100,
      numStages: 6,
      dpg: 'none',
      matcher: 'hungarian',
      hiddenDim: 256,
      boxMinLogScale: -Math.log(62.5),
      boxMaxLogScale: Math.log(62.5),
      pixelMean: [123.675, 116.28, 103.53],
      pixelStd: [58.395, 57.12, 57.375],
    });
    expect(inference.training.evaluationResize).toEqual({ shortSide: 800, maxSize: 1333, fixedSize: null });
  });

  test('the choice is printed', () => {
    expect(configurationChoice(named('resnet34'), trainingConfigOf(named('resnet34')))).toEqual({
      value: 'preset r18 with depth 34',
      reason: 'fits the weights resnet34',
      key: '--config',
    });
  });
});

test('a model is told the backbone that fits it', () => {
  expect(backboneFor(MODEL_PRESETS.r18)).toBe(named('resnet18'));
  expect(backboneFor({ ...MODEL_PRESETS.r18, depth: 34 })).toBe(named('resnet34'));
  expect(backboneFor(MODEL_PRESETS['paper-r101'])).toBe(named('resnet101'));
  expect(backboneFor(MODEL_PRESETS.small)).toBe(null);
});

describe('a name', () => {
  test('is found, unless a file has it', async () => {
    expect(publicWeightsNamed('resnet18')).toBe(named('resnet18'));
    const before = process.cwd();
    mkdirSync(at('here/resnet50'), { recursive: true });
    writeFileSync(at('here/resnet18'), '');
    process.chdir(at('here'));
    try {
      expect(publicWeightsNamed('resnet18')).toBe(null);
      // A folder is no file of weights.
      expect(publicWeightsNamed('resnet50')).toBe(named('resnet50'));
    } finally {
      process.chdir(before);
    }
    expect(await inputErrorOf(() => publicWeightsNamed('resnet19'))).toMatch(
      /^resnet19: cannot be read: expected a file or the name of public weights \(resnet18, .*-300, .*\), got neither/,
    );
  });

  test('of a backbone is refused where a whole detector is needed, before a download', async () => {
    const image = at('shapes/val/1.png');
    expect(await inputErrorOf(() => runPredict(['--weights', 'resnet18', image]))).toMatch(
      /predict: --weights: expected a whole detector, got resnet18, .*npm run train -- --weights resnet18/,
    );
    expect(await inputErrorOf(() => runEvaluate(['--weights', 'resnet50', '--data', at('shapes')]))).toMatch(
      /evaluate: --weights: expected a whole detector, got resnet50/,
    );
  });
});

describe('files with the names of the real ones', () => {
  test('the number of parameters of the full width is that of the paper: 106 M', () => {
    const count = mmdetectionShapes(configOf(named('sparse-rcnn-r50')))
      .filter(([name]) => !/running_|num_batches/.test(name))
      .reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b, 1), 0);
    expect(Math.round(count / 1e6)).toBe(106);
    const { approximateBytes } = named('sparse-rcnn-r50');
    expect(Math.abs(4 * count - approximateBytes) / approximateBytes).toBeLessThan(0.01);
  });

  test("mmdetection's: every tensor is loaded, with its values", async () => {
    writeFileSync(at('plain.pth'), served.get(detector.name)!);
    const model = new DynamicSparseRCNN(device, configOf(detector));
    const log: string[] = [];
    loadWhole(model, readAnyWeights(at('plain.pth')), 'plain.pth', (line) => log.push(line));
    expect(log).toEqual(['note: plain.pth: 53 counters (num_batches_tracked) are not needed']);
    const values = await model.save();
    const sorted = (all: ReadonlyMap<string, CheckpointTensor>): string[] =>
      [...all.values()].map(({ data }) => `${data.length}:${data.slice(0, 3).join()}:${data.at(-1)}`).sort();
    const expected = new Map([...tensors].filter(([name]) => !name.endsWith('num_batches_tracked')));
    expect(sorted(values)).toEqual(sorted(expected));
    model.dispose();
  });

  test('own data of another number of classes: only the class layers start fresh', () => {
    const model = new DynamicSparseRCNN(device, { ...configOf(detector), numClasses: 3 });
    const report = loadPretrained(model, at('plain.pth'));
    expect(report).toMatchObject({ source: 'mmdetection', scope: 'model', missing: [], unexpected: [] });
    expect(report.reshaped.map(({ name }) => name)).toEqual(
      Array.from({ length: 6 }, (_, s) =>
        ['weight', 'bias'].map((part) => `head.head_series.${s}.class_logits.${part}`),
      ).flat(),
    );
    model.dispose();
  });

  test('a stage changes the sides of a box within the bounds of the configuration', async () => {
    const image = { width: 64, height: 64, data: new Uint8Array(64 * 64 * 3).fill(90) };
    const growth = async (change: Partial<ModelConfig>, delta: number): Promise<number[]> => {
      const config: ModelConfig = { ...configOf(detector), depth: 18, numStages: 1, numProposals: 4, ...change };
      const model = new DynamicSparseRCNN(device, config);
      const values = new Map(await model.save());
      const zero = ({ shape, data }: CheckpointTensor): CheckpointTensor => ({ shape, data: data.map(() => 0) });
      const name = 'head.head_series.0.bboxes_delta';
      values.set(`${name}.weight`, zero(values.get(`${name}.weight`)!));
      values.set(`${name}.bias`, { shape: [4], data: Float32Array.of(0, 0, delta, -delta) });
      model.load(values);
      const { initialBoxes: before, stages } = await model.trace(image);
      const after = stages[0].boxes;
      model.dispose();
      return [0, 1].map((axis) => Math.log((after[axis + 2] - after[axis]) / (before[axis + 2] - before[axis])));
    };
    const official = { boxMinLogScale: null, boxMaxLogScale: Math.log(100000 / 16) };
    const limit = Math.log(1000 / 16);
    const cases: readonly (readonly [Partial<ModelConfig>, number, readonly [number, number]])[] = [
      [{}, 1, [1, -1]],
      [{}, 6, [limit, -limit]],
      [official, 6, [6, -6]],
      [official, 9, [Math.log(6250), -9]],
    ];
    for (const [change, delta, [wide, high]] of cases) {
      const [w, h] = await growth(change, delta);
      expect(w).toBeCloseTo(wide, 3);
      // Corners are rounded to f32, so a tiny side has few digits.
      expect(Math.abs(h - high)).toBeLessThan(0.02);
    }
  });
});

describe('commands', () => {
  const predict = (weights: string, out: string): Promise<number> =>
    runPredict(['--weights', weights, '--score', '0', '--out', at(out), at('wide.png')]);
  const predictions = (out: string): readonly { detections: readonly { name: string }[] }[] =>
    JSON.parse(readFileSync(at(`${out}/predictions.json`), 'utf8').replaceAll(`"drawn": "${at(out)}`, '"drawn": "'));

  test('predict downloads once, and detects as the same weights in a file of this project', async () => {
    expect(await predict(detector.name, 'named')).toBe(0);
    expect(readdirSync(at('cache/weights'))).toEqual([fileName(detector)]);
    const [{ detections }] = predictions('named');
    expect(detections).toHaveLength(100);
    for (const { name } of detections) expect(COCO_CLASS_NAMES).toContain(name);
    const log = lines.join('\n');
    expect(log).toContain('choice    preset sparse-rcnn-r50 with depth 50, numProposals 100, numStages 6, dpg none');
    expect(log).toMatch(/public {4}small-sparse-rcnn: .* \(mmdetection, Apache-2\.0, .*\); saved as .*\.pth/);

    const { config } = loadConfig(inferenceConfigOf(detector));
    const model = new DynamicSparseRCNN(device, config.model);
    loadWhole(model, readAnyWeights(at(`cache/weights/${fileName(detector)}`)), 'x', () => undefined);
    const description = { config, classNames: COCO_CLASS_NAMES, categoryIds: COCO_CATEGORY_IDS, iteration: 0 };
    saveWeights(at('own.safetensors'), await model.save(), description);
    model.dispose();
    expect(await predict(at('own.safetensors'), 'own')).toBe(0);
    expect(predictions('own')).toEqual(predictions('named'));
  });

  test("export gives Detectron2's names, with configuration and COCO's classes", async () => {
    expect(await runExport(['--weights', detector.name, '--out', at('exported.pth')])).toBe(0);
    expect(lines.join('\n')).toMatch(/public {4}small-sparse-rcnn: .*; file .*\.pth/);
    expect(servers[0].requests).toHaveLength(1);
    const { tensors: exported, metadata } = readAnyWeights(at('exported.pth'));
    expect(exported.size).toBe(tensors.size - 53);
    expect(exported.get('init_proposal_boxes.weight')?.shape).toEqual([100, 4]);
    expect(exported.get('head.head_series.5.inst_interact.out_layer.bias')?.shape).toEqual([16]);
    expect(JSON.parse(metadata.class_names)).toEqual(COCO_CLASS_NAMES);
    expect(lines).toContain('left out  53 counters (num_batches_tracked): not needed');
    expect(await predict(at('exported.pth'), 'exported')).toBe(0);
    expect(predictions('exported')).toEqual(predictions('named'));

    expect(await runExport(['--weights', backbone.name, '--out', at('backbone.pth')])).toBe(0);
    const { tensors: resnet } = readAnyWeights(at('backbone.pth'));
    expect(resnet.get('backbone.bottom_up.res2.0.conv1.norm.running_var')?.shape).toEqual([4]);
    expect(lines).toContain('left out  fc.weight: no counterpart in Detectron2');
    const cached = at(`cache/weights/${basename(fileName(backbone))}`);
    expect(await inputErrorOf(() => runExport(['--weights', backbone.name, '--out', cached]))).toMatch(
      /export: --out: expected another file than that of --weights/,
    );
  });

  test('train starts from a backbone, with the configuration that fits it', async () => {
    lines.length = 0;
    const options = ['--iterations', '1', '--batch', '2', '--set', 'drawImages=1', '--set', 'freezeAt=5'];
    const argv = ['--data', at('shapes'), '--weights', backbone.name, ...options, '--out', at('run')];
    expect(await runTrain(argv)).toBe(0);
    expect(lines.join('\n')).toMatch(
      /choice {4}preset tiny with depth 18, .*fits the weights small-resnet +\(--config\)/,
    );
    const report = JSON.parse(readFileSync(at('run/weights.json'), 'utf8'));
    expect(report).toMatchObject({ source: 'torchvision', scope: 'backbone', reshaped: [] });
    expect(report.loaded).toHaveLength(100);
    expect(JSON.parse(readFileSync(at('run/config.json'), 'utf8')).model).toMatchObject({
      norm: 'frozen_bn',
      hiddenDim: 16,
    });
  });

  test('evaluate needs the classes of COCO', async () => {
    expect(await inputErrorOf(() => runEvaluate(['--weights', detector.name, '--data', at('shapes')]))).toMatch(
      /expected the classes that .*\.pth was trained for \(person, .*\), got circle/,
    );
  });
});
