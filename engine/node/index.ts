/**
 * The engine in Node: Dawn through the npm package `webgpu`, on the driver that set-up (training/setup/setup.mjs) chose.
 * With tuning-file.ts the only module of the engine that knows Node.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { create, globals } from 'webgpu';
import { Device } from '../device/device.ts';
import type { DeviceOptions, Settle } from '../device/options.ts';
import { cacheFolder, loadTuning, tuningFile } from './tuning-file.ts';

export interface NodeDeviceOptions extends DeviceOptions {
  /**
   * The driver to run on; null: the one that the environment names (VK_DRIVER_FILES), or what Dawn finds. Default: what set-up chose (`readDriverChoice`).
   * Counts for the first device of a process: a driver is loaded once.
   */
  readonly driver?: DriverChoice | null;
  /**
   * The file that tuned choices of variants (tuner.ts) are read from, where it exists; `off`: none. Default: what DSRCNN_TUNING names, otherwise
   * tuning.json in the user's cache folder, where `npm run tune` writes them.
   */
  readonly tuning?: string;
}

/** Dawn's instance: must stay referenced for as long as a device lives. */
let instance: GPU | null = null;

const sleeper = new Int32Array(new SharedArrayBuffer(4));
/**
 * Milliseconds of sleep between polls, by the root of the milliseconds waited so far. A poll takes a software adapter's core for some 40 microseconds, and more where it makes
 * a worker wait; a late one delays what comes next. Polls at fixed intervals of half a millisecond took 6 to 9 per cent of a forward pass of 1.5 s and of a step of 0.2 s.
 */
const SLEEP_BY_ROOT = 0.2,
  MIN_SLEEP = 0.2;
/** Longest sleep, of the time waited, where that is measured. */
const EXACTNESS = 0.1,
  MIN_EXACT_SLEEP = 0.02;

/** Milliseconds to sleep before the next poll, having waited for `waited` milliseconds; `exactly`: the time waited is measured. */
export function sleepBetweenPolls(waited: number, exactly: boolean): number {
  const sleep = Math.max(MIN_SLEEP, SLEEP_BY_ROOT * Math.sqrt(waited));
  return exactly ? Math.max(MIN_EXACT_SLEEP, Math.min(sleep, EXACTNESS * waited)) : sleep;
}

/** Waits by sleeping between polls: awaiting the queue spins the JavaScript thread, and a software adapter needs that core. */
export const settleSleeping: Settle = async (promise, exactly = false) => {
  const start = performance.now();
  let settled = false;
  const done = promise.finally(() => {
    settled = true;
  });
  done.catch(() => undefined);
  for (;;) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    if (settled) return done;
    Atomics.wait(sleeper, 0, 0, sleepBetweenPolls(performance.now() - start, exactly));
  }
};

/** What set-up decided. */
export interface DriverChoice {
  readonly driver: 'gpu' | 'lavapipe' | 'swiftshader' | 'software';
  /** Vulkan driver manifests to keep to; none: the Vulkan loader's own search. */
  readonly manifests: readonly string[];
  /** libvulkan to use, where the system has none of its own. */
  readonly loader: string | null;
  /** Bits of lavapipe's vectors, where others than it takes by itself are faster; otherwise null. */
  readonly vectorBits: number | null;
  /** Whether the driver checks every access to buffers and textures itself, as set-up saw (training/setup/bounds.ts): then Dawn does not (`dawnFlags`). Of lavapipe alone. */
  readonly checksBounds: boolean;
  readonly why: string;
  /** How to get a faster driver. */
  readonly hint: string | null;
  /** The name the choice is stored under: auto, gpu, lavapipe, swiftshader. */
  readonly request: string;
  /** Whether DSRCNN_DRIVER named it, for this run. */
  readonly forced: boolean;
}

/** Where set-up writes its choices. */
export const DRIVER_FILE = fileURLToPath(
  new URL('../../node_modules/.cache/dynamic-sparse-rcnn/driver.json', import.meta.url),
);
/** Of the file; set-up's FORMAT. */
const FORMAT = 3;
const REQUESTS = ['auto', 'gpu', 'lavapipe', 'swiftshader'];
const REPAIR = 'run `npm run setup`, which writes it anew';

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Checks one choice of the file, field by field. */
function parseChoice(value: unknown, where: string): Omit<DriverChoice, 'request' | 'forced'> {
  if (!isRecord(value)) throw new Error(`${where} must be an object, got ${JSON.stringify(value)}: ${REPAIR}`);
  const { driver, manifests, loader, vectorBits, checksBounds, why, hint } = value;
  const expect = (field: string, expected: string): Error =>
    new Error(`${where}.${field} must be ${expected}, got ${JSON.stringify(value[field])}: ${REPAIR}`);
  if (driver !== 'gpu' && driver !== 'lavapipe' && driver !== 'swiftshader' && driver !== 'software')
    throw expect('driver', 'gpu, lavapipe, swiftshader or software');
  if (!Array.isArray(manifests) || !manifests.every((file) => typeof file === 'string'))
    throw expect('manifests', 'an array of paths');
  if (loader !== null && typeof loader !== 'string') throw expect('loader', 'a path or null');
  if (vectorBits !== null && !(typeof vectorBits === 'number' && Number.isInteger(vectorBits) && vectorBits > 0))
    throw expect('vectorBits', 'a positive integer or null');
  if (typeof checksBounds !== 'boolean') throw expect('checksBounds', 'true or false');
  if (typeof why !== 'string') throw expect('why', 'text');
  if (hint !== null && typeof hint !== 'string') throw expect('hint', 'text or null');
  return { driver, manifests, loader, vectorBits, checksBounds, why, hint };
}

/**
 * The choice that holds for this process: the one that DSRCNN_DRIVER names, otherwise the stored one; null where set-up has not run.
 * Throws when the file cannot be understood, and when DSRCNN_DRIVER names what set-up has not prepared.
 */
export function readDriverChoice(
  environment: NodeJS.ProcessEnv = process.env,
  file = DRIVER_FILE,
): DriverChoice | null {
  const forced = environment.DSRCNN_DRIVER || null;
  if (forced !== null && !REQUESTS.includes(forced))
    throw new Error(`DSRCNN_DRIVER: must be one of ${REQUESTS.join(', ')}, got ${JSON.stringify(forced)}`);
  const unprepared = (): Error =>
    new Error(
      `DSRCNN_DRIVER=${forced}: that driver is not prepared; run \`DSRCNN_DRIVER=${forced} npm run setup\` first`,
    );
  if (!existsSync(file)) {
    if (forced !== null) throw unprepared();
    return null;
  }
  let state: unknown;
  try {
    state = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new Error(
      `${file}: not readable as JSON (${error instanceof Error ? error.message : String(error)}): ${REPAIR}`,
    );
  }
  if (!isRecord(state) || state.format !== FORMAT || !isRecord(state.choices) || typeof state.requested !== 'string') {
    throw new Error(`${file}: must be an object with format ${FORMAT}, requested and choices: ${REPAIR}`);
  }
  const request = forced ?? state.requested;
  const choice = state.choices[request];
  if (choice === undefined) {
    if (forced !== null) throw unprepared();
    return null;
  }
  return { ...parseChoice(choice, `${file}: choices.${request}`), request, forced: forced !== null };
}

/** The variable by which the user has named a Vulkan driver, if so: then the choice does not count, unless DSRCNN_DRIVER asks for it. */
export function userVulkanVariable(
  environment: NodeJS.ProcessEnv = process.env,
): 'VK_DRIVER_FILES' | 'VK_ICD_FILENAMES' | null {
  if (environment.DSRCNN_DRIVER || (appliedManifests !== null && environment.VK_DRIVER_FILES === appliedManifests))
    return null;
  return environment.VK_DRIVER_FILES ? 'VK_DRIVER_FILES' : environment.VK_ICD_FILENAMES ? 'VK_ICD_FILENAMES' : null;
}

/** dlopen's flag that keeps a library loaded; not among Node's constants. */
const RTLD_NODELETE = 0x1000;

/**
 * Loads a Vulkan loader for good, so that Dawn's dlopen("libvulkan.so.1") finds it by its name (the library's own soname). Node closes what is no
 * add-on of its own and throws; RTLD_NODELETE is why the library stays. LD_LIBRARY_PATH would not do: it is read when a process starts.
 */
function loadVulkanLoader(file: string): void {
  if (!existsSync(file)) throw new Error(`${file}: the Vulkan loader is missing: run \`npm run setup\``);
  try {
    process.dlopen({ exports: {} }, file, constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | RTLD_NODELETE);
  } catch (error) {
    if (!(error instanceof Error) || !error.message.includes('did not self-register')) throw error;
  }
}

/** What a cache folder of `lavapipeEnvironment` is called. */
const WIDTH_FOLDER = /^lavapipe-(\d+|default)$/;

/**
 * Lavapipe's variables: the width of its vectors, and a folder for compiled shaders that belongs to this width alone.
 *
 * Mesa's shader cache does not tell the widths apart (seen with Mesa 25.0.7): code compiled at one width is loaded by a process of the other and computes wrongly
 * without a word; half of the lanes of a texture load get zeros. So no two widths may share a folder, and none may use Mesa's default one, where other programs
 * leave code of whatever width they had.
 *
 * A width that the environment names already comes before the chosen one. A folder that it names gets a folder for the width inside; one that a parent
 * process got from here is replaced by its sibling for this width.
 * Throws where LP_NATIVE_VECTOR_WIDTH is no number: its folder could not be told.
 */
export function lavapipeEnvironment(
  { vectorBits }: Pick<DriverChoice, 'vectorBits'>,
  environment: NodeJS.ProcessEnv = process.env,
): { LP_NATIVE_VECTOR_WIDTH?: string; MESA_SHADER_CACHE_DIR: string } {
  const named = environment.LP_NATIVE_VECTOR_WIDTH || null;
  if (named !== null && !/^\d+$/.test(named))
    throw new Error(`LP_NATIVE_VECTOR_WIDTH: must be a number of bits, 256 or 512, got ${JSON.stringify(named)}`);
  const width = named ?? vectorBits?.toString();
  const given = environment.MESA_SHADER_CACHE_DIR
    ? path.resolve(environment.MESA_SHADER_CACHE_DIR)
    : cacheFolder(environment);
  const folder = WIDTH_FOLDER.test(path.basename(given)) ? path.dirname(given) : given;
  return {
    ...(width === undefined ? {} : { LP_NATIVE_VECTOR_WIDTH: width }),
    MESA_SHADER_CACHE_DIR: path.join(folder, `lavapipe-${width ?? 'default'}`),
  };
}

/** What applyDriverChoice put into VK_DRIVER_FILES: not the user's then. */
let appliedManifests: string | null = null;
/** Whether the choice that applyDriverChoice applied is of a driver that checks bounds itself. */
let driverChecksBounds = false;

/**
 * Prepares this process for the chosen driver: to be called before Dawn is (`openDevice` does). The Vulkan loader reads the variables when Dawn's instance is made,
 * lavapipe when it is loaded. Throws as `lavapipeEnvironment` does.
 */
export function applyDriverChoice(choice: DriverChoice): void {
  if (choice.loader !== null) loadVulkanLoader(choice.loader);
  if (choice.manifests.length === 0) return;
  if (!userVulkanVariable()) {
    appliedManifests = choice.manifests.join(path.delimiter);
    process.env.VK_DRIVER_FILES = appliedManifests;
    process.env.VK_ICD_FILENAMES = appliedManifests; // the only name that loaders before 1.3.207 know
  } else if (!WIDTH_FOLDER.test(path.basename(process.env.MESA_SHADER_CACHE_DIR ?? ''))) return; // else a parent process, not the user, has named the driver: this one may have another width
  if (choice.driver !== 'lavapipe') return;
  const ours = choice.manifests.join(path.delimiter); // a parent process may have had another choice: what set-up saw holds for these manifests alone
  driverChecksBounds =
    choice.checksBounds && process.env.VK_DRIVER_FILES === ours && process.env.VK_ICD_FILENAMES === ours;
  const variables = lavapipeEnvironment(choice);
  Object.assign(process.env, variables);
  try {
    mkdirSync(variables.MESA_SHADER_CACHE_DIR, { recursive: true }); // Mesa would make the last part of the path only
  } catch {
    process.env.MESA_SHADER_CACHE_DISABLE ??= 'true'; // no cache rather than a shared one
  }
}

/**
 * What Dawn is to be made with, once the driver's choice is applied: for whoever makes an instance of it to run beside our devices.
 *
 * Timestamps are rounded to 65 us otherwise, against web pages that spy by them: longer than most dispatches take.
 *
 * Dawn's checks of bounds (robustness) are left out where the driver has its own. They begin every shader with a reduction over the subgroup and clamp the lane of every broadcast and shuffle;
 * lavapipe's compiler cannot fold that away, and with vectors of 512 bits products of matrices take about a tenth longer (with 256 it makes no difference). Nothing but a driver that is
 * known to check may do without: on others an access beyond the end would reach whatever lies there. Lavapipe does not check arrays in workgroup memory, so there a kernel's index beyond
 * their end, which Dawn would clamp, may end the process.
 * DSRCNN_ROBUSTNESS=on keeps Dawn's checks for a run, `off` leaves them out whatever the driver; other values throw.
 */
export function dawnFlags(environment: NodeJS.ProcessEnv = process.env): string[] {
  const named = environment.DSRCNN_ROBUSTNESS || null;
  if (named !== null && named !== 'on' && named !== 'off')
    throw new Error(`DSRCNN_ROBUSTNESS: must be on or off, got ${JSON.stringify(named)}`);
  const unchecked = named === null ? driverChecksBounds : named === 'off';
  return [
    'disable-dawn-features=timestamp_quantization',
    ...(unchecked ? ['enable-dawn-features=disable_robustness'] : []),
  ];
}

/**
 * Opens a device on the driver that set-up chose (DSRCNN_DRIVER names another for a run; without it the user's own VK_DRIVER_FILES comes first), or on what Dawn finds
 * where set-up has not run; with the tuned choices of a file. A file of choices that cannot be understood is left alone with a warning (process.emitWarning). Throws where
 * there is no adapter, and UnsupportedOptionError where it cannot do what an option asks for.
 */
export async function openDevice({ driver, tuning, ...options }: NodeDeviceOptions = {}): Promise<Device> {
  if (!instance) {
    const choice = driver === undefined ? readDriverChoice() : driver;
    if (choice) applyDriverChoice(choice);
    Object.assign(globalThis, globals);
    instance = create(dawnFlags());
  }
  const adapter = await instance.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) {
    const variable = userVulkanVariable();
    throw new Error(
      variable
        ? `no WebGPU adapter by ${variable}=${process.env[variable]}: name a driver that is there, or unset it`
        : 'no WebGPU adapter: run `npm run setup -- --driver auto`, which installs a driver',
    );
  }
  const device = await Device.fromAdapter(adapter, {
    settle: settleSleeping,
    languageFeatures: instance.wgslLanguageFeatures,
    ...options,
  });
  const file = tuningFile(tuning);
  try {
    if (file !== null) loadTuning(device.tuner, file);
  } catch (error) {
    process.emitWarning(`${error instanceof Error ? error.message : String(error)}; no tuned choices are used`);
  }
  return device;
}
