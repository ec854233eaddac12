/** The filter removes Dawn's warnings and nothing else. npm scripts, which use it, pass on signals and exit codes. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DawnWarningFilter, removeDawnWarnings } from '../training/setup/dawn-warnings.mjs';

const ROOT = resolve(import.meta.dirname, '..');
const warning = (kind: string): string =>
  `Warning: maxDynamic${kind}BuffersPerPipelineLayout artificially reduced from 1000000 to 16 ` +
  'to fit dynamic offset allocation limit.\n';
const OTHERS = [
  'Warning: something else\n',
  'Warning: maxDynamicUniformBuffersPerPipelineLayout is odd\n',
  'error: a device was lost\n',
  'W',
  'progress 5 %\rWarnin',
  'grüße\n',
  '',
];

test('the filter removes warnings and keeps all other text, in pieces of any size', async () => {
  const line = fc.oneof(fc.constantFrom(...OTHERS), fc.constantFrom(warning('Uniform'), warning('Storage')));
  await fc.assert(
    fc.asyncProperty(fc.array(line, { maxLength: 6 }), fc.integer({ min: 1, max: 200 }), async (lines, size) => {
      const bytes = Buffer.from(lines.join(''));
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      );
      const kept = lines.filter((text) => OTHERS.includes(text)).join('');
      expect(await text(Readable.from(pieces).pipe(new DawnWarningFilter()))).toBe(kept);
      expect(removeDawnWarnings(lines.join(''))).toBe(kept);
    }),
    { seed: 1, numRuns: 300 },
  );
});

test('text that cannot begin a warning passes at once', () => {
  const filter = new DawnWarningFilter();
  for (const piece of ['step 1 of 10\r', 'Who?', 'Warning: lost']) {
    filter.write(piece);
    expect(String(filter.read())).toBe(piece);
  }
});

test('npm scripts end with the exit code or signal of their program', () => {
  const run = (code: string) =>
    spawnSync(process.execPath, ['training/setup/run.mjs', '--no-driver', '--eval', code], {
      cwd: ROOT,
      encoding: 'utf8',
    });
  const print = `console.log('result'); console.error(${JSON.stringify(`before\n${warning('Storage')}after`)});`;
  expect(run(`${print} process.exitCode = 3`)).toMatchObject({
    status: 3,
    stdout: 'result\n',
    stderr: 'before\nafter\n',
  });
  expect(run('process.kill(process.pid, "SIGKILL")')).toMatchObject({ status: null, signal: 'SIGKILL' });
});

test('npm scripts pass signals on to their program', async () => {
  const code =
    'process.once("SIGTERM", () => { console.log("saved"); process.exit(130); }); console.log("ready"); ' +
    'setInterval(() => undefined, 1000)';
  const script = spawn(process.execPath, ['training/setup/run.mjs', '--no-driver', '--eval', code], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const output = text(script.stdout);
  const ended = once(script, 'exit');
  await once(script.stdout, 'data');
  script.kill('SIGTERM');
  expect(await ended).toEqual([130, null]);
  expect(await output).toContain('saved');
});
