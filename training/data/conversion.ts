/**
 * `conversion.json`, the side file of a converted data set: it holds what the target format cannot hold, such as ids,
 * crowds and the order of classes. `openDataset` adds its content to what the format's own files say.
 *
 * The format's own files stay the truth. What the side file says about an image counts only while the image's objects
 * are those of the conversion, so a converted data set can be edited like any other.
 */
import { createHash } from 'node:crypto';
import { join, relative, sep } from 'node:path';
import * as v from 'valibot';
import { checked, finiteNumber, integer, list, nonEmptyText, withFields, wrong } from '../core/checks.ts';
import type { Box } from '../core/image-record.ts';
import { readJson } from './files.ts';
import type { AnnotatedContent, AnnotatedImage, AnnotatedObject, DataSource, Reading } from './format.ts';
import type { FolderTree } from './folder-tree.ts';
import { inSplitOrder } from './split-names.ts';

export const CONVERSION_FILE = 'conversion.json';

const BOX = v.custom<Box>(
  (value) => Array.isArray(value) && value.length === 4 && value.every(Number.isFinite),
  'four finite numbers [x0, y0, x1, y1]',
);

const CLASS = withFields({
  name: nonEmptyText,
  id: integer(0),
  /** The class's name in the format's files, if it differs. */
  as: v.optional(nonEmptyText),
});

/** An object that the format cannot hold. `at`: its place among the image's objects. `label`: index of its class. */
const HIDDEN = withFields({
  at: integer(0),
  id: integer(0),
  label: integer(0),
  box: BOX,
  area: finiteNumber,
  crowd: v.boolean('true or false'),
});

const IMAGE = withFields({
  /** Path in the data set, with slashes. */
  file: nonEmptyText,
  /** Digest of the objects in the format's files: `objectsDigest`. */
  digest: nonEmptyText,
  id: v.optional(integer(0)),
  name: v.optional(nonEmptyText),
  /** One entry for each object in the format's files. */
  ids: v.optional(list(integer(0))),
  areas: v.optional(list(finiteNumber)),
  boxes: v.optional(list(BOX)),
  hidden: v.optional(list(HIDDEN)),
});

const CONVERSION = withFields({
  version: v.literal(1, '1, the version that this program reads'),
  classes: v.optional(list(CLASS)),
  splits: v.optional(list(withFields({ name: nonEmptyText, files: list(nonEmptyText) }))),
  images: list(IMAGE),
});

/** The content of conversion.json. Fields that equal what the format's files say are absent. */
export type Conversion = v.InferOutput<typeof CONVERSION>;
export type ImageConversion = v.InferOutput<typeof IMAGE>;

/** Digest of an image's objects, as a format's files have them. Ids and areas do not count. */
export function objectsDigest(objects: readonly AnnotatedObject[], classNames: readonly string[]): string {
  const content = JSON.stringify(objects.map(({ label, box, crowd }) => [classNames[label], ...box, crowd]));
  return createHash('sha256').update(content).digest('hex').slice(0, 16);
}

/** The path of a file below a folder, with slashes. */
export const pathBelow = (root: string, file: string): string => relative(root, file).split(sep).join('/');

/**
 * The data source of a folder, with the content of its conversion.json, if it has one.
 * @throws InputError for a malformed conversion.json
 */
export function withConversion(tree: FolderTree, source: DataSource): DataSource {
  if (!tree.hasFile(CONVERSION_FILE)) return source;
  const file = join(tree.root, CONVERSION_FILE);
  const conversion = checked(CONVERSION, readJson(file), file);
  const added = (conversion.splits ?? []).filter(({ name }) => !source.splits.has(name));
  return {
    layout: source.layout,
    splits: inSplitOrder([...source.splits, ...added.map(({ name }) => [name, name] as const)]),
    read: async (splits, reading) => {
      const wanted = added.filter(({ name }) => splits.includes(name));
      // The images of an added split are those of the format's own splits.
      const own = wanted.length > 0 ? [...source.splits.keys()] : splits;
      const content = restored(await source.read(own, reading), conversion, { root: tree.root, file, reading });
      const all = new Map(Object.entries(content.splits));
      for (const split of wanted)
        all.set(split.name, imagesOf(split.files, content, { root: tree.root, file, reading }));
      return { ...content, splits: Object.fromEntries(splits.map((split) => [split, all.get(split) ?? []])) };
    },
  };
}

interface Place {
  readonly root: string;
  /** Path of conversion.json. */
  readonly file: string;
  readonly reading: Reading;
}

/** The images of an added split, in the order of conversion.json. Images that no longer exist are in the warnings. */
function imagesOf(
  files: readonly string[],
  content: AnnotatedContent,
  { root, file, reading }: Place,
): AnnotatedImage[] {
  const byPath = new Map(
    Object.values(content.splits).flatMap((images) => images.map((image) => [pathBelow(root, image.file), image])),
  );
  return files.flatMap((path) => {
    const image = byPath.get(path);
    if (image === undefined) reading.warnings.add('images that do not exist, left out', `${file}: ${path}`);
    return image ?? [];
  });
}

/** The content with the classes and the images of a conversion. */
function restored(content: AnnotatedContent, conversion: Conversion, place: Place): AnnotatedContent {
  const { classNames, categoryIds, labelOf } = restoreClasses(content, conversion, place);
  const known = new Map(conversion.images.map((entry) => [entry.file, entry]));
  // An image of several splits may be one object. It is restored once.
  const done = new Map<AnnotatedImage, AnnotatedImage>();
  const restore = (image: AnnotatedImage): AnnotatedImage => {
    let result = done.get(image);
    if (result === undefined) {
      const entry = known.get(pathBelow(place.root, image.file));
      // Most objects keep their label, and are shared with the format's reader.
      const own = image.objects.map((object) => {
        const label = labelOf[object.label];
        return label === object.label ? object : { ...object, label };
      });
      const objects =
        entry === undefined ? own : restoreObjects(image, own, entry, content.classNames, classNames, place);
      result = { ...image, id: entry?.id ?? image.id, name: entry?.name ?? image.name, objects };
      done.set(image, result);
    }
    return result;
  };
  const splits = Object.entries(content.splits).map(([split, images]) => [split, images.map(restore)] as const);
  return { classNames, categoryIds, splits: Object.fromEntries(splits) };
}

interface RestoredClasses {
  readonly classNames: readonly string[];
  readonly categoryIds: readonly number[];
  /** The label of each class of the format's files. */
  readonly labelOf: readonly number[];
}

/** Classes that were added after the conversion follow the others. */
function restoreClasses(content: AnnotatedContent, { classes }: Conversion, { file, reading }: Place): RestoredClasses {
  if (classes === undefined) return { ...content, labelOf: content.classNames.map((_, label) => label) };
  const classNames = classes.map(({ name }) => name);
  const categoryIds = classes.map(({ id }) => id);
  const labels = new Map(classes.map(({ name, as }, label) => [as ?? name, label]));
  if (labels.size < classes.length || new Set(categoryIds).size < classes.length)
    throw wrong(file, 'classes', 'names and ids that no other class has', classes);
  const labelOf = content.classNames.map((name) => {
    const known = labels.get(name);
    if (known !== undefined) return known;
    reading.notes.push(`the class "${name}" is not in ${file}, so it follows the classes of the conversion`);
    categoryIds.push(Math.max(0, ...categoryIds) + 1);
    return classNames.push(name) - 1;
  });
  return { classNames, categoryIds, labelOf };
}

/** The objects of an image as before the conversion; as they are if they were edited since. */
function restoreObjects(
  image: AnnotatedImage,
  own: readonly AnnotatedObject[],
  entry: ImageConversion,
  namesInFormat: readonly string[],
  classNames: readonly string[],
  { file, reading }: Place,
): AnnotatedObject[] {
  const { ids, areas, boxes, hidden = [] } = entry;
  if (ids === undefined && areas === undefined && boxes === undefined && hidden.length === 0) return [...own];
  if (objectsDigest(image.objects, namesInFormat) !== entry.digest) {
    reading.warnings.add(
      'images whose objects were changed after the conversion, so conversion.json does not count',
      `${image.source}: ${entry.file}`,
    );
    return [...own];
  }
  for (const [field, values] of Object.entries({ ids, areas, boxes }))
    if (values !== undefined && values.length !== own.length)
      throw wrong(file, `${field} of ${entry.file}`, `${own.length} entries, one for each object`, values);
  const objects = own.map((object, i) => ({
    ...object,
    id: ids?.[i] ?? object.id,
    area: areas?.[i] ?? object.area,
    box: boxes?.[i] ?? object.box,
  }));
  for (const { at, label, ...object } of hidden) {
    if (label >= classNames.length)
      throw wrong(file, `label of ${entry.file}`, `the index of one of ${classNames.length} classes`, label);
    objects.splice(at, 0, { ...object, label });
  }
  return objects;
}
