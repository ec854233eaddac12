/** Parses JSON texts, also with Python's NaN and Infinity, and makes the errors for malformed ones. */
import { parse, printParseErrorCode, type ParseError } from 'jsonc-parser';
import { InputError } from '../core/errors.ts';

/** A malformed place in a JSON text. */
export interface JsonProblem {
  /** UTF-16 units from the text's beginning. */
  readonly offset: number;
  /** "comma expected", for messages. */
  readonly reason: string;
}

export type ParsedJson = { readonly value: unknown } | { readonly problem: JsonProblem };

/** Strings, and numbers that JSON does not have. */
const STRING_OR_NAN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\b(?:NaN|Infinity)\b/gs;

/** The value of a JSON text in which `NaN` and `Infinity` mean null, or the first problem. */
export function parseJsonWithNaN(text: string): ParsedJson {
  try {
    return { value: JSON.parse(text) };
  } catch {
    const withoutNaN = text.replace(STRING_OR_NAN, (token) => (token.startsWith('"') ? token : 'null'));
    const result = parseStrictJson(withoutNaN);
    if ('value' in result) return result;
    // "0" and spaces keep the places of all other characters, which "null" for "NaN" does not.
    const samePlaces = text.replace(STRING_OR_NAN, (token) =>
      token.startsWith('"') ? token : '0'.padEnd(token.length),
    );
    return { problem: problemIn(samePlaces) ?? result.problem };
  }
}

/** The value of a JSON text, or the first problem. */
export function parseStrictJson(text: string): ParsedJson {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { problem: problemIn(text) ?? { offset: text.length, reason: (error as SyntaxError).message } };
  }
}

/** The first problem. JSON.parse does not always state its position. */
function problemIn(text: string): JsonProblem | null {
  const errors: ParseError[] = [];
  parse(text, errors, { disallowComments: true, allowTrailingComma: false, allowEmptyContent: false });
  const first = errors.at(0);
  if (first === undefined) return null;
  // "CommaExpected" becomes "comma expected".
  const reason = printParseErrorCode(first.error)
    .replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
    .toLowerCase();
  return { offset: first.offset, reason };
}

/** Line and column, both from 1, of a UTF-16 unit of a text. */
export function lineAndColumn(text: string, offset: number): { readonly line: number; readonly column: number } {
  const before = text.slice(0, offset).split('\n');
  return { line: before.length, column: before[before.length - 1].length + 1 };
}

/** The error for malformed JSON. Line and column count from 1. */
export function malformed(
  file: string,
  { line, column, reason }: { readonly line: number; readonly column: number; readonly reason: string },
): InputError {
  return new InputError(`${file}: expected JSON, got malformed JSON at line ${line}, column ${column}: ${reason}`);
}
