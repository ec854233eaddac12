/** Launches Winograd convolutions (kernels/winograd.ts): decides where they pay, and runs their three transforms around a batched matrix product. Records nothing. */
import { linearGrid } from '../../kernels/kernel.ts';
import { winogradInputKernel, winogradOutputKernel, winogradWeightsKernel, type WinogradSize } from '../../kernels/winograd.ts';
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

/** The variant with the least work, or null where the direct sum has: every value that a transform touches costs, so few channels or few tiles do not pay. */
export function winogradSize(device: Device, { batch, targetH, targetW, K4, N4 }: WinogradCall, sizes: readonly WinogradSize[]): WinogradSize | null {
  const forced = device.force.convolution;
  // F(4x4) only where it may be chosen: its rounding in a forward pass that gradients follow would move values across a ReLU.
  if (forced !== undefined) return forced === 'direct' ? null : forced === 'winograd4' && sizes.includes(4) ? 4 : 2;
  const K = K4 * 4, N = N4 * 4;
  let best: WinogradSize | null = null;
  let least = batch * targetH * targetW * 9 * K * N;
  for (const m of sizes) {
    const tiles = batch * Math.ceil(targetH / m) * Math.ceil(targetW / m);
    const elements = (m + 2) ** 2;
    const transforms = 2 * tiles * elements * (K + N) * TILE_VALUE_COST + K * N * (9 + 2 * elements) * WEIGHT_VALUE_COST;
    const work = tiles * elements * K * N + transforms;
    if (work < least) [best, least] = [m, work];
  }
  return best;
}

/**
 * Whether the product may be in f16 where a convolution may. The transforms of F(4x4) make 12 times of what rounding its operands does to a direct sum (0.3 % of the result), and
 * values up to 100 times as large, soon beyond f16's range: it stays in f32. F(2x2) makes 1.8 times of it, and values 4 times as large. Of random operands, -1 .. 1.
 */
export const halfProducts = (m: WinogradSize): boolean => m === 2;

/** target = source * weights [3, 3, K, N], through the epilogue; `half`: operands may be rounded to f16. */
export function winograd(device: Device, m: WinogradSize, call: WinogradCall, source: Tensor, weights: Tensor, operands: EpilogueOperands, target: Tensor, half: boolean): void {
  const { batch, sourceH, sourceW, targetH, targetW, K4, N4, padding } = call;
  const { epilogue, buffers } = epilogueOperands(operands);
  const elements = (m + 2) ** 2;
  const [k, n] = [K4 * 4, N4 * 4];
  const tilesY = Math.ceil(targetH / m), tilesX = Math.ceil(targetW / m);
  const all = batch * tilesY * tilesX;
  const ranges = Math.ceil((all * elements * Math.max(k, n) * 4) / RANGE_BYTES);
  const perRange = Math.ceil(all / ranges);
  const lanes = (count: number): readonly [number, number, number] => linearGrid(Math.ceil(count / 64));

  const transformed = device.empty([elements, k, n]);
  device.run(winogradWeightsKernel(m), { count: k * N4 }, { weights, transformed }, lanes(k * N4));
  const values = device.empty([elements * perRange * k]), sums = device.empty([elements * perRange * n]);
  for (let firstTile = 0; firstTile < all; firstTile += perRange) {
    const tiles = Math.min(perRange, all - firstTile);
    const params = { firstTile, tiles, tilesY, tilesX };
    const inputs = tiles === perRange ? values : device.view(values, 0, [elements * tiles * k]), products = tiles === perRange ? sums : device.view(sums, 0, [elements * tiles * n]);
    device.run(winogradInputKernel(m), { ...params, count: tiles * K4, height: sourceH, width: sourceW, channels4: K4, padding }, { image_: source, transformed: inputs }, lanes(tiles * K4));
    gemm(device, { a: inputs, transposeA: false, b: transformed, transposeB: false, output: products, m: tiles, n, k, batch: elements, half: half && halfProducts(m) });
    device.run(winogradOutputKernel(m, epilogue), { ...params, count: tiles * N4, height: targetH, width: targetW, channels4: N4 },
      { products, ...buffers, target_: target }, lanes(tiles * N4));
  }
}
