/**
 * Traces of the stages: a trace agrees with the forward pass and the detections, the picture shows the trace, and
 * `predict --stages` writes both.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadImage } from '@napi-rs/canvas';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Random, type Device } from '../engine/index.ts';
import { DynamicSparseRCNN, MODEL_PRESETS, type ModelConfig, type Trace } from '../model/index.ts';
import { clipBoxes } from '../model/boxes.ts';
import { saveWeights } from '../training/checkpoints/weights-file.ts';
import { drawStages } from '../training/pictures/draw-stages.ts';
import { stageHistory, type StageHistory } from '../training/pictures/stage-history.ts';
import { colorOf } from '../training/pictures/colors.ts';
import type { Canvas } from '@napi-rs/canvas';
import { runPredict } from '../training/commands/predict.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { testDevice } from './devices.ts';

const folder = mkdtempSync(join(tmpdir(), 'draw-stages-test-'));
const CLASSES = ['circle', 'square', 'triangle', 'star'];
const SIZE = { width: 80, height: 64 };
const random = new Random(5);
const image = { ...SIZE, data: Uint8Array.from({ length: SIZE.width * SIZE.height * 3 }, () => random.integer(256)) };
const VARIANTS: Record<string, ModelConfig> = {
  staircase: MODEL_PRESETS.tiny,
  'without dynamic proposal generation': { ...MODEL_PRESETS.tiny, dpg: 'none', matcher: 'hungarian' },
};

let device: Device;
beforeAll(async () => {
  device = await testDevice();
  vi.spyOn(console, 'log').mockImplementation(() => undefined);
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

describe.each(Object.entries(VARIANTS))('trace, %s', (_, config) => {
  let model: DynamicSparseRCNN;
  let trace: Trace;
  beforeAll(async () => {
    model = new DynamicSparseRCNN(device, config, 3);
    trace = await model.trace(image);
  });

  test('has the detections of detect', async () => {
    const [detections] = await model.detect([image]);
    expect(trace.detections).toEqual(detections);
  });

  test('the last stage has the score of each detection, and its box before clipping', () => {
    const { scores, labels, boxes, proposals } = trace.detections;
    const last = trace.stages[config.numStages - 1];
    expect(scores.length).toBeGreaterThan(0);
    proposals.forEach((proposal, i) => {
      expect(clipBoxes(last.boxes.subarray(4 * proposal, 4 * proposal + 4), [SIZE.width, SIZE.height])).toEqual(
        boxes.slice(4 * i, 4 * i + 4),
      );
      expect(last.scores[proposal * config.numClasses + labels[i]]).toBe(scores[i]);
    });
  });

  test('initial boxes and stages are those of the forward pass', async () => {
    const run = device.noGrad(() =>
      device.scope(() => {
        const { initialBoxes, stages } = model.forward([image]);
        return { initial: device.keep(initialBoxes), boxes: stages.map(({ boxes }) => device.keep(boxes)) };
      }),
    );
    expect(trace.initialBoxes).toEqual(await run.initial.read());
    expect(await Promise.all(run.boxes.map((boxes) => boxes.read()))).toEqual(trace.stages.map(({ boxes }) => boxes));
    for (const tensor of [run.initial, ...run.boxes]) tensor.dispose();
  });

  test('the weights of each proposal sum to 1 over the experts', () => {
    const { expertWeights } = trace;
    if (config.dpg === 'none') {
      expect(expertWeights).toBeNull();
      return;
    }
    const { numExperts, numProposals } = config;
    expect(expertWeights).toHaveLength(numExperts * numProposals);
    for (let n = 0; n < numProposals; n++) {
      let sum = 0;
      for (let e = 0; e < numExperts; e++) sum += expertWeights![e * numProposals + n];
      // One f32 rounding per expert.
      expect(Math.abs(sum - 1)).toBeLessThanOrEqual(numExperts * 2 ** -23);
    }
  });

  test('leaves no memory on the device', async () => {
    const before = device.memory().liveBytes;
    await model.trace(image);
    expect(device.memory().liveBytes).toBe(before);
  });
});

describe('history', () => {
  const trace: Trace = {
    detections: {
      scores: Float32Array.of(0.75, 0.5, 0.25),
      labels: Uint32Array.of(1, 0, 0),
      proposals: Uint32Array.of(1, 1, 0),
      boxes: new Float32Array(12),
    },
    initialBoxes: Float32Array.of(0, 0, 10, 20, 20, 20, 40, 40),
    expertWeights: Float32Array.of(0.25, 0.5, 0.75, 0.5),
    stages: [
      { scores: Float32Array.of(0.125, 0.25, 0.5, 0.375), boxes: Float32Array.of(2, 2, 12, 22, 22, 22, 42, 42) },
      { scores: Float32Array.of(0.25, 0.125, 0.5, 0.75), boxes: Float32Array.of(4, 4, 14, 24, -4, 24, 44, 44) },
    ],
  };
  const history = stageHistory(trace, [2, 4], ['cat', 'dog'], 0.5);

  test('is in pixels of the original image and has no detection below the score', () => {
    expect(history.initialBoxes).toEqual([
      [0, 0, 5, 5],
      [10, 5, 20, 10],
    ]);
    expect(
      history.detections.map(({ proposal, name, score, initialBox }) => ({ proposal, name, score, initialBox })),
    ).toEqual([
      { proposal: 1, name: 'dog', score: 0.75, initialBox: [10, 5, 20, 10] },
      { proposal: 1, name: 'cat', score: 0.5, initialBox: [10, 5, 20, 10] },
    ]);
    expect(history.expertWeights).toEqual([
      [0.25, 0.5],
      [0.75, 0.5],
    ]);
  });

  test('follows a proposal through its best class of each stage to the class detected', () => {
    const [dog, cat] = history.detections;
    expect(dog.steps).toEqual([
      { box: [11, 5.5, 21, 10.5], name: 'cat', label: 0, score: 0.5 },
      { box: [-2, 6, 22, 11], name: 'dog', label: 1, score: 0.75 },
    ]);
    expect(cat.steps[1]).toEqual({ box: [-2, 6, 22, 11], name: 'cat', label: 0, score: 0.5 });
  });
});

/** A history of `stages` stages in which each detection moves from the left to the right half of a 100 x 100 image. */
function movingBoxes(proposals: number, stages: number, experts: number, detections: number): StageHistory {
  const initialBoxes = Array.from({ length: proposals }, (_, n): [number, number, number, number] => [
    5,
    5 + (n % 60),
    35,
    35 + (n % 60),
  ]);
  return {
    initialBoxes,
    expertWeights:
      experts === 0 ? null : Array.from({ length: experts }, () => new Array<number>(proposals).fill(1 / experts)),
    detections: Array.from({ length: detections }, (_, i) => ({
      proposal: i,
      name: CLASSES[i % 4],
      label: i % 4,
      score: 0.9,
      initialBox: initialBoxes[i],
      steps: Array.from({ length: stages }, (_step, t) => ({
        box: [55, 10, 85, 40],
        name: CLASSES[i % 4],
        label: i % 4,
        score: 0.5 + t / 10,
      })),
    })),
  };
}

const square = { width: 100, height: 100, data: new Uint8Array(30_000).fill(120) };
const rgb = (color: string): number[] => [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));

/** Pixels of a color within [x, x + width) x [y, y + height). */
function pixelsOf(
  canvas: Canvas,
  color: string,
  [x, y, width, height]: readonly [number, number, number, number],
): number {
  const { data } = canvas.getContext('2d').getImageData(x, y, width, height);
  const [r, g, b] = rgb(color);
  let count = 0;
  for (let i = 0; i < data.length; i += 4) count += Number(data[i] === r && data[i + 1] === g && data[i + 2] === b);
  return count;
}

describe('picture', () => {
  // Margins of 28, panels of 480, gaps of 20 pixels.
  test.each([
    [1, 2],
    [2, 3],
    [3, 4],
    [4, 3],
    [6, 4],
  ])('of %i stages is %i panels wide', async (stages, columns) => {
    expect((await drawStages(square, movingBoxes(16, stages, 2, 2), 'title')).width).toBe(
      2 * 28 + columns * 480 + (columns - 1) * 20,
    );
  });

  test('grows by a row of cells for each expert, and is shorter without any', async () => {
    const height = async (experts: number) =>
      (await drawStages(square, movingBoxes(16, 2, experts, 2), 'title')).height;
    const [none, two, five] = [await height(0), await height(2), await height(5)];
    expect(five - two).toBe(3 * 34);
    expect(none).toBeLessThan(two - 100);
  });

  test("shows a box in its class's color where it is at each stage", async () => {
    const canvas = await drawStages(square, movingBoxes(16, 2, 0, 1), 'title');
    const color = colorOf(0);
    // Panels are enlarged 4.8 times. The initial box is in the left half of its panel; from stage 1 on it is in the
    // right half.
    const half = (panel: number, right: boolean) =>
      pixelsOf(canvas, color, [28 + panel * 500 + (right ? 240 : 0), 80, 240, 560]);
    expect(half(0, false)).toBeGreaterThan(500);
    expect(half(0, true)).toBe(0);
    for (const panel of [1, 2]) expect(half(panel, true)).toBeGreaterThan(500);
    expect(half(2, false)).toBe(0);
  });

  test('equal initial boxes share a tag', async () => {
    const apart = movingBoxes(16, 1, 0, 3);
    const whole = {
      ...apart,
      detections: apart.detections.map((one) => ({
        ...one,
        initialBox: [0, 0, 100, 100] as [number, number, number, number],
      })),
    };
    const canvas = await drawStages(square, whole, 'title');
    // One tag has three numbers and the color of the best detection. The other colors have no tag.
    expect(pixelsOf(canvas, colorOf(0), [32, 90, 472, 520])).toBeGreaterThan(400);
    for (const label of [1, 2]) expect(pixelsOf(canvas, colorOf(label), [32, 90, 472, 520])).toBe(0);
  });

  test('can show many proposals, no detection, a proposal detected twice, and boxes beyond the image', async () => {
    const many = movingBoxes(300, 2, 4, 10);
    const few = movingBoxes(16, 2, 4, 10);
    // The columns are too narrow for numbers. So a close-up repeats the columns of the numbered boxes.
    expect(
      (await drawStages(square, many, 'title')).height - (await drawStages(square, few, 'title')).height,
    ).toBeGreaterThan(4 * 34);
    expect((await drawStages(square, movingBoxes(16, 2, 2, 0), 'title')).width).toBe(2 * 28 + 480);
    const one = movingBoxes(16, 1, 2, 1);
    const twice = { ...one, detections: [one.detections[0], { ...one.detections[0], name: 'star', label: 3 }] };
    expect(pixelsOf(await drawStages(square, twice, 'title'), colorOf(3), [0, 0, 1036, 700])).toBe(0);
    const turned: StageHistory = {
      ...one,
      detections: [
        {
          ...one.detections[0],
          initialBox: [30, 40, -20, 10],
          steps: [{ ...one.detections[0].steps[0], box: [120, 10, 50, 400] }],
        },
      ],
    };
    expect(pixelsOf(await drawStages(square, turned, 'title'), colorOf(0), [528, 80, 480, 560])).toBeGreaterThan(500);
  });
});

describe('predict --stages', () => {
  test.each(Object.entries(VARIANTS))(
    '%s: writes numbers and a picture in addition to the detections',
    async (name, config) => {
      const weights = join(folder, `${name}.safetensors`);
      const out = join(folder, name);
      const file = join(folder, 'photo.png');
      await sharp(image.data, { raw: { ...SIZE, channels: 3 } })
        .png()
        .toFile(file);
      const model = new DynamicSparseRCNN(device, config, 3);
      saveWeights(weights, await model.save(), {
        config: { ...presetConfig('tiny'), model: config },
        classNames: CLASSES,
        categoryIds: [1, 2, 3, 4],
        iteration: 0,
      });
      expect(await runPredict(['--weights', weights, '--score', '0', '--stages', '--out', out, file])).toBe(0);

      const [{ drawn, detections, stages }] = JSON.parse(readFileSync(join(out, 'predictions.json'), 'utf8'));
      expect(existsSync(drawn)).toBe(true);
      expect(stages.drawn).toBe(join(out, 'photo-stages.png'));
      const picture = await loadImage(stages.drawn);
      expect(picture.width).toBe(2 * 28 + 3 * 480 + 2 * 20);
      expect((await sharp(stages.drawn).stats()).entropy).toBeGreaterThan(1);
      expect(stages.initialBoxes).toHaveLength(config.numProposals);
      expect(stages.detections).toHaveLength(detections.length);
      stages.detections.forEach((history: StageHistory['detections'][number], i: number) => {
        expect(history.steps).toHaveLength(config.numStages);
        const { box } = history.steps[config.numStages - 1];
        box.forEach((value, k) =>
          expect(Math.min(Math.max(value, 0), k % 2 === 0 ? SIZE.width : SIZE.height)).toBeCloseTo(
            detections[i].box[k],
            4,
          ),
        );
      });
      if (config.dpg === 'none') expect(stages.expertWeights).toBeNull();
      else
        expect(stages.expertWeights.map((row: number[]) => row.length)).toEqual(
          new Array(config.numExperts).fill(config.numProposals),
        );
    },
  );

  test('there are no stages without the flag, and images of equal names do not overwrite each other', async () => {
    const weights = join(folder, 'staircase.safetensors');
    const out = join(folder, 'names');
    const files = ['photo.png', 'photo-stages.png'].map((name) => join(folder, name));
    await sharp(image.data, { raw: { ...SIZE, channels: 3 } })
      .png()
      .toFile(files[1]);
    expect(await runPredict(['--weights', weights, '--out', out, files[0], ...files])).toBe(0);
    const results: { drawn: string; stages?: unknown }[] = JSON.parse(
      readFileSync(join(out, 'predictions.json'), 'utf8'),
    );
    expect(new Set(results.map(({ drawn }) => drawn)).size).toBe(3);
    for (const { drawn, stages } of results) {
      expect(existsSync(drawn)).toBe(true);
      expect(stages).toBeUndefined();
    }
  });
});
