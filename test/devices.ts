/**
 * The devices that tests run on: the machine's adapter, and the same adapter with WebGPU's default limits and without
 * subgroups. They are opened once per test file and destroyed at its end. They have no tuned choices.
 */
import { afterAll, vi } from 'vitest';
import { Device, type ForcedVariants } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';

export interface TestDevice {
  readonly label: string;
  readonly device: Device;
}

/** The machine's adapter, and if it has subgroups, the same with WebGPU's default limits and without subgroups. */
export async function testDevices(): Promise<readonly TestDevice[]> {
  const adapter = await adapterDevice();
  return adapter.device.subgroupSize > 0 ? [adapter, await defaultLimitsDevice()] : [adapter];
}

/** The machine's adapter. */
export async function adapterDevice(): Promise<TestDevice> {
  const device = await testDevice();
  return { label: device.subgroupSize > 0 ? `subgroups of ${device.subgroupSize}` : 'as it is', device };
}

/** The adapter with WebGPU's default limits and no subgroups. */
export async function defaultLimitsDevice(): Promise<TestDevice> {
  const device = await openDevice({ tuning: 'off', subgroups: false, limits: 'default' });
  afterAll(() => device.destroy());
  return { label: 'no subgroups, default limits', device };
}

/**
 * The adapter with forced variants of products and convolutions. Without force it would choose them only for larger
 * shapes than those of tests.
 */
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

/** One device, for tests that do not depend on variants. */
export async function testDevice(): Promise<Device> {
  const device = await openDevice({ tuning: 'off' });
  afterAll(() => device.destroy());
  return device;
}

/** Hides the feature shader-f16 of all adapters until mocks are restored. */
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
