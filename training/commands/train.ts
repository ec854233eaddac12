/** The `train` command: its arguments, help and output. `train-session.ts` does the work. */
import { existsSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import {
  backboneFor,
  configurationChoice,
  publicNames,
  publicWeightsNamed,
  trainingConfigOf,
  type PublicWeights,
} from '../checkpoints/public-weights.ts';
import { holdsRun, readRunDescription, runFiles, type RunDescription } from '../checkpoints/run-folder.ts';
import { startingWeightsFor } from '../checkpoints/starting-weights.ts';
import type { Choice } from '../core/choice.ts';
import { InputError } from '../core/errors.ts';
import {
  fitToData,
  listNames,
  sameClasses,
  type FitOptions,
  type Fitted,
  type LoadedConfig,
} from '../core/fit-to-data.ts';
import { isPresetName, PRESET_NAMES, type RunConfig } from '../core/recipe.ts';
import { loadConfig } from '../data/config-file.ts';
import {
  EMBEDDED_DATA,
  EMBEDDED_SIZE,
  ensureShapesDataset,
  FORMAT_KEYS,
  FORMAT_NAMES,
  splitRecords,
  splitWarnings,
  type Dataset,
} from '../data/index.ts';
import { describeChoices } from '../output/choices.ts';
import { durationOption, integerOption, optionalValue, parseArguments } from './arguments.ts';
import { dryRun } from './dry-run.ts';
import { openWithProgress } from './open-data.ts';
import { shortCheck, STRICT_HELP } from './survey.ts';
import { fileToWrite, PROFILED_STEPS, profileStart } from './profile.ts';
import type { TimeLimit } from './time-limit.ts';
import { trainSession } from './train-session.ts';
import { weightsFile } from './weights-option.ts';

/** The values of `--from`. */
const STARTS: readonly string[] = ['formula', 'scratch'];

/** The values of `--recipe`. */
const RECIPES: readonly string[] = ['own-data', 'preset'];

const HELP = `train: trains Dynamic Sparse R-CNN, evaluates it, saves it and draws its detections

  npm run train -- [options]

  --data DIR       a data set (${FORMAT_NAMES}). Without a val split, a part of the
                   training images becomes one
                   (default: the embedded data set, generated on first use)
  --format F       ${FORMAT_KEYS}; needed only if the folder fits several formats
  --config C       a preset (${PRESET_NAMES.join(', ')}) or a JSON file;
                   default small, or the one that fits the NAME of --weights.
                   The config.json of a run also names its data, which --data overrides
  --set KEY=VALUE  change one key of the configuration; may be repeated,
                   e.g. --set learningRate=1e-3 --set model.numProposals=64
  --iterations N   number of optimizer steps; the schedules stretch with it
  --time T         instead, a duration such as 10m, 90s or 1h30m, with evaluations and pictures: measures some
                   steps, then chooses the number of iterations
  --batch N        images per forward and backward pass. auto: measures the largest images on this device, and
                   chooses by memory and speed
  --seed N         seed of the initial weights, the order of the images and their augmentation
  --out DIR        the run's folder (default: runs/<date and time>)
  --resume DIR     continue the run in DIR from its last checkpoint; --data only if the data has moved
  --from WHICH     what a training on --data starts from: ${STARTS.join(' or ')} (random weights).
                   Default: formula, the starting weights in the repository, learned from images made by formula
  --recipe WHICH   ${RECIPES.join(' or ')}: whether length, learning rate, augmentation and more follow from the data.
                   Default with --data: own-data, for the preset small
  --weights FILE   start from the tensors of this file that fit: safetensors, PyTorch (.pth, .pt) or Detectron2 (.pkl).
                   Names can be those of this project, Detectron2, torchvision, timm or mmdetection.
                   A table shows what was loaded; DIR/weights.json has all names
  --weights NAME   the same for public weights, downloaded once:
                   ${publicNames('backbone')} (ImageNet),
                   ${publicNames('detector')} (COCO)
  --partial        accept --weights of which less than half fits
  ${STRICT_HELP}
  --dry-run        print parameters, memory, FLOPs by part and the seconds of one measured step, then stop.
                   The batch is the largest that the augmentation gives;
                   choose another with --set augmentation.fixedSize=[HEIGHT,WIDTH]
  --profile [FILE] measure ${PROFILED_STEPS} steps (the first ones warm up), then train on.
                   Prints the time of each kernel, and how long the device waits for JavaScript.
                   Writes a trace for ui.perfetto.dev (default: trace.json in the run's folder)
  --help           print this text
`;

const OPTIONS = {
  data: { type: 'string' },
  format: { type: 'string' },
  config: { type: 'string' },
  set: { type: 'string', multiple: true },
  iterations: { type: 'string' },
  time: { type: 'string' },
  batch: { type: 'string' },
  seed: { type: 'string' },
  out: { type: 'string' },
  resume: { type: 'string' },
  from: { type: 'string' },
  recipe: { type: 'string' },
  weights: { type: 'string' },
  partial: { type: 'boolean' },
  'dry-run': { type: 'boolean' },
  strict: { type: 'boolean' },
  profile: { type: 'string' },
  help: { type: 'boolean' },
} as const;

/** The value of `--batch` that measures batches. */
const AUTO = 'auto';

/** The value that stands for `--profile` without FILE. */
const IN_RUN_FOLDER = '<run>/trace.json';

type Values = ReturnType<typeof parse>;

/** A run starts from a loaded configuration, or it continues an earlier run. */
type Source =
  | { readonly earlier: RunDescription; readonly loaded: null }
  | { readonly earlier: null; readonly loaded: LoadedConfig };

const parse = (argv: readonly string[]) =>
  parseArguments('train', optionalValue(argv, 'profile', IN_RUN_FOLDER), OPTIONS).values;

const log = (line: string): void => console.log(line);

/**
 * Runs the subcommand.
 * @returns the exit code: 130 if a signal stopped it
 * @throws InputError on bad arguments, configurations, data or checkpoints
 */
export async function runTrain(argv: readonly string[]): Promise<number> {
  const startedAt = performance.now();
  const values = parse(argv);
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const files = runFiles(resolve(values.resume ?? values.out ?? join('runs', timestamp())));
  const givenTrace =
    values.profile === undefined || values.profile === IN_RUN_FOLDER ? null : fileToWrite(values.profile);
  checkOptions(values, holdsRun(files) ? files.folder : null);
  const seconds = values.time === undefined ? null : durationOption('train', 'time', values.time);
  const named = values.weights === undefined ? null : publicWeightsNamed(values.weights);
  const source: Source =
    values.resume === undefined
      ? { earlier: null, loaded: readConfiguration(values, named) }
      : { earlier: readRunDescription(files.config), loaded: null };
  const { earlier } = source;
  if (values['dry-run'] && source.loaded) return await runDryRun(values, source);

  const start = chooseStart(values, source);
  const dataset = await openData(values, source);
  const records = splitRecords(dataset, 'train');
  const { config, choices, notes } = configureRun(source, dataset, fitOptions(values, source, start));
  if (earlier) requireSameClasses(earlier, dataset, files.folder);
  // Checked before the run's folder is made.
  if (values.profile !== undefined && !earlier) profileStart(0, config.training);
  describeData(dataset, notes);
  const forWeights = named && values.config === undefined ? [configurationChoice(named, trainingConfigOf(named))] : [];
  // The session chooses these numbers again.
  const rechosen = [...(seconds === null ? [] : ['--iterations']), ...(values.batch === AUTO ? ['--batch'] : [])];
  const lasting = choices.filter(({ key }) => !rechosen.some((option) => key.startsWith(option)));
  for (const line of describeChoices([...forWeights, ...start.choices, ...lasting])) log(line);
  const file = values.weights === undefined ? start.file : (await weightsFile(values.weights, named)).path;
  const pretrained = file === null ? null : { file, partial: values.partial ?? false };

  return await trainSession({
    plan: { files, config, dataset, records },
    earlier,
    pretrained,
    traceFile: values.profile === undefined ? null : (givenTrace ?? relative('.', files.trace)),
    limit: seconds === null ? null : { seconds, startedAt, ...givenLengths(source, config) },
    autoBatch: values.batch === AUTO,
    givenRate: source.loaded?.given.has('training.learningRate') ?? true,
  });
}

/** What the user gave of the lengths that `--time` chooses. */
function givenLengths({ loaded }: Source, { training }: RunConfig): Pick<TimeLimit, 'evaluateEvery' | 'givenWarmup'> {
  const given = (key: 'evaluateEvery' | 'warmupIterations'): boolean => loaded?.given.has(`training.${key}`) ?? false;
  return {
    evaluateEvery: given('evaluateEvery') ? training.evaluateEvery : null,
    givenWarmup: given('warmupIterations'),
  };
}

/** Throws InputError if options contradict each other, or if a new run would overwrite the one in `occupied`. */
function checkOptions(values: Values, occupied: string | null): void {
  if (values.resume !== undefined) {
    for (const name of [
      'config',
      'set',
      'iterations',
      'time',
      'batch',
      'seed',
      'out',
      'from',
      'recipe',
      'weights',
      'partial',
    ] as const) {
      if (values[name] !== undefined)
        throw new InputError(
          `train: --${name} does not go with --resume, which continues the run with its own configuration`,
        );
    }
    if (values['dry-run'])
      throw new InputError(
        'train: --dry-run does not go with --resume: give the configuration with --config and --set',
      );
  } else if (occupied !== null)
    throw new InputError(
      `train: ${occupied} already holds a run; continue it with --resume ${values.out}, or choose another --out`,
    );
  if (values.from !== undefined && !STARTS.includes(values.from))
    throw new InputError(`train: --from: expected ${STARTS.join(' or ')}, got ${values.from}`);
  if (values.recipe !== undefined && !RECIPES.includes(values.recipe))
    throw new InputError(`train: --recipe: expected ${RECIPES.join(' or ')}, got ${values.recipe}`);
  if (values.from === 'formula' && values.weights !== undefined)
    throw new InputError('train: --from formula does not go with --weights: both name the weights to start from');
  if (values.partial && values.weights === undefined)
    throw new InputError('train: --partial: expected with --weights only');
  if (values.time !== undefined && values.iterations !== undefined)
    throw new InputError('train: --time does not go with --iterations: it chooses their number');
  if (!values['dry-run']) return;
  if (values.time !== undefined)
    throw new InputError('train: --dry-run does not go with --time, which measures a training');
  if (values.batch === AUTO)
    throw new InputError(`train: --batch ${AUTO} does not go with --dry-run, which measures one batch`);
  if (values.weights !== undefined)
    throw new InputError('train: --dry-run does not go with --weights: their values do not change what it measures');
  if (values.profile !== undefined)
    throw new InputError('train: --dry-run does not go with --profile, which measures steps of a training');
  if (values.out !== undefined) throw new InputError('train: --dry-run does not go with --out: it writes nothing');
}

/** @param named the public weights to start from; their configuration is the default */
function readConfiguration(values: Values, named: PublicWeights | null): LoadedConfig {
  const keys = { iterations: ['iterations', 1], batch: ['batchSize', 1], seed: ['seed', 0] } as const;
  const source = named && values.config === undefined ? trainingConfigOf(named) : { config: 'small', set: [] };
  const set = [...source.set, ...(values.set ?? [])];
  for (const option of ['iterations', 'batch', 'seed'] as const) {
    const [key, minimum] = keys[option];
    const text = values[option];
    if (text !== undefined && !(option === 'batch' && text === AUTO))
      set.push(`training.${key}=${integerOption('train', option, text, minimum)}`);
  }
  return loadConfig({ config: values.config ?? source.config, set });
}

async function runDryRun(values: Values, source: Source & { readonly loaded: LoadedConfig }): Promise<number> {
  const { loaded } = source;
  const data = values.data ?? loaded.data;
  if (data === null) return dryRun(loaded.config, [{ width: EMBEDDED_SIZE, height: EMBEDDED_SIZE }]);
  const { splits, classNames } = await openWithProgress(data, { splits: ['train'], format: values.format });
  const options = fitOptions(values, source, chooseStart(values, source));
  return dryRun(fitToData(loaded, splits.train, classNames, options).config, splits.train);
}

/** Opens the data set and prints its warnings. If none is named, the embedded data set is generated. */
async function openData(values: Values, { earlier, loaded }: Source): Promise<Dataset> {
  if (earlier && values.data === undefined && !existsSync(earlier.data))
    throw new InputError(
      `train: ${earlier.data}, the data of the run in ${values.resume}, is missing; ` +
        'give its new place with --data DIR',
    );
  const named = values.data ?? earlier?.data ?? loaded?.data;
  const folder = resolve(named ?? (await ensureShapesDataset(EMBEDDED_DATA, { log })));
  const { evaluationResize: resize } = (earlier ?? loaded.config).training;
  const opened = await openWithTest(folder, values.format);
  // The embedded data set is known to be right.
  const dataset =
    named === undefined ? opened : await shortCheck(opened, { resize, strict: values.strict ?? false, log });
  for (const warning of splitWarnings(dataset, 'train', 'val')) log(`warning: ${warning}`);
  return dataset;
}

/** Opens the splits for training, and the test split if there is one. A bad test split does not prevent a training. */
async function openWithTest(folder: string, format: string | undefined): Promise<Dataset> {
  const splits = ['train', 'val'];
  try {
    return await openWithProgress(folder, { splits, optional: ['test'], format });
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    const dataset = await openWithProgress(folder, { splits, format });
    log(`warning: the test split is not evaluated: ${error.message}`);
    return dataset;
  }
}

/** The starting weights of a training; `file` is null for random weights and for weights of `--weights`. */
interface Start {
  readonly file: string | null;
  readonly choices: readonly Choice[];
}

const FROM_OPTION = '--from scratch, --weights FILE';

/**
 * A training on own data starts from the starting weights that fit the model. The embedded data set shows a training
 * from random weights.
 */
function chooseStart(values: Values, { loaded }: Source): Start {
  const none: Start = { file: null, choices: [] };
  if (!loaded || values.weights !== undefined || values.from === 'scratch') return none;
  if (values.from === undefined && (values.data ?? loaded.data ?? null) === null) return none;
  const { preset, model } = loaded.config;
  const weights = startingWeightsFor(preset, model);
  if (weights.file !== null)
    return {
      file: weights.file,
      choices: [{ value: 'starting weights', reason: 'learned from images made by formula', key: FROM_OPTION }],
    };
  if (values.from === 'formula') throw new InputError(`train: --from formula: ${weights.reason}`);
  const fits = model.norm === 'frozen_bn' ? backboneFor(model) : null;
  const advice = fits && `; its batch norms are frozen, which needs pretrained weights: --weights ${fits.name}`;
  const reason = `${weights.reason}${advice ?? ''}`;
  return { file: null, choices: [{ value: 'random weights', reason, key: FROM_OPTION }] };
}

/** Data that the user names gets the recipe for own data. A configuration file has its own recipe. */
function fitOptions(values: Values, { loaded }: Source, { file }: Start): FitOptions {
  const recipe = values.recipe ?? (values.data === undefined ? 'preset' : 'own-data');
  const isOwn = recipe === 'own-data' && loaded !== null && isPresetName(values.config ?? 'small');
  return { own: isOwn ? { pretrained: file !== null || values.weights !== undefined } : null };
}

/** The configuration of the earlier run, or the loaded one fitted to the data. */
function configureRun({ earlier, loaded }: Source, dataset: Dataset, options: FitOptions): Fitted {
  if (loaded) return fitToData(loaded, splitRecords(dataset, 'train'), dataset.classNames, options);
  // A run's description has more fields, which the metadata of weights must not have.
  const { preset, model, training } = earlier;
  return { config: { preset, model, training }, choices: [], notes: [] };
}

function requireSameClasses(earlier: RunDescription, { root, classNames }: Dataset, folder: string): void {
  if (sameClasses(earlier.classNames, classNames)) return;
  throw new InputError(
    `train: ${root}: expected the classes of the run in ${folder} (${earlier.classNames.join(', ')}), ` +
      `got ${classNames.join(', ')}`,
  );
}

function describeData(dataset: Dataset, notes: readonly string[]): void {
  const { root, classNames } = dataset;
  const counts = ['train', 'val'].map((split) => splitRecords(dataset, split).length);
  const test = dataset.splits.test ? `, ${dataset.splits.test.length} test images` : '';
  log(
    `data      ${root}: ${counts[0]} training and ${counts[1]} validation images${test}, ` +
      `${classNames.length} classes (${listNames(classNames)})`,
  );
  log(`format    ${dataset.recognized}`);
  for (const note of [...dataset.notes, ...notes]) log(`note      ${note}`);
}

function timestamp(): string {
  return new Date().toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '');
}
