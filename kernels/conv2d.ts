/**
 * Code that the convolution kernels share: convolution in NHWC as implicit GEMM. The forward pass and the gradient with
 * respect to the input are the same computation.
 *
 * The kernels are in conv2d-subgroup.ts (small subgroups) and conv2d-tiled.ts (workgroup memory). The gradient with
 * respect to the weight is in conv2d-weight-gradient.ts. conv2d-layout.ts has the small kernels around them.
 *
 * Glossary:
 *  - source: the image that is read, [batch, sourceH, sourceW, groups, K];
 *  - target: the image that is written, [batch, targetH, targetW, groups, N];
 *  - K and N: channels per group, multiples of 4, counted in vec4s as K4 and N4. Other channel counts are padded first,
 *    see `padChannelsKernel`;
 *  - weights: [taps, K, groups, N].
 *
 * Phases. The target pixels are divided into step * step phases. The pixels of phase (ry, rx) use only the kernel rows
 * ky = ry (mod step) and the kernel columns kx = rx (mod step). Within a phase, target pixels are a plain
 * convolution of neighboring source pixels. The forward pass has one phase. The gradient with respect to the input of
 * a convolution with stride s has s * s phases. It reads the upstream gradient as source. Its weights are transposed,
 * reversed and sorted by phase (`transposeWeightsKernel`). So nothing is multiplied by inserted zeros.
 *
 * Taps. Along a row of the source, the columns of the taps and their channels are contiguous in memory. So kx and
 * channel are one loop, and one comparison per vec4 handles the zero padding at left and right.
 *
 * Reading by lines. An image whose channels are not a multiple of 4 (a photograph) needs no padding where its lines are
 * whole vec4s. The window of an output pixel then starts at one of at most four positions within a vec4, and every
 * `classes`-th pixel has the same position. The target pixels are divided into these classes along x. Each class has
 * weights moved to its position (`lineWeightsKernel`): [classes, kh, vec4s of a line, 4, N]. For the kernel, such an
 * image has one vec4 of channels and lines of sourceW vec4s.
 */
import type { KernelFlops } from './kernel.ts';

export const CONV_PARAMS = {
  batch: 'u32',
  sourceH: 'u32',
  sourceW: 'u32',
  targetH: 'u32',
  targetW: 'u32',
  K4: 'u32',
  N4: 'u32',
  groups: 'u32',
  kh: 'u32',
  kw: 'u32',
  stride: 'u32',
  step: 'u32',
  padY: 'i32',
  padX: 'i32',
  tilesM: 'u32',
  tilesN: 'u32',
  tiles: 'u32',
} as const;

/** Further params if the image is read by lines. */
export const LINE_PARAMS = {
  classes: 'u32',
  /** Channels of a pixel. */
  channels: 'i32',
  /** Vec4s of a source line that an output pixel reads. */
  vectors: 'u32',
  /** Vec4s from an output pixel to the next one of its class. */
  pitch: 'i32',
} as const;

export const CONV_OPERANDS = { source: 'read vec4f', weights: 'read vec4f' } as const;

/**
 * FLOPs of a dispatch. Each phase, or class of an image read by lines, sums over its own share of the taps.
 * By lines, whole vec4s of a line count.
 */
export const convFlops =
  (byLines: boolean): KernelFlops =>
  (p) =>
    (2 * p.batch * p.targetH * p.targetW * p.groups * (4 * p.K4) * (4 * p.N4) * p.kh * p.kw) /
    (byLines ? p.classes : p.step * p.step);

/**
 * WGSL of `loadSource` and `loadWeights`. `loadSource` reads vec4 `x` of the image row at `line`: the index of its
 * first vec4 in a buffer, or its number in an operand texture. `loadWeights` reads vec4 `column` of a row of the
 * weights.
 */
export function convLoads(sourceTexture: boolean, weightsTexture: boolean): string {
  const source = sourceTexture ? 'textureLoad(source, vec2u(x, line))' : 'source[line + x]';
  const weights = weightsTexture
    ? 'textureLoad(weights, vec2u(column, row))'
    : 'weights[row * (p.N4 * p.groups) + column]';
  return `
fn loadSource(line: u32, x: u32) -> vec4f { return ${source}; }
fn loadWeights(row: u32, column: u32) -> vec4f { return ${weights}; }`;
}

/** WGSL that finds the tile, phase and group of a workgroup, and the geometry of the phase. */
export const convTile = (rows: number, columns4: number): string => `
  if (linearGroup >= p.tiles) { return; }
  let tileN = (linearGroup / p.tilesM) % p.tilesN;
  let g = (linearGroup / (p.tilesM * p.tilesN)) % p.groups;
  let phase = linearGroup / (p.tilesM * p.tilesN * p.groups);
  let ry = phase / p.step;
  let rx = phase % p.step;
  let tapsY = (p.kh + p.step - 1u - ry) / p.step;
  let tapsX = (p.kw + p.step - 1u - rx) / p.step;
  let firstY = u32(((i32(ry) - p.padY) % i32(p.step) + i32(p.step)) % i32(p.step));
  let firstX = u32(((i32(rx) - p.padX) % i32(p.step) + i32(p.step)) % i32(p.step));
  let rowsY = (p.targetH + p.step - 1u - firstY) / p.step;
  let rowsX = (p.targetW + p.step - 1u - firstX) / p.step;
  let M = p.batch * rowsY * rowsX;
  let r0 = (linearGroup % p.tilesM) * ${rows}u;
  if (r0 >= M) { return; }
  let c0 = tileN * ${columns4}u;
  let sourceY0 = (i32(firstY) + p.padY - i32(ry)) / i32(p.step) + 1 - i32(tapsY);
  let sourceX0 = (i32(firstX) + p.padX - i32(rx)) / i32(p.step) + 1 - i32(tapsX);
  let sourcePitch = p.K4 * p.groups;
  let targetPitch = p.N4 * p.groups;
  let lineLength = p.sourceW * sourcePitch;
  // Taps of the phases before this one: (kernel rows before) * kw + (own kernel rows) * (kernel columns before).
  let rowsBefore = (p.kh / p.step) * ry + min(p.kh % p.step, ry);
  let columnsBefore = (p.kw / p.step) * rx + min(p.kw % p.step, rx);
  let firstTap = rowsBefore * p.kw + tapsY * columnsBefore;
  // With one group, kx and channel are one loop over contiguous memory. With several, the channels of other groups
  // follow those of a tap.
  let merged = p.groups == 1u;
  let outer = select(tapsX, 1u, merged);
  let inner = select(p.K4, tapsX * p.K4, merged);
  let weightsBase = g * p.N4;
  let stepX = p.step;
  let stepY = p.step;
  let pitchX = i32(p.stride * sourcePitch);
  let originX = sourceX0 * i32(sourcePitch) + i32(g * p.K4);
  let firstRow = firstTap * p.K4 * 4u;`;

/** As convTile, for images read by lines. Their classes are phases along x. */
export const lineTile = (rows: number, columns4: number): string => `
  if (linearGroup >= p.tiles) { return; }
  let tileN = (linearGroup / p.tilesM) % p.tilesN;
  let firstX = linearGroup / (p.tilesM * p.tilesN);
  let firstY = 0u;
  let rowsY = p.targetH;
  let rowsX = (p.targetW + p.classes - 1u - firstX) / p.classes;
  let M = p.batch * rowsY * rowsX;
  let r0 = (linearGroup % p.tilesM) * ${rows}u;
  if (r0 >= M) { return; }
  let c0 = tileN * ${columns4}u;
  let tapsY = p.kh;
  let sourceY0 = p.padY;
  let sourcePitch = 1u;
  let targetPitch = p.N4;
  let lineLength = p.sourceW;
  let outer = 1u;
  let inner = p.vectors;
  let weightsBase = 0u;
  let stepX = p.classes;
  let stepY = 1u;
  let pitchX = p.pitch;
  let originX = ((i32(firstX * p.stride) + p.padX) * p.channels) >> 2u;
  let firstRow = firstX * p.kh * p.vectors * 4u;`;

/** WGSL that finds the image, row and column of the source that the first tap of pixel `m<i>` of the phase reads. */
export const sourceOrigin = (i: number): string => `
  let targetRow${i} = m${i} / rowsX;
  let image${i} = targetRow${i} / rowsY;
  let y${i} = i32((targetRow${i} - image${i} * rowsY) * p.stride) + sourceY0;
  let x${i} = i32(m${i} - targetRow${i} * rowsX) * pitchX + originX;`;

/** WGSL that finds the source row read by tap row `t`. `limit<i>` is 0 where that row is padding. */
export const sourceLine = (i: number, textures = false): string => `
    let row${i} = y${i} + i32(t);
    let line${i} = u32(i32(image${i} * p.sourceH) + row${i})${textures ? '' : ' * lineLength'};
    let limit${i} = select(0u, lineLength, u32(row${i}) < p.sourceH);`;

/**
 * WGSL that finds target pixel `pixel` of pixel `m` of the phase. CPUs divide lane by lane, so the code divides only
 * where lines of the phase are not lines of the target.
 */
export const TARGET_PIXEL = `
    var pixel = m * stepX + firstX;
    if (rowsX * stepX != p.targetW || stepY != 1u) {
      let targetRow = m / rowsX;
      let image = targetRow / rowsY;
      ${[
        'pixel = (image * p.targetH + (targetRow - image * rowsY) * stepY + firstY) * p.targetW',
        '(m - targetRow * rowsX) * stepX + firstX;',
      ].join(' + ')}
    }`;

/**
 * As TARGET_PIXEL, for a loop over consecutive pixels from `r0` on: WGSL before the loop, and at the end of its body.
 */
export const FIRST_TARGET_PIXEL = `
  var targetRow = r0 / rowsX;
  var targetX = r0 - targetRow * rowsX;
  let firstImage = targetRow / rowsY;
  targetRow -= firstImage * rowsY;
  var pixel = (firstImage * p.targetH + targetRow * stepY + firstY) * p.targetW + targetX * stepX + firstX;
  let toNextRow = stepY * p.targetW - rowsX * stepX;
  let toNextImage = (p.targetH - rowsY * stepY) * p.targetW;`;
export const NEXT_TARGET_PIXEL = `
    targetX++;
    let rowEnds = targetX == rowsX;
    targetX = select(targetX, 0u, rowEnds);
    targetRow += select(0u, 1u, rowEnds);
    let imageEnds = targetRow == rowsY;
    targetRow = select(targetRow, 0u, imageEnds);
    pixel += stepX + select(0u, toNextRow, rowEnds) + select(0u, toNextImage, imageEnds);`;

/**
 * Whether a tile has fewer vec4s of columns than a subgroup has lanes. Narrow tiles have few weights. They read the
 * weights from the buffer, even where they read the source from a texture.
 */
export const isNarrow = (subgroup: number, columns: number): boolean => columns / 4 < subgroup;
