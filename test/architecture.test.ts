/** The layers of docs/architecture.md, held against the imports: an import only ever points down, and what a browser loads knows no Node. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '..');
const LAYERS = ['kernels', 'engine', 'model', 'training', 'bench', 'test'];
const BROWSER_LAYERS = ['kernels', 'engine', 'model'];
/** Engine's modules that know Node. */
const NODE_EDGE = ['engine/node/index.ts', 'engine/node/tuning-file.ts'];

function sources(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
}

function imports(file: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match) => match[1]);
}

const files = LAYERS.flatMap(sources);
const layerOf = (file: string): number => LAYERS.indexOf(file.split('/')[0]);

describe('imports', () => {
  test('point down the layers only', () => {
    const upward = files.flatMap((file) =>
      imports(file)
        .filter((name) => name.startsWith('.'))
        .flatMap((name) => {
          const target = relative(ROOT, resolve(ROOT, dirname(file), name));
          return layerOf(target) > layerOf(file) ? [`${file} imports ${target}`] : [];
        }),
    );
    expect(upward).toEqual([]);
  });

  test('of kernels, engine and model work in a browser', () => {
    const bound = files
      .filter((file) => BROWSER_LAYERS.includes(file.split('/')[0]) && !NODE_EDGE.includes(file))
      .flatMap((file) =>
        imports(file)
          .filter(
            (name) =>
              name.startsWith('node:') ||
              name === 'webgpu' ||
              NODE_EDGE.some((edge) => name.endsWith(edge.replace('engine', ''))),
          )
          .map((name) => `${file} imports ${name}`),
      );
    expect(bound).toEqual([]);
  });

  test('of kernels name nothing but kernels: they are text and numbers', () => {
    const outside = files
      .filter((file) => file.startsWith('kernels/'))
      .flatMap((file) =>
        imports(file)
          .filter((name) => !name.startsWith('./'))
          .map((name) => `${file} imports ${name}`),
      );
    expect(outside).toEqual([]);
  });
});
