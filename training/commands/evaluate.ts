/** The `evaluate` command: measures weights on a split of a data set and writes the metrics and detections. */
import { join } from 'node:path';
import type { Device } from '../../engine/index.ts';
import { DESCRIPTION_HELP, describeWeights } from '../checkpoints/describe-weights.ts';
import { loadWhole, readAnyWeights } from '../checkpoints/load-weights.ts';
import { configurationChoice, inferenceConfigOf } from '../checkpoints/public-weights.ts';
import { createDetector } from '../core/create-detector.ts';
import { InputError } from '../core/errors.ts';
import { sameClasses } from '../core/fit-to-data.ts';
import { writeJson } from '../data/files.ts';
import { FORMAT_KEYS, FORMAT_NAMES, splitRecords, type Dataset } from '../data/index.ts';
import { writeDetections } from '../evaluation/coco-files.ts';
import { evaluateModel, evaluationReport } from '../evaluation/evaluate-model.ts';
import { describeChoices } from '../output/choices.ts';
import { formatDuration } from '../output/duration.ts';
import { metricsTable } from '../output/metrics-table.ts';
import { integerOption, outputFolder, parseArguments } from './arguments.ts';
import { shortCheck } from './survey.ts';
import { describeHalf, HALF_HELP, openForInference } from './inference-device.ts';
import { openWithProgress } from './open-data.ts';
import { DETECTOR_NAMES_HELP, detectorNamed, weightsFile } from './weights-option.ts';

/** Largest default batch. */
const MAX_DEFAULT_BATCH = 8;
/** Milliseconds between two lines of progress. */
const PROGRESS_INTERVAL = 5000;

const HELP = `evaluate: measures weights on a split of a data set with COCO's metrics

  npm run evaluate -- --weights FILE|NAME --data DIR [--split val] [--half] [--out DIR]

  --weights FILE  weights of this project (runs/.../best.safetensors), which contain configuration
                  and class names; or weights of PyTorch or Detectron2 (.pth, .pt, .pkl);
${DETECTOR_NAMES_HELP}
${DESCRIPTION_HELP}
  --data DIR      a data set: ${FORMAT_NAMES}
  --format F      ${FORMAT_KEYS}; needed only if the folder fits several formats
  --split NAME    train, val or test (default: val)
  --out DIR       folder for evaluation.json and detections.json (default: the folder of the
                  weights, where they replace the files of the training; runs/NAME for a name)
  --batch N       images per forward pass (default: as in the training, at most ${MAX_DEFAULT_BATCH})
${HALF_HELP}
  --strict        damaged and unreadable images, wrong sizes and wrong forms of boxes are errors.
                  Otherwise images that cannot be read are left out, with a warning
  --help          print this text
`;

/** Runs the command. Resolves to the exit code; rejects with InputError on bad arguments or files. */
export async function runEvaluate(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('evaluate', argv, {
    weights: { type: 'string' },
    config: { type: 'string' },
    classes: { type: 'string' },
    data: { type: 'string' },
    format: { type: 'string' },
    split: { type: 'string', default: 'val' },
    out: { type: 'string' },
    batch: { type: 'string' },
    half: { type: 'boolean' },
    strict: { type: 'boolean' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { data, split, half = false } = values;
  if (values.weights === undefined) throw new InputError('evaluate: --weights: expected a file, got nothing');
  if (data === undefined) throw new InputError('evaluate: --data: expected a folder, got nothing');
  const named = detectorNamed('evaluate', values.weights);
  const batch = values.batch === undefined ? null : integerOption('evaluate', 'batch', values.batch, 1);
  const { path: weights } = await weightsFile(values.weights, named);
  const file = readAnyWeights(weights);
  const { config, classNames } = describeWeights('evaluate', weights, file, { ...values, named });
  if (named && values.config === undefined)
    for (const line of describeChoices([configurationChoice(named, inferenceConfigOf(named))])) console.log(line);
  const opened = await openWithProgress(data, { splits: [split], format: values.format });
  requireSameClasses(opened, classNames, weights);
  console.log(`format: ${opened.recognized}`);
  for (const note of opened.notes) console.log(`note: ${note}`);
  const dataset = await shortCheck(opened, {
    resize: config.training.evaluationResize,
    strict: values.strict ?? false,
    log: (line) => console.log(line),
    whole: () => openWithProgress(data, { format: values.format }),
  });
  if (splitRecords(dataset, split).every(({ objects }) => objects.every(({ crowd }) => crowd)))
    console.log(`warning: the split "${split}" has no object to measure by: every metric will be -1`);
  const out = values.out ?? (named ? join('runs', named.name) : join(weights, '..'));
  outputFolder('evaluate', out);
  const device = await openForInference('evaluate', half);
  try {
    if (half) console.log(describeHalf(device));
    const model = createDetector(device, config.model);
    loadWhole(model, file, weights, (line) => console.log(line));
    const { evaluationResize: resize, workers, batchSize } = config.training;
    const result = await evaluateModel(model, dataset, split, {
      batchSize: batch ?? Math.min(MAX_DEFAULT_BATCH, batchSize),
      resize,
      workers,
      progress: logProgress(device),
      onUnreadable: (_, reason) => console.log(`warning: ${reason}; it counts as an image without detections`),
    });
    const report = { ...evaluationReport(result, split, weights), half };
    writeJson(join(out, 'evaluation.json'), report);
    writeDetections(join(out, 'detections.json'), result.detections);
    console.log(metricsTable(result.evaluation));
    console.log(`wrote ${join(out, 'evaluation.json')} and ${join(out, 'detections.json')}`);
    return 0;
  } finally {
    device.destroy();
  }
}

/** Prints a line every few seconds, and one at the end. */
function logProgress(device: Device): (done: number, total: number) => void {
  const start = performance.now();
  let lastLine = start;
  return (done, total) => {
    const now = performance.now();
    if (now - lastLine < PROGRESS_INTERVAL && done < total) return;
    lastLine = now;
    const secondsLeft = (((now - start) / done) * (total - done)) / 1000;
    const megabytes = Math.round(device.memory().peakBytes / 1e6);
    console.log(`${done}/${total} images, ${formatDuration(secondsLeft)} left, ${megabytes} MB`);
  };
}

/** Throws InputError unless the classes of the data set are those of the weights, in the same order. */
function requireSameClasses(dataset: Dataset, classNames: readonly string[], weights: string): void {
  if (sameClasses(dataset.classNames, classNames)) return;
  throw new InputError(
    `${dataset.root}: expected the classes that ${weights} was trained for (${classNames.join(', ')}), ` +
      `got ${dataset.classNames.join(', ')}`,
  );
}
