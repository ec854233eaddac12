/**
 * `--time`, `--batch auto`, and running out of memory: the training has the same bits as one with these numbers given
 * by hand.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { OutOfMemoryError } from '../engine/index.ts';
import { BufferPool } from '../engine/gpu/buffers.ts';
import { Dispatcher } from '../engine/gpu/dispatcher.ts';
import { MemoryLedger } from '../engine/gpu/memory-ledger.ts';
import { readRunDescription } from '../training/checkpoints/run-folder.ts';
import { runTrain } from '../training/commands/train.ts';
import type { TrainingConfig } from '../training/core/recipe.ts';
import { TrainingStep } from '../training/core/step.ts';
import * as timePlan from '../training/core/time-plan.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { readMetrics } from '../training/output/metrics-files.ts';
import { inputErrorOf } from './input-errors.ts';
import { testDevice } from './devices.ts';

vi.mock('../training/core/time-plan.ts', { spy: true });

vi.mock('../engine/node/index.ts', async (original) => (await import('./shared-device.ts')).sharing(await original()));

const folder = mkdtempSync(join(tmpdir(), 'run-length-'));
const data = join(folder, 'shapes');
const lines: string[] = [];
beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line));
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  await ensureShapesDataset(data, { trainImages: 16, valImages: 2, imageSize: 64 });
});
afterEach(() => {
  lines.length = 0;
  vi.mocked(timePlan.fitLength).mockRestore();
  vi.mocked(timePlan.isOutOfTime).mockRestore();
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

const train = (out: string, set: readonly string[], ...more: string[]): Promise<number> =>
  runTrain([
    ...['--data', data, '--config', 'tiny', '--from', 'scratch', '--out', join(folder, out)],
    ...['drawImages=0', 'emaDecay=0.9', ...set].flatMap((item) => ['--set', item]),
    ...more,
  ]);
const trainingOf = (out: string): TrainingConfig => readRunDescription(join(folder, out, 'config.json')).training;
const losses = (out: string): unknown[] =>
  readMetrics(join(folder, out, 'metrics.jsonl')).map(({ step_ms, ...rest }) => rest);
const weights = (out: string): Buffer => readFileSync(join(folder, out, 'best.safetensors'));
const printed = (): string => lines.join('\n');

describe('--time', () => {
  test('chooses the length, and trains like a run of this length', async () => {
    vi.mocked(timePlan.fitLength).mockReturnValue({ iterations: 6, evaluateEvery: 4 });
    expect(await train('timed', ['batchSize=2'], '--time', '10m')).toBe(0);
    const [seconds, elapsed, times, evaluateEvery] = vi.mocked(timePlan.fitLength).mock.lastCall!;
    expect({ seconds, evaluateEvery }).toEqual({ seconds: 600, evaluateEvery: null });
    for (const value of [elapsed, times.step, times.evaluation, times.end]) expect(value).toBeGreaterThan(0);
    expect(trainingOf('timed')).toMatchObject({ iterations: 6, evaluateEvery: 4, warmupIterations: 0 });
    expect(printed()).toMatch(
      /choice {4}6 iterations {2}10:00 in all, .* s per step, 2 evaluations of .* 0 iterations of warm-up {2}\(--time/,
    );

    expect(await train('counted', ['batchSize=2', 'evaluateEvery=4', 'warmupIterations=0'], '--iterations', '6')).toBe(
      0,
    );
    expect(losses('timed')).toEqual(losses('counted'));
    expect(weights('timed').equals(weights('counted'))).toBe(true);
  });

  test('ends a training that has become slow; --resume trains the rest with the same bits', async () => {
    vi.mocked(timePlan.fitLength).mockReturnValue({ iterations: 6, evaluateEvery: 4 });
    let steps = 0;
    vi.mocked(timePlan.isOutOfTime).mockImplementation(() => ++steps >= 3);
    expect(await train('slow', ['batchSize=2'], '--time', '10m')).toBe(0);
    expect(printed()).toMatch(/ended {5}at iteration 3 of 6: .* the time of --time is over; the rest: .*--resume/);
    expect(losses('slow')).toHaveLength(3);
    expect(await runTrain(['--resume', join(folder, 'slow')])).toBe(0);
    expect(losses('slow')).toEqual(losses('counted'));
  });

  test('refuses what it cannot do', async () => {
    const refused = (...argv: string[]) => inputErrorOf(() => train('refused', [], ...argv));
    expect(await refused('--time', '10m', '--iterations', '5')).toContain('--time does not go with --iterations');
    expect(await refused('--time', 'soon')).toContain('--time: expected a duration such as 10m');
    expect(await inputErrorOf(() => runTrain(['--resume', join(folder, 'slow'), '--time', '1m']))).toContain(
      '--time does not go with --resume',
    );
    vi.mocked(timePlan.fitLength).mockReturnValue(null);
    expect(await refused('--time', '1s')).toMatch(/--time: expected more than \d+:\d\d, got 0:01: a step takes/);
  });
});

/** The next runs of a training step throw this error from the given call on, until the batch is as small as `fits`. */
function memoryFor(fits: number, firstFailure: number): void {
  const run = TrainingStep.prototype.run;
  let calls = 0;
  vi.spyOn(TrainingStep.prototype, 'run').mockImplementation(async function (this: TrainingStep, next, settings) {
    const result = await run.call(
      this,
      async () => {
        const batch = await next();
        if (++calls >= firstFailure && batch.images.length > fits) throw new OutOfMemoryError('no memory left');
        return batch;
      },
      settings,
    );
    return result;
  });
}

describe('running out of memory', () => {
  test('continues from the last checkpoint with smaller batches and as many images per step', async () => {
    memoryFor(1, 5);
    expect(await train('short', ['batchSize=4', 'saveEvery=2'], '--iterations', '6')).toBe(0);
    vi.mocked(TrainingStep.prototype.run).mockRestore();
    expect(printed()).toMatch(
      /ran out of memory with batch 4 \(no memory left\); continuing from the last checkpoint with batch 2 and 2 pass/,
    );
    expect(printed()).toMatch(/with batch 2 .*with batch 1 and 4 passes per step/);
    expect(trainingOf('short')).toMatchObject({ batchSize: 1, accumulation: 4, iterations: 6 });
    const logged = readMetrics(join(folder, 'short', 'metrics.jsonl'));
    expect(logged.map(({ iteration }) => iteration)).toEqual([1, 2, 3, 4, 5, 6]);

    // The images of each step are the same, so the losses are close to those of a whole batch.
    expect(await train('enough', ['batchSize=4', 'saveEvery=2'], '--iterations', '6')).toBe(0);
    for (const [i, { loss }] of readMetrics(join(folder, 'enough', 'metrics.jsonl')).entries())
      expect(Math.abs(logged[i].loss / loss - 1)).toBeLessThan(i < 4 ? 1e-6 : 0.25);
  });

  test('begins again without a checkpoint, and ends if one image does not fit', async () => {
    memoryFor(1, 1);
    expect(await train('start', ['batchSize=2'], '--iterations', '2')).toBe(0);
    vi.mocked(TrainingStep.prototype.run).mockRestore();
    expect(printed()).toMatch(/continuing from the beginning with batch 1 and 2 passes per step/);
    memoryFor(0, 1);
    expect(await inputErrorOf(() => train('none', ['batchSize=2'], '--iterations', '2'))).toMatch(
      /train: expected memory for a batch of one image, got too little \(no memory left\); smaller images need less/,
    );
    vi.mocked(TrainingStep.prototype.run).mockRestore();
  });
});

describe('--batch auto', () => {
  test('chooses a batch, and trains like a run with this batch', async () => {
    memoryFor(2, 1);
    expect(await train('auto', ['batchSize=4'], '--batch', 'auto', '--iterations', '3')).toBe(0);
    vi.mocked(TrainingStep.prototype.run).mockRestore();
    // Which of the batches that fit is faster depends on the machine.
    const { batchSize, accumulation } = trainingOf('auto');
    expect([
      [1, 4],
      [2, 2],
    ]).toContainEqual([batchSize, accumulation]);
    expect(printed()).toMatch(
      /choice {4}batch [12], [24] passes per step {2}.* images\/s with .*4 would leave too little memory/,
    );
    expect(await train('given', [`accumulation=${accumulation}`], '--batch', `${batchSize}`, '--iterations', '3')).toBe(
      0,
    );
    expect(losses('auto')).toEqual(losses('given'));
  });

  test('ends if one image does not fit', async () => {
    memoryFor(0, 1);
    expect(await inputErrorOf(() => train('tight', [], '--batch', 'auto'))).toMatch(
      /train: --batch auto: expected memory for one image of 64 x 64 pixels and \d objects, got too little/,
    );
    vi.mocked(TrainingStep.prototype.run).mockRestore();
  });
});

test('the engine names its out-of-memory errors', async () => {
  const device = await testDevice();
  const { maxBufferSize } = device.limits;
  const pool = new BufferPool(device.gpu, maxBufferSize, new MemoryLedger(), () => undefined);
  expect(() => pool.acquire(2 * maxBufferSize)).toThrow(OutOfMemoryError);
  const listeners: ((event: { error: Error }) => void)[] = [];
  const gpu = new Proxy(device.gpu, {
    get: (target, key) =>
      key === 'addEventListener'
        ? (_: string, listener: (event: { error: Error }) => void) => listeners.push(listener)
        : (Reflect.get(target, key).bind?.(target) ?? Reflect.get(target, key)),
  });
  const dispatcher = new Dispatcher(gpu, { written: () => undefined, replaying: () => undefined });
  for (const listener of listeners) listener({ error: new Error('VK_ERROR_OUT_OF_DEVICE_MEMORY') });
  await expect(dispatcher.check()).rejects.toThrow(OutOfMemoryError);
});
