/** Simulated machines for the tests of set-up. Their answers do not depend on the real machine. */
import type { System } from '../training/setup/driver.mjs';
import type { Probe } from '../training/setup/probe.mjs';

export type { System };
export const LAVAPIPE = '/usr/share/vulkan/icd.d/lvp_icd.json';
export const SWIFTSHADER = { loader: '/cache/libvulkan.so.1', manifest: '/cache/vk_swiftshader_icd.json' };
export const found = (description: string, fallback: boolean): Probe => ({
  adapter: { vendor: '', architecture: '', device: '', description, fallback },
  loader: import.meta.filename,
  problem: null,
});
export const refused: Probe = {
  adapter: null,
  loader: '/usr/lib/libvulkan.so.1',
  problem: 'Dawn finds no adapter it accepts',
};
export const noLoader: Probe = { ...refused, loader: null };

/**
 * Linux with a Vulkan loader, without a driver, and without the right to install one. SwiftShader works. Where a test
 * adds lavapipe, lavapipe keeps Dawn's bounds checks and its own vector width.
 */
export function machine(changes: Partial<System> = {}): System {
  return {
    linux: true,
    manifests: () => [],
    probe: (manifests) => (manifests.includes(SWIFTSHADER.manifest) ? found('SwiftShader', true) : refused),
    bounds: () => ({ checks: false, why: 'with checks' }),
    vectorBits: () => ({ bits: null, why: 'no AVX-512' }),
    installLavapipe: () => 'not root',
    swiftShader: () => Promise.resolve(SWIFTSHADER),
    lavapipeHint: () => 'apt-get install mesa-vulkan-drivers',
    ...changes,
  };
}

/** An installed lavapipe that Dawn accepts. */
export const withLavapipe = (): Partial<System> => ({
  manifests: () => [LAVAPIPE],
  probe: (manifests) =>
    manifests.includes(SWIFTSHADER.manifest) ? found('SwiftShader', true) : found('llvmpipe', true),
});

/** Ignores set-up's messages. */
export const quiet = (): void => undefined;
