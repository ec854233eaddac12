/**
 * Takes profiles (profile.ts) of what a dispatcher records.
 *
 * While a profile runs, the dispatcher shows it every pass, dispatch and submit (`Probe`). Two ways of timing:
 *  - timestamps (feature `timestamp-query`): every dispatch in a pass of its own, whose begin and end the device
 *    writes down;
 *  - wall clock: command buffers are made as always but held back, and run one by one, each waited for, when the
 *    caller waits. Less exact, works everywhere.
 * Both keep the order of all work, so that results are the same bits as without.
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

/** Two a pass; what WebGPU allows in one set. */
const MAX_QUERIES = 4096;
/** Resolved when so few are left: more than the passes of a submit take. */
const QUERY_RESERVE = 512;

type Held =
  | { readonly kind: 'write'; readonly run: () => void }
  | { readonly kind: 'commands'; readonly commands: Iterable<GPUCommandBuffer>; readonly row: number | null };

export interface ProfilerSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  readonly detail: ProfileDetail;
  readonly timing: ProfileTiming;
  /** Waits for all submitted work; `exactly` where the moment is what is measured. */
  readonly wait: (exactly: boolean) => Promise<unknown>;
}

/** Collects from its making until `finish`. Internal: `Device.startProfile` makes it. */
export class Profiler implements Probe {
  readonly isolate: Probe['isolate'];
  readonly queue: CommandSink;
  private readonly startTime = performance.now();
  private readonly rows: { kernel: string; workgroups: number; bytes: number; flops: number | null }[] = [];
  private readonly host: { name: HostSpan['name']; from: number; to: number }[] = [];
  private readonly waits: { from: number; to: number }[] = [];
  private readonly marks: { name: string; from: number }[] = [];
  /** Host times of the submits, and of each pass the submit that it belongs to. */
  private readonly submitTimes: number[] = [];
  private readonly passSubmits: number[] = [];
  private openWaits = 0;
  private waitStart = 0;
  /** Since when JavaScript has been recording without giving way; null while it is elsewhere. */
  private recordingSince: number | null = null;

  private readonly querySet: GPUQuerySet | null;
  private queries = 0;
  private readonly resolved: { readonly staging: GPUBuffer; readonly count: number }[] = [];

  private readonly held: Held[] = [];
  private heldRows = 0;
  private draining: Promise<void> | null = null;
  /** Measured by wall clock: of each row, or of each batch. */
  private readonly measured: { from: number; to: number }[] = [];

  constructor(private readonly setup: ProfilerSetup) {
    const { gpu, detail, timing } = setup;
    this.isolate = detail === 'submits' ? 'no' : timing === 'timestamps' ? 'pass' : 'submit';
    this.querySet =
      timing === 'timestamps' ? gpu.createQuerySet({ label: 'profile', type: 'timestamp', count: MAX_QUERIES }) : null;
    this.queue = {
      submit: (commands) => this.submit(commands),
      writeBuffer: (buffer, offset, data, dataOffset, size) => this.writeBuffer(buffer, offset, data, dataOffset, size),
    };
    setup.dispatcher.watch(this);
  }

  /** Whether command buffers wait for the next `drain`: what they use must not be destroyed. */
  get holds(): boolean {
    return this.querySet === null;
  }

  /** Begins a phase, which lasts until the next mark. */
  mark(name: string): void {
    this.marks.push({ name, from: performance.now() });
  }

  /** JavaScript is recording from here until it gives way. */
  touch(): void {
    if (this.recordingSince !== null) return;
    this.recordingSince = performance.now();
    queueMicrotask(() => {
      if (this.recordingSince !== null)
        this.host.push({ name: 'record', from: this.recordingSince, to: performance.now() });
      this.recordingSince = null;
    });
  }

  beginPass(): GPUComputePassDescriptor | undefined {
    if (!this.querySet) return undefined;
    const timestampWrites = {
      querySet: this.querySet,
      beginningOfPassWriteIndex: this.queries,
      endOfPassWriteIndex: this.queries + 1,
    };
    this.queries += 2;
    this.passSubmits.push(this.submitTimes.length);
    return { timestampWrites };
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
    if (this.queries > MAX_QUERIES - QUERY_RESERVE) this.resolve(encoder);
  }

  /** Runs a wait for the device: runs first what was held back, and notes when JavaScript waited. */
  async wait<T>(arrival: () => Promise<T>): Promise<T> {
    if (this.openWaits++ === 0) this.waitStart = performance.now();
    try {
      await this.drain();
      return await arrival();
    } finally {
      if (--this.openWaits === 0) this.waits.push({ from: this.waitStart, to: performance.now() });
    }
  }

  /** Waits until the device has done all that was recorded, and makes the profile of it. */
  async finish(adapter: string, calibration: Calibration): Promise<Profile> {
    const { dispatcher } = this.setup;
    try {
      do {
        dispatcher.flush();
        await this.wait(() => this.allDone());
        dispatcher.flush(); // whoever runs beside may have recorded meanwhile
      } while (this.held.length > 0);
      dispatcher.watch(null);
      const end = performance.now();
      if (this.openWaits > 0) this.waits.push({ from: this.waitStart, to: end });
      return await this.collect(adapter, calibration, end);
    } finally {
      dispatcher.watch(null);
      this.querySet?.destroy();
      for (const { staging } of this.resolved) staging.destroy();
    }
  }

  private async collect(adapter: string, calibration: Calibration, end: number): Promise<Profile> {
    const { times, resolutionNs } = await this.readTimestamps();
    const spans = this.querySet
      ? this.deviceSpans(times)
      : this.measured.map(({ from, to }) => ({
          from,
          to: Math.max(from, to - (this.isolate === 'submit' ? calibration.emptyDispatchMs : 0)),
        }));
    const relative = ({ from, to }: { from: number; to: number }): TimeSpan => ({
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
    return new Profile(
      adapter,
      this.setup.detail,
      calibration,
      rows,
      spans.map(relative),
      host,
      phases,
      end - this.startTime,
      resolutionNs,
    );
  }

  // ------------------------------------------------------------------ the queue

  private allDone(): Promise<unknown> {
    return this.setup.wait(this.holds);
  }

  private submit(commands: Iterable<GPUCommandBuffer>): void {
    const before = performance.now();
    if (this.holds) {
      // With a submit for each dispatch: the row that was recorded last, unless these are copies alone.
      const row = this.isolate === 'submit' && this.heldRows < this.rows.length ? this.heldRows++ : null;
      this.held.push({ kind: 'commands', commands, row });
    } else {
      this.setup.gpu.queue.submit(commands);
    }
    this.submitTimes.push(before);
    if (this.recordingSince !== null) {
      const after = performance.now();
      this.host.push(
        { name: 'record', from: this.recordingSince, to: before },
        { name: 'submit', from: before, to: after },
      );
      this.recordingSince = after;
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

  /** Runs what was held back until now: dispatch by dispatch, or all at once. */
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

  // ------------------------------------------------------------------ timestamps

  private resolve(encoder: GPUCommandEncoder): void {
    if (!this.querySet || this.queries === 0) return;
    const { gpu } = this.setup;
    const size = this.queries * 8;
    const buffer = gpu.createBuffer({
      label: 'timestamps',
      size,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const staging = gpu.createBuffer({
      label: 'timestamps read',
      size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    encoder.resolveQuerySet(this.querySet, 0, this.queries, buffer, 0);
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
    this.resolved.push({ staging, count: this.queries });
    this.queries = 0;
  }

  /** Begin and end of each pass in milliseconds of the device's clock. */
  private async readTimestamps(): Promise<{ times: number[]; resolutionNs: number }> {
    if (!this.querySet) return { times: [], resolutionNs: 0 };
    const encoder = this.setup.gpu.createCommandEncoder();
    this.resolve(encoder);
    this.setup.gpu.queue.submit([encoder.finish()]);
    const raw: bigint[] = [];
    for (const { staging } of this.resolved) {
      await Promise.all([staging.mapAsync(GPUMapMode.READ), this.allDone()]);
      raw.push(...new BigUint64Array(staging.getMappedRange()));
      staging.unmap();
    }
    const first = raw[0] ?? 0n;
    return {
      times: raw.map((value) => Number(value - first) / 1e6),
      resolutionNs: raw.length > 0 ? commonDivisor(raw) : 0,
    };
  }

  /** When the device was at work by the host's clock, without overlap: by pass, or by submit. */
  private deviceSpans(times: readonly number[]): { from: number; to: number }[] {
    // No pass begins before its submit; for the one that waited least, the two moments are taken as one.
    let offset = -Infinity;
    const perSubmit = new Map<number, { from: number; to: number }>();
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
      // What runs at the same time as the one before is counted once.
      const start = Math.max(from, end);
      end = Math.max(start, to);
      return { from: start + offset, to: end + offset };
    });
  }

  // ------------------------------------------------------------------ the host

  /** Recording and submitting as noted, and between them those parts of the waits in which nothing was recorded. */
  private hostSpans(): { name: HostSpan['name']; from: number; to: number }[] {
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

function commonDivisor(values: readonly bigint[]): number {
  let divisor = 0n;
  for (let value of values) {
    while (value !== 0n) [divisor, value] = [value, divisor % value];
    if (divisor === 1n) break;
  }
  return Number(divisor);
}
