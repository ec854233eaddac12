/** The table of ops is complete: ops are exported under their names, and no op is hidden behind a plain function. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import * as engine from '../engine/index.ts';
import { ops } from '../engine/ops/table.ts';
import { opCases } from './op-cases/index.ts';

const FOLDER = resolve(import.meta.dirname, '../engine/ops');

test('every op is public under its name and has test cases', () => {
  for (const [name, { opName }] of Object.entries(ops)) expect(opName).toBe(name);
  expect(Object.keys(engine)).toEqual(expect.arrayContaining(Object.keys(ops)));
  expect(Object.keys(opCases).sort()).toEqual(Object.keys(ops).sort());
});

test('every op that a file defines has a public function that carries its name', () => {
  const files = readdirSync(FOLDER, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));
  const hidden = files.filter((file) => {
    const text = readFileSync(join(FOLDER, file), 'utf8');
    const count = (pattern: RegExp): number => [...text.matchAll(pattern)].length;
    return count(/\bdefineOp[<(]/g) > count(/\bopFunction\(/g);
  });
  expect(hidden, 'files that call defineOp more often than opFunction').toEqual([]);
});
