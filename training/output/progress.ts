/** The progress of training on a terminal, or as lines in a file or pipe. */
import type { StepProgress } from '../core/metrics-log.ts';
import { formatDuration } from './duration.ts';

/** The destination of Progress: process.stdout, or an object like it. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export interface ProgressOptions {
  stream?: ProgressStream;
  /** A monotonic clock in milliseconds. */
  clock?: () => number;
  /** Without a terminal: the number of rows that are printed at the beginning, one by one. Default 3. */
  firstRows?: number;
  /** Without a terminal: the minimum time between later rows, in milliseconds. Default 10 000. */
  interval?: number;
}

/** Minimum time between two drawings of the line on a terminal, in milliseconds. Faster changes are not visible. */
export const REDRAW_INTERVAL = 100;
/** On a terminal, what a row says stays this long before other work replaces it, in milliseconds. */
const STATUS_DELAY = 1000;
/** Moves the cursor to the beginning of the terminal's line and erases the line. */
export const ERASE_LINE = '\r\x1b[K';
/** Columns of a terminal that does not report its size. */
export const DEFAULT_COLUMNS = 80;

/**
 * Shows the progress of training. On a terminal it overwrites one line, which is never wider than the window.
 * Elsewhere (a file, a pipe) it prints lines: the first few rows, then one about every ten seconds, and the last row.
 */
export class Progress {
  private readonly stream: ProgressStream;
  private readonly clock: () => number;
  private readonly firstRows: number;
  private readonly interval: number;
  private printed = 0;
  private printedAt = -Infinity;
  /** The unfinished line on the terminal; empty if there is none. */
  private currentLine = '';
  private latest: StepProgress | null = null;
  private statusAt: number;

  constructor({
    stream = process.stdout,
    clock = () => performance.now(),
    firstRows = 3,
    interval = 10_000,
  }: ProgressOptions = {}) {
    this.stream = stream;
    this.clock = clock;
    this.firstRows = firstRows;
    this.interval = interval;
    this.statusAt = clock();
  }

  /** Shows a row, unless it comes too soon after the row before. The last iteration is always shown. */
  update(row: StepProgress): void {
    this.latest = row;
    const elapsed = this.clock() - this.printedAt;
    const due = this.stream.isTTY
      ? elapsed >= REDRAW_INTERVAL
      : this.printed < this.firstRows || elapsed >= this.interval;
    if (due || row.iteration >= row.iterations) this.show(row);
  }

  /** Shows that kernels are being compiled, which makes the first steps slow. `seconds`: since the training began. */
  compiling(pipelines: number, seconds: number): void {
    this.status(`compiling kernels  ${pipelines} pipelines, ${seconds.toFixed(0)} s`);
  }

  /** Shows the progress of work between steps, such as an evaluation. `seconds`: since that work began. */
  working(title: string, done: number, total: number, seconds: number): void {
    const left = done > 0 ? (seconds / done) * (total - done) : NaN;
    this.status(`${title}  ${done}/${total} images, ${formatDuration(left)} left`);
  }

  /** Prints a separate line, such as an evaluation. On a terminal it appears above the progress line. */
  note(text: string): void {
    this.stream.write(`${this.currentLine === '' ? '' : ERASE_LINE}${text}\n${this.currentLine}`);
  }

  /** Leaves the newest row on the terminal and ends its line. Call it when training ends, also after an error. */
  end(): void {
    if (this.stream.isTTY && this.latest) this.show(this.latest);
    if (this.currentLine !== '') this.stream.write('\n');
    this.currentLine = '';
    this.latest = null;
  }

  /** Shows a line that later ones replace, unless another line was shown shortly before. */
  private status(text: string): void {
    const now = this.clock();
    const since = now - Math.max(this.printedAt, this.statusAt);
    if (since < (this.stream.isTTY ? STATUS_DELAY : this.interval)) return;
    // On a terminal, the line then changes without delay until the next row.
    this.statusAt = this.stream.isTTY ? now - STATUS_DELAY + REDRAW_INTERVAL : now;
    this.draw((width) => text.slice(0, width));
  }

  private show(row: StepProgress): void {
    this.printed++;
    this.printedAt = this.clock();
    this.draw((width) => progressLine(row, width));
  }

  /** @param lineOf the line in at most this number of characters */
  private draw(lineOf: (width: number) => string): void {
    if (!this.stream.isTTY) {
      this.stream.write(`${lineOf(Infinity)}\n`);
      return;
    }
    // The last column stays free: some terminals wrap when it is written.
    // Pseudo terminals of unknown size report 0 columns.
    this.currentLine = lineOf((this.stream.columns || DEFAULT_COLUMNS) - 1);
    this.stream.write(`${ERASE_LINE}${this.currentLine}`);
  }
}

/** One row of progress as text of at most `width` characters. The least important fields are dropped first. */
export function progressLine(row: StepProgress, width = Infinity): string {
  const parts = Object.entries(row.parts).map(([name, value]) => `${name} ${formatLoss(value)}`);
  const iteration = `${String(row.iteration).padStart(String(row.iterations).length)}/${row.iterations}`;
  const loss = `loss ${formatLoss(row.loss)}`;
  const rate = `lr ${row.learningRate.toExponential(2)}`;
  const speed = `${row.millisecondsPerStep.toFixed(row.millisecondsPerStep < 100 ? 1 : 0)} ms/step`;
  const left = row.secondsLeft === null ? 'compiling kernels' : `${formatDuration(row.secondsLeft)} left`;
  const memory = `${Math.round(row.megabytes)} MB`;
  const candidates: string[][] = [];
  for (let count = parts.length; count >= 0; count--) {
    const losses = count > 0 ? `${loss} (${parts.slice(0, count).join(', ')})` : loss;
    candidates.push([iteration, losses, rate, speed, left, memory]);
  }
  candidates.push(
    [iteration, loss, speed, left, memory],
    [iteration, loss, speed, left],
    [iteration, loss, left],
    [iteration, loss],
  );
  const lines = candidates.map((fields) => fields.join('  '));
  return lines.find((line) => line.length <= width) ?? lines[lines.length - 1].slice(0, Math.max(0, width));
}

function formatLoss(value: number): string {
  return Number.isFinite(value) && Math.abs(value) >= 1e5 ? value.toExponential(2) : value.toFixed(3);
}
