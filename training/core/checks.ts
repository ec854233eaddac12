/**
 * Checks of values of unknown type, such as parsed JSON.
 * Errors name the source, the field, what was expected and what was found.
 */
import { isObject, shown, type JsonObject } from '../../engine/core/json.ts';
import { InputError } from './errors.ts';

export { isObject, shown, type JsonObject };

/** The InputError for a field with a bad value. `source` is usually a file. */
export function wrong(source: string, field: string, expected: string, value: unknown): InputError {
  return new InputError(`${source}: ${field}: expected ${expected}, got ${shown(value)}`);
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
