/** Work on a device as jobs that can be timed. */
import type { Device } from '../engine/index.ts';
import type { Row } from './case.ts';
import type { Job } from './measure.ts';

/** Executions submitted one by one, as callers of the ops do. */
export const eagerJob = (device: Device, { part, launch }: Pick<Row, 'part' | 'launch'>): Job => ({
  name: part,
  run: async (times) => {
    for (let i = 0; i < times; i++) launch();
    await device.synchronize();
  },
});

/** One capture, and a replay for each execution. The device does the same work as in an eager execution. */
export const capturedJob = (
  device: Device,
  { part, launch }: Pick<Row, 'part' | 'launch'>,
): Job & { dispose(): void } => {
  const capture = device.capture(launch);
  return {
    name: `${part}, captured`,
    run: async (times) => {
      for (let i = 0; i < times; i++) capture.replay();
      await device.synchronize();
    },
    dispose: () => capture.dispose(),
  };
};

/** A job that runs `body` and waits for the device. */
export const deviceJob = (device: Device, name: string, body: () => void): Job => ({
  name,
  run: async (times) => {
    for (let i = 0; i < times; i++) body();
    await device.synchronize();
  },
});
