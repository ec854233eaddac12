/**
 * `train --profile`: the time of a training step, kernel by kernel. Profiles a few steps of the run itself, prints a
 * table and writes a trace.
 */
import { statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Device, KernelSummary, Profile, RunningProfile } from '../../engine/index.ts';
import { InputError } from '../core/errors.ts';
import type { TrainingConfig } from '../core/recipe.ts';
import { formatTable } from '../output/table.ts';

/**
 * Phases and their steps:
 * - warm-up: kernels are compiled and the pool of buffers fills;
 * - dispatches: every dispatch is timed, which slows a step down;
 * - submits: only whole submits are timed;
 * - plain: the steps are timed together, without any profiling.
 */
const PHASES = [
  ['warm-up', 3],
  ['dispatches', 3],
  ['submits', 5],
  ['plain', 5],
] as const;
type Phase = (typeof PHASES)[number][0];
const stepsOf = (phase: Phase): number => PHASES.find(([name]) => name === phase)![1];

/** Steps of a profile. */
export const PROFILED_STEPS = PHASES.reduce((sum, [, steps]) => sum + steps, 0);

/** Minimum share of the time of a kernel that has its own row in the table. */
const MIN_SHOWN_SHARE = 0.01;

/**
 * The first iteration, `iteration` or later, at which PROFILED_STEPS can run without an evaluation or a checkpoint
 * between them. Throws InputError if the run has none.
 */
export function profileStart(iteration: number, { iterations, evaluateEvery, saveEvery }: TrainingConfig): number {
  const interrupts = (step: number): boolean =>
    step % saveEvery === 0 || (evaluateEvery > 0 && step % evaluateEvery === 0);
  for (let start = iteration; start + PROFILED_STEPS <= iterations; start++) {
    // An evaluation or a checkpoint may follow the last step, because the time of this step is taken before.
    if (!Array.from({ length: PROFILED_STEPS - 1 }, (_, i) => start + i + 1).some(interrupts)) return start;
  }
  throw new InputError(
    `train: --profile needs ${PROFILED_STEPS} iterations in a row without evaluation or saving; ` +
      `this run has ${iterations - iteration} to go, with evaluateEvery ${evaluateEvery} and saveEvery ${saveEvery}`,
  );
}

/** Checks the path of a trace and returns it. Throws InputError for a folder, or if the path's folder is missing. */
export function fileToWrite(path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
    throw new InputError(`train: --profile: expected a file to write, got the folder ${path}`);
  if (!statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory())
    throw new InputError(`train: --profile: expected a file in a folder that exists, got ${path}`);
  return path;
}

const percent = (share: number): string => (100 * share).toFixed(1);

/**
 * The table of kernels. Each kernel with at least a hundredth of the time has a row; the others share one row. Calls
 * and times are per step.
 */
function profileTable(profile: Profile, steps: number): string {
  const kernels = profile.kernels();
  const shown = kernels.filter(({ share }) => share >= MIN_SHOWN_SHARE);
  const others = kernels.slice(shown.length);
  const row = (summary: KernelSummary): (string | number)[] => [
    summary.kernel,
    +(summary.calls / steps).toFixed(1),
    (summary.totalMs / steps).toFixed(2),
    percent(summary.share),
    summary.flopsPerSecond === null ? '-' : (summary.flopsPerSecond / 1e9).toFixed(1),
    (summary.bytesPerSecond / 1e9).toFixed(2),
    (100 * summary.roofline).toFixed(0),
    summary.limit,
  ];
  const sum = (list: readonly KernelSummary[], of: (kernel: KernelSummary) => number): number =>
    list.reduce((total, kernel) => total + of(kernel), 0);
  const together = (name: string, list: readonly KernelSummary[]): (string | number)[] => [
    name,
    +(sum(list, ({ calls }) => calls) / steps).toFixed(1),
    (sum(list, ({ totalMs }) => totalMs) / steps).toFixed(2),
    percent(sum(list, ({ share }) => share)),
    '-',
    '-',
    '-',
    '-',
  ];
  return formatTable(
    ['kernel', 'calls', 'ms', '%', 'GFLOP/s', 'GB/s', '% of peak', 'bound by'],
    [
      ...shown.map(row),
      ...(others.length > 0 ? [together(`${others.length} others`, others)] : []),
      together('all, one step', kernels),
    ],
  );
}

/** How long the device waits for JavaScript, and how it was measured. `plainMs`: time of a step without profiling. */
function occupancyLines(submits: Profile, plainMs: number): string[] {
  const steps = stepsOf('submits');
  const shown = (ms: number): string => `${ms.toFixed(1)} ms`;
  if (submits.timing !== 'timestamps') {
    const deviceMs = submits.deviceMs / steps;
    const waiting = percent(Math.max(0, 1 - deviceMs / plainMs));
    return [
      `a step takes ${shown(plainMs)} without profiling, and ${shown(deviceMs)} if the device gets all its commands ` +
        'at once:',
      `the device waits for JavaScript ${waiting} % of a step at most (means of ${steps} steps)`,
    ];
  }
  const { wallMs, busyMs, encodingMs, otherMs } = submits.occupancy();
  return [
    `the device waits for JavaScript ${percent(encodingMs / wallMs)} % of a step: of ${shown(wallMs / steps)} ` +
      `it works ${shown(busyMs / steps)}, is idle ${shown(encodingMs / steps)} while JavaScript prepares commands,`,
    `and ${shown(otherMs / steps)} for other reasons (batches, reading back), by timestamps around each submit, ` +
      `mean of ${steps} steps; without profiling a step takes ${shown(plainMs)}`,
  ];
}

/** Profiles steps of a run. Call `before` before each step and `after` after it; `after` returns the report once. */
export class StepProfiler {
  private running: RunningProfile | null = null;
  private profile: Profile | null = null;
  private submits: Profile | null = null;
  private phaseStart = 0;

  /**
   * @param start the first profiled iteration, from `profileStart`
   * @param file  path of the trace
   */
  constructor(
    private readonly device: Device,
    private readonly start: number,
    private readonly file: string,
  ) {}

  /** @param iteration steps done so far */
  async before(iteration: number): Promise<void> {
    const phase = PHASES.find((_, i) => iteration === this.startOf(i))?.[0];
    if (phase !== undefined) {
      await this.device.synchronize();
      if (phase === 'dispatches') this.running = await this.device.startProfile();
      if (phase === 'submits') this.running = await this.device.startProfile({ detail: 'submits' });
      this.phaseStart = performance.now();
    }
    this.running?.mark(`iteration ${iteration + 1}`);
  }

  /** Resolves to the report after the last profiled step, otherwise to null. */
  async after(iteration: number): Promise<string | null> {
    const phase = PHASES.find((_, i) => iteration === this.startOf(i + 1))?.[0];
    if (phase === undefined) return null;
    const finished = (await this.running?.finish()) ?? null;
    this.running = null;
    if (phase === 'dispatches' && finished) {
      this.profile = finished;
      const { adapter, timing, roofline } = finished;
      writeFileSync(
        this.file,
        JSON.stringify({
          displayTimeUnit: 'ms',
          otherData: { adapter, timing, ...roofline },
          traceEvents: finished.traceEvents(),
        }),
      );
    }
    if (phase === 'submits') this.submits = finished;
    if (phase !== 'plain' || !this.profile || !this.submits) return null;
    await this.device.synchronize();
    return this.report(this.profile, this.submits, (performance.now() - this.phaseStart) / stepsOf('plain'));
  }

  /** The number of iterations done when a phase begins. */
  private startOf(phase: number): number {
    return PHASES.slice(0, phase).reduce((sum, [, steps]) => sum + steps, this.start);
  }

  private report(profile: Profile, submits: Profile, plainMs: number): string {
    const { calibration, timing, resolutionNs } = profile;
    const { reason, roofline, emptyDispatchMs } = calibration;
    const empty = `${(1000 * emptyDispatchMs).toFixed(0)} us`;
    const coarse = resolutionNs > 1000 ? `; timestamps are multiples of ${resolutionNs / 1000} us` : '';
    return [
      `profile of ${stepsOf('dispatches')} steps, the device timed by ${timing}${reason ? ` (${reason})` : ''}`,
      profileTable(profile, stepsOf('dispatches')),
      `measured peak of this adapter: ${(roofline.flopsPerSecond / 1e9).toFixed(0)} GFLOP/s in registers, ` +
        `${(roofline.bytesPerSecond / 1e9).toFixed(1)} GB/s copied; caches can give more than 100 %`,
      timing === 'timestamps'
        ? `each dispatch is timed alone, which adds to its time: an empty dispatch takes ${empty}${coarse}`
        : `each dispatch is submitted and waited for alone; the ${empty} of an empty dispatch are subtracted`,
      ...occupancyLines(submits, plainMs),
      `trace     ${this.file}   (open it at ui.perfetto.dev)`,
    ].join('\n');
  }
}
