/** Reads what describes a YOLO data set: data.yaml, darknet's obj.data, and lists of class names. */
import { parseDocument } from 'yaml';
import { isObject, wrong } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { readText } from './files.ts';
import { below, type FolderTree } from './folder-tree.ts';
import { splitOf } from './split-names.ts';
import type { Warnings } from './warnings.ts';

/** The content of data.yaml or obj.data. */
export interface YoloConfig {
  /** Path below the root. */
  readonly file: string;
  /** Class names by number; null if the file has none. */
  readonly names: ReadonlyMap<number, string> | null;
  /** The folder that paths are relative to, as the file states it; '' if it states none. */
  readonly path: string;
  /** Folders or list files by split, with the file's own name of the split. */
  readonly splits: ReadonlyMap<string, { readonly ownName: string; readonly paths: readonly string[] }>;
  /** Numbers of the keypoints behind each box; 0: none. */
  readonly pointNumbers: number;
  readonly isRoboflow: boolean;
}

const SPLIT_KEYS: readonly string[] = ['train', 'val', 'valid', 'validation', 'test'];
/** Files with a class name a line, the most usual first. */
const NAME_FILES: readonly string[] = ['classes.txt', 'obj.names', '_darknet.labels', 'class_names.txt', 'names.txt'];

/** The configuration in the root; null if there is none. Throws InputError if it is malformed. */
export function findConfig(tree: FolderTree): YoloConfig | null {
  const files = tree.files('');
  const yamls = files.filter((name) => /\.ya?ml$/i.test(name));
  const usual = yamls.filter((name) => /^(data|dataset)\.ya?ml$/i.test(name));
  for (const name of new Set([...usual, ...yamls])) {
    const config = readYaml(tree, name, usual.includes(name));
    if (config !== null) return config;
  }
  const darknet = files.find((name) => /\.data$/.test(name));
  return darknet === undefined ? null : readDarknet(tree, darknet);
}

/** @param isUsual whether the name says that it is the configuration; errors of other files are no concern */
function readYaml(tree: FolderTree, name: string, isUsual: boolean): YoloConfig | null {
  const file = tree.path(name);
  // With this schema every value is text: a class called "007" or "no" keeps its name.
  const document = parseDocument(readText(file), { schema: 'failsafe', prettyErrors: true, uniqueKeys: true });
  const [error] = document.errors;
  if (error !== undefined) {
    if (!isUsual) return null;
    throw new InputError(`${file}: expected YAML, got malformed YAML: ${error.message.split('\n')[0]}`);
  }
  const content: unknown = document.toJS({ mapAsMap: true });
  if (!(content instanceof Map) || !SPLIT_KEYS.concat('names').some((key) => content.has(key))) return null;
  if (!isUsual && !(content.has('names') && (content.has('train') || content.has('nc')))) return null;
  const splits: YoloConfig['splits'] = new Map(
    SPLIT_KEYS.flatMap((key) => {
      const paths = pathsOf(content.get(key), key, file);
      return paths.length === 0 ? [] : [[splitOf(key) ?? key, { ownName: key, paths }] as const];
    }),
  );
  const path: unknown = content.get('path');
  const names = namesOf(content.get('names'), tree, file);
  return {
    file: name,
    names,
    path: typeof path === 'string' ? path : '',
    splits,
    pointNumbers: pointsOf(content),
    isRoboflow: content.has('roboflow'),
  };
}

function pathsOf(value: unknown, field: string, file: string): string[] {
  if (value === undefined || value === null || value === '') return [];
  if (typeof value === 'string') return /^(null|~)$/i.test(value) ? [] : [value];
  if (!Array.isArray(value)) throw wrong(file, field, 'a path or a list of paths', textOf(value));
  return value.map((path: unknown, i) => {
    if (typeof path !== 'string' || path === '') throw wrong(file, `${field}[${i}]`, 'a path', textOf(path));
    return path;
  });
}

/** A value for a message. */
const textOf = (value: unknown): unknown => (value instanceof Map ? Object.fromEntries(value) : value);

function namesOf(value: unknown, tree: FolderTree, file: string): Map<number, string> | null {
  if (value === undefined || value === null || value === '') return null;
  if (typeof value === 'string') {
    const listed = tree.hasFile(value) ? readNames(tree.path(value)) : null;
    if (listed === null) throw wrong(file, 'names', 'a list of class names, or a file that has one', value);
    return listed;
  }
  const entries: [unknown, unknown][] =
    value instanceof Map ? [...value] : Array.isArray(value) ? [...value.entries()] : [];
  const names = new Map<number, string>();
  for (const [key, name] of entries) {
    const field = `names[${String(key)}]`;
    const index = Number(key);
    if (!Number.isSafeInteger(index) || index < 0) throw wrong(file, field, 'the number of a class as key', key);
    if (typeof name !== 'string' || name.trim() === '') throw wrong(file, field, 'a name', textOf(name));
    names.set(index, name.trim());
  }
  if (names.size === 0) throw wrong(file, 'names', 'at least one class name', textOf(value));
  return checkedNames(names, file);
}

/** Names in the order of their numbers. Throws InputError if a name occurs twice. */
function checkedNames(names: ReadonlyMap<number, string>, file: string): Map<number, string> {
  const used = new Set<string>();
  for (const [index, name] of names) {
    if (used.has(name)) throw wrong(file, `names[${index}]`, 'a name that no other class has', name);
    used.add(name);
  }
  return new Map([...names].sort(([a], [b]) => a - b));
}

/** `kpt_shape: [number of points, numbers of each]`. */
function pointsOf(content: ReadonlyMap<unknown, unknown>): number {
  const shape = content.get('kpt_shape');
  if (!Array.isArray(shape) || shape.length !== 2) return 0;
  const [count, size] = shape.map(Number);
  return Number.isSafeInteger(count * size) ? count * size : 0;
}

/** Warns if data.yaml states another number of classes than it names. */
export function checkCount(tree: FolderTree, { file, names }: YoloConfig, warnings: Warnings): void {
  if (names === null || !/\.ya?ml$/i.test(file)) return;
  const content: unknown = parseDocument(readText(tree.path(file)), { schema: 'failsafe' }).toJS();
  const count = isObject(content) ? content.nc : undefined;
  if (typeof count === 'string' && Number(count) !== names.size)
    warnings.add(
      'numbers of classes that differ from the list of names, ignored',
      `${tree.path(file)}: nc: expected ${names.size}, got ${count}`,
    );
}

/** darknet's obj.data: lines such as "train = data/train.txt". */
function readDarknet(tree: FolderTree, name: string): YoloConfig | null {
  const values = new Map<string, string>();
  for (const line of readText(tree.path(name)).split(/\r?\n/)) {
    const [, key, value] = /^\s*(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (key !== undefined) values.set(key, value);
  }
  const splits: YoloConfig['splits'] = new Map(
    SPLIT_KEYS.flatMap((key) => {
      const path = values.get(key) ?? '';
      return path === '' ? [] : [[splitOf(key) ?? key, { ownName: key, paths: [path] }] as const];
    }),
  );
  return splits.size === 0 ? null : { file: name, names: null, path: '', splits, pointNumbers: 0, isRoboflow: false };
}

export interface NameList {
  /** Path below the root. */
  readonly file: string;
  readonly names: ReadonlyMap<number, string>;
}

/**
 * The list of class names in one of some folders; null if none has one.
 * @throws InputError if two folders have different lists
 */
export function findNames(tree: FolderTree, folders: Iterable<string>): NameList | null {
  let found: NameList | null = null;
  for (const folder of folders) {
    const name =
      NAME_FILES.find((file) => tree.hasFile(below(folder, file))) ??
      tree.files(folder).find((file) => /\.names$/.test(file));
    if (name === undefined) continue;
    const file = below(folder, name);
    const names = readNames(tree.path(file));
    if (names === null) continue;
    if (found !== null && [...found.names.values()].join('\n') !== [...names.values()].join('\n'))
      throw new InputError(
        `${tree.path(file)}: expected the class names of ${tree.path(found.file)} ` +
          `(${[...found.names.values()].join(', ')}), got ${[...names.values()].join(', ')}`,
      );
    found ??= { file, names };
  }
  return found;
}

/** Names by line; null if the file is empty. Empty lines at the end do not count. */
function readNames(file: string): Map<number, string> | null {
  const lines = readText(file).trimEnd().split(/\r?\n/);
  if (lines.length === 1 && lines[0] === '') return null;
  lines.forEach((line, i) => {
    if (line.trim() === '') throw new InputError(`${file}: line ${i + 1}: expected a class name, got an empty line`);
  });
  return checkedNames(new Map(lines.map((line, i) => [i, line.trim()])), file);
}

/** Names of files that are lists of classes or images, and no labels. */
export const isList = (name: string): boolean =>
  NAME_FILES.includes(name) ||
  /^(train|val|valid|validation|test|trainval|labels|predefined_classes|autosplit_\w+)\.txt$/i.test(name) ||
  /^(readme|license|notice|requirements)\b.*\.txt$/i.test(name);
