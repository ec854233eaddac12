/**
 * RoIAlign over a feature pyramid (He et al., Mask R-CNN, 2017; levels by Lin et al., FPN, 2017, equation 1).
 *
 * One lane computes one vec4 of channels (a scalar where the channel count is no multiple of 4), so that neighbouring lanes read neighbouring memory.
 * The weight of a feature pixel in a bin is a product of one factor a dimension, and the gradient uses that: a lane gathers, for a run of pixels of a
 * row, over the boxes of its image and level in their order. No atomics, and the same bits every time.
 */
import { defineKernel, kernelFamily, type BufferSpec } from './kernel.ts';
import { broadcastLane } from './subgroups.ts';

export const MAX_LEVELS = 4;
/** Neighbouring pixels of a row that one lane of the gradient kernel holds: culling boxes and reading the upstream gradient is shared by them. */
export const RUN = 8;
/** u32 words of one entry of a box list: pixel ranges and box number, then the sampling geometry. */
export const ENTRY_WORDS = 8;

/** A box as samples see it: where the samples of an axis begin, and the size of a bin, both in pixels of its level. */
const GEOMETRY = `
struct Geometry { level: u32, inside: bool, start: vec2f, bin: vec2f }

// Coordinates that are not finite, or so large that products overflow, are told by their bits: comparisons with NaN are not reliable.
fn usable(box: vec4f) -> bool {
  return all((bitcast<vec4u>(box) & vec4u(0x7fffffffu)) < vec4u(0x58635fa9u)); // 1e15
}

// The thresholds are areas from which on a box belongs to the next level; an inverted box has a negative area and lands on the finest one.
fn geometryOf(box: vec4f) -> Geometry {
  let area = (box.z - box.x) * (box.w - box.y);
  var level = select(0u, 1u, area >= p.area1) + select(0u, 1u, area >= p.area2) + select(0u, 1u, area >= p.area3);
  level = min(level, p.levels - 1u);
  let scale = select(select(p.scale0, p.scale1, level == 1u), select(p.scale2, p.scale3, level == 3u), level >= 2u);
  let start = box.xy * scale - 0.5;
  let end = box.zw * scale - 0.5;
  return Geometry(level, usable(box), start, (end - start) / f32(p.resolution));
}`;

/** Coordinate of sample `s` of bin `b` of an axis, in the order of operations of torchvision. */
const SAMPLE = `
fn sampleAt(start: f32, bin: f32, b: u32, s: u32) -> f32 {
  return start + f32(b) * bin + (f32(s) + 0.5) * bin / f32(p.samples);
}`;

const GEOMETRY_PARAMS = {
  levels: 'u32',
  resolution: 'u32',
  samples: 'u32',
  area1: 'f32',
  area2: 'f32',
  area3: 'f32',
  scale0: 'f32',
  scale1: 'f32',
  scale2: 'f32',
  scale3: 'f32',
} as const;

/** Heights and widths of the levels. */
const SIZE_PARAMS = { h0: 'u32', w0: 'u32', h1: 'u32', w1: 'u32', h2: 'u32', w2: 'u32', h3: 'u32', w3: 'u32' } as const;

const LEVEL_SIZE = `
fn levelSize(level: u32) -> vec2u { // width, height
  return select(select(vec2u(p.w0, p.h0), vec2u(p.w1, p.h1), level == 1u), select(vec2u(p.w2, p.h2), vec2u(p.w3, p.h3), level == 3u), level >= 2u);
}`;

/**
 * Output row (box, bin) by channel group; a lane computes `held` vec4s of channels, an equal share of the row apart, from one computation of where the samples lie. Levels that are not there are bound to the coarsest one and never read. `texture`: levels are operand textures, a line a row of pixels.
 */
export const roiAlignKernel = kernelFamily((access: 'scalar' | 'vec4' | 'texture', held: 1 | 4) => {
  const type = access === 'scalar' ? 'f32' : 'vec4f';
  const level: BufferSpec = access === 'texture' ? 'texture' : `read ${type}`;
  const load = (name: string, row: string, x: string, h: number): string =>
    access === 'texture'
      ? `textureLoad(${name}, vec2u(${x} * p.channels + channel + ${h}u * share, ${row}))`
      : `${name}[(${row} * size.x + ${x}) * p.channels + channel + ${h}u * share]`;
  const each = (statement: (h: number) => string): string =>
    Array.from({ length: held }, (_, h) => statement(h)).join('\n      ');
  return defineKernel({
    name: `roi_align_f32${access === 'scalar' ? '' : `_${access}`}${held === 1 ? '' : `_x${held}`}`,
    workgroup: [64],
    params: { ...GEOMETRY_PARAMS, ...SIZE_PARAMS, count: 'u32', channels: 'u32', perImage: 'u32' },
    buffers: {
      boxes: 'read vec4f',
      features0: level,
      features1: level,
      features2: level,
      features3: level,
      output: `write ${type}`,
    },
    module: `${GEOMETRY}${SAMPLE}${LEVEL_SIZE}
${Array.from(
  { length: MAX_LEVELS },
  (_, i) => `
fn pool${i}(g: Geometry, bin: vec2u, image: u32, size: vec2u, channel: u32, share: u32) -> array<${type}, ${held}> {
  let extent = vec2f(size);
  ${each((h) => `var sum${h} = ${type}();`)}
  for (var sy = 0u; sy < p.samples; sy++) {
    let y = sampleAt(g.start.y, g.bin.y, bin.y, sy);
    if (y < -1.0 || y > extent.y) { continue; }
    let yLow = min(u32(max(y, 0.0)), size.y - 1u);
    let yHigh = min(yLow + 1u, size.y - 1u);
    let fy = clamp(y - f32(yLow), 0.0, 1.0) * select(0.0, 1.0, yHigh > yLow);
    let rowLow = image * size.y + yLow;
    let rowHigh = image * size.y + yHigh;
    for (var sx = 0u; sx < p.samples; sx++) {
      let x = sampleAt(g.start.x, g.bin.x, bin.x, sx);
      if (x < -1.0 || x > extent.x) { continue; }
      let xLow = min(u32(max(x, 0.0)), size.x - 1u);
      let xHigh = min(xLow + 1u, size.x - 1u);
      let fx = clamp(x - f32(xLow), 0.0, 1.0) * select(0.0, 1.0, xHigh > xLow);
      let lowLow = (1.0 - fy) * (1.0 - fx);
      let lowHigh = (1.0 - fy) * fx;
      let highLow = fy * (1.0 - fx);
      let highHigh = fy * fx;
      ${each(
        (
          h,
        ) => `sum${h} += lowLow * ${load(`features${i}`, 'rowLow', 'xLow', h)} + lowHigh * ${load(`features${i}`, 'rowLow', 'xHigh', h)}
        + highLow * ${load(`features${i}`, 'rowHigh', 'xLow', h)} + highHigh * ${load(`features${i}`, 'rowHigh', 'xHigh', h)};`,
      )}
    }
  }
  return array<${type}, ${held}>(${each((h) => `sum${h}${h + 1 < held ? ',' : ''}`)});
}`,
).join('')}`,
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let share = p.channels / ${held}u;
  let channel = i % share;
  let row = i / share;
  let bins = p.resolution * p.resolution;
  let box = row / bins;
  let bin = vec2u(row % p.resolution, (row % bins) / p.resolution);
  let g = geometryOf(boxes[box]);
  let size = levelSize(g.level);
  let image = box / p.perImage;
  var sums: array<${type}, ${held}>;
  if (g.inside) {
    // One function a level: a choice of buffer at every load would cost software adapters more than the loads.
    switch g.level {
      case 0u: { sums = pool0(g, bin, image, size, channel, share); }
      case 1u: { sums = pool1(g, bin, image, size, channel, share); }
      case 2u: { sums = pool2(g, bin, image, size, channel, share); }
      default: { sums = pool3(g, bin, image, size, channel, share); }
    }
  }
  ${each((h) => `output[row * p.channels + channel + ${h}u * share] = sums[${h}] / f32(p.samples * p.samples);`)}`,
  });
});

/**
 * For each image and level the list of its boxes, in order, with the pixels that their samples reach.
 * A lane a box finds its place by counting the earlier boxes of its image and level; then a lane an (image, level) counts the boxes there.
 */
export const roiAlignListKernel = kernelFamily(() =>
  defineKernel({
    name: 'roi_align_lists',
    workgroup: [64],
    params: { ...GEOMETRY_PARAMS, ...SIZE_PARAMS, images: 'u32', perImage: 'u32' },
    buffers: { boxes: 'read vec4f', entries: 'write vec4u', counts: 'write u32' },
    module: `${GEOMETRY}${SAMPLE}${LEVEL_SIZE}
const NO_LEVEL = 0xffffffffu;
fn levelOf(box: vec4f) -> u32 {
  let g = geometryOf(box);
  return select(NO_LEVEL, g.level, g.inside);
}
// First and last pixel that samples between two coordinates touch, packed; where there is none, first > last.
fn reach(start: f32, bin: f32, size: u32) -> u32 {
  let a = sampleAt(start, bin, 0u, 0u);
  let b = sampleAt(start, bin, p.resolution - 1u, p.samples - 1u);
  let low = min(a, b);
  let high = max(a, b);
  if (high < -1.0 || low > f32(size)) { return 1u; }
  let last = f32(size) - 1.0;
  return u32(clamp(floor(low), 0.0, last)) | (u32(clamp(floor(high) + 1.0, 0.0, last)) << 16u);
}`,
    body: `
  let i = linearGroup * 64u + lane;
  let total = p.images * p.perImage;
  if (i >= total + p.images * p.levels) { return; }
  let isBox = i < total;
  let image = select((i - total) / p.levels, i / max(p.perImage, 1u), isBox);
  let first = image * p.perImage;
  var level = (i - total) % p.levels;
  if (isBox) { level = levelOf(boxes[i]); }
  if (level == NO_LEVEL) { return; }
  let end = select(first + p.perImage, i, isBox);
  var before = 0u;
  for (var j = first; j < end; j++) {
    before += select(0u, 1u, levelOf(boxes[j]) == level);
  }
  if (!isBox) {
    counts[image * p.levels + level] = before;
    return;
  }
  let g = geometryOf(boxes[i]);
  let size = levelSize(level);
  let at = ((image * p.levels + level) * p.perImage + before) * 2u;
  entries[at] = vec4u(reach(g.start.y, g.bin.y, size.y), reach(g.start.x, g.bin.x, size.x), i, 0u);
  entries[at + 1u] = bitcast<vec4u>(vec4f(g.start, g.bin));`,
  }),
);

const GRADIENT_PARAMS = {
  count: 'u32',
  channels: 'u32',
  height: 'u32',
  width: 'u32',
  runs: 'u32',
  levels: 'u32',
  level: 'u32',
  perImage: 'u32',
  resolution: 'u32',
  samples: 'u32',
} as const;

const WEIGHTS = `${SAMPLE}
// The share of a pixel in one sample: the hat function, samples up to one pixel outside count as on the border.
fn hat(at: f32, pixel: f32, size: f32) -> f32 {
  let inside = at >= -1.0 && at <= size;
  return select(0.0, max(0.0, 1.0 - abs(clamp(at, 0.0, size - 1.0) - pixel)), inside);
}
fn binWeight(start: f32, bin: f32, b: u32, pixel: f32, size: f32) -> f32 {
  var weight = 0.0;
  for (var s = 0u; s < p.samples; s++) { weight += hat(sampleAt(start, bin, b, s), pixel, size); }
  return weight;
}`;

/** The boxes of a run's image and level one by one; those whose samples do not reach the run are passed over. */
const EACH_BOX = `
  for (var e = 0u; e < boxes; e++) {
    let at = (list * p.perImage + e) * 2u;
    let entry = entries[at];
    let yFirst = entry.x & 0xffffu;
    let yLast = entry.x >> 16u;
    let xFirst = entry.y & 0xffffu;
    let xLast = entry.y >> 16u;
    if (y < yFirst || y > yLast || xFirst > xLast || x0 + ${RUN - 1}u < xFirst || x0 > xLast) { continue; }
    let geometry = bitcast<vec4f>(entries[at + 1u]); // start x, start y, bin x, bin y
    let base = entry.z * p.resolution;`;

const RUN_PLACE = `
  let x0 = (run % p.runs) * ${RUN}u;
  let y = (run / p.runs) % p.height;
  let image = run / (p.runs * p.height);
  let list = image * p.levels + p.level;
  let boxes = counts[list];
  let size = vec2f(f32(p.width), f32(p.height));
  let fx = f32(x0);
  let fy = f32(y);`;

const PIXELS = Array.from({ length: RUN }, (_, i) => i);
const gradientBuffers = (type: 'f32' | 'vec4f', adds: boolean): Readonly<Record<string, BufferSpec>> => ({
  entries: 'read vec4u',
  counts: 'read u32',
  upstream: `read ${type}`,
  ...(adds ? { earlier: `read ${type}` } : {}),
  gradient: `write ${type}`,
});

/** With `adds` on top of the gradient that others gave before. */
const storeRun = (adds: boolean): string => `
  let out = ((image * p.height + y) * p.width + x0) * p.channels + channel;
  let share = 1.0 / f32(p.samples * p.samples);
  ${PIXELS.map((j) => `if (x0 + ${j}u < p.width) { let at = out + ${j}u * p.channels; gradient[at] = ${adds ? 'earlier[at] + ' : ''}sum${j} * share; }`).join('\n  ')}`;

/** Gradient of one level: a lane holds one channel group of `RUN` pixels of a row. */
export const roiAlignGradientKernel = kernelFamily((vector: boolean, adds: boolean) => {
  const type = vector ? 'vec4f' : 'f32';
  return defineKernel({
    name: `roi_align_gradient_f32${vector ? '_vec4' : ''}_run${RUN}${adds ? '_add' : ''}`,
    workgroup: [64],
    params: GRADIENT_PARAMS,
    buffers: gradientBuffers(type, adds),
    module: WEIGHTS,
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let channel = i % p.channels;
  let run = i / p.channels;
  ${RUN_PLACE}
  ${PIXELS.map((j) => `var sum${j} = ${type}();`).join(' ')}
  ${EACH_BOX}
    // The bins of this row: those between the first and the last with a weight.
    var binFirst = p.resolution;
    var binEnd = 0u;
    for (var b = 0u; b < p.resolution; b++) {
      if (binWeight(geometry.y, geometry.w, b, fy, size.y) > 0.0) {
        binFirst = min(binFirst, b);
        binEnd = b + 1u;
      }
    }
    if (binFirst >= binEnd) { continue; }
    for (var b = 0u; b < p.resolution; b++) {
      ${PIXELS.map((j) => `let w${j} = binWeight(geometry.x, geometry.z, b, fx + ${j}.0, size.x);`).join('\n      ')}
      if (${PIXELS.map((j) => `w${j}`).join(' + ')} == 0.0) { continue; }
      var column = ${type}();
      for (var c = binFirst; c < binEnd; c++) {
        column += binWeight(geometry.y, geometry.w, c, fy, size.y) * upstream[((base + c) * p.resolution + b) * p.channels + channel];
      }
      ${PIXELS.map((j) => `sum${j} += w${j} * column;`).join(' ')}
    }
  }
  ${storeRun(adds)}`,
  });
});

/**
 * The same by subgroups: the lanes of one hold neighbouring vec4s of channels of one run of pixels, for which the weights are the same, so each computes those of its
 * own pixels and hands them out. Channels fill whole subgroups; `count` counts the lanes.
 */
export const roiAlignGradientSubgroupKernel = kernelFamily((subgroup: number, adds: boolean) => {
  const own = Array.from({ length: Math.ceil(RUN / subgroup) }, (_, i) => i);
  return defineKernel({
    name: `roi_align_gradient_f32_sg${subgroup}_run${RUN}${adds ? '_add' : ''}`,
    workgroup: [subgroup],
    subgroups: true,
    params: GRADIENT_PARAMS,
    buffers: gradientBuffers('vec4f', adds),
    module: `${WEIGHTS}
// Whether samples of a bin may reach pixels between two, all of them counted as inside the map: what is told the same to every lane.
fn reaches(start: f32, bin: f32, b: u32, first: f32, last: f32, size: f32) -> bool {
  let a = clamp(sampleAt(start, bin, b, 0u), 0.0, size - 1.0);
  let z = clamp(sampleAt(start, bin, b, p.samples - 1u), 0.0, size - 1.0);
  return max(a, z) > first - 1.0 && min(a, z) < last + 1.0;
}`,
    body: `
  let blocks = p.channels / ${subgroup}u;
  if (linearGroup >= p.count / ${subgroup}u) { return; }
  let channel = (linearGroup % blocks) * ${subgroup}u + lane;
  let run = linearGroup / blocks;
  ${RUN_PLACE}
  ${PIXELS.map((j) => `var sum${j} = vec4f();`).join(' ')}
  ${EACH_BOX}
    var binFirst = p.resolution;
    var binEnd = 0u;
    for (var b = 0u; b < p.resolution; b++) {
      if (reaches(geometry.y, geometry.w, b, fy, fy, size.y)) {
        binFirst = min(binFirst, b);
        binEnd = b + 1u;
      }
    }
    for (var b = 0u; b < p.resolution; b++) {
      if (!reaches(geometry.x, geometry.z, b, fx, fx + ${RUN - 1}.0, size.x)) { continue; }
      ${own.map((i) => `let own${i} = binWeight(geometry.x, geometry.z, b, fx + f32(lane) + ${i * subgroup}.0, size.x);`).join(' ')}
      var column = vec4f();
      for (var c = binFirst; c < binEnd; c++) {
        column += binWeight(geometry.y, geometry.w, c, fy, size.y) * upstream[((base + c) * p.resolution + b) * p.channels + channel];
      }
      ${PIXELS.map((j) => `sum${j} += ${broadcastLane(subgroup, `own${Math.floor(j / subgroup)}`, j % subgroup)} * column;`).join(' ')}
    }
  }
  ${storeRun(adds)}`,
  });
});
