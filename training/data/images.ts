/** Pixels: decodes image files, resizes, crops and flips. Images are RGB bytes, height x width x 3 (HWC). */
import sharp from 'sharp';
import { errorMessage } from '../../engine/core/errors.ts';
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import type { ImageTransform } from '../core/transforms.ts';

export interface PixelImage extends Size {
  /** RGB, HWC: height * width * 3 bytes, in a buffer of its own. */
  data: Uint8Array;
}

// One image uses one core, because several images are decoded at the same time. ImageCache replaces sharp's own cache.
sharp.concurrency(1);
sharp.cache(false);

/**
 * Decodes an image file (JPEG, PNG, WebP, TIFF, ...). Gray, palette, alpha, CMYK and 16-bit images become 8-bit RGB.
 * Alpha and color profiles are ignored, as in Detectron2.
 *
 * An EXIF orientation is applied, as in Detectron2. It is not applied if `stated` is only the size of the image as it
 * is stored: the annotations were then made on the stored image.
 *
 * @param stated the size that the annotations give
 * @throws InputError naming the file if it cannot be decoded, or does not have the stated size
 */
export async function decodeImage(file: string, stated: Size | null = null): Promise<PixelImage> {
  try {
    const image = sharp(file, { failOn: 'error', ignoreIcc: true });
    const { width: storedWidth, height: storedHeight, autoOrient: oriented } = await image.metadata();
    const matches = (width: number, height: number) =>
      stated === null || (stated.width === width && stated.height === height);
    const upright = matches(oriented.width, oriented.height);
    if (!upright && !matches(storedWidth, storedHeight)) {
      const expected = `${stated?.width} x ${stated?.height}, as the annotations state`;
      throw new InputError(`${file}: width x height: expected ${expected}, got ${oriented.width} x ${oriented.height}`);
    }
    const { data, info } = await (upright ? image.autoOrient() : image)
      .removeAlpha()
      .toColourspace('srgb')
      .raw({ depth: 'uchar' })
      .toUint8Array();
    if (info.channels !== 3) throw new InputError(`${file}: expected an image of 3 channels, got ${info.channels}`);
    return { data: ownBytes(data), width: info.width, height: info.height };
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`${file}: cannot be decoded: ${errorMessage(error)}`);
  }
}

/**
 * Resizes bilinearly. A reduction averages over all pixels that it covers (libvips' "linear" kernel, like Pillow's
 * BILINEAR). Returns the same image if it already has the size.
 */
export async function resizeImage(image: PixelImage, { width, height }: Size): Promise<PixelImage> {
  if (image.width === width && image.height === height) return image;
  const { data, info } = await sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } })
    .resize(width, height, { fit: 'fill', kernel: 'linear' })
    .raw()
    .toUint8Array();
  return { data: ownBytes(data), width: info.width, height: info.height };
}

/** The same bytes as a Uint8Array that fills its buffer, so that the buffer can be transferred to another thread. */
export function ownBytes(data: Uint8Array): Uint8Array {
  return data.byteLength === data.buffer.byteLength ? new Uint8Array(data.buffer) : Uint8Array.from(data);
}

/** Applies a planned transform. The result shares no memory with `image`. */
export async function transformImage(image: PixelImage, transform: ImageTransform): Promise<PixelImage> {
  const { uncropped, crop } = transform;
  const cropped = uncropped === null || crop === null ? image : cropImage(await resizeImage(image, uncropped), crop);
  const resized = await resizeImage(cropped, transform);
  if (transform.flip) return flipImage(resized);
  return resized === image ? { ...image, data: image.data.slice() } : resized;
}

function cropImage(image: PixelImage, { x, y, width, height }: NonNullable<ImageTransform['crop']>): PixelImage {
  const data = new Uint8Array(width * height * 3);
  for (let row = 0; row < height; row++) {
    const start = ((y + row) * image.width + x) * 3;
    data.set(image.data.subarray(start, start + width * 3), row * width * 3);
  }
  return { data, width, height };
}

/** Mirrors an image horizontally. */
function flipImage({ data, width, height }: PixelImage): PixelImage {
  const flipped = new Uint8Array(data.length);
  for (let row = 0; row < height; row++) {
    let to = row * width * 3;
    for (let from = to + (width - 1) * 3; from >= row * width * 3; from -= 3, to += 3) {
      flipped[to] = data[from];
      flipped[to + 1] = data[from + 1];
      flipped[to + 2] = data[from + 2];
    }
  }
  return { data: flipped, width, height };
}

/** Decoded images of at most `capacity` bytes together. The least recently used images are dropped. */
export class ImageCache {
  private readonly images = new Map<string, PixelImage>();
  private bytes = 0;

  constructor(private readonly capacity: number) {}

  get(key: string): PixelImage | undefined {
    const image = this.images.get(key);
    if (image !== undefined) {
      // A Map lists its keys in the order of insertion, so the first key is the least recently used.
      this.images.delete(key);
      this.images.set(key, image);
    }
    return image;
  }

  set(key: string, image: PixelImage): void {
    if (image.data.byteLength > this.capacity || this.images.has(key)) return;
    this.images.set(key, image);
    this.bytes += image.data.byteLength;
    for (const [oldest, { data }] of this.images) {
      if (this.bytes <= this.capacity) break;
      this.images.delete(oldest);
      this.bytes -= data.byteLength;
    }
  }
}
