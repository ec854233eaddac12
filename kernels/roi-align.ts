/**
 * RoIAlign over a feature pyramid, forward (He et al., Mask R-CNN, 2017; levels by Lin et al., FPN, 2017, equation 1),
 * and the WGSL that the gradient shares (roi-align-gradient.ts).
 *
 * One invocation computes vec4s of channels (scalars where the channel count is not a multiple of 4). So neighboring
 * invocations read neighboring memory.
 */
import { defineKernel, kernelFamily, type BufferSpec } from './kernel.ts';
import { joined } from './repeat.ts';

export const MAX_LEVELS = 4;

/**
 * WGSL of the sampling geometry of a box: where the samples of an axis start, and the size of a bin, in level pixels.
 */
export const GEOMETRY = `
struct Geometry { level: u32, inside: bool, start: vec2f, bin: vec2f }

// Detects coordinates that are not finite, or so large that products overflow, by their bits. Comparisons with NaN are
// not reliable.
fn usable(box: vec4f) -> bool {
  return all((bitcast<vec4u>(box) & vec4u(0x7fffffffu)) < vec4u(0x58635fa9u)); // 1e15
}

// The thresholds are the areas from which on a box belongs to the next level. An inverted box has a negative area and
// belongs to the finest level.
fn geometryOf(box: vec4f) -> Geometry {
  let area = (box.z - box.x) * (box.w - box.y);
  var level = select(0u, 1u, area >= p.area1) + select(0u, 1u, area >= p.area2) + select(0u, 1u, area >= p.area3);
  level = min(level, p.levels - 1u);
  let scale = select(select(p.scale0, p.scale1, level == 1u), select(p.scale2, p.scale3, level == 3u), level >= 2u);
  let start = box.xy * scale - 0.5;
  let end = box.zw * scale - 0.5;
  return Geometry(level, usable(box), start, (end - start) / f32(p.resolution));
}`;

/** WGSL of the coordinate of sample `s` of bin `b` along an axis. The order of operations is that of torchvision. */
export const SAMPLE = `
fn sampleAt(start: f32, bin: f32, b: u32, s: u32) -> f32 {
  return start + f32(b) * bin + (f32(s) + 0.5) * bin / f32(p.samples);
}`;

export const GEOMETRY_PARAMS = {
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
export const SIZE_PARAMS = {
  h0: 'u32',
  w0: 'u32',
  h1: 'u32',
  w1: 'u32',
  h2: 'u32',
  w2: 'u32',
  h3: 'u32',
  w3: 'u32',
} as const;

export const LEVEL_SIZE = `
fn levelSize(level: u32) -> vec2u { // width, height
  return select(
    select(vec2u(p.w0, p.h0), vec2u(p.w1, p.h1), level == 1u),
    select(vec2u(p.w2, p.h2), vec2u(p.w3, p.h3), level == 3u), level >= 2u);
}`;

/** How features are read. `texture`: levels are operand textures, one line per row of pixels. */
export type FeatureAccess = 'scalar' | 'vec4' | 'texture';

/** WGSL of `pool<i>`, which sums the samples of a bin in level `i`, for `held` vec4s of channels. */
function poolFunction(i: number, access: FeatureAccess, held: 1 | 4): string {
  const type = access === 'scalar' ? 'f32' : 'vec4f';
  const load = (row: string, x: string, h: number): string =>
    access === 'texture'
      ? `textureLoad(features${i}, vec2u(${x} * p.channels + channel + ${h}u * share, ${row}))`
      : `features${i}[(${row} * size.x + ${x}) * p.channels + channel + ${h}u * share]`;
  const addSample = (h: number): string => `sum${h} += lowLow * ${load('rowLow', 'xLow', h)}
        + lowHigh * ${load('rowLow', 'xHigh', h)}
        + highLow * ${load('rowHigh', 'xLow', h)}
        + highHigh * ${load('rowHigh', 'xHigh', h)};`;
  return `
fn pool${i}(g: Geometry, bin: vec2u, image: u32, size: vec2u, channel: u32, share: u32) -> array<${type}, ${held}> {
  let extent = vec2f(size);
  ${joined(held, '\n      ', (h) => `var sum${h} = ${type}();`)}
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
      ${joined(held, '\n      ', addSample)}
    }
  }
  return array<${type}, ${held}>(${joined(held, ', ', (h) => `sum${h}`)});
}`;
}

/**
 * Output rows (box, bin) by channels. One invocation computes `held` vec4s of channels, an equal share of the row
 * apart, so that the sample positions are computed once. Levels that do not exist are bound to the coarsest one and
 * never read.
 */
export const roiAlignKernel = kernelFamily((access: FeatureAccess, held: 1 | 4) => {
  const type = access === 'scalar' ? 'f32' : 'vec4f';
  const level: BufferSpec = access === 'texture' ? 'texture' : `read ${type}`;
  const store = (h: number): string =>
    `output[row * p.channels + channel + ${h}u * share] = sums[${h}] / f32(p.samples * p.samples);`;
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
${joined(MAX_LEVELS, '', (i) => poolFunction(i, access, held))}`,
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
    // One function per level. Choosing the buffer at every load would cost software adapters more than the loads.
    switch g.level {
      case 0u: { sums = pool0(g, bin, image, size, channel, share); }
      case 1u: { sums = pool1(g, bin, image, size, channel, share); }
      case 2u: { sums = pool2(g, bin, image, size, channel, share); }
      default: { sums = pool3(g, bin, image, size, channel, share); }
    }
  }
  ${joined(held, '\n      ', store)}`,
  });
});
