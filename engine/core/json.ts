/** Parsed JSON: a check for objects, and values as error messages show them. */

export type JsonObject = Readonly<Record<string, unknown>>;

/** Maximum number of characters that a message shows of a value. */
const MAX_SHOWN = 60;

/** Whether a value is an object, and neither null nor an array. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A value as a message shows it: its JSON, shortened. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number') return String(value);
  if (Array.isArray(value) && value.length > 8) return `an array of ${value.length}`;
  const text = JSON.stringify(value);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 3)}...` : text;
}
