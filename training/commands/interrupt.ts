/** Ctrl-C and termination signals: the first one asks a command to finish, the second one ends the process. */

export interface Interrupt {
  /** The signal that came; null before it. */
  readonly signal: NodeJS.Signals | null;
  /** From now on a signal ends the process. */
  release(): void;
}

/**
 * Milliseconds in which a second signal counts as the first. A terminal signals a program and its parents at once, and
 * the parent of a program (setup/run.mjs) passes the signal on.
 */
const SAME_SIGNAL_MS = 1000;

/**
 * Waits for SIGINT or SIGTERM. The first signal prints `announcement` and calls `stop`. A later one ends the process.
 * @param announcement follows the signal's name
 */
export function onInterrupt(announcement: string, stop: () => void = () => undefined): Interrupt {
  let signal: NodeJS.Signals | null = null;
  let since = 0;
  const handler = (received: NodeJS.Signals): void => {
    if (signal === null) {
      signal = received;
      since = performance.now();
      process.stderr.write(`\n${received}: ${announcement}; again to stop at once\n`);
      stop();
    } else if (performance.now() - since > SAME_SIGNAL_MS) {
      release();
      process.kill(process.pid, received);
    }
  };
  const release = (): void => {
    process.off('SIGINT', handler);
    process.off('SIGTERM', handler);
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return {
    get signal() {
      return signal;
    },
    release,
  };
}
