/**
 * Reads whole files as text or JSON, with errors that name file and position. Writes files atomically: an interruption
 * leaves the old file or the new one.
 */
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { errorMessage } from '../../engine/core/errors.ts';
import { InputError } from '../core/errors.ts';
import { lineAndColumn, malformed, parseJsonWithNaN, parseStrictJson, type ParsedJson } from './json-text.ts';
import { keepInLists, readLargeJson, type KeepElement } from './large-json.ts';

/** The text of a file without a byte order mark. Throws InputError if it cannot be read. */
export function readText(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new InputError(`${file}: cannot be read: ${errorMessage(error)}`);
  }
  return text.startsWith('\uFEFF') ? text.slice(1) : text;
}

/** Bytes of a file from which on its JSON is read in pieces, which takes half the time and a quarter of the memory. */
const LARGE_FILE = 1 << 26;

/** How to read a JSON file. */
export interface JsonOptions {
  /** What to keep of each element of the top-level lists; default: all of it. */
  readonly keep?: KeepElement;
  /** Bytes of a file from which on it is read in pieces. The content is the same. Default 2^26. */
  readonly largeFrom?: number;
}

/**
 * A JSON file's content. `NaN` and `Infinity`, which Python writes and JSON does not have, become null.
 * The file may be larger than the longest string.
 * Throws InputError with line and column for anything else that is not JSON.
 */
export function readJson(file: string, { keep, largeFrom = LARGE_FILE }: JsonOptions = {}): unknown {
  if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) >= largeFrom) return readLargeJson(file, { keep });
  const text = readText(file);
  const value = valueOrError(parseJsonWithNaN(text), text, file);
  if (keep !== undefined) keepInLists(value, keep);
  return value;
}

/** A JSON file's content. Throws InputError with line and column for anything that is not JSON, NaN included. */
export function readStrictJson(file: string): unknown {
  const text = readText(file);
  return valueOrError(parseStrictJson(text), text, file);
}

function valueOrError(parsed: ParsedJson, text: string, file: string): unknown {
  if ('value' in parsed) return parsed.value;
  const { offset, reason } = parsed.problem;
  throw malformed(file, { ...lineAndColumn(text, offset), reason });
}

/**
 * The first and the last bytes of a file as Latin-1 text, one character per byte. No byte is read twice.
 * @returns an empty text if the file cannot be opened
 */
export function readEnds(
  file: string,
  { first, last = 0 }: { readonly first: number; readonly last?: number },
): string {
  let handle: number;
  try {
    handle = openSync(file, 'r');
  } catch {
    return '';
  }
  try {
    const buffer = Buffer.alloc(first + last);
    const read = readSync(handle, buffer, 0, first, 0);
    const rest = last === 0 ? 0 : readSync(handle, buffer, read, last, Math.max(fstatSync(handle).size - last, read));
    return buffer.toString('latin1', 0, read + rest);
  } finally {
    closeSync(handle);
  }
}

/** The names in a folder, sorted; null if there is no such folder. */
export function listFolder(folder: string): string[] | null {
  try {
    return readdirSync(folder).sort();
  } catch {
    return null;
  }
}

/**
 * Writes a file whole or not at all: an interruption at any moment leaves the old file or the new one.
 * The data is flushed to the disk before the rename.
 */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const temporary = `${path}.${process.pid}.tmp`;
  const file = openSync(temporary, 'w');
  try {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
}

/** Writes a value as indented JSON, whole or not at all. */
export function writeJson(path: string, value: unknown): void {
  writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** The thing at a path that is not a file, in the words of an error message; null if the path is a file. */
export function insteadOfFile(path: string): string | null {
  const entry = statSync(path, { throwIfNoEntry: false });
  if (entry?.isFile()) return null;
  if (entry === undefined) return 'nothing there';
  return entry.isDirectory() ? 'a folder' : 'a device or pipe';
}
