/** Reads the sizes of many images from their headers. */
import { availableParallelism } from 'node:os';
import sharp from 'sharp';
import { errorMessage } from '../../engine/core/errors.ts';
import type { Size } from '../core/image-record.ts';
import type { Warnings } from './warnings.ts';

/** The kind of the warnings about images without a header. */
export const UNREADABLE = 'images that cannot be read, left out';

/**
 * The sizes of images in pixels, as they are displayed: an EXIF orientation is applied. An image whose header cannot
 * be read is absent.
 * @param warnings receives these images with the reason; null: the caller reports them
 * @param progress called after each image
 */
export async function readImageSizes(
  files: readonly string[],
  warnings: Warnings | null,
  progress: (done: number, total: number) => void = () => {},
): Promise<Map<string, Size>> {
  const sizes = new Map<string, Size>();
  const failures = new Map<string, string>();
  let next = 0;
  let done = 0;
  const readNext = async (): Promise<void> => {
    while (next < files.length) {
      const file = files[next++];
      try {
        const { width, height } = (await sharp(file).metadata()).autoOrient;
        sizes.set(file, { width, height });
      } catch (error) {
        failures.set(file, errorMessage(error));
      }
      progress(++done, files.length);
    }
  };
  await Promise.all(Array.from({ length: 2 * availableParallelism() }, readNext));
  // In the order of the files, because the images are read in any order.
  for (const file of files) {
    const reason = failures.get(file);
    if (reason !== undefined) warnings?.add('images that cannot be read, left out', `${file}: ${reason}`);
  }
  return sizes;
}
