/**
 * COCO's two file formats for boxes: ground truth ("instances") and detections ("results"), read strictly and written.
 * Boxes are [x, y, width, height] in pixels of the original image, x and y being the top left corner.
 * Fields that detection does not need (segmentation, licenses, ...) are read over; a needed field that is missing or wrong is an InputError
 * which names the file, the entry, the field, what was expected and what came.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type {
  CocoAnnotation,
  CocoBox,
  CocoCategory,
  CocoDetection,
  CocoGroundTruth,
  CocoImage,
} from '../core/coco-types.ts';
import { InputError } from '../core/errors.ts';

/** Reads a COCO ground-truth file ("instances_*.json"). Throws InputError for anything the format does not allow. */
export function readGroundTruth(path: string): CocoGroundTruth {
  return parseGroundTruth(readJson(path), path);
}

/** Reads a COCO results file whose image and category ids must all occur in `groundTruth`. Throws InputError otherwise. */
export function readDetections(path: string, groundTruth: CocoGroundTruth): CocoDetection[] {
  return parseDetections(readJson(path), path, groundTruth);
}

/** Writes a ground-truth file that readGroundTruth and pycocotools read. The file appears whole or not at all. */
export function writeGroundTruth(path: string, groundTruth: CocoGroundTruth): void {
  const part = (name: string, entries: readonly object[]) => `${JSON.stringify(name)}: ${lines(entries)}`;
  const { images, annotations, categories } = groundTruth;
  writeWhole(
    path,
    `{${part('images', images)},\n${part('annotations', annotations)},\n${part('categories', categories)}}\n`,
  );
}

/** Writes a results file that readDetections and pycocotools read, scores in full precision. The file appears whole or not at all. Throws on NaN. */
export function writeDetections(path: string, detections: readonly CocoDetection[]): void {
  detections.forEach(({ bbox, score }, index) => {
    // JSON has no NaN: it would be written as null.
    if (!Number.isFinite(score) || !bbox.every(Number.isFinite)) {
      throw new Error(
        `${path}: detections[${index}]: expected a finite score and box, got ${score} and [${bbox.join(', ')}]`,
      );
    }
  });
  writeWhole(path, `${lines(detections)}\n`);
}

/** Checks parsed JSON against the ground-truth format; `source` is the file's name for messages. */
export function parseGroundTruth(json: unknown, source: string): CocoGroundTruth {
  const root = object(json, source, 'an object with images, annotations and categories');
  const images = array(root, 'images', source).map((entry, index): CocoImage => {
    const at = `${source}: images[${index}]`;
    const image = object(entry, at, 'an object');
    const id = integer(image, 'id', at);
    return {
      id,
      file_name: text(image, 'file_name', at),
      width: size(image, 'width', at),
      height: size(image, 'height', at),
    };
  });
  const imageIds = uniqueIds(images, 'images', source);
  const categories = array(root, 'categories', source).map((entry, index): CocoCategory => {
    const at = `${source}: categories[${index}]`;
    const category = object(entry, at, 'an object');
    return { id: integer(category, 'id', at), name: text(category, 'name', at) };
  });
  const categoryIds = uniqueIds(categories, 'categories', source);
  const annotations = array(root, 'annotations', source).map((entry, index): CocoAnnotation => {
    const at = `${source}: annotations[${index}]`;
    const annotation = object(entry, at, 'an object');
    const id = integer(annotation, 'id', at);
    const image_id = known(annotation, 'image_id', at, imageIds, 'an image in "images"');
    const category_id = known(annotation, 'category_id', at, categoryIds, 'a category in "categories"');
    const iscrowd = annotation['iscrowd'];
    if (iscrowd !== 0 && iscrowd !== 1) throw wrong(at, 'iscrowd', '0 or 1', iscrowd);
    const area = finite(annotation['area'], at, 'area');
    if (area < 0) throw wrong(at, 'area', 'at least 0', area);
    return { id, image_id, category_id, bbox: box(annotation, at), area, iscrowd };
  });
  uniqueIds(annotations, 'annotations', source);
  return { images, annotations, categories };
}

/** Checks parsed JSON against the results format; `source` is the file's name for messages. */
export function parseDetections(json: unknown, source: string, groundTruth: CocoGroundTruth): CocoDetection[] {
  if (!Array.isArray(json)) throw new InputError(`${source}: expected an array of detections, got ${shown(json)}`);
  const imageIds = new Set(groundTruth.images.map((image) => image.id));
  const categoryIds = new Set(groundTruth.categories.map((category) => category.id));
  return json.map((entry: unknown, index): CocoDetection => {
    const at = `${source}: detections[${index}]`;
    const detection = object(entry, at, 'an object');
    const image_id = known(detection, 'image_id', at, imageIds, 'an image of the ground truth');
    const category_id = known(detection, 'category_id', at, categoryIds, 'a category of the ground truth');
    return { image_id, category_id, bbox: box(detection, at), score: finite(detection['score'], at, 'score') };
  });
}

type Fields = Readonly<Record<string, unknown>>;

function readJson(path: string): unknown {
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch (error) {
    throw new InputError(`${path}: cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  try {
    // A byte order mark is no JSON, but editors on Windows write one.
    return JSON.parse(content.charCodeAt(0) === 0xfeff ? content.slice(1) : content);
  } catch (error) {
    throw new InputError(
      `${path}: expected JSON, got ${content.length === 0 ? 'an empty file' : `something else (${(error as Error).message})`}`,
    );
  }
}

/** A rename is atomic, so that an interrupted run leaves no half file. */
function writeWhole(path: string, content: string): void {
  const partial = `${path}.partial`;
  writeFileSync(partial, content);
  renameSync(partial, path);
}

/** One entry a line: such files can be looked at and compared. */
function lines(entries: readonly object[]): string {
  return entries.length === 0 ? '[]' : `[\n${entries.map((entry) => JSON.stringify(entry)).join(',\n')}\n]`;
}

function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number') return String(value);
  if (Array.isArray(value) && value.length > 8) return `an array of ${value.length}`;
  const json = JSON.stringify(value);
  return json.length > 80 ? `${json.slice(0, 77)}...` : json;
}

function wrong(at: string, field: string, expected: string, got: unknown): InputError {
  return new InputError(`${at}.${field}: expected ${expected}, got ${shown(got)}`);
}

function object(value: unknown, at: string, expected: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new InputError(`${at}: expected ${expected}, got ${shown(value)}`);
  return value as Fields;
}

function array(fields: Fields, field: string, source: string): unknown[] {
  const value = fields[field];
  if (!Array.isArray(value)) throw new InputError(`${source}: ${field}: expected an array, got ${shown(value)}`);
  return value;
}

function integer(fields: Fields, field: string, at: string): number {
  const value = fields[field];
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw wrong(at, field, 'an integer', value);
  return value;
}

function size(fields: Fields, field: string, at: string): number {
  const value = integer(fields, field, at);
  if (value < 1) throw wrong(at, field, 'a positive integer (pixels)', value);
  return value;
}

function text(fields: Fields, field: string, at: string): string {
  const value = fields[field];
  if (typeof value !== 'string' || value === '') throw wrong(at, field, 'a name', value);
  return value;
}

function finite(value: unknown, at: string, field: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw wrong(at, field, 'a finite number', value);
  return value;
}

function known(fields: Fields, field: string, at: string, ids: ReadonlySet<number>, what: string): number {
  const value = integer(fields, field, at);
  if (!ids.has(value)) throw wrong(at, field, `the id of ${what}`, value);
  return value;
}

/** Zero width or height is allowed: COCO's own files hold such boxes. */
function box(fields: Fields, at: string): CocoBox {
  const value = fields['bbox'];
  if (!Array.isArray(value) || value.length !== 4) throw wrong(at, 'bbox', '[x, y, width, height]', value);
  const coordinates = value.map((coordinate: unknown, index) => finite(coordinate, at, `bbox[${index}]`));
  if (coordinates[2] < 0) throw wrong(at, 'bbox[2]', 'a width of at least 0', coordinates[2]);
  if (coordinates[3] < 0) throw wrong(at, 'bbox[3]', 'a height of at least 0', coordinates[3]);
  return coordinates as CocoBox;
}

function uniqueIds(entries: readonly { id: number }[], field: string, source: string): Set<number> {
  const first = new Map<number, number>();
  entries.forEach(({ id }, index) => {
    const earlier = first.get(id);
    if (earlier !== undefined)
      throw new InputError(
        `${source}: ${field}[${index}].id: expected an id of its own, got ${id}, which ${field}[${earlier}] has`,
      );
    first.set(id, index);
  });
  return new Set(first.keys());
}
