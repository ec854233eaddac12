/** The `train` command, top to bottom: configuration, data, device, model, optimiser, resume, then iteration by iteration. */
import { existsSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { ShapeError } from '../../engine/index.ts';
import { openDevice } from '../../engine/node/index.ts';
import { createDetector } from '../core/create-detector.ts';
import { integerOption, optionalValue, outputFolder, parseArguments } from './arguments.ts';
import {
  loadWeights,
  readCheckpoint,
  readWeightsFile,
  saveCheckpoint,
  saveWeights,
  type TrainingState,
  type WeightsDescription,
} from '../checkpoints/checkpoint.ts';
import { writeDetections } from '../evaluation/coco-files.ts';
import { asObject } from '../core/checks.ts';
import { readJson, writeFileAtomic } from '../data/files.ts';
import { openDataset, ensureShapesDataset, splitRecords, splitWarnings } from '../data/index.ts';
import { dryRun } from './dry-run.ts';
import { InputError } from '../core/errors.ts';
import { evaluateModel, evaluationReport } from '../evaluation/evaluate-model.ts';
import { createTrainingLoader } from '../data/loader.ts';
import { drawRun } from '../pictures/draw-run.ts';
import { fileToWrite, profileStart, PROFILED_STEPS, StepProfiler } from './profile.ts';
import { fitToData } from '../core/fit-to-data.ts';
import { loadConfig } from '../data/config-file.ts';
import { PRESET_NAMES, type RunConfig } from '../core/recipe.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import { metricsTable } from '../output/metrics-table.ts';
import { Progress } from '../output/progress.ts';
import { TrainingStep } from '../core/step.ts';
import { appendLine, keepLinesUntil } from '../output/metrics-files.ts';
import { MetricsLog } from '../core/metrics-log.ts';
import { trainLoop } from '../core/loop.ts';
import { formatDuration } from '../output/duration.ts';
import { loadPretrained } from '../checkpoints/weights.ts';

const HELP = `train: trains Dynamic Sparse R-CNN, evaluates it, saves it and draws its detections

  npm run train -- [options]

  --data DIR       a COCO or Pascal VOC data set with train and val splits (default: the embedded one, generated on first use)
  --config C       a preset (${PRESET_NAMES.join(', ')}) or a JSON file, e.g. a run's config.json,
                   whose data is then trained on unless --data names other; default small
  --set KEY=VALUE  changes one key of the configuration, e.g. --set learningRate=1e-3 --set model.numProposals=64; may be repeated
  --iterations N   optimiser steps; the schedules stretch with it
  --batch N        images of a forward and backward pass
  --seed N         of the initial weights, the order of the images and their augmentation
  --out DIR        the run's folder (default: runs/<date and time>)
  --resume DIR     continue the run in DIR exactly where its last checkpoint is; --data only if the data moved
  --weights FILE   start from what fits of these weights: safetensors, PyTorch's .pth or .pt, Detectron2's .pkl, with names as of this project, Detectron2,
                   torchvision, timm or mmdetection; a table says what fitted, all of it is in DIR/weights.json
  --partial        accept --weights of which less than half fits
  --dry-run        print parameters, memory, FLOPs by part and the seconds of one measured step of this configuration, and stop;
                   the batch is the largest that the augmentation gives (choose one by --set augmentation.fixedSize=[HEIGHT,WIDTH])
  --profile [FILE] measure ${PROFILED_STEPS} steps, of which the first warm up: print where the time goes, kernel by kernel, and how long the device waits for
                   JavaScript; write a trace (default: trace.json in the run's folder) for ui.perfetto.dev; then train on as without
  --help           this text
`;

/** Stands for a --profile without FILE. */
const BESIDE_RUN = '<run>/trace.json';

/** Where a run's data and classes come from; part of config.json. */
interface RunDescription extends RunConfig {
  readonly data: string;
  readonly classNames: readonly string[];
  readonly categoryIds: readonly number[];
  /** Names the tuned choices of kernels' variants that it began with (npm run tune): with others it rounds differently. */
  readonly tuning: string;
}

/** Runs the subcommand; resolves to the exit code: 130 where a signal stopped it. Throws InputError on bad arguments, configurations, data or checkpoints. */
export async function runTrain(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('train', optionalValue(argv, 'profile', BESIDE_RUN), {
    data: { type: 'string' },
    config: { type: 'string' },
    set: { type: 'string', multiple: true },
    iterations: { type: 'string' },
    batch: { type: 'string' },
    seed: { type: 'string' },
    out: { type: 'string' },
    resume: { type: 'string' },
    weights: { type: 'string' },
    partial: { type: 'boolean' },
    'dry-run': { type: 'boolean' },
    profile: { type: 'string' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }

  // Configuration and data.
  const traceFile = values.profile === undefined || values.profile === BESIDE_RUN ? null : fileToWrite(values.profile);
  const log = (line: string): void => console.log(line);
  const resuming = values.resume !== undefined;
  const out = resolve(values.resume ?? values.out ?? join('runs', timestamp()));
  if (resuming) {
    for (const name of ['config', 'set', 'iterations', 'batch', 'seed', 'out', 'weights', 'partial'] as const) {
      if (values[name] !== undefined)
        throw new InputError(
          `train: --${name} does not go with --resume, which continues the run as it was configured`,
        );
    }
  } else if (holdsRun(out))
    throw new InputError(
      `train: ${out} already holds a run; continue it with --resume ${values.out}, or choose another --out`,
    );
  if (values.partial && values.weights === undefined) throw new InputError('train: --partial goes with --weights');
  const earlier = resuming ? readRunDescription(join(out, 'config.json')) : null;
  const loaded = earlier
    ? null
    : loadConfig({
        config: values.config ?? 'small',
        set: [
          ...(values.set ?? []),
          ...(values.iterations === undefined
            ? []
            : [`training.iterations=${integerOption('train', 'iterations', values.iterations, 1)}`]),
          ...(values.batch === undefined
            ? []
            : [`training.batchSize=${integerOption('train', 'batch', values.batch, 1)}`]),
          ...(values.seed === undefined ? [] : [`training.seed=${integerOption('train', 'seed', values.seed, 0)}`]),
        ],
      });
  if (values['dry-run']) {
    if (loaded === null)
      throw new InputError('train: --dry-run does not go with --resume: give the configuration by --config and --set');
    if (values.weights !== undefined)
      throw new InputError('train: --dry-run does not go with --weights: their values change nothing that it measures');
    if (values.profile !== undefined)
      throw new InputError('train: --dry-run does not go with --profile, which measures steps of a training');
    if (values.out !== undefined) throw new InputError('train: --dry-run does not go with --out: it writes nothing');
    const measured = values.data ?? loaded.data;
    if (measured === null) return dryRun(loaded.config);
    const { splits, classNames } = openDataset(measured, { splits: ['train'] });
    return dryRun(fitToData(loaded, splits.train, classNames).config);
  }
  if (earlier && values.data === undefined && !existsSync(earlier.data))
    throw new InputError(
      `train: ${earlier.data}, which ${out} was trained on, is not there any more; say where it is by --data DIR`,
    );
  const data = resolve(
    values.data ?? earlier?.data ?? loaded?.data ?? (await ensureShapesDataset(join('.cache', 'shapes'), { log })),
  );
  const dataset = openDataset(data, { splits: ['train', 'val'] });
  for (const warning of [...dataset.warnings, ...splitWarnings(dataset, 'train', 'val')]) log(`warning: ${warning}`);
  const records = splitRecords(dataset, 'train');
  const { classNames, categoryIds } = dataset;
  const fitted = loaded ? fitToData(loaded, records, classNames) : { config: earlier!, notes: [] };
  // By its parts: a run's description has more, which is not for the weights' metadata.
  const { preset, model: modelConfig, training } = fitted.config;
  const config: RunConfig = { preset, model: modelConfig, training };
  if (earlier && earlier.classNames.join('\n') !== classNames.join('\n'))
    throw new InputError(
      `train: ${data} has the classes ${classNames.join(', ')}; the run in ${out} was trained for ${earlier.classNames.join(', ')}`,
    );
  if (values.profile !== undefined && !resuming) profileStart(0, training); // throws before there is a folder
  const description = (iteration: number): WeightsDescription => ({ config, classNames, categoryIds, iteration });
  log(
    `data      ${data}: ${records.length} training and ${splitRecords(dataset, 'val').length} validation images, ${classNames.length} classes (${shorten(classNames)})`,
  );
  for (const note of fitted.notes) log(`fitted    ${note}`);

  // Device, model, optimiser.
  const device = await openDevice();
  log(
    `device    ${device.info.description || device.info.vendor}${device.subgroupSize > 0 ? `, subgroups of ${device.subgroupSize}` : ''}`,
  );
  const { fingerprint, summary } = device.tuner;
  log(
    `tuning    ${summary}${earlier && earlier.tuning !== fingerprint ? `; the run began with ${earlier.tuning}: from here on it rounds differently` : ''}`,
  );
  const model = createDetector(device, config.model, training.seed);
  const reportFile = join(out, 'weights.json');
  const pretrained =
    values.weights === undefined
      ? null
      : loadPretrained(model, values.weights, {
          partial: values.partial,
          log,
          classNames,
          reportFile: relative('.', reportFile),
        });
  const step = new TrainingStep(device, model, training);
  const { optimizer } = step;
  const count = model.trainable().reduce((sum, { tensor }) => sum + tensor.size, 0);
  log(`model     ${config.preset}: ${model.summary}, ${(count / 1e6).toFixed(2)} M trainable parameters`);

  // Resume.
  let state: TrainingState = { iteration: 0, optimizerSteps: 0, best: null };
  const metricsFile = join(out, 'metrics.jsonl'),
    evaluationsFile = join(out, 'evaluations.jsonl');
  if (resuming) {
    const checkpoint = readCheckpoint(join(out, 'last'));
    loadWeights(model, checkpoint.model, checkpoint.path);
    try {
      optimizer.loadState({ tensors: checkpoint.optimizer, step: checkpoint.state.optimizerSteps });
    } catch (error) {
      throw error instanceof ShapeError
        ? new InputError(`${checkpoint.optimizerPath}: ${error.message}; was ${join(out, 'config.json')} edited?`)
        : error;
    }
    state = checkpoint.state;
    for (const file of [metricsFile, evaluationsFile]) keepLinesUntil(file, state.iteration);
    log(`resume    ${relative('.', out)} at iteration ${state.iteration}`);
  } else {
    outputFolder('train', out);
    const run: RunDescription = { ...config, data, classNames, categoryIds, tuning: fingerprint };
    writeFileAtomic(join(out, 'config.json'), `${JSON.stringify(run, null, 2)}\n`);
    if (pretrained) writeFileAtomic(reportFile, `${JSON.stringify(pretrained, null, 2)}\n`);
    for (const file of [metricsFile, evaluationsFile]) writeFileAtomic(file, '');
  }
  log(`run       ${relative('.', out)}`);

  const loader = createTrainingLoader({
    records,
    batchSize: training.batchSize,
    seed: training.seed,
    augmentation: training.augmentation,
    workers: training.workers,
  });
  loader.seek(state.iteration * training.accumulation);
  const progress = new Progress();
  const interrupted = onInterrupt();
  const profiler =
    values.profile === undefined
      ? null
      : new StepProfiler(
          device,
          profileStart(state.iteration, training),
          traceFile ?? relative('.', join(out, 'trace.json')),
        );
  const save = async (): Promise<void> => {
    const { tensors, step: optimizerSteps } = await optimizer.state();
    state = { ...state, optimizerSteps };
    saveCheckpoint(join(out, 'last'), await model.save(), tensors, state, description(state.iteration));
  };
  const evaluate = async (): Promise<void> => {
    const result = await evaluateModel(model, dataset, 'val', {
      batchSize: training.batchSize,
      resize: training.evaluationResize,
      workers: training.workers,
    });
    const { AP, AP50 } = result.evaluation.metrics;
    appendLine(evaluationsFile, { iteration: state.iteration, ...result.evaluation.metrics });
    progress.note(`evaluation at iteration ${state.iteration}: AP ${AP.toFixed(3)}, AP50 ${AP50.toFixed(3)}`);
    if (state.best && state.best.AP > AP) return;
    state = { ...state, best: { iteration: state.iteration, AP, AP50 } };
    saveWeights(join(out, 'best.safetensors'), await model.save(), description(state.iteration));
    writeDetections(join(out, 'detections.json'), result.detections);
    writeFileAtomic(
      join(out, 'evaluation.json'),
      `${JSON.stringify({ iteration: state.iteration, ...evaluationReport(result, 'val', 'best.safetensors') }, null, 2)}\n`,
    );
    if (state.iteration === training.iterations) progress.note(metricsTable(result.evaluation));
  };

  try {
    const metrics = new MetricsLog({
      device,
      parts: model.lossParts.map(({ name }) => name),
      stages: model.stages,
      iterations: training.iterations,
      start: state.iteration,
      onMetrics: (line) => appendLine(metricsFile, line),
      onProgress: (row) => progress.update(row),
    });
    await trainLoop({
      training,
      step,
      log: metrics,
      start: state.iteration,
      next: () => loader.next(),
      stopped: () => interrupted.signal !== null,
      beforeStep: async (iteration) => profiler?.before(iteration),
      afterStep: async (iteration) => {
        state = { ...state, iteration };
        const profiled = await profiler?.after(iteration);
        if (profiled) progress.note(profiled);
      },
      evaluate,
      save,
    });
    if (interrupted.signal && state.iteration < training.iterations) {
      await save();
      progress.end();
      log(
        `stopped at iteration ${state.iteration} of ${training.iterations}; continue with npm run train -- --resume ${relative('.', out)}`,
      );
      return 130;
    }
    if (resuming && state.best === null) await evaluate();
    progress.end();
    loadWeights(model, readWeightsFile(join(out, 'best.safetensors')), join(out, 'best.safetensors'));
    const drawn = await drawRun(model, splitRecords(dataset, 'val').slice(0, training.drawImages), {
      out,
      resize: training.evaluationResize,
      classNames,
      metricsFile,
      evaluationsFile,
    });
    const best = state.best!;
    const { steps, seconds, millisecondsPerStep, peakBytes } = metrics.summary();
    log(
      `best      AP ${best.AP.toFixed(3)}, AP50 ${best.AP50.toFixed(3)} at iteration ${best.iteration}; ${steps} steps in ${formatDuration(seconds)}, median ${millisecondsPerStep.toFixed(0)} ms a step, at most ${Math.round(peakBytes / 1e6)} MB on the device`,
    );
    log(
      `weights   ${relative('.', join(out, 'best.safetensors'))}   (npm run predict -- --weights ${relative('.', join(out, 'best.safetensors'))} IMAGE...)`,
    );
    log(`measures  ${relative('.', join(out, 'evaluation.json'))}, ${relative('.', metricsFile)}`);
    log(`drawn     ${drawn.map((file) => relative('.', file)).join(', ')}`);
    return 0;
  } finally {
    progress.end();
    interrupted.release();
    await loader.close();
    device.destroy();
  }
}

/** Whether there is anything to lose in a folder: a run that ended before its first iteration (by an unreadable image, say) left nothing. */
function holdsRun(folder: string): boolean {
  if (!existsSync(join(folder, 'config.json'))) return false;
  const measured = statSync(join(folder, 'metrics.jsonl'), { throwIfNoEntry: false })?.size ?? 0;
  return measured > 0 || ['last', 'best.safetensors'].some((name) => existsSync(join(folder, name)));
}

function timestamp(): string {
  return new Date().toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '');
}

function shorten(names: readonly string[]): string {
  return names.length > 6 ? `${names.slice(0, 5).join(', ')}, ...` : names.join(', ');
}

/** Reads a run's config.json. Throws InputError naming file and field. */
function readRunDescription(file: string): RunDescription {
  if (!existsSync(file)) throw new InputError(`${file}: cannot be read as a run's configuration: nothing there`);
  const json = asObject(readJson(file), file, 'the whole file');
  const { data, classNames, categoryIds, tuning = 'none' } = json;
  if (typeof tuning !== 'string') throw new InputError(`${file}: tuning must be text, got ${JSON.stringify(tuning)}`);
  if (typeof data !== 'string')
    throw new InputError(`${file}: data must be a folder's path, got ${JSON.stringify(data)}`);
  if (!Array.isArray(classNames) || !Array.isArray(categoryIds))
    throw new InputError(`${file}: classNames and categoryIds must be lists`);
  return { ...validateRunConfig(json, file), data, classNames, categoryIds, tuning };
}

/** Ctrl-C (or a termination signal) once: finish the iteration and save; twice: the usual end. */
function onInterrupt(): { signal: NodeJS.Signals | null; release(): void } {
  const handler = (signal: NodeJS.Signals): void => {
    state.signal = signal;
    state.release();
    process.stderr.write(`\n${signal}: saving after this iteration; again to stop at once\n`);
  };
  const state: ReturnType<typeof onInterrupt> = {
    signal: null,
    release() {
      process.off('SIGINT', handler);
      process.off('SIGTERM', handler);
    },
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return state;
}
