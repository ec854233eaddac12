/**
 * Pascal VOC data sets: `Annotations/<name>.xml`, `JPEGImages/<name>.jpg` (or .png), and lists of names, one per line,
 * in `ImageSets/Main/{train,val,test,trainval}.txt`.
 * Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, and its development kit.
 *
 * - VOC counts pixels from 1, and boxes include their last pixel. A box xmin..xmax covers [xmin - 1, xmax] here.
 *   Some tools count from 0. Their boxes reach out of the image by a pixel. Such boxes are clipped, with a warning.
 * - `difficult` objects become `crowd`. Crowds are no training targets. In evaluation they are neither missed objects
 *   nor false alarms, as in VOC's own evaluation.
 * - The format has no list of classes. The classes are the names in all lists together, sorted.
 */
import { join, parse } from 'node:path';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import * as v from 'valibot';
import { anyObject, checked, withFields, nonEmptyText, wrong } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { listFolder, readText } from './files.ts';
import { firstNames, reportMissing, type AnnotatedContent, type AnnotatedImage, type DataFormat } from './format.ts';
import { inSplitOrder } from './split-names.ts';
import type { Warnings } from './warnings.ts';

const LISTS: readonly string[] = ['train', 'val', 'test', 'trainval'];
const IMAGE_EXTENSIONS: readonly string[] = ['.jpg', '.jpeg', '.png'];

export const voc: DataFormat = {
  key: 'voc',
  name: 'Pascal VOC',
  layouts: ['ImageSets/Main/{train,val,test}.txt with Annotations/ and JPEGImages/'],
  files: `ImageSets/Main/{${LISTS.join(',')}}.txt`,
  crowdNoun: 'difficult objects',
  splitRemedy: (split) =>
    `ImageSets/Main/${split}.txt, one image name per line (move about a tenth of the lines out of another list)`,
  recognize: ({ root }) => {
    const splits = findSplits(root);
    if (splits.length === 0) return null;
    return {
      layout: 'Pascal VOC',
      splits: inSplitOrder(splits.map((split) => [split, split])),
      read: (wanted, { warnings }) => readVoc(root, wanted, warnings),
    };
  },
  boxForm: 'corners',
  place: ({ source, objects }, index, classNames) => {
    const { box, label } = objects[index];
    const [x0, y0, x1, y1] = box;
    return {
      where: `${source}: object ${index + 1} (${classNames[label]})`,
      text: `bndbox ${x0 + 1}..${x1}, ${y0 + 1}..${y1} (counted from 1)`,
    };
  },
};

function findSplits(root: string): readonly string[] {
  const files = listFolder(join(root, 'ImageSets', 'Main')) ?? [];
  return LISTS.filter((split) => files.includes(`${split}.txt`));
}

/** Reads the lists of all splits, also of splits that are not requested, because the classes come from all lists. */
function readVoc(root: string, splits: readonly string[], warnings: Warnings): AnnotatedContent {
  const present = findSplits(root);
  const lists = new Map(present.map((split) => [split, readList(join(root, 'ImageSets', 'Main', `${split}.txt`))]));
  const names = [...new Set([...lists.values()].flat())].sort();
  const images = findImages(root, names, warnings);
  requireAnnotations(root, names);
  const parsed = names.map((name) => readAnnotation(join(root, 'Annotations', `${name}.xml`)));

  const classNames = [...new Set(parsed.flatMap(({ objects }) => objects.map((object) => object.name)))].sort();
  if (classNames.length === 0) {
    throw new InputError(
      `${join(root, 'Annotations')}: expected at least one object in the images of ${present.join(', ')}, got none`,
    );
  }
  const records = makeRecords(parsed, images, classNames);
  const byName = new Map(names.map((name, i) => [name, records[i]]));
  const recordsOf = (split: string) => (lists.get(split) ?? []).flatMap((name) => byName.get(name) ?? []);
  return {
    classNames,
    categoryIds: classNames.map((_, label) => label + 1),
    splits: Object.fromEntries(splits.map((split) => [split, recordsOf(split)])),
  };
}

/** Images with ids 1, 2, ... Annotations also have ids 1, 2, ... */
function makeRecords(
  parsed: readonly ParsedAnnotation[],
  images: readonly string[],
  classNames: readonly string[],
): AnnotatedImage[] {
  const labels = new Map(classNames.map((name, label) => [name, label]));
  let annotationId = 0;
  return parsed.map(({ file, width, height, objects }, index) => {
    const path = images[index];
    const record: AnnotatedImage = {
      id: index + 1,
      file: path,
      name: parse(path).base,
      stated: { width, height },
      source: file,
      objects: [],
    };
    for (const { name, edges, difficult } of objects) {
      const [xmin, ymin, xmax, ymax] = edges;
      record.objects.push({
        id: ++annotationId,
        label: labels.get(name) ?? 0,
        box: [xmin - 1, ymin - 1, xmax, ymax],
        area: null,
        crowd: difficult,
      });
    }
    return record;
  });
}

function readList(file: string): string[] {
  const lines = new Map<string, number>();
  readText(file)
    .split(/\r?\n/)
    .forEach((text, i) => {
      const name = text.trim();
      if (name === '') return;
      const earlier = lines.get(name);
      if (earlier !== undefined) {
        throw new InputError(
          `${file}: line ${i + 1}: expected every image once, got "${name}", which is in line ${earlier} too`,
        );
      }
      lines.set(name, i + 1);
    });
  if (lines.size === 0) throw new InputError(`${file}: expected image names, one per line, got an empty list`);
  return [...lines.keys()];
}

/** The path in JPEGImages of each name. */
function findImages(root: string, names: readonly string[], warnings: Warnings): string[] {
  const folder = join(root, 'JPEGImages');
  const files = new Map<string, string>();
  for (const file of listFolder(folder) ?? []) {
    const { name, ext } = parse(file);
    if (!IMAGE_EXTENSIONS.includes(ext.toLowerCase())) continue;
    const other = files.get(name);
    if (other !== undefined)
      throw new InputError(`${folder}: expected one image of the name "${name}", got ${other} and ${file}`);
    files.set(name, file);
  }
  const missing = names.filter((name) => !files.has(name)).map((name) => `${name}.jpg`);
  reportMissing(
    {
      source: join(root, 'ImageSets', 'Main'),
      missing,
      total: names.length,
      lookedIn: [`${folder} (${IMAGE_EXTENSIONS.join(', ')})`],
    },
    warnings,
  );
  return names.flatMap((name) => files.get(name) ?? []).map((file) => join(folder, file));
}

function requireAnnotations(root: string, names: readonly string[]): void {
  const folder = join(root, 'Annotations');
  const files = new Set(listFolder(folder));
  const missing = names.filter((name) => !files.has(`${name}.xml`)).map((name) => `${name}.xml`);
  if (missing.length === 0) return;
  throw new InputError(
    `${folder}: expected an annotation file for each of the ${names.length} images listed in ImageSets/Main, ` +
      `got none for ${missing.length}: ${firstNames(missing)}`,
  );
}

interface ParsedAnnotation {
  readonly file: string;
  /** Pixels. */
  readonly width: number;
  readonly height: number;
  readonly objects: readonly ParsedObject[];
}

interface ParsedObject {
  /** Name of the class. */
  readonly name: string;
  /** xmin, ymin, xmax, ymax; NaN where the file has "nan" or "inf". */
  readonly edges: readonly [number, number, number, number];
  readonly difficult: boolean;
}

// Every value stays text: a class named "007" is not a number.
const parser = new XMLParser({ ignoreAttributes: true, parseTagValue: false, isArray: (name) => name === 'object' });

/** A number as text. Some tools write "nan" and "inf"; such numbers make a degenerate box. */
const numberText = v.pipe(
  v.custom<string>((value) => toNumber(value) !== null, 'a number'),
  v.transform((text) => toNumber(text) ?? NaN),
);

function toNumber(value: unknown): number | null {
  if (typeof value !== 'string' || value.trim() === '') return null;
  if (/^\s*[-+]?(nan|inf(inity)?)\s*$/i.test(value)) return NaN;
  return Number.isNaN(Number(value)) ? null : Number(value);
}

/** Pixels of an image's side, as text. */
const sizeText = v.pipe(
  numberText,
  v.check((value) => Number.isSafeInteger(value) && value >= 1, 'an integer >= 1'),
);

const SIZE = withFields({ width: sizeText, height: sizeText });
const BOX = withFields({ xmin: numberText, ymin: numberText, xmax: numberText, ymax: numberText });
const NAMED = withFields({ name: nonEmptyText });
const OBJECT = withFields({ bndbox: BOX, difficult: v.optional(v.picklist(['0', '1'], '0 or 1'), '0') });

function readAnnotation(file: string): ParsedAnnotation {
  const text = readText(file);
  const validity = XMLValidator.validate(text);
  if (validity !== true) {
    const { line, col, msg } = validity.err;
    throw new InputError(`${file}: expected XML, got malformed XML at line ${line}, column ${col}: ${msg}`);
  }
  const { annotation } = checked(withFields({ annotation: anyObject }), parser.parse(text), file);
  const size = checked(SIZE, annotation.size, file, 'size');
  const objects = annotation.object ?? [];
  if (!Array.isArray(objects)) throw wrong(file, 'object', 'elements', objects);
  return { file, ...size, objects: objects.map((entry: unknown, i) => readObject(entry, file, `object ${i + 1}`)) };
}

function readObject(entry: unknown, file: string, place: string): ParsedObject {
  const name = checked(NAMED, entry, `${file}: ${place}`).name.trim();
  const at = `${place} (${name})`;
  const { bndbox, difficult } = checked(OBJECT, entry, `${file}: ${at}`);
  const { xmin, ymin, xmax, ymax } = bndbox;
  return { name, edges: [xmin, ymin, xmax, ymax], difficult: difficult === '1' };
}
