/**
 * The training loss: at every stage, labels are assigned to the proposals, and class, L1 and GIoU losses are computed.
 * The total is their sum.
 *
 * Glossary: B images, N proposals, C classes, T stages. Boxes are xyxy, pixels of the padded batch.
 * Sources: [SR] Sparse R-CNN 3.1, arXiv 2011.12450; [DSR] Dynamic Sparse R-CNN, arXiv 2205.02101.
 */
import { setLoss, stack, sum, type Tensor } from '../engine/index.ts';
import { assign, type Assignment, type MatchingConfig } from './matching.ts';
import type { Targets } from './targets.ts';

/** The terms of the loss, in the order of `Losses.parts`. `name` is used in files, `label` in plots. */
export const LOSS_PARTS = [
  { name: 'class', label: 'class' },
  { name: 'l1', label: 'L1' },
  { name: 'giou', label: 'GIoU' },
] as const;

/** The predictions of a stage. */
export interface StagePrediction {
  /** [B, N, C], before the sigmoid. */
  readonly logits: Tensor;
  /** [B, N, 4]. */
  readonly boxes: Tensor;
}

export interface Losses extends Assignment {
  /** Scalar: the sum of `parts`. */
  readonly total: Tensor;
  /** [T, 3]: class, L1 and GIoU loss of each stage, weighted and divided by the stage's positives. */
  readonly parts: Tensor;
}

export type CriterionConfig = MatchingConfig & { readonly numStages: number };

/**
 * Assigns labels and computes the losses, for all stages at once. Nothing is read back. Loss and matching use the same
 * weights.
 * @throws RangeError if there are not `numStages` stages, or if a label is not one of the C classes
 */
export function criterion(stages: readonly StagePrediction[], targets: Targets, config: CriterionConfig): Losses {
  if (stages.length !== config.numStages)
    throw new RangeError(`criterion: stages: expected ${config.numStages} (numStages), got ${stages.length}`);
  const { classWeight, l1Weight, giouWeight, focalAlpha: alpha, focalGamma: gamma } = config;
  return stages[0].logits.device.scope(() => {
    const logits = stack(
      stages.map((stage) => stage.logits),
      0,
    );
    const boxes = stack(
      stages.map((stage) => stage.boxes),
      0,
    );
    const assignment = assign({ logits, boxes, targets }, config);
    const parts = setLoss({ logits, boxes }, assignment, targets, { classWeight, l1Weight, giouWeight, alpha, gamma });
    return { total: sum(parts), parts, ...assignment };
  });
}
