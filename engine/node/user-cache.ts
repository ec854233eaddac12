/** The folder for files that belong to a user and not to a checkout: tuned choices and compiled shaders. */
import os from 'node:os';
import path from 'node:path';

/** A folder below $XDG_CACHE_HOME or ~/.cache. */
export function userCacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  return path.resolve(environment.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'dynamic-sparse-rcnn-webgpu');
}
