/**
 * Reads whole files as text or JSON, with errors that name file and position. Writes files atomically: an interruption
 * leaves the old file or the new one.
 */
import { closeSync, fsyncSync, openSync, readdirSync, readFileSync, renameSync, statSync, writeSync } from 'node:fs';
import { parse, printParseErrorCode, type ParseError } from 'jsonc-parser';
import { errorMessage } from '../../engine/core/errors.ts';
import { InputError } from '../core/errors.ts';

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

/**
 * A JSON file's content. `NaN` and `Infinity`, which Python writes and JSON does not have, become null.
 * Throws InputError with line and column for anything else that is not JSON.
 */
export function readJson(file: string): unknown {
  const text = readText(file);
  try {
    return JSON.parse(text);
  } catch {
    const withoutNaN = text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (token) =>
      token.startsWith('"') ? token : 'null',
    );
    return parseJson(withoutNaN, file, text);
  }
}

/** A JSON file's content. Throws InputError with line and column for anything that is not JSON, NaN included. */
export function readStrictJson(file: string): unknown {
  return parseJson(readText(file), file);
}

/** @param original the text in which errors report a position */
function parseJson(text: string, file: string, original = text): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = positionOfError(original) ?? errorMessage(error);
    throw new InputError(`${file}: expected JSON, got malformed JSON ${reason}`);
  }
}

/** Line, column and reason of the first error. JSON.parse does not always state its position. */
function positionOfError(text: string): string | null {
  const errors: ParseError[] = [];
  parse(text, errors, { disallowComments: true, allowTrailingComma: false, allowEmptyContent: false });
  const first = errors.at(0);
  if (first === undefined) return null;
  const before = text.slice(0, first.offset).split('\n');
  // "CommaExpected" becomes "comma expected".
  const reason = printParseErrorCode(first.error)
    .replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
    .toLowerCase();
  return `at line ${before.length}, column ${before[before.length - 1].length + 1}: ${reason}`;
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
