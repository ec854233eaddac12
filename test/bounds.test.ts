/**
 * Accesses beyond the end of what is bound stay inside on every adapter. Where Dawn's checks are disabled, because
 * set-up saw that the driver has its own, the driver still checks.
 */
import { describe, expect, test } from 'vitest';
import { dawnFlags, readDriverChoice, userVulkanVariable } from '../engine/node/index.ts';
import { escapeOutOfBounds } from '../training/setup/bounds.ts';
import { testDevice } from './devices.ts';

const { gpu } = await testDevice();
const unchecked = dawnFlags().includes('enable-dawn-features=disable_robustness');

/** The same device, with changed arguments for some of its methods. */
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

/** Binds 256 bytes more of a buffer, so that the shader reaches data behind it, as on a driver that does not check. */
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

describe('beyond the end', () => {
  test('Dawn checks, unless set-up saw that lavapipe checks', () => {
    const choice = readDriverChoice(),
      named = process.env.DSRCNN_ROBUSTNESS;
    expect(unchecked).toBe(
      named ? named === 'off' : choice?.driver === 'lavapipe' && choice.checksBounds && userVulkanVariable() === null,
    );
  });

  test('accesses stay within what is bound; on a driver that checks, reads give 0 and writes are dropped', async () => {
    expect(await escapeOutOfBounds(gpu, unchecked ? 'nothing' : 'inside')).toBeNull();
  });

  test('notices data that can be reached', async () => {
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

  test('does not pass where the shader does not run', async () => {
    await expect(
      escapeOutOfBounds(altered({ createShaderModule: withCode('fn loads', 'fn') }), 'inside'),
    ).rejects.toThrow('WGSL');
    const idle = altered({
      createShaderModule: withCode('let count', 'if (arrayLength(&indices) > 0u) { return; } let count'),
    });
    expect(await escapeOutOfBounds(idle, 'inside')).toBe('reading element 16 of 16 f32 of a storage buffer gave -1');
  });
});
