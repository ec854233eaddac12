/**
 * Images as they were decoded -> a normalised, padded batch. One lane four neighbouring pixels of a row of the result [batch, height, width, 3].
 *
 * `images` holds four words an image (first word of its values, width, height, 1 for float values or 0 for bytes), and behind them the values:
 * RGB, row by row, as f32 or packed four bytes a word.
 */
import { defineKernel, kernelFamily } from './kernel.ts';

/** Pixels of a lane. */
export const PIXELS_A_LANE = 4;

const VALUES = Array.from({ length: 3 * PIXELS_A_LANE }, (_, i) => i);
const value = (i: number): string => `values${Math.floor(i / 4)}[${i % 4}]`;
const WORDS = [0, 1, 2];

/** @param whole rows of the result are whole lanes, whose values are stored as vec4s; otherwise value by value */
export const normalizeImagesKernel = kernelFamily((whole: boolean) => defineKernel({
  name: `normalize_images_f32_${whole ? 'vec4' : 'scalar'}`,
  workgroup: [64],
  params: {
    count: 'u32', height: 'u32', width: 'u32', lanesARow: 'u32',
    meanR: 'f32', meanG: 'f32', meanB: 'f32', stdR: 'f32', stdG: 'f32', stdB: 'f32',
  },
  buffers: { images: 'read u32', output: whole ? 'write vec4f' : 'write f32' },
  module: `
fn normalised(value: f32, channel: u32) -> f32 { return (value - vec3f(p.meanR, p.meanG, p.meanB)[channel]) / vec3f(p.stdR, p.stdG, p.stdB)[channel]; }`,
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let line = i / p.lanesARow;
  let x = (i - line * p.lanesARow) * ${PIXELS_A_LANE}u;
  let image = line / p.height;
  let y = line - image * p.height;
  let first = images[image * 4u];
  let width = images[image * 4u + 1u];
  let pixels = select(0u, min(${PIXELS_A_LANE}u, width - x), x < width && y < images[image * 4u + 2u]);
  let at = (y * width + x) * 3u;
  ${WORDS.map((w) => `var values${w} = vec4f();`).join(' ')}
  if (pixels > 0u) {
    if (images[image * 4u + 3u] != 0u) {
      ${VALUES.map((v) => `if (pixels > ${Math.floor(v / 3)}u) { ${value(v)} = bitcast<f32>(images[first + at + ${v}u]); }`).join('\n      ')}
    } else {
      // Four words hold the bytes of the lane, wherever they begin.
      let word = first + at / 4u;
      let shift = 8u * (at % 4u);
      let last = first + (at + pixels * 3u - 1u) / 4u;
      let words = vec4u(images[word], images[min(word + 1u, last)], images[min(word + 2u, last)], images[min(word + 3u, last)]);
      ${WORDS.map((w) => `let bytes${w} = select((words[${w}] >> shift) | (words[${w + 1}] << (32u - shift)), words[${w}], shift == 0u);
      values${w} = vec4f(vec4u(bytes${w}, bytes${w} >> 8u, bytes${w} >> 16u, bytes${w} >> 24u) & vec4u(255u));`).join('\n      ')}
    }
  }
  ${VALUES.map((v) => `${value(v)} = select(0.0, normalised(${value(v)}, ${v % 3}u), pixels > ${Math.floor(v / 3)}u);`).join('\n  ')}
  ${whole ? WORDS.map((w) => `output[i * 3u + ${w}u] = values${w};`).join('\n  ') : `let to = (line * p.width + x) * 3u;
  let stored = min(${PIXELS_A_LANE}u, p.width - x) * 3u;
  ${VALUES.map((v) => `if (${v}u < stored) { output[to + ${v}u] = ${value(v)}; }`).join('\n  ')}`}`,
}));
