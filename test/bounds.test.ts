/**
 * Accesses beyond the end of a binding stay inside the binding on every adapter. Where Dawn's checks are disabled, the
 * driver checks: set-up disables them only after a test of the driver's own checks.
 */
import { describe, expect, test } from 'vitest';
import { dawnFlags, readDriverChoice, userVulkanVariable } from '../engine/node/index.ts';
import { escapeOutOfBounds } from '../training/setup/bounds.ts';
import { testDevice } from './devices.ts';

const { gpu } = await testDevice();
const unchecked = dawnFlags().includes('enable-dawn-features=disable_robustness');

/** The same device. `methods` change the arguments of these methods. */
function altered(
  methods: {
    [K in keyof GPUDevice]?: GPUDevice[K] extends (descriptor: infer D) => unknown ? (descriptor: D) => D : never;
  },
): GPUDevice {
  return new Proxy(gpu, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      const change = methods[key as keyof GPUDevice] as ((argument: unknown) => unknown) | undefined;
      return (...given: unknown[]): unknown => Reflect.apply(value, target, change ? [change(given[0])] : given);
    },
  });
}

/** Binds 256 more bytes of a buffer. So the shader reaches data behind it, as on a driver without checks. */
const extended =
  (longer: number) =>
  (descriptor: GPUBindGroupDescriptor): GPUBindGroupDescriptor => ({
    ...descriptor,
    entries: Array.from(descriptor.entries, ({ binding, resource }) => {
      const { size, ...rest } = resource as Required<GPUBufferBinding>;
      return { binding, resource: binding === longer ? { ...rest, size: size + 256 } : resource };
    }),
  });
const withCode =
  (from: string, to: string) =>
  (descriptor: GPUShaderModuleDescriptor): GPUShaderModuleDescriptor => ({
    ...descriptor,
    code: descriptor.code.replaceAll(from, to),
  });

describe('accesses beyond the end', () => {
  test('Dawn checks, unless set-up found that lavapipe checks', () => {
    const choice = readDriverChoice();
    const setting = process.env.DSRCNN_ROBUSTNESS;
    expect(unchecked).toBe(
      setting
        ? setting === 'off'
        : choice?.driver === 'lavapipe' && choice.checksBounds && userVulkanVariable() === null,
    );
  });

  test('accesses stay within the binding; on a driver that checks, reads give 0 and writes are dropped', async () => {
    expect(await escapeOutOfBounds(gpu, unchecked ? 'nothing' : 'inside')).toBeNull();
  });

  test('the test reports data that can be reached', async () => {
    expect(await escapeOutOfBounds(altered({ createBindGroup: extended(2) }), 'inside')).toBe(
      'reading element 16 of 16 f32 of a storage buffer gave 81',
    );
    expect(await escapeOutOfBounds(altered({ createBindGroup: extended(3) }), 'inside')).toBe(
      'reading element 16 of 16 vec4f of a storage buffer gave 257',
    );
    if (unchecked)
      expect(await escapeOutOfBounds(altered({ createBindGroup: extended(4) }), 'nothing')).toBe(
        'reading element 16 of 16 vec4f of a uniform buffer gave 129',
      );
    const blind = altered({
      createBindGroup: extended(2),
      createShaderModule: withCode('= vec4f(floats[index])', '= vec4f()'),
    });
    expect(await escapeOutOfBounds(blind, 'inside')).toMatch(
      /^a write beyond the end of 16 f32 at word 64 .* changed word 80 to -2$/,
    );
  });

  test('the test does not pass where the shader does not run', async () => {
    await expect(
      escapeOutOfBounds(altered({ createShaderModule: withCode('fn loads', 'fn') }), 'inside'),
    ).rejects.toThrow('WGSL');
    const idle = altered({
      createShaderModule: withCode('let count', 'if (arrayLength(&indices) > 0u) { return; } let count'),
    });
    expect(await escapeOutOfBounds(idle, 'inside')).toBe('reading element 16 of 16 f32 of a storage buffer gave -1');
  });
});
