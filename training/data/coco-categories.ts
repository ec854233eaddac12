/** The categories of COCO files: their order, their agreement between files, and categories that only group others. */
import * as v from 'valibot';
import { shown, withFields, wrong, nonEmptyText } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { ID, idOf, type Id } from './coco-ids.ts';

export const CATEGORY = withFields({ id: ID, name: nonEmptyText, supercategory: v.optional(v.unknown()) });

export type CategoryEntry = { readonly id: Id; readonly name: string; readonly supercategory?: unknown };

export interface Categories {
  /** The annotation file that they come from. */
  readonly file: string;
  /** Class names by category id, in ascending order of the ids. */
  readonly names: ReadonlyMap<number, string>;
}

/**
 * The category that all others have as their supercategory, as in Roboflow's exports. If it owns no box, it is no
 * class. Null if there is none.
 */
export function groupingCategory(entries: readonly CategoryEntry[]): CategoryEntry | null {
  const groups = entries.filter(
    (entry) => entries.length > 1 && entries.every((other) => other === entry || other.supercategory === entry.name),
  );
  return groups.length === 1 ? groups[0] : null;
}

/**
 * The categories in the order of their ids, without the one that only groups others.
 * @throws InputError if an id or a name occurs twice
 */
export function orderCategories(
  entries: readonly CategoryEntry[],
  file: string,
  leftOut: CategoryEntry | null,
): Categories {
  const names = new Map<number, string>();
  const used = new Set<string>();
  const ids = new Set<number>();
  entries.forEach((entry, i) => {
    const [id, { name }] = [idOf(entry.id), entry];
    if (ids.has(id)) throw wrong(file, `categories[${i}].id`, 'an id that no other category has', entry.id);
    ids.add(id);
    if (entry === leftOut) return;
    if (used.has(name)) throw wrong(file, `categories[${i}].name`, 'a name that no other category has', name);
    used.add(name);
    names.set(id, name);
  });
  if (names.size === 0) throw wrong(file, 'categories', 'at least one category', entries);
  return { file, names: new Map([...names].sort(([a], [b]) => a - b)) };
}

/** Throws InputError with the differences unless two files have the same categories. */
export function requireSameCategories(a: Categories, b: Categories): void {
  const differences: string[] = [];
  for (const id of [...new Set([...a.names.keys(), ...b.names.keys()])].sort((p, q) => p - q)) {
    const [inA, inB] = [a.names.get(id), b.names.get(id)];
    if (inA !== inB) differences.push(`id ${id} is ${shown(inA)} in the first and ${shown(inB)} in the second`);
  }
  if (differences.length === 0) return;
  const more = differences.length > 10 ? `; ... and ${differences.length - 10} more` : '';
  throw new InputError(
    `${a.file} and ${b.file}: expected the same categories, got differences: ` +
      `${differences.slice(0, 10).join('; ')}${more}`,
  );
}
