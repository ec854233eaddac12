/**
 * The layers and folders of docs/architecture.md. Imports point down the layers, and down the folders of a layer.
 * There are no import cycles; type imports count. Code for browsers does not use Node.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');
/** From the lowest layer to the highest. */
const LAYERS = ['kernels', 'engine', 'model', 'training', 'bench', 'test'];
/** The folders of a layer, from the lowest to the highest. Files next to them (index.ts, cli.ts) are above them. */
const FOLDERS: Readonly<Record<string, readonly string[]>> = {
  engine: ['gpu', 'core', 'profiling', 'tuning', 'device', 'ops', 'nn', 'optim', 'weights', 'node'],
  training: ['core', 'data', 'evaluation', 'checkpoints', 'output', 'pictures', 'setup', 'commands'],
};
/** Code that runs in a browser. */
const BROWSER = ['kernels/', 'engine/', 'model/', 'training/core/'];
/** The engine's modules for Node. */
const NODE_ONLY = 'engine/node/';

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|mjs)$/.test(entry.name))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
}

/** The modules that a file names: static and dynamic imports, exports, and types in comments. */
function specifiers(file: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match) => match[1]);
}

const files = LAYERS.flatMap(sources);

/** The project's files that a file imports. */
const imports = new Map(
  files.map((file) => [
    file,
    specifiers(file)
      .filter((name) => name.startsWith('.'))
      .map((name) => relative(ROOT, resolve(ROOT, dirname(file), name))),
  ]),
);

const importsOf = (file: string): readonly string[] => imports.get(file) ?? [];
const layerRank = (file: string): number => LAYERS.indexOf(file.split('/')[0]);

/** Position of a file's folder in its layer; -1 if the folder or the layer has no order. */
function folderRank(file: string): number {
  const [layer, folder, ...rest] = file.split('/');
  const order = FOLDERS[layer];
  if (!order) return -1;
  return rest.length === 0 ? order.length : order.indexOf(folder);
}

/** Groups of files that import each other: Tarjan's strongly connected components. */
function cycles(): string[][] {
  const index = new Map<string, number>();
  const low = new Map<string, number>();
  const stack: string[] = [];
  const found: string[][] = [];
  const visit = (file: string): void => {
    index.set(file, index.size);
    low.set(file, index.get(file)!);
    stack.push(file);
    for (const target of importsOf(file)) {
      if (!index.has(target)) visit(target);
      if (stack.includes(target)) low.set(file, Math.min(low.get(file)!, low.get(target)!));
    }
    if (low.get(file) !== index.get(file)) return;
    const component = stack.splice(stack.indexOf(file));
    if (component.length > 1 || importsOf(file).includes(file)) found.push(component.sort());
  };
  for (const file of files) if (!index.has(file)) visit(file);
  return found;
}

describe('imports', () => {
  test('point down the layers', () => {
    const upward = files.flatMap((file) =>
      importsOf(file)
        .filter((target) => layerRank(target) > layerRank(file))
        .map((target) => `${file} imports ${target}`),
    );
    expect(upward).toEqual([]);
  });

  test('point down the folders of a layer', () => {
    const unknown = files.filter((file) => FOLDERS[file.split('/')[0]] && folderRank(file) < 0);
    expect(unknown, 'files in a folder without a position in the order').toEqual([]);
    const upward = files.flatMap((file) =>
      importsOf(file)
        .filter((target) => layerRank(target) === layerRank(file) && folderRank(target) > folderRank(file))
        .map((target) => `${file} imports ${target}`),
    );
    expect(upward).toEqual([]);
  });

  test('form no cycle, types included', () => {
    expect(cycles()).toEqual([]);
  });

  test('of code for browsers do not lead to Node', () => {
    const browser = files.filter(
      (file) => BROWSER.some((folder) => file.startsWith(folder)) && !file.startsWith(NODE_ONLY),
    );
    const bound = browser.flatMap((file) => [
      ...specifiers(file)
        .filter((name) => name.startsWith('node:') || name === 'webgpu')
        .map((name) => `${file} imports ${name}`),
      ...importsOf(file)
        .filter((target) => target.startsWith(NODE_ONLY) || !BROWSER.some((folder) => target.startsWith(folder)))
        .map((target) => `${file} imports ${target}`),
    ]);
    expect(bound).toEqual([]);
  });

  test('of kernels lead only to kernels', () => {
    const outside = files
      .filter((file) => file.startsWith('kernels/'))
      .flatMap((file) =>
        specifiers(file)
          .filter((name) => !name.startsWith('./'))
          .map((name) => `${file} imports ${name}`),
      );
    expect(outside).toEqual([]);
  });
});
