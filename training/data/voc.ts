/**
 * Pascal VOC data sets: `Annotations/<name>.xml`, `JPEGImages/<name>.jpg` (or .png), and lists of names, one a line, in
 * `ImageSets/Main/{train,val,test,trainval}.txt`.
 * Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, and its development kit.
 *
 * - VOC's boxes count pixels from 1 and include the last: a box xmin..xmax covers [xmin - 1, xmax] in the frame used here.
 *   One written by a tool that counts from 0 reaches out of the image by a pixel, is clipped, and named in a warning.
 * - `difficult` objects become `crowd`: no training targets, and in evaluation neither missed nor a false alarm, as VOC's own evaluation has it.
 * - The format has no list of classes: they are the names that occur in any of the lists, sorted.
 */
import { join, parse } from 'node:path';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { InputError } from '../core/errors.ts';
import { clipBox, listFolder, missingSplit, requireImages, Warnings } from './dataset.ts';
import type { Dataset } from './dataset.ts';
import { asName, asObject, wrong } from '../core/checks.ts';
import type { Box, ImageRecord } from '../core/image-record.ts';
import { readText } from './files.ts';

const LISTS: readonly string[] = ['train', 'val', 'test', 'trainval'];
const IMAGE_EXTENSIONS: readonly string[] = ['.jpg', '.jpeg', '.png'];

/** The names of the splits of a Pascal VOC data set; empty if this is none. */
export function vocSplits(root: string): string[] {
  const files = listFolder(join(root, 'ImageSets', 'Main')) ?? [];
  return LISTS.filter((split) => files.includes(`${split}.txt`));
}

/**
 * Reads a Pascal VOC data set. All lists are read, since classes come from them all.
 * @param splits those to return; every one must be there
 */
export function openVoc(root: string, splits: readonly string[]): Dataset {
  const present = vocSplits(root);
  for (const split of splits) if (!present.includes(split)) throw missingSplit(root, 'voc', split, present);
  const lists = new Map(present.map((split) => [split, readList(join(root, 'ImageSets', 'Main', `${split}.txt`))]));
  const names = [...new Set([...lists.values()].flat())].sort();
  const images = findImages(root, names);
  requireAnnotations(root, names);
  const warnings = new Warnings();
  const parsed = names.map((name) => readAnnotation(join(root, 'Annotations', `${name}.xml`)));

  const classNames = [...new Set(parsed.flatMap(({ objects }) => objects.map((object) => object.name)))].sort();
  if (classNames.length === 0) {
    throw new InputError(
      `${join(root, 'Annotations')}: expected at least one object in the images of ${present.join(', ')}, got none`,
    );
  }
  const labels = new Map(classNames.map((name, label) => [name, label]));

  let annotationId = 0;
  const records = new Map(
    names.map((name, index): [string, ImageRecord] => {
      const { file, width, height, objects } = parsed[index];
      const image = images[index];
      const record: ImageRecord = {
        id: index + 1,
        file: join(root, 'JPEGImages', image),
        name: image,
        width,
        height,
        objects: [],
      };
      for (const {
        name: className,
        at,
        edges: [xmin, ymin, xmax, ymax],
        difficult,
      } of objects) {
        annotationId++;
        const given: Box = [xmin - 1, ymin - 1, xmax, ymax];
        const box = clipBox(
          given,
          width,
          height,
          `${file}: ${at}`,
          `bndbox ${xmin}..${xmax}, ${ymin}..${ymax} (counted from 1)`,
          warnings,
        );
        if (box === null) continue;
        record.objects.push({
          id: annotationId,
          label: labels.get(className) ?? 0,
          box,
          area: (box[2] - box[0]) * (box[3] - box[1]),
          crowd: difficult,
        });
      }
      return [name, record];
    }),
  );

  const recordsOf = (split: string) => (lists.get(split) ?? []).flatMap((name) => records.get(name) ?? []);
  return {
    root,
    format: 'voc',
    classNames,
    categoryIds: classNames.map((_, label) => label + 1),
    splits: Object.fromEntries(splits.map((split) => [split, recordsOf(split)])),
    warnings: warnings.summary(),
    allWarnings: warnings.all(),
  };
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
  if (lines.size === 0) throw new InputError(`${file}: expected image names, one a line, got an empty list`);
  return [...lines.keys()];
}

/** The file in JPEGImages of each name. */
function findImages(root: string, names: readonly string[]): string[] {
  const folder = join(root, 'JPEGImages');
  const files = new Map<string, string>();
  for (const file of listFolder(folder) ?? []) {
    const { name, ext } = parse(file);
    if (!IMAGE_EXTENSIONS.includes(ext.toLowerCase())) continue;
    const other = files.get(name);
    if (other !== undefined)
      throw new InputError(`${folder}: two images of the name "${name}": ${other} and ${file}; keep one`);
    files.set(name, file);
  }
  const missing = names.filter((name) => !files.has(name)).map((name) => `${name}.jpg`);
  requireImages(join(root, 'ImageSets', 'Main'), missing, names.length, [`${folder} (${IMAGE_EXTENSIONS.join(', ')})`]);
  return names.flatMap((name) => files.get(name) ?? []);
}

function requireAnnotations(root: string, names: readonly string[]): void {
  const folder = join(root, 'Annotations');
  const files = new Set(listFolder(folder));
  const missing = names.filter((name) => !files.has(`${name}.xml`));
  if (missing.length === 0) return;
  const first =
    missing
      .slice(0, 3)
      .map((name) => `${name}.xml`)
      .join(', ') + (missing.length > 3 ? ', ...' : '');
  const expected = `an annotation file for each of the ${names.length} images listed in ImageSets/Main`;
  throw new InputError(`${folder}: expected ${expected}, got none for ${missing.length}: ${first}`);
}

interface ParsedAnnotation {
  file: string;
  width: number;
  height: number;
  objects: { name: string; at: string; edges: [number, number, number, number]; difficult: boolean }[];
}

// Every value stays text, so that a class named "007" is not a number.
const parser = new XMLParser({ ignoreAttributes: true, parseTagValue: false, isArray: (name) => name === 'object' });

function readAnnotation(file: string): ParsedAnnotation {
  const text = readText(file);
  const validity = XMLValidator.validate(text);
  if (validity !== true)
    throw new InputError(
      `${file}: malformed XML at line ${validity.err.line}, column ${validity.err.col}: ${validity.err.msg}`,
    );
  const content = asObject(parser.parse(text), file, 'the whole file');
  const annotation = asObject(content['annotation'], file, 'annotation');
  const size = asObject(annotation['size'], file, 'size');
  const list = annotation['object'] ?? [];
  if (!Array.isArray(list)) throw wrong(file, 'object', 'elements', list);
  const objects = list.map((entry: unknown, i) => {
    const object = asObject(entry, file, `object ${i + 1}`);
    const name = asName(object['name'], file, `object ${i + 1}: name`).trim();
    const at = `object ${i + 1} (${name})`;
    const box = asObject(object['bndbox'], file, `${at}: bndbox`);
    const difficult = object['difficult'] ?? '0';
    if (difficult !== '0' && difficult !== '1') throw wrong(file, `${at}: difficult`, '0 or 1', difficult);
    const edge = (key: string) => asNumber(box[key], file, `${at}: ${key}`);
    const edges: [number, number, number, number] = [edge('xmin'), edge('ymin'), edge('xmax'), edge('ymax')];
    return { name, at, edges, difficult: difficult === '1' };
  });
  return {
    file,
    width: asSize(size['width'], file, 'size: width'),
    height: asSize(size['height'], file, 'size: height'),
    objects,
  };
}

/** "nan" and "inf", as tools write them, are numbers that make a degenerate box. */
function asNumber(value: unknown, file: string, field: string): number {
  if (typeof value === 'string') {
    if (/^\s*[-+]?(nan|inf(inity)?)\s*$/i.test(value)) return NaN;
    if (value.trim() !== '' && !Number.isNaN(Number(value))) return Number(value);
  }
  throw wrong(file, field, 'a number', value);
}

function asSize(value: unknown, file: string, field: string): number {
  const number = asNumber(value, file, field);
  if (!Number.isSafeInteger(number) || number < 1) throw wrong(file, field, 'an integer of at least 1', value);
  return number;
}
