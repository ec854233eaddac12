/** From decoded images to the network's input. */
import { normalizeImagesKernel } from '../../kernels/images.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import type { Device } from '../device.ts';
import { shapeError } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

export interface ImageData {
  /** RGB, row by row, height * width * 3 values in 0 .. 255. */
  readonly data: Uint8Array | Float32Array;
  /** Pixels. */
  readonly width: number;
  readonly height: number;
}

export interface NormalizeOptions {
  /** Of each channel, in the images' unit. */
  readonly mean: readonly [r: number, g: number, b: number];
  readonly std: readonly [r: number, g: number, b: number];
  /** Height and width of the batch are multiples of this; default 32. */
  readonly divisor?: number;
  /** Size of the batch before rounding up to the divisor; default: the largest height and width among the images. */
  readonly height?: number;
  readonly width?: number;
}

const HEAD_WORDS = 4;

function checkImages(images: readonly ImageData[]): void {
  if (images.length === 0) shapeError('normalizeImages', 'images', 'at least one image', '0');
  images.forEach(({ data, width, height }, i) => {
    if (!Number.isInteger(width) || width < 1) shapeError('normalizeImages', `images[${i}].width`, 'a positive integer', String(width));
    if (!Number.isInteger(height) || height < 1) shapeError('normalizeImages', `images[${i}].height`, 'a positive integer', String(height));
    if (data.length !== width * height * 3) shapeError('normalizeImages', `images[${i}].data`, `${height} x ${width} x 3 values`, `${data.length}`);
  });
}

/** All images in one array, as the kernel reads it. */
function pack(images: readonly ImageData[]): Uint32Array<ArrayBuffer> {
  const words = images.map(({ data }) => (data instanceof Float32Array ? data.length : Math.ceil(data.length / 4)));
  const packed = new Uint32Array(HEAD_WORDS * images.length + words.reduce((a, b) => a + b, 0));
  let first = HEAD_WORDS * images.length;
  images.forEach(({ data, width, height }, i) => {
    const isFloat = data instanceof Float32Array;
    packed.set([first, width, height, isFloat ? 1 : 0], i * HEAD_WORDS);
    if (isFloat) new Float32Array(packed.buffer, first * 4, data.length).set(data);
    else new Uint8Array(packed.buffer, first * 4, data.length).set(data);
    first += words[i];
  });
  return packed;
}

/**
 * Uploads images and makes the network's input of them on the device: (value - mean) / std, with zeros (the mean colour) at right and bottom up to a common size.
 * [B, H, W, 3]; carries no gradient. One upload, one dispatch. Throws ShapeError where an image's data do not fit its size, or it does not fit the given one.
 */
export function normalizeImages(device: Device, images: readonly ImageData[], { mean, std, divisor = 32, height, width }: NormalizeOptions): Tensor {
  checkImages(images);
  if (!Number.isInteger(divisor) || divisor < 1) shapeError('normalizeImages', 'divisor', 'a positive integer', String(divisor));
  if (std.some((value) => !(value > 0))) shapeError('normalizeImages', 'std', 'three positive numbers', `[${std.join(', ')}]`);
  const padded = (side: 'height' | 'width', given: number | undefined): number => {
    const largest = images.reduce((size, image) => Math.max(size, image[side]), 0);
    const size = given ?? largest;
    if (!Number.isInteger(size) || size < largest) shapeError('normalizeImages', side, `an integer, at least the ${largest} of the largest image`, String(size));
    return Math.ceil(size / divisor) * divisor;
  };
  const [H, W] = [padded('height', height), padded('width', width)];
  return device.opScope(() => {
    const output = device.empty([images.length, H, W, 3]);
    const count4 = Math.ceil(output.size / 4);
    const [meanR, meanG, meanB] = mean;
    const [stdR, stdG, stdB] = std;
    device.run(normalizeImagesKernel(), { count4, batch: images.length, height: H, width: W, meanR, meanG, meanB, stdR, stdG, stdB },
      { images: device.tensor(pack(images)), output }, linearGrid(Math.ceil(count4 / 64)));
    return output;
  });
}
