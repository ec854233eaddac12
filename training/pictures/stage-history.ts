/**
 * How the boxes of an image's detections move from the initial boxes through the stages, as numbers.
 *
 * Glossary: N proposals, C classes, E experts, T stages.
 * Boxes are [x1, y1, x2, y2] in pixels of the original image and may exceed the image.
 */
import type { Trace } from '../../model/index.ts';

export type Corners = [x1: number, y1: number, x2: number, y2: number];

/** The result of one stage for one proposal. */
export interface StageStep {
  readonly box: Corners;
  /**
   * The proposal's best class at this stage and its score. At the last stage: the detected class. It can differ from
   * the best class, because NMS may have removed the detection of the best class.
   */
  readonly name: string;
  readonly label: number;
  readonly score: number;
}

export interface DetectionHistory {
  /** 0 .. N - 1. */
  readonly proposal: number;
  readonly name: string;
  readonly label: number;
  readonly score: number;
  readonly initialBox: Corners;
  /** T steps; the last one has the box of the detection. */
  readonly steps: readonly StageStep[];
}

export interface StageHistory {
  /** Detections of at least the requested score, best first. */
  readonly detections: readonly DetectionHistory[];
  /** N boxes, the input of the first stage. */
  readonly initialBoxes: readonly Corners[];
  /** E rows of N weights, each column summing to 1; null for a model without dynamic proposal generation. */
  readonly expertWeights: readonly (readonly number[])[] | null;
}

/**
 * Converts a trace to pixels of the original image, for detections of at least `minScore`.
 * @param scale pixels of the model's image per pixel of the original image, [horizontally, vertically]
 */
export function stageHistory(
  trace: Trace,
  scale: readonly [number, number],
  classNames: readonly string[],
  minScore: number,
): StageHistory {
  const [sx, sy] = scale;
  const cornersOf = (boxes: Float32Array, i: number): Corners => [
    boxes[4 * i] / sx,
    boxes[4 * i + 1] / sy,
    boxes[4 * i + 2] / sx,
    boxes[4 * i + 3] / sy,
  ];
  const classes = classNames.length;
  const proposals = trace.initialBoxes.length / 4;
  const { scores, labels, proposals: origins } = trace.detections;
  const detections: DetectionHistory[] = [];
  scores.forEach((score, i) => {
    if (score < minScore) return;
    const proposal = origins[i];
    const steps = trace.stages.map((stage, t): StageStep => {
      const own = stage.scores.subarray(proposal * classes, (proposal + 1) * classes);
      const label =
        t + 1 === trace.stages.length ? labels[i] : own.reduce((best, value, c) => (value > own[best] ? c : best), 0);
      return { box: cornersOf(stage.boxes, proposal), name: classNames[label], label, score: own[label] };
    });
    detections.push({
      proposal,
      name: classNames[labels[i]],
      label: labels[i],
      score,
      initialBox: cornersOf(trace.initialBoxes, proposal),
      steps,
    });
  });
  const weights = trace.expertWeights;
  return {
    detections,
    initialBoxes: Array.from({ length: proposals }, (_, i) => cornersOf(trace.initialBoxes, i)),
    expertWeights:
      weights &&
      Array.from({ length: weights.length / proposals }, (_, e) =>
        Array.from(weights.subarray(e * proposals, (e + 1) * proposals)),
      ),
  };
}
