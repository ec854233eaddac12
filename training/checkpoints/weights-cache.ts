/** The user's folder of public weights: finds a file there, or downloads it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { errorMessage } from '../../engine/core/errors.ts';
import { userCacheFolder } from '../../engine/node/index.ts';
import { InputError } from '../core/errors.ts';
import { insteadOfFile } from '../data/files.ts';
import { download, DownloadError, type DownloadOptions } from './download.ts';
import { sha256Of } from './file-hash.ts';
import { removeAbandonedParts } from './partial-download.ts';
import { fileName, type PublicWeights } from './public-weights.ts';

/** The folder of public weights. The user may put files there by hand. */
export const weightsFolder = (environment: NodeJS.ProcessEnv = process.env): string =>
  join(userCacheFolder(environment), 'weights');

export interface CacheOptions extends DownloadOptions {
  /** Default: `weightsFolder()`. */
  readonly folder?: string;
  readonly environment?: NodeJS.ProcessEnv;
}

/**
 * The path of public weights in the cache. A file that is there is verified; otherwise the weights are downloaded.
 * @throws InputError saying why the weights cannot be had, and where to put the file by hand. The cache is then as
 *   before, apart from bytes that a later download continues.
 */
export async function cachedWeights(weights: PublicWeights, options: CacheOptions = {}): Promise<string> {
  const { environment = process.env, folder = weightsFolder(environment), onNote } = options;
  const file = fileName(weights);
  const path = join(folder, file);
  const problem = await problemOf(path, weights.sha256);
  if (problem === null) {
    tidy(folder, file);
    return path;
  }
  if (problem !== MISSING) onNote?.(`${path}: ${problem}; downloading it anew`);
  const existing = problem === MISSING ? '' : `${path}: ${problem}; `;
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    const reason = `expected a folder that can be written, got ${folder} (${errorMessage(error)})`;
    throw unavailable(weights, { path, reason, advice: [ANOTHER_FOLDER] });
  }
  try {
    await download({ address: weights.address, folder, file, sha256: weights.sha256 }, options);
  } catch (error) {
    if (!(error instanceof DownloadError)) throw error;
    throw unavailable(weights, { path, reason: existing + error.message, advice: adviceFor(error, environment) });
  }
  tidy(folder, file);
  return path;
}

const MISSING = 'no file';
const ANOTHER_FOLDER = 'DSRCNN_CACHE=FOLDER chooses another folder';

/** What is wrong with the file of a path; null if its hash is right. */
async function problemOf(path: string, sha256: string): Promise<string | null> {
  try {
    const instead = insteadOfFile(path);
    if (instead !== null) return instead === 'nothing there' ? MISSING : `expected a file, got ${instead}`;
    const got = await sha256Of(path);
    return got.startsWith(sha256) ? null : `expected a SHA-256 that begins with ${sha256}, got ${got.slice(0, 16)}...`;
  } catch (error) {
    return `cannot be read: ${errorMessage(error)}`;
  }
}

/** Removes the remains of interrupted downloads. In a folder that cannot be written, they stay. */
function tidy(folder: string, file: string): void {
  try {
    removeAbandonedParts(folder, file);
  } catch {
    // They take space, but do no harm.
  }
}

function adviceFor({ kind, message }: DownloadError, environment: NodeJS.ProcessEnv): string[] {
  if (kind === 'disk') return [ANOTHER_FOLDER, 'bytes that have arrived are kept for the next download'];
  if (kind === 'content') return [];
  const proxy = ['HTTPS_PROXY', 'https_proxy', 'HTTP_PROXY', 'http_proxy'].find((name) => environment[name]);
  const advice: string[] = [];
  if (proxy !== undefined && environment.NODE_USE_ENV_PROXY !== '1')
    advice.push(
      `${proxy} is set, but Node uses it only with NODE_USE_ENV_PROXY=1, in Node 22.21, 24 and later; ` +
        `this is Node ${process.version}`,
    );
  if (message.includes('not trusted'))
    advice.push('if your network replaces certificates, name its own with NODE_EXTRA_CA_CERTS=FILE.pem');
  return advice;
}

interface Unavailable {
  readonly path: string;
  readonly reason: string;
  readonly advice: readonly string[];
}

/** The error for weights that cannot be had. It says how to get them by hand. */
function unavailable({ name, address }: PublicWeights, { path, reason, advice }: Unavailable): InputError {
  return new InputError(
    [
      `${name}: cannot be downloaded: ${reason}`,
      `  address   ${address}`,
      `  put it at ${path}`,
      `  for example with: curl -L --create-dirs -o ${quoted(path)} ${quoted(address)}`,
      ...advice.map((line) => `  ${line}`),
    ].join('\n'),
  );
}

/** A text as one word of a shell. */
const quoted = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
