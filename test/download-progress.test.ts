/** The progress of a download: size, speed and time left, on a terminal and in a file. */
import { describe, expect, test } from 'vitest';
import { DownloadProgress, downloadLine } from '../training/output/download-progress.ts';

/** A stream that keeps its text, and a clock that the test sets. */
function screen(isTTY: boolean, columns?: number) {
  const state = { now: 0, text: '' };
  const stream = { isTTY, columns, write: (text: string) => (state.text += text) };
  return { state, options: { stream, clock: () => state.now } };
}

describe('one line', () => {
  test.each([
    [{ received: 12_340_000, total: 46_800_000 }, 5e6, 'download  x: 12.3 of 46.8 MB, 5.0 MB/s, 0:07 left'],
    [{ received: 0, total: 46_800_000 }, Number.NaN, 'download  x: 0.0 of 46.8 MB, ? left'],
    [{ received: 1_000_000, total: null }, 2e6, 'download  x: 1.0 MB, 2.0 MB/s'],
    [{ received: 1_000_000, total: 2_000_000 }, 0, 'download  x: 1.0 of 2.0 MB, 0.0 MB/s, ? left'],
  ])('%j at %d bytes per second', (state, speed, line) => {
    expect(downloadLine('x', state, speed)).toBe(line);
  });
});

test('on a terminal one line is overwritten, not too often and not wider than the window', () => {
  const { state, options } = screen(true, 40);
  const progress = new DownloadProgress('resnet18', options);
  for (const [at, received] of [
    [0, 0],
    [50, 1e6],
    [1000, 10e6],
    [2000, 20e6],
  ]) {
    state.now = at;
    progress.update({ received, total: 20e6 });
  }
  progress.note('note');
  progress.end();
  progress.end();
  const drawn = state.text.split('\r\x1b[K').slice(1);
  expect(drawn[1]).toBe('download  resnet18: 10.0 of 20.0 MB, 10.0 MB/s'.slice(0, 39));
  expect(drawn).toHaveLength(4);
  expect(drawn[3]).toBe(`note\n${drawn[2]}\n`);
});

test('in a file there is a line now and then, and one for the complete file', () => {
  const { state, options } = screen(false);
  const progress = new DownloadProgress('x', options);
  for (let second = 0; second <= 25; second++) {
    state.now = second * 1000;
    progress.update({ received: second * 1e6, total: 25e6 });
  }
  progress.end();
  expect(state.text.split('\n')).toEqual([
    'download  x: 0.0 of 25.0 MB, ? left',
    'download  x: 10.0 of 25.0 MB, 1.0 MB/s, 0:15 left',
    'download  x: 20.0 of 25.0 MB, 1.0 MB/s, 0:05 left',
    'download  x: 25.0 of 25.0 MB, 1.0 MB/s, 0:00 left',
    '',
  ]);
});

test('the speed is that of the last seconds, also after a new beginning', () => {
  const { state, options } = screen(false);
  const progress = new DownloadProgress('x', options);
  const speeds: string[] = [];
  const update = (seconds: number, received: number): void => {
    state.now = seconds * 1000;
    state.text = '';
    progress.update({ received, total: 1e9 });
    speeds.push(/[\d.]+ MB\/s/.exec(state.text)?.[0] ?? 'unknown');
  };
  update(0, 0);
  update(100, 1e6);
  update(110, 101e6);
  update(120, 1e6);
  update(130, 21e6);
  expect(speeds).toEqual(['unknown', '0.0 MB/s', '10.0 MB/s', 'unknown', '2.0 MB/s']);
});
