/** Machines for the tests of set-up: what it would find on each, without asking this one. */
import type { chooseDriver } from '../training/setup/setup.mjs';

export type System = Parameters<typeof chooseDriver>[1];
type Probe = ReturnType<System['probe']>;
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

/** Linux with a Vulkan loader, no driver, no rights to install one; SwiftShader works. Lavapipe, where a test adds it, keeps Dawn's checks of bounds and the width that it takes by itself. */
export function machine(changes: Partial<System> = {}): System {
  return {
    linux: true,
    manifests: () => [],
    probe: (manifests) => (manifests.includes(SWIFTSHADER.manifest) ? found('SwiftShader', true) : refused),
    bounds: () => ({ checks: false, why: 'with checks' }),
    vectorBits: () => ({ bits: null, why: 'no AVX-512' }),
    installLavapipe: () => 'not root',
    swiftShader: () => SWIFTSHADER,
    lavapipeHint: () => 'apt-get install mesa-vulkan-drivers',
    ...changes,
  };
}

/** With a lavapipe that Dawn accepts, installed or yet to be. */
export const withLavapipe = (installed = true): Partial<System> => ({
  manifests: () => (installed ? [LAVAPIPE] : []),
  probe: (manifests) =>
    manifests.includes(SWIFTSHADER.manifest) ? found('SwiftShader', true) : found('llvmpipe', true),
});

/** For set-up's progress, which the test does not look at. */
export const quiet = (): void => undefined;
