/**
 * The command line and bad input. Every error is one line that names the file, the field, the expected and the actual
 * value, with exit code 2 and without a stack trace. Ignored data is reported.
 */
import { spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Device } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { readWeightsFile } from '../training/checkpoints/weights-file.ts';
import { runCocoEval } from '../training/commands/coco-eval.ts';
import { ensureShapesDataset, openDataset, splitWarnings } from '../training/data/index.ts';
import { InputError } from '../training/core/errors.ts';
import { runEvaluate } from '../training/commands/evaluate.ts';
import { runPredict } from '../training/commands/predict.ts';
import { loadConfig } from '../training/data/config-file.ts';
import { runTrain } from '../training/commands/train.ts';
import { runTune } from '../training/commands/tune.ts';
import { withoutHalf } from './devices.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'cli-test-'));
const data = join(folder, 'shapes'),
  run = join(folder, 'run');
const TINY = ['--data', data, '--config', 'tiny', '--iterations', '2', '--set', 'drawImages=1'];

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program in another process. `closeOutput` closes its output after the first line, as `head -1` does. */
function cli(args: readonly string[], closeOutput = false): Promise<Ended> {
  const child = spawn(process.execPath, ['--import', 'tsx', join(import.meta.dirname, '../training/cli.ts'), ...args], {
    cwd: join(import.meta.dirname, '..'),
  });
  let stdout = '',
    stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk.toString();
    if (closeOutput && stdout.includes('\n')) child.stdout.destroy();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  return new Promise((resolve) => {
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** A copy of the data set whose training annotations are changed. */
function changed(
  name: string,
  change: (annotations: {
    images: { file_name: string }[];
    annotations: { bbox: number[]; iscrowd: number; category_id: number }[];
  }) => void,
): string {
  const root = join(folder, name);
  cpSync(data, root, { recursive: true });
  const file = join(root, 'annotations', 'instances_train.json');
  const json = JSON.parse(readFileSync(file, 'utf8'));
  change(json);
  writeFileSync(file, JSON.stringify(json));
  return root;
}

beforeAll(async () => {
  await ensureShapesDataset(data, { trainImages: 12, valImages: 2, imageSize: 64 });
  vi.spyOn(console, 'log').mockImplementation(() => undefined);
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  expect(await runTrain([...TINY, '--out', run])).toBe(0);
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

test('a training uses a damaged image and leaves out an unreadable one, and names them; --strict refuses', async () => {
  const root = changed('damaged', () => undefined);
  const [cut, empty] = readdirSync(join(root, 'train')).map((name) => join(root, 'train', name));
  truncateSync(cut, statSync(cut).size - 200);
  truncateSync(empty, 0);
  const options = [...TINY.slice(2), '--data', root, '--out', join(folder, 'damaged-run')];
  vi.mocked(console.log).mockClear();
  await expect(runTrain([...options, '--strict'])).rejects.toThrow(/--strict: expected intact data.*cannot be read/s);
  expect(existsSync(join(folder, 'damaged-run'))).toBe(false);
  expect(await runTrain(options)).toBe(0);
  const lines = vi.mocked(console.log).mock.calls.map(([line]) => String(line));
  const after = (title: string) => lines[lines.indexOf(`warning: ${title}: 1`) + 1];
  expect(after('damaged images, used as far as they decode')).toContain(cut);
  expect(after('images that cannot be read, left out')).toBe(`warning:   ${empty}: the file is empty`);
  expect(lines.some((line) => line.includes('11 training and 2 validation images'))).toBe(true);
});

describe('the program', () => {
  test('explains itself and each command', async () => {
    const overview = await cli(['--help']);
    const commands = [...overview.stdout.matchAll(/^ {2}npm run (\S+)/gm)].map(([, command]) => command);
    expect(commands).toEqual(expect.arrayContaining(['train', 'evaluate', 'predict', 'doctor', 'setup']));
    const inCli = commands.filter((command) => command !== 'setup');
    const ended = [overview, ...(await Promise.all(inCli.map((command) => cli([command, '--help']))))];
    for (const { code, stdout, stderr } of ended)
      expect({ code, stderr, helpful: stdout.includes('--help') }).toEqual({ code: 0, stderr: '', helpful: true });
  });

  test('ends with code 2 and one line for bad input', async () => {
    const [unknown, option, file, folderBelowFile] = await Promise.all([
      cli(['frobnicate']),
      cli(['train', '--dta', 'x']),
      cli(['coco-eval', '--annotations', '/nowhere.json', '--detections', '/nowhere.json']),
      cli([
        'predict',
        '--weights',
        join(run, 'best.safetensors'),
        '--out',
        join(data, 'shapes.json', 'below'),
        join(data, 'val', '1.png'),
      ]),
    ]);
    expect(unknown).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(
        /^error: frobnicate: expected one of the commands train, .*doctor.*, got frobnicate\n$/,
      ),
    });
    expect(option).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^error: train: Unknown option '--dta'.*\n$/),
    });
    expect(file).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^error: \/nowhere.json: cannot be read: .*\n$/),
    });
    expect(folderBelowFile).toMatchObject({ code: 2, stderr: expect.stringMatching(/error: .*shapes\.json.below/) });
    expect(folderBelowFile.stderr).not.toMatch(/\n {4}at /);
  });

  test.each([
    ['DSRCNN_DRIVER', 'DSRCNN_DRIVER: expected one of auto, gpu, lavapipe, swiftshader, got "abacus"'],
    ['DSRCNN_ROBUSTNESS', 'DSRCNN_ROBUSTNESS: expected on or off, got "abacus"'],
  ])('refuses a bad %s without a stack trace', async (variable, complaint) => {
    vi.stubEnv(variable, 'abacus');
    const { code, stderr } = await cli(['train', ...TINY, '--out', join(folder, 'abacus')]);
    vi.unstubAllEnvs();
    expect({ code, stderr }).toEqual({ code: 1, stderr: `error: ${complaint}\n` });
  });

  test('saves a training when the reader of its output has gone', async () => {
    const out = join(folder, 'unread');
    const { code, stderr } = await cli(['train', ...TINY, '--iterations', '100000', '--out', out], true);
    expect(code).toBe(130);
    expect(stderr).toMatch(/SIGTERM: saving after this iteration/);
    expect(existsSync(join(out, 'last', 'state.json'))).toBe(true);
  });
});

describe('options and configuration', () => {
  const refusedKey = (...set: string[]): string => {
    try {
      loadConfig({ config: 'tiny', set });
      return 'accepted';
    } catch (error) {
      return error instanceof InputError ? error.message : String(error);
    }
  };

  test.each([
    [
      'shortSides=64',
      'training.augmentation.shortSides: expected a list of integers (pixels), e.g. [480, 512], got 64',
    ],
    [
      'augmentation.fixedSize=[64]',
      'training.augmentation.fixedSize: expected null or [height, width] (pixels), got [64]',
    ],
    [
      'evaluationResize.fixedSize=5',
      'training.evaluationResize.fixedSize: expected null or [height, width] (pixels), got 5',
    ],
    [
      'evaluationResize.shortSide=100000',
      'training.evaluationResize.shortSide: expected at most 16384 (pixels), got 100000',
    ],
    [
      'crop=true',
      'training.augmentation.crop: expected null or an object of probability, shortSides, minSize, maxSize, got true',
    ],
    [
      'crop.probability=1',
      'training.augmentation.crop.shortSides: expected a list of integers (pixels), e.g. [480, 512], got nothing',
    ],
    ['flip=true', 'training.augmentation.flip: expected a probability in 0 .. 1, got true'],
    ['flip=NaN', 'training.augmentation.flip: expected a probability in 0 .. 1, got "NaN"'],
    [
      'maxSize=64',
      '--set maxSize: expected one of training.augmentation.maxSize, training.evaluationResize.maxSize, got maxSize',
    ],
    ['momentum=1', 'training.momentum: expected a number >= 0 and < 1, got 1'],
    ['milestones=[0.9,0.5]', 'training.milestones: expected a rising list of numbers in 0 .. 1, got [0.9,0.5]'],
    ['batchSize=0', 'training.batchSize: expected an integer in 1 .. 4096, got 0'],
    ['workers=100000', 'training.workers: expected an integer in 0 .. 64, got 100000'],
    ['numProposals=1000000000', 'model.numProposals: expected an integer in 1 .. 10000, got 1000000000'],
    ['numAttentionHeads=5', 'model.hiddenDim: expected a multiple of numAttentionHeads (5), got 16'],
  ])('--set %s is refused', (set, message) => {
    expect(refusedKey(set)).toContain(message);
  });

  test('a short key means the augmentation itself, not its crop', () => {
    expect(loadConfig({ config: 'paper-r50', set: ['shortSides=[640]'] }).config.training.augmentation).toMatchObject({
      shortSides: [640],
      crop: { shortSides: [400, 500, 600] },
    });
  });

  test('a bad configuration file is refused by place or key', async () => {
    const file = join(folder, 'broken.json');
    for (const [text, message] of [
      ['{"model": {"depth": 18,}}', 'malformed JSON at line 1, column'],
      ['[]', 'expected a JSON object, got []'],
      [
        '{"modle": {}}',
        'modle: expected one of the keys preset, model, training, data, classNames, categoryIds, tuning, got {}',
      ],
      ['{"model": []}', 'model: expected an object, got []'],
      [
        '{"preset": "big"}',
        'preset: expected one of paper-r50, paper-r101, sparse-rcnn-r50, r18, r50, small, tiny, got "big"',
      ],
      ['{"data": 5}', "data: expected a folder's path, got 5"],
    ]) {
      writeFileSync(file, text);
      expect(await inputErrorOf(() => runTrain(['--config', file]))).toContain(message);
    }
  });

  test("a run's config.json trains on that run's data", async () => {
    const error = await inputErrorOf(() =>
      runTrain(['--config', join(run, 'config.json'), '--set', 'numClasses=7', '--out', join(folder, 'repeated')]),
    );
    expect(error).toContain(
      'model.numClasses: expected 4, the number of classes of the data set (circle, square, triangle, star), got 7',
    );
    expect(loadConfig({ config: join(run, 'config.json'), set: [] })).toMatchObject({
      data,
      classNames: ['circle', 'square', 'triangle', 'star'],
    });
  });

  test('empty values are refused, because as paths they are the current folder', async () => {
    expect(await inputErrorOf(() => runTrain(['--out', '']))).toBe('train: --out: expected a value, got an empty text');
    expect(await inputErrorOf(() => runEvaluate(['--weights', '']))).toBe(
      'evaluate: --weights: expected a value, got an empty text',
    );
    expect(await inputErrorOf(() => runCocoEval(['--detections', '']))).toBe(
      'coco-eval: --detections: expected a value, got an empty text',
    );
    expect(await inputErrorOf(() => runTrain([...TINY, '--out', join(data, 'shapes.json', 'below')]))).toContain(
      'train: --out: expected a folder that can be written, got',
    );
  });
});

describe('data', () => {
  test('without objects to learn from, or with crowds only, is refused', async () => {
    for (const root of [
      changed('none', (json) => {
        json.annotations = [];
      }),
      changed('crowds', (json) => {
        for (const one of json.annotations) one.iscrowd = 1;
      }),
    ]) {
      expect(
        await inputErrorOf(() => runTrain(['--data', root, '--config', 'tiny', '--out', join(folder, 'never')])),
      ).toContain('the split "train": expected at least one object in its 12 images, got none');
    }
  });

  test('with classes or a validation split without objects, or with shared images, gives warnings', async () => {
    const root = changed('odd', (json) => {
      json.annotations = json.annotations.filter(({ category_id }) => category_id !== 4);
      json.images[0].file_name = '../val/1.png';
    });
    const file = join(root, 'annotations', 'instances_val.json');
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, 'utf8')), annotations: [] }));
    expect(splitWarnings(await openDataset(root), 'train', 'val')).toEqual([
      'classes without an object in the split "train": 1 of 4: star',
      'the split "val" has no object to measure by: every metric will be -1',
      'images in both "train" and "val", which say nothing about unseen images: 1: 1.png',
    ]);
  });

  test('--strict refuses an image that cannot be decoded by its name, and trains once it is repaired', async () => {
    const root = changed('truncated', () => undefined);
    truncateSync(join(root, 'train', '03.png'), 900);
    const train = () =>
      runTrain([
        '--data',
        root,
        '--config',
        'tiny',
        '--batch',
        '12',
        '--iterations',
        '1',
        '--set',
        'drawImages=0',
        '--strict',
        '--out',
        join(folder, 'mended'),
      ]);
    expect(await inputErrorOf(train)).toMatch(/--strict: expected intact data.*03\.png/s);
    // After the repair of the image, the same command works. The folder of a run that did not begin can be used again.
    // The folder of a run that began cannot.
    cpSync(join(data, 'train', '03.png'), join(root, 'train', '03.png'));
    expect(await train()).toBe(0);
    expect(await inputErrorOf(train)).toContain('already holds a run');
  });
});

describe('weights and checkpoints', () => {
  const image = join(data, 'val', '1.png');

  test('unreadable weights are refused by file', async () => {
    const bytes = readFileSync(join(run, 'best.safetensors'));
    const file = join(folder, 'weights.safetensors');
    const spoiled = Buffer.from(bytes);
    spoiled.fill(0xff, spoiled.length - 64);
    for (const [content, message] of [
      [spoiled, 'expected finite numbers, got NaN in element'],
      [bytes.subarray(0, bytes.length - 100), 'weights.safetensors: '],
      [Buffer.from('hello'), 'weights.safetensors: '],
      [Buffer.alloc(0), 'weights.safetensors: '],
    ] as const) {
      writeFileSync(file, content);
      expect(
        await inputErrorOf(() => runPredict(['--weights', file, '--out', join(folder, 'unpredicted'), image])),
      ).toContain(message);
    }
    expect(existsSync(join(folder, 'unpredicted', 'predictions.json'))).toBe(false);
  });

  test('predict refuses paths that are not images, and keeps its detections before a broken image', async () => {
    const weights = join(run, 'best.safetensors'),
      out = join(folder, 'half-predicted'),
      broken = join(folder, 'broken.png');
    writeFileSync(broken, 'no image');
    for (const [path, what] of [
      [data, 'a folder'],
      ['/dev/null', 'a device or pipe'],
      [join(folder, 'nowhere.png'), 'nothing there'],
    ]) {
      expect(await inputErrorOf(() => runPredict(['--weights', weights, '--out', out, path]))).toBe(
        `predict: ${path}: expected an image file, got ${what}`,
      );
    }
    expect(
      await inputErrorOf(() => runPredict(['--weights', weights, '--out', join(broken, 'below'), image])),
    ).toContain('predict: --out: expected a folder that can be written, got');
    expect(existsSync(out)).toBe(false);
    expect(await inputErrorOf(() => runPredict(['--weights', weights, '--out', out, image, broken, image]))).toContain(
      `${broken}: cannot be decoded`,
    );
    const written: { file: string; drawn: string }[] = JSON.parse(readFileSync(join(out, 'predictions.json'), 'utf8'));
    expect(written.map(({ file, drawn }) => ({ file, drawn: existsSync(drawn) }))).toEqual([
      { file: image, drawn: true },
    ]);
  });

  test('--half is described, finds the same objects, and is refused without shader-f16', async () => {
    const weights = join(run, 'best.safetensors'),
      out = join(folder, 'half');
    const probe = await openDevice();
    const supported = probe.info.features.includes('shader-f16');
    probe.destroy();
    const evaluate = (name: string, ...options: string[]) =>
      runEvaluate(['--weights', weights, '--data', data, '--out', join(out, name), ...options]);
    const detections = (name: string): { score: number; bbox: number[] }[] =>
      JSON.parse(readFileSync(join(out, name, 'detections.json'), 'utf8'));
    if (supported) {
      const log = vi.mocked(console.log);
      log.mockClear();
      expect(
        await runPredict(['--weights', weights, '--half', '--score', '0', '--out', join(out, 'predict'), image]),
      ).toBe(0);
      expect(await evaluate('f16', '--half')).toBe(0);
      expect(log.mock.calls.map(([line]) => String(line)).filter((line) => line.startsWith('half      '))).toEqual([
        expect.stringContaining('f16'),
        expect.stringContaining('f16'),
      ]);
      expect(await evaluate('f32')).toBe(0);
      const scores = (name: string) =>
        detections(name)
          .map(({ score }) => score)
          .sort((a, b) => a - b);
      const [f16, f32] = [scores('f16'), scores('f32')];
      expect(f16.length).toBe(f32.length);
      f16.forEach((score, i) => expect(score).toBeCloseTo(f32[i], 2));
      expect(
        ['f16', 'f32'].map((name) => JSON.parse(readFileSync(join(out, name, 'evaluation.json'), 'utf8')).half),
      ).toEqual([true, false]);
    }
    withoutHalf();
    try {
      const message = (command: string) =>
        new RegExp(`^${command}: --half: expected an adapter with the feature shader-f16, got .+ with .*core-features`);
      expect(await inputErrorOf(() => runPredict(['--weights', weights, '--half', '--out', out, image]))).toMatch(
        message('predict'),
      );
      expect(await inputErrorOf(() => evaluate('refused', '--half'))).toMatch(message('evaluate'));
      vi.stubEnv('DSRCNN_TUNING', join(folder, 'tuning.json'));
      expect(await inputErrorOf(() => runTune(['--half']))).toMatch(message('tune'));
    } finally {
      vi.mocked(Device.fromAdapter).mockRestore();
      vi.unstubAllEnvs();
    }
  });

  test('a run with changed or missing files is not continued', async () => {
    const broken = join(folder, 'broken-run');
    const resumed = async (change: (path: string) => void): Promise<unknown> => {
      rmSync(broken, { recursive: true, force: true });
      cpSync(run, broken, { recursive: true });
      change(broken);
      return inputErrorOf(() => runTrain(['--resume', broken]));
    };
    const edit = (name: string, from: string, to: string) => (path: string) =>
      writeFileSync(join(path, name), readFileSync(join(path, name), 'utf8').replace(from, to));
    expect(await resumed((path) => rmSync(join(path, 'last'), { recursive: true }))).toContain(
      'no checkpoint to resume from',
    );
    expect(await resumed((path) => writeFileSync(join(path, 'config.json'), 'null'))).toContain(
      'config.json: expected an object, got null',
    );
    expect(
      await resumed((path) =>
        writeFileSync(join(path, 'last', 'state.json'), '{"iteration":1,"optimizerSteps":1,"best":{"iteration":1}}'),
      ),
    ).toContain('state.json: best.AP: expected a number, got nothing');
    expect(await resumed((path) => truncateSync(join(path, 'last', 'optimizer.safetensors'), 20000))).toContain(
      'optimizer.safetensors: ',
    );
    expect(await resumed(edit('config.json', '"adamw"', '"sgd"'))).toMatch(
      /optimizer\.safetensors: SGD: .*: expected a value in the state, got none; perhaps .*config\.json was edited/,
    );
    expect(await resumed(edit('config.json', data, `${data}-moved`))).toContain(
      'is missing; give its new place with --data DIR',
    );
  });

  test('a continued run writes the same description into its weights', async () => {
    const again = join(folder, 'again');
    cpSync(run, again, { recursive: true });
    writeFileSync(
      join(again, 'config.json'),
      readFileSync(join(again, 'config.json'), 'utf8').replace('"iterations": 2', '"iterations": 3'),
    );
    expect(await runTrain(['--resume', again])).toBe(0);
    const keys = (path: string) => Object.keys(JSON.parse(readWeightsFile(path).metadata.config));
    expect(keys(join(again, 'last', 'model.safetensors'))).toEqual(keys(join(run, 'last', 'model.safetensors')));
  });
});
