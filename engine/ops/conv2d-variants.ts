/**
 * The variants of a dense or grouped convolution, forward and gradient with respect to the input, and which one to run:
 * direct or Winograd, tile, source of the operands, precision.
 *
 * `candidatesOf` lists the variants that the tuner measures. `convolutionKernel` maps a direct variant to its kernel.
 * `expectedVariant` is the cost model, which decides where nothing is tuned.
 */
import { isNarrow } from '../../kernels/conv2d.ts';
import { convSubgroupKernel } from '../../kernels/conv2d-subgroup.ts';
import { convTiledKernel } from '../../kernels/conv2d-tiled.ts';
import type { Epilogue } from '../../kernels/epilogue.ts';
import type { Kernel } from '../../kernels/kernel.ts';
import type { StagedPrecision } from '../../kernels/matmul-tiled.ts';
import type { WinogradSize } from '../../kernels/winograd.ts';
import type { Tensor, TensorDevice, TextureOperand } from '../core/tensor.ts';
import { outline, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import type { ImageLines } from './conv2d-geometry.ts';
import type { EpilogueOperands } from './gemm-problem.ts';
import { prefersTextures, textureOperand } from './operand-textures.ts';
import { HALF_ROUNDING, roundingOf } from './rounding.ts';
import {
  halfProducts,
  WINOGRAD_ROUNDING,
  winogradKernels,
  winogradSize,
  type WinogradCall,
} from './winograd-variants.ts';

/** Sizes of an implicit GEMM; see kernels/conv2d.ts for the names. `K4` and `N4` are those of a group. */
export interface ConvolutionCall extends Omit<WinogradCall, 'padding'> {
  readonly groups: number;
  readonly kh: number;
  readonly kw: number;
  readonly stride: number;
  readonly step: number;
  readonly padY: number;
  readonly padX: number;
  /**
   * Given if the image is read by lines (kernels/conv2d.ts). Then `K4` is 1, `sourceW` counts vec4s, `kw` counts the
   * vec4s of all classes, and `padY` and `padX` are where the first window starts.
   */
  readonly byLines?: ImageLines | null;
}

/** The variants that may run although they round more coarsely than a plain sum. */
export interface AllowedRounding {
  readonly winograd: readonly WinogradSize[];
  /** Operands rounded to f16 (see `DeviceOptions.halfPrecision`). */
  readonly half: boolean;
}

/** Tensors of a call, by their names in the kernels, and its epilogue. */
export interface ConvolutionTensors extends EpilogueOperands {
  readonly source: Tensor;
  readonly weights: Tensor;
  readonly target: Tensor;
}

export interface Convolution {
  readonly call: ConvolutionCall;
  readonly allowed: AllowedRounding;
  readonly tensors: ConvolutionTensors;
}

/** Implicit GEMM. */
export interface DirectConvolution {
  readonly winograd: null;
  /** Pixels and channels of a tile. */
  readonly rows: number;
  readonly columns: number;
  readonly textures: boolean;
  /** f16 goes through workgroup memory on every device. */
  readonly precision: StagedPrecision;
}

export type ConvolutionVariant = { readonly winograd: WinogradSize } | DirectConvolution;

// ------------------------------------------------------------------ kernels and operands

/** Number of products in the sum of one target value. */
const termsOf = ({ kh, kw, K4, step, byLines }: ConvolutionCall): number =>
  (kh * kw * K4 * 4) / (byLines?.classes ?? step ** 2);

/**
 * Longer sums are split by rows of taps, because a sum of sums rounds less than one chain of additions. This costs no
 * memory here, so the bound is lower than that of matrix products.
 */
const MAX_CHAIN = 256;

/** Subgroup size for kernels for small subgroups; 0 on other devices, which use workgroup memory. */
export const smallSubgroupSize = ({ smallSubgroups, subgroupSize }: TensorDevice): number =>
  smallSubgroups ? subgroupSize : 0;

/** The kernel of a direct variant. */
export function convolutionKernel(
  device: TensorDevice,
  call: ConvolutionCall,
  { rows, columns, textures, precision }: Omit<DirectConvolution, 'winograd'>,
  epilogue: Epilogue,
): Kernel {
  const lanes = smallSubgroupSize(device);
  if (precision === 'f16' || lanes === 0) return convTiledKernel(rows, precision, epilogue);
  const split = termsOf(call) > MAX_CHAIN;
  return convSubgroupKernel({ lanes, rows, columns, textures, split, byLines: Boolean(call.byLines), epilogue });
}

/** Image rows and weights as textures; null where they do not fit. Narrow tiles read their weights from the buffer. */
export function convolutionTextures(
  { batch, sourceH, sourceW, K4, N4, groups, kh, kw }: ConvolutionCall,
  source: Tensor,
  weights: Tensor,
  narrow: boolean,
): { source: TextureOperand; weights: TextureOperand | null } | null {
  const lines = textureOperand(source, batch * sourceH, sourceW * K4 * groups, true);
  const rows = narrow ? null : textureOperand(weights, kh * kw * K4 * 4, N4 * groups, true);
  return lines && (narrow || rows) && { source: lines, weights: rows };
}

/** Pixels of the largest phase, or class of an image read by lines. */
export const pixelsOf = ({ batch, targetH, targetW, step, byLines }: ConvolutionCall): number =>
  batch * Math.ceil(targetH / step) * Math.ceil(targetW / (byLines?.classes ?? step));

// ------------------------------------------------------------------ cost model

/** Minimum multiply-adds per copied value for which textures pay. */
const MIN_WORK_PER_COPY = 40;

/** Whether `work` multiply-adds are worth copying `copied` values to textures. */
export const worthCopies = ({ force }: TensorDevice, work: number, copied: number): boolean =>
  force.operands === 'texture' || work >= copied * MIN_WORK_PER_COPY;

function texturesPay(device: TensorDevice, call: ConvolutionCall): boolean {
  const { batch, sourceH, sourceW, targetH, targetW, K4, N4, groups, kh, kw } = call;
  const work = batch * targetH * targetW * termsOf(call) * N4 * 4 * groups;
  return worthCopies(device, work, 4 * groups * (batch * sourceH * sourceW * K4 + kh * kw * K4 * 4 * N4));
}

export type Tile = readonly [rows: number, columns: number];

/**
 * The expected tile for `pixels` by `columns` outputs. Wider tiles spill registers on software adapters. GPUs use the
 * larger one where it leaves enough workgroups. `lanes` is 0 for workgroup memory.
 */
function expectedTile(lanes: number, pixels: number, columns: number, textures: boolean): Tile {
  if (lanes === 0) return pixels * columns >= 64 * 64 * 64 && columns > 32 ? [64, 64] : [32, 32];
  if (columns <= 4) return [lanes * 8, 4];
  if (columns <= 16) return [lanes * 8, 16];
  if (columns <= 32 && lanes === 16) return [64, 32];
  if (textures && columns > 32 && lanes <= 8) return [32, 64];
  // On SwiftShader high tiles are faster, and take three times as long to compile.
  if (lanes <= 4) return [pixels >= 1024 ? 64 : 32, 32];
  return [32, Math.max(32, lanes * 4)];
}

const directVariant = (
  [rows, columns]: Tile,
  textures: boolean,
  precision: StagedPrecision = 'f32',
): DirectConvolution => ({ winograd: null, rows, columns, textures, precision });

/** Whether a convolution is one that Winograd's kernels compute. */
const fitsWinograd = ({ kh, kw, stride, step, groups, padY, padX }: ConvolutionCall): boolean =>
  kh === 3 && kw === 3 && stride === 1 && step === 1 && groups === 1 && padY === padX;

/** Whether a tile can read its operands from textures. */
function readable(device: TensorDevice, { call, tensors }: Convolution, [, columns]: Tile): boolean {
  const lanes = smallSubgroupSize(device);
  return (
    lanes > 0 &&
    device.operandTextures &&
    convolutionTextures(call, tensors.source, tensors.weights, isNarrow(lanes, columns)) !== null
  );
}

/** The cost model's choice. */
function expectedVariant(device: TensorDevice, convolution: Convolution): ConvolutionVariant {
  const { call, allowed } = convolution;
  const lanes = smallSubgroupSize(device);
  const size = fitsWinograd(call) ? winogradSize(device, { ...call, padding: 2 - call.padY }, allowed.winograd) : null;
  const pixels = pixelsOf(call);
  const columns = call.N4 * 4;
  const tileWith = (textures: boolean): Tile => expectedTile(lanes, pixels, columns, textures);
  const textures =
    readable(device, convolution, tileWith(true)) && prefersTextures(device) && texturesPay(device, call);
  if (size !== null) return { winograd: size };
  if (allowed.half && device.expectedPrecision === 'f16')
    return directVariant(expectedTile(0, pixels, columns, false), false, 'f16');
  return directVariant(tileWith(textures), textures);
}

// ------------------------------------------------------------------ candidates

/** Tiles worth measuring: those that are less than half padding. `lanes` is 0 for workgroup memory. */
function tilesFor(lanes: number, columns: number): readonly Tile[] {
  const tiles: readonly Tile[] =
    lanes === 0
      ? [
          [32, 32],
          [64, 64],
        ]
      : [
          [lanes * 8, 4],
          [16, 32],
          [32, 16],
          ...(lanes === 4 ? [] : [[lanes * 8, 16] as const]),
          ...(lanes === 8 ? [] : [[64, 32] as const]),
          [32, 32],
          [32, 64],
        ];
  return tiles.filter((tile) => (tile[1] / 2 < columns || tile[1] <= 32) && (tile[1] > 4 || columns <= 4));
}

/** All variants: each tile from buffers and from textures, in f16 where allowed, and Winograd where it fits. */
function candidatesOf(device: TensorDevice, convolution: Convolution): readonly ConvolutionVariant[] {
  const { call, allowed } = convolution;
  const columns = call.N4 * 4;
  return [
    ...tilesFor(smallSubgroupSize(device), columns).flatMap((tile) => [
      directVariant(tile, false),
      ...(readable(device, convolution, tile) ? [directVariant(tile, true)] : []),
    ]),
    ...(allowed.half ? tilesFor(0, columns).map((tile) => directVariant(tile, false, 'f16')) : []),
    ...(fitsWinograd(call) ? allowed.winograd.map((size): ConvolutionVariant => ({ winograd: size })) : []),
  ];
}

function candidateOf(
  device: TensorDevice,
  { call, allowed: { half } }: Omit<Convolution, 'tensors'>,
  variant: ConvolutionVariant,
): Candidate<ConvolutionVariant> {
  const rounding = roundingOf(termsOf(call));
  if (variant.winograd !== null) {
    const m = variant.winograd;
    return {
      name: `winograd ${m}x${m}`,
      variant,
      tolerance: WINOGRAD_ROUNDING[m] * (rounding + (half && halfProducts(m) ? HALF_ROUNDING : 0)),
      kernels: () => winogradKernels(device, m, 'forward'),
    };
  }
  const { rows, columns, textures, precision } = variant;
  return {
    name: `direct ${precision === 'f16' ? 'f16' : textures ? 'texture' : 'buffer'} ${rows}x${columns}`,
    variant,
    tolerance: rounding + (precision === 'f16' ? HALF_ROUNDING : 0),
    kernels: () => [convolutionKernel(device, call, variant, '')],
  };
}

/** The shape class of a convolution, as the tuner stores it. */
function keyOf({ call, allowed, tensors }: Convolution): string {
  const { batch, sourceH, sourceW, targetH, targetW, K4, N4, groups, kh, kw, stride, step, padY, padX, byLines } = call;
  const { source, weights, target, ...optional } = tensors;
  const extras = Object.entries(optional)
    .filter(([, tensor]) => tensor)
    .map(([name]) => ` ${name}`)
    .sort()
    .join('');
  return [
    `${kh}x${kw}`,
    stride > 1 ? ` stride ${stride}` : '',
    step > 1 ? ` step ${step}` : '',
    groups > 1 ? ` groups ${groups}` : '',
    byLines ? ` lines of ${byLines.channels}` : '',
    ` pad ${padY === padX ? padY : `${padY},${padX}`} `,
    `${batch}x${sourceH}x${sourceW}x${K4 * 4} to ${targetH}x${targetW}x${N4 * 4}${extras}`,
    fitsWinograd(call) && allowed.winograd.includes(4) ? ' winograd4' : '',
    allowed.half ? ' half' : '',
  ].join('');
}

/** Runs a convolution with a variant. */
export type RunConvolution = (device: TensorDevice, convolution: Convolution, variant: ConvolutionVariant) => void;

/** The variant of those allowed: the tuned one, or the cost model's. */
export const chooseConvolution = (
  device: TensorDevice,
  convolution: Convolution,
  run: RunConvolution,
): ConvolutionVariant =>
  device.tuner.choose('conv2d', keyOf(convolution), () => describeConvolution(device, convolution, run));

function describeConvolution(
  device: TensorDevice,
  convolution: Convolution,
  run: RunConvolution,
): TuningProblem<ConvolutionVariant> {
  const { call, allowed, tensors } = convolution;
  const candidate = (variant: ConvolutionVariant): Candidate<ConvolutionVariant> =>
    candidateOf(device, { call, allowed }, variant);
  const { tensors: shapes, fill } = outline(tensors);
  return {
    expected: candidate(expectedVariant(device, convolution)),
    candidates: candidatesOf(device, convolution).map(candidate),
    plain: directVariant(smallSubgroupSize(device) === 0 ? [32, 32] : [16, 32], false),
    tensors: shapes,
    output: 'target',
    run: (variant, filled) => run(device, { call, allowed, tensors: fill(filled) }, variant),
  };
}
