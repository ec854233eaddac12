/** Parses YOLO's label files: a line is a class and a box, or a class and a polygon, in parts of the image's size. */
import { InputError } from '../core/errors.ts';
import type { Box, Size } from '../core/image-record.ts';
import { decimalsOf, edgesOf, pixelOf, type RoundedNumber } from './decimal-box.ts';
import { readText } from './files.ts';

export interface LabelFile {
  readonly file: string;
  readonly objects: readonly LabelObject[];
}

export interface LabelObject {
  /** Counted from 1. */
  readonly line: number;
  /** The class's number in the file. */
  readonly index: number;
  /** Center x, center y, width, height of a box, or x, y, x, y, ... of a polygon. NaN where the file has "nan". */
  readonly numbers: readonly RoundedNumber[];
}

const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;
const NOT_FINITE = /^[-+]?(nan|inf(inity)?)$/i;
/** Numbers of the shortest polygon, a triangle. */
const TRIANGLE = 6;

/**
 * Decimals from which numbers count as rounded. Files with fewer are written by hand, such as "0.5 0.5 0.25 0.1", and
 * exact: a tool that rounds so much would move boxes by several pixels.
 */
const MIN_DECIMALS = 3;

/** Values above which a coordinate is no part of an image's side. */
const MAX_PART = 2;

/**
 * Reads a label file.
 * @param pointNumbers numbers of the keypoints behind each box, which are skipped
 * @throws InputError with the line if a line is neither a box nor a polygon
 */
export function readLabels(file: string, pointNumbers = 0): LabelFile {
  const lines = readText(file)
    .split(/\r\n|\r|\n/)
    .map((text, i) => ({ text: text.trim(), line: i + 1 }))
    .filter(({ text }) => text !== '');
  const rows = lines.map(({ text, line }) => ({ line, ...splitLine(text, line, file, pointNumbers) }));
  const decimals = usualDecimals(rows.flatMap(({ values }) => values));
  const objects = rows.map(({ line, index, values }) => ({
    line,
    index,
    numbers: values.map((text) => toRounded(text, decimals)),
  }));
  return { file, objects };
}

function splitLine(text: string, line: number, file: string, pointNumbers: number) {
  const refuse = (expected: string) => new InputError(`${file}: line ${line}: expected ${expected}, got "${text}"`);
  const [first, ...values] = text.split(/[\s,]+/);
  const index = Number(first);
  if (!NUMBER.test(first) || !Number.isSafeInteger(index) || index < 0)
    throw refuse('the number of a class at the beginning');
  const bad = values.find((value) => !NUMBER.test(value) && !NOT_FINITE.test(value));
  if (bad !== undefined) throw refuse('numbers behind the class');
  if (pointNumbers > 0 && values.length === 4 + pointNumbers) return { index, values: values.slice(0, 4) };
  if (values.length === 4) return { index, values };
  // With seven columns, the last two can be a confidence and the number of a track, which is no coordinate.
  const isTrack = values.length === TRIANGLE && /^\d+$/.test(values[TRIANGLE - 1]) && Number(values[TRIANGLE - 1]) > 1;
  if (values.length < TRIANGLE || values.length % 2 > 0 || isTrack)
    throw refuse(
      `a class and four numbers of a box, or a class and at least three points of a polygon ` +
        '(confidences and numbers of tracks do not belong here)',
    );
  return { index, values };
}

/**
 * The decimals of a file's numbers. Some tools drop zeros at the end, so the longest number counts; some write six
 * significant digits, so only numbers between 0.1 and 1 count, which then have six decimals.
 */
function usualDecimals(values: readonly string[]): number {
  const usual = values.filter((text) => Number(text) >= 0.1 && Number(text) < 1);
  return (usual.length > 0 ? usual : values).reduce((most, text) => Math.max(most, decimalsOf(text)), 0);
}

function toRounded(text: string, usual: number): RoundedNumber {
  const value = NUMBER.test(text) ? Number(text) : NaN;
  const decimals = Math.max(decimalsOf(text), usual);
  return { value, error: decimals < MIN_DECIMALS ? 0 : 0.5 * 10 ** -decimals };
}

/** Whether the numbers are pixels by mistake, and not parts of the image's size. */
export const isInPixels = ({ numbers }: LabelObject): boolean =>
  numbers.some(({ value }) => Math.abs(value) > MAX_PART);

/** The box in pixels, not clipped. A polygon gives the smallest box around it. */
export function boxOf({ numbers }: LabelObject, { width, height }: Size): Box {
  if (numbers.length > 4) {
    const xs = numbers.filter((_, i) => i % 2 === 0).map((x) => pixelOf(x, width));
    const ys = numbers.filter((_, i) => i % 2 === 1).map((y) => pixelOf(y, height));
    return [smallest(xs), smallest(ys), largest(xs), largest(ys)];
  }
  const [x, y, w, h] = numbers;
  const [x0, x1] = edgesOf(x, w, width);
  const [y0, y1] = edgesOf(y, h, height);
  return [x0, y0, x1, y1];
}

const smallest = (values: readonly number[]): number => values.reduce((a, b) => Math.min(a, b));
const largest = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b));
