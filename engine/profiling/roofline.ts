/** Calibration: the peak rates of an adapter, and whether its timestamps are reliable. All profiles refer to it. */
import { linearGrid } from '../../kernels/kernel.ts';
import {
  bandwidthKernel,
  COPIED_PER_LANE,
  PEAK_FLOPS_PER_TURN,
  peakFlopsKernel,
  ROOFLINE_LANES,
} from '../../kernels/roofline.ts';
import { median } from '../core/statistics.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import type { BufferHolder } from '../gpu/resources.ts';
import type { Calibration, Profile, ProfileTiming } from './profile.ts';
import { Profiler, type ProfilerSetup } from './profiler.ts';

/** Minimum duration of the arithmetic measurement: long enough that the latency of a submit is negligible. */
const MEASURED_MS = 10;
const MEASUREMENTS = 5;
const EMPTY_DISPATCHES = 15;
/** Bytes copied to measure bandwidth: more than the caches of most devices hold. */
const COPIED_BYTES = 64 * 2 ** 20;
const COPIED_GROUP_BYTES = 16 * COPIED_PER_LANE * ROOFLINE_LANES;
/** This many workgroups fill the largest GPUs several times over. With this number, only the loops get longer. */
const MAX_PEAK_GROUPS = 16384;
/**
 * Timestamps are reliable if the ratio of device time to the host's waiting time is in this range. The device time
 * cannot exceed the waiting time; the maximum has a margin for the host's clock.
 */
const MIN_TIMESTAMP_RATIO = 0.5;
const MAX_TIMESTAMP_RATIO = 1.1;

export interface CalibrationSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  /** Whether the device offers timestamps. */
  readonly timestamps: boolean;
  readonly wait: ProfilerSetup['wait'];
}

/** Measures a device that is otherwise idle. It takes less than a second, and 128 MiB that are freed afterwards. */
export async function calibrate(setup: CalibrationSetup): Promise<Calibration> {
  const { gpu, dispatcher } = setup;
  const bytes =
    Math.min(COPIED_BYTES, gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize) &
    ~(COPIED_GROUP_BYTES - 1);
  const buffers = [-1, -2].map((id) => {
    const buffer = gpu.createBuffer({ label: 'roofline', size: bytes, usage: GPUBufferUsage.STORAGE });
    return { storage: { range: { id, gpu: buffer, offset: 0, bytes } } };
  });
  try {
    let reason = 'the device offers no timestamps';
    if (setup.timestamps) {
      const calibrator = new Calibrator(setup, 'timestamps', buffers);
      if (await calibrator.growPeakWork()) return await calibrator.measure(null);
      reason = 'the timestamps of this adapter do not agree with the time that its work takes';
    }
    const calibrator = new Calibrator(setup, 'wall clock', buffers);
    await calibrator.growPeakWork();
    return await calibrator.measure(reason);
  } finally {
    dispatcher.dropBindGroups();
    for (const { storage } of buffers) storage.range.gpu.destroy();
  }
}

/** Measures the peak rates by one way of timing. */
class Calibrator {
  /** Size of the arithmetic measurement: workgroups, and turns of their loops. */
  private groups = 64;
  private turns = 64;

  constructor(
    private readonly setup: CalibrationSetup,
    private readonly timing: ProfileTiming,
    private readonly buffers: readonly BufferHolder[],
  ) {}

  /** Makes the arithmetic measurement long enough. Returns whether its device time agrees with the waiting time. */
  async growPeakWork(): Promise<boolean> {
    await this.profile(() => this.multiplyAdd()); // compiles
    for (;;) {
      const start = performance.now();
      const [{ durationMs }] = (await this.profile(() => this.multiplyAdd())).rows;
      const waited = performance.now() - start;
      if (waited >= MEASURED_MS)
        return durationMs > MIN_TIMESTAMP_RATIO * waited && durationMs < MAX_TIMESTAMP_RATIO * waited;
      if (this.groups < MAX_PEAK_GROUPS) this.groups *= 4;
      else this.turns *= 4;
    }
  }

  /** @param reason the reason for not using timestamps; null if timestamps are used */
  async measure(reason: string | null): Promise<Calibration> {
    const flops = this.groups * ROOFLINE_LANES * this.turns * PEAK_FLOPS_PER_TURN;
    const peakMs = Math.min(...(await this.times(MEASUREMENTS, () => this.multiplyAdd())));
    const count4 = this.buffers[0].storage.range.bytes / 16;
    await this.profile(() => this.copy(count4)); // clears the new buffers
    const copyMs = Math.min(...(await this.times(MEASUREMENTS, () => this.copy(count4))));
    const emptyMs = median(await this.times(EMPTY_DISPATCHES, () => this.empty()));
    // By wall clock, the time of a dispatch contains its submit and the wait for it.
    const latency = this.timing === 'wall clock' ? emptyMs : 0;
    return {
      timing: this.timing,
      reason,
      emptyDispatchMs: emptyMs,
      roofline: {
        flopsPerSecond: (1e3 * flops) / (peakMs - latency),
        bytesPerSecond: (1e3 * 32 * count4) / (copyMs - latency),
      },
    };
  }

  /** Dispatches the arithmetic measurement. */
  private multiplyAdd(): void {
    const [, output] = this.buffers;
    const params = { turns: this.turns, factor: 0.999, addend: 0.5, count: 1024 };
    this.setup.dispatcher.run(peakFlopsKernel(), params, { output }, linearGrid(this.groups));
  }

  /** Copies `count4` vec4s from one buffer to the other. */
  private copy(count4: number): void {
    const [input, output] = this.buffers;
    const grid = linearGrid((16 * count4) / COPIED_GROUP_BYTES);
    this.setup.dispatcher.run(bandwidthKernel(), { count4 }, { input, output }, grid);
  }

  private empty(): void {
    const [input, output] = this.buffers;
    this.setup.dispatcher.run(bandwidthKernel(), { count4: 0 }, { input, output }, [1, 1, 1]);
  }

  /** Device times of `count` dispatches, in milliseconds. */
  private async times(count: number, dispatch: () => void): Promise<number[]> {
    const { rows } = await this.profile(() => {
      for (let i = 0; i < count; i++) dispatch();
    });
    return rows.map(({ durationMs }) => durationMs);
  }

  /** A profile without calibration. */
  private async profile(work: () => void): Promise<Profile> {
    const { gpu, dispatcher, wait } = this.setup;
    const { timing } = this;
    const profiler = new Profiler({ gpu, dispatcher, detail: 'dispatches', timing, wait });
    work();
    const roofline = { flopsPerSecond: 1, bytesPerSecond: 1 };
    return profiler.finish('', { timing, reason: null, roofline, emptyDispatchMs: 0 });
  }
}
