/**
 * COCO data sets: `annotations/instances_<split>*.json` (https://cocodataset.org/#format-data) and folders of images.
 *
 * Images of `instances_train2017.json` are looked for in `train2017/`, `train/`, `images/train2017/`, `images/train/` and `images/`,
 * those of `instances_val.json` in `val/`, `images/val/` and `images/`, and so on. Classes are numbered in the order of their category ids.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { InputError } from '../core/errors.ts';
import { clipBox, listFolder, missingSplit, requireImages, Warnings } from './dataset.ts';
import type { Dataset } from './dataset.ts';
import { asArray, asInteger, asName, asObject, shown, wrong, type JsonObject } from '../core/checks.ts';
import type { Box, ImageRecord } from '../core/image-record.ts';
import { readJson } from './files.ts';

const ANNOTATIONS = /^instances_(train|val|test)(.*)\.json$/;

/** The annotation files of a COCO data set by split; empty if this is none. Throws InputError if a split has two. */
export function cocoAnnotationFiles(root: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const name of listFolder(join(root, 'annotations')) ?? []) {
    const split = ANNOTATIONS.exec(name)?.[1];
    if (split === undefined) continue;
    const other = files.get(split);
    if (other !== undefined)
      throw new InputError(
        `${root}: two annotation files for the split "${split}": ${other} and annotations/${name}; keep one`,
      );
    files.set(split, `annotations/${name}`);
  }
  return files;
}

interface Categories {
  file: string;
  /** Class names by category id, in ascending order of the ids. */
  names: ReadonlyMap<number, string>;
}

/**
 * Reads a COCO data set.
 * @param splits which to read; every one must be there
 */
export function openCoco(root: string, splits: readonly string[]): Dataset {
  const files = cocoAnnotationFiles(root);
  const warnings = new Warnings();
  const records: Record<string, ImageRecord[]> = {};
  let categories: Categories | null = null;
  for (const split of splits) {
    const name = files.get(split);
    if (name === undefined) throw missingSplit(root, 'coco', split, [...files.keys()]);
    const file = join(root, name);
    const content = asObject(readJson(file), file, 'the whole file');
    const own = readCategories(content['categories'], file);
    if (categories !== null) requireSameCategories(categories, own);
    categories ??= own;
    records[split] = readAnnotations(
      content,
      file,
      own,
      readImages(content['images'], file, root, split, name),
      warnings,
    );
  }
  const names = categories?.names ?? new Map<number, string>();
  return {
    root,
    format: 'coco',
    classNames: [...names.values()],
    categoryIds: [...names.keys()],
    splits: records,
    warnings: warnings.summary(),
    allWarnings: warnings.all(),
  };
}

function readCategories(value: unknown, file: string): Categories {
  const names = new Map<number, string>();
  asArray(value, file, 'categories').forEach((entry, i) => {
    const category = asObject(entry, file, `categories[${i}]`);
    const id = asInteger(category['id'], 0, file, `categories[${i}].id`);
    const name = asName(category['name'], file, `categories[${i}].name`);
    if (names.has(id)) throw wrong(file, `categories[${i}].id`, 'an id that no other category has', id);
    if ([...names.values()].includes(name))
      throw wrong(file, `categories[${i}].name`, 'a name that no other category has', name);
    names.set(id, name);
  });
  if (names.size === 0) throw wrong(file, 'categories', 'at least one category', value);
  return { file, names: new Map([...names].sort(([a], [b]) => a - b)) };
}

function requireSameCategories(a: Categories, b: Categories): void {
  const differing: string[] = [];
  for (const id of [...new Set([...a.names.keys(), ...b.names.keys()])].sort((p, q) => p - q)) {
    const [inA, inB] = [a.names.get(id), b.names.get(id)];
    if (inA !== inB) differing.push(`id ${id} is ${shown(inA)} in the first and ${shown(inB)} in the second`);
  }
  if (differing.length === 0) return;
  const more = differing.length > 10 ? `; ... and ${differing.length - 10} more` : '';
  throw new InputError(`${a.file} and ${b.file}: the categories disagree: ${differing.slice(0, 10).join('; ')}${more}`);
}

function readImages(
  value: unknown,
  file: string,
  root: string,
  split: string,
  annotationsName: string,
): Map<number, ImageRecord> {
  const suffix = ANNOTATIONS.exec(annotationsName.slice('annotations/'.length))?.[2] ?? '';
  const folders = [
    ...new Set([`${split}${suffix}`, split, `images/${split}${suffix}`, `images/${split}`, 'images']),
  ].flatMap((name) => {
    const content = listFolder(join(root, name));
    return content === null ? [] : [{ path: join(root, name), content: new Set(content) }];
  });
  // One look into each folder: asking for a hundred thousand files one by one takes its time on a network disk.
  const find = (name: string) =>
    folders.find(({ path, content }) => (/[\\/]/.test(name) ? existsSync(join(path, name)) : content.has(name)))
      ?.path ?? (/[\\/]/.test(name) && existsSync(join(root, name)) ? root : undefined);

  const records = new Map<number, ImageRecord>();
  const missing: string[] = [];
  const images = asArray(value, file, 'images');
  images.forEach((entry, i) => {
    const at = `images[${i}]`;
    const image = asObject(entry, file, at);
    const id = asInteger(image['id'], 0, file, `${at}.id`);
    const name = asName(image['file_name'], file, `${at}.file_name`);
    const width = asInteger(image['width'], 1, file, `${at}.width`);
    const height = asInteger(image['height'], 1, file, `${at}.height`);
    if (records.has(id)) throw wrong(file, `${at}.id`, 'an id that no other image has', id);
    const folder = find(name);
    if (folder === undefined) missing.push(`${name} (image ${id})`);
    records.set(id, { id, file: join(folder ?? root, name), name, width, height, objects: [] });
  });
  if (images.length === 0) throw wrong(file, 'images', 'at least one image', value);
  requireImages(
    file,
    missing,
    images.length,
    folders.length > 0
      ? folders.map(({ path }) => path)
      : [join(root, `${split}${suffix}`), join(root, split), join(root, 'images')].map(
          (path) => `${path} (no such folder)`,
        ),
  );
  return records;
}

/** Adds the annotations to the records; returns these in the file's order. */
function readAnnotations(
  content: JsonObject,
  file: string,
  { names }: Categories,
  records: ReadonlyMap<number, ImageRecord>,
  warnings: Warnings,
): ImageRecord[] {
  const labels = new Map([...names.keys()].map((id, label) => [id, label]));
  const known = [...labels.keys()].slice(0, 20).join(', ') + (labels.size > 20 ? ', ...' : '');
  const seen = new Set<number>();
  asArray(content['annotations'], file, 'annotations').forEach((entry, i) => {
    const annotation = asObject(entry, file, `annotations[${i}]`);
    const id = asInteger(annotation['id'], 0, file, `annotations[${i}].id`);
    const at = `annotation ${id}`;
    if (seen.has(id)) throw wrong(file, `annotations[${i}].id`, 'an id that no other annotation has', id);
    seen.add(id);
    const imageId = asInteger(annotation['image_id'], 0, file, `${at}: image_id`);
    const record = records.get(imageId);
    if (record === undefined) throw wrong(file, `${at}: image_id`, 'the id of one of the images', imageId);
    const categoryId = asInteger(annotation['category_id'], 0, file, `${at}: category_id`);
    const label = labels.get(categoryId);
    if (label === undefined) throw wrong(file, `${at}: category_id`, `one of the categories (${known})`, categoryId);
    const crowd = annotation['iscrowd'] ?? 0;
    if (crowd !== 0 && crowd !== 1) throw wrong(file, `${at}: iscrowd`, '0 or 1', crowd);

    const bbox = asArray(annotation['bbox'], file, `${at}: bbox`);
    // null stands for NaN (see readJson): degenerate, not malformed.
    if (bbox.length !== 4 || bbox.some((edge) => typeof edge !== 'number' && edge !== null)) {
      throw wrong(file, `${at}: bbox`, 'four numbers [x, y, width, height]', bbox);
    }
    const [x, y, width, height] = bbox.map((edge) => (typeof edge === 'number' ? edge : NaN));
    const given: Box = [x, y, x + width, y + height];
    const box = clipBox(
      given,
      record.width,
      record.height,
      `${file}: ${at} (${record.name})`,
      `bbox [${[x, y, width, height].join(', ')}]`,
      warnings,
    );
    if (box === null) return;

    const area = annotation['area'] ?? (box[2] - box[0]) * (box[3] - box[1]);
    if (typeof area !== 'number' || !(area >= 0)) throw wrong(file, `${at}: area`, 'a number of at least 0', area);
    record.objects.push({ id, label, box, area, crowd: crowd === 1 });
  });
  return [...records.values()];
}
