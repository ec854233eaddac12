/** The control of a training: average of the weights, schedule, early stopping, time, and what it prints. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { readWeightsFile } from '../training/checkpoints/weights-file.ts';
import { runTrain } from '../training/commands/train.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import { readMetrics } from '../training/output/metrics-files.ts';

vi.mock('../engine/node/index.ts', async (original) => (await import('./shared-device.ts')).sharing(await original()));

const folder = mkdtempSync(join(tmpdir(), 'training-control-'));
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

const settings = (set: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(set).flatMap(([key, value]) => ['--set', `${key}=${value}`]);

const train = (out: string, set: Readonly<Record<string, string | number>>, ...more: string[]): Promise<number> =>
  runTrain([
    ...['--data', data, '--config', 'tiny', '--from', 'scratch', '--out', join(folder, out)],
    ...settings({ drawImages: 1, ...set }),
    ...more,
  ]);

const bytes = (out: string, ...path: string[]): Buffer => readFileSync(join(folder, out, ...path));

/** Sends the process a signal when a run has logged this number of iterations. */
function stopAt(out: string, iterations: number): void {
  const file = join(folder, out, 'metrics.jsonl');
  vi.spyOn(process.stderr, 'write').mockReturnValueOnce(true);
  const watch = setInterval(() => {
    try {
      if (readMetrics(file).length < iterations) return;
    } catch {
      return;
    }
    clearInterval(watch);
    process.emit('SIGINT', 'SIGINT');
  }, 5);
}

describe('a run with an average of its weights and a cosine schedule', () => {
  const set = { emaDecay: 0.99, schedule: 'cosine', finalFactor: 0.1, warmupIterations: 2, saveEvery: 4 };

  test('saves the average as the best weights, and the weights of the training in the checkpoint', async () => {
    expect(await train('average', set, '--iterations', '10')).toBe(0);
    const best = readWeightsFile(join(folder, 'average', 'best.safetensors')).tensors;
    const last = readWeightsFile(join(folder, 'average', 'last', 'model.safetensors')).tensors;
    const optimizer = readWeightsFile(join(folder, 'average', 'last', 'optimizer.safetensors')).tensors;
    const name = 'head.head_series.0.norm1.weight';
    expect(best.get(name)!.data).not.toEqual(last.get(name)!.data);
    expect(best.get(name)!.data).toEqual(optimizer.get(`average.${name}`)!.data);
    const rates = readMetrics(join(folder, 'average', 'metrics.jsonl')).map(({ lr }) => lr / 2e-3);
    expect(rates[2]).toBeCloseTo(1, 12);
    expect(rates[6]).toBeCloseTo(0.55, 12);
    expect(rates[9]).toBeCloseTo(0.1 + 0.45 * (1 + Math.cos((7 / 8) * Math.PI)), 12);
  });

  test('that was stopped and resumed has the same bits', async () => {
    stopAt('stopped', 3);
    expect(await train('stopped', set, '--iterations', '10')).toBe(130);
    expect(await runTrain(['--resume', join(folder, 'stopped')])).toBe(0);
    for (const path of [['best.safetensors'], ['last', 'model.safetensors'], ['last', 'optimizer.safetensors']])
      expect(bytes('stopped', ...path).equals(bytes('average', ...path)), path.join('/')).toBe(true);
  });
});
