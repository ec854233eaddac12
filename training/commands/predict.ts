/** The `predict` command: detects objects on image files; writes the detections as JSON and draws them. */
import { basename, extname, join } from 'node:path';
import type { Trace } from '../../model/index.ts';
import { DESCRIPTION_HELP, describeWeights } from '../checkpoints/describe-weights.ts';
import { loadWhole, readAnyWeights } from '../checkpoints/load-weights.ts';
import { configurationChoice, inferenceConfigOf } from '../checkpoints/public-weights.ts';
import type { EvaluationResize } from '../core/augmentation.ts';
import { createDetector } from '../core/create-detector.ts';
import type { Detector } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import { insteadOfFile, writeJson } from '../data/files.ts';
import { decodeImage, type PixelImage } from '../data/images.ts';
import { type NamedDetection, nameDetections, prepareImage } from '../evaluation/predict-image.ts';
import { describeChoices } from '../output/choices.ts';
import { formatTable } from '../output/table.ts';
import { drawBoxes } from '../pictures/draw-boxes.ts';
import { drawStages } from '../pictures/draw-stages.ts';
import { writePng } from '../pictures/png.ts';
import { stageHistory, type StageHistory } from '../pictures/stage-history.ts';
import { numberOption, outputFolder, parseArguments } from './arguments.ts';
import { describeHalf, HALF_HELP, openForInference } from './inference-device.ts';
import { DETECTOR_NAMES_HELP, detectorNamed, weightsFile } from './weights-option.ts';

/** One entry of predictions.json. `drawn` fields are paths of PNG files. */
interface Prediction {
  readonly file: string;
  readonly drawn: string;
  readonly detections: readonly NamedDetection[];
  /** Only with --stages. */
  readonly stages?: StageHistory & { readonly drawn: string };
}

/** The file name of a stage picture is the name of the image, this suffix, and .png. */
const STAGES_SUFFIX = '-stages';

const HELP = `predict: detects objects on images

  npm run predict -- --weights FILE|NAME [--score 0.3] [--stages] [--half] [--out DIR] IMAGE...

  --weights FILE  weights of this project (runs/.../best.safetensors), which contain configuration and class names;
                  or weights of PyTorch or Detectron2 (.pth, .pt, .pkl);
${DETECTOR_NAMES_HELP}
${DESCRIPTION_HELP}
  --score S       minimum score of a detection, 0 .. 1 (default 0.3)
  --stages        also draw how the boxes of the best detections move from the initial boxes through the stages, and
                  the image's expert weights, as NAME-stages.png; predictions.json has the numbers under "stages"
${HALF_HELP}
  --out DIR       folder of predictions.json and the drawn images (default: predictions)
  --help          print this text

An image that cannot be decoded ends the command. The detections on the images before it are still written.
`;

/** Runs the subcommand; resolves to the exit code. */
export async function runPredict(argv: readonly string[]): Promise<number> {
  const { values, positionals: files } = parseArguments(
    'predict',
    argv,
    {
      weights: { type: 'string' },
      config: { type: 'string' },
      classes: { type: 'string' },
      score: { type: 'string', default: '0.3' },
      stages: { type: 'boolean' },
      half: { type: 'boolean' },
      out: { type: 'string', default: 'predictions' },
      help: { type: 'boolean' },
    },
    true,
  );
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { out } = values;
  if (values.weights === undefined) throw new InputError('predict: --weights: expected a file, got nothing');
  const named = detectorNamed('predict', values.weights);
  const minScore = numberOption('predict', 'score', values.score, [0, 1]);
  if (files.length === 0) throw new InputError('predict: expected at least one image, got none');
  for (const image of files) {
    const instead = insteadOfFile(image);
    if (instead !== null) throw new InputError(`predict: ${image}: expected an image file, got ${instead}`);
  }
  const { path: weights } = await weightsFile(values.weights, named);
  const file = readAnyWeights(weights);
  const { config, classNames, white } = describeWeights('predict', weights, file, { ...values, named });
  if (named && values.config === undefined)
    for (const line of describeChoices([configurationChoice(named, inferenceConfigOf(named))])) console.log(line);
  outputFolder('predict', out);
  const results: Prediction[] = [];
  const device = await openForInference('predict', values.half ?? false);
  try {
    if (values.half) console.log(describeHalf(device));
    const detector = createDetector(device, config.model);
    loadWhole(detector, file, weights, (line) => console.log(line));
    const names = drawnNames(files);
    const { stages = false } = values;
    const options = { resize: config.training.evaluationResize, white, classNames, minScore, stages };
    for (const [i, name] of files.entries()) {
      const result = await predictFile(detector, name, join(out, names[i]), options);
      results.push(result);
      console.log(detectionTable(result));
    }
    return 0;
  } finally {
    device.destroy();
    // If an image cannot be decoded, the results of the images before it are still written.
    if (results.length > 0) {
      writeJson(join(out, 'predictions.json'), results);
      const pictures = results.length * (values.stages ? 2 : 1);
      const drawn = `${pictures} drawn image${pictures === 1 ? '' : 's'}`;
      console.log(`wrote ${join(out, 'predictions.json')} and ${drawn} to ${out}`);
    }
  }
}

interface PredictOptions {
  readonly resize: EvaluationResize;
  /** The value that becomes 255 in images of more than 8 bits; undefined: the range of each image. */
  readonly white: number | undefined;
  readonly classNames: readonly string[];
  readonly minScore: number;
  readonly stages: boolean;
}

/** Detects on one image file and draws the result; `stem` is the path of the drawings, without suffix and extension. */
async function predictFile(
  detector: Detector,
  file: string,
  stem: string,
  { resize, white, classNames, minScore, stages }: PredictOptions,
): Promise<Prediction> {
  const image = await decodeImage(file, null, white);
  const { input, scale } = await prepareImage(image, resize);
  const trace = stages ? await traceOf(detector, input) : null;
  const found = trace?.detections ?? (await detector.detect([input]))[0];
  const detections = nameDetections(found, scale, classNames, minScore);
  const drawn = `${stem}.png`;
  writePng(drawn, await drawBoxes(image, detections));
  if (!trace) return { file, drawn, detections };
  const history = { drawn: `${stem}${STAGES_SUFFIX}.png`, ...stageHistory(trace, scale, classNames, minScore) };
  const title = `${basename(file)}: from initial boxes to detections of score ${minScore} or more`;
  writePng(history.drawn, await drawStages(image, history, title));
  return { file, drawn, detections, stages: history };
}

function detectionTable({ file, detections }: Prediction): string {
  return formatTable(
    [file, 'score', 'x0', 'y0', 'x1', 'y1'],
    detections.map(({ name, score, box }) => [name, score.toFixed(3), ...box.map((value) => value.toFixed(1))]),
  );
}

/** The name of each image's drawings, without extension. Images of the same name from several folders get numbers. */
function drawnNames(files: readonly string[]): string[] {
  const used = new Set<string>();
  return files.map((file) => {
    const stem = basename(file, extname(file));
    for (let count = 1; ; count++) {
      const name = count === 1 ? stem : `${stem}-${count}`;
      const taken = [name, `${name}${STAGES_SUFFIX}`];
      if (taken.some((drawing) => used.has(drawing))) continue;
      for (const drawing of taken) used.add(drawing);
      return name;
    }
  });
}

/** The detections with the boxes of all stages. Throws InputError if the detector has no stages to draw. */
function traceOf(detector: Detector, image: PixelImage): Promise<Trace> {
  if (!detector.trace) throw new InputError(`predict: --stages: expected a model with stages, got ${detector.summary}`);
  return detector.trace(image);
}
