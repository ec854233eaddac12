/** Environment variables of lavapipe: the width of its vectors, and a folder of compiled shaders for each width. */
import path from 'node:path';
import { userCacheFolder } from './user-cache.ts';

/** Name of a shader folder that `lavapipeEnvironment` made. */
const WIDTH_FOLDER = /^lavapipe-(\d+|default)$/;

/** Whether MESA_SHADER_CACHE_DIR comes from `lavapipeEnvironment`, in this process or in a parent process. */
export const hasWidthFolder = (environment: NodeJS.ProcessEnv): boolean =>
  WIDTH_FOLDER.test(path.basename(environment.MESA_SHADER_CACHE_DIR ?? ''));

/**
 * Lavapipe's variables: the width of its vectors, and a folder for compiled shaders of this width.
 *
 * Mesa's shader cache does not distinguish the widths (seen with Mesa 25.0.7). A process can load code that was
 * compiled for another width. It then computes wrong results without an error: half of the lanes of a texture load are
 * zero. So two widths never share a folder. Mesa's default folder is not used either, because other programs may have
 * left code there.
 *
 * A width in the environment takes precedence over the chosen width. A folder in the environment gets a subfolder for
 * the width. A folder that a parent process got from this function is replaced by its sibling for this width.
 * Throws if LP_NATIVE_VECTOR_WIDTH is not a number, because the number is a part of the folder's name.
 */
export function lavapipeEnvironment(
  { vectorBits }: { readonly vectorBits: number | null },
  environment: NodeJS.ProcessEnv = process.env,
): { LP_NATIVE_VECTOR_WIDTH?: string; MESA_SHADER_CACHE_DIR: string } {
  const named = environment.LP_NATIVE_VECTOR_WIDTH || null;
  if (named !== null && !/^\d+$/.test(named))
    throw new Error(`LP_NATIVE_VECTOR_WIDTH: expected a number of bits, 256 or 512, got ${JSON.stringify(named)}`);
  const width = named ?? vectorBits?.toString();
  const given = environment.MESA_SHADER_CACHE_DIR
    ? path.resolve(environment.MESA_SHADER_CACHE_DIR)
    : userCacheFolder(environment);
  const folder = WIDTH_FOLDER.test(path.basename(given)) ? path.dirname(given) : given;
  return {
    ...(width === undefined ? {} : { LP_NATIVE_VECTOR_WIDTH: width }),
    MESA_SHADER_CACHE_DIR: path.join(folder, `lavapipe-${width ?? 'default'}`),
  };
}
