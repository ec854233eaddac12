/**
 * A training step by its parts: milliseconds, share, dispatches; memory of the whole; on request beside PyTorch's step of the same configuration (bench/step.py), interleaved.
 *
 * Each part runs alone on inputs that were computed before, and waits for the device; a part's backward pass is its forward and backward pass less its forward pass of the same round.
 * So the parts add up to more than the whole step, where the host records one part while the device still does the one before.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import {
  add,
  backward,
  initialBoxes,
  normalizeImages,
  Random,
  sum,
  type Device,
  type Tensor,
} from '../engine/index.ts';
import { median } from '../engine/core/statistics.ts';
import { openDevice } from '../engine/node/index.ts';
import { criterion } from '../model/criterion.ts';
import { DynamicHead } from '../model/dynamic-head.ts';
import { FPN } from '../model/fpn.ts';
import type { ImageTargets, ModelConfig, PresetName } from '../model/index.ts';
import { uploadTargets } from '../model/targets.ts';
import { Proposals } from '../model/proposals.ts';
import { ResNet } from '../model/resnet.ts';
import { createDetector } from '../training/core/create-detector.ts';
import { computeLosses } from '../training/core/detector.ts';
import { InputError } from '../training/core/errors.ts';
import { presetConfig, type TrainingConfig } from '../training/core/recipe.ts';
import { TrainingStep } from '../training/core/step.ts';
import { noise } from './case.ts';
import { KEEPS_MEMORY, sampleInterleaved, summarize, type Job, type Timing } from './measure.ts';
import { digits, type Adapter, type Report } from './output.ts';

/** What a step is measured with. */
export interface StepSizes {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  /** Objects of each image. */
  readonly objects: number;
}

interface Batch {
  readonly images: readonly {
    readonly data: Uint8Array<ArrayBuffer>;
    readonly width: number;
    readonly height: number;
  }[];
  readonly targets: readonly ImageTargets[];
}

/** Of COCO's images, on average. */
const OBJECTS = 7;

/** The sizes that a preset trains with; the paper's backbone at 480 x 640, which fits any machine. */
export function sizesOf(preset: PresetName): StepSizes {
  const { training } = presetConfig(preset);
  return preset === 'small' || preset === 'tiny'
    ? { batch: training.batchSize, height: 96, width: 96, objects: OBJECTS }
    : { batch: 1, height: 480, width: 640, objects: OBJECTS };
}

function randomBatch({ batch, height, width, objects }: StepSizes, numClasses: number): Batch {
  const images = Array.from({ length: batch }, (_, b) => ({
    data: Uint8Array.from(noise(height * width * 3, b + 1), (v) => 256 * (v + 0.5)),
    width,
    height,
  }));
  const targets = images.map((_, b) => {
    const values = noise(4 * objects, 100 + b);
    const boxes = new Float32Array(4 * objects);
    for (let i = 0; i < objects; i++) {
      const [w, h] = [(0.15 + 0.3 * (values[4 * i] + 0.5)) * width, (0.15 + 0.3 * (values[4 * i + 1] + 0.5)) * height];
      const [x, y] = [(values[4 * i + 2] + 0.5) * (width - w), (values[4 * i + 3] + 0.5) * (height - h)];
      boxes.set([x, y, x + w, y + h], 4 * i);
    }
    return { boxes, labels: Uint32Array.from({ length: objects }, (__, i) => i % numClasses) };
  });
  return { images, targets };
}

export interface WholeStep {
  readonly job: Job;
  /** The update alone, by gradients that its first run computes. */
  readonly update: Job;
  /** The most bytes that tensors hold during a step. */
  peakBytes(): Promise<number>;
}

/** A job that the device has done when it resolves. */
const jobOn = (device: Device, name: string, body: () => void): Job => ({
  name,
  run: async (times) => {
    for (let i = 0; i < times; i++) body();
    await device.synchronize();
  },
});

/** The step of training/commands/train.ts, replayed where the preset replays it, at a learning rate of 0: what it costs does not change as it goes. */
export function wholeStep(device: Device, config: ModelConfig, sizes: StepSizes, training: TrainingConfig): WholeStep {
  const model = createDetector(device, config);
  const step = new TrainingStep(device, model, { ...training, accumulation: 1 });
  const { images, targets } = randomBatch(sizes, config.numClasses);
  const parameters = model.trainable();
  /** What the update's first run computes, for all of its runs: a whole step drops its own. */
  const gradients: (Tensor | null)[] = [];
  const job: Job = {
    name: 'whole step',
    run: async (times) => {
      for (let i = 0; i < times; i++) {
        const result = await step.run(async () => ({ images, targets }), { learningRate: 0, values: {} });
        result.dispose();
      }
      await device.synchronize();
    },
  };
  return {
    job,
    update: jobOn(device, 'update', () =>
      device.scope(() => {
        if (gradients.length === 0) {
          backward(computeLosses(model, images, targets).total);
          gradients.push(...parameters.map(({ tensor }) => tensor.grad && device.keep(tensor.grad.detach())));
        }
        parameters.forEach(({ tensor }, i) => {
          const gradient = gradients[i];
          if (gradient && tensor.grad === null) tensor.grad = device.keep(gradient.detach());
        });
        step.optimizer.step({ learningRate: 0, maxGradientNorm: training.clipNorm || undefined });
      }),
    ),
    peakBytes: async () => {
      await job.run(3);
      device.resetPeak();
      await job.run(1);
      return device.memory().peakBytes;
    },
  };
}

const PARTS = ['upload', 'backbone', 'pyramid', 'proposals', 'head', 'criterion'] as const;
type Part = (typeof PARTS)[number];

/** A scalar that depends on all of them. */
const combined = (tensors: readonly Tensor[]): Tensor =>
  tensors.map((tensor) => sum(tensor)).reduce((a, b) => add(a, b));

/** Each part's forward pass on kept inputs, and forward with backward; the pyramid's with the backbone before it. */
function partJobs(
  device: Device,
  config: ModelConfig,
  sizes: StepSizes,
): { forward: Record<Part, Job>; both: Record<Exclude<Part, 'upload'>, Job> } {
  const random = new Random(0);
  const { images, targets } = randomBatch(sizes, config.numClasses);
  const [backbone, pyramid, proposals, head] = [
    new ResNet(device, random, config),
    new FPN(device, random, config),
    new Proposals(device, random, config),
    new DynamicHead(device, random, config),
  ];
  const imageSizes = images.map(({ width, height }) => [width, height] as const);
  const normalize = (): Tensor =>
    normalizeImages(device, images, { mean: config.pixelMean, std: config.pixelStd, divisor: 32 });
  const keepLeaves = <T extends Tensor>(tensors: readonly T[]): T[] =>
    tensors.map((tensor) => {
      tensor.requiresGrad = true;
      return device.keep(tensor);
    });
  const inverseTemperature = device.keep(device.tensor([1]));
  const given = device.noGrad(() =>
    device.scope(() => {
      const x = device.keep(normalize());
      const levels = keepLeaves(pyramid.forward(x));
      const { boxes, features } = proposals.forward(levels, inverseTemperature);
      const whwh = device.keep(
        device.tensor(
          imageSizes.flatMap(([w, h]) => [w, h, w, h]),
          [images.length, 4],
        ),
      );
      const [start] = [device.keep(initialBoxes(boxes, whwh))];
      const [queries] = keepLeaves([features]);
      const stages = head
        .forward(levels, start, queries)
        .map(({ logits, boxes: refined }) => ({ logits: keepLeaves([logits])[0], boxes: keepLeaves([refined])[0] }));
      const uploaded = uploadTargets(device, targets, imageSizes);
      for (const tensor of [uploaded.labels, uploaded.boxes, uploaded.counts, uploaded.sizes]) device.keep(tensor);
      return { x, levels, whwh, start, queries, stages, uploaded };
    }),
  );
  const leaves = [...given.levels, given.queries, ...given.stages.flatMap(({ logits, boxes }) => [logits, boxes])];
  const parameters = [backbone, pyramid, proposals, head].flatMap((module) =>
    module.trainable().map(({ tensor }) => tensor),
  );
  const outputs: Record<Exclude<Part, 'upload'>, () => readonly Tensor[]> = {
    backbone: () => backbone.forward(given.x),
    pyramid: () => pyramid.forward(given.x),
    proposals: () => {
      const { boxes, features } = proposals.forward(given.levels, inverseTemperature);
      return [initialBoxes(boxes, given.whwh), features];
    },
    head: () => head.forward(given.levels, given.start, given.queries).flatMap(({ logits, boxes }) => [logits, boxes]),
    criterion: () => [criterion(given.stages, given.uploaded, config).total],
  };
  const forwardOf = (part: Exclude<Part, 'upload'>): Job =>
    jobOn(device, part, () =>
      device.scope(() => {
        outputs[part]();
      }),
    );
  const bothOf = (part: Exclude<Part, 'upload'>): Job =>
    jobOn(device, `${part} and back`, () => {
      device.scope(() => backward(combined(outputs[part]())));
      for (const tensor of [...leaves, ...parameters]) tensor.zeroGrad();
    });
  return {
    forward: {
      upload: jobOn(device, 'upload', () =>
        device.scope(() => {
          normalize();
          uploadTargets(device, targets, imageSizes);
        }),
      ),
      backbone: forwardOf('backbone'),
      pyramid: forwardOf('pyramid'),
      proposals: forwardOf('proposals'),
      head: forwardOf('head'),
      criterion: forwardOf('criterion'),
    },
    both: {
      backbone: bothOf('backbone'),
      pyramid: bothOf('pyramid'),
      proposals: bothOf('proposals'),
      head: bothOf('head'),
      criterion: bothOf('criterion'),
    },
  };
}

/** Milliseconds by part, as bench/step.py names them. */
type TorchTimes = Readonly<Record<Part | 'backward' | 'update' | 'whole', number>>;

interface Torch {
  readonly version: string;
  readonly job: Job;
  /** Of every run so far. */
  readonly runs: readonly TorchTimes[];
  close(): void;
}

/** Starts PyTorch in a process of its own, which waits until it is told to run. Throws InputError where it does not start. */
async function openTorch(python: string, setting: object): Promise<Torch> {
  const child = spawn(python, [fileURLToPath(new URL('step.py', import.meta.url))], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...KEEPS_MEMORY },
  });
  const failed = new Promise<never>((_, reject) => {
    child.on('error', (error) =>
      reject(new InputError(`bench: --torch: ${python} cannot be started: ${error.message}`)),
    );
    child.on('exit', (code) =>
      reject(new InputError(`bench: --torch: ${python} ended with code ${code}; its messages are above`)),
    );
  });
  failed.catch(() => undefined);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await Promise.race([lines.next(), failed]);
    return done ? failed : value;
  };
  child.stdin.on('error', () => undefined);
  child.stdin.write(`${JSON.stringify(setting)}\n`);
  const { torch } = JSON.parse(await next()) as { torch: string };
  const runs: TorchTimes[] = [];
  return {
    version: torch,
    runs,
    job: {
      name: 'PyTorch',
      run: async (times) => {
        for (let i = 0; i < times; i++) {
          child.stdin.write('\n');
          runs.push(JSON.parse(await next()) as TorchTimes);
        }
      },
    },
    close: () => {
      child.stdin.end();
    },
  };
}

export interface StepRow {
  readonly part: string;
  readonly dispatches: number;
  readonly timing: Timing;
  /** PyTorch's milliseconds, where it was asked for and has the part. */
  readonly torch: number | null;
}

export interface StepResult {
  readonly preset: PresetName;
  readonly sizes: StepSizes;
  readonly peakBytes: number;
  readonly rows: readonly StepRow[];
  readonly torch: string | null;
}

export interface StepOptions {
  readonly preset: PresetName;
  readonly rounds: number;
  readonly python: string | null;
  readonly log: (line: string) => void;
}

/** Measures a preset's step. */
export async function measureStep({ preset, rounds, python, log }: StepOptions): Promise<StepResult> {
  const { model: config, training } = presetConfig(preset);
  const sizes = sizesOf(preset);
  const device = await openDevice();
  try {
    const whole = wholeStep(device, config, sizes, training);
    log(`${preset}: ${sizes.batch} x ${sizes.height} x ${sizes.width}, first steps`);
    // Before the parts are there, which have weights of their own.
    const peakBytes = await whole.peakBytes();
    const { forward, both } = partJobs(device, config, sizes);
    const passed = PARTS.filter((part): part is Exclude<Part, 'upload'> => part !== 'upload');
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
    // The update last: it uses the gradients that the whole step leaves.
    const jobs = [
      ...PARTS.map((part) => forward[part]),
      ...passed.map((part) => both[part]),
      whole.job,
      whole.update,
      ...(torch ? [torch.job] : []),
    ];
    const dispatches: number[] = [];
    for (const job of jobs.filter((one) => one !== torch?.job)) {
      log(job.name);
      await job.run(1); // What only a first run does, folding frozen norms for one, is not counted.
      const before = device.dispatches;
      await job.run(1);
      dispatches.push(device.dispatches - before);
    }
    log(`${rounds} rounds${torch ? ` beside PyTorch ${torch.version}` : ''}`);
    const samples = await sampleInterleaved(jobs, { rounds, sampleMs: 20 });
    const at = (job: Job): number => jobs.indexOf(job);
    const minus = (a: readonly number[], b: readonly number[]): number[] => a.map((value, i) => value - b[i]);
    const torchOf = (part: keyof TorchTimes): number | null =>
      torch ? median(torch.runs.slice(2).map((run) => run[part])) : null;
    const row = (part: string, times: readonly number[], count: number, name: keyof TorchTimes | null): StepRow => ({
      part,
      dispatches: count,
      timing: summarize(times),
      torch: name && torchOf(name),
    });
    const forwardRow = (part: Part): StepRow => {
      const i = at(forward[part]);
      const previous = at(forward.backbone);
      return part === 'pyramid'
        ? row('forward: pyramid', minus(samples[i], samples[previous]), dispatches[i] - dispatches[previous], part)
        : row(part === 'upload' ? 'upload, normalise' : `forward: ${part}`, samples[i], dispatches[i], part);
    };
    const back = (part: Exclude<Part, 'upload'>): [number[], number] => [
      minus(samples[at(both[part])], samples[at(forward[part])]),
      dispatches[at(both[part])] - dispatches[at(forward[part])],
    ];
    const backwardRow = (part: Exclude<Part, 'upload'>): StepRow => {
      const [times, count] = back(part);
      if (part !== 'pyramid') return row(`backward: ${part}`, times, count, null);
      const [ofBackbone, countOfBackbone] = back('backbone');
      return row('backward: pyramid', minus(times, ofBackbone), count - countOfBackbone, null);
    };
    const backwardRows = [...passed].reverse().map(backwardRow);
    const allBack = passed.filter((part) => part !== 'backbone').map((part) => back(part));
    const rows = [
      ...PARTS.map(forwardRow),
      ...backwardRows,
      row('update', samples[at(whole.update)], dispatches[at(whole.update)], 'update'),
      row(
        'all of backward',
        samples[0].map((_, i) => allBack.reduce((total, [times]) => total + times[i], 0)),
        allBack.reduce((total, [, count]) => total + count, 0),
        'backward',
      ),
      row('whole step', samples[at(whole.job)], dispatches[at(whole.job)], 'whole'),
    ];
    torch?.close();
    return { preset, sizes, peakBytes, rows, torch: torch?.version ?? null };
  } finally {
    device.destroy();
  }
}

const SUMMARIES = ['all of backward', 'whole step'];

/** The step as a report. */
export async function stepReport(
  run: StepOptions & { readonly adapter: Adapter; readonly command: string },
): Promise<Report> {
  const result = await measureStep(run);
  const { preset, sizes, rows, peakBytes, torch } = result;
  const total = rows
    .filter(({ part }) => !SUMMARIES.includes(part))
    .reduce((all, { timing }) => all + timing.median, 0);
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
    `${digits(timing.lower)} .. ${digits(timing.upper)}`,
    part === 'whole step' ? '-' : `${((100 * timing.median) / total).toFixed(1)}%`,
    ...(torch ? [theirs === null ? '-' : digits(theirs), theirs === null ? '-' : digits(timing.median / theirs)] : []),
  ]);
  const notes = [
    `The parts together: ${digits(total)} ms. Memory: tensors hold at most ${(peakBytes / 1e6).toFixed(0)} MB on the device during a step.`,
    "Each part runs alone and is waited for; a backward pass is the part's forward and backward pass less its forward pass. The whole step is that of `npm run train`, without loading.",
    ...(torch
      ? [
          `PyTorch ${torch} on the processor, float32: the reference model of the tests (test/golden/dsrcnn_torch.py), whose label assignment is written to be read, not to be fast.`,
        ]
      : []),
  ];
  return {
    name: `step ${preset}`,
    title: `A training step, ${preset} preset, ${sizes.batch} x ${sizes.height} x ${sizes.width}, on ${run.adapter.name}`,
    command: run.command,
    notes,
    tables: [{ header, rows: cells }],
    data: result,
  };
}
