/** The names of splits, and the names that other tools give them. */

/** The split of images that a folder does not divide into splits. Training divides it. */
export const UNDIVIDED = 'all';

const OTHER_NAMES: ReadonlyMap<string, string> = new Map([
  ['train', 'train'],
  ['training', 'train'],
  ['val', 'val'],
  ['valid', 'val'],
  ['validation', 'val'],
  ['dev', 'val'],
  ['test', 'test'],
  ['testing', 'test'],
]);

/** The order in which splits are listed. */
const ORDER: readonly string[] = [UNDIVIDED, 'train', 'val', 'test', 'trainval'];

/**
 * The split that a folder or file is named after: "valid" and "val2017" are "val".
 * @returns null if the name is not that of a split
 */
export function splitOf(name: string): string | null {
  const word = /^([a-z]+)[-_]?(?:\d{4})?$/.exec(name.toLowerCase())?.[1];
  return OTHER_NAMES.get(word ?? '') ?? null;
}

/**
 * The split that a part of a longer name says: "instances_val2017" and "my-validation-set" are "val".
 * @returns null if no part is the name of a split, or if several parts are names of different splits
 */
export function splitWithin(name: string): string | null {
  const found = new Set(name.split(/[^A-Za-z0-9]+/).flatMap((part) => splitOf(part) ?? []));
  return found.size === 1 ? [...found][0] : null;
}

/** The same entries in the order all, train, val, test, trainval. */
export function inSplitOrder<T>(entries: Iterable<readonly [string, T]>): Map<string, T> {
  return new Map([...entries].sort(([a], [b]) => ORDER.indexOf(a) - ORDER.indexOf(b)));
}
