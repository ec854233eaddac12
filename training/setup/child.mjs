// @ts-check
/** Runs Dawn in a child process, so that a crash or a missing library does not end set-up. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { removeDawnWarnings } from './dawn-warnings.mjs';
import { messageOf } from './setup-error.mjs';

const TIMEOUT_MS = 60_000;

/**
 * The driver that a child process runs on.
 * @typedef {object} ChildDriver
 * @property {string[]} manifests Vulkan driver manifests; empty: the Vulkan loader searches
 * @property {string | null} loader libvulkan to load; null: the system's
 */

/**
 * Runs a Node program that prints JSON.
 * @template T
 * @param {string[]} program Node's arguments
 * @param {string} directory working folder
 * @param {ChildDriver} driver
 * @param {Record<string, string>} variables further environment variables
 * @returns {{ value: T, problem: null } | { value: null, problem: string }}
 */
export function askChild(program, directory, { manifests, loader }, variables) {
  const environment = { ...process.env, ...variables };
  if (manifests.length) {
    environment.VK_DRIVER_FILES = manifests.join(path.delimiter);
    environment.VK_ICD_FILENAMES = environment.VK_DRIVER_FILES; // The only name that loaders before 1.3.207 know.
  }
  if (loader)
    environment.LD_LIBRARY_PATH = [path.dirname(loader), process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  const child = spawnSync(process.execPath, program, {
    cwd: directory,
    env: environment,
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  try {
    return { value: JSON.parse(child.stdout), problem: null };
  } catch {
    const lastLine = removeDawnWarnings(child.stderr ?? '')
      .trim()
      .split('\n')
      .at(-1);
    return { value: null, problem: `Dawn's process failed (${endOf(child)}) ${lastLine}`.trim() };
  }
}

/**
 * How a child process ended.
 * @param {{ error?: Error, signal: string | null, status: number | null }} child
 */
function endOf({ error, signal, status }) {
  if (error) return messageOf(error);
  return signal ? `ended by ${signal}` : `exit code ${status}`;
}
