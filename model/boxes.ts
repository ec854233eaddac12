/**
 * Boxes on the host: clipping, the best scores, class-wise NMS: from a stage's logits and boxes to detections.
 * (Delta coding, IoU and GIoU on the device are ops of the engine: `decodeBoxes`, `boxIou`, `boxGiou`.)
 *
 * Glossary: N proposals, C classes, D detections. Boxes are xyxy in pixels of the image, flat: 4 numbers a box.
 */
import type { ModelConfig } from './config.ts';
import { MATCHERS } from './matching.ts';

/** Detections of one image, best first. */
export interface Detections {
  /** D, in 0 .. 1. */
  readonly scores: Float32Array;
  /** D class numbers. */
  readonly labels: Uint32Array;
  /** 4 D, clipped to the image. */
  readonly boxes: Float32Array;
  /** The proposal each comes from; one proposal may be detected as several classes. */
  readonly proposals: Uint32Array;
}

/** Clips corner boxes to 0 .. width, 0 .. height. */
export function clipBoxes(
  boxes: ArrayLike<number>,
  [width, height]: readonly [number, number],
): Float32Array<ArrayBuffer> {
  return Float32Array.from(boxes, (x, i) => Math.min(Math.max(x, 0), i % 2 === 0 ? width : height));
}

/** The largest sigmoid scores of N x C logits. */
export interface TopScores {
  readonly scores: Float32Array<ArrayBuffer>;
  readonly labels: Uint32Array<ArrayBuffer>;
  /** The proposal each score belongs to; one proposal may appear with several classes. */
  readonly proposals: Uint32Array<ArrayBuffer>;
}

/**
 * The `count` best of the N * C scores, best first; equal logits by lower index, NaN last.
 * @param logits [N, C]
 */
export function topScores(logits: ArrayLike<number>, classes: number, count: number): TopScores {
  const rank = Float64Array.from(logits, (x) => (Number.isNaN(x) ? -Infinity : x));
  const order = Uint32Array.from(rank, (_, i) => i)
    .sort((a, b) => (rank[a] === rank[b] ? a - b : rank[b] - rank[a]))
    .subarray(0, count);
  return {
    scores: Float32Array.from(order, (i) => 1 / (1 + Math.exp(-logits[i]))),
    labels: Uint32Array.from(order, (i) => i % classes),
    proposals: Uint32Array.from(order, (i) => Math.floor(i / classes)),
  };
}

/**
 * Class-wise non-maximum suppression: from the best score down, a box stays unless a better one that stays, of the same class, overlaps it by more than
 * `threshold` IoU. Equal scores by lower index. (The usual trick of shifting each class's boxes apart, without its rounding.)
 *
 * @returns indices of the boxes that stay, best first
 */
export function nms(
  boxes: ArrayLike<number>,
  scores: ArrayLike<number>,
  labels: ArrayLike<number>,
  threshold: number,
): number[] {
  const area = (i: number): number => (boxes[4 * i + 2] - boxes[4 * i]) * (boxes[4 * i + 3] - boxes[4 * i + 1]);
  const iou = (i: number, j: number): number => {
    const w = Math.max(0, Math.min(boxes[4 * i + 2], boxes[4 * j + 2]) - Math.max(boxes[4 * i], boxes[4 * j]));
    const h = Math.max(0, Math.min(boxes[4 * i + 3], boxes[4 * j + 3]) - Math.max(boxes[4 * i + 1], boxes[4 * j + 1]));
    return (w * h) / (area(i) + area(j) - w * h);
  };
  const order = Array.from(scores, (_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
  const kept: number[] = [];
  const keptOfClass = new Map<number, number[]>();
  for (const i of order) {
    const rivals = keptOfClass.get(labels[i]) ?? [];
    if (rivals.some((j) => iou(j, i) > threshold)) continue;
    kept.push(i);
    rivals.push(i);
    keptOfClass.set(labels[i], rivals);
  }
  return kept;
}

/**
 * Detections of one image from the last stage: the N best of the N * C scores; with the many-to-one matcher (OTA) NMS within each class.
 *
 * @param logits [N, C]
 * @param boxes  [N, 4] xyxy in pixels
 * @param size   width and height of the image
 */
export function selectDetections(
  logits: ArrayLike<number>,
  boxes: ArrayLike<number>,
  size: readonly [number, number],
  config: Pick<ModelConfig, 'numProposals' | 'numClasses' | 'matcher' | 'nmsThreshold'>,
): Detections {
  const { scores, labels, proposals } = topScores(logits, config.numClasses, config.numProposals);
  const own = Float32Array.from(
    { length: 4 * proposals.length },
    (_, i) => boxes[4 * proposals[Math.floor(i / 4)] + (i % 4)],
  );
  if (MATCHERS[config.matcher].oneToOne) return { scores, labels, boxes: clipBoxes(own, size), proposals };
  const kept = nms(own, scores, labels, config.nmsThreshold);
  return {
    scores: Float32Array.from(kept, (i) => scores[i]),
    labels: Uint32Array.from(kept, (i) => labels[i]),
    boxes: clipBoxes(
      kept.flatMap((i) => Array.from(own.subarray(4 * i, 4 * i + 4))),
      size,
    ),
    proposals: Uint32Array.from(kept, (i) => proposals[i]),
  };
}
