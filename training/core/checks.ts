/**
 * Checks of values of unknown type, such as parsed JSON, against schemas of valibot.
 *
 * The message of each schema says what it expects: "an integer of at least 1". `checked` makes the whole error of it:
 * `<source>: <field>: expected <message>, got <value>`.
 */
import * as v from 'valibot';
import { isObject, shown, type JsonObject } from '../../engine/core/json.ts';
import { InputError } from './errors.ts';

export { isObject, shown, type JsonObject };

/** The InputError for a field with a bad value. `source` is a file, or a file and a place in it. */
export function wrong(source: string, field: string, expected: string, value: unknown): InputError {
  return new InputError(`${source}: ${field === '' ? '' : `${field}: `}expected ${expected}, got ${shown(value)}`);
}

/** An integer of at least `min`; without `min` any integer. Integers beyond 2^53 are refused: doubles do not hold them. */
export const integer = (min = Number.MIN_SAFE_INTEGER) =>
  v.custom<number>(
    (value) => Number.isSafeInteger(value) && (value as number) >= min,
    min === Number.MIN_SAFE_INTEGER ? 'an integer' : `an integer of at least ${min}`,
  );

export const finiteNumber = v.custom<number>(Number.isFinite, 'a finite number');

/** A string with more than white space. */
export const nonEmptyText = v.custom<string>(
  (value) => typeof value === 'string' && value.trim() !== '',
  'a text that is not empty',
);

export const anyObject = v.custom<JsonObject>(isObject, 'an object');

/** An array of elements that fit `element`. */
export const list = <const S extends v.GenericSchema>(element: S) => v.array(element, 'an array');

/** An object with these fields. Others are ignored, and are not in the result. */
export const fields = <const E extends v.ObjectEntries>(entries: E) =>
  v.pipe(
    anyObject,
    v.object(entries, ({ path }) => {
      // Valibot reports a missing field with the object's message. The field's own schema knows what it expects.
      const key = path?.at(-1)?.key;
      const [issue] = v.safeParse(entries[String(key)], undefined).issues ?? [];
      return issue?.message ?? 'a value';
    }),
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
  const [{ path = [], message, input }] = result.issues;
  const below = path.map(({ key }) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('');
  throw wrong(source, `${field}${below}`.replace(/^\./, ''), message, input);
}
