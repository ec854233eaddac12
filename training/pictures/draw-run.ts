/** The pictures of a training run: detections on validation images, the loss, and the metrics over the iterations. */
import { mkdirSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Canvas } from '@napi-rs/canvas';
import type { EvaluationResize } from '../core/augmentation.ts';
import type { Detector } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image-record.ts';
import type { StepMetrics } from '../core/metrics-log.ts';
import { readImage } from '../data/formula-images.ts';
import type { PixelImage } from '../data/images.ts';
import { predictImage } from '../evaluation/predict-image.ts';
import { readEvaluations, readMetrics } from '../output/metrics-files.ts';
import { contactSheet } from './contact-sheet.ts';
import { drawBoxes } from './draw-boxes.ts';
import { writePlot } from './plot-file.ts';
import { writePng } from './png.ts';
import { runningMean, type Series } from './series.ts';

/** Detections with lower scores are not drawn. */
const MIN_SCORE = 0.3;
/** The loss is averaged over this share of the run. */
const AVERAGED_SHARE = 1 / 40;
const MAX_SHEET_COLUMNS = 4;

export interface DrawRunOptions {
  /** The run's folder. */
  readonly out: string;
  readonly resize: EvaluationResize;
  readonly classNames: readonly string[];
  readonly metricsFile: string;
  readonly evaluationsFile: string;
  /** Called for each image that cannot be read, with the reason; it is not drawn. Default: it is an error. */
  readonly onUnreadable?: (file: string, reason: string) => void;
}

/**
 * Writes into the run's folder: `predictions/*.png` and `predictions.png` (all of them on one sheet), `loss.png`, and
 * `ap.png` if there are at least two evaluations. Returns their paths, the folder of predictions last.
 */
export async function drawRun(
  detector: Detector,
  records: readonly ImageRecord[],
  options: DrawRunOptions,
): Promise<string[]> {
  const folder = join(options.out, 'predictions');
  const sheet = await drawPredictions(detector, records, folder, options);
  const loss = await plotLoss(detector, options);
  const metrics = await plotMetrics(options);
  return [...sheet, loss, ...metrics, folder];
}

/** Draws detections and ground truth on each image; returns the path of the sheet, or nothing without images. */
async function drawPredictions(
  detector: Detector,
  records: readonly ImageRecord[],
  folder: string,
  { out, resize, classNames, onUnreadable }: DrawRunOptions,
): Promise<string[]> {
  mkdirSync(folder, { recursive: true });
  const canvases: Canvas[] = [];
  for (const record of records) {
    const image = await decodeRecord(record, onUnreadable);
    if (image === null) continue;
    const detections = await predictImage(detector, image, { resize, classNames, minScore: MIN_SCORE });
    const groundTruth = record.objects.map(({ box, label }) => ({ box, label, name: '' }));
    const canvas = await drawBoxes(image, detections, { groundTruth });
    writePng(join(folder, `${basename(record.name, extname(record.name))}.png`), canvas);
    canvases.push(canvas);
  }
  if (canvases.length === 0) return [];
  const sheet = join(out, 'predictions.png');
  writePng(sheet, contactSheet(canvases, Math.min(MAX_SHEET_COLUMNS, canvases.length)));
  return [sheet];
}

/** An image in the size that the annotations state, because their boxes are drawn on it; null if it is unreadable. */
async function decodeRecord(
  record: ImageRecord,
  onUnreadable: DrawRunOptions['onUnreadable'],
): Promise<PixelImage | null> {
  try {
    return await readImage(record.file, record, record.white);
  } catch (error) {
    if (!(error instanceof InputError) || !onUnreadable) throw error;
    onUnreadable(record.file, error.message);
    return null;
  }
}

/** Plots the total loss and its parts, each summed over the stages; returns the path. */
async function plotLoss(detector: Detector, { out, metricsFile }: DrawRunOptions): Promise<string> {
  const metrics = readMetrics(metricsFile);
  const window = Math.max(1, Math.round(metrics.length * AVERAGED_SHARE));
  const curve = (name: string, value: (line: StepMetrics) => number): Series => ({
    name,
    points: runningMean(
      metrics.map((line) => [line.iteration, value(line)] as const),
      window,
    ),
  });
  const path = join(out, 'loss.png');
  await writePlot(path, {
    title: `Loss (mean of ${window} iterations)`,
    xLabel: 'iteration',
    yLabel: 'loss',
    series: [
      curve('total', ({ loss }) => loss),
      ...detector.lossParts.map(({ name, label }) => curve(label, (line) => sum(line[`${name}_loss`]))),
    ],
  });
  return path;
}

/** Plots AP and AP50 over the iterations; returns the path, or nothing before the second evaluation. */
async function plotMetrics({ out, evaluationsFile }: DrawRunOptions): Promise<string[]> {
  const evaluations = readEvaluations(evaluationsFile);
  if (evaluations.length < 2) return [];
  const path = join(out, 'ap.png');
  await writePlot(path, {
    title: 'COCO metrics on the validation images',
    xLabel: 'iteration',
    yLabel: 'AP',
    series: (['AP', 'AP50'] as const).map((name) => ({
      name,
      points: evaluations.map((line) => [line.iteration, line[name]] as const),
    })),
  });
  return [path];
}

function sum(list: readonly number[]): number {
  return list.reduce((a, b) => a + b, 0);
}
