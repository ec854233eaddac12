/**
 * Label assignment: the table of matchers, and the assignment that the losses use.
 * To add a matcher, write a file in `matchers/`, add a line to the table, and add a test.
 *
 * Glossary: B images, N proposals, C classes, T stages. Boxes are xyxy, pixels of the padded batch.
 */
import { countPositives, type Tensor } from '../engine/index.ts';
import { HUNGARIAN } from './matchers/hungarian.ts';
import type { Matcher, MatcherConfig, Matches, MatchingInput } from './matchers/matcher.ts';
import { OTA } from './matchers/ota.ts';
import { checkHighestLabel } from './targets.ts';

/** All matchers by their names in the configuration (`model.matcher`). */
export const MATCHERS = { hungarian: HUNGARIAN, ota: OTA } as const satisfies Record<string, Matcher>;

export type MatcherName = keyof typeof MATCHERS;

export const MATCHER_NAMES = Object.keys(MATCHERS) as readonly MatcherName[];

export interface Assignment extends Matches {
  /** f32 [T]: max(1, matched proposals of the batch). The losses of a stage are divided by it. */
  readonly positives: Tensor;
  /** u32 [T]: matched proposals of the batch. */
  readonly counts: Tensor;
}

/** Configuration of `assign`. */
export interface MatchingConfig extends MatcherConfig {
  /** A name in the table MATCHERS. */
  readonly matcher: MatcherName;
}

/**
 * Assigns labels at all stages, on the device and without gradients.
 *
 * @param details also returns supply and plan (OTA)
 * @throws RangeError if a label is not one of the C classes
 */
export function assign(input: MatchingInput, config: MatchingConfig, details = false): Assignment {
  const { logits, targets } = input;
  checkHighestLabel('assign', targets.highestLabel, logits.shape[logits.rank - 1]);
  return logits.device.scope(() => {
    const matches = MATCHERS[config.matcher].match(input, config, details);
    return { ...matches, ...countPositives(matches.matched) };
  });
}
