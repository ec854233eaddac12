// @ts-check
/** Finds the Vulkan driver manifests of this system. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';

/** The folders that the Vulkan loader searches. */
const SYSTEM_DIRECTORIES = [
  '/etc/vulkan/icd.d',
  '/usr/local/etc/vulkan/icd.d',
  '/usr/local/share/vulkan/icd.d',
  '/usr/share/vulkan/icd.d',
];
/** Folders where container platforms mount NVIDIA's driver. The Vulkan loader does not search them. */
const MOUNTED_DIRECTORIES = ['/usr/local/nvidia/share/vulkan/icd.d', '/usr/local/nvidia/vulkan/icd.d'];
const DIRECTORIES = [...SYSTEM_DIRECTORIES, ...MOUNTED_DIRECTORIES];

/**
 * The driver manifests of some folders, with the times of their last changes.
 * @param {readonly string[]} directories
 */
const withTimes = (directories) =>
  directories
    .filter((directory) => existsSync(directory))
    .flatMap((directory) =>
      readdirSync(directory)
        .filter((name) => name.endsWith('.json'))
        .sort()
        .map((name) => ({
          file: path.join(directory, name),
          changed: statSync(path.join(directory, name), { throwIfNoEntry: false })?.mtimeMs ?? 0,
        })),
    );

/** All installed driver manifests. */
export const installedManifests = () => withTimes(DIRECTORIES).map(({ file }) => file);

/**
 * Whether a manifest lies in a folder that the Vulkan loader does not search.
 * @param {string} file
 */
export const isMounted = (file) => MOUNTED_DIRECTORIES.includes(path.dirname(file));

/**
 * A hash that changes if a Vulkan driver is installed, upgraded or removed. So set-up finds a GPU that is added later.
 * @returns {string}
 */
export function manifestFingerprint(directories = DIRECTORIES) {
  return createHash('sha256')
    .update(JSON.stringify(withTimes(directories)))
    .digest('hex')
    .slice(0, 16);
}
