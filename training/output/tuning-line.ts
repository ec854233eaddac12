/** The progress of tuning on a terminal, or as lines in a file or pipe. */
import type { TuningProgress } from '../../engine/index.ts';
import { formatDuration } from './duration.ts';
import { DEFAULT_COLUMNS, ERASE_LINE, REDRAW_INTERVAL } from './progress.ts';

/** Minimum time between two lines in a file or pipe, in milliseconds. */
const LINE_INTERVAL = 5000;

/** A terminal shows one line, which is overwritten. A file gets a line every five seconds. */
export class TuningLine {
  private readonly start = performance.now();
  private shownAt = -Infinity;

  show({ done, total, latest: { shapeClass, choice, skipped } }: TuningProgress): void {
    const now = performance.now();
    const { isTTY, columns } = process.stdout;
    if (now - this.shownAt < (isTTY ? REDRAW_INTERVAL : LINE_INTERVAL) && done < total) return;
    this.shownAt = now;
    const left = ((now - this.start) / 1000 / done) * (total - done);
    const count = `${String(done).padStart(String(total).length)}/${total}`;
    const line = `${count}  ${formatDuration(left)} left  ${shapeClass}: ${choice?.variant ?? skipped}`;
    process.stdout.write(isTTY ? `${ERASE_LINE}${line.slice(0, (columns || DEFAULT_COLUMNS) - 1)}` : `${line}\n`);
  }

  end(): void {
    if (process.stdout.isTTY && this.shownAt > 0) process.stdout.write('\n');
  }
}
