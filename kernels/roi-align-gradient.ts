/**
 * The gradient of RoIAlign with respect to the features.
 *
 * The weight of a feature pixel in a bin is a product of one factor per axis. Each invocation handles a run of pixels
 * of a row. It sums over the boxes of its image and level, in their order. There are no atomics, and the result has the
 * same bits every time.
 */
import { defineKernel, kernelFamily, type BufferSpec } from './kernel.ts';
import { joined } from './repeat.ts';
import { GEOMETRY, GEOMETRY_PARAMS, LEVEL_SIZE, SAMPLE, SIZE_PARAMS } from './roi-align.ts';
import { broadcastLane } from './subgroups.ts';

/**
 * Neighboring pixels of a row that one invocation holds. They share the culling of boxes and the reads of the upstream
 * gradient.
 */
export const RUN = 8;
/** u32 words of one entry of a box list: pixel ranges and box number, then the sampling geometry. */
export const ENTRY_WORDS = 8;

/**
 * For each image and level the list of its boxes, in order, with the pixels that their samples reach.
 * One invocation per box finds the position of its entry: it counts the earlier boxes of its image and level. Then one
 * invocation per (image, level) counts the boxes there.
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
// First and last pixel that a box's samples read along an axis, packed. If there is none, first > last.
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

/** WGSL of the weight of a pixel in a bin along one axis. */
const WEIGHTS = `${SAMPLE}
// The share of a pixel in one sample: the hat function. Samples up to one pixel outside count as on the border.
fn hat(at: f32, pixel: f32, size: f32) -> f32 {
  let inside = at >= -1.0 && at <= size;
  return select(0.0, max(0.0, 1.0 - abs(clamp(at, 0.0, size - 1.0) - pixel)), inside);
}
fn binWeight(start: f32, bin: f32, b: u32, pixel: f32, size: f32) -> f32 {
  var weight = 0.0;
  for (var s = 0u; s < p.samples; s++) { weight += hat(sampleAt(start, bin, b, s), pixel, size); }
  return weight;
}`;

/**
 * WGSL of the head of a loop over the boxes of a run's image and level. Boxes whose samples miss the run are skipped.
 */
const BOX_LOOP = `
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

/** WGSL that finds the pixels and the box list of a run. */
const RUN_PLACE = `
  let x0 = (run % p.runs) * ${RUN}u;
  let y = (run / p.runs) % p.height;
  let image = run / (p.runs * p.height);
  let list = image * p.levels + p.level;
  let boxes = counts[list];
  let size = vec2f(f32(p.width), f32(p.height));
  let fx = f32(x0);
  let fy = f32(y);`;

/** `adds`: an earlier gradient is added. */
const buffersOf = (type: 'f32' | 'vec4f', adds: boolean): Readonly<Record<string, BufferSpec>> => ({
  entries: 'read vec4u',
  counts: 'read u32',
  upstream: `read ${type}`,
  ...(adds ? { earlier: `read ${type}` } : {}),
  gradient: `write ${type}`,
});

/** WGSL that stores a run. With `adds`, the gradient from other ops is added. */
function storeRun(adds: boolean): string {
  const store = (j: number): string => {
    const value = `${adds ? 'earlier[at] + ' : ''}sum${j} * share`;
    return `if (x0 + ${j}u < p.width) { let at = out + ${j}u * p.channels; gradient[at] = ${value}; }`;
  };
  return `
  let out = ((image * p.height + y) * p.width + x0) * p.channels + channel;
  let share = 1.0 / f32(p.samples * p.samples);
  ${joined(RUN, '\n  ', store)}`;
}

/** WGSL that sums the upstream gradient over the bins of a column, from binFirst to binEnd. */
const SUM_COLUMN = `for (var c = binFirst; c < binEnd; c++) {
        column += binWeight(geometry.y, geometry.w, c, fy, size.y)
          * upstream[((base + c) * p.resolution + b) * p.channels + channel];
      }`;

/** The gradient of one level. One invocation holds one vec4 of channels (or one channel) of `RUN` pixels of a row. */
export const roiAlignGradientKernel = kernelFamily((vector: boolean, adds: boolean) => {
  const type = vector ? 'vec4f' : 'f32';
  const weight = (j: number): string => `let w${j} = binWeight(geometry.x, geometry.z, b, fx + ${j}.0, size.x);`;
  return defineKernel({
    name: `roi_align_gradient_f32${vector ? '_vec4' : ''}_run${RUN}${adds ? '_add' : ''}`,
    workgroup: [64],
    params: GRADIENT_PARAMS,
    buffers: buffersOf(type, adds),
    module: WEIGHTS,
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let channel = i % p.channels;
  let run = i / p.channels;
  ${RUN_PLACE}
  ${joined(RUN, ' ', (j) => `var sum${j} = ${type}();`)}
  ${BOX_LOOP}
    // The bins of this row: from the first to the last one with a weight.
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
      ${joined(RUN, '\n      ', weight)}
      if (${joined(RUN, ' + ', (j) => `w${j}`)} == 0.0) { continue; }
      var column = ${type}();
      ${SUM_COLUMN}
      ${joined(RUN, ' ', (j) => `sum${j} += w${j} * column;`)}
    }
  }
  ${storeRun(adds)}`,
  });
});

/**
 * As `roiAlignGradientKernel`, by subgroups. The lanes of a subgroup hold neighboring vec4s of channels of one run of
 * pixels, which have the same weights. Each lane computes the weights of its own pixels and shares them. Channels must
 * fill whole subgroups. `count` counts the lanes.
 */
export const roiAlignGradientSubgroupKernel = kernelFamily((lanes: number, adds: boolean) => {
  const ownWeight = (i: number): string =>
    `let own${i} = binWeight(geometry.x, geometry.z, b, fx + f32(lane) + ${i * lanes}.0, size.x);`;
  const weight = (j: number): string => broadcastLane(lanes, `own${Math.floor(j / lanes)}`, j % lanes);
  return defineKernel({
    name: `roi_align_gradient_f32_sg${lanes}_run${RUN}${adds ? '_add' : ''}`,
    workgroup: [lanes],
    subgroups: true,
    params: GRADIENT_PARAMS,
    buffers: buffersOf('vec4f', adds),
    module: `${WEIGHTS}
// Whether samples of a bin may reach pixels from first to last, if all samples count as inside the map. The result is
// the same for every lane.
fn reaches(start: f32, bin: f32, b: u32, first: f32, last: f32, size: f32) -> bool {
  let a = clamp(sampleAt(start, bin, b, 0u), 0.0, size - 1.0);
  let z = clamp(sampleAt(start, bin, b, p.samples - 1u), 0.0, size - 1.0);
  return max(a, z) > first - 1.0 && min(a, z) < last + 1.0;
}`,
    body: `
  let blocks = p.channels / ${lanes}u;
  if (linearGroup >= p.count / ${lanes}u) { return; }
  let channel = (linearGroup % blocks) * ${lanes}u + lane;
  let run = linearGroup / blocks;
  ${RUN_PLACE}
  ${joined(RUN, ' ', (j) => `var sum${j} = vec4f();`)}
  ${BOX_LOOP}
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
      ${joined(Math.ceil(RUN / lanes), ' ', ownWeight)}
      var column = vec4f();
      ${SUM_COLUMN}
      ${joined(RUN, ' ', (j) => `sum${j} += ${weight(j)} * column;`)}
    }
  }
  ${storeRun(adds)}`,
  });
});
