/**
 * Checks of values of unknown type, such as parsed JSON, against schemas of valibot.
 *
 * The message of each schema says what it expects: "an integer >= 1". `checked` builds the whole error from it:
 * `<source>: <field>: expected <message>, got <value>`.
 */
import * as v from 'valibot';
import { isObject, shown, type JsonObject } from '../../engine/core/json.ts';
import { fieldPath, integer, missingField } from '../../model/schema.ts';
import { InputError } from './errors.ts';

export { integer, isObject, shown, type JsonObject };

/** The InputError for a field with a bad value. `source` is a file, or a file and a place in it. */
export function wrong(source: string, field: string, expected: string, value: unknown): InputError {
  return new InputError(`${source}: ${field === '' ? '' : `${field}: `}expected ${expected}, got ${shown(value)}`);
}

/** Any integer that a double holds exactly. */
export const anyInteger = v.custom<number>(Number.isSafeInteger, 'an integer');

export const finiteNumber = v.custom<number>(Number.isFinite, 'a finite number');

/** A string with more than white space. */
export const nonEmptyText = v.custom<string>(
  (value) => typeof value === 'string' && value.trim() !== '',
  'a text that is not empty',
);

export const anyObject = v.custom<JsonObject>(isObject, 'an object');

/** An array of elements that fit `element`. */
export const list = <const S extends v.GenericSchema>(element: S) => v.array(element, 'an array');

/** An object with at least these fields. Other fields are ignored, and are not in the result. */
export const withFields = <const E extends v.ObjectEntries>(entries: E) =>
  v.pipe(
    anyObject,
    v.object(entries, (issue) => missingField(entries, issue) ?? 'an object'),
  );

/**
 * The value as the schema's type.
 * @param source a file, or a file and a place in it
 * @param field the value's path in the source; empty for the source's whole content
 * @throws InputError that names the source and the first field that does not fit
 */
export function checked<const S extends v.GenericSchema>(
  schema: S,
  value: unknown,
  source: string,
  field = '',
): v.InferOutput<S> {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw wrong(source, `${field}${fieldPath(issue)}`.replace(/^\./, ''), issue.message, issue.input);
}
