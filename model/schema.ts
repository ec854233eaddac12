/** Building blocks of configuration schemas. The message of every issue is the text after "expected". */
import * as v from 'valibot';
import { shown } from '../engine/core/json.ts';

/** An integer in min .. max. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): v.GenericSchema<number> {
  const expected = `an integer ${max === Number.MAX_SAFE_INTEGER ? `>= ${min}` : `in ${min} .. ${max}`}`;
  return v.pipe(v.number(expected), v.safeInteger(expected), v.minValue(min, expected), v.maxValue(max, expected));
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
 * @param kind what is expected instead of a value that is no object
 */
export function fields<const E extends v.ObjectEntries>(entries: E, kind = 'an object') {
  const names = Object.keys(entries).join(', ');
  return v.strictObject(entries, ({ expected, path }) => {
    if (expected === 'never') return `one of the keys ${names}`;
    const missing = path?.at(-1)?.key;
    const found = typeof missing === 'string' && expected === `"${missing}"`;
    const issues = found ? v.safeParse(entries[missing], undefined).issues : undefined;
    return issues?.[0].message ?? `${kind} of ${names}`;
  });
}

/**
 * The first field that does not fit a schema, as "model.depth: expected one of 18, 34, 50, 101, got 19".
 * @param name names the whole value
 * @returns null if the value fits
 */
export function firstProblem(schema: v.GenericSchema, value: unknown, name: string): string | null {
  const issue = v.safeParse(schema, value, { abortEarly: true }).issues?.[0];
  if (!issue) return null;
  const path = (issue.path ?? []).map(({ key }) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`));
  const got = issue.path ? issue.path[issue.path.length - 1].value : issue.input;
  return `${name}${path.join('')}: expected ${issue.message}, got ${shown(got)}`;
}
