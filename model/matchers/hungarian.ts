/** Bipartite matching as in DETR and Sparse R-CNN [SR 3.1, arXiv 2011.12450]. */
import { linearSumAssignment, matchingCosts } from '../../engine/index.ts';
import { matchingWeights, type Matcher } from './matcher.ts';

/** One proposal per ground truth, at the minimum total cost of class, L1 and GIoU. */
export const HUNGARIAN: Matcher = {
  oneToOne: true,
  match({ logits, boxes, targets }, config) {
    const costs = matchingCosts({ logits, boxes }, targets, 'hungarian', matchingWeights(config, 1));
    return { matched: linearSumAssignment(costs, targets.counts).rows, supply: null, plan: null };
  },
};
