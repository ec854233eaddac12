/** Runs a model over a split and measures its detections; and the `evaluate` command. */
import { join } from 'node:path';
import { createDetector } from '../core/create-detector.ts';
import { integerOption, outputFolder, parseArguments } from './arguments.ts';
import { writeFileAtomic } from '../data/files.ts';
import { writeDetections } from '../evaluation/coco-files.ts';
import { evaluateModel, evaluationReport } from '../evaluation/evaluate-model.ts';
import { openDataset, splitRecords, type Dataset } from '../data/index.ts';
import { InputError } from '../core/errors.ts';
import { describeHalf, HALF_HELP, openForInference } from './inference-device.ts';
import { formatDuration } from '../output/duration.ts';
import { metricsTable } from '../output/metrics-table.ts';
import { DESCRIPTION_HELP, describeWeights } from '../checkpoints/describe-weights.ts';
import { loadWhole, readAnyWeights } from '../checkpoints/load-weights.ts';

const HELP = `evaluate: measures weights on a split of a data set by COCO's metrics

  npm run evaluate -- --weights FILE --data DIR [--split val] [--half] [--out DIR]

  --weights FILE  weights of this project (runs/.../best.safetensors), which carry configuration and class names; or of PyTorch or Detectron2 (.pth, .pt, .pkl)
${DESCRIPTION_HELP}
  --data DIR      a COCO or Pascal VOC data set
  --split NAME    train, val or test (default val)
  --out DIR       where evaluation.json and detections.json go (default: beside the weights, where they replace those of the training)
  --batch N       images at a time (default: as in the training, at most 8)
${HALF_HELP}
  --help          this text
`;

/** Runs the subcommand; resolves to the exit code. */
export async function runEvaluate(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('evaluate', argv, {
    weights: { type: 'string' },
    config: { type: 'string' },
    classes: { type: 'string' },
    data: { type: 'string' },
    split: { type: 'string', default: 'val' },
    out: { type: 'string' },
    batch: { type: 'string' },
    half: { type: 'boolean' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { weights, data, split, half = false } = values;
  if (weights === undefined) throw new InputError('evaluate: --weights: expected a file, got nothing');
  if (data === undefined) throw new InputError('evaluate: --data: expected a folder, got nothing');
  const file = readAnyWeights(weights);
  const { config, classNames } = describeWeights('evaluate', weights, file, values);
  const dataset = openDataset(data, { splits: [split] });
  requireClasses(dataset, classNames, data, weights);
  for (const warning of dataset.warnings) console.log(`warning: ${warning}`);
  if (splitRecords(dataset, split).every(({ objects }) => objects.every(({ crowd }) => crowd)))
    console.log(`warning: the split "${split}" has no object to measure by: every metric will be -1`);
  const out = values.out ?? join(weights, '..');
  outputFolder('evaluate', out);
  const device = await openForInference('evaluate', half);
  try {
    if (half) console.log(describeHalf(device));
    const model = createDetector(device, config.model);
    loadWhole(model, file, weights, (line) => console.log(line));
    const total = splitRecords(dataset, split).length;
    const started = performance.now();
    let told = started;
    const result = await evaluateModel(model, dataset, split, {
      batchSize:
        values.batch === undefined
          ? Math.min(8, config.training.batchSize)
          : integerOption('evaluate', 'batch', values.batch, 1),
      resize: config.training.evaluationResize,
      workers: config.training.workers,
      progress: (done) => {
        const now = performance.now();
        if (now - told < 5000 && done < total) return;
        told = now;
        const left = (((now - started) / done) * (total - done)) / 1000;
        console.log(
          `${done}/${total} images, ${formatDuration(left)} left, ${Math.round(device.memory().peakBytes / 1e6)} MB`,
        );
      },
    });
    writeFileAtomic(
      join(out, 'evaluation.json'),
      `${JSON.stringify({ ...evaluationReport(result, split, weights), half }, null, 2)}\n`,
    );
    writeDetections(join(out, 'detections.json'), result.detections);
    console.log(metricsTable(result.evaluation));
    console.log(`wrote ${join(out, 'evaluation.json')} and ${join(out, 'detections.json')}`);
    return 0;
  } finally {
    device.destroy();
  }
}

/** Throws InputError unless the data set's classes are the weights' own, by name and order. */
export function requireClasses(dataset: Dataset, classNames: readonly string[], data: string, weights: string): void {
  if (dataset.classNames.join('\n') !== classNames.join('\n')) {
    throw new InputError(
      `${weights} was trained for the classes ${classNames.join(', ')}; ${data} has ${dataset.classNames.join(', ')}`,
    );
  }
}
