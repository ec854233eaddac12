/**
 * The examples of README and docs. The README contains the example in docs/examples, and the example learns. Commands
 * that set configuration keys name keys that exist.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { loadConfig } from '../training/data/config-file.ts';

const root = join(import.meta.dirname, '..');
const file = 'docs/examples/fit-a-curve.ts';

test('the README contains the example', () => {
  const source = readFileSync(join(root, file), 'utf8');
  expect(readFileSync(join(root, 'README.md'), 'utf8')).toContain(source.slice(source.indexOf('import {')).trimEnd());
});

test('the example learns sin(x)', () => {
  const output = execFileSync(process.execPath, ['--import', 'tsx', file], { cwd: root, encoding: 'utf8' });
  const errors = [...output.matchAll(/mean squared error (\S+)/g)].map((match) => Number(match[1]));
  expect(errors).toHaveLength(5);
  // A network that predicts 0 has an error of 0.5, the mean of sin(x)^2 over a period. A hundredth of it is learned.
  expect(errors[4]).toBeLessThan(0.005);
});

test('configurations in the commands of README and docs are valid', () => {
  const commands = ['README.md', 'docs/training.md', 'docs/reproduce.md'].flatMap((name) => {
    const text = readFileSync(join(root, name), 'utf8').replace(/\\\n\s*/g, '');
    return text.match(/npm run train --[^\n`]*/g) ?? [];
  });
  const sets = commands.map((command) =>
    Array.from(command.matchAll(/--set ('?)(.+?)\1(?= |$)/g), (match) => match[2].replaceAll("'", '')),
  );
  expect(sets.flat().length).toBeGreaterThan(5);
  for (const set of sets) expect(() => loadConfig({ config: 'small', set })).not.toThrow();
});
