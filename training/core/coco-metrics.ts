/**
 * COCO's twelve detection metrics for boxes, equal to those of pycocotools' COCOeval (iouType "bbox").
 *
 * The special rules of pycocotools are kept on purpose:
 * - Crowds, and objects outside the measured size range, are ignored. They are not missed objects.
 * - Sorting is stable.
 * - Precision is read at 101 recalls after it was made monotone.
 * - A mean over nothing is -1.
 * - An annotation with id 0 can be matched but never counts as found.
 *
 * Boxes are [x, y, width, height] in pixels. Letters for dimensions are explained in coco-protocol.ts.
 * Source: https://cocodataset.org/#detection-eval and pycocotools 2.0 (cocoeval.py; bbIou in maskApi.c).
 */
import { accumulate, summarize, type Curves } from './coco-curves.ts';
import { groupEntries, type KnownIds } from './coco-grouping.ts';
import { matchCategory } from './coco-matching.ts';
import type { CocoDetection, CocoGroundTruth } from './coco-types.ts';
import { InputError } from './errors.ts';

/**
 * In pycocotools' order. APs, APm, APl and ARs, ARm, ARl: objects of at most 32², 96², and more square pixels.
 * AR1: at most one detection per image.
 */
export const METRIC_NAMES = [
  'AP',
  'AP50',
  'AP75',
  'APs',
  'APm',
  'APl',
  'AR1',
  'AR10',
  'AR100',
  'ARs',
  'ARm',
  'ARl',
] as const;
export type MetricName = (typeof METRIC_NAMES)[number];
/** Fractions between 0 and 1; -1 where there is no ground truth to measure by. */
export type CocoMetrics = Record<MetricName, number>;

export type CategoryMetrics = { id: number; name: string; groundTruths: number; detections: number } & CocoMetrics;

export interface CocoEvaluation {
  /** The twelve metrics in the order of METRIC_NAMES. */
  stats: number[];
  /** The twelve metrics by name. */
  metrics: CocoMetrics;
  /** The metrics of each category alone, by ascending id. */
  byCategory: CategoryMetrics[];
  images: number;
  groundTruths: number;
  detections: number;
  /** Sentences for the user; usually none. */
  warnings: string[];
}

export interface EvaluationOptions {
  /** Ids of the images to measure. Detections of other images are ignored. Default: all images. */
  imageIds?: readonly number[];
}

/**
 * Measures detections against ground truth as pycocotools' COCOeval does.
 * @throws InputError where a detection has an unknown image or category, or a number that is not finite
 */
export function evaluateDetections(
  groundTruth: CocoGroundTruth,
  detections: readonly CocoDetection[],
  options: EvaluationOptions = {},
): CocoEvaluation {
  const imageIndex = indexImages(groundTruth, options.imageIds);
  const allImageIds = new Set(groundTruth.images.map((image) => image.id));
  const categories = [...groundTruth.categories].sort((a, b) => a.id - b.id);
  const categoryIndex = new Map(categories.map((category, index) => [category.id, index]));
  const known: KnownIds = { imageIndex, allImageIds, categoryIndex };

  const truths = groupEntries(groundTruth.annotations, 'annotations', known, null);
  const found = groupEntries(detections, 'detections', known, (detection) => detection.score);
  const truthArea = Float64Array.from(truths.entries, (annotation) => annotation.area);
  const isCrowd = Uint8Array.from(truths.entries, (annotation) => annotation.iscrowd);
  const countsAsFound = Uint8Array.from(truths.entries, (annotation) => Number(annotation.id !== 0));

  const byCategory = categories.map((category, k): CategoryMetrics & { curves: Curves } => {
    const [truthBegin, truthEnd] = [truths.categoryBegin[k], truths.categoryBegin[k + 1]];
    const [foundBegin, foundEnd] = [found.categoryBegin[k], found.categoryBegin[k + 1]];
    const matches = matchCategory({
      truthImage: truths.image.subarray(truthBegin, truthEnd),
      truthBox: truths.box.subarray(4 * truthBegin, 4 * truthEnd),
      truthArea: truthArea.subarray(truthBegin, truthEnd),
      isCrowd: isCrowd.subarray(truthBegin, truthEnd),
      countsAsFound: countsAsFound.subarray(truthBegin, truthEnd),
      foundImage: found.image.subarray(foundBegin, foundEnd),
      foundBox: found.box.subarray(4 * foundBegin, 4 * foundEnd),
      score: found.score.subarray(foundBegin, foundEnd),
    });
    const curves = accumulate(matches);
    const { id, name } = category;
    return {
      id,
      name,
      groundTruths: truthEnd - truthBegin,
      detections: foundEnd - foundBegin,
      ...named(summarize([curves])),
      curves,
    };
  });

  const stats = summarize(byCategory.map(({ curves }) => curves));
  const warnings: string[] = [];
  if (countsAsFound.includes(0)) {
    warnings.push(
      'Annotation id 0: like pycocotools, an object with this id never counts as found. Number annotations from 1.',
    );
  }
  return {
    stats,
    metrics: named(stats),
    byCategory: byCategory.map(({ curves: _, ...metrics }) => metrics),
    images: imageIndex.size,
    groundTruths: truths.entries.length,
    detections: found.entries.length,
    warnings,
  };
}

function named(stats: readonly number[]): CocoMetrics {
  return Object.fromEntries(METRIC_NAMES.map((name, index) => [name, stats[index]])) as CocoMetrics;
}

function indexImages(groundTruth: CocoGroundTruth, chosen: readonly number[] | undefined): Map<number, number> {
  const all = new Set(groundTruth.images.map((image) => image.id));
  for (const id of chosen ?? []) {
    if (!all.has(id))
      throw new InputError(`evaluateDetections: imageIds: expected ids of the ground truth's images, got ${id}`);
  }
  const ids = [...new Set(chosen ?? all)].sort((a, b) => a - b);
  return new Map(ids.map((id, index) => [id, index]));
}
