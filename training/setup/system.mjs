// @ts-check
/** This machine for `chooseDriver`: the implementation of `System` (driver.mjs). */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { installLavapipe, lavapipeHint, parseOsRelease } from './apt.mjs';
import { readAptSources } from './apt-sources.mjs';
import { askChild } from './child.mjs';
import { measureVectorBits, testBounds } from './lavapipe.mjs';
import { unpackSwiftShader } from './swiftshader.mjs';
import { installedManifests } from './vulkan-manifests.mjs';

/** @typedef {import('./driver.mjs').System} System */
/** @typedef {import('./swiftshader.mjs').SwiftShader} SwiftShader */
/** @typedef {import('./probe.mjs').Probe} Probe */

/**
 * The functions of `System` on this machine.
 * @param {string} root
 * @param {string} folder set-up's results
 * @param {(line: string) => void} say
 * @returns {System}
 */
export function thisSystem(root, folder, say) {
  const osRelease = parseOsRelease(existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '');
  /** @type {Promise<SwiftShader | null> | null} */
  let swiftShader = null;
  return {
    linux: process.platform === 'linux',
    manifests: installedManifests,
    probe: (manifests, loader) => probeInChild(root, manifests, loader),
    bounds: (manifests, loader) => testBounds(root, { manifests, loader }, say),
    vectorBits: (manifests, loader, checksBounds) =>
      measureVectorBits({ root, folder, driver: { manifests, loader }, checksBounds, say }),
    installLavapipe: () => installLavapipe(osRelease, readAptSources(), say),
    swiftShader: () => {
      swiftShader ??= unpackSwiftShader(root, folder);
      return swiftShader;
    },
    lavapipeHint: () => lavapipeHint(osRelease, readAptSources()),
  };
}

/**
 * Runs probe.mjs in a child process.
 * @param {string} root
 * @param {string[]} manifests
 * @param {string | null} loader
 * @returns {Probe}
 */
function probeInChild(root, manifests, loader) {
  const program = [fileURLToPath(new URL('probe.mjs', import.meta.url))];
  // Mesa's shader cache may contain code of another vector width (see lavapipeEnvironment in engine/node).
  const variables = { MESA_SHADER_CACHE_DISABLE: 'true' };
  const answer = /** @type {{ value: Probe | null, problem: string | null }} */ (
    askChild(program, root, { manifests, loader }, variables)
  );
  return answer.value ?? { adapter: null, loader: null, problem: answer.problem };
}
