/**
 * Reading JSON that people wrote: files whose errors say where, and fields whose errors say what was expected and what came.
 */
import { readFileSync } from 'node:fs';
import { parse, printParseErrorCode, type ParseError } from 'jsonc-parser';
import { InputError } from '../core/errors.ts';

/** The text of a file without a byte order mark. Throws InputError if it cannot be read. */
export function readText(file: string): string {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new InputError(`${file}: cannot be read: ${error instanceof Error ? error.message : String(error)}`);
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
  } catch (error) {
    try {
      return JSON.parse(
        text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (token) => (token.startsWith('"') ? token : 'null')),
      );
    } catch {
      throw new InputError(
        `${file}: malformed JSON ${position(text) ?? (error instanceof Error ? error.message : String(error))}`,
      );
    }
  }
}

/** Where and why `text` stops being JSON, which JSON.parse does not always say. */
function position(text: string): string | null {
  const errors: ParseError[] = [];
  parse(text, errors, { disallowComments: true, allowTrailingComma: false, allowEmptyContent: false });
  const first = errors.at(0);
  if (first === undefined) return null;
  const before = text.slice(0, first.offset).split('\n');
  // "CommaExpected" and the like, as words.
  const reason = printParseErrorCode(first.error)
    .replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
    .toLowerCase();
  return `at line ${before.length}, column ${before[before.length - 1].length + 1}: ${reason}`;
}

/** A value as a message shows it: short, and with its type where that is the point. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number') return String(value);
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** An InputError of the usual form: where, field, expected, got. */
export function wrong(where: string, field: string, expected: string, value: unknown): InputError {
  return new InputError(`${where}: ${field}: expected ${expected}, got ${shown(value)}`);
}

export type JsonObject = Readonly<Record<string, unknown>>;

export function asObject(value: unknown, where: string, field: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong(where, field, 'an object', value);
  return value as JsonObject;
}

export function asArray(value: unknown, where: string, field: string): readonly unknown[] {
  if (!Array.isArray(value)) throw wrong(where, field, 'an array', value);
  return value;
}

export function asInteger(value: unknown, least: number, where: string, field: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least)
    throw wrong(where, field, `an integer of at least ${least}`, value);
  return value;
}

export function asName(value: unknown, where: string, field: string): string {
  if (typeof value !== 'string' || value.trim() === '') throw wrong(where, field, 'a text that is not empty', value);
  return value;
}
