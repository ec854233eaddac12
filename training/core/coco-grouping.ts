/** Checks COCO entries and sorts them by category and image. */
import type { CocoBox } from './coco-types.ts';
import { InputError } from './errors.ts';

export interface KnownIds {
  /** Index of each measured image by its id. */
  imageIndex: ReadonlyMap<number, number>;
  allImageIds: ReadonlySet<number>;
  /** Index of each category by its id. */
  categoryIndex: ReadonlyMap<number, number>;
}

/** Entries ordered by category, image, descending score (if they have scores), and place in the file. */
export interface Grouped<Entry> {
  entries: Entry[];
  /** [entries] index of the image. */
  image: Int32Array;
  /** [entries, 4] x, y, width, height. */
  box: Float64Array;
  /** [entries]; zeros for entries without scores. */
  score: Float64Array;
  /** [K + 1] index of each category's first entry. */
  categoryBegin: Int32Array;
}

/**
 * Groups entries of measured images.
 * @param listName names the list of entries in errors
 * @param scoreOf null for entries without scores
 * @throws InputError where an id is unknown, or a number is not finite
 */
export function groupEntries<Entry extends { image_id: number; category_id: number; bbox: CocoBox }>(
  all: readonly Entry[],
  listName: string,
  known: KnownIds,
  scoreOf: ((entry: Entry) => number) | null,
): Grouped<Entry> {
  const bad = (index: number, field: string, expected: string, got: unknown) =>
    new InputError(`evaluateDetections: ${listName}[${index}].${field}: expected ${expected}, got ${String(got)}`);
  all.forEach((entry, index) => {
    if (!known.allImageIds.has(entry.image_id))
      throw bad(index, 'image_id', "the id of one of the ground truth's images", entry.image_id);
    if (!known.categoryIndex.has(entry.category_id))
      throw bad(index, 'category_id', "the id of one of the ground truth's categories", entry.category_id);
    if (!entry.bbox.every(Number.isFinite)) throw bad(index, 'bbox', 'finite numbers', entry.bbox);
    if (scoreOf && !Number.isFinite(scoreOf(entry))) throw bad(index, 'score', 'a finite number', scoreOf(entry));
  });
  const measured = all.filter((entry) => known.imageIndex.has(entry.image_id));
  const category = Int32Array.from(measured, (entry) => known.categoryIndex.get(entry.category_id) ?? 0);
  const image = Int32Array.from(measured, (entry) => known.imageIndex.get(entry.image_id) ?? 0);
  const score = scoreOf ? Float64Array.from(measured, scoreOf) : new Float64Array(measured.length);
  const order = Uint32Array.from(measured.keys());
  order.sort((a, b) => category[a] - category[b] || image[a] - image[b] || score[b] - score[a] || a - b);

  const box = new Float64Array(4 * measured.length);
  order.forEach((from, to) => box.set(measured[from].bbox, 4 * to));
  const categoryBegin = new Int32Array(known.categoryIndex.size + 1);
  for (const k of category) categoryBegin[k + 1]++;
  for (let k = 1; k < categoryBegin.length; k++) categoryBegin[k] += categoryBegin[k - 1];
  return {
    entries: Array.from(order, (from) => measured[from]),
    image: Int32Array.from(order, (from) => image[from]),
    box,
    score: Float64Array.from(order, (from) => score[from]),
    categoryBegin,
  };
}
