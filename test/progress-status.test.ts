/** What a training shows while kernels are compiled and while it evaluates, and which steps its estimate counts. */
import { describe, expect, test } from 'vitest';
import { affine, exp, type Device, type Tensor } from '../engine/index.ts';
import { MetricsLog, type StepProgress } from '../training/core/metrics-log.ts';
import { TimeLeft } from '../training/core/time-left.ts';
import { Progress, progressLine } from '../training/output/progress.ts';
import { testDevice } from './devices.ts';

const device = await testDevice();

const row: StepProgress = {
  iteration: 3,
  iterations: 100,
  loss: 2,
  parts: {},
  learningRate: 1e-3,
  millisecondsPerStep: 50,
  secondsLeft: null,
  megabytes: 10,
};

/** A stream that keeps its text, and a clock that the test sets. */
function screen(isTTY: boolean) {
  const state = { text: '', now: 0 };
  const stream = {
    isTTY,
    columns: 60,
    write: (text: string) => {
      state.text += text;
    },
  };
  return { state, progress: new Progress({ stream, clock: () => state.now }) };
}

describe('the line of a training', () => {
  test('says that kernels are compiled, until a step was measured without', () => {
    expect(progressLine(row)).toBe('  3/100  loss 2.000  lr 1.00e-3  50.0 ms/step  compiling kernels  10 MB');
    expect(progressLine({ ...row, secondsLeft: 61 })).toContain('1:01 left');
  });

  test('on a terminal shows the number of kernels, and then the progress of an evaluation', () => {
    const { state, progress } = screen(true);
    progress.compiling(1, 0.2);
    expect(state.text).toBe('');
    state.now = 1200;
    progress.compiling(7, 1.2);
    expect(state.text).toBe('\r\x1b[Kcompiling kernels  7 pipelines, 1 s');
    state.now = 1320;
    progress.compiling(8, 1.32);
    expect(state.text).toMatch(/8 pipelines, 1 s$/);
    state.now = 1500;
    progress.update({ ...row, secondsLeft: 5 });
    state.now = 1800;
    // A kernel that is compiled shortly after a step does not replace its line.
    progress.compiling(9, 1.8);
    expect(state.text).toMatch(/0:05 left[^\r]*$/);
    state.now = 4000;
    progress.working('evaluation', 20, 100, 2);
    expect(state.text.endsWith('\r\x1b[Kevaluation  20/100 images, 0:08 left')).toBe(true);
    progress.note('AP 0.5');
    progress.end();
    for (const line of state.text.split(/[\r\n]/)) expect(line.length).toBeLessThanOrEqual(60 + 3);
  });

  test('in a file appears every ten seconds', () => {
    const { state, progress } = screen(false);
    for (let second = 0; second <= 25; second++) {
      state.now = 1000 * second;
      progress.compiling(second, second);
    }
    expect(state.text).toBe('compiling kernels  10 pipelines, 10 s\ncompiling kernels  20 pipelines, 20 s\n');
  });
});

/** Results of a step without losses. */
function result(on: Device): { passes: []; norm: Tensor; dispose(): void } {
  const norm = on.keep(on.zeros([1]));
  return { passes: [], norm, dispose: () => norm.dispose() };
}

test('steps in which kernels were compiled, the first ones, and evaluations are not counted', async () => {
  const plan = { iterations: 100, evaluateEvery: 0, batchSize: 1, accumulation: 1, evaluationImages: 0 };
  const timeLeft = new TimeLeft({ ...plan, testImages: 0, drawImages: 0 });
  const rows: StepProgress[] = [];
  const milliseconds: number[] = [];
  const log = new MetricsLog({
    device,
    parts: [],
    stages: 1,
    iterations: 100,
    timeLeft,
    onMetrics: ({ step_ms }) => milliseconds.push(step_ms),
    onProgress: (progress) => rows.push(progress),
  });
  let done = 0;
  const step = async (): Promise<void> => {
    await log.add(++done, 1e-3, result(device));
    await log.finish();
  };
  for (let i = 0; i < 3; i++) await step();
  expect(rows.map(({ secondsLeft }) => secondsLeft === null)).toEqual([true, true, false]);
  expect(timeLeft.measuredSteps).toBe(1);

  const compiled: number[] = [];
  const end = device.watchPipelines((count) => compiled.push(count));
  device.scope(() => exp(affine(device.tensor([1, 2, 3]), 2, 1)));
  expect(compiled).toEqual([device.pipelines - 1, device.pipelines]);
  end();
  await step();
  expect(timeLeft.measuredSteps).toBe(1);

  await new Promise((resolve) => setTimeout(resolve, 80));
  log.skipTime();
  await step();
  expect(timeLeft.measuredSteps).toBe(2);
  expect(milliseconds.at(-1)).toBeLessThan(80);
  expect(log.summary().steps).toBe(5);
});
