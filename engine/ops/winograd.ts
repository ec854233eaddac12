/** Launches Winograd convolutions and their gradients by the weights (kernels/winograd.ts): decides where they pay, and runs their transforms around a batched matrix product. Records nothing. */
import { linearGrid } from '../../kernels/kernel.ts';
import { winogradOutputKernel, WINOGRAD_SIZES, winogradTilesKernel, winogradWeightGradientKernel, winogradWeightsKernel, type WinogradSize } from '../../kernels/winograd.ts';
import type { Device } from '../device.ts';
import type { Tensor } from '../tensor.ts';
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

const sizeOfTiles = (m: WinogradSize, { batch, targetH, targetW }: Pick<WinogradCall, 'batch' | 'targetH' | 'targetW'>): { elements: number; tilesY: number; tilesX: number; all: number } => {
  const tilesY = Math.ceil(targetH / m), tilesX = Math.ceil(targetW / m);
  return { elements: (m + 2) ** 2, tilesY, tilesX, all: batch * tilesY * tilesX };
};

/** The size with the least work; null where the direct sum's is less. */
function leastWork(direct: number, sizes: readonly WinogradSize[], work: (m: WinogradSize) => number): WinogradSize | null {
  const works = sizes.map(work);
  const least = Math.min(direct, ...works);
  return least === direct ? null : sizes[works.indexOf(least)];
}

/** The variant with the least work, or null where the direct sum has: every value that a transform touches costs, so few channels or few tiles do not pay. */
export function winogradSize(device: Device, call: WinogradCall, sizes: readonly WinogradSize[]): WinogradSize | null {
  const { batch, targetH, targetW, K4, N4 } = call;
  const forced = device.force.convolution;
  // F(4x4) only where it may be chosen: its rounding in a forward pass that gradients follow would move values across a ReLU.
  if (forced !== undefined) return forced === 'direct' ? null : forced === 'winograd4' && sizes.includes(4) ? 4 : 2;
  const K = K4 * 4, N = N4 * 4;
  return leastWork(batch * targetH * targetW * 9 * K * N, sizes, (m) => {
    const { elements, all: tiles } = sizeOfTiles(m, call);
    return tiles * elements * K * N + 2 * tiles * elements * (K + N) * TILE_VALUE_COST + K * N * (9 + 2 * elements) * WEIGHT_VALUE_COST;
  });
}

/**
 * The same of a gradient by the weights, whose tiles are sums over many more lines; and what a multiply-add of the direct sum costs. A multiply-add is so slow in subgroups of 4
 * (SwiftShader) that values cost little beside it. GPUs are taken to be like lavapipe, for want of measurements.
 */
const GRADIENT_COSTS = { direct: 1.1, tileValue: 85, weightValue: 108 };
const GRADIENT_COSTS_OF_QUADS = { direct: 1.4, tileValue: 13, weightValue: 23 };

/** As winogradSize, for the gradient by the weights. */
export function winogradGradientSize(device: Device, call: WinogradCall): WinogradSize | null {
  const forced = device.force.convolution;
  if (forced !== undefined) return forced === 'direct' ? null : forced === 'winograd4' ? 4 : 2;
  const { direct, tileValue, weightValue } = device.subgroupSize === 4 ? GRADIENT_COSTS_OF_QUADS : GRADIENT_COSTS;
  const K = call.K4 * 4, N = call.N4 * 4;
  return leastWork(direct * call.batch * call.targetH * call.targetW * 9 * K * N, WINOGRAD_SIZES, (m) => {
    const { elements, all: tiles } = sizeOfTiles(m, call);
    return tiles * elements * (K * N + (K + N) * tileValue) + K * N * elements * weightValue;
  });
}

const lanes = (count: number): readonly [number, number, number] => linearGrid(Math.ceil(count / 64));

function tilesOfRange(all: number, elements: number, k: number, n: number): number {
  return Math.ceil(all / Math.ceil((all * elements * Math.max(k, n) * 4) / RANGE_BYTES));
}

/**
 * Whether the product may be in f16 where a convolution may. The transforms of F(4x4) make 12 times of what rounding its operands does to a direct sum (0.3 % of the result), and
 * values up to 100 times as large, soon beyond f16's range: it stays in f32. F(2x2) makes 1.8 times of it, and values 4 times as large. Of random operands, -1 .. 1.
 */
export const halfProducts = (m: WinogradSize): boolean => m === 2;

/** target = source * weights [3, 3, K, N], through the epilogue; `half`: operands may be rounded to f16. */
export function winograd(device: Device, m: WinogradSize, call: WinogradCall, source: Tensor, weights: Tensor, operands: EpilogueOperands, target: Tensor, half: boolean): void {
  const { sourceH, sourceW, targetH, targetW, K4, N4, padding } = call;
  const { epilogue, buffers } = epilogueOperands(operands);
  const [k, n] = [K4 * 4, N4 * 4];
  const { elements, tilesY, tilesX, all } = sizeOfTiles(m, call);
  const perRange = tilesOfRange(all, elements, k, n);

  const transformed = device.empty([elements, k, n]);
  device.run(winogradWeightsKernel(m), { count: k * N4 }, { weights, transformed }, lanes(k * N4));
  const values = device.empty([elements * perRange * k]), sums = device.empty([elements * perRange * n]);
  for (let firstTile = 0; firstTile < all; firstTile += perRange) {
    const tiles = Math.min(perRange, all - firstTile);
    const params = { firstTile, tiles, tilesY, tilesX };
    const inputs = tiles === perRange ? values : device.view(values, 0, [elements * tiles * k]), products = tiles === perRange ? sums : device.view(sums, 0, [elements * tiles * n]);
    device.run(winogradTilesKernel(m, 'input'), { ...params, count: tiles * K4, height: sourceH, width: sourceW, channels4: K4, padding }, { image_: source, transformed: inputs }, lanes(tiles * K4));
    gemm(device, { a: inputs, transposeA: false, b: transformed, transposeB: false, output: products, m: tiles, n, k, batch: elements, half: half && halfProducts(m) });
    device.run(winogradOutputKernel(m, epilogue), { ...params, count: tiles * N4, height: targetH, width: targetW, channels4: N4 },
      { products, ...buffers, target_: target }, lanes(tiles * N4));
  }
}

/** The gradient by the weights, [3, 3, K, N], of a convolution whose output's gradient is `upstream` [batch, targetH, targetW, N]. */
export function winogradWeightGradient(device: Device, m: WinogradSize, call: WinogradCall, source: Tensor, upstream: Tensor, gradient: Tensor): void {
  const { sourceH, sourceW, targetH, targetW, K4, N4, padding } = call;
  const [k, n] = [K4 * 4, N4 * 4];
  const { elements, tilesY, tilesX, all } = sizeOfTiles(m, call);
  const perRange = tilesOfRange(all, elements, k, n);
  const inputs = device.empty([elements * perRange * k]), outputs = device.empty([elements * perRange * n]);
  /** Each range adds to the sums of those before, from one of two buffers to the other. */
  let sums = device.empty([elements, k, n]), before: Tensor | null = null, free: Tensor | null = null;
  for (let firstTile = 0; firstTile < all; firstTile += perRange) {
    const tiles = Math.min(perRange, all - firstTile);
    const params = { firstTile, tiles, tilesY, tilesX };
    const a = tiles === perRange ? inputs : device.view(inputs, 0, [elements * tiles * k]), b = tiles === perRange ? outputs : device.view(outputs, 0, [elements * tiles * n]);
    device.run(winogradTilesKernel(m, 'input'), { ...params, count: tiles * K4, height: sourceH, width: sourceW, channels4: K4, padding }, { image_: source, transformed: a }, lanes(tiles * K4));
    device.run(winogradTilesKernel(m, 'upstream'), { ...params, count: tiles * N4, height: targetH, width: targetW, channels4: N4, padding: 0 }, { image_: upstream, transformed: b }, lanes(tiles * N4));
    if (before) sums = free ?? device.empty(before.shape);
    gemm(device, { a, transposeA: true, b, transposeB: false, output: sums, m: k, n, k: tiles, batch: elements, residual: before });
    [before, free] = [sums, before];
  }
  device.run(winogradWeightGradientKernel(m), { count: k * N4 }, { products: sums, gradient }, lanes(k * N4));
}
