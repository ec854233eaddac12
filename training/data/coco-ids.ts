/** Ids in COCO files: integers, or the same as text, which some tools write. */
import * as v from 'valibot';
import type { Warnings } from './warnings.ts';

export type Id = number | string;

const EXPECTED = 'an integer >= 0';

export const isId = (value: unknown): value is Id =>
  typeof value === 'number' ? Number.isSafeInteger(value) && value >= 0 : isDigits(value);

const isDigits = (value: unknown): value is string => typeof value === 'string' && /^\d{1,15}$/.test(value);

/** An integer of at least 0, or its digits as text. */
export const ID = v.custom<Id>(isId, EXPECTED);

export const idOf = (id: Id): number => (typeof id === 'number' ? id : Number(id));

/** Counts the ids of a file that are text, by field, for one warning a field. */
export class TextIds {
  private readonly counts = new Map<string, { first: string; count: number }>();

  /** The id as a number. */
  read(id: Id, field: string): number {
    if (typeof id === 'number') return id;
    const known = this.counts.get(field);
    if (known === undefined) this.counts.set(field, { first: id, count: 1 });
    else known.count++;
    return Number(id);
  }

  report(file: string, warnings: Warnings): void {
    for (const [field, { first, count }] of this.counts)
      warnings.add(
        'ids that are text, read as numbers',
        `${file}: ${field}: ${count} such as ${JSON.stringify(first)}`,
      );
  }
}
