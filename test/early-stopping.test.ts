/** When a training ends: patience, the last iteration, and what a finished run does and prints. */
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { runTrain } from '../training/commands/train.ts';
import { ensureShapesDataset } from '../training/data/index.ts';
import * as evaluation from '../training/evaluation/evaluate-model.ts';
import { readEvaluations } from '../training/output/metrics-files.ts';
import { TimeLeft, evaluationsAfter, isEvaluated } from '../training/core/time-left.ts';

vi.mock('../training/evaluation/evaluate-model.ts', { spy: true });

vi.mock('../engine/node/index.ts', async (original) => (await import('./shared-device.ts')).sharing(await original()));

const folder = mkdtempSync(join(tmpdir(), 'early-stopping-'));
const data = join(folder, 'shapes');
const lines: string[] = [];
beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line));
  vi.spyOn(process.stdout, 'write').mockImplementation(() => true);
  await ensureShapesDataset(data, { trainImages: 8, valImages: 2, imageSize: 64 });
});
afterAll(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true, force: true });
});

/** The next evaluations of the validation split have these values of AP, whatever the model detects. */
function scores(list: readonly number[]): void {
  const remaining = [...list];
  vi.mocked(evaluation.evaluateModel).mockImplementation(async (_, dataset, split) => {
    const AP = split === 'val' ? (remaining.shift() ?? 0) : 0.5;
    const names = ['AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl'] as const;
    const metrics = {
      AP,
      ...(Object.fromEntries(names.map((name) => [name, AP])) as Record<(typeof names)[number], number>),
    };
    const images = dataset.splits[split].length;
    return {
      evaluation: { metrics, stats: [], byCategory: [], images, groundTruths: 4, detections: 0, warnings: [] },
      detections: [],
      secondsPerImage: 0.01,
    };
  });
}

const train = (out: string, ...set: string[]): Promise<number> =>
  runTrain([
    ...['--data', data, '--config', 'tiny', '--from', 'scratch', '--iterations', '12', '--out', join(folder, out)],
    ...['drawImages=0', 'batchSize=1', 'evaluateEvery=2', ...set].flatMap((item) => ['--set', item]),
  ]);
const evaluated = (out: string): number[] =>
  readEvaluations(join(folder, out, 'evaluations.jsonl')).map(({ iteration }) => iteration);
const state = (out: string): unknown => JSON.parse(readFileSync(join(folder, out, 'last', 'state.json'), 'utf8'));

test('a training ends after `patience` evaluations without a higher AP, and keeps the best weights', async () => {
  // Zeros at the beginning do not count: the training has not begun to learn.
  scores([0, 0, 0.3, 0.2, 0.3]);
  expect(await train('patience', 'patience=2')).toBe(0);
  expect(evaluated('patience')).toEqual([2, 4, 6, 8, 10]);
  expect(state('patience')).toMatchObject({ iteration: 10, ended: 'no improvement', evaluationsSinceBest: 2 });
  expect(lines.join('\n')).toMatch(/ended {5}at iteration 10 of 12: AP did not grow in 2 evaluations/);

  lines.length = 0;
  const before = readFileSync(join(folder, 'patience', 'evaluation.json'), 'utf8');
  expect(await runTrain(['--resume', join(folder, 'patience')])).toBe(0);
  expect(lines.join('\n')).toMatch(/finished {2}nothing is left to train: the run ended at iteration 10 of 12/);
  expect(lines.join('\n')).toMatch(/best {6}AP 0\.300/);
  expect(lines.join('\n')).not.toMatch(/0 steps/);
  expect(readFileSync(join(folder, 'patience', 'evaluation.json'), 'utf8')).toBe(before);
});

test('a training whose AP grows takes all iterations, and the counter survives a resume', async () => {
  scores([0.1, 0.1, 0.2, 0.2, 0.3, 0.2]);
  expect(await train('growing', 'patience=2')).toBe(0);
  expect(evaluated('growing')).toEqual([2, 4, 6, 8, 10, 12]);
  expect(state('growing')).toMatchObject({ iteration: 12, ended: null, evaluationsSinceBest: 1 });
  expect(JSON.parse(readFileSync(join(folder, 'growing', 'evaluation.json'), 'utf8')).iteration).toBe(10);
  expect(existsSync(join(folder, 'growing', 'evaluation-test.json'))).toBe(false);
});

test('the test split is evaluated once at the end; a bad one does not prevent the training', async () => {
  const annotations = join(data, 'annotations');
  copyFileSync(join(annotations, 'instances_val.json'), join(annotations, 'instances_test.json'));
  cpSync(join(data, 'val'), join(data, 'test'), { recursive: true });
  scores([0.3]);
  expect(await train('tested', 'evaluateEvery=0')).toBe(0);
  const report = JSON.parse(readFileSync(join(folder, 'tested', 'evaluation-test.json'), 'utf8'));
  expect(report).toMatchObject({ split: 'test', weights: 'best.safetensors', iteration: 12, images: 2, AP: 0.5 });
  expect(lines.join('\n')).toMatch(/validation images, 2 test images/);
  expect(lines.join('\n')).toMatch(
    /test {6}AP 0\.500, AP50 0\.500 of the best weights on the 2 images of the test split/,
  );

  lines.length = 0;
  writeFileSync(join(annotations, 'instances_test.json'), '{"images": 5}');
  scores([0.3]);
  expect(await train('untested', 'evaluateEvery=0')).toBe(0);
  expect(lines.join('\n')).toMatch(/warning: the test split is not evaluated: .*instances_test\.json/);
  expect(existsSync(join(folder, 'untested', 'evaluation-test.json'))).toBe(false);
  rmSync(join(annotations, 'instances_test.json'));
  rmSync(join(data, 'test'), { recursive: true });
});

test('the time left has steps, evaluations and the end, and nothing before a step was measured', () => {
  const plan = { iterations: 100, evaluateEvery: 40, batchSize: 2, accumulation: 1, evaluationImages: 10 };
  const time = new TimeLeft({ ...plan, testImages: 0, drawImages: 0 });
  expect(time.after(0)).toBe(null);
  time.addStep(0.5);
  time.addStep(0.7);
  time.addEvaluation(3, 10);
  const end = time.endSeconds;
  expect(time.after(0)).toBeCloseTo(100 * 0.6 + 3 * 3 + end, 9);
  expect(time.after(79)).toBeCloseTo(21 * 0.6 + 2 * 3 + end, 9);
  expect(time.after(100)).toBeCloseTo(end, 9);
  for (const evaluateEvery of [0, 1, 7, 40, 50, 100, 1000]) {
    const counted = { iterations: 100, evaluateEvery };
    for (let from = 0; from <= 100; from++) {
      const rest = Array.from({ length: 100 - from }, (_, i) => from + 1 + i);
      expect(evaluationsAfter(from, counted)).toBe(rest.filter((at) => isEvaluated(at, counted)).length);
    }
  }
});
