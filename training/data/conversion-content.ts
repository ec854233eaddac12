/** Finds what the files of a written data set do not say, for conversion.json, and compares data sets. */
import { shown } from '../core/checks.ts';
import type { ImageRecord, ObjectAnnotation } from '../core/image-record.ts';
import { objectsDigest, pathBelow, type Conversion, type ImageConversion } from './conversion.ts';
import type { DataWriter, OutputImage } from './data-writer.ts';
import type { Dataset } from './dataset.ts';
import type { AnnotatedObject } from './format.ts';

/** The content that a converted data set must have. */
export interface ExpectedContent {
  readonly classNames: readonly string[];
  readonly categoryIds: readonly number[];
  readonly splits: ReadonlyMap<string, readonly ImageRecord[]>;
}

interface Written {
  readonly writer: DataWriter;
  /** The written data set, as the format's own files give it. */
  readonly dataset: Dataset;
  /** Names of the classes in the format's files. */
  readonly classNames: readonly string[];
  readonly images: readonly OutputImage[];
  /** Splits that the format's files do not have, as paths of images. */
  readonly addedSplits: readonly { readonly name: string; readonly files: readonly string[] }[];
}

/** What must be added to a written data set; null if nothing is missing. */
export function missingContent(expected: ExpectedContent, written: Written): Conversion | null {
  const { dataset, images, addedSplits } = written;
  const sameClasses = same(expected.classNames, dataset.classNames) && same(expected.categoryIds, dataset.categoryIds);
  const read = new Map(
    Object.values(dataset.annotated).flatMap((list) =>
      list.map((image) => [pathBelow(dataset.root, image.file), image]),
    ),
  );
  const entries = new Map<string, ImageConversion>();
  for (const { path, record } of images) {
    const image = read.get(path);
    if (image === undefined || entries.has(path)) continue;
    const objects = missingObjects(record.objects, image.objects, written.writer);
    const entry = {
      ...(image.id === record.id ? {} : { id: record.id }),
      ...(image.name === record.name ? {} : { name: record.name }),
      ...objects,
    };
    if (Object.keys(entry).length === 0) continue;
    entries.set(path, { file: path, digest: objectsDigest(image.objects, dataset.classNames), ...entry });
  }
  if (sameClasses && entries.size === 0 && addedSplits.length === 0) return null;
  return {
    version: 1,
    ...(sameClasses ? {} : { classes: classesOf(expected, written.classNames) }),
    ...(addedSplits.length === 0
      ? {}
      : { splits: addedSplits.map(({ name, files }) => ({ name, files: [...files] })) }),
    images: [...entries.values()],
  };
}

function classesOf({ classNames, categoryIds }: ExpectedContent, written: readonly string[]): Conversion['classes'] {
  return classNames.map((name, label) => ({
    name,
    id: categoryIds[label],
    ...(written[label] === name ? {} : { as: written[label] }),
  }));
}

type ObjectFields = Pick<ImageConversion, 'ids' | 'areas' | 'boxes' | 'hidden'>;

function missingObjects(
  expected: readonly ObjectAnnotation[],
  read: readonly AnnotatedObject[],
  { holds }: DataWriter,
): ObjectFields {
  const held = expected.filter(holds);
  const hidden = expected.flatMap((object, at) => (holds(object) ? [] : [{ at, ...object }]));
  const fields: { -readonly [K in keyof ObjectFields]: ObjectFields[K] } = {};
  if (hidden.length > 0) fields.hidden = hidden;
  // A different number is an error, which the comparison after writing reports.
  if (held.length !== read.length) return fields;
  if (held.some(({ id }, i) => id !== read[i].id)) fields.ids = held.map(({ id }) => id);
  if (held.some(({ box }, i) => !same(box, read[i].box))) fields.boxes = held.map(({ box }) => box);
  const areaOf = ({ box: [x0, y0, x1, y1] }: ObjectAnnotation) => (x1 - x0) * (y1 - y0);
  if (held.some((object, i) => object.area !== (read[i].area ?? areaOf(object))))
    fields.areas = held.map(({ area }) => area);
  return fields;
}

function same<T>(a: readonly T[], b: readonly T[]): boolean {
  return a.length === b.length && a.every((value, i) => Object.is(value, b[i]));
}

/** The first difference of a data set, as "images[3] (a.jpg): width: expected 40, got 30"; null: none. */
export function firstDifference(expected: ExpectedContent, actual: ExpectedContent): string | null {
  for (const field of ['classNames', 'categoryIds'] as const)
    if (!same<string | number>(expected[field], actual[field]))
      return `${field}: expected ${shown(expected[field])}, got ${shown(actual[field])}`;
  const names = [...expected.splits.keys()].sort();
  const found = [...actual.splits.keys()].sort();
  if (!same(names, found)) return `splits: expected ${shown(names)}, got ${shown(found)}`;
  for (const [split, records] of expected.splits) {
    const difference = recordsDifference(records, actual.splits.get(split) ?? []);
    if (difference !== null) return `split "${split}": ${difference}`;
  }
  return null;
}

function recordsDifference(expected: readonly ImageRecord[], actual: readonly ImageRecord[]): string | null {
  if (expected.length !== actual.length) return `expected ${expected.length} images, got ${actual.length}`;
  for (const [i, record] of expected.entries()) {
    const place = `image ${i + 1} (${record.name})`;
    for (const field of ['name', 'id', 'width', 'height'] as const)
      if (record[field] !== actual[i][field])
        return `${place}: ${field}: expected ${shown(record[field])}, got ${shown(actual[i][field])}`;
    const others = actual[i].objects;
    if (record.objects.length !== others.length)
      return `${place}: expected ${record.objects.length} objects, got ${others.length}`;
    for (const [k, object] of record.objects.entries()) {
      const [a, b] = [numbersOf(object), numbersOf(others[k])];
      if (!same(a, b)) return `${place}: object ${k + 1}: id, label, box, area, crowd: expected ${a}, got ${b}`;
    }
  }
  return null;
}

/** Negative zeros, which JSON does not have, count as zeros. */
const numbersOf = ({ id, label, box, area, crowd }: ObjectAnnotation): number[] =>
  [id, label, ...box, area, crowd ? 1 : 0].map((value) => value + 0);
