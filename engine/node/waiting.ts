/** How Node waits for a device: it sleeps between polls. */
import type { Settle } from '../device/options.ts';

/**
 * Sleep in milliseconds per square root of the milliseconds waited. A poll takes about 40 microseconds of a core from a
 * software adapter, and more if it delays a worker thread. A late poll delays the next commands.
 * Polls every half millisecond took 6 to 9 per cent of a forward pass of 1.5 s and of a training step of 0.2 s.
 */
const SLEEP_PER_ROOT = 0.2;
const MIN_SLEEP = 0.2;
/** Maximum ratio of a sleep to the time waited so far, if the caller measures the time. */
const MAX_EXACT_RATIO = 0.1;
const MIN_EXACT_SLEEP = 0.02;

/**
 * Time to sleep before the next poll.
 * @param waited milliseconds waited so far
 * @param exactly whether the caller measures the time waited
 * @returns milliseconds
 */
export function sleepBetweenPolls(waited: number, exactly: boolean): number {
  const sleep = Math.max(MIN_SLEEP, SLEEP_PER_ROOT * Math.sqrt(waited));
  return exactly ? Math.max(MIN_EXACT_SLEEP, Math.min(sleep, MAX_EXACT_RATIO * waited)) : sleep;
}

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/**
 * Waits by sleeping between polls. Awaiting the queue would keep the JavaScript thread busy, and a software adapter
 * needs that core.
 */
export const settleSleeping: Settle = async (promise, exactly = false) => {
  const start = performance.now();
  let settled = false;
  const done = promise.finally(() => {
    settled = true;
  });
  done.catch(() => undefined);
  for (;;) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    if (settled) return done;
    Atomics.wait(sleeper, 0, 0, sleepBetweenPolls(performance.now() - start, exactly));
  }
};
