/**
 * One device for all commands of a test file, so that kernels are compiled once. Use it where a test runs commands
 * several times and does not depend on a new device:
 *
 * Mock the module that opens devices with `sharing(await original())` of this file; cli.test.ts has the lines.
 */
import { afterAll } from 'vitest';
import type { Device } from '../engine/index.ts';
import type * as node from '../engine/node/index.ts';

/** The module with an `openDevice` that opens one device, which is destroyed after the file's tests. */
export function sharing(real: typeof node): typeof node {
  let shared: Promise<Device> | null = null;
  let destroy = (): void => undefined;
  const open = async (): Promise<Device> => {
    const device = await real.openDevice({ tuning: 'off' });
    destroy = device.destroy.bind(device);
    device.destroy = () => undefined;
    return device;
  };
  afterAll(() => destroy());
  return {
    ...real,
    openDevice: () => {
      shared ??= open();
      return shared;
    },
  };
}
