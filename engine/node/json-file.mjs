// @ts-check
/**
 * JSON files checked with a schema. A schema's message is the text after "expected", for example `v.string('text')`.
 */
import { readFileSync } from 'node:fs';
import * as v from 'valibot';

const MAX_SHOWN = 80;

/**
 * Parses a JSON file. Errors name the file.
 * @param {string} file
 * @returns {unknown}
 */
export function readJson(file) {
  const content = readFileSync(file, 'utf8');
  try {
    return JSON.parse(content);
  } catch (error) {
    throw new Error(`${file}: expected JSON (${error instanceof Error ? error.message : String(error)})`);
  }
}

/**
 * Checks a value with a schema. Errors name the file, the field, the expected value and the found value.
 * @template {v.GenericSchema} Schema
 * @param {Schema} schema
 * @param {unknown} value
 * @param {string} file
 * @returns {v.InferOutput<Schema>}
 */
export function check(schema, value, file) {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (!result.success) throw new Error(`${file}: ${describeIssue(result.issues[0])}`);
  return result.output;
}

/** @param {v.BaseIssue<unknown>} issue */
function describeIssue(issue) {
  let field = '';
  for (const { type, key } of issue.path ?? []) {
    if (type === 'array') field += `[${key}]`;
    else field += field ? `.${key}` : key;
  }
  const found = issue.input === undefined ? 'nothing' : JSON.stringify(issue.input).slice(0, MAX_SHOWN);
  return `${field || 'the whole file'}: expected ${issue.message}, got ${found}`;
}

/**
 * The message of an object's schema: "an object", or the message of a missing field.
 * @param {v.ObjectEntries} entries
 * @returns {(issue: { expected: string | null, path?: readonly v.IssuePathItem[] }) => string}
 */
export const objectMessage = (entries) => (issue) => {
  const field = issue.path?.at(-1)?.key;
  const missing = typeof field === 'string' && issue.expected === `"${field}"`;
  const issues = missing ? v.safeParse(entries[field], undefined).issues : undefined;
  return issues?.[0].message ?? 'an object';
};
