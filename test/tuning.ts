/** What several tests of the tuner share: short measurements, and choices with another variant. */
import type { TunedChoices } from '../engine/index.ts';

/** Short measurements, because tests do not use the times. */
export const QUICK = { rounds: 1, sampleMs: 0.1 };

/** One of the choices alone, with another variant. */
export const withVariant = (choices: TunedChoices, shapeClass: string, variant: string): TunedChoices => ({
  ...choices,
  choices: { [shapeClass]: { ...choices.choices[shapeClass], variant } },
});
