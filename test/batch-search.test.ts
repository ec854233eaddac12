/** The choice of batch, learning rate and length of a training from measurements. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { searchBatch, smallerBatch, type BatchTrial } from '../training/core/batch-search.ts';
import { learningRateWarning, scaledLearningRate } from '../training/core/learning-rate-rule.ts';
import { presetConfig, type RunConfig, type TrainingConfig } from '../training/core/recipe.ts';
import { largestSize, mostObjects } from '../training/core/synthetic-batch.ts';
import { evaluationsAfter } from '../training/core/time-left.ts';
import { fitLength, isOutOfTime } from '../training/core/time-plan.ts';
import { durationOption } from '../training/commands/arguments.ts';

/** A device with fixed costs and costs for each image. `limit`: bytes at which it runs out of memory. */
function device(fixedSeconds: number, secondsPerImage: number, limit = Infinity) {
  const measured: number[] = [];
  const measure = async (batchSize: number): Promise<BatchTrial | null> => {
    measured.push(batchSize);
    const peakBytes = 100e6 + batchSize * 50e6;
    if (peakBytes > limit) return null;
    return { batchSize, imagesPerSecond: batchSize / (fixedSeconds + batchSize * secondsPerImage), peakBytes };
  };
  return { measured, measure };
}

describe('the batch', () => {
  test('is that of the recipe where larger ones are not faster', async () => {
    const { measure, measured } = device(0.001, 0.1);
    const chosen = await searchBatch({ recipeBatch: 8, images: 1000, freeBytes: null, measure });
    expect(chosen).toMatchObject({ batchSize: 8, accumulation: 1 });
    expect(measured).toEqual([1, 2, 4, 8, 16]);
    expect(chosen!.reason).toMatch(/16 is not faster/);
  });

  test('grows while it is faster, but leaves an epoch several steps', async () => {
    const { measure } = device(0.5, 0.001);
    const chosen = await searchBatch({ recipeBatch: 8, images: 300, freeBytes: null, measure });
    expect(chosen).toMatchObject({ batchSize: 32, accumulation: 1 });
    expect(chosen!.reason).toMatch(/64 is too much for 300 images/);
  });

  test('is smaller where memory is short, and the rest of the step is accumulated', async () => {
    const host = device(0.01, 0.1);
    // 1.25 * (100 + 4 * 50) MB fit; 8 images are not even tried, because their memory follows from the smaller ones.
    const chosen = await searchBatch({ recipeBatch: 8, images: 1000, freeBytes: 400e6, measure: host.measure });
    expect(chosen).toMatchObject({ batchSize: 4, accumulation: 2 });
    expect(host.measured).toEqual([1, 2, 4]);
    const gpu = device(0.01, 0.1, 210e6);
    expect(await searchBatch({ recipeBatch: 6, images: 1000, freeBytes: null, measure: gpu.measure })).toMatchObject({
      batchSize: 2,
      accumulation: 3,
      reason: expect.stringMatching(/3 would leave too little memory/),
    });
    const full = device(0.01, 0.1, 1);
    expect(await searchBatch({ recipeBatch: 8, images: 1000, freeBytes: null, measure: full.measure })).toBe(null);
  });

  test('of a step keeps its images when it is divided', () => {
    expect(smallerBatch(8, 1)).toEqual({ batchSize: 4, accumulation: 2 });
    expect(smallerBatch(6, 2)).toEqual({ batchSize: 3, accumulation: 4 });
    expect(smallerBatch(5, 1)).toEqual({ batchSize: 1, accumulation: 5 });
    expect(smallerBatch(1, 16)).toBe(null);
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 200 }), fc.integer({ min: 1, max: 50 }), (batch, passes) => {
        const { batchSize, accumulation } = smallerBatch(batch, passes)!;
        expect(batchSize * accumulation).toBe(batch * passes);
        expect(batchSize).toBeLessThan(batch);
      }),
    );
  });
});

test('a learning rate far from the rules for its batch gets a warning', () => {
  const warning = (changes: Partial<TrainingConfig>, preset: 'small' | 'paper-r50' = 'small') => {
    const config: RunConfig = presetConfig(preset);
    return learningRateWarning({ ...config, training: { ...config.training, ...changes } });
  };
  const { batchSize, accumulation, learningRate } = presetConfig('small').training;
  const batch = batchSize * accumulation;
  expect(warning({})).toBe(null);
  expect(warning({}, 'paper-r50')).toBe(null);
  expect(warning({ batchSize: batch * 4, learningRate: learningRate * 2 })).toBe(null);
  expect(warning({ batchSize: batch * 4, learningRate: learningRate * 4 })).toBe(null);
  expect(warning({ batchSize: batch * 16 })).toMatch(/learning rate .* is far from .* images per step; change with/);
  expect(warning({ learningRate: learningRate * 3 })).toMatch(/far from/);
  expect(warning({ learningRate: learningRate / 3 })).toMatch(/far from/);
  expect(learningRateWarning({ ...presetConfig('small'), preset: 'custom' })).toBe(null);
  expect(scaledLearningRate(7e-4, 4)).toBe(1.4e-3);
});

describe('the length of a training', () => {
  const times = { step: 0.5, evaluation: 4, end: 6 };
  const total = (length: { iterations: number; evaluateEvery: number }): number =>
    length.iterations * times.step + evaluationsAfter(0, length) * times.evaluation + times.end;

  test('fits its steps, evaluations and the end into the time', () => {
    const length = fitLength(600, 30, times, null)!;
    const evaluations = evaluationsAfter(0, length);
    expect(evaluations).toBeGreaterThan(3);
    expect(evaluations).toBeLessThanOrEqual(10);
    expect(total(length)).toBeLessThanOrEqual(600 * 0.97 - 30);
    expect(total(length)).toBeGreaterThan(600 * 0.97 - 30 - 6);
  });

  test('keeps the time for all measurements, and all the evaluations that the user wants', () => {
    const positive = fc.double({ min: 0.01, max: 50, noNaN: true });
    fc.assert(
      fc.property(
        fc.record({ step: positive, evaluation: positive, end: positive }),
        fc.double({ min: 10, max: 1e4, noNaN: true }),
        fc.option(fc.integer({ min: 0, max: 500 })),
        (measured, seconds, evaluateEvery) => {
          const length = fitLength(seconds, 3, measured, evaluateEvery);
          if (length === null) return;
          const evaluations = evaluationsAfter(0, length);
          expect(length.iterations * measured.step + evaluations * measured.evaluation).toBeLessThanOrEqual(
            seconds - 3 - measured.end,
          );
          if (evaluateEvery !== null) expect(length.evaluateEvery).toBe(evaluateEvery);
        },
      ),
    );
  });

  test('is null if not even one step fits', () => {
    expect(fitLength(10, 12, times, null)).toBe(null);
    expect(fitLength(10, 0, times, 100)).toBe(null);
    expect(isOutOfTime(100, 99, times)).toBe(false);
    expect(isOutOfTime(100, 101, times)).toBe(true);
  });
});

test('durations have units', () => {
  expect(['10m', '90s', '1h30m', '1h', '2m5s'].map((text) => durationOption('train', 'time', text))).toEqual([
    600, 90, 5400, 3600, 125,
  ]);
  for (const text of ['10', 'm', '', '0s', '1m2h', '-5m', '1.5h'])
    expect(() => durationOption('train', 'time', text)).toThrow(
      `train: --time: expected a duration such as 10m, 90s or 1h30m, got ${JSON.stringify(text)}`,
    );
});

test('the largest size of a batch follows from the images and the augmentation', () => {
  const { augmentation } = presetConfig('small').training;
  const images = [
    { width: 96, height: 96 },
    { width: 300, height: 200 },
    { width: 100, height: 130 },
  ];
  expect(largestSize({ augmentation }, [{ width: 96, height: 96 }])).toEqual({ width: 96, height: 96 });
  expect(largestSize({ augmentation }, images)).toEqual({ width: 144, height: 125 });
  expect(largestSize({ augmentation })).toEqual({ width: 160, height: 96 });
  expect(largestSize({ augmentation: { ...augmentation, fixedSize: [64, 80] } }, images)).toEqual({
    width: 80,
    height: 64,
  });
  const record = (id: number, objects: number) => ({
    ...{ id, name: `${id}`, file: `${id}`, width: 9, height: 9 },
    objects: Array.from({ length: objects }, (_, i) => ({
      ...{ id: i, label: 0, area: 1, crowd: i === 0 },
      box: [0, 0, 1, 1] as [number, number, number, number],
    })),
  });
  const records = [record(1, 3), record(2, 6), record(3, 0), record(4, 2), record(5, 4)];
  expect(mostObjects({ augmentation }, records)).toBe(5);
  expect(mostObjects({ augmentation: { ...augmentation, mosaic: 0.5 } }, records)).toBe(5 + 3 + 2 + 1);
});
