/**
 * The interface of matchers. A matcher decides at every stage which ground truth each proposal is trained on.
 *
 * Glossary: B images, N proposals, C classes, M rows of ground truths per image (padded), T stages.
 * Boxes are xyxy, pixels of the padded batch.
 */
import type { MatchingWeights, Tensor } from '../../engine/index.ts';
import type { Targets } from '../targets.ts';

/** The part of the model's configuration that matchers and losses read. */
export interface MatcherConfig {
  /** Weights of the class, L1 and GIoU terms in loss and matching. */
  readonly classWeight: number;
  readonly l1Weight: number;
  readonly giouWeight: number;
  readonly focalAlpha: number;
  readonly focalGamma: number;
  /** OTA: number of units that each ground truth supplies. 0: dynamic k [OTA 3.3]. */
  readonly otaK: number;
  /** OTA: q. Dynamic k is the sum of the q largest IoUs. */
  readonly otaTopQ: number;
  /** OTA: fewer units at early stages [DSR 3.2]. */
  readonly unitIncreasing: boolean;
  readonly unitStep: number;
  /** OTA: maximum share of the proposals that becomes positive. */
  readonly maxPositiveFraction: number;
  readonly sinkhornEpsilon: number;
  readonly sinkhornIterations: number;
}

/** The predictions of all stages, and the ground truths. */
export interface MatchingInput {
  /** [T, B, N, C], before the sigmoid. */
  readonly logits: Tensor;
  /** [T, B, N, 4]. */
  readonly boxes: Tensor;
  readonly targets: Targets;
}

export interface Matches {
  /** i32 [T, B, N]: the ground truth of each proposal, -1 for a negative. */
  readonly matched: Tensor;
  /** OTA with `details`: f32 [T, B, M + 1], units of each ground truth; the last are the background's. Else null. */
  readonly supply: Tensor | null;
  /** OTA with `details`: f32 [T, B, M + 1, N], the transport plan. Otherwise null. */
  readonly plan: Tensor | null;
}

export interface Matcher {
  /** True: each ground truth gets one proposal at most, so that detections need no NMS. */
  readonly oneToOne: boolean;
  /** Runs on the device, without gradients, for all stages and images at once. Nothing is read back. */
  match(input: MatchingInput, config: MatcherConfig, details: boolean): Matches;
}

/** The weights of the cost's terms, each multiplied by `scale`. */
export function matchingWeights(config: MatcherConfig, scale: number): MatchingWeights {
  return {
    classWeight: config.classWeight * scale,
    l1Weight: config.l1Weight * scale,
    giouWeight: config.giouWeight * scale,
    alpha: config.focalAlpha,
    gamma: config.focalGamma,
  };
}
