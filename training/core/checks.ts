/**
 * Checks of values of unknown type, such as parsed JSON.
 * Errors name the source, the field, what was expected and what was found.
 */
import { InputError } from './errors.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

/** Characters of a value that a message shows. */
const MAX_SHOWN = 60;

/** A value as a message shows it: its JSON, shortened. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number') return String(value);
  if (Array.isArray(value) && value.length > 8) return `an array of ${value.length}`;
  const text = JSON.stringify(value);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 3)}...` : text;
}

/** The InputError for a field with a bad value. `source` is usually a file. */
export function wrong(source: string, field: string, expected: string, value: unknown): InputError {
  return new InputError(`${source}: ${field}: expected ${expected}, got ${shown(value)}`);
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Throws InputError unless the value is an object. */
export function asObject(value: unknown, source: string, field: string): JsonObject {
  if (!isObject(value)) throw wrong(source, field, 'an object', value);
  return value;
}

/** Throws InputError unless the value is an array. */
export function asArray(value: unknown, source: string, field: string): readonly unknown[] {
  if (!Array.isArray(value)) throw wrong(source, field, 'an array', value);
  return value;
}

/** Throws InputError unless the value is an integer of at least `minimum`. */
export function asInteger(value: unknown, minimum: number, source: string, field: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < minimum)
    throw wrong(source, field, `an integer of at least ${minimum}`, value);
  return value;
}

/** Throws InputError unless the value is a finite number. */
export function asFinite(value: unknown, source: string, field: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(source, field, 'a finite number', value);
  return value;
}

/** Throws InputError unless the value is a string with more than white space. */
export function asName(value: unknown, source: string, field: string): string {
  if (typeof value !== 'string' || value.trim() === '') throw wrong(source, field, 'a text that is not empty', value);
  return value;
}
