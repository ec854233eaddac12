/**
 * What an adapter can do at most, measured; and whether its timestamps mean anything: every profile is read against
 * these.
 */
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

/** Long enough that the latency of a submit does not count. */
const MEASURED_MS = 10;
const MEASUREMENTS = 5;
const EMPTY_DISPATCHES = 15;
/** Copied to measure bandwidth: more than the caches of most devices. */
const COPIED_BYTES = 64 * 2 ** 20;
const COPIED_GROUP_BYTES = 16 * COPIED_PER_LANE * ROOFLINE_LANES;
/** Workgroups that fill the largest GPUs several times over; what is more goes into longer loops. */
const MAX_PEAK_GROUPS = 16384;
/**
 * Timestamps are believed if their sum is at least this part of the time waited for, and no more than all of it (and
 * a little for the host's clock).
 */
const BELIEVED = { least: 0.5, most: 1.1 };

export interface CalibrationSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  /** Whether timestamps may be asked for. */
  readonly timestamps: boolean;
  readonly wait: ProfilerSetup['wait'];
}

/** Measures an otherwise idle device: less than a second and 128 MiB, given back afterwards. */
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
    if (!setup.timestamps) return await measure(setup, 'wall clock', 'the device offers no timestamps', buffers);
    const measured = await measure(setup, 'timestamps', null, buffers);
    if (measured !== null) return measured;
    return await measure(
      setup,
      'wall clock',
      'the timestamps of this adapter do not agree with the time that its work takes',
      buffers,
    );
  } finally {
    dispatcher.dropBindGroups();
    for (const { storage } of buffers) storage.range.gpu.destroy();
  }
}

async function measure(
  setup: CalibrationSetup,
  timing: 'wall clock',
  reason: string,
  buffers: readonly BufferHolder[],
): Promise<Calibration>;
/** Null: the timestamps are not to be believed. */
async function measure(
  setup: CalibrationSetup,
  timing: 'timestamps',
  reason: null,
  buffers: readonly BufferHolder[],
): Promise<Calibration | null>;
async function measure(
  { gpu, dispatcher, wait }: CalibrationSetup,
  timing: ProfileTiming,
  reason: string | null,
  [input, output]: readonly BufferHolder[],
): Promise<Calibration | null> {
  const unknown: Calibration = {
    timing,
    reason,
    roofline: { flopsPerSecond: 1, bytesPerSecond: 1 },
    emptyDispatchMs: 0,
  };
  const timed = async (work: () => void): Promise<Profile> => {
    const profiler = new Profiler({ gpu, dispatcher, detail: 'dispatches', timing, wait });
    work();
    return profiler.finish('', unknown);
  };
  const times = async (count: number, work: () => void): Promise<number[]> => {
    const { rows } = await timed(() => {
      for (let i = 0; i < count; i++) work();
    });
    return rows.map(({ durationMs }) => durationMs);
  };

  const peak = { groups: 64, turns: 64 };
  const multiplyAdd = (): void =>
    dispatcher.run(
      peakFlopsKernel(),
      { turns: peak.turns, factor: 0.999, addend: 0.5, count: 1024 },
      { output },
      linearGrid(peak.groups),
    );
  await timed(multiplyAdd); // compiles
  for (;;) {
    const start = performance.now();
    const [{ durationMs }] = (await timed(multiplyAdd)).rows;
    const waited = performance.now() - start;
    if (waited < MEASURED_MS) {
      if (peak.groups < MAX_PEAK_GROUPS) peak.groups *= 4;
      else peak.turns *= 4;
      continue;
    }
    if (timing === 'timestamps' && !(durationMs > BELIEVED.least * waited && durationMs < BELIEVED.most * waited))
      return null;
    break;
  }
  const flops = peak.groups * ROOFLINE_LANES * peak.turns * PEAK_FLOPS_PER_TURN;
  const peakMs = Math.min(...(await times(MEASUREMENTS, multiplyAdd)));

  const count4 = input.storage.range.bytes / 16;
  const copy = (): void =>
    dispatcher.run(bandwidthKernel(), { count4 }, { input, output }, linearGrid((16 * count4) / COPIED_GROUP_BYTES));
  await timed(copy); // clears the new buffers
  const copyMs = Math.min(...(await times(MEASUREMENTS, copy)));

  const empty = (): void => dispatcher.run(bandwidthKernel(), { count4: 0 }, { input, output }, [1, 1, 1]);
  const emptyMs = median(await times(EMPTY_DISPATCHES, empty));
  // By wall clock the time of a dispatch contains the submit and the wait for it.
  const latency = timing === 'wall clock' ? emptyMs : 0;
  return {
    timing,
    reason,
    emptyDispatchMs: emptyMs,
    roofline: {
      flopsPerSecond: (1e3 * flops) / (peakMs - latency),
      bytesPerSecond: (1e3 * 32 * count4) / (copyMs - latency),
    },
  };
}
