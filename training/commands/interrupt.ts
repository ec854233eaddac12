/** Ctrl-C and termination signals: the first one asks a command to finish, the second one ends the process. */

export interface Interrupt {
  /** The signal that came; null before it. */
  readonly signal: NodeJS.Signals | null;
  /** From now on a signal ends the process. */
  release(): void;
}

/**
 * Waits for SIGINT or SIGTERM. The first signal prints `announcement` and calls `stop`; then signals work as usual.
 * @param announcement follows the signal's name
 */
export function onInterrupt(announcement: string, stop: () => void = () => undefined): Interrupt {
  let signal: NodeJS.Signals | null = null;
  const handler = (received: NodeJS.Signals): void => {
    signal = received;
    release();
    process.stderr.write(`\n${received}: ${announcement}; again to stop at once\n`);
    stop();
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
