/** Pixels of training images: flips, turns, changes of colors, and several images on a canvas. RGB bytes, HWC. */
import type { ColorChange } from '../core/color-change.ts';
import type { Composition } from '../core/composition.ts';
import type { PixelImage } from './images.ts';

/** The mean color of ImageNet. After normalization it is near 0, the value of the padding of batches. */
const CANVAS_COLOR = [124, 116, 104] as const;

/** Mirrors an image vertically if `flipVertical` is set, and then exchanges x and y if `transpose` is set. */
export function orientImage(image: PixelImage, flipVertical: boolean, transpose: boolean): PixelImage {
  if (!flipVertical && !transpose) return image;
  const { data, width, height } = image;
  const result = new Uint8Array(data.length);
  if (!transpose) {
    const row = width * 3;
    for (let y = 0; y < height; y++) result.set(data.subarray(y * row, (y + 1) * row), (height - 1 - y) * row);
    return { data: result, width, height };
  }
  for (let y = 0; y < height; y++) {
    let from = (flipVertical ? height - 1 - y : y) * width * 3;
    // A row becomes a column.
    for (let x = 0, to = y * 3; x < width; x++, from += 3, to += height * 3) {
      result[to] = data[from];
      result[to + 1] = data[from + 1];
      result[to + 2] = data[from + 2];
    }
  }
  return { data: result, width: height, height: width };
}

/** Changes the colors of an image in place. Values are rounded, and clamped to 0 .. 255. */
export function changeColors({ data }: PixelImage, [red, green, blue]: ColorChange): void {
  const [rr, rg, rb, r0] = red,
    [gr, gg, gb, g0] = green,
    [br, bg, bb, b0] = blue;
  const clamped = new Uint8ClampedArray(data.buffer, data.byteOffset, data.length);
  for (let i = 0; i < data.length; i += 3) {
    const r = data[i],
      g = data[i + 1],
      b = data[i + 2];
    clamped[i] = rr * r + rg * g + rb * b + r0;
    clamped[i + 1] = gr * r + gg * g + gb * b + g0;
    clamped[i + 2] = br * r + bg * g + bb * b + b0;
  }
}

/**
 * Places the pixels of a composition's pieces, in their order, on its canvas. A single piece that fills the canvas is
 * returned itself.
 */
export function composeImage(composition: Composition, images: readonly PixelImage[]): PixelImage {
  const { width, height, pieces } = composition;
  if (pieces.length === 1 && images[0].width === width && images[0].height === height) return images[0];
  const data = new Uint8Array(width * height * 3);
  const covered = pieces.reduce((sum, _, i) => sum + images[i].width * images[i].height, 0);
  if (covered < width * height) fillCanvas(data, width);
  for (const [i, { x, y }] of pieces.entries()) {
    const image = images[i];
    const row = image.width * 3;
    for (let line = 0; line < image.height; line++)
      data.set(image.data.subarray(line * row, (line + 1) * row), ((y + line) * width + x) * 3);
  }
  return { data, width, height };
}

function fillCanvas(data: Uint8Array, width: number): void {
  const row = width * 3;
  for (let i = 0; i < row; i++) data[i] = CANVAS_COLOR[i % 3];
  for (let start = row; start < data.length; start += row) data.copyWithin(start, 0, row);
}
