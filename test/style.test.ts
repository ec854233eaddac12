/** Lines of code and prose have at most 120 characters, except rows of tables and lines with addresses. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');
const MAX_LINE = 120;
const FOLDERS = ['kernels', 'engine', 'model', 'training', 'bench', 'test', 'docs', '.github'];

const texts = [
  ...readdirSync(ROOT).filter((name) => /\.(md|json)$/.test(name) && name !== 'package-lock.json'),
  ...FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && /\.(ts|mjs|md|yml)$/.test(entry.name))
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name))),
  ),
];

/** Rows of Markdown tables and lines with an address cannot be broken. */
const unbreakable = (file: string, line: string): boolean =>
  /https?:\/\//.test(line) || (file.endsWith('.md') && line.trimStart().startsWith('|'));

test(`no line is longer than ${MAX_LINE} characters`, () => {
  const long = texts.flatMap((file) =>
    readFileSync(join(ROOT, file), 'utf8')
      .split('\n')
      .flatMap((line, i) => (line.length > MAX_LINE && !unbreakable(file, line) ? [`${file}:${i + 1}`] : [])),
  );
  expect(long).toEqual([]);
});
