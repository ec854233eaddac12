/** Ctrl-C and termination signals: the first one asks a command to finish, the second one ends the process. */

export interface Interrupt {
  /** The first signal; null until it arrives. */
  readonly signal: NodeJS.Signals | null;
  /** After this call, a signal ends the process. */
  release(): void;
}

/**
 * A second signal within this time is ignored, milliseconds. On Ctrl-C, a terminal signals a program and its parent
 * process. The parent (setup/run.mjs) also passes the signal on, so the program receives it twice.
 */
const SAME_SIGNAL_MS = 1000;

/**
 * Waits for SIGINT or SIGTERM. The first signal prints `announcement` and calls `stop`. A later one ends the process.
 * @param announcement follows the signal's name
 */
export function onInterrupt(announcement: string, stop: () => void = () => undefined): Interrupt {
  let signal: NodeJS.Signals | null = null;
  let receivedAt = 0;
  const handler = (received: NodeJS.Signals): void => {
    if (signal === null) {
      signal = received;
      receivedAt = performance.now();
      process.stderr.write(`\n${received}: ${announcement}; again to stop at once\n`);
      stop();
    } else if (performance.now() - receivedAt > SAME_SIGNAL_MS) {
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
