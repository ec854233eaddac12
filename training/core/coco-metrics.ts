/**
 * COCO's twelve detection metrics for boxes, number for number those of pycocotools' COCOeval (iouType "bbox").
 * Its particulars are kept on purpose: crowds and objects outside the measured size range are ignored rather than missed, sorting is stable, precision is
 * read at 101 recalls after being made monotone, a mean over nothing is -1, and an annotation with id 0 can be matched but never counts as found.
 *
 * Glossary: K categories, I images, D detections, G ground truths, T = 10 IoU thresholds, R = 101 recalls, A = 4 size ranges (all, small, medium, large),
 * M = 3 caps on detections an image and category (1, 10, 100). Boxes are [x, y, width, height] in pixels.
 * Source: https://cocodataset.org/#detection-eval and pycocotools 2.0 (cocoeval.py; bbIou in maskApi.c).
 */
import type { CocoBox, CocoDetection, CocoGroundTruth } from './coco-types.ts';
import { InputError } from './errors.ts';

/** In pycocotools' order. APs, APm, APl and ARs, ARm, ARl: objects below 32², up to 96², and above, in square pixels. AR1: at most one detection an image. */
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
  /** The twelve numbers in the order of METRIC_NAMES. */
  stats: number[];
  /** The same by name. */
  metrics: CocoMetrics;
  /** The same of each category alone, by ascending id. */
  byCategory: CategoryMetrics[];
  images: number;
  groundTruths: number;
  detections: number;
  /** What a reader of the numbers must know, as sentences; usually empty. */
  warnings: string[];
}

export interface EvaluationOptions {
  /** Measure these images alone (ids of the ground truth); detections of others are left out. Default: all images. */
  imageIds?: readonly number[];
}

// numpy.linspace(0.5, 0.95, 10) and numpy.linspace(0, 1, 101), to the last bit: index * step + start, the end exactly.
const IOU_THRESHOLDS = linspace(0.5, 0.95, 10);
const RECALLS = linspace(0, 1, 101);
const SIZE_RANGES: readonly (readonly [number, number])[] = [
  [0, 1e10],
  [0, 32 ** 2],
  [32 ** 2, 96 ** 2],
  [96 ** 2, 1e10],
];
const DETECTION_CAPS = [1, 10, 100] as const;
const T = IOU_THRESHOLDS.length;
const R = RECALLS.length;
const A = SIZE_RANGES.length;
const M = DETECTION_CAPS.length;
const MAX_DETECTIONS = DETECTION_CAPS[M - 1];

/** What became of a detection at one IoU threshold and size range. */
const FALSE_POSITIVE = 0;
const TRUE_POSITIVE = 1;
const IGNORED = 2;

/**
 * Measures detections against ground truth as pycocotools' COCOeval does.
 * Throws InputError when a detection names an image or category the ground truth lacks, or holds a number that is not finite.
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

  const truths = group(groundTruth.annotations, 'annotations', known, null);
  const found = group(detections, 'detections', known, (detection) => detection.score);
  const truthArea = Float64Array.from(truths.entries, (annotation) => annotation.area);
  const isCrowd = Uint8Array.from(truths.entries, (annotation) => annotation.iscrowd);
  const countsAsFound = Uint8Array.from(truths.entries, (annotation) => Number(annotation.id !== 0));

  const byCategory = categories.map((category, k): CategoryMetrics & { curves: Curves } => {
    const [truthBegin, truthEnd] = [truths.categoryBegin[k], truths.categoryBegin[k + 1]];
    const [foundBegin, foundEnd] = [found.categoryBegin[k], found.categoryBegin[k + 1]];
    const outcome = matchCategory({
      truthImage: truths.image.subarray(truthBegin, truthEnd),
      truthBox: truths.box.subarray(4 * truthBegin, 4 * truthEnd),
      truthArea: truthArea.subarray(truthBegin, truthEnd),
      isCrowd: isCrowd.subarray(truthBegin, truthEnd),
      countsAsFound: countsAsFound.subarray(truthBegin, truthEnd),
      foundImage: found.image.subarray(foundBegin, foundEnd),
      foundBox: found.box.subarray(4 * foundBegin, 4 * foundEnd),
      score: found.score.subarray(foundBegin, foundEnd),
    });
    const curves = accumulate(outcome);
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

function linspace(start: number, stop: number, count: number): Float64Array {
  const step = (stop - start) / (count - 1);
  return Float64Array.from({ length: count }, (_, index) => (index === count - 1 ? stop : index * step + start));
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

interface KnownIds {
  /** Of the images being measured. */
  imageIndex: ReadonlyMap<number, number>;
  allImageIds: ReadonlySet<number>;
  categoryIndex: ReadonlyMap<number, number>;
}

/** Entries ordered by category, then image, then (where scored) falling score, then place in the file. */
interface Grouped<Entry> {
  entries: Entry[];
  /** [entries] index of the image. */
  image: Int32Array;
  /** [entries, 4] */
  box: Float64Array;
  /** [entries], zeros where not scored. */
  score: Float64Array;
  /** [K + 1] where each category's entries begin. */
  categoryBegin: Int32Array;
}

function group<Entry extends { image_id: number; category_id: number; bbox: CocoBox }>(
  all: readonly Entry[],
  what: string,
  known: KnownIds,
  scoreOf: ((entry: Entry) => number) | null,
): Grouped<Entry> {
  const bad = (index: number, field: string, expected: string, got: unknown) =>
    new InputError(`evaluateDetections: ${what}[${index}].${field}: expected ${expected}, got ${String(got)}`);
  all.forEach((entry, index) => {
    if (!known.allImageIds.has(entry.image_id))
      throw bad(index, 'image_id', "the id of one of the ground truth's images", entry.image_id);
    if (!known.categoryIndex.has(entry.category_id))
      throw bad(index, 'category_id', "the id of one of the ground truth's categories", entry.category_id);
    if (!entry.bbox.every(Number.isFinite)) throw bad(index, 'bbox', 'finite numbers', entry.bbox);
    if (scoreOf && !Number.isFinite(scoreOf(entry))) throw bad(index, 'score', 'a finite number', scoreOf(entry));
  });
  const measured = all.filter((entry) => known.imageIndex.has(entry.image_id));
  const category = Int32Array.from(measured, (entry) => known.categoryIndex.get(entry.category_id) ?? 0);
  const image = Int32Array.from(measured, (entry) => known.imageIndex.get(entry.image_id) ?? 0);
  const score = scoreOf ? Float64Array.from(measured, scoreOf) : new Float64Array(measured.length);
  const order = Uint32Array.from(measured.keys());
  order.sort((a, b) => category[a] - category[b] || image[a] - image[b] || score[b] - score[a] || a - b);

  const box = new Float64Array(4 * measured.length);
  order.forEach((from, to) => box.set(measured[from].bbox, 4 * to));
  const categoryBegin = new Int32Array(known.categoryIndex.size + 1);
  for (const k of category) categoryBegin[k + 1]++;
  for (let k = 1; k < categoryBegin.length; k++) categoryBegin[k] += categoryBegin[k - 1];
  return {
    entries: Array.from(order, (from) => measured[from]),
    image: Int32Array.from(order, (from) => image[from]),
    box,
    score: Float64Array.from(order, (from) => score[from]),
    categoryBegin,
  };
}

/** One category's ground truths and detections, both ordered by image, detections also by falling score. */
interface CategoryEntries {
  truthImage: Int32Array;
  truthBox: Float64Array;
  truthArea: Float64Array;
  isCrowd: Uint8Array;
  countsAsFound: Uint8Array;
  foundImage: Int32Array;
  foundBox: Float64Array;
  score: Float64Array;
}

interface Matches {
  /** [D] of the detections within the cap of 100 an image. */
  score: Float64Array;
  /** [D] place among its image's detections by score, from 0. */
  rank: Uint8Array;
  /** [A, T, D] FALSE_POSITIVE, TRUE_POSITIVE or IGNORED. */
  outcome: Uint8Array;
  /** [A] ground truths to be found. */
  positives: Int32Array;
}

function matchCategory(entries: CategoryEntries): Matches {
  const { truthImage, foundImage, truthArea, isCrowd } = entries;
  const kept: number[] = [];
  const rank: number[] = [];
  for (let d = 0, first = 0; d < foundImage.length; d++) {
    if (foundImage[d] !== foundImage[first]) first = d;
    if (d - first < MAX_DETECTIONS) {
      kept.push(d);
      rank.push(d - first);
    }
  }
  const D = kept.length;
  const foundBox = new Float64Array(4 * D);
  kept.forEach((from, to) => foundBox.set(entries.foundBox.subarray(4 * from, 4 * from + 4), 4 * to));
  const outcome = new Uint8Array(A * T * D);
  const positives = new Int32Array(A);
  for (let g = 0; g < truthImage.length; g++) {
    for (let a = 0; a < A; a++) if (!isCrowd[g] && within(truthArea[g], a)) positives[a]++;
  }

  // Both lists are sorted by image: one walk finds each image's stretch of either.
  for (let d = 0, g = 0; d < D; ) {
    const image = foundImage[kept[d]];
    let dEnd = d;
    while (dEnd < D && foundImage[kept[dEnd]] === image) dEnd++;
    while (g < truthImage.length && truthImage[g] < image) g++;
    let gEnd = g;
    while (gEnd < truthImage.length && truthImage[gEnd] === image) gEnd++;
    matchImage(entries, foundBox, d, dEnd, g, gEnd, outcome, D);
    d = dEnd;
    g = gEnd;
  }
  return { score: Float64Array.from(kept, (d) => entries.score[d]), rank: Uint8Array.from(rank), outcome, positives };
}

function within(area: number, range: number): boolean {
  const [least, most] = SIZE_RANGES[range];
  return area >= least && area <= most;
}

/** Matches detections dBegin..dEnd with ground truths gBegin..gEnd, which are all those of one image, and writes their outcomes. */
function matchImage(
  { truthBox, truthArea, isCrowd, countsAsFound }: CategoryEntries,
  foundBox: Float64Array,
  dBegin: number,
  dEnd: number,
  gBegin: number,
  gEnd: number,
  outcome: Uint8Array,
  D: number,
): void {
  const G = gEnd - gBegin;
  const iou = new Float64Array((dEnd - dBegin) * G);
  for (let d = dBegin; d < dEnd; d++) {
    for (let g = gBegin; g < gEnd; g++)
      iou[(d - dBegin) * G + g - gBegin] = boxIou(foundBox, 4 * d, truthBox, 4 * g, isCrowd[g] === 1);
  }
  const taken = new Uint8Array(G);
  for (let a = 0; a < A; a++) {
    // Ground truths to be found come first, ignored ones last, else in file order.
    const ignored = Uint8Array.from({ length: G }, (_, j) =>
      Number(isCrowd[gBegin + j] === 1 || !within(truthArea[gBegin + j], a)),
    );
    const order = [...ignored.keys()].sort((i, j) => ignored[i] - ignored[j] || i - j);
    for (let t = 0; t < T; t++) {
      taken.fill(0);
      for (let d = dBegin; d < dEnd; d++) {
        let best = Math.min(IOU_THRESHOLDS[t], 1 - 1e-10);
        let match = -1;
        for (const j of order) {
          // A crowd can be matched any number of times.
          if (taken[j] && !isCrowd[gBegin + j]) continue;
          if (match >= 0 && !ignored[match] && ignored[j]) break;
          const overlap = iou[(d - dBegin) * G + j];
          // Equal overlap moves on to the later ground truth, as in pycocotools.
          if (overlap < best) continue;
          best = overlap;
          match = j;
        }
        if (match >= 0) taken[match] = 1;
        let result = FALSE_POSITIVE;
        if (match >= 0 && ignored[match]) result = IGNORED;
        else if (match >= 0 && countsAsFound[gBegin + match]) result = TRUE_POSITIVE;
        else if (!within(foundBox[4 * d + 2] * foundBox[4 * d + 3], a)) result = IGNORED;
        outcome[(a * T + t) * D + d] = result;
      }
    }
  }
}

/** Intersection over union; over the detection's area alone where the ground truth is a crowd. */
function boxIou(found: Float64Array, d: number, truth: Float64Array, g: number, crowd: boolean): number {
  const width = Math.min(found[d + 2] + found[d], truth[g + 2] + truth[g]) - Math.max(found[d], truth[g]);
  if (width <= 0) return 0;
  const height =
    Math.min(found[d + 3] + found[d + 1], truth[g + 3] + truth[g + 1]) - Math.max(found[d + 1], truth[g + 1]);
  if (height <= 0) return 0;
  const intersection = width * height;
  const foundArea = found[d + 2] * found[d + 3];
  const truthArea = truth[g + 2] * truth[g + 3];
  return intersection / (crowd ? foundArea : foundArea + truthArea - intersection);
}

interface Curves {
  /** [A, T, R] at the cap of 100 detections; -1 where nothing is to be found. */
  precision: Float64Array;
  /** [A, T, M] the highest recall; -1 where nothing is to be found. */
  recall: Float64Array;
}

/** Precision over recall of one category, from its detections in the order of falling score. */
function accumulate({ score, rank, outcome, positives }: Matches): Curves {
  const D = score.length;
  const order = Uint32Array.from(score.keys()).sort((a, b) => score[b] - score[a] || a - b);
  const precision = new Float64Array(A * T * R).fill(-1);
  const recall = new Float64Array(A * T * M).fill(-1);
  const precisionAt = new Float64Array(D);
  const recallAt = new Float64Array(D);
  for (let a = 0; a < A; a++) {
    if (positives[a] === 0) continue;
    for (let t = 0; t < T; t++) {
      const row = a * T + t;
      const foundByCap = [0, 0, 0];
      let truePositives = 0;
      let falsePositives = 0;
      for (let n = 0; n < D; n++) {
        const d = order[n];
        const result = outcome[row * D + d];
        if (result === TRUE_POSITIVE) {
          truePositives++;
          for (let m = 0; m < M; m++) if (rank[d] < DETECTION_CAPS[m]) foundByCap[m]++;
        } else if (result === FALSE_POSITIVE) falsePositives++;
        recallAt[n] = truePositives / positives[a];
        precisionAt[n] = truePositives / (falsePositives + truePositives + Number.EPSILON);
      }
      for (let n = D - 1; n > 0; n--) precisionAt[n - 1] = Math.max(precisionAt[n - 1], precisionAt[n]);
      for (let r = 0, n = 0; r < R; r++) {
        while (n < D && recallAt[n] < RECALLS[r]) n++;
        precision[row * R + r] = n < D ? precisionAt[n] : 0;
      }
      for (let m = 0; m < M; m++) recall[row * M + m] = foundByCap[m] / positives[a];
    }
  }
  return { precision, recall };
}

/** The twelve numbers: means over categories, IoU thresholds and recalls of whatever could be measured. */
function summarize(categories: readonly Curves[]): number[] {
  const AP50 = IOU_THRESHOLDS.indexOf(0.5);
  const AP75 = IOU_THRESHOLDS.indexOf(0.75);
  const averagePrecision = (a: number, from = 0, to = T) =>
    meanOfMeasured(categories.map(({ precision }) => precision.subarray((a * T + from) * R, (a * T + to) * R)));
  const averageRecall = (a: number, m: number) =>
    meanOfMeasured(
      categories.map(({ recall }) => recall.subarray(a * T * M, (a + 1) * T * M).filter((_, index) => index % M === m)),
    );
  return [
    averagePrecision(0),
    averagePrecision(0, AP50, AP50 + 1),
    averagePrecision(0, AP75, AP75 + 1),
    averagePrecision(1),
    averagePrecision(2),
    averagePrecision(3),
    averageRecall(0, 0),
    averageRecall(0, 1),
    averageRecall(0, 2),
    averageRecall(1, 2),
    averageRecall(2, 2),
    averageRecall(3, 2),
  ];
}

function meanOfMeasured(parts: readonly Float64Array[]): number {
  let sum = 0;
  let count = 0;
  for (const part of parts) {
    for (const value of part) {
      if (value <= -1) continue;
      sum += value;
      count++;
    }
  }
  return count === 0 ? -1 : sum / count;
}
