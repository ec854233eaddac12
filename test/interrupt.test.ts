/** Signals: the first asks a command to finish, a repetition within a second is ignored, and a later one ends it. */
import { afterEach, expect, test, vi } from 'vitest';
import { onInterrupt } from '../training/commands/interrupt.ts';

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

test('the first signal stops the work, and a signal after more than a second ends the process', () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const kill = vi.spyOn(process, 'kill').mockReturnValue(true);
  const stop = vi.fn();
  const before = process.listenerCount('SIGINT');
  const interrupt = onInterrupt('saving', stop);
  expect(interrupt.signal).toBeNull();

  process.emit('SIGINT', 'SIGINT');
  process.emit('SIGINT', 'SIGINT');
  expect(interrupt.signal).toBe('SIGINT');
  expect(stop).toHaveBeenCalledTimes(1);
  expect(write.mock.calls).toEqual([['\nSIGINT: saving; again to stop at once\n']]);
  expect(kill).not.toHaveBeenCalled();

  vi.advanceTimersByTime(1001);
  process.emit('SIGINT', 'SIGINT');
  expect(kill.mock.calls).toEqual([[process.pid, 'SIGINT']]);
  expect(process.listenerCount('SIGINT')).toBe(before);
});
