/** Jobs for timing of work on a device. */
import type { Device } from '../engine/index.ts';
import type { Row } from './case.ts';
import type { Job } from './measure.ts';

/** A job that runs `body` and waits for the device. */
export const deviceJob = (device: Device, name: string, body: () => void): Job => ({
  name,
  run: async (times) => {
    for (let i = 0; i < times; i++) body();
    await device.synchronize();
  },
});

/** Executions submitted one by one, as callers of the ops do. */
export const eagerJob = (device: Device, { part, launch }: Pick<Row, 'part' | 'launch'>): Job =>
  deviceJob(device, part, launch);

/** One capture, and a replay for each execution. The device does the same work as in an eager execution. */
export function capturedJob(device: Device, { part, launch }: Pick<Row, 'part' | 'launch'>): Job & { dispose(): void } {
  const capture = device.capture(launch);
  return {
    ...deviceJob(device, `${part}, captured`, () => capture.replay()),
    dispose: () => capture.dispose(),
  };
}
