/** The number of iterations that fits a training to a duration (`train --time`). */
import { evaluationsAfter } from './time-left.ts';

/** Measured durations in seconds. */
export interface MeasuredTimes {
  readonly step: number;
  readonly evaluation: number;
  /** After the last evaluation: test split and pictures. */
  readonly end: number;
}

export interface FittedLength {
  readonly iterations: number;
  readonly evaluateEvery: number;
}

/** The rest is for checkpoints, and for steps that take longer than the measured ones. */
const PLANNED_SHARE = 0.97;
/** Evaluations take at most this share of the time, and there are at most this many. */
const EVALUATION_SHARE = 0.15;
const MAX_EVALUATIONS = 10;
/** A training ends early if it would take longer than this multiple of its duration. */
const TOLERANCE = 1.1;

/**
 * Fits iterations and evaluations into `seconds`, of which `elapsed` have passed.
 * @param evaluateEvery the user's iterations between evaluations; null: chosen here
 * @returns null if the time does not suffice for one step
 */
export function fitLength(
  seconds: number,
  elapsed: number,
  { step, evaluation, end }: MeasuredTimes,
  evaluateEvery: number | null,
): FittedLength | null {
  const left = seconds * PLANNED_SHARE - elapsed - end;
  if (evaluateEvery !== null) {
    const perStep = step + (evaluateEvery > 0 ? evaluation / evaluateEvery : 0);
    const takes = (iterations: number): number =>
      iterations * step + evaluationsAfter(0, { iterations, evaluateEvery }) * evaluation;
    let iterations = Math.floor(left / perStep);
    while (iterations > 0 && takes(iterations) > left) iterations--;
    return iterations > 0 ? { iterations, evaluateEvery } : null;
  }
  const affordable = evaluation > 0 ? Math.floor((EVALUATION_SHARE * left) / evaluation) : MAX_EVALUATIONS;
  const evaluations = Math.max(1, Math.min(MAX_EVALUATIONS, affordable));
  const iterations = Math.floor((left - evaluations * evaluation) / step);
  return iterations > 0 ? { iterations, evaluateEvery: Math.ceil(iterations / evaluations) } : null;
}

/** Whether a training must end now, because the machine has become slower: `end` seconds follow after the last step. */
export const isOutOfTime = (seconds: number, elapsed: number, { evaluation, end }: Omit<MeasuredTimes, 'step'>) =>
  elapsed + evaluation + end >= seconds * TOLERANCE;
