/** Launches Winograd convolutions and their gradients by the weights (kernels/winograd.ts): decides where they pay, and runs their transforms around a batched matrix product. Records nothing. */
import { linearGrid, type Grid } from '../../kernels/kernel.ts';
import {
  winogradOutputKernel,
  WINOGRAD_SIZES,
  winogradTilesKernel,
  winogradWeightGradientKernel,
  winogradWeightsKernel,
  type WinogradSize,
} from '../../kernels/winograd.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import type { OperandTexture } from '../gpu/resources.ts';
import { prefersTextures, textureOperand, withOperands } from './operand-textures.ts';
import { elementwise } from '../core/elementwise.ts';
import { epilogueOperands, gemm, type EpilogueOperands } from './gemm.ts';

/** A 3x3 convolution of stride 1: source [batch, sourceH, sourceW, K], target [batch, targetH, targetW, N], K and N in vec4s. */
export interface WinogradCall {
  readonly batch: number;
  readonly sourceH: number;
  readonly sourceW: number;
  readonly targetH: number;
  readonly targetW: number;
  readonly K4: number;
  readonly N4: number;
  /** Zeros around the source, at least on the top and left. */
  readonly padding: number;
}

/** Transformed tiles of a range may take this much memory: more would not stay in a processor's caches either. */
const RANGE_BYTES = 32 * 2 ** 20;

/** What one value of a tile costs in the transforms, and one of the weights (neighbours in memory), in multiply-adds of the matrix product, measured on software adapters. */
const TILE_VALUE_COST = 28;
const WEIGHT_VALUE_COST = 16;

const sizeOfTiles = (
  m: WinogradSize,
  { batch, targetH, targetW }: Pick<WinogradCall, 'batch' | 'targetH' | 'targetW'>,
): { elements: number; tilesY: number; tilesX: number; all: number } => {
  const tilesY = Math.ceil(targetH / m),
    tilesX = Math.ceil(targetW / m);
  return { elements: (m + 2) ** 2, tilesY, tilesX, all: batch * tilesY * tilesX };
};

/** The size forced, or the one with the least work; null where the direct sum's is less. */
function chooseSize(
  { force: { convolution } }: TensorDevice,
  direct: number,
  sizes: readonly WinogradSize[],
  work: (m: WinogradSize) => number,
): WinogradSize | null {
  // F(4x4) only where it may be chosen: its rounding in a forward pass that gradients follow would move values across a ReLU.
  if (convolution !== undefined)
    return convolution === 'direct' ? null : convolution === 'winograd4' && sizes.includes(4) ? 4 : 2;
  const works = sizes.map(work);
  const least = Math.min(direct, ...works);
  return least === direct ? null : sizes[works.indexOf(least)];
}

/** The variant with the least work, or null where the direct sum has: every value that a transform touches costs, so few channels or few tiles do not pay. */
export function winogradSize(
  device: TensorDevice,
  call: WinogradCall,
  sizes: readonly WinogradSize[],
): WinogradSize | null {
  const { batch, targetH, targetW } = call,
    K = call.K4 * 4,
    N = call.N4 * 4;
  return chooseSize(device, batch * targetH * targetW * 9 * K * N, sizes, (m) => {
    const { elements, all: tiles } = sizeOfTiles(m, call);
    return (
      tiles * elements * K * N +
      2 * tiles * elements * (K + N) * TILE_VALUE_COST +
      K * N * (9 + 2 * elements) * WEIGHT_VALUE_COST
    );
  });
}

/**
 * The same of a gradient by the weights, whose tiles are sums over many more lines; and what a multiply-add of the direct sum costs. A multiply-add is so slow in subgroups of 4
 * (SwiftShader) that values cost little beside it. GPUs are taken to be like lavapipe, for want of measurements.
 */
const GRADIENT_COSTS = { direct: 1.1, tileValue: 85, weightValue: 108 };
const GRADIENT_COSTS_OF_QUADS = { direct: 1.4, tileValue: 13, weightValue: 23 };

/** As winogradSize, for the gradient by the weights. */
export function winogradGradientSize(device: TensorDevice, call: WinogradCall): WinogradSize | null {
  const { direct, tileValue, weightValue } = device.subgroupSize === 4 ? GRADIENT_COSTS_OF_QUADS : GRADIENT_COSTS;
  const { batch, targetH, targetW } = call,
    K = call.K4 * 4,
    N = call.N4 * 4;
  return chooseSize(device, direct * batch * targetH * targetW * 9 * K * N, WINOGRAD_SIZES, (m) => {
    const { elements, all: tiles } = sizeOfTiles(m, call);
    return tiles * elements * (K * N + (K + N) * tileValue) + K * N * elements * weightValue;
  });
}

const gridOf = (count: number): Grid => linearGrid(Math.ceil(count / 64));
/** Tiles and vec4s of channels that make a lane's start worth its cost. */
const MIN_SHARE = 2;

interface TileRange {
  /** As the kernels have them. */
  readonly params: Readonly<Record<'firstTile' | 'tiles' | 'tilesY' | 'tilesX', number>>;
  /** The part of a tensor with [elements, tiles, channels] of the largest range that this one fills. */
  readonly part: (tensor: Tensor, channels: number) => Tensor;
}

/** The tiles of a call in ranges that are transformed at once, and how many the largest one has. */
function tileRanges(
  device: TensorDevice,
  m: WinogradSize,
  call: WinogradCall,
): { readonly perRange: number; readonly ranges: readonly TileRange[] } {
  const { elements, tilesY, tilesX, all } = sizeOfTiles(m, call);
  const perRange = Math.ceil(all / Math.ceil((all * elements * Math.max(call.K4, call.N4) * 16) / RANGE_BYTES));
  const ranges = Array.from({ length: Math.ceil(all / perRange) }, (_, i): TileRange => {
    const firstTile = i * perRange,
      tiles = Math.min(perRange, all - firstTile);
    return {
      params: { firstTile, tiles, tilesY, tilesX },
      part: (tensor, channels) => (tiles === perRange ? tensor : device.view(tensor, 0, [elements * tiles * channels])),
    };
  });
  return { perRange, ranges };
}

/** Transforms a range of tiles of the source or of the upstream gradient. */
function transformTiles(
  m: WinogradSize,
  of: 'input' | 'upstream',
  { params: { tiles, ...range } }: TileRange,
  { sourceH, sourceW, targetH, targetW, K4, N4, padding }: WinogradCall,
  image: Tensor,
  transformed: Tensor,
): void {
  const [height, width, channels4, zeros] =
    of === 'input' ? [sourceH, sourceW, K4, padding] : [targetH, targetW, N4, 0];
  const count = tiles * channels4;
  const { device } = image;
  const { lanes, grid } = elementwise(device, count, MIN_SHARE);
  const rows = prefersTextures(device)
    ? textureOperand(image, image.size / 4 / (width * channels4), width * channels4, true)
    : null;
  const run = (source: Tensor | OperandTexture): void =>
    device.run(
      winogradTilesKernel(m, of, rows !== null, lanes),
      { ...range, count, height, width, channels4, padding: zeros },
      { image_: source, transformed },
      grid,
    );
  if (rows) device.withTextures([rows], ([texture]) => run(texture));
  else run(image);
}

/**
 * Whether the product may be in f16 where a convolution may. The transforms of F(4x4) make 6 times of what rounding its operands does to a direct sum (0.16 % of the result), and
 * values up to 32 times as large, soon beyond f16's range: it stays in f32. F(2x2) makes 1.8 times of it, and values 4 times as large. Of random operands, -1 .. 1.
 */
export const halfProducts = (m: WinogradSize): boolean => m === 2;

/** target = source * weights [3, 3, K, N], through the epilogue; `half`: operands may be rounded to f16. */
export function winograd(
  device: TensorDevice,
  m: WinogradSize,
  call: WinogradCall,
  source: Tensor,
  weights: Tensor,
  operands: EpilogueOperands,
  target: Tensor,
  half: boolean,
): void {
  const { targetH, targetW, K4, N4 } = call;
  const { epilogue, buffers } = epilogueOperands(operands);
  const [k, n] = [K4 * 4, N4 * 4];
  const { elements } = sizeOfTiles(m, call);
  const { perRange, ranges } = tileRanges(device, m, call);

  const transformed = device.derived(weights, `winograd${m}`, [elements, k, n], (into) => {
    const count = k * N4;
    // A view: a texture that holds the products' operand has no use for one with the weights themselves.
    withOperands(
      device,
      prefersTextures(device),
      { weights: device.view(weights, 0, weights.shape) },
      (textures, operands, shifts) =>
        device.run(
          winogradWeightsKernel(m, textures),
          { count, ...shifts },
          { ...operands, transformed: into },
          gridOf(count),
        ),
    );
  });
  const values = device.empty([elements * perRange * k]),
    sums = device.empty([elements * perRange * n]);
  for (const range of ranges) {
    const { tiles, ...placed } = range.params;
    const inputs = range.part(values, k),
      products = range.part(sums, n);
    transformTiles(m, 'input', range, call, source, inputs);
    gemm(device, {
      a: inputs,
      transposeA: false,
      b: transformed,
      transposeB: false,
      output: products,
      m: tiles,
      n,
      k,
      batch: elements,
      half: half && halfProducts(m),
    });
    const params = { ...placed, count: tiles * N4, height: targetH, width: targetW, channels4: N4 };
    const { lanes, grid } = elementwise(device, params.count, MIN_SHARE);
    withOperands(device, prefersTextures(device), { products }, (textures, operands, shifts) =>
      device.run(
        winogradOutputKernel(m, epilogue, textures, lanes),
        { ...params, ...shifts },
        { ...operands, ...buffers, target_: target },
        grid,
      ),
    );
  }
}

/** The gradient by the weights, [3, 3, K, N], of a convolution whose output's gradient is `upstream` [batch, targetH, targetW, N]. */
export function winogradWeightGradient(
  device: TensorDevice,
  m: WinogradSize,
  call: WinogradCall,
  source: Tensor,
  upstream: Tensor,
  gradient: Tensor,
): void {
  const [k, n] = [call.K4 * 4, call.N4 * 4];
  const { elements } = sizeOfTiles(m, call);
  const { perRange, ranges } = tileRanges(device, m, call);
  const values = device.empty([elements * perRange * k]),
    gradients = device.empty([elements * perRange * n]);
  // Each range adds to the sums of those before, from one of two tensors to the other.
  const sums = Array.from({ length: Math.min(2, ranges.length) }, () => device.empty([elements, k, n]));
  for (const [i, range] of ranges.entries()) {
    const a = range.part(values, k),
      b = range.part(gradients, n);
    transformTiles(m, 'input', range, call, source, a);
    transformTiles(m, 'upstream', range, call, upstream, b);
    gemm(device, {
      a,
      transposeA: true,
      b,
      transposeB: false,
      output: sums[i % 2],
      m: k,
      n,
      k: range.params.tiles,
      batch: elements,
      residual: i > 0 ? sums[(i - 1) % 2] : null,
    });
  }
  const count = k * call.N4;
  withOperands(
    device,
    prefersTextures(device),
    { products: sums[(ranges.length - 1) % 2] },
    (textures, operands, shifts) =>
      device.run(
        winogradWeightGradientKernel(m, textures),
        { count, ...shifts },
        { ...operands, gradient },
        gridOf(count),
      ),
  );
}
