/** Learning rate schedules. */

export interface WarmupStepSchedule {
  readonly baseLearningRate: number;
  /** Iterations of warm-up; 0: no warm-up. */
  readonly warmupIterations: number;
  /** Factor of the learning rate at iteration 0. */
  readonly warmupFactor: number;
  /** Iterations in ascending order. From each on, the learning rate is multiplied once more by `decayFactor`. */
  readonly milestones: readonly number[];
  readonly decayFactor: number;
}

/**
 * Linear warm-up times step decay, as in Detectron2's WarmupMultiStepLR. If a milestone lies within the warm-up, both
 * factors apply.
 * @param iteration number of optimizer steps before this one
 */
export function learningRateAt(
  iteration: number,
  { baseLearningRate, warmupIterations, warmupFactor, milestones, decayFactor }: WarmupStepSchedule,
): number {
  const progress = iteration < warmupIterations ? iteration / warmupIterations : 1;
  const warmup = warmupFactor * (1 - progress) + progress;
  return baseLearningRate * warmup * decayFactor ** milestones.filter((milestone) => iteration >= milestone).length;
}
