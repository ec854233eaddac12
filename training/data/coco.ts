/**
 * COCO data sets: `annotations/instances_<split>*.json` (https://cocodataset.org/#format-data) and folders of images.
 *
 * Images of `instances_train2017.json` are looked for in `train2017/`, `train/`, `images/train2017/`, `images/train/`
 * and `images/`. Images of `instances_val.json` are looked for in `val/`, `images/val/` and `images/`, and so on.
 * Classes are numbered in the order of their category ids.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { checked, integer, isObject, list, nonEmptyText, shown, withFields, wrong } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { listFolder, readJson } from './files.ts';
import {
  numbersOf,
  numbersText,
  reportMissing,
  type AnnotatedContent,
  type AnnotatedImage,
  type DataFormat,
} from './format.ts';
import { inSplitOrder } from './split-names.ts';
import type { Warnings } from './warnings.ts';

const ANNOTATION_FILE = /^instances_(train|val|test)(.*)\.json$/;

const CATEGORY = withFields({ id: integer(0), name: nonEmptyText });

const IMAGE = withFields({ id: integer(0), file_name: nonEmptyText, width: integer(1), height: integer(1) });

/** JSON has no NaN; `readJson` turns it into null. A box with NaN is degenerate, not malformed. */
const isEdge = (value: unknown): boolean => typeof value === 'number' || value === null;

const ANNOTATION = withFields({
  id: integer(0),
  image_id: integer(0),
  category_id: integer(0),
  iscrowd: v.nullish(v.picklist([0, 1], '0 or 1'), 0),
  bbox: v.custom<readonly (number | null)[]>(
    (value) => Array.isArray(value) && value.length === 4 && value.every(isEdge),
    'four numbers [x, y, width, height]',
  ),
  area: v.nullish(v.custom<number>((value) => typeof value === 'number' && value >= 0, 'a number of at least 0')),
});

const FILE = withFields({ images: list(IMAGE), categories: list(CATEGORY), annotations: list(v.unknown()) });

const USED_FIELDS = ['id', 'image_id', 'category_id', 'iscrowd', 'bbox', 'area'] as const;

/** Without masks, the annotations of a file of a gigabyte fit into memory. The mask stays where there is no box. */
function keepUsed(list: string, element: unknown): unknown {
  if (list !== 'annotations' || !isObject(element)) return element;
  const kept: Record<string, unknown> = {};
  for (const field of USED_FIELDS) if (Object.hasOwn(element, field)) kept[field] = element[field];
  if (!Array.isArray(element.bbox) && Object.hasOwn(element, 'segmentation')) kept.segmentation = element.segmentation;
  return kept;
}

export const coco: DataFormat = {
  key: 'coco',
  name: 'COCO',
  files: 'annotations/instances_{train,val,test}*.json',
  layouts: ['annotations/instances_{train,val,test}.json with train/, val/, test/ or images/'],
  crowdNoun: 'crowds',
  splitRemedy: (split) =>
    `annotations/instances_${split}.json with images in ${split}/ ` +
    '(move about a tenth of the images, with their annotations, out of another split)',
  recognize: ({ root }) => {
    const splits = [...annotationFiles(root).keys()];
    if (splits.length === 0) return null;
    return {
      layout: 'COCO',
      splits: inSplitOrder(splits.map((split) => [split, split])),
      read: (wanted, { warnings }) => readCoco(root, wanted, warnings),
    };
  },
  boxForm: 'corner and size',
  place: ({ source, name, objects }, index) => {
    const { id, box, numbers } = objects[index];
    return {
      where: `${source}: annotation ${id} (${name})`,
      text: `bbox [${numbersText(numbers ?? numbersOf(box, 'corner and size'))}]`,
    };
  },
};

/** The names of the annotation files by split. Throws InputError if a split has two. */
function annotationFiles(root: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const name of listFolder(join(root, 'annotations')) ?? []) {
    const split = ANNOTATION_FILE.exec(name)?.[1];
    if (split === undefined) continue;
    const other = files.get(split);
    if (other !== undefined)
      throw new InputError(
        `${root}: expected one annotation file for the split "${split}", ` +
          `got annotations/${other} and annotations/${name}`,
      );
    files.set(split, name);
  }
  return files;
}

interface Categories {
  /** The annotation file that they come from. */
  readonly file: string;
  /** Class names by category id, in ascending order of the ids. */
  readonly names: ReadonlyMap<number, string>;
}

function readCoco(root: string, splits: readonly string[], warnings: Warnings): AnnotatedContent {
  const files = annotationFiles(root);
  const records: Record<string, AnnotatedImage[]> = {};
  let categories: Categories | null = null;
  for (const split of splits) {
    const name = files.get(split)!;
    const file = join(root, 'annotations', name);
    const content = checked(FILE, readJson(file, { keep: keepUsed }), file);
    const own = orderCategories(content.categories, file);
    if (categories !== null) requireSameCategories(categories, own);
    categories ??= own;
    const images = findImages(content.images, file, imageFolders(root, split, name), warnings);
    addAnnotations(content.annotations, own, images);
    records[split] = [...images.values()];
  }
  const names = categories?.names ?? new Map<number, string>();
  return { classNames: [...names.values()], categoryIds: [...names.keys()], splits: records };
}

function orderCategories(entries: readonly v.InferOutput<typeof CATEGORY>[], file: string): Categories {
  const names = new Map<number, string>();
  entries.forEach(({ id, name }, i) => {
    if (names.has(id)) throw wrong(file, `categories[${i}].id`, 'an id that no other category has', id);
    if ([...names.values()].includes(name))
      throw wrong(file, `categories[${i}].name`, 'a name that no other category has', name);
    names.set(id, name);
  });
  if (names.size === 0) throw wrong(file, 'categories', 'at least one category', entries);
  return { file, names: new Map([...names].sort(([a], [b]) => a - b)) };
}

function requireSameCategories(a: Categories, b: Categories): void {
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

interface ImageFolders {
  readonly root: string;
  /** The folders that exist. */
  readonly present: readonly { readonly path: string; readonly names: ReadonlySet<string> }[];
  /** The searched folders, for the error of a missing image. */
  readonly lookedIn: readonly string[];
}

/** Lists each folder once, because a lookup for each of a hundred thousand images is slow on a network disk. */
function imageFolders(root: string, split: string, annotationFile: string): ImageFolders {
  const suffix = ANNOTATION_FILE.exec(annotationFile)?.[2] ?? '';
  const candidates = [`${split}${suffix}`, split, `images/${split}${suffix}`, `images/${split}`, 'images'];
  const present = [...new Set(candidates)].flatMap((name) => {
    const names = listFolder(join(root, name));
    return names === null ? [] : [{ path: join(root, name), names: new Set(names) }];
  });
  const lookedIn =
    present.length > 0
      ? present.map(({ path }) => path)
      : [`${split}${suffix}`, split, 'images'].map((name) => `${join(root, name)} (no such folder)`);
  return { root, present, lookedIn };
}

/** The path of an image, or undefined. A `file_name` with folders is relative to an image folder or to the root. */
function findImage({ root, present }: ImageFolders, name: string): string | undefined {
  const hasFolder = /[\\/]/.test(name);
  const folder = present.find(({ path, names }) => (hasFolder ? existsSync(join(path, name)) : names.has(name)));
  if (folder !== undefined) return join(folder.path, name);
  return hasFolder && existsSync(join(root, name)) ? join(root, name) : undefined;
}

/** Records without objects, by image id, in the file's order. */
function findImages(
  entries: readonly v.InferOutput<typeof IMAGE>[],
  file: string,
  folders: ImageFolders,
  warnings: Warnings,
): Map<number, AnnotatedImage> {
  const records = new Map<number, AnnotatedImage>();
  const missing: string[] = [];
  entries.forEach(({ id, file_name: name, width, height }, i) => {
    if (records.has(id)) throw wrong(file, `images[${i}].id`, 'an id that no other image has', id);
    const path = findImage(folders, name);
    if (path === undefined) missing.push(`${name} (image ${id})`);
    const image = { id, file: path ?? join(folders.root, name), name, stated: { width, height }, source: file };
    records.set(id, { ...image, objects: [] });
  });
  if (entries.length === 0) throw wrong(file, 'images', 'at least one image', entries);
  reportMissing({ source: file, missing, total: entries.length, lookedIn: folders.lookedIn }, warnings);
  return records;
}

/** Adds the objects to the records. */
function addAnnotations(
  entries: readonly unknown[],
  { file, names }: Categories,
  records: ReadonlyMap<number, AnnotatedImage>,
): void {
  const labels = new Map([...names.keys()].map((id, label) => [id, label]));
  const known = [...labels.keys()].slice(0, 20).join(', ') + (labels.size > 20 ? ', ...' : '');
  const seen = new Set<number>();
  entries.forEach((entry, i) => {
    // Errors name an annotation by its id. Without a valid id they name its place in the file.
    const hasId = isObject(entry) && Number.isSafeInteger(entry.id);
    const source = hasId ? `${file}: annotation ${entry.id}` : file;
    const annotation = checked(ANNOTATION, entry, source, hasId ? '' : `annotations[${i}]`);
    const { id, image_id, category_id, iscrowd, bbox, area } = annotation;
    if (seen.has(id)) throw wrong(file, `annotations[${i}].id`, 'an id that no other annotation has', id);
    seen.add(id);
    const record = records.get(image_id);
    if (record === undefined) throw wrong(source, 'image_id', 'the id of one of the images', image_id);
    const label = labels.get(category_id);
    if (label === undefined) throw wrong(source, 'category_id', `one of the categories (${known})`, category_id);
    const numbers = bbox.map((edge) => edge ?? NaN);
    const [x, y, width, height] = numbers;
    record.objects.push({
      id,
      label,
      box: [x, y, x + width, y + height],
      area: area ?? null,
      crowd: iscrowd === 1,
      ...(numbers.every(Number.isFinite) ? {} : { numbers }),
    });
  });
}
