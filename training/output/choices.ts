/** The automatic choices of a run as an aligned table, each with its reason and the option that changes it. */
import type { Choice } from '../core/choice.ts';

/** A longer entry does not widen the columns of the other lines. */
const MAX_WIDTH = 44;

/** One line for each choice, such as `choice    batch 4    205 training images    (--batch N)`. */
export function describeChoices(choices: readonly Choice[]): string[] {
  const width = (of: (choice: Choice) => string): number =>
    Math.max(0, ...choices.map((choice) => of(choice).length).filter((length) => length <= MAX_WIDTH));
  const [value, reason] = [width((choice) => choice.value), width((choice) => choice.reason)];
  return choices.map(
    (choice) => `choice    ${choice.value.padEnd(value)}  ${choice.reason.padEnd(reason)}  (${choice.key})`,
  );
}
