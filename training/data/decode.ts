/**
 * Decodes image files to RGB bytes: damaged files in part, and images of more than 8 bits scaled by their real range.
 */
import { readFile } from 'node:fs/promises';
import sharp, { type FailOnOptions, type Metadata } from 'sharp';
import { errorMessage } from '../../engine/core/errors.ts';
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import { isPng, repairPng } from './repair-png.ts';

export interface PixelImage extends Size {
  /** RGB, HWC: height * width * 3 bytes, in a buffer of its own. */
  data: Uint8Array;
}

export interface DecodedImage extends PixelImage {
  /** What is wrong with the file, where only a part of its pixels decodes; else null. */
  damage: string | null;
}

/** Pixels as the file has them: 8-bit RGB, or values of more bits. */
export interface ImageValues extends Size {
  /** HWC, of 1 or 3 channels. */
  readonly values: Uint8Array | Uint16Array | Float32Array;
  /** The type of the values in the file, e.g. 'uchar' or 'ushort'. */
  readonly depth: string;
  readonly header: Metadata;
  readonly damage: string | null;
}

// One image uses one core, because several images are decoded at the same time. ImageCache replaces sharp's own cache.
sharp.concurrency(1);
sharp.cache(false);

/**
 * Decodes an image file (JPEG, PNG, WebP, TIFF, ...). Gray, palette, alpha, CMYK, 1-bit and 16-bit images become 8-bit
 * RGB. Alpha and color profiles are ignored, as in Detectron2. Of several pages or frames, the first one is used.
 *
 * An EXIF orientation is applied, as in Detectron2. It is not applied if `stated` is only the size of the image as it
 * is stored: the annotations were then made on the stored image.
 *
 * The pixels of a damaged file are used as far as they decode; the others are gray (JPEG) or black (PNG, GIF).
 *
 * @param stated the size that the annotations give
 * @param white  the value that becomes 255, for images of more than 8 bits. All images of a data set should have the
 *               same, so that their brightness stays comparable. Default: the range of the image's own values
 * @throws InputError naming the file if no pixel can be decoded, or the image does not have the stated size
 */
export async function decodeImage(file: string, stated: Size | null = null, white?: number): Promise<DecodedImage> {
  const { values, depth, width, height, damage } = await decodeValues(file, stated);
  if (values instanceof Uint8Array) return { data: values, width, height, damage };
  return { data: toBytes(values, depth, width * height, white), width, height, damage };
}

/** An image of which more pixels are missing is not used. */
const MAX_MISSING = 0.99;

/** From a JPEG header without pixels, libjpeg still makes one block of 16 x 16 pixels. */
const MIN_PIXELS = 256;

/** The pixels of a file without conversion to 8 bits. As `decodeImage` otherwise. */
export async function decodeValues(file: string, stated: Size | null = null): Promise<ImageValues> {
  let reason: string;
  try {
    return { ...(await attempt(file, stated, 'error')), damage: null };
  } catch (error) {
    if (error instanceof InputError) throw error;
    reason = errorMessage(error).replaceAll(/\s*\n\s*/g, '; ');
  }
  try {
    const image = await attempt(file, stated, 'none', await repaired(file));
    const missing = missingShare(image);
    const decoded = (1 - missing) * image.width * image.height;
    if (missing <= MAX_MISSING && decoded > MIN_PIXELS) return { ...image, damage: describeDamage(missing) };
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`${file}: cannot be decoded: ${errorMessage(error).replaceAll(/\s*\n\s*/g, '; ')}`);
  }
  throw new InputError(`${file}: cannot be decoded: it has a header but almost no pixels (${reason})`);
}

/** A repaired copy in memory, for formats that need one; else the file itself. */
async function repaired(file: string): Promise<string | Buffer> {
  const bytes = await readFile(file);
  return (isPng(bytes) ? await repairPng(bytes) : null) ?? file;
}

/** @param input what is decoded in place of the file */
async function attempt(
  file: string,
  stated: Size | null,
  failOn: FailOnOptions,
  input: string | Buffer = file,
): Promise<Omit<ImageValues, 'damage'>> {
  const image = sharp(input, { failOn, ignoreIcc: true });
  const header = await image.metadata();
  const upright = isUpright(file, header, stated);
  const kind = valueKind(header);
  const { data, info } = await (upright ? image.autoOrient() : image)
    .removeAlpha()
    .toColourspace(kind.space)
    .raw({ depth: kind.type })
    // Not toUint8Array: sharp 0.35.5 does not free its bytes.
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== 3 && (info.channels !== 1 || kind.type === 'uchar'))
    throw new InputError(`${file}: expected an image of 3 channels, got ${info.channels}`);
  const { width, height } = info;
  return { values: typed(ownBytes(data), kind.type), depth: kind.depth, width, height, header };
}

/** True if the annotations were made on the image as its EXIF orientation shows it. */
function isUpright(file: string, { width, height, autoOrient: oriented }: Metadata, stated: Size | null): boolean {
  const matches = (size: Size) => stated === null || (stated.width === size.width && stated.height === size.height);
  if (matches(oriented)) return true;
  if (matches({ width, height })) return false;
  throw new InputError(
    `${file}: width x height: expected ${stated?.width} x ${stated?.height}, as the annotations state, ` +
      `got ${oriented.width} x ${oriented.height}`,
  );
}

interface ValueKind {
  readonly depth: string;
  /** The color space and type in which libvips gives the values without rescaling them. */
  readonly space: string;
  readonly type: 'uchar' | 'ushort' | 'float';
}

function valueKind({ depth = 'uchar', space }: Metadata): ValueKind {
  if (depth === 'uchar' || space === 'cmyk' || space === 'lab') return { depth: 'uchar', space: 'srgb', type: 'uchar' };
  if (space === 'grey16' || space === 'rgb16') return { depth, space: 'rgb16', type: 'ushort' };
  return { depth, space: space === 'b-w' || space === 'scrgb' ? space : 'srgb', type: 'float' };
}

/** The same bytes as a Uint8Array that fills its buffer, so that the buffer can be transferred to another thread. */
export function ownBytes(data: Uint8Array): Uint8Array {
  return data.byteLength === data.buffer.byteLength ? new Uint8Array(data.buffer) : Uint8Array.from(data);
}

function typed(bytes: Uint8Array, type: ValueKind['type']): ImageValues['values'] {
  if (type === 'uchar') return bytes;
  return type === 'ushort' ? new Uint16Array(bytes.buffer) : new Float32Array(bytes.buffer);
}

/** The share of pixels that have the value with which the decoder fills missing parts, 0 .. 1. */
function missingShare({ values, width, height, header }: Omit<ImageValues, 'damage'>): number {
  const fill = header.format === 'jpeg' ? 128 : 0;
  const channels = values.length / (width * height);
  let missing = 0;
  for (let i = 0; i < values.length; i += channels) {
    let same = true;
    for (let c = 0; c < channels; c++) if (values[i + c] !== fill) same = false;
    if (same) missing++;
  }
  return missing / (width * height);
}

/** Without the decoder's own message, which may differ between threads. */
function describeDamage(missing: number): string {
  if (missing < 0.005) return 'its data has errors or ends early; nearly all pixels decode';
  return `its data has errors or ends early; about ${Math.round(missing * 100)} % of the pixels are missing`;
}

const isFloat = (depth: string): boolean => depth === 'float' || depth === 'double';

/**
 * The value of white for images whose largest value is `maximum`: 2^bits - 1 with as few bits as hold it, at least 8.
 * Floating-point values of at most 1 have white 1.
 */
export function whiteOf(maximum: number, depth: string): number {
  if (isFloat(depth) && maximum <= 1) return 1;
  let white = 255;
  while (white < maximum && white < 2 ** 32 - 1) white = 2 * white + 1;
  return white;
}

/** The largest finite value, at least 0. */
export function largestValue(values: Uint8Array | Uint16Array | Float32Array): number {
  let largest = 0;
  for (const value of values) if (value > largest && value !== Infinity) largest = value;
  return largest;
}

/** Scales values to bytes: 0 stays 0, `white` becomes 255. Values outside are clipped, NaN becomes 0. */
function toBytes(
  values: Uint16Array | Float32Array,
  depth: string,
  pixels: number,
  white: number | undefined,
): Uint8Array {
  const top = white ?? whiteOf(largestValue(values), depth);
  // Integers lose their lower bits, as libvips does with 16 bits. Floating-point values are rounded.
  const [scale, offset] = isFloat(depth) ? [255 / top, 0.5] : [256 / (top + 1), 0];
  const repeat = (pixels * 3) / values.length;
  const data = new Uint8Array(pixels * 3);
  for (let i = 0, to = 0; i < values.length; i++) {
    const value = values[i] * scale + offset;
    const byte = value >= 255 ? 255 : value > 0 ? Math.floor(value) : 0;
    for (let k = 0; k < repeat; k++) data[to++] = byte;
  }
  return data;
}
