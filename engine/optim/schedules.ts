/** Learning rate by iteration. */

export interface WarmupStepSchedule {
  readonly baseLearningRate: number;
  /** Iterations of warm-up; 0: none. */
  readonly warmupIterations: number;
  /** Share of the learning rate at iteration 0. */
  readonly warmupFactor: number;
  /** Rising iterations from which on the learning rate is multiplied once more by `decayFactor`. */
  readonly milestones: readonly number[];
  readonly decayFactor: number;
}

/**
 * Linear warm-up times step decay, as Detectron2's WarmupMultiStepLR. The two overlap where a milestone lies within the warm-up.
 * @param iteration counted from 0: the optimiser steps done before
 */
export function learningRateAt(
  iteration: number,
  { baseLearningRate, warmupIterations, warmupFactor, milestones, decayFactor }: WarmupStepSchedule,
): number {
  const progress = iteration < warmupIterations ? iteration / warmupIterations : 1;
  const warmup = warmupFactor * (1 - progress) + progress;
  return baseLearningRate * warmup * decayFactor ** milestones.filter((milestone) => iteration >= milestone).length;
}
