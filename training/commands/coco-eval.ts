/**
 * The `coco-eval` command: measures COCO results against COCO ground truth and prints the metrics as JSON.
 * It needs no GPU, no model and no data set, so it can measure the results of any detector.
 */
import { evaluateDetections } from '../core/coco-metrics.ts';
import { InputError } from '../core/errors.ts';
import { readDetections, readGroundTruth } from '../evaluation/coco-files.ts';
import { parseArguments } from './arguments.ts';

const HELP = `coco-eval: COCO's twelve detection metrics for boxes, as pycocotools computes them

  npm run coco-eval -- --annotations GT.json --detections DT.json

  --annotations FILE  ground truth in COCO's format (images, annotations, categories)
  --detections FILE   results in COCO's format:
                      [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...]
  --help              print this text

Prints one JSON object:
  AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl  0 to 1; -1: no ground truth to measure by
  images, groundTruths, detections                                counts
  byCategory                                                      the same for each category
Exits with 2 on bad input.
`;

/** Runs the command. Resolves to the exit code; rejects with InputError on bad arguments or files. */
export async function runCocoEval(
  argv: string[],
  stdout: NodeJS.WritableStream = process.stdout,
  stderr: NodeJS.WritableStream = process.stderr,
): Promise<number> {
  const { values: options } = parseArguments('coco-eval', argv, {
    annotations: { type: 'string' },
    detections: { type: 'string' },
    help: { type: 'boolean' },
  });
  if (options.help) {
    stdout.write(HELP);
    return 0;
  }
  const groundTruth = readGroundTruth(required(options.annotations, '--annotations'));
  const detections = readDetections(required(options.detections, '--detections'), groundTruth);
  const { metrics, warnings, images, groundTruths, byCategory, ...counts } = evaluateDetections(
    groundTruth,
    detections,
  );
  for (const warning of warnings) stderr.write(`${options.annotations}: ${warning}\n`);
  const report = { ...metrics, images, groundTruths, detections: counts.detections, byCategory };
  stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  return 0;
}

function required(value: string | undefined, name: string): string {
  if (value === undefined)
    throw new InputError(`coco-eval: ${name}: expected a file, got nothing (see coco-eval --help)`);
  return value;
}
