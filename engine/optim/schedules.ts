/** Learning rate schedules. Iterations are counted from 0: the number of optimizer steps before the step. */

export interface Warmup {
  readonly baseLearningRate: number;
  /** Iterations of warm-up; 0: no warm-up. */
  readonly warmupIterations: number;
  /** Factor of the learning rate at iteration 0. */
  readonly warmupFactor: number;
}

export interface WarmupStepSchedule extends Warmup {
  /** Iterations in ascending order. From each on, the learning rate is multiplied once more by `decayFactor`. */
  readonly milestones: readonly number[];
  readonly decayFactor: number;
}

export interface WarmupCosineSchedule extends Warmup {
  /** Iterations of the whole training. */
  readonly iterations: number;
  /** Factor of the learning rate at the end. */
  readonly finalFactor: number;
}

/** The factor of a linear warm-up. */
function warmupAt(iteration: number, { warmupIterations, warmupFactor }: Warmup): number {
  const progress = iteration < warmupIterations ? iteration / warmupIterations : 1;
  return warmupFactor * (1 - progress) + progress;
}

/**
 * Linear warm-up times step decay, as in Detectron2's WarmupMultiStepLR. If a milestone lies within the warm-up, both
 * factors apply.
 */
export function learningRateAt(iteration: number, schedule: WarmupStepSchedule): number {
  const { baseLearningRate, milestones, decayFactor } = schedule;
  const decay = decayFactor ** milestones.filter((milestone) => iteration >= milestone).length;
  return baseLearningRate * warmupAt(iteration, schedule) * decay;
}

/**
 * Linear warm-up, then half a cosine from 1 down to `finalFactor` (Loshchilov and Hutter, "SGDR", ICLR 2017, without
 * restarts). The cosine begins when the warm-up ends, so that the warm-up does not depend on `iterations`. Beyond the
 * last iteration the factor stays `finalFactor`.
 */
export function cosineLearningRateAt(iteration: number, schedule: WarmupCosineSchedule): number {
  const { baseLearningRate, warmupIterations, iterations, finalFactor } = schedule;
  const length = iterations - warmupIterations;
  const progress =
    iteration < warmupIterations ? 0 : length > 0 ? Math.min(1, (iteration - warmupIterations) / length) : 1;
  const decay = finalFactor + (1 - finalFactor) * 0.5 * (1 + Math.cos(Math.PI * progress));
  return baseLearningRate * warmupAt(iteration, schedule) * decay;
}
