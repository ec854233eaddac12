/**
 * Label assignment: the table of matchers, and the assignment that the losses take.
 * To add a matcher, write a file in `matchers/`, add a line to the table, and add a test.
 *
 * Glossary: B images, N proposals, C classes, T stages. Boxes are xyxy, pixels of the padded batch.
 */
import { countPositives, type Tensor } from '../engine/index.ts';
import { HUNGARIAN } from './matchers/hungarian.ts';
import type { Matcher, MatcherConfig, Matches } from './matchers/matcher.ts';
import { OTA } from './matchers/ota.ts';
import type { Targets } from './targets.ts';

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
  /** A name of the table. */
  readonly matcher: MatcherName;
}

/**
 * Assigns labels at all stages, on the device and without gradients.
 *
 * @param logits  [T, B, N, C], of all stages
 * @param boxes   [T, B, N, 4]
 * @param details also returns supply and plan (OTA)
 * @throws RangeError if a label is not one of the C classes
 */
export function assign(
  logits: Tensor,
  boxes: Tensor,
  targets: Targets,
  config: MatchingConfig,
  details = false,
): Assignment {
  const classes = logits.shape[logits.rank - 1];
  if (targets.highestLabel >= classes)
    throw new RangeError(
      `assign: labels: expected numbers below the model's ${classes} classes, got ${targets.highestLabel}`,
    );
  return logits.device.scope(() => {
    const matches = MATCHERS[config.matcher].match({ logits, boxes, targets }, config, details);
    return { ...matches, ...countPositives(matches.matched) };
  });
}
