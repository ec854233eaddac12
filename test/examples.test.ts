/** The README's example of the engine as a library: it is the file in docs/examples, and it does what it says. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const file = 'docs/examples/fit-a-curve.ts';

test('the README shows the example as it is', () => {
  const source = readFileSync(join(root, file), 'utf8');
  expect(readFileSync(join(root, 'README.md'), 'utf8')).toContain(source.slice(source.indexOf('import {')).trimEnd());
});

test('the example learns sin(x)', () => {
  const output = execFileSync(process.execPath, ['--import', 'tsx', file], { cwd: root, encoding: 'utf8' });
  const errors = [...output.matchAll(/mean squared error (\S+)/g)].map((match) => Number(match[1]));
  expect(errors).toHaveLength(5);
  // The deviation of sin over a period is 0.5: a hundredth of it is learnt, not guessed.
  expect(errors[4]).toBeLessThan(0.005);
});
