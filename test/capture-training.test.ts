/**
 * Captured training: replayed steps give the same bits as plain steps, for all shapes and optimizers, and memory does
 * not grow.
 */
import { describe, expect, test } from 'vitest';
import { backward, Random, type Device, type ImageData, type Tensor } from '../engine/index.ts';
import { batchShape, DynamicSparseRCNN, MODEL_PRESETS, type ImageTargets } from '../model/index.ts';
import { presetConfig, type TrainingConfig } from '../training/core/recipe.ts';
import { TrainingStep } from '../training/core/step.ts';
import { testDevices } from './devices.ts';

const devices = await testDevices();
const { device } = devices[0];

interface Sample {
  readonly images: ImageData[];
  readonly targets: ImageTargets[];
}

/** A batch of two images. A `large` batch has other image sizes and more objects, so other shapes on the device. */
function sample(seed: number, large: boolean): Sample {
  const random = new Random(9, seed);
  const sizes = [
    [large ? 90 : 60, 50],
    [40, large ? 33 : 64],
  ];
  return {
    images: sizes.map(([width, height]) => ({
      data: Uint8Array.from({ length: width * height * 3 }, () => random.integer(256)),
      width,
      height,
    })),
    targets: [0, large ? 11 : 3].map((most) => {
      const objects = most === 0 ? random.integer(3) : most;
      return {
        labels: Uint32Array.from({ length: objects }, () => random.integer(4)),
        boxes: Float32Array.from({ length: 4 * objects }, (_, i) => (i % 4 < 2 ? 2 : 20) + random.integer(12)),
      };
    }),
  };
}

type Changes = Partial<TrainingConfig> & { readonly gradientCheckpointing?: boolean };

/** Trains from the same weights on the same batches. Returns losses, weights and optimizer state as hex text. */
async function trainBits(
  on: Device,
  { gradientCheckpointing = false, ...changes }: Changes,
  passes: readonly boolean[],
): Promise<{ bits: string[]; captures: number; live: number[] }> {
  const training: TrainingConfig = { ...presetConfig('tiny').training, ...changes };
  const model = new DynamicSparseRCNN(on, { ...MODEL_PRESETS.tiny, numClasses: 4, gradientCheckpointing }, 5);
  const step = new TrainingStep(on, model, training);
  const bits: string[] = [];
  const hex = async (tensor: Tensor): Promise<string> => Buffer.from(await on.readBytes(tensor)).toString('hex');
  const live: number[] = [];
  let at = 0;
  while (at < passes.length) {
    const first = at;
    const { passes: statistics, norm } = await step.run(async () => sample(at, passes[at++]), {
      learningRate: 1e-3 / (1 + first),
      values: { temperature: 1 + 9 / (1 + first) },
    });
    for (const tensor of [norm, ...statistics.flatMap(({ parts, positives }) => [parts, positives])]) {
      bits.push(await hex(tensor));
      tensor.dispose();
    }
    live.push(on.memory().liveBytes);
  }
  for (const { data } of (await model.save()).values())
    bits.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex'));
  for (const { data } of (await step.optimizer.state()).tensors.values())
    bits.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex'));
  const captures = step.captures.length;
  step.dispose();
  model.dispose();
  return { bits, captures, live };
}

/**
 * Two shapes in turn. Each shape runs plainly, is captured, and is replayed: as the only pass of a step, and as each of
 * two passes.
 */
const SHAPES = [false, true, false, true, false, true, true, false, true, false, true, false];

describe.each(devices)('training, $label', ({ device: on }) => {
  const cases: [string, Changes, number][] = [
    ['AdamW', {}, 2],
    [
      'SGD over two passes a step, with gradient checkpointing',
      { gradientCheckpointing: true, accumulation: 2, optimizer: 'sgd', clipNorm: 0 },
      5,
    ],
  ];
  test.each(cases)(
    'by %s gives the same bits with and without replay, while rates and temperatures change',
    async (_, changes, captures) => {
      const before = on.memory().liveBytes;
      const plain = await trainBits(on, { ...changes, replay: false }, SHAPES);
      const replayed = await trainBits(on, { ...changes, replay: true }, SHAPES);
      expect(plain.captures).toBe(0);
      expect(replayed.captures).toBe(captures);
      expect(replayed.bits.length).toBeGreaterThan(100);
      expect(replayed.bits.map((text, i) => text === plain.bits[i])).toEqual(plain.bits.map(() => true));
      expect(on.memory().liveBytes).toBe(before);
    },
  );
});

test('memory stays constant while training replays steps', async () => {
  const { live: bytes, captures } = await trainBits(device, {}, [...SHAPES, ...SHAPES]);
  expect(captures).toBe(2);
  expect(new Set(bytes.slice(5)).size).toBe(1);
});

test('results do not depend on the padding of objects', async () => {
  const model = new DynamicSparseRCNN(device, { ...MODEL_PRESETS.tiny, numClasses: 4 }, 5);
  const { images, targets } = sample(1, true);
  const shape = batchShape(images, targets);
  expect(shape.rows).toBe(16);
  const runs: string[][] = [];
  for (const rows of [16, 64]) {
    const batch = model.batch({ ...shape, rows });
    batch.write(images, targets, { temperature: 3 });
    const parts = device.scope(() => {
      const losses = model.lossOf(batch);
      backward(losses.total);
      return losses.parts.detach();
    });
    runs.push(
      await Promise.all(
        [parts, ...model.trainable().map(({ tensor }) => tensor.grad!)].map(async (tensor) =>
          Buffer.from(await device.readBytes(tensor)).toString('hex'),
        ),
      ),
    );
    for (const { tensor } of model.trainable()) tensor.zeroGrad();
    parts.dispose();
    batch.dispose();
  }
  expect(runs[1]).toEqual(runs[0]);
  model.dispose();
});

test('a batch refuses values that do not fit its shape, by name', () => {
  const model = new DynamicSparseRCNN(device, { ...MODEL_PRESETS.tiny, numClasses: 4 }, 5);
  const { images, targets } = sample(1, false);
  const batch = model.batch(batchShape(images, targets));
  const box = Float32Array.of(1, 2, 3, 4);
  expect(() => batch.write(sample(1, true).images, targets)).toThrow(
    'DeviceBatch: images: expected a batch of shape 2x64x64x8, got 2x64x96x8',
  );
  expect(() => batch.write(images, [targets[0], { labels: [4], boxes: box }])).toThrow(
    "DeviceBatch: labels: expected numbers below the model's 4 classes, got 4",
  );
  expect(() => batch.write(images, [targets[0], { labels: new Uint32Array(9), boxes: new Float32Array(36) }])).toThrow(
    'DeviceBatch: labels of image 1: expected at most 8 objects, got 9',
  );
  expect(() => batch.write(images, targets.slice(1))).toThrow(
    'DeviceBatch: targets: expected those of 2 images, got 1',
  );
  expect(() => batch.write(images, targets, { temperature: 0 })).toThrow(
    'DeviceBatch: temperature: expected a number > 0, got 0',
  );
  batch.dispose();
  model.dispose();
});
