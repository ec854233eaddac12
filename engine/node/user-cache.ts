/** The folder for a user's files, which no checkout owns: tuned choices, compiled shaders, public weights. */
import os from 'node:os';
import path from 'node:path';

/** The folder that DSRCNN_CACHE names, otherwise a folder below $XDG_CACHE_HOME or ~/.cache. */
export function userCacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  if (environment.DSRCNN_CACHE) return path.resolve(environment.DSRCNN_CACHE);
  return path.resolve(environment.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'dynamic-sparse-rcnn-webgpu');
}
