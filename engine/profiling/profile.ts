/**
 * Profiles: each dispatch with its device time, the time spans of JavaScript, sums by kernel, and a trace for Perfetto.
 */

/** `dispatches`: times every dispatch, which slows the work down. `submits`: times whole submits, at almost no cost. */
export type ProfileDetail = 'dispatches' | 'submits';
export type ProfileTiming = 'timestamps' | 'wall clock';

export interface ProfileOptions {
  /** Default `dispatches`. */
  readonly detail?: ProfileDetail;
}

/** Times in milliseconds from the start of the profile, by the host's clock. */
export interface TimeSpan {
  readonly startMs: number;
  readonly durationMs: number;
}

/** One dispatch. */
export interface DispatchRow extends TimeSpan {
  readonly kernel: string;
  readonly workgroups: number;
  /**
   * Size of the bound buffer ranges and matrices, each counted once. The real memory traffic differs if caches help, or
   * if the kernel uses only part of a range.
   */
  readonly bytes: number;
  /** Null for kernels that only move data. */
  readonly flops: number | null;
}

/** `encode`: JavaScript encodes commands; `submit`: it submits them; `wait`: it only waits for the device. */
export interface HostSpan extends TimeSpan {
  readonly name: 'encode' | 'submit' | 'wait';
}

/** Peak rates of the adapter, measured by two small kernels (kernels/roofline.ts). */
export interface Roofline {
  readonly flopsPerSecond: number;
  /** Sum of bytes read and written. */
  readonly bytesPerSecond: number;
}

/** The measurements that all profiles of a device share. They are taken once, before the first profile. */
export interface Calibration {
  readonly timing: ProfileTiming;
  /** The reason for not using timestamps; null if timestamps are used. */
  readonly reason: string | null;
  readonly roofline: Roofline;
  /** Time of an empty dispatch. Durations by wall clock exclude this time. Durations by timestamps contain it. */
  readonly emptyDispatchMs: number;
}

/** All dispatches of one kernel. */
export interface KernelSummary {
  readonly kernel: string;
  readonly calls: number;
  readonly totalMs: number;
  /** Share of the time of all kernels, 0 to 1. */
  readonly share: number;
  readonly flopsPerSecond: number | null;
  readonly bytesPerSecond: number;
  /**
   * Shortest possible time at the adapter's peak rates, divided by the measured time. The shortest possible time is
   * that of arithmetic or of memory traffic, whichever is longer. The ratio is usually 0 to 1. It exceeds 1 if caches
   * save memory traffic, or if the kernel uses only part of a bound range.
   */
  readonly roofline: number;
  /** Whether arithmetic or memory traffic takes longer at its peak rate. */
  readonly limit: 'compute' | 'memory';
}

/** How the profiled work used the device. The three parts add up to `wallMs`. */
export interface Occupancy {
  /** From the start of the profile until the device had done all work. */
  readonly wallMs: number;
  readonly busyMs: number;
  /** Time in which the device was idle while JavaScript encoded or submitted. */
  readonly encodingMs: number;
  /** Time in which the device was idle for other reasons: JavaScript waited for data, or for an earlier result. */
  readonly otherMs: number;
}

/** Chrome's trace event format: complete events (X) and names of threads (M); times in microseconds. */
export type TraceEvent =
  | {
      readonly ph: 'X';
      readonly name: string;
      readonly cat: string;
      readonly pid: number;
      readonly tid: number;
      readonly ts: number;
      readonly dur: number;
      readonly args: Readonly<Record<string, number | string>>;
    }
  | {
      readonly ph: 'M';
      readonly name: 'thread_name' | 'process_name';
      readonly pid: number;
      readonly tid: number;
      readonly args: { readonly name: string };
    };

/** Thread numbers in the trace. */
const TRACE_DEVICE = 1;
const TRACE_HOST = 2;
const TRACE_PHASES = 3;

/** Total milliseconds of the parts of spans within `from` .. `to`. */
function overlap(spans: readonly TimeSpan[], from: number, to: number): number {
  return spans.reduce(
    (sum, { startMs, durationMs }) => sum + Math.max(0, Math.min(to, startMs + durationMs) - Math.max(from, startMs)),
    0,
  );
}

/** The measurements of a profile. */
export interface ProfileData {
  readonly adapter: string;
  readonly detail: ProfileDetail;
  readonly calibration: Calibration;
  /** All dispatches in order. Durations are 0 with detail `submits`. */
  readonly rows: readonly DispatchRow[];
  /** Times in which the device was busy, without overlap: one span per dispatch, or per submit. */
  readonly busy: readonly TimeSpan[];
  readonly host: readonly HostSpan[];
  readonly phases: readonly (TimeSpan & { readonly name: string })[];
  readonly wallMs: number;
  /** Resolution of the device's clock: all timestamps are multiples of it. 0 for profiles by wall clock. */
  readonly resolutionNs: number;
}

/** The result of `device.profile`. */
export class Profile implements ProfileData {
  readonly adapter: string;
  readonly detail: ProfileDetail;
  readonly calibration: Calibration;
  readonly rows: readonly DispatchRow[];
  readonly busy: readonly TimeSpan[];
  readonly host: readonly HostSpan[];
  readonly phases: readonly (TimeSpan & { readonly name: string })[];
  readonly wallMs: number;
  readonly resolutionNs: number;

  constructor(data: ProfileData) {
    this.adapter = data.adapter;
    this.detail = data.detail;
    this.calibration = data.calibration;
    this.rows = data.rows;
    this.busy = data.busy;
    this.host = data.host;
    this.phases = data.phases;
    this.wallMs = data.wallMs;
    this.resolutionNs = data.resolutionNs;
  }

  get timing(): ProfileTiming {
    return this.calibration.timing;
  }

  get roofline(): Roofline {
    return this.calibration.roofline;
  }

  /** Sum of all measured device times, in milliseconds. */
  get deviceMs(): number {
    return this.busy.reduce((sum, { durationMs }) => sum + durationMs, 0);
  }

  /** Sums by kernel, longest first. Throws with detail `submits`, which does not time single dispatches. */
  kernels(): KernelSummary[] {
    if (this.detail !== 'dispatches')
      throw new Error(
        "kernels: expected a profile with detail 'dispatches', got 'submits', which does not time single dispatches",
      );
    const { flopsPerSecond: peak, bytesPerSecond: bandwidth } = this.roofline;
    const sums = new Map<
      string,
      {
        calls: number;
        ms: number;
        flops: number | null;
        bytes: number;
        compute: number;
        memory: number;
        attainable: number;
      }
    >();
    for (const { kernel, durationMs, flops, bytes } of this.rows) {
      const sum = sums.get(kernel) ?? { calls: 0, ms: 0, flops: null, bytes: 0, compute: 0, memory: 0, attainable: 0 };
      const compute = (1e3 * (flops ?? 0)) / peak,
        memory = (1e3 * bytes) / bandwidth;
      sums.set(kernel, {
        calls: sum.calls + 1,
        ms: sum.ms + durationMs,
        flops: flops === null ? sum.flops : (sum.flops ?? 0) + flops,
        bytes: sum.bytes + bytes,
        compute: sum.compute + compute,
        memory: sum.memory + memory,
        attainable: sum.attainable + Math.max(compute, memory),
      });
    }
    const total = this.rows.reduce((sum, { durationMs }) => sum + durationMs, 0);
    const ratio = (amount: number, ms: number): number => (ms > 0 ? amount / ms : 0);
    return [...sums]
      .map(([kernel, { calls, ms, flops, bytes, compute, memory, attainable }]) => ({
        kernel,
        calls,
        totalMs: ms,
        share: ratio(ms, total),
        flopsPerSecond: flops === null ? null : ratio(1e3 * flops, ms),
        bytesPerSecond: ratio(1e3 * bytes, ms),
        roofline: ratio(attainable, ms),
        limit: compute > memory ? ('compute' as const) : ('memory' as const),
      }))
      .sort((a, b) => b.totalMs - a.totalMs);
  }

  /**
   * The time in which the device was busy, and the reasons for its idle time. Measure it with detail `submits`, because
   * timing every dispatch changes the occupancy. Throws for profiles by wall clock, which hold work back. For these,
   * compare `deviceMs` with the time of the same work without a profile.
   */
  occupancy(): Occupancy {
    if (this.timing !== 'timestamps')
      throw new Error(
        'occupancy: expected a profile with timestamps, got one by wall clock; ' +
          'compare deviceMs with the time of the same work without a profile',
      );
    const encoding = this.host.filter(({ name }) => name !== 'wait');
    let encodingMs = 0;
    let end = 0;
    for (const { startMs, durationMs } of this.busy) {
      if (startMs > end) encodingMs += overlap(encoding, end, startMs);
      end = Math.max(end, startMs + durationMs);
    }
    const wallMs = Math.max(this.wallMs, end);
    return { wallMs, busyMs: this.deviceMs, encodingMs, otherMs: Math.max(0, wallMs - this.deviceMs - encodingMs) };
  }

  /**
   * The profile as a trace: write `JSON.stringify({ traceEvents: profile.traceEvents() })` to a file and open it in
   * Perfetto (ui.perfetto.dev) or chrome://tracing. The threads are the device, JavaScript, and the marked phases.
   */
  traceEvents(): TraceEvent[] {
    const threadName = (tid: number, name: string): TraceEvent => ({
      ph: 'M',
      name: 'thread_name',
      pid: 1,
      tid,
      args: { name },
    });
    const complete = (
      tid: number,
      cat: string,
      name: string,
      { startMs, durationMs }: TimeSpan,
      args: Record<string, number | string> = {},
    ): TraceEvent => ({ ph: 'X', name, cat, pid: 1, tid, ts: startMs * 1e3, dur: durationMs * 1e3, args });
    const device =
      this.detail === 'dispatches'
        ? this.rows.map((row) =>
            complete(TRACE_DEVICE, 'kernel', row.kernel, row, {
              workgroups: row.workgroups,
              megabytes: row.bytes / 1e6,
              ...(row.flops === null ? {} : { gigaflops: row.flops / 1e9 }),
              ...(row.durationMs > 0
                ? {
                    'GB/s': row.bytes / row.durationMs / 1e6,
                    ...(row.flops === null ? {} : { 'GFLOP/s': row.flops / row.durationMs / 1e6 }),
                  }
                : {}),
            }),
          )
        : this.busy.map((span, i) => complete(TRACE_DEVICE, 'submit', `submit ${i + 1}`, span));
    return [
      { ph: 'M', name: 'process_name', pid: 1, tid: 0, args: { name: this.adapter } },
      threadName(TRACE_DEVICE, `device (${this.timing})`),
      threadName(TRACE_HOST, 'JavaScript'),
      threadName(TRACE_PHASES, 'phases'),
      ...device,
      ...this.host.map((span) => complete(TRACE_HOST, 'host', span.name, span)),
      ...this.phases.map((phase) => complete(TRACE_PHASES, 'phase', phase.name, phase)),
    ];
  }
}
