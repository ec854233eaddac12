/** The devices that tests run on: the adapter at hand, and the same with nothing but WebGPU's defaults (limits, no subgroups), opened once a test file and destroyed at its end. No tuned choices. */
import { afterAll, vi } from 'vitest';
import { Device, type ForcedVariants } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';

export interface TestDevice {
  readonly label: string;
  readonly device: Device;
}

export async function testDevices(): Promise<readonly TestDevice[]> {
  const own = await adapterDevice();
  return own.device.subgroupSize > 0 ? [own, await defaultLimitsDevice()] : [own];
}

/** The adapter at hand. */
export async function adapterDevice(): Promise<TestDevice> {
  const device = await testDevice();
  return { label: device.subgroupSize > 0 ? `subgroups of ${device.subgroupSize}` : 'as it is', device };
}

/** The adapter with nothing but WebGPU's defaults. */
export async function defaultLimitsDevice(): Promise<TestDevice> {
  const device = await openDevice({ tuning: 'off', subgroups: false, limits: 'default' });
  afterAll(() => device.destroy());
  return { label: 'no subgroups, default limits', device };
}

/** The adapter with variants of matrix products and convolutions forced that its own choice leaves to larger shapes than tests have. */
export async function forcedDevices(): Promise<readonly TestDevice[]> {
  const forced: ForcedVariants[] = [
    { operands: 'texture', convolution: 'winograd2' },
    { operands: 'buffer', convolution: 'winograd4' },
  ];
  const devices = await Promise.all(
    forced.map(async (force) => ({
      label: Object.values(force).join(', '),
      device: await openDevice({ tuning: 'off', force }),
    })),
  );
  afterAll(() => {
    for (const { device } of devices) device.destroy();
  });
  return devices;
}

/** One device, for tests that have no variants to tell apart. */
export async function testDevice(): Promise<Device> {
  const device = await openDevice({ tuning: 'off' });
  afterAll(() => device.destroy());
  return device;
}

/** Until mocks are restored, adapters have no shader-f16. */
export function withoutHalf(): void {
  const { fromAdapter } = Device;
  vi.spyOn(Device, 'fromAdapter').mockImplementation((adapter, options) => {
    const features = new Set([...adapter.features].filter((feature) => feature !== 'shader-f16'));
    return fromAdapter(
      new Proxy(adapter, { get: (target, key) => (key === 'features' ? features : Reflect.get(target, key)) }),
      options,
    );
  });
}
