/** The `predict` command: image files in, detections as JSON and drawn images out. */
import { basename, extname, join } from 'node:path';
import type { Trace } from '../../model/index.ts';
import { createDetector } from '../core/create-detector.ts';
import type { Detector } from '../core/detector.ts';
import { numberOption, outputFolder, parseArguments } from './arguments.ts';
import { insteadOfFile, writeFileAtomic } from '../data/files.ts';
import { drawBoxes, writePng, type DrawnBox } from '../pictures/draw.ts';
import { drawStages, stageHistory, type StageHistory } from '../pictures/draw-stages.ts';
import { InputError } from '../core/errors.ts';
import { decodeImage, type PixelImage } from '../data/images.ts';
import { describeHalf, HALF_HELP, openForInference } from './inference-device.ts';
import { formatTable } from '../output/table.ts';
import { type NamedDetection, nameDetections, prepareImage } from '../evaluation/predict-image.ts';
import { DESCRIPTION_HELP, describeWeights } from '../checkpoints/describe-weights.ts';
import { loadWhole, readAnyWeights } from '../checkpoints/load-weights.ts';

/** One entry of predictions.json. */
interface Prediction {
  readonly file: string;
  readonly drawn: string;
  readonly detections: readonly NamedDetection[];
  /** With --stages. */
  readonly stages?: StageHistory & { readonly drawn: string };
}

/** Between an image's name and .png. */
const STAGES_SUFFIX = '-stages';

const HELP = `predict: detects objects on images

  npm run predict -- --weights FILE [--score 0.3] [--stages] [--half] [--out DIR] IMAGE...

  --weights FILE  weights of this project (runs/.../best.safetensors), which carry configuration and class names; or of PyTorch or Detectron2 (.pth, .pt, .pkl)
${DESCRIPTION_HELP}
  --score S       leave out detections below this score, 0 .. 1 (default 0.3)
  --stages        also draw, as NAME-stages.png, how the boxes of the best detections move through the stages, the initial boxes,
                  and the image's expert weights; the numbers go to predictions.json under "stages"
${HALF_HELP}
  --out DIR       where predictions.json and the drawn images go (default: predictions)
  --help          this text

An image that cannot be decoded ends the command; what was detected on the images before it is written.
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
  const { weights, out } = values;
  if (weights === undefined) throw new InputError('predict: --weights: expected a file, got nothing');
  const leastScore = numberOption('predict', 'score', values.score, 0, 1);
  if (files.length === 0) throw new InputError('predict: expected at least one image, got none');
  for (const image of files) {
    const instead = insteadOfFile(image);
    if (instead !== null) throw new InputError(`predict: ${image}: expected an image file, got ${instead}`);
  }
  const file = readAnyWeights(weights);
  const { config, classNames } = describeWeights('predict', weights, file, values);
  outputFolder('predict', out);
  const results: Prediction[] = [];
  const device = await openForInference('predict', values.half ?? false);
  try {
    if (values.half) console.log(describeHalf(device));
    const model = createDetector(device, config.model);
    loadWhole(model, file, weights, (line) => console.log(line));
    const names = drawnNames(files);
    for (const [i, name] of files.entries()) {
      const image = await decodeImage(name);
      const { input, scale } = await prepareImage(image, config.training.evaluationResize);
      const trace = values.stages ? await traceOf(model, input) : null;
      const detections = nameDetections(
        trace?.detections ?? (await model.detect([input]))[0],
        scale,
        classNames,
        leastScore,
      );
      const drawn = join(out, `${names[i]}.png`);
      writePng(
        drawn,
        await drawBoxes(
          image,
          detections.map((d): DrawnBox => d),
        ),
      );
      let stages: Prediction['stages'];
      if (trace) {
        stages = {
          drawn: join(out, `${names[i]}${STAGES_SUFFIX}.png`),
          ...stageHistory(trace, scale, classNames, leastScore),
        };
        writePng(
          stages.drawn,
          await drawStages(
            image,
            stages,
            `${basename(name)}: from initial boxes to detections of score ${leastScore} or more`,
          ),
        );
      }
      results.push({ file: name, drawn, detections, stages });
      console.log(
        formatTable(
          [name, 'score', 'x0', 'y0', 'x1', 'y1'],
          detections.map(({ name: label, score, box }) => [label, score.toFixed(3), ...box.map((v) => v.toFixed(1))]),
        ),
      );
    }
    return 0;
  } finally {
    device.destroy();
    // Also where an image could not be decoded: the work on those before it is kept.
    if (results.length > 0) {
      writeFileAtomic(join(out, 'predictions.json'), `${JSON.stringify(results, null, 2)}\n`);
      const pictures = results.length * (values.stages ? 2 : 1);
      console.log(
        `wrote ${join(out, 'predictions.json')} and ${pictures} drawn image${pictures === 1 ? '' : 's'} to ${out}`,
      );
    }
  }
}

/** A name without ending for each image's drawings; images of one name from several folders get numbers. */
function drawnNames(files: readonly string[]): string[] {
  const used = new Set<string>();
  return files.map((file) => {
    const stem = basename(file, extname(file));
    for (let count = 1; ; count++) {
      const name = count === 1 ? stem : `${stem}-${count}`;
      const taken = [name, `${name}${STAGES_SUFFIX}`];
      if (taken.some((one) => used.has(one))) continue;
      for (const one of taken) used.add(one);
      return name;
    }
  });
}

/** Throws InputError if the detector has no stages to draw. */
function traceOf(detector: Detector, image: PixelImage): Promise<Trace> {
  if (!detector.trace) throw new InputError(`predict: --stages: expected a model with stages, got ${detector.summary}`);
  return detector.trace(image);
}
