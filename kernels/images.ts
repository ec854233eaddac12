/**
 * Decoded images -> a normalized, padded batch [batch, height, width, 3]. One element is `PIXELS_AT_ONCE` neighboring
 * pixels of a row of the result.
 *
 * `images` starts with four words per image: index of the first word of its values, width, height, and 1 for float
 * values or 0 for bytes. The values follow: RGB, row by row, as f32 or packed as four bytes per word.
 */
import { defineKernel, eachPlace, kernelFamily } from './kernel.ts';
import { range } from './repeat.ts';

/** Pixels per element. */
export const PIXELS_AT_ONCE = 4;

/** Indices of the element's values, and of the vec4s that hold them. */
const VALUES = range(3 * PIXELS_AT_ONCE);
const WORDS = range(3);
const value = (i: number): string => `values${Math.floor(i / 4)}[${i % 4}]`;
const floatsOf = (word: number): string =>
  [0, 1, 2, 3].map((c) => `images[min(first + at + ${4 * word + c}u, last)]`).join(', ');

/**
 * WGSL that loads the element's values: `pixels` RGB pixels from value `at` of the image on, whose words start at
 * `first`.
 */
const LOAD_VALUES = `
    if (images[image * 4u + 3u] != 0u) {
      // Past the last pixel, the last value is read again.
      let last = first + at + pixels * 3u - 1u;
      ${WORDS.map((w) => `values${w} = bitcast<vec4f>(vec4u(${floatsOf(w)}));`).join('\n      ')}
    } else {
      // The bytes of the element lie within four words, at any alignment.
      let word = first + at / 4u;
      let shift = 8u * (at % 4u);
      let last = first + (at + pixels * 3u - 1u) / 4u;
      let words = vec4u(
        images[word], images[min(word + 1u, last)], images[min(word + 2u, last)], images[min(word + 3u, last)]);
      ${WORDS.map((w) =>
        [
          `let joined${w} = (words[${w}] >> shift) | (words[${w + 1}] << (32u - shift));`,
          `let bytes${w} = select(joined${w}, words[${w}], shift == 0u);`,
          `values${w} = vec4f(vec4u(bytes${w}, bytes${w} >> 8u, bytes${w} >> 16u, bytes${w} >> 24u) & vec4u(255u));`,
        ].join('\n      '),
      ).join('\n      ')}
    }`;

/** @param whole whether rows of the result consist of whole elements, which are stored as vec4s */
export const normalizeImagesKernel = kernelFamily((whole: boolean, lanes: number) =>
  defineKernel({
    name: `normalize_images_f32_${whole ? 'vec4' : 'scalar'}`,
    workgroup: [lanes],
    params: {
      count: 'u32',
      height: 'u32',
      width: 'u32',
      quadsPerRow: 'u32',
      meanR: 'f32',
      meanG: 'f32',
      meanB: 'f32',
      stdR: 'f32',
      stdG: 'f32',
      stdB: 'f32',
    },
    buffers: { images: 'read u32', output: whole ? 'write vec4f' : 'write f32' },
    module: `
fn normalized(value: f32, channel: u32) -> f32 {
  return (value - vec3f(p.meanR, p.meanG, p.meanB)[channel]) / vec3f(p.stdR, p.stdG, p.stdB)[channel];
}`,
    body: eachPlace(
      {
        lanes,
        count: 'p.count',
        sizes: [
          ['quad', 'p.quadsPerRow'],
          ['y', 'p.height'],
        ],
        outermost: 'image',
      },
      `
  let x = quad * ${PIXELS_AT_ONCE}u;
  let first = images[image * 4u];
  let width = images[image * 4u + 1u];
  let pixels = select(0u, min(${PIXELS_AT_ONCE}u, width - x), x < width && y < images[image * 4u + 2u]);
  let at = (y * width + x) * 3u;
  ${WORDS.map((w) => `var values${w} = vec4f();`).join(' ')}
  if (pixels > 0u) {${LOAD_VALUES}
  }
  ${VALUES.map((v) => {
    const normalized = `normalized(${value(v)}, ${v % 3}u)`;
    return `${value(v)} = select(0.0, ${normalized}, pixels > ${Math.floor(v / 3)}u);`;
  }).join('\n  ')}
  ${
    whole
      ? WORDS.map((w) => `output[i * 3u + ${w}u] = values${w};`).join('\n  ')
      : `let to = ((image * p.height + y) * p.width + x) * 3u;
  let stored = min(${PIXELS_AT_ONCE}u, p.width - x) * 3u;
  ${VALUES.map((v) => `if (${v}u < stored) { output[to + ${v}u] = ${value(v)}; }`).join('\n  ')}`
  }`,
    ),
  }),
);
