/** Finds out the format of a folder, and explains what is missing if it has none. */
import { InputError } from '../core/errors.ts';
import { withConversion } from './conversion.ts';
import type { DataFormat, DataSource } from './format.ts';
import { FolderTree } from './folder-tree.ts';
import { DATA_FORMATS } from './formats.ts';

/** Entries of a folder that an error shows. */
const MAX_SHOWN_ENTRIES = 8;

export interface RecognizedSource {
  readonly format: DataFormat;
  readonly source: DataSource;
}

/**
 * The data set in a folder.
 * @param key the only format to try; null: all
 * @throws InputError unless exactly one format fits
 */
export function recognize(root: string, key: string | null): RecognizedSource {
  const tree = new FolderTree(root);
  const formats = key === null ? DATA_FORMATS : DATA_FORMATS.filter((format) => format.key === key);
  if (formats.length === 0) {
    const keys = DATA_FORMATS.map((format) => format.key).join(', ');
    throw new InputError(`--format: expected one of ${keys}, got ${JSON.stringify(key)}`);
  }
  const found = fitting(tree, formats);
  if (found.length > 1) {
    const names = listed(found.map(({ format }) => format)).join(' and ');
    const options = found.map(({ format }) => `--format ${format.key}`).join(' or ');
    throw new InputError(`${root}: expected one format, got ${names}; choose one with ${options}`);
  }
  if (found.length === 0) throw unrecognized(tree, formats);
  const [{ format, source }] = found;
  return { format, source: withConversion(tree, source) };
}

function fitting(tree: FolderTree, formats: readonly DataFormat[]): RecognizedSource[] {
  return formats.flatMap((format) => {
    const source = format.recognize(tree);
    return source === null ? [] : [{ format, source }];
  });
}

const listed = (formats: readonly DataFormat[]) => formats.map(({ name, files }) => `${name} (${files})`);

function unrecognized(tree: FolderTree, formats: readonly DataFormat[]): InputError {
  const lines = [
    `${tree.root}: expected a data set, got none of the known formats: ${listed(formats).join(', ')}`,
    ...formats.flatMap(({ name, layouts }) => layouts.flatMap((entries) => [`  ${name}`, ...drawTree(entries)])),
    `  found: ${describeFolder(tree)}`,
  ];
  const inside = tree.folders('').filter((folder) => holdsData(tree.path(folder), formats));
  if (inside.length > 0) lines.push(`  there is a data set in ${inside.map((name) => tree.path(name)).join(', ')}`);
  return new InputError(lines.join('\n'));
}

const drawTree = (entries: readonly string[]): string[] =>
  entries.map((entry, i) => `    ${i === entries.length - 1 ? '└─' : '├─'} ${entry}`);

function holdsData(folder: string, formats: readonly DataFormat[]): boolean {
  try {
    return fitting(new FolderTree(folder), formats).length > 0;
  } catch (error) {
    // An ambiguous data set is one too.
    if (error instanceof InputError) return true;
    throw error;
  }
}

/** The first entries of a folder, and the number of files of each type in it and below it. */
function describeFolder(tree: FolderTree): string {
  const entries = [...tree.folders('').map((name) => `${name}/`), ...tree.files('')];
  if (entries.length === 0) return 'an empty folder';
  const shown = entries.slice(0, MAX_SHOWN_ENTRIES).join(', ');
  const more = entries.length > MAX_SHOWN_ENTRIES ? `, ... and ${entries.length - MAX_SHOWN_ENTRIES} more` : '';
  const counts = new Map<string, number>();
  for (const path of tree.walk('')) {
    const type = /\.[^./]+$/.exec(path)?.[0].toLowerCase() ?? 'without extension';
    counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  const types = [...counts].sort(([, a], [, b]) => b - a).slice(0, MAX_SHOWN_ENTRIES);
  return `${shown}${more} (files: ${types.map(([type, count]) => `${count} ${type}`).join(', ') || 'none'})`;
}
