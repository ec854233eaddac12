/**
 * The small kernels around convolutions: they pad and crop channels, reorder weights, and add up partial sums.
 * In all of them one invocation computes one vec4, unless noted otherwise.
 */
import { defineKernel, kernelFamily } from './kernel.ts';

/** Adds up `parts` equal pieces of a buffer, always in the same order. */
export const sumPartsKernel = kernelFamily(() =>
  defineKernel({
    name: 'sum_parts_f32_vec4',
    workgroup: [64],
    params: { count4: 'u32', parts: 'u32' },
    buffers: { parts_: 'read vec4f', sum: 'write vec4f' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count4) { return; }
  var total = vec4f();
  for (var part = 0u; part < p.parts; part++) { total += parts_[part * p.count4 + i]; }
  sum[i] = total;`,
  }),
);

/**
 * [outer, rowsFrom, groups, columnsFrom] -> [outer, rowsTo, groups, columns4To vec4s], padded with zeros: for channel
 * counts that are not a multiple of 4. `plain`: one group and no padded rows, as with images. Then one division finds
 * the position. Divisions are slow on CPUs, which divide lane by lane.
 */
export const padChannelsKernel = kernelFamily((plain: boolean) =>
  defineKernel({
    name: `conv2d_pad_channels_f32${plain ? '_plain' : ''}`,
    workgroup: [64],
    params: { count4: 'u32', groups: 'u32', rowsFrom: 'u32', columnsFrom: 'u32', rowsTo: 'u32', columns4To: 'u32' },
    buffers: { input: 'read f32', output: 'write vec4f' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count4) { return; }
  ${
    plain
      ? `
  var pixel = i;
  if (p.columns4To > 1u) { pixel = i / p.columns4To; }
  let column = (i - pixel * p.columns4To) * 4u;
  let first = pixel * p.columnsFrom + column;
  let inside = vec4u(column) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.columnsFrom);`
      : `
  let column = i % p.columns4To * 4u;
  let g = (i / p.columns4To) % p.groups;
  let row = (i / (p.columns4To * p.groups)) % p.rowsTo;
  let first =
    (((i / (p.columns4To * p.groups * p.rowsTo)) * p.rowsFrom + row) * p.groups + g) * p.columnsFrom + column;
  let inside = vec4<bool>(row < p.rowsFrom) & (vec4u(column) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.columnsFrom));`
  }
  output[i] =
    select(vec4f(), vec4f(input[first], input[first + 1u], input[first + 2u], input[first + 3u]), inside);`,
  }),
);

/**
 * Weights [kh, kw * channels, N] for images read by lines (conv2d.ts): [classes, kh, vectors * 4, N]. The weights of a
 * class are moved to the position within a vec4 where its windows start, with zeros around them.
 * A line has `count` vec4s. The grid is (workgroups of a line, kh, classes).
 */
export const lineWeightsKernel = kernelFamily(() =>
  defineKernel({
    name: 'conv2d_line_weights_f32',
    workgroup: [64],
    params: { count: 'u32', kh: 'u32', taps: 'u32', N4: 'u32', channels: 'i32', stride: 'u32', padX: 'i32' },
    buffers: { input: 'read vec4f', output: 'write vec4f' },
    body: `
  let i = group.x * 64u + lane;
  if (i >= p.count) { return; }
  let row = i / p.N4;
  let place = u32((i32(group.z * p.stride) + p.padX) * p.channels) & 3u;
  let tap = row - place;
  output[(group.z * p.kh + group.y) * p.count + i] =
    select(vec4f(), input[(group.y * p.taps + tap) * p.N4 + i - row * p.N4], tap < p.taps);`,
  }),
);

/**
 * The reverse of padding: [outer, rowsFrom, groups, columnsFrom] -> [outer, rowsTo, groups, columnsTo]. One invocation
 * computes one element of the result.
 */
export const cropChannelsKernel = kernelFamily(() =>
  defineKernel({
    name: 'conv2d_crop_channels_f32',
    workgroup: [64],
    params: { count: 'u32', groups: 'u32', rowsFrom: 'u32', columnsFrom: 'u32', rowsTo: 'u32', columnsTo: 'u32' },
    buffers: { input: 'read f32', output: 'write f32' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let column = i % p.columnsTo;
  let g = (i / p.columnsTo) % p.groups;
  let row = (i / (p.columnsTo * p.groups)) % p.rowsTo;
  let outer = i / (p.columnsTo * p.groups * p.rowsTo);
  output[i] = input[((outer * p.rowsFrom + row) * p.groups + g) * p.columnsFrom + column];`,
  }),
);

/**
 * Weights [kh, kw, K, groups, N] for the gradient with respect to the input: [taps, N, groups, K]. Taps are sorted by
 * phase (ky % step, kx % step) and reversed within a phase. One invocation transposes a block of 4 x 4.
 */
export const transposeWeightsKernel = kernelFamily(() =>
  defineKernel({
    name: 'conv2d_transpose_weights_f32',
    workgroup: [64],
    params: { count: 'u32', kh: 'u32', kw: 'u32', step: 'u32', K4: 'u32', N4: 'u32', groups: 'u32' },
    buffers: { input: 'read vec4f', output: 'write vec4f' },
    module: `
fn before(size: u32, phase: u32) -> u32 { return (size / p.step) * phase + min(size % p.step, phase); }`,
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let k = i % p.K4;
  let g = (i / p.K4) % p.groups;
  let n = (i / (p.K4 * p.groups)) % p.N4;
  let tap = i / (p.K4 * p.groups * p.N4);
  let ky = tap / p.kw;
  let kx = tap % p.kw;
  let tapsY = (p.kh + p.step - 1u - ky % p.step) / p.step;
  let tapsX = (p.kw + p.step - 1u - kx % p.step) / p.step;
  let first = before(p.kh, ky % p.step) * p.kw + tapsY * before(p.kw, kx % p.step);
  let to = first + (tapsY - 1u - ky / p.step) * tapsX + tapsX - 1u - kx / p.step;
  let origin = ((tap * p.K4 + k) * 4u * p.groups + g) * p.N4 + n;
  let pitch = p.groups * p.N4;
  let block = transpose(mat4x4f(
    input[origin], input[origin + pitch], input[origin + 2u * pitch], input[origin + 3u * pitch]));
  for (var r = 0u; r < 4u; r++) {
    output[((to * p.N4 + n) * 4u + r) * p.groups * p.K4 + g * p.K4 + k] = block[r];
  }`,
  }),
);
