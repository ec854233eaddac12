/**
 * The paper's network at full size compared with PyTorch, with the same checkpoint and image: all outputs, the loss and
 * all gradients, or the times of interleaved runs.
 *
 *   python3 bench/full_size.py write /tmp/full --size 480x640 --gradients
 *       (Debian's python3 with python3-torch, python3-torchvision, python3-scipy)
 *   npm run full-size -- /tmp/full [--time forward|step] [--rounds 5] [--checkpointing]
 *
 * Prints the relative L2 error of each tensor, and device and process memory; with --time the medians and their ratio.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { AdamW, backward, readCheckpoint, readSafetensors } from '../engine/index.ts';
import { median } from '../engine/core/statistics.ts';
import { openDevice } from '../engine/node/index.ts';
import { storedShape, toStored } from '../engine/nn/index.ts';
import { criterion } from '../model/criterion.ts';
import { DynamicSparseRCNN, mapNames, PAPER_R50 } from '../model/index.ts';
import { uploadTargets } from '../model/targets.ts';
import { integerOption, orExit, parseArguments } from '../training/commands/arguments.ts';
import { InputError } from '../training/core/errors.ts';
import { insteadOfFile } from '../training/data/files.ts';
import { channelsFirst, channelsLast } from './layout.ts';
import { KEEPS_MEMORY } from './measure.ts';

const USAGE = `usage: npm run full-size -- FOLDER [--time forward|step] [--rounds 5] [--checkpointing]
                            [--python /usr/bin/python3]
FOLDER is written by bench/full_size.py (see there). Without --time outputs and gradients are compared.`;
const {
  options,
  folder,
  rounds: roundsAsked,
} = orExit(() => {
  const { values, positionals } = parseArguments(
    'full-size',
    process.argv.slice(2),
    {
      help: { type: 'boolean' },
      time: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      checkpointing: { type: 'boolean', default: false },
      python: { type: 'string', default: '/usr/bin/python3' },
    },
    true,
  );
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  if (positionals.length !== 1)
    throw new InputError(
      `full-size: expected one FOLDER, got ${positionals.length === 0 ? 'none' : positionals.join(' ')} ` +
        '(see npm run full-size -- --help)',
    );
  const time = (['forward', 'step'] as const).find((mode) => mode === values.time);
  if (values.time !== undefined && time === undefined)
    throw new InputError(`full-size: --time: expected forward or step, got ${JSON.stringify(values.time)}`);
  for (const file of ['expected.safetensors', 'checkpoint.pth']) {
    const instead = insteadOfFile(join(positionals[0], file));
    if (instead)
      throw new InputError(
        `full-size: ${join(positionals[0], file)}: expected a file of bench/full_size.py, got ${instead}`,
      );
  }
  return {
    options: { ...values, time },
    folder: positionals[0],
    rounds: integerOption('full-size', 'rounds', values.rounds, 1),
  };
});

/** Relative L2 errors above this value are always listed. */
const NOTABLE_ERROR = 1e-3;

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
const processPeak = (): string => `process peak ${megabytes(process.resourceUsage().maxRSS * 1024)}`;

function readBytes(path: string): ArrayBuffer {
  const { buffer, byteOffset, byteLength } = readFileSync(path);
  return byteLength === buffer.byteLength ? buffer : buffer.slice(byteOffset, byteOffset + byteLength);
}

const expected = readSafetensors(readBytes(join(folder, 'expected.safetensors')), 'expected.safetensors');
const floats = (name: string): Float32Array => {
  const entry = expected.tensors.get(name);
  if (!(entry?.data instanceof Float32Array))
    throw new Error(`expected.safetensors: expected an f32 tensor ${name}, got none`);
  return entry.data;
};
const integers = (name: string): number[] =>
  Array.from((expected.tensors.get(name)?.data ?? []) as BigInt64Array, Number);

function relativeError(actual: ArrayLike<number>, reference: ArrayLike<number>): number {
  let difference = 0,
    norm = 0;
  for (let i = 0; i < reference.length; i++) {
    difference += (actual[i] - reference[i]) ** 2;
    norm += reference[i] ** 2;
  }
  return actual.length === reference.length ? Math.sqrt(difference / Math.max(norm, 1e-30)) : Infinity;
}

let largest = 0;
/** Compares values with those of PyTorch and prints the error; with `quiet` only a notable error. */
function compare(name: string, actual: ArrayLike<number>, quiet = false): void {
  const error = relativeError(actual, floats(name));
  largest = Math.max(largest, Number.isNaN(error) ? Infinity : error);
  if (!quiet || error > NOTABLE_ERROR) console.log(`${name.padEnd(44)} ${error.toExponential(2)}`);
}

const [, height, width] = expected.tensors.get('images.0')!.shape;
const image = { data: channelsLast(floats('images.0'), [1, 3, height, width]), width, height };
const target = { labels: integers('targets.0.labels'), boxes: floats('targets.0.boxes') };
const config = { ...PAPER_R50, gradientCheckpointing: options.checkpointing };

const device = await openDevice();
console.log(
  `${device.info.description}, image ${height} x ${width}${options.checkpointing ? ', gradient checkpointing' : ''}`,
);
const model = await loadModel();

if (options.time === undefined) {
  await compareForward();
  const [found] = await model.detect([image]);
  compareDetections(found);
  if (expected.tensors.has('loss.total')) await compareStep();
  console.log(`largest relative L2 error ${largest.toExponential(2)}; ${processPeak()}`);
} else {
  await compareTimes(options.time, roundsAsked);
}
device.destroy();

async function loadModel(): Promise<DynamicSparseRCNN> {
  const loading = new DynamicSparseRCNN(device, config);
  const file = await readCheckpoint(readBytes(join(folder, 'checkpoint.pth')), 'checkpoint.pth');
  const { loaded, table } = mapNames(
    file.tensors,
    new Map([...loading.tensors()].map((entry) => [entry.name, storedShape(entry)])),
  );
  console.log(
    `${file.format}: ${table.loaded.length} tensors loaded, ${table.missing.length} missing, ` +
      `${table.unexpected.length} unexpected, ${table.reshaped.length} of another shape`,
  );
  loading.load(loaded);
  return loading;
}

/** Compares features, and logits and boxes of all stages. */
async function compareForward(): Promise<void> {
  device.resetPeak();
  const { pyramid, stages } = device.noGrad(() =>
    device.scope(() => {
      const run = model.forward([image]);
      for (const tensor of [...run.pyramid, ...run.stages.flatMap(({ logits, boxes }) => [logits, boxes])])
        device.keep(tensor);
      return run;
    }),
  );
  for (const [i, feature] of pyramid.entries())
    compare(`features.p${i + 2}`, channelsFirst(await feature.read(), feature.shape));
  for (const [s, { logits, boxes }] of stages.entries()) {
    compare(`stage${s}.logits`, await logits.read());
    compare(`stage${s}.boxes`, await boxes.read());
  }
  for (const tensor of [...pyramid, ...stages.flatMap(({ logits, boxes }) => [logits, boxes])]) tensor.dispose();
  console.log(`forward: device peak ${megabytes(device.memory().peakBytes)}`);
}

/** Compares the loss, the matches and all gradients. */
async function compareStep(): Promise<void> {
  device.resetPeak();
  const { total, matched } = device.scope(() => {
    const losses = criterion(model.forward([image]).stages, uploadTargets(device, [target], [[width, height]]), config);
    backward(losses.total);
    return { total: device.keep(losses.total), matched: device.keep(losses.matched) };
  });
  compare('loss.total', [await total.item()]);
  compareMatches(await matched.read());
  let gradients = 0;
  for (const parameter of model.trainable()) {
    const { grad } = parameter.tensor;
    if (!grad) throw new Error(`${parameter.name}: expected a gradient, got none`);
    const { data } = toStored(parameter, (await grad.read()) as Float32Array<ArrayBuffer>);
    compare(`grads.${parameter.name}`, data, true);
    gradients++;
  }
  console.log(
    `${gradients} gradients compared (errors above 1e-3 are listed); ` +
      `step: device peak ${megabytes(device.memory().peakBytes)}`,
  );
}

/** Counts proposals whose object differs from PyTorch's. `assigned` has the object of each proposal, for each stage. */
function compareMatches(assigned: ArrayLike<number>): void {
  let differing = 0;
  for (let s = 0; s < config.numStages; s++) {
    const pairs = integers(`stage${s}.match.0`);
    const reference = new Array<number>(config.numProposals).fill(-1);
    for (let i = 0; i < pairs.length / 2; i++) reference[pairs[i]] = pairs[pairs.length / 2 + i];
    reference.forEach((value, n) => {
      if (value !== assigned[s * config.numProposals + n]) differing++;
    });
  }
  console.log(`matches that differ: ${differing} of ${config.numStages * config.numProposals}`);
}

/** Counts detections of score >= 0.01 that match one to one: the same class, box and score. */
function compareDetections({
  scores,
  labels,
  boxes,
}: {
  scores: ArrayLike<number>;
  labels: ArrayLike<number>;
  boxes: Float32Array;
}): void {
  const reference = {
    scores: floats('detect.0.scores'),
    labels: integers('detect.0.labels'),
    boxes: floats('detect.0.boxes'),
  };
  const count = reference.scores.findIndex((score) => score < 0.01);
  const shown = count < 0 ? reference.scores.length : count;
  const used = new Set<number>();
  let matchedCount = 0;
  for (let i = 0; i < shown; i++) {
    for (let j = 0; j < scores.length; j++) {
      const same =
        !used.has(j) &&
        labels[j] === reference.labels[i] &&
        Math.abs(scores[j] - reference.scores[i]) < 1e-3 &&
        [0, 1, 2, 3].every((k) => Math.abs(boxes[4 * j + k] - reference.boxes[4 * i + k]) < 0.5);
      if (!same) continue;
      used.add(j);
      matchedCount++;
      break;
    }
  }
  console.log(`detections with score >= 0.01: ${matchedCount} of ${shown} matched one to one`);
}

/** Times our runs and PyTorch's in turn. */
async function compareTimes(mode: 'forward' | 'step', rounds: number): Promise<void> {
  const script = new URL('full_size.py', import.meta.url).pathname;
  const torch = spawn(options.python, [script, 'time', folder, '--size', `${height}x${width}`, '--mode', mode], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...KEEPS_MEMORY },
  });
  const lines = createInterface({ input: torch.stdout })[Symbol.asyncIterator]();
  await lines.next();
  const optimizer = mode === 'step' ? new AdamW(model.trainable(), { weightDecay: 1e-4 }) : null;
  const ours = async (): Promise<number> => {
    const start = performance.now();
    if (optimizer) {
      device.scope(() => {
        backward(model.loss([image], [target], 1).total);
        optimizer.step({ learningRate: 1e-8, maxGradientNorm: 1 });
        optimizer.zeroGrad();
      });
    } else
      device.noGrad(() =>
        device.scope(() => {
          model.forward([image]);
        }),
      );
    await device.synchronize();
    return performance.now() - start;
  };
  const theirs = async (): Promise<number> => {
    torch.stdin.write('\n');
    return Number((await lines.next()).value);
  };
  await ours();
  await theirs();
  const pairs: [number, number][] = [];
  for (let round = 0; round < rounds; round++) {
    pairs.push([await ours(), await theirs()]);
    console.log(`round ${round + 1}: ours ${pairs[round][0].toFixed(0)} ms, PyTorch ${pairs[round][1].toFixed(0)} ms`);
  }
  torch.stdin.end();
  console.log(
    `${mode}: ours ${median(pairs.map(([a]) => a)).toFixed(0)} ms, ` +
      `PyTorch ${median(pairs.map(([, b]) => b)).toFixed(0)} ms, ` +
      `ratio ${median(pairs.map(([a, b]) => a / b)).toFixed(2)}; ` +
      `device peak ${megabytes(device.memory().peakBytes)}, ${processPeak()}`,
  );
}
