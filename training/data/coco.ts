/**
 * COCO data sets (https://cocodataset.org/#format-data): annotation files in the layouts of coco-layouts.ts.
 *
 * Images of `annotations/instances_train2017.json` are looked for in `train2017/`, `train/`, `images/train2017/`,
 * `images/train/` and `images/`, and so on. Classes are numbered in the order of their category ids.
 */
import * as v from 'valibot';
import { checked, integer, isObject, list, nonEmptyText, shown, withFields, wrong } from '../core/checks.ts';
import type { Size } from '../core/image-record.ts';
import {
  CATEGORY,
  groupingCategory,
  orderCategories,
  requireSameCategories,
  type Categories,
  type CategoryEntry,
} from './coco-categories.ts';
import { ID, idOf, isId, TextIds } from './coco-ids.ts';
import { findLayout, type CocoFile, type CocoLayout } from './coco-layouts.ts';
import { readJson } from './files.ts';
import type { FolderTree } from './folder-tree.ts';
import {
  numbersOf,
  numbersText,
  type AnnotatedContent,
  type AnnotatedImage,
  type AnnotatedObject,
  type DataFormat,
  type Reading,
} from './format.ts';
import { ImageFinder } from './image-finder.ts';
import { splitOf } from './split-names.ts';
import type { Warnings } from './warnings.ts';

const SIDE = v.nullish(integer(1));

const IMAGE = withFields({ id: ID, file_name: nonEmptyText, width: SIDE, height: SIDE });

/** JSON has no NaN; `readJson` turns it into null. A box with NaN is degenerate, not malformed. */
const isEdge = (value: unknown): boolean => typeof value === 'number' || value === null;

const ANNOTATION = withFields({
  id: v.nullish(ID),
  image_id: ID,
  category_id: ID,
  iscrowd: v.nullish(v.picklist([0, 1], '0 or 1'), 0),
  // Empty lists stand for no box. Annotations without box need a polygon.
  bbox: v.nullish(
    v.custom<readonly (number | null)[]>(
      (value) => Array.isArray(value) && (value.length === 4 || value.length === 0) && value.every(isEdge),
      'four numbers [x, y, width, height]',
    ),
  ),
  area: v.nullish(v.custom<number>((value) => typeof value === 'number' && value >= 0, 'a number of at least 0')),
  segmentation: v.optional(v.unknown()),
});

/** The annotations are checked one by one, because a schema of millions of elements takes seconds. */
const manyElements = v.custom<readonly unknown[]>(Array.isArray, 'an array');

const FILE = withFields({ images: list(IMAGE), categories: list(CATEGORY), annotations: manyElements });

/** Without masks, the annotations of a file of a gigabyte fit into memory. The mask stays where there is no box. */
function keepUsed(list: string, element: unknown): unknown {
  if (list !== 'annotations' || !isObject(element)) return element;
  // Objects of one form are small.
  const { id, image_id, category_id, iscrowd, bbox, area } = element;
  const hasBox = Array.isArray(bbox) && bbox.length > 0;
  return { id, image_id, category_id, iscrowd, bbox, area, segmentation: hasBox ? undefined : element.segmentation };
}

export const coco: DataFormat = {
  key: 'coco',
  name: 'COCO',
  files: 'annotations/instances_{train,val,test}*.json',
  layouts: [
    ['annotations/instances_train.json, instances_val.json', 'train/, val/ or images/'],
    ['train/_annotations.coco.json, *.jpg', 'valid/, test/ alike (Roboflow)'],
    ['result.json or any other name, for all images', 'images/'],
  ],
  crowdNoun: 'crowds',
  splitRemedy: (split) =>
    `annotations/instances_${split}.json with images in ${split}/ ` +
    '(move about a tenth of the images, with their annotations, out of another split)',
  recognize: (tree) => {
    const layout = findLayout(tree);
    if (layout === null) return null;
    return {
      layout: layout.name,
      splits: new Map([...layout.files].map(([split, { ownName }]) => [split, ownName])),
      read: (splits, reading) => readCoco(tree, layout, splits, reading),
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

const readContent = (file: string) => checked(FILE, readJson(file, { keep: keepUsed }), file);

async function readCoco(
  tree: FolderTree,
  layout: CocoLayout,
  splits: readonly string[],
  { warnings, notes, sizesOf }: Reading,
): Promise<AnnotatedContent> {
  for (const file of layout.unused) notes.push(`${file} is not read, because other files have its images by split`);
  const files = (names: Iterable<string>) => [...names].map((split) => tree.path(layout.files.get(split)!.file));
  const records = new Map<string, AnnotatedImage[]>();
  let group: CategoryEntry | null = null;
  let categories: Categories | null = null;
  for (const split of splits) {
    const place = layout.files.get(split)!;
    const file = tree.path(place.file);
    const content = readContent(file);
    if (categories === null) group = unusedGroup(content.categories, files(layout.files.keys()));
    const leftOut = content.categories.find(({ id, name }) => id === group?.id && name === group.name) ?? null;
    const own = orderCategories(content.categories, file, leftOut);
    if (categories !== null) requireSameCategories(categories, own);
    categories ??= own;
    const images = findImages(content.images, file, finderOf(tree, place), warnings);
    addAnnotations(content.annotations, own, images, warnings);
    records.set(
      split,
      await withSizes(
        [...images.values()].filter((image) => image !== null),
        sizesOf,
      ),
    );
  }
  if (group !== null)
    notes.push(`the category ${shown(group.name)} (id ${group.id}) groups all others and owns no box: it is no class`);
  const names = categories?.names ?? new Map<number, string>();
  return { classNames: [...names.values()], categoryIds: [...names.keys()], splits: Object.fromEntries(records) };
}

const finderOf = (tree: FolderTree, { split, imageFolders, usualFolders }: CocoFile): ImageFinder =>
  new ImageFinder({ tree, split: splitOf(split), folders: imageFolders, usual: usualFolders });

/** The category that groups all others, if it owns no box in any file. All splits must have the same classes. */
function unusedGroup(entries: readonly CategoryEntry[], files: readonly string[]): CategoryEntry | null {
  const group = groupingCategory(entries);
  if (group === null) return null;
  const id = idOf(group.id);
  const owns = (entry: unknown) => isObject(entry) && isId(entry.category_id) && idOf(entry.category_id) === id;
  return files.some((file) => readContent(file).annotations.some(owns)) ? null : group;
}

/** Images without objects by image id, in the file's order; null for images that do not exist. */
function findImages(
  entries: readonly v.InferOutput<typeof IMAGE>[],
  file: string,
  finder: ImageFinder,
  warnings: Warnings,
): Map<number, AnnotatedImage | null> {
  const textIds = new TextIds();
  const ids = new Set<number>();
  entries.forEach((entry, i) => {
    const id = textIds.read(entry.id, 'images[].id');
    if (ids.has(id)) throw wrong(file, `images[${i}].id`, 'an id that no other image has', entry.id);
    ids.add(id);
  });
  if (entries.length === 0) throw wrong(file, 'images', 'at least one image', entries);
  textIds.report(file, warnings);
  const references = entries.map(({ id, file_name: path }, i) => ({
    path,
    field: `images[${i}].file_name`,
    label: `${path} (image ${id})`,
  }));
  const paths = finder.locate(file, references, warnings);
  const images = new Map<number, AnnotatedImage | null>();
  entries.forEach((entry, i) => {
    const { file_name: name, width, height } = entry;
    const path = paths[i];
    const id = idOf(entry.id);
    const stated: Size | null = width && height ? { width, height } : null;
    images.set(id, path === null ? null : { id, file: path, name, stated, source: file, objects: [] });
  });
  return images;
}

/** The images with a size: those without one get it from their file. */
async function withSizes(images: readonly AnnotatedImage[], sizesOf: Reading['sizesOf']): Promise<AnnotatedImage[]> {
  const unknown = images.filter(({ stated }) => stated === null);
  if (unknown.length === 0) return [...images];
  const sizes = await sizesOf(unknown.map(({ file }) => file));
  return images.map((image) => (image.stated === null ? { ...image, stated: sizes.get(image.file) ?? null } : image));
}

/** Adds the objects to the images. Those of missing images are checked too. */
function addAnnotations(
  entries: readonly unknown[],
  { file, names }: Categories,
  images: ReadonlyMap<number, AnnotatedImage | null>,
  warnings: Warnings,
): void {
  const labels = new Map([...names.keys()].map((id, label) => [id, label]));
  const known = [...labels.keys()].slice(0, 20).join(', ') + (labels.size > 20 ? ', ...' : '');
  const seen = new Set<number>();
  const textIds = new TextIds();
  const withoutId: AnnotatedObject[] = [];
  let fromPolygons = 0;
  entries.forEach((entry, i) => {
    // Errors name an annotation by its id. Without a valid id they name its place in the file.
    const hasId = isObject(entry) && isId(entry.id);
    const source = hasId ? `${file}: annotation ${entry.id}` : file;
    const prefix = hasId ? '' : `annotations[${i}]`;
    const annotation = checked(ANNOTATION, entry, source, prefix);
    const { image_id, category_id, iscrowd, area } = annotation;
    const id = annotation.id == null ? null : textIds.read(annotation.id, 'annotations[].id');
    if (id !== null && seen.has(id))
      throw wrong(file, `annotations[${i}].id`, 'an id that no other annotation has', id);
    if (id !== null) seen.add(id);
    const field = (name: string) => (prefix === '' ? name : `${prefix}.${name}`);
    const image = images.get(textIds.read(image_id, 'annotations[].image_id'));
    if (image === undefined) throw wrong(source, field('image_id'), 'the id of one of the images', image_id);
    const label = labels.get(textIds.read(category_id, 'annotations[].category_id'));
    if (label === undefined) throw wrong(source, field('category_id'), `one of the categories (${known})`, category_id);
    const given = annotation.bbox?.length === 4 ? annotation.bbox : null;
    const bbox = given ?? polygonBox(annotation.segmentation);
    if (bbox === null)
      throw wrong(source, field('bbox'), 'four numbers [x, y, width, height]', annotation.bbox ?? undefined);
    if (given === null) fromPolygons++;
    const object = toObject(id ?? -1, label, bbox, area ?? null, iscrowd === 1);
    if (id === null) withoutId.push(object);
    image?.objects.push(object);
  });
  textIds.report(file, warnings);
  numberObjects(withoutId, seen);
  if (withoutId.length > 0)
    warnings.add('annotations without id, numbered', `${file}: annotations[].id: ${withoutId.length} annotations`);
  if (fromPolygons > 0)
    warnings.add('annotations without bbox, with the box of their polygon', `${file}: ${fromPolygons} annotations`);
}

function toObject(
  id: number,
  label: number,
  bbox: readonly (number | null)[],
  area: number | null,
  crowd: boolean,
): AnnotatedObject {
  const numbers = bbox.map((edge) => edge ?? NaN);
  const [x, y, width, height] = numbers;
  const object: AnnotatedObject = { id, label, box: [x, y, x + width, y + height], area, crowd };
  return numbers.every(Number.isFinite) ? object : { ...object, numbers };
}

/** Gives ids above all others. */
function numberObjects(objects: readonly AnnotatedObject[], used: ReadonlySet<number>): void {
  if (objects.length === 0) return;
  let next = 1;
  for (const id of used) next = Math.max(next, id + 1);
  for (const object of objects) object.id = next++;
}

/** The box [x, y, width, height] of polygons [[x, y, x, y, ...], ...]; null if the value is something else. */
function polygonBox(segmentation: unknown): [number, number, number, number] | null {
  if (!Array.isArray(segmentation)) return null;
  const polygons: readonly unknown[] = segmentation;
  let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const polygon of polygons) {
    if (!Array.isArray(polygon) || polygon.length < 6 || polygon.length % 2 > 0) return null;
    const values: readonly unknown[] = polygon;
    for (const [i, value] of values.entries()) {
      if (typeof value !== 'number') return null;
      if (i % 2 === 0) [x0, x1] = [Math.min(x0, value), Math.max(x1, value)];
      else [y0, y1] = [Math.min(y0, value), Math.max(y1, value)];
    }
  }
  return x1 < x0 ? null : [x0, y0, x1 - x0, y1 - y0];
}
