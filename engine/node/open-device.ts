/** Opening a device in Node, through Dawn (the npm package `webgpu`). */
import { create, globals } from 'webgpu';
import { errorMessage } from '../core/errors.ts';
import { Device } from '../device/device.ts';
import type { DeviceOptions } from '../device/options.ts';
import { dawnFlags } from './dawn-flags.ts';
import { applyDriverChoice, readDriverChoice, userVulkanVariable, type DriverChoice } from './driver-choice.ts';
import { loadTuning, tuningFile } from './tuning-file.ts';
import { settleSleeping } from './waiting.ts';

export interface NodeDeviceOptions extends DeviceOptions {
  /**
   * The driver to run on. Default: the driver that set-up chose (`readDriverChoice`). Null: the driver that
   * VK_DRIVER_FILES names, or the adapter that Dawn finds. Only the first device of a process uses this option,
   * because a process loads a driver once.
   */
  readonly driver?: DriverChoice | null;
  /**
   * The file of tuned choices (tuner.ts). `off`: no tuned choices. Default: the file that DSRCNN_TUNING names,
   * otherwise tuning.json in the user's cache folder, where `npm run tune` writes them.
   */
  readonly tuning?: string;
}

/** Dawn's instance. It must stay referenced as long as a device lives. */
let instance: GPU | null = null;

/** Makes Dawn's instance on a driver. */
function createInstance(driver: DriverChoice | null | undefined): GPU {
  const choice = driver === undefined ? readDriverChoice() : driver;
  if (choice) applyDriverChoice(choice);
  Object.assign(globalThis, globals);
  return create(dawnFlags());
}

function noAdapter(): Error {
  const variable = userVulkanVariable();
  return new Error(
    variable
      ? `no WebGPU adapter: ${variable}=${process.env[variable]} names no driver that Dawn accepts; ` +
          'name another, or unset it'
      : 'no WebGPU adapter: install a Vulkan driver, for example Mesa 23 or newer; ' +
          'or run `npm run setup -- --driver auto` in a checkout of this project, which installs one',
  );
}

/**
 * Opens a device. If the user set VK_DRIVER_FILES and not DSRCNN_DRIVER, it runs on the user's driver. Otherwise it
 * runs on the driver that set-up chose; DSRCNN_DRIVER names another driver for one run. If set-up has not run, it runs
 * on the adapter that Dawn finds.
 *
 * The device gets the tuned choices of a file. An invalid file causes a warning (process.emitWarning), and is not used.
 * Throws if there is no adapter. Throws UnsupportedOptionError if the adapter lacks a feature that an option needs.
 */
export async function openDevice({ driver, tuning, ...options }: NodeDeviceOptions = {}): Promise<Device> {
  instance ??= createInstance(driver);
  const adapter = await instance.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw noAdapter();
  const device = await Device.fromAdapter(adapter, {
    settle: settleSleeping,
    languageFeatures: instance.wgslLanguageFeatures,
    ...options,
  });
  const file = tuningFile(tuning);
  try {
    if (file !== null) loadTuning(device.tuner, file);
  } catch (error) {
    process.emitWarning(`${errorMessage(error)}; no tuned choices are used`);
  }
  return device;
}
