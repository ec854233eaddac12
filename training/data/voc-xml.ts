/** Parses the XML files of Pascal VOC data sets. */
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import * as v from 'valibot';
import { anyObject, checked, nonEmptyText, withFields, wrong } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import { readText } from './files.ts';

export interface ParsedAnnotation {
  readonly file: string;
  /** The image's name as the file states it; '' if it states none. */
  readonly filename: string;
  /** Pixels; null if the file states none. */
  readonly size: Size | null;
  readonly objects: readonly ParsedObject[];
}

export interface ParsedObject {
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
const FLAGS: Readonly<Record<'0' | '1' | 'false' | 'true' | '', boolean>> = {
  '0': false,
  '1': true,
  false: false,
  true: true,
  '': false,
};
const OBJECT = withFields({
  bndbox: BOX,
  difficult: v.optional(v.picklist(['0', '1', 'false', 'true', ''], '0 or 1'), '0'),
});

/** Reads an annotation file. Throws InputError naming the file, the field, the expected and the found value. */
export function readAnnotation(file: string): ParsedAnnotation {
  const text = readText(file);
  const validity = XMLValidator.validate(text);
  if (validity !== true) {
    const { line, col, msg } = validity.err;
    throw new InputError(`${file}: expected XML, got malformed XML at line ${line}, column ${col}: ${msg}`);
  }
  const { annotation } = checked(withFields({ annotation: anyObject }), parser.parse(text), file);
  const { size, filename } = annotation;
  const objects = annotation.object ?? [];
  if (!Array.isArray(objects)) throw wrong(file, 'object', 'elements', objects);
  return {
    file,
    filename: typeof filename === 'string' ? filename.trim() : '',
    size: size === undefined || size === '' ? null : checked(SIZE, size, file, 'size'),
    objects: objects.map((entry: unknown, i) => readObject(entry, file, `object ${i + 1}`)),
  };
}

function readObject(entry: unknown, file: string, place: string): ParsedObject {
  const name = checked(NAMED, entry, `${file}: ${place}`).name.trim();
  const { bndbox, difficult } = checked(OBJECT, entry, `${file}: ${place} (${name})`);
  const { xmin, ymin, xmax, ymax } = bndbox;
  return { name, edges: [xmin, ymin, xmax, ymax], difficult: FLAGS[difficult] };
}
