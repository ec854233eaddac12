/**
 * The `tune` command: measures which variants of the kernels are the fastest for the sizes of a configuration, on this
 * machine's adapter, and stores the choices.
 */
import { backward, TuningError, type Device, type TunedChoice, type TunedClass } from '../../engine/index.ts';
import { loadTuning, resetTuning, saveTuning, tuningFile } from '../../engine/node/tuning-file.ts';
import { createDetector } from '../core/create-detector.ts';
import { computeLosses } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import { PRESET_NAMES, type RunConfig } from '../core/recipe.ts';
import { TrainingStep } from '../core/step.ts';
import { largestSize, syntheticBatch } from '../core/synthetic-batch.ts';
import { loadConfig } from '../data/config-file.ts';
import { deviceLine } from '../output/device-line.ts';
import { formatDuration } from '../output/duration.ts';
import { formatTable } from '../output/table.ts';
import { TuningLine } from '../output/tuning-line.ts';
import { integerOption, parseArguments } from './arguments.ts';
import { openForInference } from './inference-device.ts';
import { onInterrupt } from './interrupt.ts';

const HELP = `tune: measures variants of kernels on this machine's adapter, and stores the fastest

  npm run tune -- [options]     run one inference and one training step on noise; measure each size that occurs
  npm run tune -- --list        print the choices stored for this adapter and driver
  npm run tune -- --reset       remove the choices stored for this adapter

  --preset P       a preset (${PRESET_NAMES.join(', ')}) or a JSON file,
                   such as a run's config.json; default small
  --size HxW       size of the images in pixels; may be repeated
                   (default: the size of the embedded data set for small and tiny,
                   otherwise the largest that the augmentation gives)
  --batch N        images per forward and backward pass
  --set KEY=VALUE  change one key of the configuration, as for npm run train; may be repeated
  --half           inference as in predict and evaluate with --half, with f16 and f32 variants;
                   the training step stays f32
  --help           print this text

The choices of all adapters are in ~/.cache/dynamic-sparse-rcnn-webgpu/tuning.json
($XDG_CACHE_HOME replaces ~/.cache).
DSRCNN_TUNING=FILE names another file; DSRCNN_TUNING=off uses no choices.
The results of every variant are compared with those of the plainest variant before it is timed.
Variants that are wrong on this adapter are excluded and listed.
Other choices round differently: a seed gives the same bits only with the same choices
(npm run train prints which choices it uses).
Ctrl-C stops after the current size and stores the choices so far.
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

/** Maximum side of an image in pixels. */
const MAX_SIDE = 16384;

const log = (line: string): void => console.log(line);

function parseSize(text: string): Size {
  const [, height, width] = /^(\d+)x(\d+)$/.exec(text) ?? [];
  const valid = [height, width].every((side) => Number(side) >= 1 && Number(side) <= MAX_SIDE);
  if (!valid)
    throw new InputError(`tune: --size: expected HEIGHTxWIDTH in pixels, e.g. 480x640, got ${JSON.stringify(text)}`);
  return { height: Number(height), width: Number(width) };
}

/** The default of --size. The presets small and tiny are made for the square images of the embedded data set. */
function defaultSize({ preset, training }: RunConfig): Size {
  if (training.augmentation.fixedSize || (preset !== 'small' && preset !== 'tiny')) return largestSize(training);
  const side = Math.max(...training.augmentation.shortSides);
  return { height: side, width: side };
}

const milliseconds = (ms: number): string => ms.toPrecision(3);

/** The table of choices, by descending time gained per run. */
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

/** Runs one training step and one inference, so that the device's tuner sees their shape classes. */
async function runOnce(device: Device, { model: config, training }: RunConfig, size: Size): Promise<void> {
  const detector = createDetector(device, config, training.seed);
  const step = new TrainingStep(device, detector, training);
  const { images, targets } = syntheticBatch(training, config.numClasses, size);
  device.scope(() => backward(computeLosses(detector, images, targets).total));
  step.optimizer.zeroGrad();
  // Evaluation detects on whole batches, prediction on single images.
  for (const count of new Set([images.length, 1])) await detector.detect(images.slice(0, count));
  await device.synchronize();
  step.dispose();
  detector.dispose();
}

/** A line for each variant that is wrong on this adapter, and for each shape class that was not measured. */
function excludedLines(results: readonly TunedClass[]): string[] {
  return results.flatMap(({ shapeClass, excluded, skipped }) => [
    ...excluded.map(({ variant, reason }) => `excluded  ${shapeClass}: ${variant}: ${reason}`),
    ...(skipped === null ? [] : [`skipped   ${shapeClass}: ${skipped}`]),
  ]);
}

type Values = ReturnType<typeof parse>;

const parse = (argv: readonly string[]) => parseArguments('tune', argv, OPTIONS).values;

/**
 * Runs the subcommand.
 * @returns the exit code: 130 if a signal stopped it
 * @throws InputError on bad arguments, configurations or tuning files
 */
export async function runTune(argv: readonly string[]): Promise<number> {
  const values = parse(argv);
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  for (const alone of ['list', 'reset'] as const) {
    const other = (Object.keys(values) as (keyof Values)[]).find((name) => name !== alone);
    if (values[alone] && other !== undefined) throw new InputError(`tune: --${alone} does not go with --${other}`);
  }
  const file = tuningFile();
  if (file === null)
    throw new InputError('tune: DSRCNN_TUNING=off says that no choices are used: unset it, or set it to a file');
  const sizes = values.size?.map(parseSize);
  const batch = values.batch === undefined ? null : integerOption('tune', 'batch', values.batch, 1);
  const { config } = loadConfig({
    config: values.preset ?? 'small',
    set: [...(values.set ?? []), ...(batch === null ? [] : [`training.batchSize=${batch}`])],
  });

  const device = await openForInference('tune', values.half ?? false, { tuning: 'off' });
  try {
    log(`${deviceLine(device)}${device.halfPrecision ? ', inference with --half' : ''}`);
    if (values.reset) return reset(device, file);
    const stored = loadTuning(device.tuner, file);
    if (values.list) return list(device, file, stored);
    await collect(device, { config, sizes: sizes ?? [defaultSize(config)], file, stored });
    return await measure(device, file);
  } catch (error) {
    throw error instanceof TuningError ? new InputError(error.message) : error;
  } finally {
    device.destroy();
  }
}

function reset({ tuner }: Device, file: string): number {
  const removed = resetTuning(tuner, file);
  log(`removed   ${removed} ${removed === 1 ? 'choice' : 'choices'} of this adapter from ${file}`);
  return 0;
}

function list({ tuner }: Device, file: string, stored: number): number {
  if (stored > 0) log(choicesTable(Object.entries(tuner.export().choices)));
  log(`stored    ${tuner.summary} in ${file}${stored > 0 ? '' : ': npm run tune makes them'}`);
  return 0;
}

interface TuningPlan {
  readonly config: RunConfig;
  readonly sizes: readonly Size[];
  /** The file of tuned choices, and the number of choices for this adapter in it. */
  readonly file: string;
  readonly stored: number;
}

/** Runs inference and training once for each size, and prints how many shape classes there are to tune. */
async function collect(device: Device, { config, sizes, file, stored }: TuningPlan): Promise<void> {
  const shown = sizes.map(({ height, width }) => `${height} x ${width}`).join(', ');
  log(`sizes     ${config.preset}, ${config.training.batchSize} x ${shown}: one inference and one training step`);
  for (const size of sizes) await runOnce(device, config, size);
  const { pending, stale } = device.tuner;
  const outdated = stale.length > 0 ? `, of which ${stale.length} had choices for kernels that have changed` : '';
  log(`classes   ${pending.length} to tune${outdated}; ${stored} choices in ${file}`);
}

/** Tunes the collected shape classes, prints and stores the choices; resolves to the exit code. */
async function measure({ tuner }: Device, file: string): Promise<number> {
  const stopping = new AbortController();
  const interrupt = onInterrupt('stopping after this size', () => stopping.abort());
  const line = new TuningLine();
  const start = performance.now();
  let results: readonly TunedClass[];
  try {
    results = await tuner.tune({ signal: stopping.signal, onProgress: (progress) => line.show(progress) });
  } finally {
    line.end();
    interrupt.release();
  }
  const chosen = results.flatMap(({ shapeClass, choice }) => (choice ? [[shapeClass, choice] as const] : []));
  if (chosen.length > 0) saveTuning(tuner, file);
  const changed = chosen.filter(([, { variant, expected }]) => variant !== expected);
  if (changed.length > 0) log(choicesTable(changed));
  for (const text of excludedLines(results)) log(text);
  log(
    `tuned     ${chosen.length} classes in ${formatDuration((performance.now() - start) / 1000)}: ${changed.length} ` +
      "as above, the cost model's choice for the others (npm run tune -- --list shows all)",
  );
  log(`stored    ${tuner.summary} in ${file}`);
  if (!stopping.signal.aborted) return 0;
  log(`stopped   ${tuner.pending.length} classes are left: run the same command again to continue`);
  return 130;
}
