/**
 * Detections from the logits and boxes of a stage, on the host: the best scores, class-wise NMS, clipping.
 * (On the device, ops of the engine compute boxes from deltas, IoU and GIoU: `decodeBoxes`, `boxIou`, `boxGiou`.)
 *
 * Glossary: N proposals, C classes, D detections. Boxes are xyxy in pixels of the image, flat: 4 numbers per box.
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
  /** D: the proposal of each detection. A proposal can be detected as several classes. */
  readonly proposals: Uint32Array;
}

/** Clips xyxy boxes to 0 .. width, 0 .. height. */
export function clipBoxes(
  boxes: ArrayLike<number>,
  [width, height]: readonly [number, number],
): Float32Array<ArrayBuffer> {
  return Float32Array.from(boxes, (x, i) => Math.min(Math.max(x, 0), i % 2 === 0 ? width : height));
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** The largest sigmoid scores of N x C logits. */
export interface TopScores {
  readonly scores: Float32Array<ArrayBuffer>;
  readonly labels: Uint32Array<ArrayBuffer>;
  /** The proposal of each score. A proposal can appear with several classes. */
  readonly proposals: Uint32Array<ArrayBuffer>;
}

/**
 * The `count` best of the N * C scores, best first. Equal logits are sorted by index. NaN comes last.
 * @param logits [N, C]
 */
export function topScores(logits: ArrayLike<number>, classes: number, count: number): TopScores {
  const rank = Float64Array.from(logits, (x) => (Number.isNaN(x) ? -Infinity : x));
  const order = Uint32Array.from(rank, (_, i) => i)
    .sort((a, b) => (rank[a] === rank[b] ? a - b : rank[b] - rank[a]))
    .subarray(0, count);
  return {
    scores: Float32Array.from(order, (i) => sigmoid(logits[i])),
    labels: Uint32Array.from(order, (i) => i % classes),
    proposals: Uint32Array.from(order, (i) => Math.floor(i / classes)),
  };
}

/**
 * Class-wise non-maximum suppression. From the best score down, a box is kept unless a kept box of the same class
 * overlaps it by more than `threshold` IoU. Equal scores are sorted by index. (The usual implementation adds an offset
 * per class to the boxes, which causes rounding errors. This one does not.)
 *
 * @returns indices of the kept boxes, best first
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
    const sameClass = keptOfClass.get(labels[i]) ?? [];
    if (sameClass.some((j) => iou(j, i) > threshold)) continue;
    kept.push(i);
    sameClass.push(i);
    keptOfClass.set(labels[i], sameClass);
  }
  return kept;
}

/**
 * Detections of one image from the last stage: the N best of the N * C scores. NMS within each class follows, unless
 * the matcher is one-to-one.
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
  const candidates = Float32Array.from(
    { length: 4 * proposals.length },
    (_, i) => boxes[4 * proposals[Math.floor(i / 4)] + (i % 4)],
  );
  if (MATCHERS[config.matcher].oneToOne) return { scores, labels, boxes: clipBoxes(candidates, size), proposals };
  const kept = nms(candidates, scores, labels, config.nmsThreshold);
  return {
    scores: Float32Array.from(kept, (i) => scores[i]),
    labels: Uint32Array.from(kept, (i) => labels[i]),
    boxes: clipBoxes(
      kept.flatMap((i) => Array.from(candidates.subarray(4 * i, 4 * i + 4))),
      size,
    ),
    proposals: Uint32Array.from(kept, (i) => proposals[i]),
  };
}
