/**
 * Downloads a file by HTTP: resumes after interruptions, tries again after failures that may pass, and verifies the
 * SHA-256. The file appears complete or not at all.
 */
import { statfsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorMessage } from '../../engine/core/errors.ts';
import { sha256Of } from './file-hash.ts';
import { PartialDownload, type ServerFile } from './partial-download.ts';

export interface DownloadRequest {
  readonly address: string;
  /** The folder and the name of the file. The folder must exist. */
  readonly folder: string;
  readonly file: string;
  /** First hex digits of the file's SHA-256. */
  readonly sha256: string;
}

export interface DownloadState {
  /** Bytes that are there, with those of earlier processes. */
  readonly received: number;
  /** Bytes of the whole file; null if the server does not state them. */
  readonly total: number | null;
}

export interface DownloadOptions {
  readonly onProgress?: (state: DownloadState) => void;
  /** Gets sentences about what happens: resumed, trying again. */
  readonly onNote?: (line: string) => void;
  /** Gives up a connection after this time without a byte, in milliseconds. Default 30 s. */
  readonly stallAfter?: number;
  /** Further tries after a failure that may pass. Counted anew after each MB. Default 4. */
  readonly retries?: number;
  /** Time before the second try, in milliseconds; it doubles for each further one. Default 1 s. */
  readonly pause?: number;
}

/** Why a download failed. `offline`: the server was not reached at all. */
export class DownloadError extends Error {
  override readonly name = 'DownloadError';

  constructor(
    message: string,
    readonly kind: 'offline' | 'server' | 'content' | 'disk',
  ) {
    super(message);
  }
}

/** A failure that may pass. */
class PassingFailure extends Error {
  constructor(
    message: string,
    readonly kind: 'offline' | 'server',
    /** Milliseconds that the server asked to wait. */
    readonly wait: number | null = null,
  ) {
    super(message);
  }
}

/** After this number of new bytes, the count of failures begins anew. */
const NEW_START_BYTES = 1e6;
/** Longest wait that a server's Retry-After gets, in milliseconds. */
const MAX_WAIT = 60_000;
/** Codes of errors before a connection exists. */
const UNREACHED = [
  'ENOTFOUND',
  'EAI_AGAIN',
  'ECONNREFUSED',
  'ENETUNREACH',
  'EHOSTUNREACH',
  'EADDRNOTAVAIL',
  'UND_ERR_CONNECT_TIMEOUT',
];
/** Statuses of servers that are overloaded or restarting. */
const PASSING_STATUS = [408, 425, 429, 500, 502, 503, 504];

/**
 * Downloads the file into the folder, in place of an existing file.
 * @throws DownloadError saying why. An existing file is then unchanged, and bytes that can be continued are kept.
 */
export async function download(request: DownloadRequest, options: DownloadOptions = {}): Promise<void> {
  const part = onDisk(() => new PartialDownload(request.folder, request.file));
  try {
    if (part.server && part.server.address !== request.address) dropBytes(part);
    const inherited = part.size > 0;
    if (inherited) options.onNote?.(`continuing after ${megabytes(part.size)} of an earlier download`);
    await receive(part, request, options);
    const problem = await contentProblem(part, request);
    if (problem !== null && inherited) {
      options.onNote?.(`${problem}; downloading it anew, because a part was from an earlier download`);
      dropBytes(part);
      await receive(part, request, options);
    }
    const remaining = problem !== null && inherited ? await contentProblem(part, request) : problem;
    if (remaining !== null) {
      part.discard();
      throw new DownloadError(`${remaining}; the downloaded bytes were removed`, 'content');
    }
    onDisk(() => part.finish());
  } catch (error) {
    part.release();
    throw error;
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

/** Runs work on the disk; errors of the file system become DownloadErrors. */
function onDisk<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT') throw new DownloadError('the disk is full', 'disk');
    throw new DownloadError(errorMessage(error), 'disk');
  }
}

function dropBytes(part: PartialDownload): void {
  onDisk(() => part.begin({ address: '', validator: null, total: null }));
}

/** What is wrong with the received bytes; null if their hash is right. */
async function contentProblem(part: PartialDownload, { sha256 }: DownloadRequest): Promise<string | null> {
  const path = onDisk(() => part.close());
  const got = await sha256Of(path);
  if (got.startsWith(sha256.toLowerCase())) return null;
  return `expected a file whose SHA-256 begins with ${sha256}, got ${got.slice(0, 16)}... (${part.size} bytes)`;
}

/** Receives the whole file; tries again after failures that may pass. */
async function receive(part: PartialDownload, request: DownloadRequest, options: DownloadOptions): Promise<void> {
  const { retries = 4, pause = 1000 } = options;
  let failures = 0;
  for (;;) {
    const before = part.size;
    try {
      return await receiveOnce(part, request, options);
    } catch (error) {
      if (!(error instanceof PassingFailure)) throw error;
      failures = part.size - before >= NEW_START_BYTES ? 1 : failures + 1;
      if (failures > retries || (error.kind === 'offline' && part.size === 0))
        throw new DownloadError(error.message + (failures > 1 ? ` (after ${failures} tries)` : ''), error.kind);
      const wait = Math.min(error.wait ?? pause * 2 ** (failures - 1), MAX_WAIT);
      options.onNote?.(`${error.message}; trying again (${failures} of ${retries})`);
      await sleep(wait);
    }
  }
}

/** One request. Resolves when the whole file is there. Throws PassingFailure or DownloadError. */
async function receiveOnce(part: PartialDownload, request: DownloadRequest, options: DownloadOptions): Promise<void> {
  const { stallAfter = 30_000, onProgress } = options;
  const { server, size } = part;
  if (server?.total != null && size === server.total && size > 0) return;
  const connection = new AbortController();
  const stalled = setTimeout(() => connection.abort(), stallAfter);
  try {
    const response = await fetch(request.address, { headers: headersFor(part), signal: connection.signal });
    const total = begin(part, response, request.address);
    if (total !== null) requireSpace(request.folder, total - part.size);
    if (!response.body) throw new PassingFailure('the server sent no content', 'server');
    onProgress?.({ received: part.size, total });
    for await (const bytes of response.body as AsyncIterable<Uint8Array>) {
      stalled.refresh();
      onDisk(() => part.append(bytes));
      if (total !== null && part.size > total)
        throw new DownloadError(`expected ${total} bytes, got more: ${part.size}`, 'content');
      onProgress?.({ received: part.size, total });
    }
    if (total !== null && part.size < total)
      throw new PassingFailure(`the connection ended after ${part.size} of ${total} bytes`, 'server');
  } catch (error) {
    if (error instanceof PassingFailure || error instanceof DownloadError) throw error;
    throw connection.signal.aborted
      ? new PassingFailure(`nothing arrived for ${stallAfter / 1000} s`, 'server')
      : networkFailure(error);
  } finally {
    clearTimeout(stalled);
    connection.abort();
  }
}

/** Fails before a download that the disk cannot hold. Some file systems do not state their size. */
function requireSpace(folder: string, bytes: number): void {
  const { bavail, blocks, bsize } = onDisk(() => statfsSync(folder));
  if (blocks > 0 && bavail * bsize < bytes)
    throw new DownloadError(
      `the disk is full: expected ${megabytes(bytes)} free, got ${megabytes(bavail * bsize)}`,
      'disk',
    );
}

/** The bytes as they are, and only those that are missing, if the server still has the same file. */
function headersFor({ server, size }: PartialDownload): Record<string, string> {
  const headers: Record<string, string> = { 'accept-encoding': 'identity', 'user-agent': 'dynamic-sparse-rcnn-webgpu' };
  if (server === null || size === 0) return headers;
  headers.range = `bytes=${size}-`;
  if (server.validator !== null) headers['if-range'] = server.validator;
  return headers;
}

/**
 * Prepares the part for the body of a response. A server without ranges, or with another file, sends the whole file.
 * @returns bytes of the whole file; null if unknown
 */
function begin(part: PartialDownload, response: Response, address: string): number | null {
  const { status, headers } = response;
  if (status === 206) {
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get('content-range') ?? '');
    const total = range && range[2] !== '*' ? Number(range[2]) : null;
    const known = part.server?.total ?? null;
    if (range && Number(range[1]) === part.size && (known === null || total === null || known === total))
      return total ?? known;
    dropBytes(part);
    throw new PassingFailure('the server has another file than before, or sent another part of it', 'server', 0);
  }
  if (status === 416 && part.size > 0) {
    dropBytes(part);
    throw new PassingFailure('the server has another file than before', 'server', 0);
  }
  if (status !== 200) throw statusFailure(response);
  if (/^(text\/html|application\/xhtml)/i.test(headers.get('content-type') ?? ''))
    throw new DownloadError(
      'expected a file, got an HTML page: perhaps the login page of a network or of a proxy',
      'content',
    );
  const file: ServerFile = { address, validator: validatorOf(headers), total: lengthOf(headers) };
  onDisk(() => part.begin(file));
  return file.total;
}

/** A weak ETag does not promise the same bytes. */
function validatorOf(headers: Headers): string | null {
  const etag = headers.get('etag');
  return etag?.startsWith('"') ? etag : headers.get('last-modified');
}

/** With a content encoding, Content-Length is not the number of bytes of the file. */
function lengthOf(headers: Headers): number | null {
  const length = headers.get('content-length');
  const encoding = headers.get('content-encoding') ?? 'identity';
  return length === null || encoding !== 'identity' ? null : Number(length);
}

function statusFailure({ status, statusText, headers }: Response): PassingFailure | DownloadError {
  const message = `the server answered ${status}${statusText === '' ? '' : ` ${statusText}`}`;
  if (!PASSING_STATUS.includes(status)) return new DownloadError(message, 'server');
  const seconds = Number(headers.get('retry-after') ?? Number.NaN);
  return new PassingFailure(message, 'server', Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null);
}

/** Node's message "fetch failed" says nothing; the cause does. */
function networkFailure(error: unknown): PassingFailure | DownloadError {
  const outer = error instanceof Error && error.cause !== undefined ? error.cause : error;
  const cause: unknown = outer instanceof AggregateError ? outer.errors[0] : outer;
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const message = errorMessage(cause);
  const text = message.includes(code) ? message : `${message} (${code})`;
  if (/CERT|SIGNATURE|^ERR_TLS/.test(code))
    return new DownloadError(`the connection is not trusted: ${text}`, 'offline');
  return new PassingFailure(`the connection failed: ${text}`, UNREACHED.includes(code) ? 'offline' : 'server');
}
