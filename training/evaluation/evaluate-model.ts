/** Measures a detector on a split of a data set with COCO's metrics. */
import type { Detections } from '../../model/index.ts';
import { evaluateDetections, type CocoEvaluation } from '../core/coco-metrics.ts';
import type { CocoDetection } from '../core/coco-types.ts';
import type { Detector } from '../core/detector.ts';
import type { ImageRecord } from '../core/image-record.ts';
import type { EvaluationResize } from '../core/augmentation.ts';
import { cocoAnnotations, splitRecords, type Dataset } from '../data/index.ts';
import { createEvaluationLoader } from '../data/loader.ts';

export interface ModelEvaluation {
  readonly evaluation: CocoEvaluation;
  /** COCO's results format, boxes in pixels of the original images. */
  readonly detections: CocoDetection[];
  readonly secondsPerImage: number;
}

export interface EvaluateOptions {
  /** Images per forward pass. */
  readonly batchSize: number;
  readonly resize: EvaluationResize;
  /** Threads that decode images. */
  readonly workers: number;
  /** Called after each batch with the number of measured images and the number of all images. */
  readonly progress?: (done: number, total: number) => void;
  /** Called once for each image that cannot be read, with the reason. It counts as an image without detections. */
  readonly onUnreadable?: (file: string, reason: string) => void;
}

/**
 * Detections of one image in COCO's format: boxes [x, y, width, height] in pixels of the original image.
 * @param scale network pixels per pixel of the original, [horizontally, vertically]
 */
function toCoco(
  detections: Detections,
  record: Pick<ImageRecord, 'id'>,
  scale: readonly [number, number],
  categoryIds: readonly number[],
): CocoDetection[] {
  const [sx, sy] = scale;
  return Array.from(detections.scores, (score, i) => {
    const [x0, y0, x1, y1] = detections.boxes.subarray(4 * i, 4 * i + 4);
    return {
      image_id: record.id,
      category_id: categoryIds[detections.labels[i]],
      bbox: [x0 / sx, y0 / sy, (x1 - x0) / sx, (y1 - y0) / sy],
      score,
    };
  });
}

/**
 * Detects on every image of a split and computes COCO's metrics.
 * Rejects with InputError if more than half of the images cannot be read.
 */
export async function evaluateModel(
  detector: Detector,
  dataset: Dataset,
  split: string,
  { batchSize, resize, workers, progress, onUnreadable }: EvaluateOptions,
): Promise<ModelEvaluation> {
  const records = splitRecords(dataset, split);
  const loader = createEvaluationLoader({ records, batchSize, resize, workers, onUnreadable });
  const detections: CocoDetection[] = [];
  const start = performance.now();
  try {
    let done = 0;
    for await (const { images } of loader) {
      const found = await detector.detect(images);
      found.forEach((ofImage, i) => {
        const { record, scale, unreadable } = images[i];
        if (!unreadable) detections.push(...toCoco(ofImage, record, scale, dataset.categoryIds));
      });
      done += images.length;
      progress?.(done, records.length);
    }
  } finally {
    await loader.close();
  }
  return {
    evaluation: evaluateDetections(cocoAnnotations(dataset, split), detections),
    detections,
    secondsPerImage: (performance.now() - start) / 1000 / records.length,
  };
}

/** The content of `evaluation.json`. */
export function evaluationReport(
  { evaluation, secondsPerImage }: ModelEvaluation,
  split: string,
  weights: string,
): Record<string, unknown> {
  const { metrics, byCategory, images, groundTruths, detections, warnings } = evaluation;
  return { weights, split, images, groundTruths, detections, ...metrics, byCategory, warnings, secondsPerImage };
}
