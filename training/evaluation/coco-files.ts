/**
 * Reads and writes COCO's two file formats for boxes: ground truth ("instances") and detections ("results").
 *
 * Files are checked strictly. Errors are InputErrors that name the file, the entry, the field, the expected and the
 * found value. Fields that detection does not need (segmentation, licenses, ...) are ignored.
 * Boxes are [x, y, width, height] in pixels of the original image; x and y are the top left corner.
 */
import * as v from 'valibot';
import { anyInteger, checked, finiteNumber, integer, list, nonEmptyText, withFields, wrong } from '../core/checks.ts';
import type { CocoBox, CocoDetection, CocoGroundTruth } from '../core/coco-types.ts';
import { readStrictJson, writeFileAtomic } from '../data/files.ts';

const notNegative = (noun: string) =>
  v.pipe(
    finiteNumber,
    v.check((value) => value >= 0, `${noun} of at least 0`),
  );

/** Zero width or height is allowed, because COCO's own files have such boxes. */
const BOX = v.pipe(
  v.custom<CocoBox>((value) => Array.isArray(value) && value.length === 4, '[x, y, width, height]'),
  v.tuple([finiteNumber, finiteNumber, notNegative('a width'), notNegative('a height')]),
);

const GROUND_TRUTH = withFields({
  images: list(withFields({ id: anyInteger, file_name: nonEmptyText, width: integer(1), height: integer(1) })),
  annotations: list(
    withFields({
      id: anyInteger,
      image_id: anyInteger,
      category_id: anyInteger,
      bbox: BOX,
      area: notNegative('an area'),
      iscrowd: v.picklist([0, 1], '0 or 1'),
    }),
  ),
  categories: list(withFields({ id: anyInteger, name: nonEmptyText })),
});

const DETECTIONS = v.array(
  withFields({ image_id: anyInteger, category_id: anyInteger, bbox: BOX, score: finiteNumber }),
  'an array of detections',
);

/** Reads a ground-truth file ("instances_*.json"). Throws InputError for anything the format does not allow. */
export function readGroundTruth(path: string): CocoGroundTruth {
  return parseGroundTruth(readStrictJson(path), path);
}

/** Reads a results file. Throws InputError if an image or category id does not occur in `groundTruth`. */
export function readDetections(path: string, groundTruth: CocoGroundTruth): CocoDetection[] {
  return parseDetections(readStrictJson(path), path, groundTruth);
}

/** Checks parsed JSON against the ground-truth format. `source` is the file's name for errors. */
export function parseGroundTruth(json: unknown, source: string): CocoGroundTruth {
  const { images, annotations, categories } = checked(GROUND_TRUTH, json, source);
  const imageIds = uniqueIds(images, 'images', source);
  const categoryIds = uniqueIds(categories, 'categories', source);
  annotations.forEach(({ image_id, category_id }, i) => {
    if (!imageIds.has(image_id))
      throw wrong(source, `annotations[${i}].image_id`, 'the id of an image in "images"', image_id);
    if (!categoryIds.has(category_id))
      throw wrong(source, `annotations[${i}].category_id`, 'the id of a category in "categories"', category_id);
  });
  uniqueIds(annotations, 'annotations', source);
  return { images, annotations, categories };
}

/** Checks parsed JSON against the results format. `source` is the file's name for errors. */
export function parseDetections(json: unknown, source: string, groundTruth: CocoGroundTruth): CocoDetection[] {
  const imageIds = new Set(groundTruth.images.map(({ id }) => id));
  const categoryIds = new Set(groundTruth.categories.map(({ id }) => id));
  const detections = checked(DETECTIONS, json, source, Array.isArray(json) ? 'detections' : '');
  detections.forEach(({ image_id, category_id }, i) => {
    if (!imageIds.has(image_id))
      throw wrong(source, `detections[${i}].image_id`, 'the id of an image of the ground truth', image_id);
    if (!categoryIds.has(category_id))
      throw wrong(source, `detections[${i}].category_id`, 'the id of a category of the ground truth', category_id);
  });
  return detections;
}

/** The ids of the entries. Throws InputError if two entries have the same id. */
function uniqueIds(entries: readonly { id: number }[], field: string, source: string): Set<number> {
  const ids = new Set<number>();
  entries.forEach(({ id }, i) => {
    if (ids.has(id)) {
      const earlier = entries.findIndex((entry) => entry.id === id);
      throw wrong(source, `${field}[${i}].id`, `another id than that of ${field}[${earlier}]`, id);
    }
    ids.add(id);
  });
  return ids;
}

/** Writes a ground-truth file that `readGroundTruth` and pycocotools read, whole or not at all. */
export function writeGroundTruth(path: string, { images, annotations, categories }: CocoGroundTruth): void {
  const parts = Object.entries({ images, annotations, categories }).map(
    ([name, entries]) => `${JSON.stringify(name)}: ${lines(entries)}`,
  );
  writeFileAtomic(path, `{${parts.join(',\n')}}\n`);
}

/**
 * Writes a results file that `readDetections` and pycocotools read, whole or not at all. Scores have full precision.
 * @throws Error if a score or box is not finite, because JSON has no NaN and would contain null
 */
export function writeDetections(path: string, detections: readonly CocoDetection[]): void {
  detections.forEach(({ bbox, score }, i) => {
    if (!Number.isFinite(score) || !bbox.every(Number.isFinite)) {
      throw new Error(
        `${path}: detections[${i}]: expected a finite score and box, got ${score} and [${bbox.join(', ')}]`,
      );
    }
  });
  writeFileAtomic(path, `${lines(detections)}\n`);
}

/** One entry per line, so that files can be viewed and compared. */
function lines(entries: readonly object[]): string {
  return entries.length === 0 ? '[]' : `[\n${entries.map((entry) => JSON.stringify(entry)).join(',\n')}\n]`;
}
