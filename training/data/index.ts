/** Opens a data set: finds out the format of a folder and reads it. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { InputError } from '../core/errors.ts';
import { clipDataset } from './clip-boxes.ts';
import type { Dataset } from './dataset.ts';
import { missingSplit, type DataFormat } from './format.ts';
import { DATA_FORMATS } from './formats.ts';
import { Warnings } from './warnings.ts';

export { cocoAnnotations, splitRecords, splitWarnings } from './dataset.ts';
export type { Dataset } from './dataset.ts';
export { FORMAT_NAMES } from './formats.ts';
export { EMBEDDED_DATA, ensureShapesDataset } from './shapes.ts';
export type { ShapesOptions } from './shapes.ts';

/** The splits that must exist if `openDataset` gets no list of splits. */
const DEFAULT_SPLITS: readonly string[] = ['train', 'val'];

/**
 * Reads a data set of any format in formats.ts.
 *
 * Annotations are checked completely. Images are checked for existence; their content is checked when it is decoded.
 *
 * @param directory the data set's folder
 * @param options.splits the splits to read, all of which must exist; default: all, and "train" and "val" must exist
 * @throws InputError naming the file, the field, the expected and the found value
 */
export async function openDataset(
  directory: string,
  options: { readonly splits?: readonly string[] } = {},
): Promise<Dataset> {
  const root = resolve(directory);
  const entry = statSync(root, { throwIfNoEntry: false });
  if (!entry?.isDirectory())
    throw new InputError(`${root}: expected the folder of a data set, got ${entry ? 'a file' : 'nothing there'}`);
  const { format, present } = recognize(root);
  for (const split of options.splits ?? DEFAULT_SPLITS)
    if (!present.includes(split)) throw missingSplit(root, format, split, present);
  const warnings = new Warnings();
  const content = await format.read(root, options.splits ?? present, warnings);
  return clipDataset({ root, format, content, readWarnings: warnings });
}

/** The format of a folder and its splits. Throws InputError unless exactly one format fits. */
function recognize(root: string): { format: DataFormat; present: readonly string[] } {
  const found = DATA_FORMATS.map((format) => ({ format, present: format.findSplits(root) })).filter(
    ({ present }) => present.length > 0,
  );
  const listed = (formats: readonly DataFormat[]) => formats.map(({ name, files }) => `${name} (${files})`);
  if (found.length > 1) {
    const names = listed(found.map(({ format }) => format)).join(' and ');
    throw new InputError(`${root}: expected one format, got ${names}`);
  }
  if (found.length === 0)
    throw new InputError(
      `${root}: expected a data set, got none of the known formats: ${listed(DATA_FORMATS).join(', ')}`,
    );
  return found[0];
}
