/**
 * The benchmark of a training step by its parts: milliseconds, shares, dispatches and memory. On request it also times
 * PyTorch's step of the same configuration (bench/step.py), in interleaved rounds.
 *
 * Each part runs alone, on inputs that were computed before, and waits for the device. The time of a part's backward
 * pass is that of its forward and backward pass minus that of its forward pass in the same round. The sum of the parts
 * exceeds the whole step: in a whole step, the host submits one part while the device still runs the part before.
 */
import { median } from '../engine/core/statistics.ts';
import type { Device } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import type { PresetName } from '../model/index.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { type Job, sampleInterleaved, summarize, type Timing } from './measure.ts';
import { type Adapter, digits, quartiles, type Report } from './output.ts';
import { randomBatch, type StepSizes, sizesOf } from './step-batch.ts';
import { DIFFERENTIABLE_PARTS, type DifferentiablePart, type Part, PARTS, partJobs } from './step-parts.ts';
import { openTorch, type Torch, type TorchTimes } from './step-torch.ts';
import { type WholeStep, wholeStep } from './whole-step.ts';

export interface StepRow {
  readonly part: string;
  readonly dispatches: number;
  readonly timing: Timing;
  /** PyTorch's milliseconds; null without PyTorch, and for parts that PyTorch does not time. */
  readonly torch: number | null;
}

export interface StepResult {
  readonly preset: PresetName;
  readonly sizes: StepSizes;
  readonly peakBytes: number;
  readonly rows: readonly StepRow[];
  /** PyTorch's version; null without PyTorch. */
  readonly torch: string | null;
}

export interface StepOptions {
  readonly preset: PresetName;
  readonly rounds: number;
  /** The Python to run PyTorch with; null without PyTorch. */
  readonly python: string | null;
  readonly log: (line: string) => void;
}

/** Measures the step of a preset. */
export async function measureStep({ preset, rounds, python, log }: StepOptions): Promise<StepResult> {
  const { model: config, training } = presetConfig(preset);
  const sizes = sizesOf(preset);
  const device = await openDevice();
  try {
    const whole = wholeStep(device, config, sizes, training);
    log(`${preset}: ${sizes.batch} x ${sizes.height} x ${sizes.width}, first steps`);
    // Measured before the parts exist, because they allocate weights of their own.
    const peakBytes = await whole.peakBytes();
    const parts = partJobs(device, config, sizes);
    const setting = {
      model: config,
      ...sizes,
      weightDecay: training.weightDecay,
      clipNorm: training.clipNorm,
      targets: randomBatch(sizes, config.numClasses).targets.map(({ boxes, labels }) => ({
        boxes: Array.from(boxes),
        labels: Array.from(labels),
      })),
    };
    const torch = python === null ? null : await openTorch(python, setting);
    // The update is last: it uses the gradients that the whole step leaves.
    const ours = [
      ...PARTS.map((part) => parts.forward[part]),
      ...DIFFERENTIABLE_PARTS.map((part) => parts.both[part]),
      whole.job,
      whole.update,
    ];
    const dispatches = await countDispatches(device, ours, log);
    log(`${rounds} rounds${torch ? `, also of PyTorch ${torch.version}` : ''}`);
    const samples = await sampleInterleaved([...ours, ...(torch ? [torch.job] : [])], { rounds, sampleMs: 20 });
    const measured = new Map(ours.map((job, i) => [job, { times: samples[i], dispatches: dispatches[i] }]));
    const rows = stepRows(parts, whole, (job) => measured.get(job)!, torch);
    torch?.close();
    return { preset, sizes, peakBytes, rows, torch: torch?.version ?? null };
  } finally {
    device.destroy();
  }
}

/**
 * Runs each job twice and returns the dispatches of the second runs. The first runs also do work that is done only
 * once, such as folding of norms.
 */
async function countDispatches(device: Device, jobs: readonly Job[], log: (line: string) => void): Promise<number[]> {
  const counts: number[] = [];
  for (const job of jobs) {
    log(job.name);
    await job.run(1);
    const before = device.dispatches;
    await job.run(1);
    counts.push(device.dispatches - before);
  }
  return counts;
}

/** Milliseconds of one execution by round, and dispatches of one execution. */
interface Measured {
  readonly times: readonly number[];
  readonly dispatches: number;
}

const difference = (a: Measured, b: Measured): Measured => ({
  times: a.times.map((value, i) => value - b.times[i]),
  dispatches: a.dispatches - b.dispatches,
});

const total = (list: readonly Measured[]): Measured => ({
  times: list[0].times.map((_, i) => list.reduce((sum, { times }) => sum + times[i], 0)),
  dispatches: list.reduce((sum, { dispatches }) => sum + dispatches, 0),
});

/** The rows of the table: forward passes, backward passes, update, and the two summaries. */
function stepRows(
  { forward, both }: ReturnType<typeof partJobs>,
  whole: WholeStep,
  measured: (job: Job) => Measured,
  torch: Torch | null,
): StepRow[] {
  // PyTorch's first two runs are warm-up.
  const torchOf = (part: keyof TorchTimes): number | null =>
    torch ? median(torch.runs.slice(2).map((run) => run[part])) : null;
  const row = (part: string, { times, dispatches }: Measured, torchPart: keyof TorchTimes | null): StepRow => ({
    part,
    dispatches,
    timing: summarize(times),
    torch: torchPart && torchOf(torchPart),
  });
  const forwardRow = (part: Part): StepRow => {
    const own = measured(forward[part]);
    if (part === 'pyramid') return row('forward: pyramid', difference(own, measured(forward.backbone)), part);
    return row(part === 'upload' ? 'upload, normalize' : `forward: ${part}`, own, part);
  };
  const backwardOf = (part: DifferentiablePart): Measured => difference(measured(both[part]), measured(forward[part]));
  const backwardRow = (part: DifferentiablePart): StepRow => {
    const own = backwardOf(part);
    // The jobs of the pyramid include the backbone.
    return row(`backward: ${part}`, part === 'pyramid' ? difference(own, backwardOf('backbone')) : own, null);
  };
  const allBackward = DIFFERENTIABLE_PARTS.filter((part) => part !== 'backbone').map(backwardOf);
  return [
    ...PARTS.map(forwardRow),
    ...DIFFERENTIABLE_PARTS.toReversed().map(backwardRow),
    row('update', measured(whole.update), 'update'),
    row('all of backward', total(allBackward), 'backward'),
    row('whole step', measured(whole.job), 'whole'),
  ];
}

/** Rows that are sums over parts. */
const SUMMARIES = ['all of backward', 'whole step'];

/** The step as a report. */
export async function stepReport(
  run: StepOptions & { readonly adapter: Adapter; readonly command: string },
): Promise<Report> {
  const result = await measureStep(run);
  const { preset, sizes, rows, peakBytes, torch } = result;
  const sum = rows.filter(({ part }) => !SUMMARIES.includes(part)).reduce((all, { timing }) => all + timing.median, 0);
  const header = [
    'part',
    'dispatches',
    'ms',
    'quartiles',
    'share of the parts',
    ...(torch ? ['PyTorch ms', 'ours / PyTorch'] : []),
  ];
  const cells = rows.map(({ part, dispatches, timing, torch: theirs }) => [
    part,
    dispatches,
    digits(timing.median),
    quartiles(timing),
    part === 'whole step' ? '-' : `${((100 * timing.median) / sum).toFixed(1)}%`,
    ...(torch ? [theirs === null ? '-' : digits(theirs), theirs === null ? '-' : digits(timing.median / theirs)] : []),
  ]);
  const notes = [
    `Sum of the parts: ${digits(sum)} ms. Peak memory of tensors on the device during a step: ` +
      `${(peakBytes / 1e6).toFixed(0)} MB.`,
    'Each part runs alone and is waited for. The time of a backward pass is that of the forward and backward pass ' +
      'minus that of the forward pass. The whole step is that of `npm run train`, without loading.',
    ...(torch
      ? [
          `PyTorch ${torch} on the processor, float32: the reference model of the tests ` +
            '(test/golden/dsrcnn_torch.py). Its label assignment is written for clarity, not for speed.',
        ]
      : []),
  ];
  const size = `${sizes.batch} x ${sizes.height} x ${sizes.width}`;
  return {
    name: `step ${preset}`,
    title: `A training step, ${preset} preset, ${size}, on ${run.adapter.name}`,
    command: run.command,
    notes,
    tables: [{ header, rows: cells }],
    data: result,
  };
}
