/**
 * A hundred training steps of the `tiny` preset, compared with PyTorch step by step. Initial weights, batches, order
 * and schedule are the same.
 *
 *   npm run loss-curve -- write /tmp/curve [--seeds 32] [--learning-rate 1e-4]
 *       writes a data set, and for each seed: initial weights, batches, and learning rate and temperature per step
 *   python3 bench/loss_curve.py /tmp/curve [--float64]
 *       trains in PyTorch (Debian's python3 with python3-torch, python3-torchvision, python3-scipy)
 *   npm run loss-curve -- train /tmp/curve [--missing]
 *       trains here; --missing: only seeds without a finished run
 *   npm run loss-curve -- compare /tmp/curve [--plot docs/loss-curve.svg]
 *
 * Our side is the `train` command that users run.
 *
 * Early training is chaotic. At the preset's learning rate a difference in the last bit grows about tenfold per step.
 * Within ten steps PyTorch's own float32 and float64 runs differ by some percent. This part of the difference says
 * nothing about either program. So the comparison uses the mean curves of several seeds, each with other weights, order
 * and flips. PyTorch's float64 runs, if they exist, show the difference that rounding alone causes.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { writeSafetensors, type Device, type SafetensorData } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { createDetector } from '../training/core/create-detector.ts';
import { ensureShapesDataset, openDataset, splitRecords } from '../training/data/index.ts';
import { createTrainingLoader } from '../training/data/loader.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { scheduledLearningRate, temperatureAt } from '../training/core/schedules.ts';
import { formatTable } from '../training/output/table.ts';
import { stackedPlots } from '../training/pictures/line-plot.ts';
import type { StepMetrics } from '../training/core/metrics-log.ts';
import { readMetrics } from '../training/output/metrics-files.ts';
import { runTrain } from '../training/commands/train.ts';

/** 100 iterations of 4 images: each image once. */
const DATA = { trainImages: 400, valImages: 4, imageSize: 96, seed: 0 };
const { model, training: PRESET } = presetConfig('tiny');
/** PyTorch's code has the paper's generator of expert weights. */
const EXPERT_INPUT = 'map';
const MODEL = { ...model, expertInput: EXPERT_INPUT } as const;

/** The settings that differ from the preset. */
interface CurveOptions {
  readonly seed: number;
  readonly learningRate: number;
}

/** The numbers of a step that both sides measure. Lists have one entry per stage. */
type CurveStep = Pick<StepMetrics, 'loss' | 'class_loss' | 'l1_loss' | 'giou_loss' | 'grad_norm' | 'positives'>;

/** The content of the files that loss_curve.py writes. */
export interface RecordedCurve extends CurveOptions {
  readonly torch: string;
  readonly precision: 'float32' | 'float64';
  /** The checksum of PyTorch's input, see PreparedRun. */
  readonly checksum: string;
  readonly steps: readonly CurveStep[];
}

/** PyTorch's input, apart from the files of weights and images. */
interface PreparedRun extends CurveOptions {
  /** SHA-256 of initial weights, images, boxes, labels, learning rates and temperatures. */
  readonly checksum: string;
  readonly model: typeof MODEL;
  readonly weightDecay: number;
  readonly clipNorm: number;
  readonly steps: readonly {
    readonly learningRate: number;
    readonly temperature: number;
    /** One entry per image; boxes are xyxy in pixels. */
    readonly targets: readonly { readonly labels: readonly number[]; readonly boxes: readonly number[] }[];
  }[];
}

/**
 * Collects the input of a PyTorch run. Generates the data set in `folder`/shapes if it is missing; writes nothing else.
 */
export async function prepare(
  device: Device,
  folder: string,
  options: CurveOptions,
): Promise<{ run: PreparedRun; weights: Uint8Array; images: Uint8Array }> {
  const dataset = await openDataset(await ensureShapesDataset(join(folder, 'shapes'), DATA));
  const training = { ...PRESET, ...options };
  const model = createDetector(device, MODEL, training.seed);
  const weights = writeSafetensors(await model.save());
  model.dispose();

  const { seed, batchSize, augmentation, iterations, learningRate, weightDecay, clipNorm } = training;
  const loader = createTrainingLoader({
    records: splitRecords(dataset, 'train'),
    batchSize,
    seed,
    augmentation,
    workers: 0,
  });
  const pixels = new Map<string, { shape: number[]; data: SafetensorData }>();
  const steps: PreparedRun['steps'][number][] = [];
  for (let iteration = 0; iteration < iterations; iteration++) {
    const batch = await loader.next();
    batch.images.forEach(({ data, width, height }, i) =>
      pixels.set(`images.${iteration}.${i}`, { shape: [height, width, 3], data: new Uint8Array(data) }),
    );
    const targets = batch.targets.map(({ labels, boxes }) => ({
      labels: Array.from(labels),
      boxes: Array.from(boxes),
    }));
    steps.push({
      learningRate: scheduledLearningRate(iteration, training),
      temperature: temperatureAt(iteration, training),
      targets,
    });
  }
  await loader.close();
  const images = writeSafetensors(pixels);
  const checksum = createHash('sha256').update(weights).update(images).update(JSON.stringify(steps)).digest('hex');
  return { run: { seed, learningRate, checksum, model: MODEL, weightDecay, clipNorm, steps }, weights, images };
}

/** Trains with the `train` command on `folder`/shapes. Replaces the run's folder `out`. */
export async function trainOurs(
  folder: string,
  out: string,
  { seed, learningRate }: CurveOptions,
): Promise<StepMetrics[]> {
  rmSync(out, { recursive: true, force: true });
  const code = await runTrain([
    '--data',
    join(folder, 'shapes'),
    '--config',
    'tiny',
    '--seed',
    `${seed}`,
    '--set',
    `learningRate=${learningRate}`,
    '--set',
    `expertInput=${EXPERT_INPUT}`,
    '--set',
    'drawImages=1',
    '--out',
    out,
  ]);
  if (code !== 0) throw new Error(`loss-curve: training: expected exit code 0, got ${code}`);
  return readMetrics(join(out, 'metrics.jsonl'));
}

/** |actual - expected| / |expected| for each step. Throws RangeError for lists of different lengths. */
export function relativeDifferences(actual: readonly number[], expected: readonly number[]): number[] {
  if (actual.length !== expected.length)
    throw new RangeError(`relativeDifferences: expected ${expected.length} steps, got ${actual.length}`);
  return actual.map((value, i) => Math.abs(value - expected[i]) / Math.abs(expected[i]));
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The losses of a run by step. */
export const lossesOf = (steps: readonly Pick<CurveStep, 'loss'>[]): number[] => steps.map(({ loss }) => loss);

/** The mean over the runs, for each step. */
const meanCurve = (runs: readonly (readonly number[])[]): number[] =>
  runs[0].map((_, i) => mean(runs.map((run) => run[i])));

const seedFolders = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => /^seed-\d+$/.test(name))
    .map((name) => join(folder, name));

const readRun = (folder: string): PreparedRun =>
  JSON.parse(readFileSync(join(folder, 'run.json'), 'utf8')) as PreparedRun;

function readCurve(file: string, { checksum }: PreparedRun): RecordedCurve {
  const curve = JSON.parse(readFileSync(file, 'utf8')) as RecordedCurve;
  if (curve.checksum !== checksum)
    throw new Error(
      `${file}: checksum: expected ${checksum}, got ${curve.checksum}: it was made with other weights or ` +
        'batches; run loss_curve.py again',
    );
  return curve;
}

async function write(folder: string, seeds: number, learningRate: number): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const device = await openDevice();
  for (let seed = PRESET.seed; seed < PRESET.seed + seeds; seed++) {
    const { run, weights, images } = await prepare(device, folder, { seed, learningRate });
    const into = join(folder, `seed-${String(seed).padStart(3, '0')}`);
    mkdirSync(into, { recursive: true });
    writeFileSync(join(into, 'weights.safetensors'), weights);
    writeFileSync(join(into, 'images.safetensors'), images);
    writeFileSync(join(into, 'run.json'), JSON.stringify(run));
    console.log(`${into}: ${run.steps.length} batches, checksum ${run.checksum}`);
  }
  device.destroy();
}

async function train(folder: string, missing: boolean): Promise<void> {
  for (const at of seedFolders(folder)) {
    const out = join(at, 'run');
    if (!missing || readMetrics(join(out, 'metrics.jsonl')).length < PRESET.iterations)
      await trainOurs(folder, out, readRun(at));
  }
}

const percent = (value: number): string => (100 * value).toPrecision(3);

/** Losses of all seeds by one program, compared with PyTorch in float32. */
interface Candidate {
  readonly name: string;
  /** The mean curve of the seeds. */
  readonly curve: readonly number[];
  /** Relative differences of the mean curves, for each step. */
  readonly ofMeans: readonly number[];
  /** The mean over seeds and steps of the relative difference of single runs. */
  readonly ofRuns: number;
  /** The relative difference of the mean of all losses. */
  readonly level: number;
}

function candidate(
  name: string,
  runs: readonly (readonly number[])[],
  single: readonly (readonly number[])[],
): Candidate {
  const curve = meanCurve(runs);
  const expected = meanCurve(single);
  return {
    name,
    curve,
    ofMeans: relativeDifferences(curve, expected),
    ofRuns: mean(runs.map((run, i) => mean(relativeDifferences(run, single[i])))),
    level: mean(curve) / mean(expected) - 1,
  };
}

function compare(folder: string, plot: string): void {
  const folders = seedFolders(folder);
  if (folders.length === 0)
    throw new Error(`${folder}: expected folders seed-N, got none: run the write command first`);
  const read = (file: string): number[][] =>
    folders.map((at) => lossesOf(readCurve(join(at, file), readRun(at)).steps));
  const single = read('float32.json');
  const double = folders.every((at) => existsSync(join(at, 'float64.json'))) ? read('float64.json') : null;
  const ours = folders.map((at) => lossesOf(readMetrics(join(at, 'run', 'metrics.jsonl'))));
  const candidates = [
    candidate('ours', ours, single),
    ...(double ? [candidate('PyTorch float64', double, single)] : []),
  ];
  const expected = meanCurve(single);
  const rows = expected.map((loss, i) => [
    i + 1,
    loss.toFixed(4),
    ...candidates.flatMap(({ curve, ofMeans }) => [curve[i].toFixed(4), percent(ofMeans[i])]),
  ]);
  console.log(
    formatTable(
      ['step', 'PyTorch', ...candidates.flatMap(({ name }) => [name, '%'])],
      rows.filter((_, i) => i < 10 || i % 10 === 9),
    ),
  );
  const { learningRate } = readRun(folders[0]);
  console.log(
    `${folders.length} seeds, learning rate ${learningRate}; compared with PyTorch float32, in percent of the loss:`,
  );
  console.log(
    formatTable(
      ['', 'mean curves, mean of steps', 'mean curves, largest', 'single runs, mean of steps', 'mean of all losses'],
      candidates.map(({ name, ofMeans, ofRuns, level }) => [
        name,
        percent(mean(ofMeans)),
        percent(Math.max(...ofMeans)),
        percent(ofRuns),
        percent(level),
      ]),
    ),
  );
  writeFileSync(plot, comparisonSvg(expected, candidates, folders.length));
  console.log(`drawn in ${plot}`);
}

/** Two plots: the mean losses of our runs and of PyTorch, and the differences of all candidates. */
function comparisonSvg(expected: readonly number[], candidates: readonly Candidate[], seeds: number): string {
  const points = (values: readonly number[]) => values.map((value, i) => [i + 1, value] as const);
  const averages = candidates.map(({ name, ofMeans }) => `${name} ${percent(mean(ofMeans))} %`).join(', ');
  return stackedPlots([
    {
      title: `tiny preset: loss, mean of ${seeds} seeds`,
      xLabel: 'step',
      yLabel: 'loss',
      height: 380,
      series: [
        { name: 'ours', points: points(candidates[0].curve) },
        { name: 'PyTorch float32', points: points(expected) },
      ],
    },
    {
      title: `difference from PyTorch float32, on average: ${averages}`,
      xLabel: 'step',
      yLabel: '% of the loss',
      height: 380,
      logY: true,
      series: candidates.map(({ name, ofMeans }) => ({ name, points: points(ofMeans.map((value) => 100 * value)) })),
    },
  ]);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const {
    values,
    positionals: [command, folder],
  } = parseArgs({
    options: {
      seeds: { type: 'string', default: '32' },
      'learning-rate': { type: 'string', default: `${PRESET.learningRate}` },
      plot: { type: 'string', default: 'docs/loss-curve.svg' },
      missing: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
    allowPositionals: true,
  });
  if (values.help || folder === undefined || !['write', 'train', 'compare'].includes(command)) {
    (values.help ? console.log : console.error)(
      'usage: npm run loss-curve -- write FOLDER [--seeds N] [--learning-rate X] | train FOLDER [--missing] | ' +
        'compare FOLDER [--plot FILE.svg]',
    );
    process.exit(values.help ? 0 : 2);
  }
  const [seeds, learningRate] = [Number(values.seeds), Number(values['learning-rate'])];
  if (!Number.isInteger(seeds) || seeds < 1 || !(learningRate > 0))
    throw new Error(
      'loss-curve: --seeds and --learning-rate: expected an integer >= 1 and a number > 0, ' +
        `got ${values.seeds} and ${values['learning-rate']}`,
    );
  if (command === 'write') await write(resolve(folder), seeds, learningRate);
  else if (command === 'train') await train(resolve(folder), values.missing);
  else compare(resolve(folder), values.plot);
}
