/** The interface that every annotation format implements, and the errors that formats share. */
import { InputError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image-record.ts';
import type { Warnings } from './warnings.ts';

/** The content that a format reads from a folder. */
export interface DatasetContent {
  readonly classNames: readonly string[];
  /** The COCO category id of each class, in the order of `classNames`. */
  readonly categoryIds: readonly number[];
  /** The images of each split that was asked for. */
  readonly splits: Readonly<Record<string, readonly ImageRecord[]>>;
}

/** An annotation format on disk. Formats are listed in formats.ts. */
export interface DataFormat {
  /** Name in plain text: "Pascal VOC". */
  readonly name: string;
  /** Path of the files by which a folder is recognized, for errors. */
  readonly files: string;
  /** Plural noun for objects with `crowd` set, for errors. */
  readonly crowdNoun: string;
  /** The files that the user writes to make a new split, for the error of a missing split. */
  readonly splitRemedy: (split: string) => string;
  /**
   * The names of the splits in a folder, found from file names alone; none if the folder has another format.
   * @throws InputError if the folder has this format and is ambiguous
   */
  readonly findSplits: (root: string) => readonly string[];
  /**
   * Reads annotations and checks that images exist. Corrections are added to `warnings`.
   * @param splits every one is among those that `findSplits` found
   * @throws InputError naming the file, the field, the expected and the found value
   */
  readonly read: (
    root: string,
    splits: readonly string[],
    warnings: Warnings,
  ) => DatasetContent | Promise<DatasetContent>;
}

/** The error for a split that does not exist. It says how to make one. */
export function missingSplit(root: string, format: DataFormat, split: string, present: readonly string[]): InputError {
  const found = present.length > 0 ? `there is: ${present.join(', ')}` : 'there is none';
  return new InputError(`${root}: no split "${split}" (${found}); to make one, write ${format.splitRemedy(split)}`);
}

/** Throws InputError if an image is missing. The error has the first missing images and the searched folders. */
export function requireImages(
  source: string,
  missing: readonly string[],
  total: number,
  lookedIn: readonly string[],
): void {
  if (missing.length === 0) return;
  throw new InputError(
    `${source}: ${missing.length} of ${total} images are missing: ${firstNames(missing)}; ` +
      `looked in ${lookedIn.join(', ')}`,
  );
}

/** The first three names, with ", ..." for the others. */
export function firstNames(names: readonly string[]): string {
  return names.slice(0, 3).join(', ') + (names.length > 3 ? ', ...' : '');
}
