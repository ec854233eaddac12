/** Large JSON files are read in pieces: with the content that JSON.parse gives, and with errors at the right place. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { InputError } from '../training/core/errors.ts';
import { readJson } from '../training/data/files.ts';
import { readLargeJson, type LargeJsonOptions } from '../training/data/large-json.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'large-json-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = join(folder, 'file.json');
const TINY: LargeJsonOptions = { batchBytes: 1, chunkBytes: 1 };

/** The content of a text, read in pieces. */
function read(text: string | Uint8Array, options: LargeJsonOptions = TINY): unknown {
  writeFileSync(file, text);
  return readLargeJson(file, options);
}

/** The value, or null for malformed JSON. */
function valueOrNull(parse: () => unknown): { readonly value: unknown } | null {
  try {
    return { value: parse() };
  } catch (error) {
    if (error instanceof InputError) {
      expect(error.message).toMatch(/file\.json: expected JSON, got malformed JSON at line \d+, column \d+: ./);
      return null;
    }
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

const pieces = fc.record({ batchBytes: fc.integer({ min: 1, max: 40 }), chunkBytes: fc.integer({ min: 1, max: 40 }) });
/** Texts with what could be mistaken for structure, and with characters of one to four bytes. */
const text = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: fc.constantFrom('"', '\\', ',', '[', ']', '{', '}', 'é', '語', '😀', '\n', ' ', 'NaN', '\u2028') }),
);
const value = fc.letrec((tie) => ({
  any: fc.oneof(
    { maxDepth: 4 },
    fc.oneof(text, fc.double({ noNaN: true, noDefaultInfinity: true }), fc.boolean(), fc.constant(null)),
    fc.array(tie('any'), { maxLength: 5 }),
    fc.dictionary(fc.oneof(text, fc.constantFrom('__proto__', 'constructor', 'length', '')), tie('any'), {
      maxKeys: 5,
    }),
  ),
})).any;
/** A JSON text of a value: compact or indented. */
const json = fc
  .tuple(value, fc.constantFrom(undefined, 1, '\t', '\r\n'))
  .map(([content, indent]) => JSON.stringify(content, null, indent).replaceAll('\\r', '\r'));

describe('readLargeJson', () => {
  test('gives what JSON.parse gives, whatever the pieces', () => {
    fc.assert(
      fc.property(json, pieces, (content, options) => {
        expect(valueOrNull(() => read(content, options))).toEqual(valueOrNull(() => JSON.parse(content)));
      }),
      { numRuns: 200 },
    );
  });

  test('refuses what JSON.parse refuses, and accepts what it accepts', () => {
    const change = fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      remove: fc.integer({ min: 0, max: 2 }),
      insert: fc.constantFrom('', ',', '[', ']', '{', '}', '"', '\\', ':', '0', ' ', ',,', '],[', '}{', 'nul', '/'),
    });
    fc.assert(
      fc.property(json, change, pieces, (content, { at, remove, insert }, options) => {
        const place = Math.floor(at * content.length);
        // A file cannot hold half of a character of two UTF-16 units.
        const changed = Buffer.from(content.slice(0, place) + insert + content.slice(place + remove)).toString();
        expect(valueOrNull(() => read(changed, options))).toEqual(valueOrNull(() => JSON.parse(changed)));
      }),
      { numRuns: 400 },
    );
  });

  test('errors have the position that the file as a whole gives', async () => {
    const texts = [
      '{"images": [{"id": 1}, {"id": 2,}, {"id": 3}]}',
      '{"images": [{"id": 1},\n {"id": 2 "x": 1}],\n "annotations": []}',
      '{"é😀": [1, 2],\n"語語": [1, "😀é", 2 3]}',
      '\uFEFF[1, 2,\n3, 4, x]',
      '{"a": [1, 2], "b": tru, "c": [1]}',
      '{"a": [1, 2], "b": [NaN, Infinity, -Infinity, 1 2]}',
      '{"a": [1, 2]} {}',
      '{"a": [1, , 2]}',
      '{"a": [1, 2,]}',
      '{"a": [1, 2',
      '{"a": [{"b": "x',
      '{"a": {"b": [1, 2}}',
      '',
      ' \n ',
      ']',
    ];
    for (const content of texts) {
      writeFileSync(file, content);
      const whole = await inputErrorOf(() => readJson(file));
      expect(whole).toMatch(/malformed JSON at line \d+, column \d+/);
      for (const options of [TINY, { batchBytes: 4, chunkBytes: 7 }, {}])
        expect([content, await inputErrorOf(() => readLargeJson(file, options))]).toEqual([content, whole]);
    }
  });

  test('NaN and Infinity become null, but not in texts', () => {
    const content = '{"a": [NaN, "NaN", -Infinity, {"b": [Infinity, "\\"NaN"]}], "c": NaN, "NaN": ["-Infinity"]}';
    const expected = { a: [null, 'NaN', null, { b: [null, '"NaN'] }], c: null, NaN: ['-Infinity'] };
    expect(read(content)).toEqual(expected);
    expect(readJson(file)).toEqual(expected);
  });

  test('of a key that occurs twice, the last value counts', () => {
    const content = '{"a": [1, 2, 3], "b": 1, "a": [4, 5], "b": [6], "a": [7, 8, 9]}';
    expect(read(content)).toEqual(JSON.parse(content));
    expect(read('{"a": [1], "a": []}')).toEqual({ a: [] });
    expect(read('{"a": [1], "a": 2}')).toEqual({ a: 2 });
  });

  test('a byte order mark is no part of the content; bytes that are not UTF-8 become U+FFFD', () => {
    expect(read('\uFEFF{"a": [1]}')).toEqual({ a: [1] });
    const bytes = Buffer.from([...Buffer.from('["a'), 0xff, 0xe2, 0x82, ...Buffer.from('", "b"]')]);
    expect(read(bytes)).toEqual(JSON.parse(bytes.toString('utf8')));
  });

  test('`keep` sees each element of the large lists with its list, and decides what remains', () => {
    const seen: unknown[] = [];
    const keep = (list: string, element: unknown) => {
      seen.push([list, element]);
      return element === 2 ? 'two' : element;
    };
    const content = '{"a\\n": [1, 2], "x": {"y": [2]}, "": [[2]], "é": 2, "b": []}';
    const expected = { 'a\n': [1, 'two'], x: { y: [2] }, '': [[2]], é: 2, b: [] };
    const calls = [
      ['a\n', 1],
      ['a\n', 2],
      ['', [2]],
    ];
    expect(read(content, { ...TINY, keep })).toEqual(expected);
    expect(seen.splice(0)).toEqual(calls);
    expect(readJson(file, { keep })).toEqual(expected);
    expect(seen.splice(0)).toEqual(calls);
    expect(readJson(file, { keep, largeFrom: 0 })).toEqual(expected);
    expect(seen.splice(0)).toEqual(calls);
    expect(read('[1, 2, 3]', { ...TINY, keep })).toEqual([1, 'two', 3]);
    expect(seen.map((call) => (call as unknown[])[0])).toEqual(['', '', '']);
  });

  test('what does not fit a string is refused with its place; a missing file is named', async () => {
    const long = 'x'.repeat(100);
    const limit: LargeJsonOptions = { ...TINY, maxTextBytes: 64 };
    expect(await inputErrorOf(() => read(`{"a": [1, "${long}"]}`, limit))).toBe(
      `${file}: byte 9: expected list elements of at most 64 bytes, got more`,
    );
    expect(await inputErrorOf(() => read(`{"a": [1], "b": "${long}"}`, limit))).toBe(
      `${file}: byte 8: expected a text outside of the large lists of at most 64 bytes, got more`,
    );
    expect(read(`{"a": [${'1234567, '.repeat(40)}1]}`, limit)).toEqual({ a: [...Array(40).fill(1234567), 1] });
    expect(await inputErrorOf(() => readLargeJson(join(folder, 'none.json')))).toContain('none.json: cannot be read');
  });
});
