/**
 * Resizing of NHWC maps and its gradients. Invocations handle vec4s of channels, or single channels where the number of
 * channels is not a multiple of 4. `channels` counts buffer elements: vec4s or single values.
 */
import { defineKernel, eachPlace, kernelFamily } from './kernel.ts';

const element = (vec4: boolean): 'vec4f' | 'f32' => (vec4 ? 'vec4f' : 'f32');
const suffix = (vec4: boolean): string => (vec4 ? '_vec4' : '');

/** WGSL that runs `statements` for every element `i`, at pixel (image, y, x) and channel `c`. */
const eachPixel = (lanes: number, height: string, width: string, statements: string): string =>
  eachPlace(
    {
      lanes,
      count: 'p.count',
      sizes: [
        ['c', 'p.channels'],
        ['x', width],
        ['y', height],
      ],
      outermost: 'image',
    },
    statements,
  );

const NEAREST_PARAMS = { count: 'u32', height: 'u32', width: 'u32', factor: 'u32', channels: 'u32' } as const;

/** Repeats every input pixel in a block of `factor` x `factor` pixels. */
export const upsampleNearestKernel = kernelFamily((vec4: boolean, lanes: number) =>
  defineKernel({
    name: `upsample_nearest_f32${suffix(vec4)}`,
    workgroup: [lanes],
    params: NEAREST_PARAMS,
    buffers: { input: `read ${element(vec4)}`, output: `write ${element(vec4)}` },
    body: eachPixel(
      lanes,
      'p.height',
      'p.width',
      `
  let value = input[i];
  let pitch = p.width * p.factor * p.channels;
  for (var dy = 0u; dy < p.factor; dy++) {
    let at = (image * p.height * p.factor + y * p.factor + dy) * pitch + x * p.factor * p.channels + c;
    for (var dx = 0u; dx < p.factor; dx++) { output[at + dx * p.channels] = value; }
  }`,
    ),
  }),
);

/** Gradient: sums over the block of pixels that repeat an input pixel. */
export const upsampleNearestGradientKernel = kernelFamily((vec4: boolean, lanes: number) =>
  defineKernel({
    name: `upsample_nearest_gradient_f32${suffix(vec4)}`,
    workgroup: [lanes],
    params: NEAREST_PARAMS,
    buffers: { upstream: `read ${element(vec4)}`, gradient: `write ${element(vec4)}` },
    body: eachPixel(
      lanes,
      'p.height',
      'p.width',
      `
  var sum = ${element(vec4)}();
  for (var dy = 0u; dy < p.factor; dy++) {
    let row = (image * p.height * p.factor + y * p.factor + dy) * p.width * p.factor + x * p.factor;
    for (var dx = 0u; dx < p.factor; dx++) { sum += upstream[(row + dx) * p.channels + c]; }
  }
  gradient[i] = sum;`,
    ),
  }),
);

/** `scaleY` and `scaleX` are input size / output size. */
const BILINEAR_PARAMS = {
  count: 'u32',
  height: 'u32',
  width: 'u32',
  outH: 'u32',
  outW: 'u32',
  channels: 'u32',
  scaleY: 'f32',
  scaleX: 'f32',
} as const;

/**
 * Along one axis, output pixel `at` reads the input pixels `low` and `high` with weights 1 - t and t. Pixel centers lie
 * at half integers (align_corners = false); positions before the first center are moved to the first center. Forward
 * and gradient share this function, so that they agree to the bit.
 */
const TAPS = `
struct Taps { low: u32, high: u32, t: f32 }
fn taps(at: u32, scale: f32, size: u32) -> Taps {
  let position = max((f32(at) + 0.5) * scale - 0.5, 0.0);
  let low = min(u32(position), size - 1u);
  return Taps(low, min(low + 1u, size - 1u), position - f32(low));
}`;

/** Bilinear interpolation. */
export const resizeBilinearKernel = kernelFamily((vec4: boolean, lanes: number) =>
  defineKernel({
    name: `resize_bilinear_f32${suffix(vec4)}`,
    workgroup: [lanes],
    params: BILINEAR_PARAMS,
    buffers: { input: `read ${element(vec4)}`, output: `write ${element(vec4)}` },
    module: `${TAPS}
fn at(image: u32, y: u32, x: u32, c: u32) -> ${element(vec4)} {
  return input[((image * p.height + y) * p.width + x) * p.channels + c];
}`,
    body: eachPixel(
      lanes,
      'p.outH',
      'p.outW',
      `
  let ty = taps(y, p.scaleY, p.height);
  let tx = taps(x, p.scaleX, p.width);
  let top = at(image, ty.low, tx.low, c) * (1.0 - tx.t) + at(image, ty.low, tx.high, c) * tx.t;
  let bottom = at(image, ty.high, tx.low, c) * (1.0 - tx.t) + at(image, ty.high, tx.high, c) * tx.t;
  output[i] = top * (1.0 - ty.t) + bottom * ty.t;`,
    ),
  }),
);

/**
 * Gradient: an input pixel sums over the output pixels whose positions lie within one pixel of it. The range has one
 * more pixel on either side, because of rounding.
 */
export const resizeBilinearGradientKernel = kernelFamily((vec4: boolean, lanes: number) =>
  defineKernel({
    name: `resize_bilinear_gradient_f32${suffix(vec4)}`,
    workgroup: [lanes],
    params: BILINEAR_PARAMS,
    buffers: { upstream: `read ${element(vec4)}`, gradient: `write ${element(vec4)}` },
    module: `${TAPS}
// The weight with which output pixel at reads input pixel own.
fn weightOf(at: u32, own: u32, scale: f32, size: u32) -> f32 {
  let t = taps(at, scale, size);
  return select(0.0, 1.0 - t.t, t.low == own) + select(0.0, t.t, t.high == own);
}
fn firstReader(own: u32, scale: f32) -> u32 {
  return select(u32(max((f32(own) - 0.5) / scale - 1.5, 0.0)), 0u, own == 0u);
}
fn lastReader(own: u32, scale: f32, size: u32, outSize: u32) -> u32 {
  return select(min(u32((f32(own) + 1.5) / scale + 1.5), outSize - 1u), outSize - 1u, own + 1u == size);
}`,
    body: eachPixel(
      lanes,
      'p.height',
      'p.width',
      `
  let lastY = lastReader(y, p.scaleY, p.height, p.outH);
  let firstX = firstReader(x, p.scaleX);
  let lastX = lastReader(x, p.scaleX, p.width, p.outW);
  var sum = ${element(vec4)}();
  for (var oy = firstReader(y, p.scaleY); oy <= lastY; oy++) {
    let shareY = weightOf(oy, y, p.scaleY, p.height);
    if (shareY == 0.0) { continue; }
    for (var ox = firstX; ox <= lastX; ox++) {
      let weight = shareY * weightOf(ox, x, p.scaleX, p.width);
      if (weight != 0.0) { sum += weight * upstream[((image * p.outH + oy) * p.outW + ox) * p.channels + c]; }
    }
  }
  gradient[i] = sum;`,
    ),
  }),
);
