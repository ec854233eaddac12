/** The `pretrain` command: trains on formula images, and writes the weights that other trainings start from. */
import { existsSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { openDevice } from '../../engine/node/index.ts';
import { holdsRun, readRunDescription, runFiles, type RunFiles } from '../checkpoints/run-folder.ts';
import { InputError } from '../core/errors.ts';
import type { RunConfig } from '../core/recipe.ts';
import { writeStartingWeights } from '../checkpoints/starting-weights.ts';
import { loadConfig } from '../data/config-file.ts';
import { FORMULA_CLASSES, FORMULA_VERSION } from '../data/formula-classes.ts';
import { formulaDataset } from '../data/formula-images.ts';
import { deviceLine } from '../output/device-line.ts';
import { integerOption, parseArguments } from './arguments.ts';
import { onInterrupt } from './interrupt.ts';
import { TrainingRun, type RunPlan } from './training-run.ts';

const HELP = `pretrain: trains on images made by formula, without any photograph

  npm run pretrain -- [options]

  --iterations N   number of optimizer steps (default: 9000)
  --out DIR        the run's folder (default: runs/pretrain)
  --resume DIR     continue the run in DIR
  --set KEY=VALUE  change one key of the configuration; may be repeated
  --help           print this text

  The images are drawn while the training runs; they take no disk space, and none occurs twice.
  train --weights DIR/starting-weights.safetensors starts from the result.
`;

const OPTIONS = {
  iterations: { type: 'string' },
  out: { type: 'string' },
  resume: { type: 'string' },
  set: { type: 'string', multiple: true },
  help: { type: 'boolean' },
} as const;

/** Side of the images, pixels. */
const SIZE = 128;
const VAL_IMAGES = 200;

/** The settings in which pretraining differs from the preset `small`. */
const RECIPE: readonly string[] = [
  `model.numClasses=${FORMULA_CLASSES}`,
  'model.numProposals=49',
  // A fixed number of positives per object learns faster from random weights than the dynamic number.
  'model.otaK=3',
  'model.unitIncreasing=false',
  'training.iterations=9000',
  'training.batchSize=8',
  'training.learningRate=7e-4',
  'training.warmupIterations=200',
  'training.schedule=cosine',
  'training.emaDecay=0.998',
  `training.augmentation.shortSides=[${SIZE}]`,
  `training.augmentation.maxSize=${SIZE}`,
  `training.evaluationResize.shortSide=${SIZE}`,
  `training.evaluationResize.maxSize=${SIZE}`,
  'training.evaluateEvery=1000',
  'training.saveEvery=250',
];

const log = (line: string): void => console.log(line);

/**
 * Runs the subcommand.
 * @returns the exit code: 130 if a signal stopped it
 * @throws InputError on bad arguments or checkpoints
 */
export async function runPretrain(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('pretrain', argv, OPTIONS);
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const files = runFiles(resolve(values.resume ?? values.out ?? join('runs', 'pretrain')));
  const config = values.resume === undefined ? newConfig(values, files) : resumedConfig(values, files);
  const { training } = config;
  const dataset = formulaDataset({
    seed: training.seed,
    size: SIZE,
    trainImages: training.iterations * training.batchSize * training.accumulation,
    valImages: VAL_IMAGES,
  });
  const device = await openDevice();
  try {
    log(deviceLine(device));
    const plan: RunPlan = { files, config, dataset, records: dataset.splits.train };
    const run = new TrainingRun(device, plan, log, null);
    if (values.resume === undefined) run.begin(device.tuner.fingerprint);
    else run.resume();
    return await finishRun(run, plan);
  } finally {
    device.destroy();
  }
}

async function finishRun(run: TrainingRun, { files, config }: RunPlan): Promise<number> {
  const interrupt = onInterrupt('saving after this iteration');
  try {
    await run.train({ interrupt, traceFile: null, limit: null });
    if (!run.finished) {
      log(`stopped; continue with npm run pretrain -- --resume ${relative('.', files.folder)}`);
      return 130;
    }
    await run.finish();
    const weights = join(files.folder, 'starting-weights.safetensors');
    writeStartingWeights(weights, files.best, origin(config));
    log(`weights   ${relative('.', weights)}`);
    return 0;
  } finally {
    interrupt.release();
  }
}

/** How the weights were made, for their metadata. */
function origin({ training }: RunConfig): Record<string, unknown> {
  return {
    source: 'images made by formula: no photograph and no other data was used',
    generator: FORMULA_VERSION,
    seed: training.seed,
    images: training.iterations * training.batchSize * training.accumulation,
    command: `npm run pretrain -- --iterations ${training.iterations}`,
    license: 'MIT',
  };
}

interface Values {
  readonly iterations?: string;
  readonly set?: readonly string[];
  readonly out?: string;
}

function newConfig({ iterations, set = [] }: Values, files: RunFiles): RunConfig {
  if (holdsRun(files))
    throw new InputError(
      `pretrain: ${files.folder} already holds a run; continue it with --resume, or choose another --out`,
    );
  const own = [...RECIPE, ...set];
  if (iterations !== undefined)
    own.push(`training.iterations=${integerOption('pretrain', 'iterations', iterations, 1)}`);
  return loadConfig({ config: 'small', set: own }).config;
}

function resumedConfig(values: Values, files: RunFiles): RunConfig {
  for (const name of ['iterations', 'set', 'out'] as const)
    if (values[name] !== undefined)
      throw new InputError(
        `pretrain: --${name} does not go with --resume, which continues with the run's configuration`,
      );
  if (!existsSync(files.config))
    throw new InputError(`pretrain: --resume: expected a run in ${files.folder}, got none`);
  const { preset, model, training } = readRunDescription(files.config);
  return { preset, model, training };
}
