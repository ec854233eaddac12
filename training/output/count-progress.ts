/** The progress of work on many files, on a terminal or as lines in a file or pipe. */
import { formatDuration } from './duration.ts';
import { DEFAULT_COLUMNS, ERASE_LINE, REDRAW_INTERVAL, type ProgressStream } from './progress.ts';

export interface CountProgressOptions {
  readonly stream?: ProgressStream;
  /** A monotonic clock in milliseconds. */
  readonly clock?: () => number;
  /** Without a terminal: the least time before the first line and between two, in milliseconds. Default 10 000. */
  readonly interval?: number;
}

/** Shows "images linked: 300 of 1000, 0:12 left". Work that ends within the interval prints no line to a file. */
export class CountProgress {
  private readonly stream: ProgressStream;
  private readonly clock: () => number;
  private readonly interval: number;
  private task = '';
  private startedAt = 0;
  private shownAt = 0;
  private onTerminal = false;

  constructor({
    stream = process.stdout,
    clock = () => performance.now(),
    interval = 10_000,
  }: CountProgressOptions = {}) {
    this.stream = stream;
    this.clock = clock;
    this.interval = interval;
  }

  /** Shows a state, unless it comes too soon after the state before. `task` begins a new count when it changes. */
  update(task: string, done: number, total: number): void {
    const now = this.clock();
    if (task !== this.task) {
      this.task = task;
      this.startedAt = this.shownAt = now;
    }
    if (now - this.shownAt < (this.stream.isTTY ? REDRAW_INTERVAL : this.interval)) return;
    this.shownAt = now;
    const seconds = (((now - this.startedAt) / 1000) * (total - done)) / done;
    const line = `${task}: ${done} of ${total}, ${formatDuration(seconds)} left`;
    if (!this.stream.isTTY) {
      this.stream.write(`${line}\n`);
      return;
    }
    this.onTerminal = true;
    this.stream.write(`${ERASE_LINE}${line.slice(0, (this.stream.columns || DEFAULT_COLUMNS) - 1)}`);
  }

  /** Removes the line from a terminal. Call it before other output, and when the work ends, also after an error. */
  end(): void {
    if (this.onTerminal) this.stream.write(ERASE_LINE);
    this.onTerminal = false;
    this.task = '';
  }
}
