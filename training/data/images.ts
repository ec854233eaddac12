/** Pixels: resizes, crops and flips images. Images are RGB bytes, height x width x 3 (HWC). */
import sharp from 'sharp';
import type { Size } from '../core/image-record.ts';
import type { ImageTransform } from '../core/transforms.ts';
import { ownBytes, type PixelImage } from './decode.ts';

export { decodeImage } from './decode.ts';
export type { PixelImage } from './decode.ts';

/**
 * Resizes bilinearly. A reduction averages over all pixels that it covers (libvips' "linear" kernel, like Pillow's
 * BILINEAR). Returns the same image if it already has the size.
 */
export async function resizeImage(image: PixelImage, { width, height }: Size): Promise<PixelImage> {
  if (image.width === width && image.height === height) return image;
  const { data, info } = await sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } })
    .resize(width, height, { fit: 'fill', kernel: 'linear' })
    .raw()
    // Not toUint8Array: sharp 0.35.5 does not free its bytes.
    .toBuffer({ resolveWithObject: true });
  return { data: ownBytes(data), width: info.width, height: info.height };
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
