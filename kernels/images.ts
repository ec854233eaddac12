/**
 * Images as they were decoded -> a normalised, padded batch. One lane four neighbouring values of the result [batch, height, width, 3].
 *
 * `images` holds four words an image (first word of its values, width, height, 1 for float values or 0 for bytes), and behind them the values:
 * RGB, row by row, as f32 or packed four bytes a word.
 */
import { defineKernel, kernelFamily } from './kernel.ts';

export const normalizeImagesKernel = kernelFamily(() => defineKernel({
  name: 'normalize_images_f32',
  workgroup: [64],
  params: {
    count4: 'u32', batch: 'u32', height: 'u32', width: 'u32',
    meanR: 'f32', meanG: 'f32', meanB: 'f32', stdR: 'f32', stdG: 'f32', stdB: 'f32',
  },
  buffers: { images: 'read u32', output: 'write vec4f' },
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count4) { return; }
  let mean = vec3f(p.meanR, p.meanG, p.meanB);
  let deviation = vec3f(p.stdR, p.stdG, p.stdB);
  var values = vec4f();
  for (var k = 0u; k < 4u; k++) {
    let channel = (i * 4u + k) % 3u;
    let pixel = (i * 4u + k) / 3u;
    let x = pixel % p.width;
    let y = (pixel / p.width) % p.height;
    let head = pixel / (p.width * p.height) * 4u;
    if (head >= p.batch * 4u) { continue; }
    let width = images[head + 1u];
    if (x >= width || y >= images[head + 2u]) { continue; }
    let at = (y * width + x) * 3u + channel;
    var value: f32;
    if (images[head + 3u] != 0u) { value = bitcast<f32>(images[images[head] + at]); }
    else { value = f32((images[images[head] + at / 4u] >> (8u * (at % 4u))) & 255u); }
    values[k] = (value - mean[channel]) / deviation[channel];
  }
  output[i] = values;`,
}));
