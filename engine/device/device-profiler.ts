/** Profiles of a device: one at a time. The device is calibrated before its first profile. */
import type { Dispatcher } from '../gpu/dispatcher.ts';
import type { Calibration, Profile, ProfileOptions } from '../profiling/profile.ts';
import { Profiler } from '../profiling/profiler.ts';
import { calibrate } from '../profiling/roofline.ts';
import type { Settle } from './options.ts';

/** A profile in progress. */
export interface RunningProfile {
  /** Begins a phase: a named time span in the trace. It lasts until the next phase. */
  mark(phase: string): void;
  /** Waits for the device and ends the profile. */
  finish(): Promise<Profile>;
}

export interface DeviceProfilerSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  /** Name of the adapter, shown in profiles. */
  readonly adapter: string;
  readonly settle: Settle;
  /** Waits until the device has done all work so far. */
  readonly synchronize: () => Promise<void>;
}

/** Starts and finishes the profiles of a device. */
export class DeviceProfiler {
  /** The profiler of the profile in progress. */
  private active: Profiler | null = null;
  private busy = false;
  private calibration: Calibration | null = null;

  constructor(private readonly setup: DeviceProfilerSetup) {}

  /** Whether the profiler holds submitted commands back. Then resources that they use cannot be destroyed. */
  get holdsCommands(): boolean {
    return this.active?.holds ?? false;
  }

  /** Records that JavaScript encodes work now. */
  touch(): void {
    this.active?.touch();
  }

  /** Waits for a promise of the device. A profile in progress records the time. */
  wait<T>(arrival: () => Promise<T>): Promise<T> {
    const { settle } = this.setup;
    return this.active ? this.active.wait(() => settle(arrival())) : settle(arrival());
  }

  async start({ detail = 'dispatches' }: ProfileOptions): Promise<RunningProfile> {
    if (this.busy) throw new Error('startProfile: a profile of this device is running already; finish it first');
    this.busy = true;
    try {
      const { gpu, dispatcher, settle, synchronize } = this.setup;
      await synchronize();
      const wait = (exactly: boolean): Promise<undefined> => settle(gpu.queue.onSubmittedWorkDone(), exactly);
      const timestamps = gpu.features.has('timestamp-query');
      this.calibration ??= await calibrate({ gpu, dispatcher, timestamps, wait });
      const { calibration } = this;
      const profiler = new Profiler({ gpu, dispatcher, detail, timing: calibration.timing, wait });
      this.active = profiler;
      return { mark: (phase) => profiler.mark(phase), finish: () => this.finish(profiler, calibration) };
    } catch (error) {
      this.busy = false;
      throw error;
    }
  }

  private async finish(profiler: Profiler, calibration: Calibration): Promise<Profile> {
    try {
      const profile = await profiler.finish(this.setup.adapter, calibration);
      await this.setup.dispatcher.check();
      return profile;
    } finally {
      this.active = null;
      this.busy = false;
    }
  }
}
