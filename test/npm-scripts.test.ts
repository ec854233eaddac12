/** The npm scripts: none of them runs another one by npm's rules for names that begin with "pre" or "post". */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');

// Without this setting, `npm run train` would first run the script `pretrain`, for an hour.
test('have no pre and post hooks', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: object };
  const names = Object.keys(scripts);
  expect(names).toContain('pretrain');
  const setting = execFileSync('npm', ['config', 'get', 'ignore-scripts'], {
    cwd: ROOT,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  expect(setting.trim()).toBe('true');
});
