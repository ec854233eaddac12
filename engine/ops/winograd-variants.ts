/**
 * Decides where Winograd convolutions pay, and with which tile size. Lists their kernels; winograd.ts launches them.
 */
import type { Kernel } from '../../kernels/kernel.ts';
import {
  WINOGRAD_SIZES,
  winogradOutputKernel,
  winogradTilesKernel,
  winogradWeightGradientKernel,
  winogradWeightsKernel,
  type WinogradSize,
} from '../../kernels/winograd.ts';
import { elementwiseLanes } from '../core/elementwise.ts';
import type { TensorDevice } from '../core/tensor.ts';
import { prefersTextures } from './operand-textures.ts';

/**
 * A 3x3 convolution of stride 1: source [batch, sourceH, sourceW, K], target [batch, targetH, targetW, N]. K and N are
 * counted in vec4s.
 */
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

/** Rounding error relative to that of a direct sum. */
export const WINOGRAD_ROUNDING: Readonly<Record<WinogradSize, number>> = { 2: 2, 4: 3 };

/**
 * Whether the matrix product may be in f16 where the convolution may. Errors are compared with rounding the operands of
 * a direct sum to f16, which changes the result by 0.16 % (random operands, -1 .. 1).
 *  - F(4x4) has 6 times that error, and values up to 32 times as large, which may exceed the range of f16. It stays in
 *    f32.
 *  - F(2x2) has 1.8 times that error, and values up to 4 times as large.
 */
export const halfProducts = (m: WinogradSize): boolean => m === 2;

/** Kernels of a convolution, or of the gradient with respect to its weights, without epilogue and product. */
export function winogradKernels(device: TensorDevice, m: WinogradSize, pass: 'forward' | 'weight gradient'): Kernel[] {
  const textures = prefersTextures(device);
  const lanes = elementwiseLanes(device);
  return pass === 'forward'
    ? [
        winogradWeightsKernel(m, textures),
        winogradTilesKernel(m, 'input', textures, lanes),
        winogradOutputKernel(m, '', textures, lanes),
      ]
    : [
        winogradTilesKernel(m, 'input', textures, lanes),
        winogradTilesKernel(m, 'upstream', textures, lanes),
        winogradWeightGradientKernel(m, textures),
      ];
}

/** Tiles of a target, and elements of a transformed tile. */
export interface WinogradTiles {
  readonly elements: number;
  readonly tilesY: number;
  readonly tilesX: number;
  /** Tiles of all images. */
  readonly tiles: number;
}

export function winogradTiles(
  m: WinogradSize,
  { batch, targetH, targetW }: Pick<WinogradCall, 'batch' | 'targetH' | 'targetW'>,
): WinogradTiles {
  const tilesY = Math.ceil(targetH / m);
  const tilesX = Math.ceil(targetW / m);
  return { elements: (m + 2) ** 2, tilesY, tilesX, tiles: batch * tilesY * tilesX };
}

/** The forced size, or the one with the least work; null where the direct sum has less. */
function chooseSize(
  { force: { convolution } }: TensorDevice,
  direct: number,
  sizes: readonly WinogradSize[],
  work: (m: WinogradSize) => number,
): WinogradSize | null {
  // F(4x4) only where `sizes` allows it. In a forward pass that gradients follow, its rounding would move values across
  // the kink of a ReLU.
  if (convolution !== undefined)
    return convolution === 'direct' ? null : convolution === 'winograd4' && sizes.includes(4) ? 4 : 2;
  const works = sizes.map(work);
  const min = Math.min(direct, ...works);
  return min === direct ? null : sizes[works.indexOf(min)];
}

/**
 * Cost of transforming one value of a tile, and one value of the weights (neighbors in memory), in multiply-adds of
 * the matrix product. Measured on software adapters (docs/adapters.md).
 */
const TILE_VALUE_COST = 28;
const WEIGHT_VALUE_COST = 16;

/**
 * The size with the least work, or null where the direct sum has less. Every value that a transform reads or writes
 * costs, so Winograd does not pay with few channels or few tiles.
 */
export function winogradSize(
  device: TensorDevice,
  call: WinogradCall,
  sizes: readonly WinogradSize[],
): WinogradSize | null {
  const { batch, targetH, targetW } = call;
  const [K, N] = [call.K4 * 4, call.N4 * 4];
  return chooseSize(device, batch * targetH * targetW * 9 * K * N, sizes, (m) => {
    const { elements, tiles } = winogradTiles(m, call);
    return (
      tiles * elements * K * N +
      2 * tiles * elements * (K + N) * TILE_VALUE_COST +
      K * N * (9 + 2 * elements) * WEIGHT_VALUE_COST
    );
  });
}

/**
 * The same costs for a gradient with respect to the weights, whose tiles are sums over many more lines. `direct` is the
 * cost of a multiply-add of the direct sum. In subgroups of 4 (SwiftShader) a multiply-add is so slow that values cost
 * little compared with it. GPUs are assumed to be like lavapipe, because there are no measurements.
 */
const GRADIENT_COSTS = { direct: 1.1, tileValue: 85, weightValue: 108 };
const GRADIENT_COSTS_4_LANES = { direct: 1.4, tileValue: 13, weightValue: 23 };

/** As winogradSize, for the gradient with respect to the weights. */
export function winogradGradientSize(device: TensorDevice, call: WinogradCall): WinogradSize | null {
  const { direct, tileValue, weightValue } = device.subgroupSize === 4 ? GRADIENT_COSTS_4_LANES : GRADIENT_COSTS;
  const { batch, targetH, targetW } = call;
  const [K, N] = [call.K4 * 4, call.N4 * 4];
  return chooseSize(device, direct * batch * targetH * targetW * 9 * K * N, WINOGRAD_SIZES, (m) => {
    const { elements, tiles } = winogradTiles(m, call);
    return tiles * elements * (K * N + (K + N) * tileValue) + K * N * elements * weightValue;
  });
}
