/**
 * Launches Winograd convolutions and their gradients with respect to the weights (kernels/winograd.ts): transforms
 * around a batched matrix product. winograd-variants.ts decides where they pay. The functions have no gradients of
 * their own.
 */
import { itemGrid } from '../../kernels/kernel.ts';
import {
  winogradOutputKernel,
  winogradTilesKernel,
  winogradWeightGradientKernel,
  winogradWeightsKernel,
  type WinogradSize,
} from '../../kernels/winograd.ts';
import { elementwise } from '../core/elementwise.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import type { OperandTexture } from '../gpu/resources.ts';
import { gemm } from './gemm.ts';
import { epilogueOperands, type EpilogueOperands } from './gemm-problem.ts';
import { prefersTextures, textureOperand, withOperands } from './operand-textures.ts';
import { halfProducts, winogradTiles, type WinogradCall } from './winograd-variants.ts';

/** Maximum memory of the transformed tiles of a range. More would not stay in the caches of a CPU. */
const MAX_RANGE_BYTES = 32 * 2 ** 20;

/** Minimum elements (tiles x vec4s of channels) per invocation. Fewer are not worth the cost of starting it. */
const MIN_SHARE = 2;

/** Consecutive tiles that are transformed at once. */
interface TileRange {
  /** Params of the kernels. */
  readonly params: Readonly<Record<'firstTile' | 'tiles' | 'tilesY' | 'tilesX', number>>;
  /** The part of a tensor [elements, tiles, channels], made for the largest range, that this range fills. */
  readonly part: (tensor: Tensor, channels: number) => Tensor;
}

/** The tiles of a call in ranges, and the number of tiles of the largest range. */
function tileRanges(
  device: TensorDevice,
  m: WinogradSize,
  call: WinogradCall,
): { readonly perRange: number; readonly ranges: readonly TileRange[] } {
  const { elements, tilesY, tilesX, tiles: all } = winogradTiles(m, call);
  const bytes = all * elements * Math.max(call.K4, call.N4) * 16;
  const perRange = Math.ceil(all / Math.ceil(bytes / MAX_RANGE_BYTES));
  const ranges = Array.from({ length: Math.ceil(all / perRange) }, (_, i): TileRange => {
    const firstTile = i * perRange;
    const tiles = Math.min(perRange, all - firstTile);
    return {
      params: { firstTile, tiles, tilesY, tilesX },
      part: (tensor, channels) => (tiles === perRange ? tensor : device.view(tensor, 0, [elements * tiles * channels])),
    };
  });
  return { perRange, ranges };
}

/** A range of tiles to transform. */
interface TileTransform {
  readonly m: WinogradSize;
  readonly of: 'input' | 'upstream';
  readonly range: TileRange;
  readonly call: WinogradCall;
  /** The source, or the upstream gradient. */
  readonly image: Tensor;
  /** Receives the transformed tiles. */
  readonly transformed: Tensor;
}

function transformTiles({ m, of, range, call, image, transformed }: TileTransform): void {
  const { sourceH, sourceW, targetH, targetW, K4, N4, padding } = call;
  const { tiles, ...placed } = range.params;
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
      { ...placed, count, height, width, channels4, padding: zeros },
      { image_: source, transformed },
      grid,
    );
  if (rows) device.withTextures([rows], ([texture]) => run(texture));
  else run(image);
}

/** Weights [3, 3, K, N] transformed to [elements, K, N]; cached for parameters at inference. */
function transformedWeights(device: TensorDevice, m: WinogradSize, { K4, N4 }: WinogradCall, weights: Tensor): Tensor {
  const [k, n] = [K4 * 4, N4 * 4];
  return device.derived(weights, `winograd${m}`, [(m + 2) ** 2, k, n], (into) => {
    const count = k * N4;
    // No texture is kept for a view. The weights need none, because only the transformed weights are used again.
    const operand = { weights: device.view(weights, 0, weights.shape) };
    withOperands(device, prefersTextures(device), operand, (textures, operands, shifts) =>
      device.run(
        winogradWeightsKernel(m, textures),
        { count, ...shifts },
        { ...operands, transformed: into },
        itemGrid(count),
      ),
    );
  });
}

/** The operands of a Winograd convolution. */
export interface WinogradConvolution extends EpilogueOperands {
  readonly source: Tensor;
  /** [3, 3, K, N]. */
  readonly weights: Tensor;
  readonly target: Tensor;
}

/**
 * target = source * weights, with an epilogue.
 *
 * @param half operands of the product may be rounded to f16
 */
export function winograd(
  device: TensorDevice,
  m: WinogradSize,
  call: WinogradCall,
  { source, weights, target, half, ...operands }: WinogradConvolution & { readonly half: boolean },
): void {
  const { targetH, targetW, K4, N4 } = call;
  const { epilogue, buffers } = epilogueOperands(operands);
  const [k, n] = [K4 * 4, N4 * 4];
  const { elements } = winogradTiles(m, call);
  const { perRange, ranges } = tileRanges(device, m, call);
  const transformed = transformedWeights(device, m, call, weights);
  const values = device.empty([elements * perRange * k]);
  const sums = device.empty([elements * perRange * n]);
  for (const range of ranges) {
    const { tiles, ...placed } = range.params;
    const inputs = range.part(values, k);
    const products = range.part(sums, n);
    transformTiles({ m, of: 'input', range, call, image: source, transformed: inputs });
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

/** The operands of a gradient with respect to the weights. */
export interface WinogradGradient {
  /** The image read by the forward pass. */
  readonly source: Tensor;
  /** [batch, targetH, targetW, N]. */
  readonly upstream: Tensor;
  /** [3, 3, K, N], receives the result. */
  readonly gradient: Tensor;
}

/** The gradient of a convolution with respect to its weights. */
export function winogradWeightGradient(
  device: TensorDevice,
  m: WinogradSize,
  call: WinogradCall,
  { source, upstream, gradient }: WinogradGradient,
): void {
  const [k, n] = [call.K4 * 4, call.N4 * 4];
  const { elements } = winogradTiles(m, call);
  const { perRange, ranges } = tileRanges(device, m, call);
  const values = device.empty([elements * perRange * k]);
  const gradients = device.empty([elements * perRange * n]);
  // Each range adds to the sums of the ranges before, from one of two tensors to the other.
  const sums = Array.from({ length: Math.min(2, ranges.length) }, () => device.empty([elements, k, n]));
  for (const [i, range] of ranges.entries()) {
    const a = range.part(values, k);
    const b = range.part(gradients, n);
    transformTiles({ m, of: 'input', range, call, image: source, transformed: a });
    transformTiles({ m, of: 'upstream', range, call, image: upstream, transformed: b });
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
  const products = sums[(ranges.length - 1) % 2];
  withOperands(device, prefersTextures(device), { products }, (textures, operands, shifts) =>
    device.run(
      winogradWeightGradientKernel(m, textures),
      { count, ...shifts },
      { ...operands, gradient },
      itemGrid(count),
    ),
  );
}
