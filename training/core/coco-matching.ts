/**
 * Matches the detections of one category with its ground truths, as pycocotools' COCOeval does.
 * Letters for dimensions are explained in coco-protocol.ts.
 */
import { A, IOU_THRESHOLDS, MAX_DETECTIONS, SIZE_RANGES, T } from './coco-protocol.ts';

/** Outcomes of a detection at one IoU threshold and size range. The metrics do not count ignored detections. */
export const FALSE_POSITIVE = 0;
export const TRUE_POSITIVE = 1;
const IGNORED = 2;

/** One category's ground truths and detections, ordered by image; detections also by descending score. */
export interface CategoryEntries {
  /** [G] index of the image. */
  truthImage: Int32Array;
  /** [G, 4] x, y, width, height. */
  truthBox: Float64Array;
  /** [G] square pixels. */
  truthArea: Float64Array;
  /** [G] 1: crowd. */
  isCrowd: Uint8Array;
  /** [G] 0: a match with this ground truth is no true positive (annotation id 0). */
  countsAsFound: Uint8Array;
  /** [D] index of the image. */
  foundImage: Int32Array;
  /** [D, 4] x, y, width, height. */
  foundBox: Float64Array;
  /** [D] */
  score: Float64Array;
}

/** The outcomes of a category. D: its detections within the cap of 100 per image. */
export interface Matches {
  /** [D] */
  score: Float64Array;
  /** [D] place among the detections of the image by score, from 0. */
  rank: Uint8Array;
  /** [A, T, D] FALSE_POSITIVE, TRUE_POSITIVE or IGNORED. */
  outcome: Uint8Array;
  /** [A] number of ground truths to find. */
  positives: Int32Array;
}

/** Matches the detections of a category, image by image. */
export function matchCategory(entries: CategoryEntries): Matches {
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

  // Both lists are sorted by image, so one walk finds the range of each image in both.
  for (let d = 0, g = 0; d < D; ) {
    const image = foundImage[kept[d]];
    let dEnd = d;
    while (dEnd < D && foundImage[kept[dEnd]] === image) dEnd++;
    while (g < truthImage.length && truthImage[g] < image) g++;
    let gEnd = g;
    while (gEnd < truthImage.length && truthImage[gEnd] === image) gEnd++;
    matchImage(entries, { foundBox, dBegin: d, dEnd, gBegin: g, gEnd, D }, outcome);
    d = dEnd;
    g = gEnd;
  }
  return { score: Float64Array.from(kept, (d) => entries.score[d]), rank: Uint8Array.from(rank), outcome, positives };
}

/** Whether an area lies in a size range. */
function within(area: number, range: number): boolean {
  const [min, max] = SIZE_RANGES[range];
  return area >= min && area <= max;
}

/** The ranges of one image's detections and ground truths. */
interface ImageRange {
  /** [D, 4] boxes of all detections of the category within the cap. */
  readonly foundBox: Float64Array;
  readonly dBegin: number;
  readonly dEnd: number;
  readonly gBegin: number;
  readonly gEnd: number;
  readonly D: number;
}

/** Matches the detections of one image with its ground truths, and writes their outcomes [A, T, D]. */
function matchImage(
  { truthBox, truthArea, isCrowd, countsAsFound }: CategoryEntries,
  { foundBox, dBegin, dEnd, gBegin, gEnd, D }: ImageRange,
  outcome: Uint8Array,
): void {
  const G = gEnd - gBegin;
  const iou = new Float64Array((dEnd - dBegin) * G);
  for (let d = dBegin; d < dEnd; d++) {
    for (let g = gBegin; g < gEnd; g++)
      iou[(d - dBegin) * G + g - gBegin] = boxIou(foundBox, 4 * d, truthBox, 4 * g, isCrowd[g] === 1);
  }
  const taken = new Uint8Array(G);
  for (let a = 0; a < A; a++) {
    // Ground truths to find come before ignored ground truths; both are in file order.
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
          // Of ground truths with equal overlap, the last one is matched, as in pycocotools.
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

/** Intersection over union. For crowds: intersection over the area of the detection. */
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
