/**
 * The profiler: takes a profile (profile.ts) of the commands that a dispatcher encodes.
 *
 * During a profile the dispatcher shows every pass, dispatch and submit to the profiler (`Probe`). There are two ways
 * of timing:
 *  - timestamps (feature `timestamp-query`): every dispatch has its own pass, and the device records its begin and end;
 *  - wall clock: command buffers are held back, and run one by one when the caller waits. This is less exact, and works
 *    on every device.
 * Both keep the order of all work, so results are the same bits as without a profile.
 */
import { dispatchFlops, type Grid, type Kernel } from '../../kernels/kernel.ts';
import type { CommandSink } from '../gpu/commands.ts';
import type { Dispatcher, Probe } from '../gpu/dispatcher.ts';
import type { Bound } from '../gpu/resources.ts';
import {
  Profile,
  type Calibration,
  type HostSpan,
  type ProfileDetail,
  type ProfileTiming,
  type TimeSpan,
} from './profile.ts';
import { PassTimestamps } from './timestamps.ts';

/** Work that waits for the next `drain`. `row` is the index of the dispatch if the submit holds only one dispatch. */
type Held =
  | { readonly kind: 'write'; readonly run: () => void }
  | { readonly kind: 'commands'; readonly commands: Iterable<GPUCommandBuffer>; readonly row: number | null };

export interface ProfilerSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  readonly detail: ProfileDetail;
  readonly timing: ProfileTiming;
  /** Waits for all submitted work. `exactly` is true if the time of arrival is measured. */
  readonly wait: (exactly: boolean) => Promise<unknown>;
}

/** Times in milliseconds of the host's clock. */
interface Span {
  readonly from: number;
  readonly to: number;
}

/** Collects measurements from its construction until `finish`. Internal: `Device.startProfile` makes one. */
export class Profiler implements Probe {
  readonly isolate: Probe['isolate'];
  readonly queue: CommandSink;
  private readonly startTime = performance.now();
  private readonly rows: { kernel: string; workgroups: number; bytes: number; flops: number | null }[] = [];
  private readonly host: (Span & { readonly name: HostSpan['name'] })[] = [];
  private readonly waits: Span[] = [];
  private readonly marks: { name: string; from: number }[] = [];
  /** Host times of the submits. */
  private readonly submitTimes: number[] = [];
  /** For each pass, the index of its submit. */
  private readonly passSubmits: number[] = [];
  private openWaits = 0;
  private waitStart = 0;
  /** Start of the current synchronous span of encoding; null when idle. */
  private encodingSince: number | null = null;
  /** Null with timing by wall clock. */
  private readonly timestamps: PassTimestamps | null;

  /** Work held back, by wall clock only. */
  private readonly held: Held[] = [];
  private heldRows = 0;
  private draining: Promise<void> | null = null;
  /** Measured by wall clock: one span per row, or per batch of submits. */
  private readonly measured: Span[] = [];

  constructor(private readonly setup: ProfilerSetup) {
    const { gpu, detail, timing } = setup;
    this.isolate = detail === 'submits' ? 'no' : timing === 'timestamps' ? 'pass' : 'submit';
    this.timestamps = timing === 'timestamps' ? new PassTimestamps(gpu) : null;
    this.queue = {
      submit: (commands) => this.submit(commands),
      writeBuffer: (buffer, offset, data, dataOffset, size) => this.writeBuffer(buffer, offset, data, dataOffset, size),
    };
    setup.dispatcher.watch(this);
  }

  /** Whether command buffers wait for the next `drain`. The resources they use must not be destroyed. */
  get holds(): boolean {
    return this.timestamps === null;
  }

  /** Begins a phase. It lasts until the next mark. */
  mark(name: string): void {
    this.marks.push({ name, from: performance.now() });
  }

  /** Records that JavaScript encodes from now until the end of the current task. */
  touch(): void {
    if (this.encodingSince !== null) return;
    this.encodingSince = performance.now();
    queueMicrotask(() => {
      if (this.encodingSince !== null)
        this.host.push({ name: 'encode', from: this.encodingSince, to: performance.now() });
      this.encodingSince = null;
    });
  }

  beginPass(): GPUComputePassDescriptor | undefined {
    if (!this.timestamps) return undefined;
    this.passSubmits.push(this.submitTimes.length);
    return this.timestamps.nextPass();
  }

  dispatched(kernel: Kernel, params: Readonly<Record<string, number>>, bound: readonly Bound[], grid: Grid): void {
    this.touch();
    const seen = new Set<string>();
    let bytes = 0;
    for (const resource of bound) {
      const {
        id,
        offset,
        bytes: size,
      } = 'view' in resource ? { id: `texture ${resource.id}`, offset: 0, bytes: resource.matrixBytes } : resource;
      const key = `${id}:${offset}:${size}`;
      if (!seen.has(key)) bytes += size;
      seen.add(key);
    }
    this.rows.push({
      kernel: kernel.name,
      workgroups: grid[0] * grid[1] * grid[2],
      bytes,
      flops: dispatchFlops(kernel, params, grid),
    });
  }

  finishing(encoder: GPUCommandEncoder): void {
    this.timestamps?.resolveIfFull(encoder);
  }

  /** Runs the work held back, waits for `arrival`, and records how long JavaScript waited. */
  async wait<T>(arrival: () => Promise<T>): Promise<T> {
    if (this.openWaits++ === 0) this.waitStart = performance.now();
    try {
      await this.drain();
      return await arrival();
    } finally {
      if (--this.openWaits === 0) this.waits.push({ from: this.waitStart, to: performance.now() });
    }
  }

  /** Waits until the device has done all work, and makes the profile. */
  async finish(adapter: string, calibration: Calibration): Promise<Profile> {
    const { dispatcher } = this.setup;
    try {
      do {
        dispatcher.flush();
        await this.wait(() => this.allDone());
        dispatcher.flush(); // concurrent code may have encoded work meanwhile
      } while (this.held.length > 0);
      dispatcher.watch(null);
      const end = performance.now();
      if (this.openWaits > 0) this.waits.push({ from: this.waitStart, to: end });
      return await this.collect(adapter, calibration, end);
    } finally {
      dispatcher.watch(null);
      this.timestamps?.destroy();
    }
  }

  private async collect(adapter: string, calibration: Calibration, end: number): Promise<Profile> {
    const { times, resolutionNs } = (await this.timestamps?.read(() => this.allDone())) ?? {
      times: [],
      resolutionNs: 0,
    };
    const spans = this.timestamps
      ? this.deviceSpans(times)
      : this.measured.map(({ from, to }) => ({
          from,
          to: Math.max(from, to - (this.isolate === 'submit' ? calibration.emptyDispatchMs : 0)),
        }));
    const relative = ({ from, to }: Span): TimeSpan => ({
      startMs: from - this.startTime,
      durationMs: to - from,
    });
    const perRow = this.isolate !== 'no';
    const nothing = { startMs: 0, durationMs: 0 };
    const rows = this.rows.map((row, i) => ({ ...row, ...(perRow ? relative(spans[i]) : nothing) }));
    const phases = this.marks.map(({ name, from }, i) => ({
      name,
      ...relative({ from, to: this.marks[i + 1]?.from ?? end }),
    }));
    const host = this.hostSpans().map(({ name, ...span }) => ({ name, ...relative(span) }));
    return new Profile({
      adapter,
      detail: this.setup.detail,
      calibration,
      rows,
      busy: spans.map(relative),
      host,
      phases,
      wallMs: end - this.startTime,
      resolutionNs,
    });
  }

  // ------------------------------------------------------------------ the queue

  private allDone(): Promise<unknown> {
    return this.setup.wait(this.holds);
  }

  private submit(commands: Iterable<GPUCommandBuffer>): void {
    const before = performance.now();
    if (this.holds) {
      // If each dispatch has its own submit, `row` is that of the last dispatch. It is null if there are only copies.
      const row = this.isolate === 'submit' && this.heldRows < this.rows.length ? this.heldRows++ : null;
      this.held.push({ kind: 'commands', commands, row });
    } else {
      this.setup.gpu.queue.submit(commands);
    }
    this.submitTimes.push(before);
    if (this.encodingSince !== null) {
      const after = performance.now();
      this.host.push(
        { name: 'encode', from: this.encodingSince, to: before },
        { name: 'submit', from: before, to: after },
      );
      this.encodingSince = after;
    }
  }

  private writeBuffer(buffer: GPUBuffer, offset: number, data: ArrayBuffer, dataOffset: number, size: number): void {
    const { queue } = this.setup.gpu;
    if (!this.holds) {
      queue.writeBuffer(buffer, offset, data, dataOffset, size);
      return;
    }
    const copy = data.slice(dataOffset, dataOffset + size);
    this.held.push({ kind: 'write', run: () => queue.writeBuffer(buffer, offset, copy, 0, size) });
  }

  private async drain(): Promise<void> {
    while (this.draining !== null || this.held.length > 0) {
      this.draining ??= this.runHeld().finally(() => {
        this.draining = null;
      });
      await this.draining;
    }
  }

  /** Runs the work held back so far, submit by submit, or all at once with detail `submits`. */
  private async runHeld(): Promise<void> {
    const { queue } = this.setup.gpu;
    const work = this.held.splice(0);
    if (!work.some(({ kind }) => kind === 'commands')) {
      for (const item of work) if (item.kind === 'write') item.run();
      return;
    }
    const together = this.isolate === 'no';
    if (!together) await this.allDone();
    let from = performance.now();
    for (const item of work) {
      if (item.kind === 'write') {
        item.run();
        continue;
      }
      if (together) {
        queue.submit(item.commands);
        continue;
      }
      from = performance.now();
      queue.submit(item.commands);
      await this.allDone();
      if (item.row !== null) this.measured[item.row] = { from, to: performance.now() };
    }
    if (!together) return;
    await this.allDone();
    this.measured.push({ from, to: performance.now() });
  }

  // ------------------------------------------------------------------ spans

  /** Times in which the device was busy, by the host's clock and without overlap: one span per pass, or per submit. */
  private deviceSpans(times: readonly number[]): Span[] {
    // No pass begins before its submit. The offset between the clocks is the smallest that satisfies this. It assumes
    // that one pass began right at its submit.
    let offset = -Infinity;
    const perSubmit = new Map<number, Span>();
    this.passSubmits.forEach((submit, i) => {
      const from = times[2 * i],
        to = times[2 * i + 1];
      offset = Math.max(offset, this.submitTimes[submit] - from);
      const span = perSubmit.get(submit);
      perSubmit.set(submit, { from: Math.min(span?.from ?? from, from), to: Math.max(span?.to ?? to, to) });
    });
    const raw =
      this.isolate === 'no'
        ? [...perSubmit.values()]
        : this.passSubmits.map((_, i) => ({ from: times[2 * i], to: times[2 * i + 1] }));
    let end = -Infinity;
    return raw.map(({ from, to }) => {
      // Time that overlaps with the previous span is counted once.
      const start = Math.max(from, end);
      end = Math.max(start, to);
      return { from: start + offset, to: end + offset };
    });
  }

  /** The spans of encoding and submitting, and those parts of the waits in which JavaScript did neither. */
  private hostSpans(): (Span & { readonly name: HostSpan['name'] })[] {
    const active = [...this.host].sort((a, b) => a.from - b.from);
    const waiting: typeof this.host = [];
    for (const { from, to } of this.waits) {
      let at = from;
      for (const span of active) {
        if (span.to <= at) continue;
        if (span.from >= to) break;
        if (span.from > at) waiting.push({ name: 'wait', from: at, to: span.from });
        at = Math.max(at, span.to);
      }
      if (at < to) waiting.push({ name: 'wait', from: at, to });
    }
    return [...active, ...waiting].sort((a, b) => a.from - b.from);
  }
}
