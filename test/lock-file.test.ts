/** package-lock.json fits package.json, names no registry, and covers all platforms. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');
const text = readFileSync(join(ROOT, 'package-lock.json'), 'utf8');

interface Package {
  readonly version?: string;
  readonly integrity?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}
const { packages } = JSON.parse(text) as { readonly packages: Readonly<Record<string, Package>> };
const locked = Object.entries(packages).filter(([folder]) => folder !== '');

test('has the dependencies of package.json', () => {
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Package;
  expect(packages['']).toMatchObject({ dependencies, devDependencies });
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies }))
    expect(packages[`node_modules/${name}`]).toMatchObject({ version });
});

test('names no registry', () => {
  expect(text).not.toContain('"resolved"');
  for (const [folder, { integrity }] of locked) expect(integrity, folder).toMatch(/^sha512-/);
});

test('has the optional packages of all platforms', () => {
  const missing = locked.flatMap(([folder, { optionalDependencies }]) =>
    Object.keys(optionalDependencies ?? {}).filter(
      (name) => !packages[`node_modules/${name}`] && !packages[`${folder}/node_modules/${name}`],
    ),
  );
  expect(missing).toEqual([]);
});
