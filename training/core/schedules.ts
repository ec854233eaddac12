/** Numbers that follow from the training configuration and the iteration: learning rate and step values. */
import { cosineLearningRateAt, learningRateAt } from '../../engine/index.ts';
import type { StepValues } from './detector.ts';
import type { TrainingConfig } from './recipe.ts';

/**
 * Learning rate at an iteration counted from 0: linear warm-up, then a decay at each milestone, or half a cosine down
 * to `finalFactor`.
 */
export function scheduledLearningRate(iteration: number, training: TrainingConfig): number {
  const { learningRate, warmupIterations, warmupFactor, milestones, iterations, decayFactor } = training;
  const warmup = { baseLearningRate: learningRate, warmupIterations, warmupFactor };
  if (training.schedule === 'cosine')
    return cosineLearningRateAt(iteration, { ...warmup, iterations, finalFactor: training.finalFactor });
  return learningRateAt(iteration, {
    ...warmup,
    milestones: milestones.map((share) => Math.round(share * iterations)),
    decayFactor,
  });
}

/**
 * Softmax temperature of the experts at an iteration counted from 0 [DC, arXiv 1912.03458]: linear from the start value
 * to 1, then 1.
 */
export function temperatureAt(
  iteration: number,
  { temperatureStart, temperatureFraction, iterations }: TrainingConfig,
): number {
  const length = temperatureFraction * iterations;
  return iteration >= length ? 1 : temperatureStart + ((1 - temperatureStart) * iteration) / length;
}

/** The values that a detector reads by name at an iteration. A detector ignores names it does not know. */
export function stepValuesAt(iteration: number, training: TrainingConfig): StepValues {
  return { temperature: temperatureAt(iteration, training) };
}
