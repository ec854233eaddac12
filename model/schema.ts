/** Building blocks of configuration schemas. The message of every issue is the text after "expected". */
import * as v from 'valibot';
import { shown } from '../engine/core/json.ts';

/** An integer in min .. max. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): v.GenericSchema<number> {
  const expected = `an integer ${max === Number.MAX_SAFE_INTEGER ? `>= ${min}` : `in ${min} .. ${max}`}`;
  return v.custom<number>(
    (value) => Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max,
    expected,
  );
}

export interface Interval {
  readonly min?: number;
  /** Excludes the bound itself. */
  readonly above?: number;
  readonly max?: number;
  /** Excludes the bound itself. */
  readonly below?: number;
}

/** A finite number in an interval. */
export function number({ min, above, max, below }: Interval): v.GenericSchema<number> {
  const bounds = [
    min === undefined ? `> ${above}` : `>= ${min}`,
    max === undefined ? (below === undefined ? null : `< ${below}`) : `<= ${max}`,
  ];
  const expected = `a number ${bounds.filter((bound) => bound !== null).join(' and ')}`;
  return v.pipe(
    v.number(expected),
    v.finite(expected),
    v.minValue(min ?? -Infinity, expected),
    v.gtValue(above ?? -Infinity, expected),
    v.maxValue(max ?? Infinity, expected),
    v.ltValue(below ?? Infinity, expected),
  );
}

/** One of a list of values. */
export function oneOf<const T extends string | number>(values: readonly T[]): v.GenericSchema<T> {
  return v.picklist(values, `one of ${values.join(', ')}`);
}

export const trueOrFalse: v.GenericSchema<boolean> = v.boolean('true or false');

/**
 * An object with exactly these fields. A missing field gives the message of the field's own schema.
 * @param kind the kind of value that the message names for a value that is no object
 */
export function fields<const E extends v.ObjectEntries>(entries: E, kind = 'an object') {
  const names = Object.keys(entries).join(', ');
  return v.strictObject(entries, (issue) =>
    issue.expected === 'never' ? `one of the keys ${names}` : (missingField(entries, issue) ?? `${kind} of ${names}`),
  );
}

/**
 * The message for a missing field of an object: that of the field's own schema. Valibot itself would report a missing
 * field with the object's message.
 * @returns null if the issue is not about a missing field
 */
export function missingField(entries: v.ObjectEntries, { expected, path }: v.BaseIssue<unknown>): string | null {
  const name = path?.at(-1)?.key;
  if (typeof name !== 'string' || expected !== `"${name}"`) return null;
  return v.safeParse(entries[name], undefined).issues?.[0].message ?? null;
}

/** The path of an issue's field below the checked value: ".images[3].id"; empty for the value itself. */
export function fieldPath({ path }: v.BaseIssue<unknown>): string {
  return (path ?? []).map(({ key }) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`)).join('');
}

/**
 * The first field that does not fit a schema, as "model.depth: expected one of 18, 34, 50, 101, got 19".
 * @param name name of the whole value in the message
 * @returns null if the value fits
 */
export function firstProblem(schema: v.GenericSchema, value: unknown, name: string): string | null {
  const issue = v.safeParse(schema, value, { abortEarly: true }).issues?.[0];
  if (!issue) return null;
  const got = issue.path ? issue.path[issue.path.length - 1].value : issue.input;
  return `${name}${fieldPath(issue)}: expected ${issue.message}, got ${shown(got)}`;
}
