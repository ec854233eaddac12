/** Pictures of a run: detections on validation images beside what is there, a sheet of all of them, and the loss over the iterations. */
import { mkdirSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Detector } from '../core/detector.ts';
import type { StepMetrics } from '../core/metrics-log.ts';
import type { ImageRecord } from '../core/image-record.ts';
import { contactSheet, drawBoxes, writePng, type Canvas } from './draw.ts';
import { decodeImage } from '../data/images.ts';
import { predictImage } from '../evaluation/predict-image.ts';
import { runningMean, type Series } from './series.ts';
import { writePlot } from './plot-file.ts';
import { readEvaluations, readMetrics } from '../output/metrics-files.ts';
import type { EvaluationResize } from '../core/augmentation.ts';

/** Drawn from this score on. */
const MIN_SCORE = 0.3;

export interface DrawRunOptions {
  /** The run's folder. */
  readonly out: string;
  readonly resize: EvaluationResize;
  readonly classNames: readonly string[];
  readonly metricsFile: string;
  readonly evaluationsFile: string;
}

/** Writes `predictions/*.png`, `predictions.png`, `loss.png` and, from two evaluations on, `ap.png` into the run's folder; returns the paths, the folder of pictures last. */
export async function drawRun(
  detector: Detector,
  records: readonly ImageRecord[],
  { out, resize, classNames, metricsFile, evaluationsFile }: DrawRunOptions,
): Promise<string[]> {
  const folder = join(out, 'predictions');
  mkdirSync(folder, { recursive: true });
  const drawn: string[] = [];
  const canvases: Canvas[] = [];
  for (const record of records) {
    // As the annotations describe it: their boxes are drawn on it.
    const image = await decodeImage(record.file, record);
    const detections = await predictImage(detector, image, resize, classNames, MIN_SCORE);
    const groundTruth = record.objects.map(({ box, label }) => ({ box, label, name: '' }));
    const canvas = await drawBoxes(image, detections, { groundTruth });
    writePng(join(folder, `${basename(record.name, extname(record.name))}.png`), canvas);
    canvases.push(canvas);
  }
  if (canvases.length > 0) {
    writePng(join(out, 'predictions.png'), contactSheet(canvases, Math.min(4, canvases.length)));
    drawn.push(join(out, 'predictions.png'));
  }
  const metrics = readMetrics(metricsFile);
  const window = Math.max(1, Math.round(metrics.length / 40));
  const curve = (name: string, value: (line: StepMetrics) => number): Series => ({
    name,
    points: runningMean(
      metrics.map((line) => [line.iteration, value(line)] as const),
      window,
    ),
  });
  const series = [
    curve('total', ({ loss }) => loss),
    ...detector.lossParts.map(({ name, label }) => curve(label, (line) => sum(line[`${name}_loss`]))),
  ];
  await writePlot(join(out, 'loss.png'), {
    title: `Loss (mean of ${window} iterations)`,
    xLabel: 'iteration',
    yLabel: 'loss',
    series,
  });
  drawn.push(join(out, 'loss.png'));
  const evaluations = readEvaluations(evaluationsFile);
  if (evaluations.length > 1) {
    const curves = (['AP', 'AP50'] as const).map((name) => ({
      name,
      points: evaluations.map((line) => [line.iteration, line[name]] as const),
    }));
    await writePlot(join(out, 'ap.png'), {
      title: 'COCO metrics on the validation images',
      xLabel: 'iteration',
      yLabel: 'AP',
      series: curves,
    });
    drawn.push(join(out, 'ap.png'));
  }
  drawn.push(folder);
  return drawn;
}

function sum(list: readonly number[]): number {
  return list.reduce((a, b) => a + b, 0);
}
