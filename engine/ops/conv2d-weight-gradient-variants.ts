/**
 * The variants of a convolution's gradient with respect to the weight, and which one to run: direct or Winograd, tile,
 * source of the images, and the split of the sum.
 *
 * `candidatesOf` lists the variants that the tuner measures. `weightGradientKernel` maps a direct variant to its
 * kernel. `expectedVariant` is the cost model, which decides where nothing is tuned.
 */
import { isNarrow } from '../../kernels/conv2d.ts';
import { sumPartsKernel } from '../../kernels/conv2d-layout.ts';
import {
  convNarrowWeightGradientKernel,
  convWeightGradientSubgroupKernel,
  convWeightGradientTiledKernel,
} from '../../kernels/conv2d-weight-gradient.ts';
import type { Kernel } from '../../kernels/kernel.ts';
import { WINOGRAD_SIZES, type WinogradSize } from '../../kernels/winograd.ts';
import type { Tensor, TensorDevice, TextureOperand } from '../core/tensor.ts';
import { outline, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import type { ConvolutionSizes } from './conv2d-geometry.ts';
import { smallSubgroupSize, worthCopies, type Tile } from './conv2d-variants.ts';
import { MIN_WORK_TO_COMPILE } from './gemm-variants.ts';
import { prefersTextures, textureOperand } from './operand-textures.ts';
import { roundingOf } from './rounding.ts';
import { WINOGRAD_ROUNDING, winogradGradientSize, winogradKernels } from './winograd-variants.ts';

/** The sizes that decide the variant. */
export interface WeightGradientCall extends ConvolutionSizes {
  readonly groups: number;
  readonly stride: number;
  readonly padding: number;
}

export interface WeightGradientTensors {
  /** The image read by the forward pass, and the upstream gradient. */
  readonly source: Tensor;
  readonly upstream: Tensor;
  /** Receives the gradient. */
  readonly sum: Tensor;
}

/** A sum over pixels for each tile of the gradient. */
export interface DirectWeightGradient {
  readonly winograd: null;
  readonly rows: number;
  readonly columns: number;
  /** Pixels per turn of the loop; subgroup kernels only. */
  readonly pixels: number;
  /** Whether the rows of both images are read from textures; subgroup kernels only. */
  readonly textures: boolean;
  /** Lines (image, y) that one workgroup sums up. */
  readonly perSplit: number;
}

export type WeightGradientVariant = DirectWeightGradient | { readonly winograd: WinogradSize };

// ------------------------------------------------------------------ splits

/** A sum over the lines of images. */
export interface LineSum {
  readonly lines: number;
  /** Pixels of a line. */
  readonly lineLength: number;
  /** Workgroups of one split. */
  readonly workgroups: number;
  /** Vec4s of one partial result. */
  readonly partial4: number;
}

export interface Splits {
  readonly splits: number;
  /** Lines of a split. */
  readonly perSplit: number;
}

/** Number of workgroups that keeps a device busy: a few per CPU core, or some per SM of a GPU. */
const BUSY_GROUPS = { software: 24, gpu: 512 };
/** Maximum memory of the partial sums. */
const MAX_PARTIAL_BYTES = 64 * 2 ** 20;
/** Minimum pixels of a split: a smaller one is not worth its partial result. */
const MIN_SPLIT_PIXELS = 64;

const maxSplits = (partial4: number): number => Math.floor(MAX_PARTIAL_BYTES / (partial4 * 16));

/** Splits a sum over lines so that the device is busy, but each split is worth its partial result. */
export function splitLines(device: TensorDevice, { lines, lineLength, workgroups, partial4 }: LineSum): Splits {
  const busy = device.smallSubgroups ? BUSY_GROUPS.software : BUSY_GROUPS.gpu;
  const pixels = lines * lineLength;
  return divideLines(
    lines,
    Math.min(Math.ceil(busy / workgroups), Math.ceil(pixels / MIN_SPLIT_PIXELS), maxSplits(partial4)),
  );
}

/** At most `splits` equal ranges of lines. */
function divideLines(lines: number, splits: number): Splits {
  const perSplit = Math.ceil(lines / Math.max(1, Math.min(splits, lines)));
  return { splits: Math.ceil(lines / perSplit), perSplit };
}

// ------------------------------------------------------------------ kernels and operands

/** The kernel of a direct variant. */
export function weightGradientKernel(
  device: TensorDevice,
  { rows, columns, pixels, textures }: Omit<DirectWeightGradient, 'winograd' | 'perSplit'>,
): Kernel {
  const lanes = smallSubgroupSize(device);
  if (lanes === 0) return convWeightGradientTiledKernel(rows);
  return isNarrow(lanes, columns)
    ? convNarrowWeightGradientKernel({ lanes, columns, pixels, textures })
    : convWeightGradientSubgroupKernel({ lanes, rows, columns, pixels, textures });
}

/** Image rows of source and upstream gradient as textures; null where they do not fit. */
export function weightGradientTextures(
  { batch, height, width, outH, outW, C4, O4, groups }: WeightGradientCall,
  { source, upstream }: WeightGradientTensors,
): readonly [source: TextureOperand, upstream: TextureOperand] | null {
  const sourceRows = textureOperand(source, batch * height, width * C4 * groups, true);
  const upstreamRows = textureOperand(upstream, batch * outH, outW * O4 * groups, true);
  return sourceRows && upstreamRows && [sourceRows, upstreamRows];
}

/** Tiles of the gradient, and workgroups of one split. */
export const weightGradientTiles = (
  { kh, kw, C4, O4, groups }: WeightGradientCall,
  { rows, columns }: Pick<DirectWeightGradient, 'rows' | 'columns'>,
): { tilesM: number; tilesN: number; workgroups: number } => {
  const tilesM = Math.ceil((kw * C4 * 4) / rows);
  const tilesN = Math.ceil((O4 * 4) / columns);
  return { tilesM, tilesN, workgroups: tilesM * tilesN * kh * groups };
};

/** Vec4s of the gradient. */
const sizeOf4 = ({ kh, kw, C4, O4, groups }: WeightGradientCall): number => kh * kw * C4 * 4 * groups * O4;

// ------------------------------------------------------------------ cost model

function texturesPay(
  device: TensorDevice,
  { batch, height, width, outH, outW, C4, O4, groups, kh, kw }: WeightGradientCall,
): boolean {
  // With short lines, much of a turn of four pixels would be empty.
  if (outW % 4 !== 0 && outW <= 12 && device.force.operands !== 'texture') return false;
  return worthCopies(
    device,
    batch * outH * outW * kh * kw * C4 * O4 * 16 * groups,
    4 * groups * batch * (height * width * C4 + outH * outW * O4),
  );
}

const fitsWinograd = ({ kh, kw, stride, groups }: WeightGradientCall): boolean =>
  kh === 3 && kw === 3 && stride === 1 && groups === 1;

/** A direct variant with the split that the cost model expects for its tile. */
function variantWith(
  device: TensorDevice,
  call: WeightGradientCall,
  tile: Pick<DirectWeightGradient, 'rows' | 'columns' | 'pixels' | 'textures'>,
): DirectWeightGradient & { readonly splits: number } {
  const { splits, perSplit } = splitLines(device, {
    lines: call.batch * call.outH,
    lineLength: call.outW,
    workgroups: weightGradientTiles(call, tile).workgroups,
    partial4: sizeOf4(call),
  });
  return { winograd: null, ...tile, perSplit, splits };
}

/** On SwiftShader larger tiles and turns load less, and take twice as long to compile. */
const worthCompiling = (lanes: number, call: WeightGradientCall): boolean =>
  lanes === 4 && call.batch * call.outH * call.outW * sizeOf4(call) * 4 >= MIN_WORK_TO_COMPILE;

/**
 * The expected number of pixels per turn. Four pixels load and store the sums half as often as two. But with the code
 * of buffer loads, the code of four pixels does not fit into the instruction cache of a CPU. With the tile of 16 lanes
 * it fits only into an otherwise empty cache, so the number is three.
 */
const expectedPixels = (lanes: number, call: WeightGradientCall, textures: boolean): number => {
  if (lanes > 4 && textures) return lanes === 16 ? 3 : 4;
  return worthCompiling(lanes, call) ? 4 : 2;
};

/** Tiles of the kernel for few output channels. */
const narrowTiles = (lanes: number, { O4 }: WeightGradientCall): readonly Tile[] =>
  lanes === 4
    ? []
    : [16, 32]
        .filter((columns) => O4 * 4 <= columns && isNarrow(lanes, columns))
        .map((columns): Tile => [lanes * 4, columns]);

function expectedTile(lanes: number, call: WeightGradientCall): Tile {
  const { C4, O4, kw } = call;
  if (lanes === 0) return C4 * kw > 8 && O4 > 8 ? [64, 64] : [32, 32];
  const [narrow] = narrowTiles(lanes, call);
  if (narrow) return narrow;
  const columns = O4 <= 8 || (lanes <= 4 && !worthCompiling(lanes, call)) ? 32 : 64;
  return [Math.max(32, lanes * 4), Math.max(columns, lanes * 4)];
}

/** How the expected variant reads its images, and whether it could read them from textures. */
function expectedSource(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
): { readonly readable: boolean; readonly textures: boolean; readonly pixels: number } {
  const lanes = smallSubgroupSize(device);
  const readable = lanes > 0 && device.operandTextures && weightGradientTextures(call, tensors) !== null;
  const textures = readable && prefersTextures(device) && texturesPay(device, call);
  return { readable, textures, pixels: expectedPixels(lanes, call, textures) };
}

/** The cost model's choice. */
function expectedVariant(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
): WeightGradientVariant {
  const { batch, height, width, outH, outW, C4, O4, padding } = call;
  const size = fitsWinograd(call)
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
  if (size !== null) return { winograd: size };
  const [rows, columns] = expectedTile(smallSubgroupSize(device), call);
  const { textures, pixels } = expectedSource(device, call, tensors);
  return variantWith(device, call, { rows, columns, pixels, textures });
}

// ------------------------------------------------------------------ candidates

/** Tiles worth measuring. */
function tilesFor(lanes: number, call: WeightGradientCall): readonly Tile[] {
  if (lanes === 0)
    return [
      [32, 32],
      [64, 64],
    ];
  const wide = [
    [32, 32],
    [32, 64],
    [64, 32],
  ].map(([rows, columns]): Tile => [Math.max(rows, lanes * 4), Math.max(columns, lanes * 4)]);
  return [...wide, ...narrowTiles(lanes, call)];
}

/** Maximum code per turn that the tuner tries, as rows x columns x pixels. */
const maxTurn = (lanes: number): number => (lanes === 16 ? 64 : 32) * 64 * 4;

/**
 * All variants: each tile with the expected split, with half and twice as many splits, with other numbers of pixels per
 * turn, and from the other source; and Winograd where it fits.
 */
function candidatesOf(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
): readonly WeightGradientVariant[] {
  const lanes = smallSubgroupSize(device);
  const { readable, textures, pixels } = expectedSource(device, call, tensors);
  const lines = call.batch * call.outH;
  const max = Math.max(1, maxSplits(sizeOf4(call)));
  const direct = tilesFor(lanes, call).flatMap(([rows, columns]) => {
    const own = variantWith(device, call, { rows, columns, pixels, textures });
    const otherSplits = [Math.ceil(own.splits / 2), own.splits * 2].map((splits) => ({
      ...own,
      perSplit: divideLines(lines, Math.min(max, splits)).perSplit,
    }));
    const otherTurns = [1, 2, 3, 4]
      .filter((count) => lanes > 0 && count !== pixels && rows * columns * count <= maxTurn(lanes))
      .map((count) => ({ ...own, pixels: count }));
    return [own, ...otherSplits, ...otherTurns, ...(readable ? [{ ...own, textures: !textures }] : [])];
  });
  return [...direct, ...(fitsWinograd(call) ? WINOGRAD_SIZES.map((winograd) => ({ winograd })) : [])];
}

function candidateOf(
  device: TensorDevice,
  call: WeightGradientCall,
  variant: WeightGradientVariant,
): Candidate<WeightGradientVariant> {
  const lines = call.batch * call.outH;
  const rounding = roundingOf(lines * call.outW);
  if (variant.winograd !== null) {
    const m = variant.winograd;
    return {
      name: `winograd ${m}x${m}`,
      variant: { winograd: m },
      tolerance: WINOGRAD_ROUNDING[m] * rounding,
      kernels: () => winogradKernels(device, m, 'weight gradient'),
    };
  }
  const { rows, columns, pixels, textures, perSplit } = variant;
  const splits = Math.ceil(lines / perSplit);
  const turns = smallSubgroupSize(device) > 0 ? ` by ${pixels}` : '';
  return {
    name: `${textures ? 'texture ' : ''}${rows}x${columns}${turns}${splits > 1 ? `, ${splits} splits` : ''}`,
    variant: { winograd: null, rows, columns, pixels, textures, perSplit },
    tolerance: rounding,
    kernels: () => [weightGradientKernel(device, variant), ...(splits > 1 ? [sumPartsKernel()] : [])],
  };
}

/** Runs a gradient with a variant. */
export type RunWeightGradient = (
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
  variant: WeightGradientVariant,
) => void;

/** The variant for a gradient with respect to the weight: the tuned one, or the cost model's. */
export function chooseWeightGradient(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
  run: RunWeightGradient,
): WeightGradientVariant {
  const { batch, height, width, outH, outW, kh, kw, C4, O4, groups, stride, padding } = call;
  const key = [
    `${kh}x${kw}`,
    stride > 1 ? ` stride ${stride}` : '',
    groups > 1 ? ` groups ${groups}` : '',
    ` pad ${padding} ${batch}x${height}x${width}x${C4 * 4} to ${outH}x${outW}x${O4 * 4}`,
  ].join('');
  return device.tuner.choose('conv2d-weight-gradient', key, () => describeWeightGradient(device, call, tensors, run));
}

function describeWeightGradient(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
  run: RunWeightGradient,
): TuningProblem<WeightGradientVariant> {
  const candidate = (variant: WeightGradientVariant): Candidate<WeightGradientVariant> =>
    candidateOf(device, call, variant);
  const [[rows, columns]] = tilesFor(smallSubgroupSize(device), call);
  const { tensors: shapes, fill } = outline(tensors);
  return {
    expected: candidate(expectedVariant(device, call, tensors)),
    candidates: candidatesOf(device, call, tensors).map(candidate),
    plain: {
      winograd: null,
      rows,
      columns,
      pixels: 1,
      textures: false,
      perSplit: Math.max(1, call.batch * call.outH),
    },
    tensors: shapes,
    output: 'sum',
    run: (variant, filled) => run(device, call, fill(filled), variant),
  };
}
