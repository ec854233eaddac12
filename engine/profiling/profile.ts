/**
 * The result of profiling: what each dispatch was and how long the device took for it, what JavaScript did meanwhile,
 * sums by kernel, and a trace for Perfetto.
 */

/**
 * `dispatches`: every dispatch is timed, which slows the work down. `submits`: only what the device is given at once
 * is timed, at next to no cost.
 */
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

export interface DispatchRow extends TimeSpan {
  readonly kernel: string;
  readonly workgroups: number;
  /**
   * Of the buffer ranges bound, each counted once; what goes through memory unless caches help or only part is
   * touched.
   */
  readonly bytes: number;
  /** Null for kernels that move bytes rather than compute. */
  readonly flops: number | null;
}

/**
 * `record`: JavaScript that records commands; `submit`: handing them over; `wait`: nothing but waiting for the
 * device.
 */
export interface HostSpan extends TimeSpan {
  readonly name: 'record' | 'submit' | 'wait';
}

/** What the adapter does at most, measured by two small kernels (kernels/roofline.ts). */
export interface Roofline {
  readonly flopsPerSecond: number;
  /** Read and written together. */
  readonly bytesPerSecond: number;
}

/** What is measured once a device, before its first profile. */
export interface Calibration {
  readonly timing: ProfileTiming;
  /** Why not by timestamps; null where they are used. */
  readonly reason: string | null;
  readonly roofline: Roofline;
  /**
   * Measured time of a dispatch that does nothing; taken off by wall clock, contained in each duration by timestamps.
   */
  readonly emptyDispatchMs: number;
}

/** All dispatches of one kernel. */
export interface KernelSummary {
  readonly kernel: string;
  readonly calls: number;
  readonly totalMs: number;
  /** Of the time of all kernels, 0 to 1. */
  readonly share: number;
  readonly flopsPerSecond: number | null;
  readonly bytesPerSecond: number;
  /**
   * Time at the adapter's measured peak (arithmetic or memory, whichever takes longer) over time taken, 0 to 1; more
   * where caches serve what would go
   * through memory, or bound ranges are touched in part.
   */
  readonly roofline: number;
  /** Which of the two would take longer at its peak. */
  readonly limit: 'compute' | 'memory';
}

/** How a stretch of work used the device. The parts add up to `wallMs`. */
export interface Occupancy {
  /** From the start of the profile until the device had done all. */
  readonly wallMs: number;
  readonly busyMs: number;
  /** The device had nothing to do while JavaScript was recording or submitting. */
  readonly recordingMs: number;
  /**
   * The device had nothing to do for other reasons: JavaScript waited for data, or for the device itself before it
   * went on.
   */
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

const TRACE_DEVICE = 1,
  TRACE_HOST = 2,
  TRACE_PHASES = 3;

function overlap(spans: readonly TimeSpan[], from: number, to: number): number {
  return spans.reduce(
    (sum, { startMs, durationMs }) => sum + Math.max(0, Math.min(to, startMs + durationMs) - Math.max(from, startMs)),
    0,
  );
}

/** The result of `device.profile`. */
export class Profile {
  readonly timing: ProfileTiming;
  readonly roofline: Roofline;

  constructor(
    readonly adapter: string,
    readonly detail: ProfileDetail,
    readonly calibration: Calibration,
    /** Every dispatch in the order of recording; durations are 0 with detail `submits`. */
    readonly rows: readonly DispatchRow[],
    /** When the device was at work, without overlap: by dispatch, or by submit. */
    readonly busy: readonly TimeSpan[],
    readonly host: readonly HostSpan[],
    readonly phases: readonly (TimeSpan & { readonly name: string })[],
    readonly wallMs: number,
    /** Coarseness of the device's clock: what all timestamps are multiples of. 0 by wall clock. */
    readonly resolutionNs: number,
  ) {
    this.timing = calibration.timing;
    this.roofline = calibration.roofline;
  }

  /** Device time of all that was timed, in milliseconds. */
  get deviceMs(): number {
    return this.busy.reduce((sum, { durationMs }) => sum + durationMs, 0);
  }

  /** Sums by kernel, by falling time. Throws with detail `submits`, which times no single dispatch. */
  kernels(): KernelSummary[] {
    if (this.detail !== 'dispatches')
      throw new Error(
        "kernels: a profile with detail 'submits' times no single dispatch; profile with detail 'dispatches'",
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
    const by = (amount: number, ms: number): number => (ms > 0 ? amount / ms : 0);
    return [...sums]
      .map(([kernel, { calls, ms, flops, bytes, compute, memory, attainable }]) => ({
        kernel,
        calls,
        totalMs: ms,
        share: by(ms, total),
        flopsPerSecond: flops === null ? null : by(1e3 * flops, ms),
        bytesPerSecond: by(1e3 * bytes, ms),
        roofline: by(attainable, ms),
        limit: compute > memory ? ('compute' as const) : ('memory' as const),
      }))
      .sort((a, b) => b.totalMs - a.totalMs);
  }

  /**
   * How much of the time the device was at work, and what it waited for; measure it with detail `submits`, since
   * timing every dispatch changes it.
   * Throws by wall clock, where work is held back: there compare `deviceMs` with the time that the same work takes
   * without a profile.
   */
  occupancy(): Occupancy {
    if (this.timing !== 'timestamps')
      throw new Error(
        'occupancy: needs timestamps, which this device or adapter does not offer; compare deviceMs with the time of the same work without a profile',
      );
    const recording = this.host.filter(({ name }) => name !== 'wait');
    let recordingMs = 0,
      end = 0;
    for (const { startMs, durationMs } of this.busy) {
      if (startMs > end) recordingMs += overlap(recording, end, startMs);
      end = Math.max(end, startMs + durationMs);
    }
    const wallMs = Math.max(this.wallMs, end);
    return { wallMs, busyMs: this.deviceMs, recordingMs, otherMs: Math.max(0, wallMs - this.deviceMs - recordingMs) };
  }

  /**
   * The profile as a trace: write `JSON.stringify({ traceEvents: profile.traceEvents() })` to a file and open it in
   * Perfetto (ui.perfetto.dev) or
   * chrome://tracing. One thread is the device, one JavaScript, one the phases that were marked.
   */
  traceEvents(): TraceEvent[] {
    const named = (tid: number, name: string): TraceEvent => ({
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
      named(TRACE_DEVICE, `device (${this.timing})`),
      named(TRACE_HOST, 'JavaScript'),
      named(TRACE_PHASES, 'phases'),
      ...device,
      ...this.host.map((span) => complete(TRACE_HOST, 'host', span.name, span)),
      ...this.phases.map((phase) => complete(TRACE_PHASES, 'phase', phase.name, phase)),
    ];
  }
}
