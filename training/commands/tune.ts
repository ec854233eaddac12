/** The `tune` command: measures which variants of the kernels are the fastest for the sizes of a configuration, on this machine's adapter, and stores the choices. */
import {
  backward,
  TuningError,
  type Device,
  type TunedChoice,
  type TunedClass,
  type TuningProgress,
} from '../../engine/index.ts';
import { loadTuning, resetTuning, saveTuning, tuningFile } from '../../engine/node/tuning-file.ts';
import { createDetector } from '../core/create-detector.ts';
import { computeLosses } from '../core/detector.ts';
import { integerOption, parseArguments } from './arguments.ts';
import { largestSize, syntheticBatch, type ImageSize } from './dry-run.ts';
import { InputError } from '../core/errors.ts';
import { openForInference } from './inference-device.ts';
import { loadConfig } from '../data/config-file.ts';
import { PRESET_NAMES, type RunConfig } from '../core/recipe.ts';
import { formatDuration } from '../output/duration.ts';
import { formatTable } from '../output/table.ts';
import { TrainingStep } from '../core/step.ts';

const HELP = `tune: measures variants of kernels on this machine's adapter, and keeps the fastest for training and prediction

  npm run tune -- [options]     one inference and one training step on noise say which sizes occur; each is measured once
  npm run tune -- --list        the choices stored for this adapter and driver
  npm run tune -- --reset       removes those stored for this adapter

  --preset P       a preset (${PRESET_NAMES.join(', ')}) or a JSON file, e.g. a run's config.json; default small
  --size HxW       of the images, in pixels; may be repeated (default: the embedded data set's for small and tiny, otherwise the largest that the augmentation gives)
  --batch N        images of a forward and backward pass
  --set KEY=VALUE  changes one key of the configuration, as for npm run train; may be repeated
  --half           inference as predict and evaluate with --half do it, f16 and f32 beside each other; the training step is f32 as ever
  --help           this text

The choices lie in tuning.json below $XDG_CACHE_HOME or ~/.cache, for several adapters; DSRCNN_TUNING=FILE names another file, DSRCNN_TUNING=off uses none.
Every variant is held against the plainest one before it is timed: what is wrong on this adapter is left out, and named. Other choices round differently: the same
seed gives the same bits only with the same choices (npm run train says which it uses). Ctrl-C stops after the size at hand and stores what there is.
`;

const OPTIONS = {
  preset: { type: 'string' },
  size: { type: 'string', multiple: true },
  batch: { type: 'string' },
  set: { type: 'string', multiple: true },
  half: { type: 'boolean' },
  list: { type: 'boolean' },
  reset: { type: 'boolean' },
  help: { type: 'boolean' },
} as const;

function parseSize(text: string): ImageSize {
  const [, height, width] = /^(\d+)x(\d+)$/.exec(text) ?? [];
  if (!(Number(height) >= 1 && Number(width) >= 1 && Number(height) <= 16384 && Number(width) <= 16384))
    throw new InputError(`tune: --size: expected HEIGHTxWIDTH in pixels, e.g. 480x640, got ${JSON.stringify(text)}`);
  return { height: Number(height), width: Number(width) };
}

/** The embedded data set's images, which small and tiny are made for, are square. */
function defaultSize({ preset, training }: RunConfig): ImageSize {
  if (training.augmentation.fixedSize || (preset !== 'small' && preset !== 'tiny')) return largestSize(training);
  const side = Math.max(...training.augmentation.shortSides);
  return { height: side, width: side };
}

const milliseconds = (ms: number): string => ms.toPrecision(3);

/** By falling gain a run. */
function choicesTable(choices: readonly (readonly [shapeClass: string, choice: TunedChoice])[]): string {
  const gained = ({ ms, expectedMs }: TunedChoice): number => (expectedMs === null ? 0 : expectedMs - ms);
  const rows = [...choices]
    .sort(([, a], [, b]) => gained(b) - gained(a))
    .map(([shapeClass, choice]) => {
      const { variant, expected, ms, expectedMs } = choice;
      return [
        shapeClass,
        variant,
        variant === expected ? 'the same' : expected,
        milliseconds(ms),
        expectedMs === null ? 'excluded' : milliseconds(expectedMs),
        expectedMs === null ? '-' : `${((100 * gained(choice)) / expectedMs).toFixed(0)}%`,
      ];
    });
  return formatTable(['shape class', 'chosen', "cost model's choice", 'ms', 'its ms', 'gain'], rows);
}

/** What a class is waiting for to be printed: on a terminal one line that is overwritten, elsewhere a line about every five seconds. */
class TuningLine {
  private readonly start = performance.now();
  private told = -Infinity;

  show({ done, total, latest: { shapeClass, choice, skipped } }: TuningProgress): void {
    const now = performance.now();
    const { isTTY, columns } = process.stdout;
    if (now - this.told < (isTTY ? 100 : 5000) && done < total) return;
    this.told = now;
    const left = ((now - this.start) / 1000 / done) * (total - done);
    const line = `${String(done).padStart(String(total).length)}/${total}  ${formatDuration(left)} left  ${shapeClass}: ${choice?.variant ?? skipped}`;
    process.stdout.write(isTTY ? `\r\x1b[K${line.slice(0, (columns || 80) - 1)}` : `${line}\n`);
  }

  end(): void {
    if (process.stdout.isTTY && this.told > 0) process.stdout.write('\n');
  }
}

/** Runs what training and prediction run, once, so that the device's tuner has seen their shape classes. */
async function runOnce(device: Device, { model: config, training }: RunConfig, size: ImageSize): Promise<void> {
  const detector = createDetector(device, config, training.seed);
  const step = new TrainingStep(device, detector, training);
  const { images, targets } = syntheticBatch(training, config.numClasses, size);
  device.scope(() => backward(computeLosses(detector, images, targets).total));
  step.optimizer.zeroGrad();
  // As evaluation does, and as prediction, image by image.
  for (const count of new Set([images.length, 1])) await detector.detect(images.slice(0, count));
  await device.synchronize();
  step.dispose();
  detector.dispose();
}

function excludedLines(results: readonly TunedClass[]): string[] {
  return results.flatMap(({ shapeClass, excluded, skipped }) => [
    ...excluded.map(({ variant, reason }) => `excluded  ${shapeClass}: ${variant}: ${reason}`),
    ...(skipped === null ? [] : [`skipped   ${shapeClass}: ${skipped}`]),
  ]);
}

/** Runs the subcommand; resolves to the exit code: 130 where a signal stopped it. Throws InputError on bad arguments, configurations, or a file that cannot be understood. */
export async function runTune(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('tune', argv, OPTIONS);
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  for (const alone of ['list', 'reset'] as const) {
    const other = (Object.keys(values) as (keyof typeof values)[]).find((name) => name !== alone);
    if (values[alone] && other !== undefined) throw new InputError(`tune: --${alone} does not go with --${other}`);
  }
  const file = tuningFile();
  if (file === null)
    throw new InputError('tune: DSRCNN_TUNING=off says that no choices are to be used: unset it, or name a file by it');
  const sizes = values.size?.map(parseSize);
  const { config } = loadConfig({
    config: values.preset ?? 'small',
    set: [
      ...(values.set ?? []),
      ...(values.batch === undefined ? [] : [`training.batchSize=${integerOption('tune', 'batch', values.batch, 1)}`]),
    ],
  });

  const device = await openForInference('tune', values.half ?? false, { tuning: 'off' });
  try {
    const { tuner } = device;
    const log = (line: string): void => console.log(line);
    log(
      `device    ${device.info.description || device.info.vendor}${device.subgroupSize > 0 ? `, subgroups of ${device.subgroupSize}` : ''}${device.halfPrecision ? ', inference with --half' : ''}`,
    );
    if (values.reset) {
      const removed = resetTuning(tuner, file);
      log(`removed   ${removed} ${removed === 1 ? 'choice' : 'choices'} of this adapter from ${file}`);
      return 0;
    }
    const stored = loadTuning(tuner, file);
    if (values.list) {
      if (stored > 0) log(choicesTable(Object.entries(tuner.export().choices)));
      log(`stored    ${tuner.summary} in ${file}${stored > 0 ? '' : ': npm run tune makes them'}`);
      return 0;
    }
    const wanted = sizes ?? [defaultSize(config)];
    log(
      `sizes     ${config.preset}, ${config.training.batchSize} x ${wanted.map(({ height, width }) => `${height} x ${width}`).join(', ')}: one inference and one training step`,
    );
    for (const size of wanted) await runOnce(device, config, size);
    log(
      `classes   ${tuner.pending.length} to tune${tuner.stale.length > 0 ? `, of which ${tuner.stale.length} had choices for kernels that have changed` : ''}; ${stored} choices in ${file}`,
    );
    return await measure(device, file);
  } catch (error) {
    throw error instanceof TuningError ? new InputError(error.message) : error;
  } finally {
    device.destroy();
  }
}

/** Tunes what the device has seen, prints and stores it; resolves to the exit code. */
async function measure({ tuner }: Device, file: string): Promise<number> {
  const stopping = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    process.stderr.write(`\n${signal}: stopping after this size; again to stop at once\n`);
    release();
    stopping.abort();
  };
  const release = (): void => {
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  const line = new TuningLine();
  const start = performance.now();
  let results: readonly TunedClass[];
  try {
    results = await tuner.tune({ signal: stopping.signal, onProgress: (progress) => line.show(progress) });
  } finally {
    line.end();
    release();
  }
  const chosen = results.flatMap(({ shapeClass, choice }) => (choice ? [[shapeClass, choice] as const] : []));
  if (chosen.length > 0) saveTuning(tuner, file);
  const changed = chosen.filter(([, { variant, expected }]) => variant !== expected);
  if (changed.length > 0) console.log(choicesTable(changed));
  for (const text of excludedLines(results)) console.log(text);
  console.log(
    `tuned     ${chosen.length} classes in ${formatDuration((performance.now() - start) / 1000)}: ${changed.length} as above, the cost model's choice for the others (npm run tune -- --list shows all)`,
  );
  console.log(`stored    ${tuner.summary} in ${file}`);
  if (!stopping.signal.aborted) return 0;
  console.log(`stopped   ${tuner.pending.length} classes are left: the same command goes on`);
  return 130;
}
