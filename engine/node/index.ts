/**
 * The engine's public surface in Node: opening a device, the choice of a driver, and tuned choices on disk. In the
 * engine, only the files of this folder use Node.
 */
export { dawnFlags } from './dawn-flags.ts';
export { applyDriverChoice, readDriverChoice, userVulkanVariable, type DriverChoice } from './driver-choice.ts';
export { lavapipeEnvironment } from './lavapipe.ts';
export { openDevice, type NodeDeviceOptions } from './open-device.ts';
export { loadTuning, resetTuning, saveTuning, tuningFile } from './tuning-file.ts';
export { userCacheFolder } from './user-cache.ts';
export { settleSleeping, sleepBetweenPolls } from './waiting.ts';
