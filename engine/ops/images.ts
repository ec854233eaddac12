/** Conversion of decoded images to the network's input. */
import { normalizeImagesKernel, PIXELS_AT_ONCE } from '../../kernels/images.ts';
import { shapeError } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { elementwise } from '../core/elementwise.ts';

export interface ImageData {
  /** RGB, row by row, height * width * 3 values in 0 .. 255. */
  readonly data: Uint8Array | Float32Array;
  /** Pixels. */
  readonly width: number;
  readonly height: number;
}

export interface NormalizeOptions {
  /** Mean and standard deviation of each channel, in the images' unit. */
  readonly mean: readonly [r: number, g: number, b: number];
  readonly std: readonly [r: number, g: number, b: number];
  /** Height and width of the batch are multiples of this; default 32. */
  readonly divisor?: number;
  /** Size of the batch before rounding up to the divisor; default: the largest height and width among the images. */
  readonly height?: number;
  readonly width?: number;
}

/** Words before the values, per image. */
const HEAD_WORDS = 4;
/** Minimum number of elements per invocation. An element of `normalizeImagesKernel` has a dozen values. */
const MIN_SHARE = 4;

function checkImages(images: readonly ImageData[]): void {
  if (images.length === 0) shapeError('normalizeImages', 'images', 'at least one image', '0');
  images.forEach(({ data, width, height }, i) => {
    if (!Number.isInteger(width) || width < 1)
      shapeError('normalizeImages', `images[${i}].width`, 'a positive integer', String(width));
    if (!Number.isInteger(height) || height < 1)
      shapeError('normalizeImages', `images[${i}].height`, 'a positive integer', String(height));
    if (data.length !== width * height * 3)
      shapeError('normalizeImages', `images[${i}].data`, `${height} x ${width} x 3 values`, `${data.length}`);
  });
}

const isFloat = ({ data }: ImageData): boolean => data instanceof Float32Array;
const wordsOf = (values: number, float: boolean): number => (float ? values : Math.ceil(values / 4));

/**
 * Words that `packImages` needs for a batch of images of up to this size.
 * @param floats whether some images may have float values; otherwise all have bytes
 */
export function packedWords(batch: number, height: number, width: number, floats: boolean): number {
  return batch * (HEAD_WORDS + wordsOf(height * width * 3, floats));
}

/**
 * Packs images into one array for `normalizePacked` (kernels/images.ts has the format). Writes from the start of
 * `packed` where it is given.
 * @throws ShapeError where an image's data do not fit its size, or where `packed` is too short
 */
export function packImages(images: readonly ImageData[], packed?: Uint32Array<ArrayBuffer>): Uint32Array<ArrayBuffer> {
  checkImages(images);
  const words = images.map((image) => wordsOf(image.data.length, isFloat(image)));
  const needed = HEAD_WORDS * images.length + words.reduce((a, b) => a + b, 0);
  const into = packed ?? new Uint32Array(needed);
  if (into.length < needed) shapeError('packImages', 'packed', `at least ${needed} words`, `${into.length}`);
  let first = HEAD_WORDS * images.length;
  images.forEach((image, i) => {
    const { data, width, height } = image;
    into.set([first, width, height, isFloat(image) ? 1 : 0], i * HEAD_WORDS);
    if (data instanceof Float32Array) new Float32Array(into.buffer, into.byteOffset + first * 4, data.length).set(data);
    else new Uint8Array(into.buffer, into.byteOffset + first * 4, data.length).set(data);
    first += words[i];
  });
  return into;
}

function checkStatistics({ divisor = 32, std }: NormalizeOptions): void {
  if (!Number.isInteger(divisor) || divisor < 1)
    shapeError('normalizeImages', 'divisor', 'a positive integer', String(divisor));
  if (std.some((value) => !(value > 0)))
    shapeError('normalizeImages', 'std', 'three positive numbers', `[${std.join(', ')}]`);
}

/** Height and width of the batch that `normalizeImages` returns for these images. */
export function paddedSize(
  images: readonly { readonly width: number; readonly height: number }[],
  { divisor = 32, height, width }: Omit<NormalizeOptions, 'mean' | 'std'>,
): [height: number, width: number] {
  const padded = (side: 'height' | 'width', given: number | undefined): number => {
    const largest = images.reduce((size, image) => Math.max(size, image[side]), 0);
    const size = given ?? largest;
    if (!Number.isInteger(size) || size < largest)
      shapeError('normalizeImages', side, `an integer of at least ${largest}, the largest image's`, String(size));
    return Math.ceil(size / divisor) * divisor;
  };
  return [padded('height', height), padded('width', width)];
}

/**
 * Uploads images and normalizes them on the device: (value - mean) / std. Zeros, the mean color, fill the right and
 * bottom up to a common size. One upload, one dispatch; no gradient.
 *
 * @returns [B, H, W, 3]
 * @throws ShapeError where an image's data do not fit its size, or where an image does not fit the given size
 */
export function normalizeImages(device: TensorDevice, images: readonly ImageData[], options: NormalizeOptions): Tensor {
  checkImages(images);
  checkStatistics(options);
  const [height, width] = paddedSize(images, options);
  return device.opScope(() =>
    normalizePacked(device.tensor(packImages(images)), images.length, { ...options, height, width }),
  );
}

/**
 * `normalizeImages` of images that are already on the device, in the format of `packImages`. There are `batch` images,
 * none larger than the given height and width.
 */
export function normalizePacked(
  packed: Tensor,
  batch: number,
  options: NormalizeOptions & { readonly height: number; readonly width: number },
): Tensor {
  checkStatistics(options);
  const { device } = packed;
  const [height, width] = paddedSize([], options);
  const output = device.empty([batch, height, width, 3]);
  const quadsPerRow = Math.ceil(width / PIXELS_AT_ONCE);
  const count = batch * height * quadsPerRow;
  const { lanes, grid } = elementwise(device, count, MIN_SHARE);
  const [meanR, meanG, meanB] = options.mean;
  const [stdR, stdG, stdB] = options.std;
  device.run(
    normalizeImagesKernel(width % PIXELS_AT_ONCE === 0, lanes),
    { count, height, width, quadsPerRow, meanR, meanG, meanB, stdR, stdG, stdB },
    { images: packed, output },
    grid,
  );
  return output;
}
