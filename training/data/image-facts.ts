/** What a look at an image file shows: sizes, damage, bit depth, transparency, and a hash of the pixels. */
import { createHash } from 'node:crypto';
import sharp from 'sharp';
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import { decodeValues, largestValue, type ImageValues } from './decode.ts';

/** An image that decodes, at least in part. */
export interface ReadableFacts {
  readonly unreadable: null;
  /** Pixels, as the file stores them. */
  readonly stored: Size;
  /** Pixels, after the EXIF orientation. */
  readonly displayed: Size;
  /** What is wrong with the file, where only a part of its pixels decodes. */
  readonly damage: string | null;
  /** The type of the values in the file: 'uchar' for 8 bits, 'ushort', 'float', ... */
  readonly depth: string;
  /** The largest value, for images of more than 8 bits. */
  readonly maximum: number | null;
  /** Equal for images with equal pixels. */
  readonly hash: string;
  /** All pixels are equal. */
  readonly uniform: boolean;
  /** Some pixels are transparent. Their hidden colors become visible, because transparency is ignored. */
  readonly transparent: boolean;
  /** Pages or frames; the first is used. */
  readonly pages: number;
}

/** An image of which no pixel decodes; `unreadable` is the reason. */
export interface UnreadableFacts {
  readonly unreadable: string;
}

export type ImageFacts = ReadableFacts | UnreadableFacts;

/** Digits of a hash; 96 bits tell a billion images apart. */
const HASH_DIGITS = 24;

/** Decodes a file completely. A file that cannot be decoded is no error. */
export async function inspectImage(file: string): Promise<ImageFacts> {
  let image: ImageValues;
  try {
    image = await decodeValues(file);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { unreadable: error.message.replace(`${file}: cannot be decoded: `, '') };
  }
  const { values, depth, header, damage, width, height } = image;
  return {
    unreadable: null,
    stored: { width: header.width, height: header.height },
    displayed: { width: header.autoOrient.width, height: header.autoOrient.height },
    damage,
    depth,
    maximum: values instanceof Uint8Array ? null : largestValue(values),
    hash: createHash('sha256').update(`${width} x ${height}\n`).update(values).digest('hex').slice(0, HASH_DIGITS),
    uniform: isUniform(values, values.length / (width * height)),
    transparent: header.hasAlpha ? await hasTransparency(file) : false,
    pages: header.pages ?? 1,
  };
}

function isUniform(values: ImageValues['values'], channels: number): boolean {
  for (let i = channels; i < values.length; i++) if (values[i] !== values[i - channels]) return false;
  return true;
}

async function hasTransparency(file: string): Promise<boolean> {
  try {
    return !(await sharp(file, { failOn: 'none' }).stats()).isOpaque;
  } catch {
    // A damaged file whose pixels were repaired. That it is damaged is said anyway.
    return false;
  }
}
