/** Optimal transport assignment [OTA, arXiv 2103.14259] with unit increasing [DSR 3.2, arXiv 2205.02101]. */
import { matchingCosts, transportAssignment, transportSupply } from '../../engine/index.ts';
import { matchingWeights, type Matcher } from './matcher.ts';

/**
 * Ground truths and background supply units to proposals at the minimum total cost. Each ground truth supplies k units,
 * more at later stages, so that it can have several proposals.
 */
export const OTA: Matcher = {
  oneToOne: false,
  match({ logits, boxes, targets }, config, details) {
    const costs = matchingCosts(
      { logits, boxes },
      targets,
      'transport',
      matchingWeights(config, 1 / config.sinkhornEpsilon),
    );
    const supply = transportSupply(boxes, targets, {
      k: config.otaK,
      topQ: config.otaTopQ,
      unitStep: config.unitIncreasing ? config.unitStep : null,
      maxPositiveFraction: config.maxPositiveFraction,
    });
    const { matched, plan } = transportAssignment(costs, supply, targets.counts, {
      iterations: config.sinkhornIterations,
      plan: details,
    });
    return { matched, supply: details ? supply : null, plan };
  },
};
