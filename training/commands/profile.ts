/** `train --profile`: where the time of a training step goes. Profiles a few steps of the run itself, prints a table by kernel and writes a trace. */
import { statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Device, KernelSummary, Profile, RunningProfile } from '../../engine/index.ts';
import { InputError } from '../core/errors.ts';
import type { TrainingConfig } from '../core/recipe.ts';
import { formatTable } from '../output/table.ts';

/**
 * Phases and their steps. The first compile kernels and fill the pool of buffers; then every dispatch is timed; then, since that slows a step down, only what
 * the device is given at once; and the last steps are timed as a whole, as they are without any profiling.
 */
const PHASES = [
  ['warm-up', 3],
  ['dispatches', 3],
  ['submits', 5],
  ['plain', 5],
] as const;
type Phase = (typeof PHASES)[number][0];
const stepsOf = (phase: Phase): number => PHASES.find(([name]) => name === phase)![1];

/** Steps that a profile takes. */
export const PROFILED_STEPS = PHASES.reduce((sum, [, steps]) => sum + steps, 0);

/**
 * The iteration to begin at: the first from `iteration` on from which PROFILED_STEPS are done without an evaluation or a checkpoint between them.
 * Throws InputError where the run has none.
 */
export function profileStart(iteration: number, { iterations, evaluateEvery, saveEvery }: TrainingConfig): number {
  const interrupts = (step: number): boolean =>
    step % saveEvery === 0 || (evaluateEvery > 0 && step % evaluateEvery === 0);
  for (let start = iteration; start + PROFILED_STEPS <= iterations; start++) {
    // The last step may be followed by either: its time is taken before.
    if (!Array.from({ length: PROFILED_STEPS - 1 }, (_, i) => start + i + 1).some(interrupts)) return start;
  }
  throw new InputError(
    `train: --profile needs ${PROFILED_STEPS} iterations in a row without evaluation or saving; this run has ${iterations - iteration} to go, with evaluateEvery ${evaluateEvery} and saveEvery ${saveEvery}`,
  );
}

/** A path given for the trace, checked before there is anything to write. Throws InputError where a folder is there, or none for it to lie in. */
export function fileToWrite(path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
    throw new InputError(`train: --profile: expected a file to write, got the folder ${path}`);
  if (!statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory())
    throw new InputError(`train: --profile: expected a file in a folder that exists, got ${path}`);
  return path;
}

const percent = (share: number): string => (100 * share).toFixed(1);

/** The kernels that take a hundredth of the time or more, and the others in one line; calls and times of one step. */
export function profileTable(profile: Profile, steps: number): string {
  const kernels = profile.kernels();
  const shown = kernels.filter(({ share }) => share >= 0.01);
  const others = kernels.slice(shown.length);
  const row = ({
    kernel,
    calls,
    totalMs,
    share,
    flopsPerSecond,
    bytesPerSecond,
    roofline,
    limit,
  }: KernelSummary): (string | number)[] => [
    kernel,
    +(calls / steps).toFixed(1),
    (totalMs / steps).toFixed(2),
    percent(share),
    flopsPerSecond === null ? '-' : (flopsPerSecond / 1e9).toFixed(1),
    (bytesPerSecond / 1e9).toFixed(2),
    (100 * roofline).toFixed(0),
    limit,
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
      together('all, a step', kernels),
    ],
  );
}

/** Whether the device waits for JavaScript, and how that was measured; `plainMs` of one step. */
function occupancyLines(submits: Profile, plainMs: number): string[] {
  const steps = stepsOf('submits');
  const step = (ms: number): string => `${ms.toFixed(1)} ms`;
  if (submits.timing !== 'timestamps') {
    const deviceMs = submits.deviceMs / steps;
    return [
      `a step takes ${step(plainMs)} unprofiled, and ${step(deviceMs)} where its commands are held back and given to the device at once:`,
      `the device waits for JavaScript ${percent(Math.max(0, 1 - deviceMs / plainMs))} % of a step at most (means of ${steps} steps)`,
    ];
  }
  const { wallMs, busyMs, recordingMs, otherMs } = submits.occupancy();
  return [
    `the device waits for JavaScript ${percent(recordingMs / wallMs)} % of a step: of ${step(wallMs / steps)} it is at work ${step(busyMs / steps)}, and has nothing to do ${step(recordingMs / steps)} while JavaScript records`,
    `and ${step(otherMs / steps)} for other reasons (batches, reading back), by timestamps around each submit, mean of ${steps} steps; unprofiled a step takes ${step(plainMs)}`,
  ];
}

/** Profiles a run's steps: `before` is called in front of each, `after` behind it; what they resolve to is the report, once. */
export class StepProfiler {
  private running: RunningProfile | null = null;
  private profile: Profile | null = null;
  private submits: Profile | null = null;
  private phaseStart = 0;

  /**
   * @param start the iteration to begin at, by `profileStart`
   * @param file  where the trace goes
   */
  constructor(
    private readonly device: Device,
    private readonly start: number,
    private readonly file: string,
  ) {}

  /** @param iteration steps done so far */
  async before(iteration: number): Promise<void> {
    const phase = PHASES.find((_, i) => iteration === this.begins(i))?.[0];
    if (phase !== undefined) {
      await this.device.synchronize();
      if (phase === 'dispatches') this.running = await this.device.startProfile();
      if (phase === 'submits') this.running = await this.device.startProfile({ detail: 'submits' });
      this.phaseStart = performance.now();
    }
    this.running?.mark(`iteration ${iteration + 1}`);
  }

  /** Resolves to what there is to tell, after the last step; otherwise to null. */
  async after(iteration: number): Promise<string | null> {
    const phase = PHASES.find((_, i) => iteration === this.begins(i + 1))?.[0];
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

  /** The iteration before which a phase begins. */
  private begins(phase: number): number {
    return PHASES.slice(0, phase).reduce((sum, [, steps]) => sum + steps, this.start);
  }

  private report(profile: Profile, submits: Profile, plainMs: number): string {
    const {
      calibration: { reason, roofline, emptyDispatchMs },
      timing,
      resolutionNs,
    } = profile;
    const empty = `${(1000 * emptyDispatchMs).toFixed(0)} us`;
    return [
      `profile of ${stepsOf('dispatches')} steps, the device timed by ${timing}${reason ? ` (${reason})` : ''}`,
      profileTable(profile, stepsOf('dispatches')),
      `peak of this adapter as measured: ${(roofline.flopsPerSecond / 1e9).toFixed(0)} GFLOP/s in registers, ${(roofline.bytesPerSecond / 1e9).toFixed(1)} GB/s copied; caches can give more than 100 %`,
      timing === 'timestamps'
        ? `each dispatch is timed on its own, which adds to it: one that does nothing takes ${empty}${resolutionNs > 1000 ? `; timestamps are multiples of ${resolutionNs / 1000} us` : ''}`
        : `each dispatch is submitted and waited for on its own; the ${empty} that one takes that does nothing are taken off`,
      ...occupancyLines(submits, plainMs),
      `trace     ${this.file}   (open it at ui.perfetto.dev)`,
    ].join('\n');
  }
}
