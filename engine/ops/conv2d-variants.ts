/** The ways to compute a dense or grouped convolution, and which one to take: direct or Winograd, tile, where operands are read from; for the gradient by the weight tile and split. */
import { convSubgroupKernel, convTiledKernel, isNarrow } from '../../kernels/conv2d.ts';
import { sumPartsKernel } from '../../kernels/conv2d-layout.ts';
import {
  convNarrowWeightGradientKernel,
  convWeightGradientSubgroupKernel,
  convWeightGradientTiledKernel,
} from '../../kernels/conv2d-weight-gradient.ts';
import type { Kernel } from '../../kernels/kernel.ts';
import type { StagedPrecision } from '../../kernels/matmul-tiled.ts';
import {
  winogradOutputKernel,
  winogradTilesKernel,
  winogradWeightGradientKernel,
  winogradWeightsKernel,
  WINOGRAD_SIZES,
  type WinogradSize,
} from '../../kernels/winograd.ts';
import type { Tensor, TensorDevice, TextureOperand } from '../core/tensor.ts';
import { prefersTextures, textureOperand } from './operand-textures.ts';
import { outline, type Candidate } from '../tuning/problem.ts';
import { elementwiseLanes } from '../core/elementwise.ts';
import type { EpilogueOperands } from './gemm.ts';
import { HALF_ROUNDING, roundingOf, WORTH_COMPILING } from './gemm-variants.ts';
import { halfProducts, winogradGradientSize, winogradSize, type WinogradCall } from './winograd.ts';

/** What the implicit GEMM is told; see kernels/conv2d.ts. `K4` and `N4` of a group. */
export interface ConvolutionCall extends Omit<WinogradCall, 'padding'> {
  readonly groups: number;
  readonly kh: number;
  readonly kw: number;
  readonly stride: number;
  readonly step: number;
  readonly padY: number;
  readonly padX: number;
  /** Where the image is taken by lines (kernels/conv2d.ts): then `K4` is 1, `sourceW` counts vec4s, `kw` those of all classes, and `padY` and `padX` are where the first window begins. */
  readonly byLines?: ImageLines | null;
}

/** See kernels/conv2d.ts, By lines. */
export interface ImageLines {
  readonly classes: number;
  readonly channels: number;
  readonly vectors: number;
  readonly pitch: number;
}

/** How many products a value of the target is the sum of. */
const termsOf = ({ kh, kw, K4, step, byLines }: ConvolutionCall): number =>
  (kh * kw * K4 * 4) / (byLines?.classes ?? step ** 2);

const greatestDivisor = (a: number, b: number): number => (b === 0 ? a : greatestDivisor(b, a % b));

/** How an image is taken by lines; null where it is not: its channels fill vec4s, its lines do not, or pixels padded to vec4s take no more of them. */
export function imageLines(
  device: TensorDevice,
  channels: number,
  { width, kw }: Pick<ConvolutionSizes, 'width' | 'kw'>,
  { stride, padding, groups }: { readonly stride: number; readonly padding: number; readonly groups: number },
): ImageLines | null {
  if (!device.smallSubgroups || groups !== 1 || channels % 4 === 0 || (width * channels) % 4 !== 0) return null;
  const classes = 4 / greatestDivisor(4, stride * channels);
  const places = Array.from({ length: classes }, (_, firstX) => ((firstX * stride - padding) * channels) & 3);
  const vectors = Math.ceil((Math.max(...places) + kw * channels) / 4);
  return vectors < kw * Math.ceil(channels / 4)
    ? { classes, channels, vectors, pitch: (classes * stride * channels) / 4 }
    : null;
}

/** The sizes of a convolution; `C4` and `O4` hold the channels of a group, in vec4s. */
export interface ConvolutionSizes {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  readonly outH: number;
  readonly outW: number;
  readonly kh: number;
  readonly kw: number;
  readonly C4: number;
  readonly O4: number;
}

/** Forward pass or gradient by the input. */
export type ConvolutionVariant =
  | { readonly winograd: WinogradSize }
  | {
      readonly winograd: null;
      readonly rows: number;
      readonly columns: number;
      readonly textures: boolean /** f16: through workgroup memory, whatever the device. */;
      readonly precision: StagedPrecision;
    };

/** Which variants may be taken that round more coarsely than a plain sum. */
export interface AllowedRounding {
  readonly winograd: readonly WinogradSize[];
  /** Operands rounded to f16 (see `DeviceOptions.halfPrecision`). */
  readonly half: boolean;
}

/** Tensors of a call, by the names that the kernels have for them, and its epilogue. */
export interface ConvolutionTensors extends EpilogueOperands {
  readonly source: Tensor;
  readonly weights: Tensor;
  readonly target: Tensor;
}

/** Workgroups that keep a device busy: a few for each CPU core, or some for each multiprocessor of a GPU. */
const busyWorkgroups = (device: TensorDevice): number => (device.smallSubgroups ? 24 : 512);

/** Partial sums may take this much memory. */
const PARTIAL_BYTES = 64 * 2 ** 20;

/** Longer sums are split by rows of taps, because a sum of sums rounds less than one chain of additions. Here that costs no memory, so the bound is lower than that of matrix products. */
const MAX_CHAIN = 256;

export const splitsTaps = (call: ConvolutionCall): boolean => termsOf(call) > MAX_CHAIN;

/** Multiply-adds a value copied from which on textures pay (see kernels/conv2d.ts and textures.ts). */
const WORTH_A_COPY = 40;

/** Image rows and weights as textures, the weights of narrow tiles excepted; null where they do not fit. */
export function textureOperands(
  { batch, sourceH, sourceW, K4, N4, groups, kh, kw }: ConvolutionCall,
  source: Tensor,
  weights: Tensor,
  narrow: boolean,
): { source: TextureOperand; weights: TextureOperand | null } | null {
  const lines = textureOperand(source, batch * sourceH, sourceW * K4 * groups, true);
  const rows = narrow ? null : textureOperand(weights, kh * kw * K4 * 4, N4 * groups, true);
  return lines && (narrow || rows) && { source: lines, weights: rows };
}

/** Whether so many multiply-adds are worth copying so many values to textures. */
const worthCopies = ({ force }: TensorDevice, work: number, copied: number): boolean =>
  force.operands === 'texture' || work >= copied * WORTH_A_COPY;

function texturesPay(device: TensorDevice, call: ConvolutionCall): boolean {
  const { batch, sourceH, sourceW, targetH, targetW, K4, N4, groups, kh, kw } = call;
  const work = batch * targetH * targetW * termsOf(call) * N4 * 4 * groups;
  return worthCopies(device, work, 4 * groups * (batch * sourceH * sourceW * K4 + kh * kw * K4 * 4 * N4));
}

/** How much more than a direct sum Winograd's transforms round. */
const WINOGRAD_ROUNDING: Readonly<Record<WinogradSize, number>> = { 2: 2, 4: 3 };

type Tile = readonly [rows: number, columns: number];

/** Wider tiles spill on software adapters; GPUs take the larger one where it leaves enough workgroups. */
function gemmTile(subgroup: number, rows: number, columns: number, textures: boolean): Tile {
  if (subgroup === 0) return rows * columns >= 64 * 64 * 64 && columns > 32 ? [64, 64] : [32, 32];
  if (columns <= 4) return [subgroup * 8, 4];
  if (columns <= 16) return [subgroup * 8, 16];
  if (columns <= 32 && subgroup === 16) return [64, 32];
  if (textures && columns > 32 && subgroup <= 8) return [32, 64];
  // On SwiftShader high tiles are the faster ones, and take three times as long to compile.
  if (subgroup <= 4) return [rows >= 1024 ? 64 : 32, 32];
  return [32, Math.max(32, subgroup * 4)];
}

/** Tiles worth measuring: none of which half would be padding. */
function tilesFor(subgroup: number, columns: number): readonly Tile[] {
  const tiles: readonly Tile[] =
    subgroup === 0
      ? [
          [32, 32],
          [64, 64],
        ]
      : [
          [subgroup * 8, 4],
          [16, 32],
          [32, 16],
          ...(subgroup === 4 ? [] : [[subgroup * 8, 16] as const]),
          ...(subgroup === 8 ? [] : [[64, 32] as const]),
          [32, 32],
          [32, 64],
        ];
  return tiles.filter((tile) => (tile[1] / 2 < columns || tile[1] <= 32) && (tile[1] > 4 || columns <= 4));
}

/** Pixels of the largest phase, or class. */
export const pixelsOf = ({ batch, targetH, targetW, step, byLines }: ConvolutionCall): number =>
  batch * Math.ceil(targetH / step) * Math.ceil(targetW / (byLines?.classes ?? step));

/** The variant for the forward pass or the gradient by the input, of those allowed: the tuned one, or the cost model's. */
export function chooseConvolution(
  device: TensorDevice,
  call: ConvolutionCall,
  { winograd: sizes, half }: AllowedRounding,
  tensors: ConvolutionTensors,
  run: (tensors: ConvolutionTensors, variant: ConvolutionVariant) => void,
): ConvolutionVariant {
  const {
    batch,
    sourceH,
    sourceW,
    targetH,
    targetW,
    K4,
    N4,
    groups,
    kh,
    kw,
    stride,
    step,
    padY,
    padX,
    byLines = null,
  } = call;
  const tiled = kh === 3 && kw === 3 && stride === 1 && step === 1 && groups === 1 && padY === padX;
  const allowed = tiled ? sizes : [];
  const { source, weights, target, ...optional } = tensors;
  const extras = Object.entries(optional)
    .filter(([, tensor]) => tensor)
    .map(([name]) => ` ${name}`)
    .sort()
    .join('');
  const key =
    `${kh}x${kw}${stride > 1 ? ` stride ${stride}` : ''}${step > 1 ? ` step ${step}` : ''}${groups > 1 ? ` groups ${groups}` : ''}${byLines ? ` lines of ${byLines.channels}` : ''} pad ${padY === padX ? padY : `${padY},${padX}`} ` +
    `${batch}x${sourceH}x${sourceW}x${K4 * 4} to ${targetH}x${targetW}x${N4 * 4}${extras}${allowed.includes(4) ? ' winograd4' : ''}${half ? ' half' : ''}`;
  return device.tuner.choose('conv2d', key, () => {
    const subgroup = device.smallSubgroups ? device.subgroupSize : 0;
    const readable = ([, columns]: Tile): boolean =>
      subgroup > 0 &&
      device.operandTextures &&
      textureOperands(call, source, weights, isNarrow(subgroup, columns)) !== null;
    const rounding = roundingOf(termsOf(call));
    const candidate = (variant: ConvolutionVariant): Candidate<ConvolutionVariant> => {
      if (variant.winograd !== null) {
        const m = variant.winograd,
          copied = prefersTextures(device);
        return {
          name: `winograd ${m}x${m}`,
          variant,
          tolerance: WINOGRAD_ROUNDING[m] * (rounding + (half && halfProducts(m) ? HALF_ROUNDING : 0)),
          kernels: () => [
            winogradWeightsKernel(m, copied),
            winogradTilesKernel(m, 'input', copied, elementwiseLanes(device)),
            winogradOutputKernel(m, '', copied, elementwiseLanes(device)),
          ],
        };
      }
      const { rows, columns, textures, precision } = variant;
      return {
        name: `direct ${precision === 'f16' ? 'f16' : textures ? 'texture' : 'buffer'} ${rows}x${columns}`,
        variant,
        tolerance: rounding + (precision === 'f16' ? HALF_ROUNDING : 0),
        kernels: () => [
          precision === 'f32' && subgroup > 0
            ? convSubgroupKernel(subgroup, rows, columns, textures, splitsTaps(call), byLines !== null, '')
            : convTiledKernel(rows, precision, ''),
        ],
      };
    };
    const direct = (
      [rows, columns]: Tile,
      textures: boolean,
      precision: StagedPrecision = 'f32',
    ): ConvolutionVariant => ({ winograd: null, rows, columns, textures, precision });
    const m = tiled ? winogradSize(device, { ...call, padding: 2 - padY }, sizes) : null;
    const pixels = pixelsOf(call);
    const modelled = (textures: boolean): Tile => gemmTile(subgroup, pixels, N4 * 4, textures);
    const textures = readable(modelled(true)) && prefersTextures(device) && texturesPay(device, call);
    const expected: ConvolutionVariant =
      m !== null
        ? { winograd: m }
        : half && device.expectedPrecision === 'f16'
          ? direct(gemmTile(0, pixels, N4 * 4, false), false, 'f16')
          : direct(modelled(textures), textures);
    const candidates = [
      ...tilesFor(subgroup, N4 * 4).flatMap((tile) => [
        direct(tile, false),
        ...(readable(tile) ? [direct(tile, true)] : []),
      ]),
      ...(half ? tilesFor(0, N4 * 4).map((tile) => direct(tile, false, 'f16')) : []),
      ...allowed.map((size): ConvolutionVariant => ({ winograd: size })),
    ];
    const { tensors: shapes, fill } = outline(tensors);
    return {
      expected: candidate(expected),
      candidates: candidates.map(candidate),
      plain: direct(subgroup === 0 ? [32, 32] : [16, 32], false),
      tensors: shapes,
      output: 'target',
      run: (variant, filled) => run(fill(filled), variant),
    };
  });
}

/** Into how many ranges of lines a sum over pixels is split, so that there is work for the device but each range is worth its partial result. */
export function splitLines(
  device: TensorDevice,
  lines: number,
  lineLength: number,
  workgroups: number,
  partial4: number,
): { splits: number; perSplit: number } {
  const enough = Math.ceil(busyWorkgroups(device) / workgroups);
  return rangesOf(
    lines,
    Math.min(enough, Math.ceil((lines * lineLength) / 64), Math.floor(PARTIAL_BYTES / (partial4 * 16))),
  );
}

function rangesOf(lines: number, wanted: number): { splits: number; perSplit: number } {
  const perSplit = Math.ceil(lines / Math.max(1, Math.min(wanted, lines)));
  return { splits: Math.ceil(lines / perSplit), perSplit };
}

/** A sum over pixels, tile by tile of the gradient. */
export interface DirectWeightGradient {
  readonly winograd: null;
  readonly rows: number;
  readonly columns: number;
  /** Of a turn of the loop; subgroup kernels only. */
  readonly pixels: number;
  /** Whether the rows of both images are read from textures; subgroup kernels only. */
  readonly textures: boolean;
  /** Lines of an image (b, y) that are summed up in one workgroup. */
  readonly perSplit: number;
}

export type WeightGradientVariant = DirectWeightGradient | { readonly winograd: WinogradSize };

/** What decides the variant of a gradient by the weight. */
export interface WeightGradientCall extends ConvolutionSizes {
  readonly groups: number;
  readonly stride: number;
  readonly padding: number;
}

export interface WeightGradientTensors {
  readonly source: Tensor;
  readonly upstream: Tensor;
  readonly sum: Tensor;
}

export function weightGradientKernel(
  device: TensorDevice,
  { rows, columns, pixels, textures }: DirectWeightGradient,
): Kernel {
  const { smallSubgroups, subgroupSize } = device;
  if (!smallSubgroups) return convWeightGradientTiledKernel(rows);
  return isNarrow(subgroupSize, columns)
    ? convNarrowWeightGradientKernel(subgroupSize, columns, pixels, textures)
    : convWeightGradientSubgroupKernel(subgroupSize, rows, columns, pixels, textures);
}

/** Image rows of source and upstream gradient as textures; null where they do not fit. */
export function weightGradientTextures(
  { batch, height, width, outH, outW, C4, O4, groups }: WeightGradientCall,
  { source, upstream }: WeightGradientTensors,
): readonly [source: TextureOperand, upstream: TextureOperand] | null {
  const [sourceRows, upstreamRows] = [
    textureOperand(source, batch * height, width * C4 * groups, true),
    textureOperand(upstream, batch * outH, outW * O4 * groups, true),
  ];
  return sourceRows && upstreamRows && [sourceRows, upstreamRows];
}

/** Workgroups of one split. */
export const weightGradientTiles = (
  { kh, kw, C4, O4, groups }: WeightGradientCall,
  { rows, columns }: Pick<DirectWeightGradient, 'rows' | 'columns'>,
): { tilesM: number; tilesN: number; whole: number } => {
  const tilesM = Math.ceil((kw * C4 * 4) / rows),
    tilesN = Math.ceil((O4 * 4) / columns);
  return { tilesM, tilesN, whole: tilesM * tilesN * kh * groups };
};

function weightGradientTexturesPay(
  device: TensorDevice,
  { batch, height, width, outH, outW, C4, O4, groups, kh, kw }: WeightGradientCall,
): boolean {
  // Short lines would leave much of a turn of four pixels empty.
  if (outW % 4 !== 0 && outW <= 12 && device.force.operands !== 'texture') return false;
  return worthCopies(
    device,
    batch * outH * outW * kh * kw * C4 * O4 * 16 * groups,
    4 * groups * batch * (height * width * C4 + outH * outW * O4),
  );
}

/** The variant for a gradient by the weight: the tuned one, or the cost model's. */
export function chooseWeightGradient(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
  run: (tensors: WeightGradientTensors, variant: WeightGradientVariant) => void,
): WeightGradientVariant {
  const { batch, height, width, outH, outW, kh, kw, C4, O4, groups, stride, padding } = call;
  const key = `${kh}x${kw}${stride > 1 ? ` stride ${stride}` : ''}${groups > 1 ? ` groups ${groups}` : ''} pad ${padding} ${batch}x${height}x${width}x${C4 * 4} to ${outH}x${outW}x${O4 * 4}`;
  return device.tuner.choose('conv2d-weight-gradient', key, () => {
    const subgroup = device.smallSubgroups ? device.subgroupSize : 0;
    const tiled = kh === 3 && kw === 3 && stride === 1 && groups === 1;
    const lines = batch * outH,
      count4 = kh * kw * C4 * 4 * groups * O4;
    const most = Math.max(1, Math.floor(PARTIAL_BYTES / (count4 * 16)));
    const modelled = (
      rows: number,
      columns: number,
      pixels: number,
      textures: boolean,
    ): DirectWeightGradient & { splits: number } => {
      const { splits, perSplit } = splitLines(
        device,
        lines,
        outW,
        weightGradientTiles(call, { rows, columns }).whole,
        count4,
      );
      return { winograd: null, rows, columns, pixels, textures, perSplit, splits };
    };
    const rounding = roundingOf(lines * outW);
    const transformed = (m: WinogradSize): Candidate<WeightGradientVariant> => ({
      name: `winograd ${m}x${m}`,
      variant: { winograd: m },
      tolerance: WINOGRAD_ROUNDING[m] * rounding,
      kernels: () => [
        ...(['input', 'upstream'] as const).map((of) =>
          winogradTilesKernel(m, of, prefersTextures(device), elementwiseLanes(device)),
        ),
        winogradWeightGradientKernel(m, prefersTextures(device)),
      ],
    });
    const candidate = ({
      rows,
      columns,
      pixels,
      textures,
      perSplit,
    }: DirectWeightGradient): Candidate<WeightGradientVariant> => {
      const variant: DirectWeightGradient = { winograd: null, rows, columns, pixels, textures, perSplit };
      const splits = Math.ceil(lines / perSplit);
      return {
        name: `${textures ? 'texture ' : ''}${rows}x${columns}${subgroup > 0 ? ` by ${pixels}` : ''}${splits > 1 ? `, ${splits} splits` : ''}`,
        variant,
        tolerance: rounding,
        kernels: () => [weightGradientKernel(device, variant), ...(splits > 1 ? [sumPartsKernel()] : [])],
      };
    };
    const tile = subgroup > 0 ? 0 : C4 * kw > 8 && O4 > 8 ? 64 : 32;
    const readable = subgroup > 0 && device.operandTextures && weightGradientTextures(call, tensors) !== null;
    const textures = readable && prefersTextures(device) && weightGradientTexturesPay(device, call);
    // On SwiftShader larger tiles and turns load less, and take twice as long to compile.
    const worthCompiling = subgroup === 4 && lines * outW * count4 * 4 >= WORTH_COMPILING;
    // Four pixels a turn load and store the sums half as often as two; with the code of buffer loads they no longer fit into a processor's instruction cache, and with the tile
    // of 16 lanes only where nothing else is in it.
    const pixels = subgroup > 4 && textures ? (subgroup === 16 ? 3 : 4) : worthCompiling ? 4 : 2;
    const narrow: readonly Tile[] =
      subgroup === 4
        ? []
        : [16, 32]
            .filter((columns) => O4 * 4 <= columns && isNarrow(subgroup, columns))
            .map((columns): Tile => [subgroup * 4, columns]);
    const expectedTile = narrow[0] ?? [
      tile || Math.max(32, subgroup * 4),
      tile || Math.max(O4 <= 8 || (subgroup <= 4 && !worthCompiling) ? 32 : 64, subgroup * 4),
    ];
    const expected = modelled(expectedTile[0], expectedTile[1], pixels, textures);
    const tiles: readonly Tile[] =
      subgroup === 0
        ? [
            [32, 32],
            [64, 64],
          ]
        : [
            ...[
              [32, 32],
              [32, 64],
              [64, 32],
            ].map(([rows, columns]): Tile => [Math.max(rows, subgroup * 4), Math.max(columns, subgroup * 4)]),
            ...narrow,
          ];
    const candidates = tiles.flatMap(([rows, columns]) => {
      const own = modelled(rows, columns, pixels, textures);
      const others = [Math.ceil(own.splits / 2), own.splits * 2].map((splits) => ({
        ...own,
        perSplit: rangesOf(lines, Math.min(most, splits)).perSplit,
      }));
      const turns = [1, 2, 3, 4]
        .filter(
          (count) => subgroup > 0 && count !== pixels && rows * columns * count <= (subgroup === 16 ? 64 : 32) * 64 * 4,
        )
        .map((count) => ({ ...own, pixels: count }));
      return [own, ...others, ...turns, ...(readable ? [{ ...own, textures: !textures }] : [])];
    });
    const { tensors: shapes, fill } = outline(tensors);
    const plain = { ...modelled(tiles[0][0], tiles[0][1], 1, false), perSplit: Math.max(1, lines) };
    const m = tiled
      ? winogradGradientSize(device, {
          batch,
          sourceH: height,
          sourceW: width,
          targetH: outH,
          targetW: outW,
          K4: C4,
          N4: O4,
          padding,
        })
      : null;
    return {
      expected: m !== null ? transformed(m) : candidate(expected),
      candidates: [...candidates.map(candidate), ...(tiled ? WINOGRAD_SIZES.map(transformed) : [])],
      plain,
      tensors: shapes,
      output: 'sum',
      run: (variant, filled) => run(fill(filled), variant),
    };
  });
}
