/** The host's sleeps between polls while a device works. */
import { expect, test } from 'vitest';
import { sleepBetweenPolls } from '../engine/node/index.ts';

/** The number of polls while waiting for `milliseconds`. */
function pollsIn(milliseconds: number, exactly: boolean): number {
  let polls = 0;
  for (let waited = 0; waited < milliseconds; polls++) waited += sleepBetweenPolls(waited, exactly);
  return polls;
}

test('sleeps grow with the time waited, and stay much shorter', () => {
  for (const waited of [20, 250, 1600, 60_000]) {
    expect(sleepBetweenPolls(waited, false)).toBeGreaterThan(sleepBetweenPolls(waited / 2, false));
    expect(sleepBetweenPolls(waited, false)).toBeLessThan(0.05 * waited);
  }
  expect(sleepBetweenPolls(0, false)).toBeGreaterThan(0);
});

test('long waits need few polls', () => {
  expect(pollsIn(250, false)).toBeLessThan(200);
  expect(pollsIn(1600, false)).toBeLessThan(450);
});

test('for a measured wait, a sleep is at most a tenth of the time waited, and never zero', () => {
  for (const waited of [1, 4, 20, 250]) expect(sleepBetweenPolls(waited, true)).toBeLessThanOrEqual(0.1 * waited);
  expect(sleepBetweenPolls(0, true)).toBeGreaterThan(0);
});
