/** A data set as training and evaluation use it, independent of its format on disk. */
import type { CocoAnnotation, CocoGroundTruth } from '../core/coco-types.ts';
import { InputError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image-record.ts';
import { missingSplit, type AnnotatedContent, type DataFormat } from './format.ts';
import { MAX_SHOWN_CASES, type Warnings } from './warnings.ts';

export interface Dataset {
  /** Absolute path. */
  readonly root: string;
  readonly format: DataFormat;
  /** The layout and the splits of the folder, in one line: "Roboflow COCO: train, valid -> val, test". */
  readonly recognized: string;
  /** Sentences about decisions for the whole data set, such as a validation split that was created. */
  readonly notes: readonly string[];
  readonly classNames: readonly string[];
  /** The COCO category id of each class, in the order of `classNames`. */
  readonly categoryIds: readonly number[];
  /** The images of each split that was asked for. Boxes are clipped to their images; unusable ones are left out. */
  readonly splits: Readonly<Record<string, readonly ImageRecord[]>>;
  /** What the files have, before any box was clipped. */
  readonly annotated: AnnotatedContent['splits'];
  /** The corrections made while reading, without those of boxes. */
  readonly readWarnings: Warnings;
  /**
   * Corrections and dropped annotations, as lines to print.
   * For each kind: a count, the first ten cases, and the number of further cases.
   */
  readonly warnings: readonly string[];
  /** The warnings with every case. */
  readonly allWarnings: readonly string[];
}

/** The images of a split. Throws InputError, which says how to make the split, if the data set does not have it. */
export function splitRecords(dataset: Dataset, split: string): readonly ImageRecord[] {
  const records = Object.hasOwn(dataset.splits, split) ? dataset.splits[split] : undefined;
  if (records === undefined) throw missingSplit(dataset.root, dataset.format, split, Object.keys(dataset.splits));
  return records;
}

/**
 * Warnings about training on one split and measuring on another: classes without an object to learn from, a validation
 * split without an object to measure by, and images in both splits.
 * @throws InputError if the training split has no object
 */
export function splitWarnings(dataset: Dataset, training: string, validation: string): string[] {
  const [train, val] = [splitRecords(dataset, training), splitRecords(dataset, validation)];
  const [trained, measured] = [labelsIn(train), labelsIn(val)];
  if (trained.size === 0)
    throw new InputError(
      `${dataset.root}: the split "${training}": expected at least one object in its ${train.length} images, ` +
        `got none (${dataset.format.crowdNoun} do not count)`,
    );
  const warnings: string[] = [];
  const untrained = dataset.classNames.filter((_, label) => !trained.has(label));
  if (untrained.length > 0)
    warnings.push(
      `classes without an object in the split "${training}": ` +
        `${untrained.length} of ${dataset.classNames.length}: ${firstCases(untrained)}`,
    );
  if (measured.size === 0)
    warnings.push(`the split "${validation}" has no object to measure by: every metric will be -1`);
  const trainingFiles = new Set(train.map(({ file }) => file));
  const shared = val.filter(({ file }) => trainingFiles.has(file)).map(({ name }) => name);
  if (shared.length > 0)
    warnings.push(
      `images in both "${training}" and "${validation}", which say nothing about unseen images: ` +
        `${shared.length}: ${firstCases(shared)}`,
    );
  return warnings;
}

/** The labels of all objects that are not crowds. */
function labelsIn(records: readonly ImageRecord[]): Set<number> {
  return new Set(records.flatMap(({ objects }) => objects.filter(({ crowd }) => !crowd).map(({ label }) => label)));
}

function firstCases(items: readonly string[]): string {
  const more = items.length > MAX_SHOWN_CASES ? `, ... and ${items.length - MAX_SHOWN_CASES} more` : '';
  return items.slice(0, MAX_SHOWN_CASES).join(', ') + more;
}

/**
 * The ground truth of a split as COCO's instances JSON, which the COCO metrics and pycocotools read.
 * Boxes are [x, y, width, height]. As in training, degenerate boxes are absent and others are clipped to their image.
 */
export function cocoAnnotations(dataset: Dataset, split: string): CocoGroundTruth {
  const records = splitRecords(dataset, split);
  return {
    images: records.map(({ id, name, width, height }) => ({ id, file_name: name, width, height })),
    annotations: records.flatMap((record) =>
      record.objects.map(
        ({ id, label, box: [x0, y0, x1, y1], area, crowd }): CocoAnnotation => ({
          id,
          image_id: record.id,
          category_id: dataset.categoryIds[label],
          bbox: [x0, y0, x1 - x0, y1 - y0],
          area,
          iscrowd: crowd ? 1 : 0,
        }),
      ),
    ),
    categories: dataset.classNames.map((name, label) => ({ id: dataset.categoryIds[label], name })),
  };
}
