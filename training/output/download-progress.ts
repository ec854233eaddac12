/** The progress of a download on a terminal, or as lines in a file or pipe. */
import type { DownloadState } from '../checkpoints/download.ts';
import { formatDuration } from './duration.ts';
import { DEFAULT_COLUMNS, ERASE_LINE, REDRAW_INTERVAL, type ProgressStream } from './progress.ts';

export interface DownloadProgressOptions {
  readonly stream?: ProgressStream;
  /** A monotonic clock in milliseconds. */
  readonly clock?: () => number;
  /** Without a terminal: the minimum time between two lines, in milliseconds. Default 10 000. */
  readonly interval?: number;
}

/** The speed is that of about this time, in milliseconds. */
const SPEED_WINDOW = 5000;

/** Shows how much of a file has arrived. On a terminal it overwrites one line. */
export class DownloadProgress {
  private readonly stream: ProgressStream;
  private readonly clock: () => number;
  private readonly interval: number;
  private samples: { readonly at: number; readonly received: number }[] = [];
  private shownAt = -Infinity;
  private unfinished = '';

  constructor(
    private readonly name: string,
    { stream = process.stdout, clock = () => performance.now(), interval = 10_000 }: DownloadProgressOptions = {},
  ) {
    this.stream = stream;
    this.clock = clock;
    this.interval = interval;
  }

  /** Shows a state, unless it comes too soon after the state before. The complete file is always shown. */
  update({ received, total }: DownloadState): void {
    const now = this.clock();
    // A download that begins anew has fewer bytes than before.
    if (received < (this.samples.at(-1)?.received ?? 0)) this.samples = [];
    this.samples.push({ at: now, received });
    while (this.samples.length > 2 && this.samples[1].at < now - SPEED_WINDOW) this.samples.shift();
    if (now - this.shownAt < (this.stream.isTTY ? REDRAW_INTERVAL : this.interval) && received !== total) return;
    this.shownAt = now;
    const line = downloadLine(this.name, { received, total }, this.bytesPerSecond());
    if (this.stream.isTTY) {
      this.unfinished = line.slice(0, (this.stream.columns || DEFAULT_COLUMNS) - 1);
      this.stream.write(`${ERASE_LINE}${this.unfinished}`);
    } else this.stream.write(`${line}\n`);
  }

  /** Prints a separate line. On a terminal it appears above the progress line. */
  note(text: string): void {
    this.stream.write(`${this.unfinished === '' ? '' : ERASE_LINE}${text}\n${this.unfinished}`);
  }

  /** Ends the line on a terminal. Call it when the download ends, also after an error. */
  end(): void {
    if (this.unfinished !== '') this.stream.write('\n');
    this.unfinished = '';
  }

  private bytesPerSecond(): number {
    const first = this.samples[0];
    const last = this.samples[this.samples.length - 1];
    return ((last.received - first.received) / (last.at - first.at)) * 1000;
  }
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

/** One state as text. The speed is NaN before it is known. */
export function downloadLine(name: string, { received, total }: DownloadState, bytesPerSecond: number): string {
  const size = total === null ? `${megabytes(received)} MB` : `${megabytes(received)} of ${megabytes(total)} MB`;
  const speed = Number.isFinite(bytesPerSecond) ? [`${megabytes(bytesPerSecond)} MB/s`] : [];
  const left = total === null ? [] : [`${formatDuration((total - received) / bytesPerSecond)} left`];
  return [`download  ${name}: ${size}`, ...speed, ...left].join(', ');
}
