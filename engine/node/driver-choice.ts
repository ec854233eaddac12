/** The driver that set-up chose: reading the choice, and preparing this process for the driver. */
import { existsSync, mkdirSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { errorMessage } from '../core/errors.ts';
import { parseDriverFile, type DriverFile, type StoredChoice } from './driver-file.mjs';
import { readJson } from './json-file.mjs';
import { hasWidthFolder, lavapipeEnvironment } from './lavapipe.ts';
import { driverFile, REQUESTS, type Request } from './setup-contract.mjs';

/** A choice of set-up (`driver-file.mjs` describes the fields), its name, and whether the user forced it. */
export interface DriverChoice
  extends Readonly<
    Pick<StoredChoice, 'driver' | 'manifests' | 'loader' | 'vectorBits' | 'checksBounds' | 'why' | 'hint'>
  > {
  /** The name that the choice is stored under. */
  readonly request: Request;
  /** Whether DSRCNN_DRIVER names this choice for the current run. */
  readonly forced: boolean;
}

/** The file that set-up writes its choices to. */
const DRIVER_FILE = driverFile(fileURLToPath(new URL('../..', import.meta.url)));
const REPAIR = 'delete the file; `npm run setup` in a checkout of this project writes it again';

/**
 * The choice for this process: the one that DSRCNN_DRIVER names, otherwise the stored one. Null if set-up has not run.
 * Throws if the file is invalid, or if DSRCNN_DRIVER names a driver that set-up has not prepared.
 */
export function readDriverChoice(
  environment: NodeJS.ProcessEnv = process.env,
  file = DRIVER_FILE,
): DriverChoice | null {
  const named = environment.DSRCNN_DRIVER || null;
  const forced = named === null ? null : (REQUESTS.find((request) => request === named) ?? null);
  if (named !== null && forced === null)
    throw new Error(`DSRCNN_DRIVER: expected one of ${REQUESTS.join(', ')}, got ${JSON.stringify(named)}`);
  const state = existsSync(file) ? readDriverFile(file) : null;
  const request = forced ?? state?.requested;
  const choice = request && state?.choices[request];
  if (choice) return { ...choice, request, forced: forced !== null };
  if (forced === null) return null;
  throw new Error(
    `DSRCNN_DRIVER=${forced}: that driver is not prepared; run \`DSRCNN_DRIVER=${forced} npm run setup\` first in a ` +
      'checkout of this project; elsewhere unset it, and name a Vulkan driver manifest with VK_DRIVER_FILES',
  );
}

function readDriverFile(file: string): DriverFile {
  try {
    return parseDriverFile(readJson(file), file);
  } catch (error) {
    throw new Error(`${errorMessage(error)}: ${REPAIR}`);
  }
}

/** The value that `applyDriverChoice` gave to VK_DRIVER_FILES. It tells this value from one that the user set. */
let appliedManifests: string | null = null;
/** Whether the applied driver checks bounds itself. */
let checksBounds = false;

/** Whether the driver that `applyDriverChoice` applied checks bounds itself. */
export const appliedDriverChecksBounds = (): boolean => checksBounds;

/**
 * The variable with which the user named a Vulkan driver; null if the user named none. The user's driver takes
 * precedence over the choice of set-up, unless DSRCNN_DRIVER is set.
 */
export function userVulkanVariable(
  environment: NodeJS.ProcessEnv = process.env,
): 'VK_DRIVER_FILES' | 'VK_ICD_FILENAMES' | null {
  if (environment.DSRCNN_DRIVER) return null;
  if (appliedManifests !== null && environment.VK_DRIVER_FILES === appliedManifests) return null;
  if (environment.VK_DRIVER_FILES) return 'VK_DRIVER_FILES';
  return environment.VK_ICD_FILENAMES ? 'VK_ICD_FILENAMES' : null;
}

/** The flag of dlopen that keeps a library loaded. Node has no constant for it. */
const RTLD_NODELETE = 0x1000;

/**
 * Loads a Vulkan loader permanently, so that Dawn's dlopen("libvulkan.so.1") finds the loader by its soname.
 * LD_LIBRARY_PATH would not work, because it is read when a process starts. Node throws an error and closes the
 * library, because the library is no add-on. RTLD_NODELETE keeps the library loaded.
 */
function loadVulkanLoader(file: string): void {
  if (!existsSync(file))
    throw new Error(`${file}: the Vulkan loader is missing: run \`npm run setup\` in a checkout of this project`);
  try {
    process.dlopen({ exports: {} }, file, constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | RTLD_NODELETE);
  } catch (error) {
    if (!(error instanceof Error) || !error.message.includes('did not self-register')) throw error;
  }
}

/**
 * Prepares this process for a driver: loads the Vulkan loader and sets environment variables. Call it before Dawn's
 * instance is made, as `openDevice` does. The Vulkan loader reads the variables then, and lavapipe reads them when it
 * is loaded. Throws if the Vulkan loader is missing, and as `lavapipeEnvironment` does.
 */
export function applyDriverChoice(choice: DriverChoice): void {
  if (choice.loader !== null) loadVulkanLoader(choice.loader);
  if (choice.manifests.length === 0) return;
  const manifests = choice.manifests.join(path.delimiter);
  if (!userVulkanVariable()) {
    appliedManifests = manifests;
    process.env.VK_DRIVER_FILES = manifests;
    process.env.VK_ICD_FILENAMES = manifests; // Vulkan loaders before 1.3.207 read only this variable.
  } else if (!hasWidthFolder(process.env)) return;
  // If the variables name a driver and the shader folder is ours, a parent process of this project set them, not the
  // user. This process may need another vector width.
  if (choice.driver !== 'lavapipe') return;
  // A parent process may have another choice. Set-up tested these manifests only.
  checksBounds =
    choice.checksBounds && process.env.VK_DRIVER_FILES === manifests && process.env.VK_ICD_FILENAMES === manifests;
  const variables = lavapipeEnvironment(choice);
  Object.assign(process.env, variables);
  try {
    // Mesa would create only the last folder of the path.
    mkdirSync(variables.MESA_SHADER_CACHE_DIR, { recursive: true });
  } catch {
    // Without the folder, Mesa could use a cache that other vector widths share. No cache is better.
    process.env.MESA_SHADER_CACHE_DISABLE ??= 'true';
  }
}
