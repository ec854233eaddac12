/**
 * Opening a data set: finds out which format a folder has and reads it.
 */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { InputError } from '../core/errors.ts';
import { cocoAnnotationFiles, openCoco } from './coco.ts';
import { missingSplit } from './dataset.ts';
import type { Dataset } from './dataset.ts';
import { openVoc, vocSplits } from './voc.ts';

export { cocoAnnotations, splitRecords, splitWarnings } from './dataset.ts';
export type { Dataset } from './dataset.ts';
export { ensureShapesDataset } from './shapes.ts';
export type { ShapesOptions } from './shapes.ts';

/**
 * Reads a COCO or Pascal VOC data set (see coco.ts and voc.ts for their layouts).
 *
 * Annotations are checked whole, images for being there; what an image holds is checked when it is decoded.
 *
 * @param directory the data set's folder
 * @param options.splits which splits to read, every one of which must be there; without it all there are, "train" and "val" among them
 * @throws InputError naming file, field, what was expected and what came
 */
export function openDataset(directory: string, options: { readonly splits?: readonly string[] } = {}): Dataset {
  const root = resolve(directory);
  const entry = statSync(root, { throwIfNoEntry: false });
  if (!entry?.isDirectory())
    throw new InputError(`${root}: expected the folder of a data set, got ${entry ? 'a file' : 'nothing there'}`);
  const coco = [...cocoAnnotationFiles(root).keys()];
  const voc = vocSplits(root);
  if (coco.length > 0 && voc.length > 0) {
    throw new InputError(
      `${root}: expected one format, got both annotations/instances_*.json (COCO) and ImageSets/Main/*.txt (Pascal VOC)`,
    );
  }
  if (coco.length === 0 && voc.length === 0) {
    throw new InputError(
      `${root}: no data set here; looked for COCO's annotations/instances_{train,val}*.json ` +
        `and Pascal VOC's ImageSets/Main/{train,val,test,trainval}.txt`,
    );
  }
  const [format, present] = coco.length > 0 ? ['coco' as const, coco] : ['voc' as const, voc];
  const splits = options.splits ?? present;
  if (options.splits === undefined) {
    for (const split of ['train', 'val'])
      if (!present.includes(split)) throw missingSplit(root, format, split, present);
  }
  return format === 'coco' ? openCoco(root, splits) : openVoc(root, splits);
}
