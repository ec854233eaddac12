/**
 * The variants of a matrix product, and which one to run: kernel, tile, source of the operands, and the split of K.
 *
 * `candidatesOf` lists the variants that the tuner measures. `gemmKernel` maps a variant to its kernel.
 * `expectedVariant` is the cost model, which decides where nothing is tuned.
 */
import type { Epilogue } from '../../kernels/epilogue.ts';
import type { Kernel } from '../../kernels/kernel.ts';
import {
  fittedTile,
  SUBGROUP_TILES,
  type MatmulTile,
  type OperandAccess,
  type SubgroupAccess,
  type TileSize,
} from '../../kernels/matmul.ts';
import { subgroupMatmulKernel } from '../../kernels/matmul-subgroup.ts';
import { sumSlicesKernel } from '../../kernels/matmul-sums.ts';
import {
  tiledMatmulKernel,
  WORKGROUP_TILES,
  type StagedPrecision,
  type WorkgroupTileSize,
} from '../../kernels/matmul-tiled.ts';
import { elementwiseLanes } from '../core/elementwise.ts';
import type { TensorDevice, TextureOperand } from '../core/tensor.ts';
import type { TextureLayout } from '../gpu/resources.ts';
import { outline, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { gemmLayout, type Gemm, type GemmSizes } from './gemm-problem.ts';
import { linearOperand, prefersTextures, textureOperand } from './operand-textures.ts';
import { HALF_ROUNDING, roundingOf } from './rounding.ts';

export interface GemmVariant {
  /** One of the tiles of the device (`tilesOf`). */
  readonly size: TileSize | 'fitted';
  /** Whether both operands are read from textures. */
  readonly textures: boolean;
  /** Parts that K is split into. They are added up afterwards. */
  readonly slices: number;
  /** f16 goes through workgroup memory on every device. */
  readonly precision: StagedPrecision;
}

interface Sizes {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch: number;
}

type Tiles = Readonly<Partial<Record<GemmVariant['size'], MatmulTile>>>;

// ------------------------------------------------------------------ kernels and operands

/** Work of a kernel in addition to the plain product. A product with split K has no extras. */
export interface GemmExtras {
  readonly epilogue: Epilogue;
  readonly sums: boolean;
  readonly residualTexture: boolean;
}

const NO_EXTRAS: GemmExtras = { epilogue: '', sums: false, residualTexture: false };

/** Whether products of a precision use the kernels for small subgroups. Otherwise they use workgroup memory. */
export const usesSubgroups = ({ smallSubgroups }: TensorDevice, precision: StagedPrecision): boolean =>
  precision === 'f32' && smallSubgroups;

const isWorkgroupTile = (size: GemmVariant['size']): size is WorkgroupTileSize => size in WORKGROUP_TILES;

/** The kernel of a variant. `access` is that of the subgroup kernel: 'texture' forms where operands are in textures. */
export function gemmKernel(
  device: TensorDevice,
  sizes: GemmSizes,
  { size, precision }: Pick<GemmVariant, 'size' | 'precision'>,
  { access: subgroupAccess, ...extras }: { readonly access: SubgroupAccess } & Partial<GemmExtras>,
): Kernel {
  const { form, access, wideRows } = gemmLayout(sizes);
  const { epilogue, sums, residualTexture } = { ...NO_EXTRAS, ...extras };
  if (!usesSubgroups(device, precision)) {
    if (!isWorkgroupTile(size))
      throw new Error(`gemmKernel: size: expected ${Object.keys(WORKGROUP_TILES).join(' or ')}, got ${size}`);
    const vec4Output = sizes.n % 4 === 0;
    return tiledMatmulKernel({
      form,
      size,
      access,
      precision,
      vec4Output,
      epilogue,
    });
  }
  const { rows, columns } = tilesOf(device, access, precision, sizes)[size]!;
  return subgroupMatmulKernel({
    lanes: device.subgroupSize,
    form,
    rows,
    columns,
    access: subgroupAccess,
    epilogue,
    sums,
    wideRows,
    residualTexture,
  });
}

/** A fitted tile is worth a shader for at least this many matrices, or this many multiply-adds of one product. */
const MIN_FITTED_MATRICES = 8;
const MIN_FITTED_WORK = 2 ** 24;

/** The tiles of a device for `batch` products of m rows, with an access and a precision. */
export function tilesOf(
  device: TensorDevice,
  access: OperandAccess,
  precision: StagedPrecision,
  { m, n, k, batch = 1 }: Pick<Gemm, keyof Sizes>,
): Tiles {
  if (!usesSubgroups(device, precision)) return WORKGROUP_TILES;
  const tiles = SUBGROUP_TILES[device.subgroupSize];
  const worthFitting = batch >= MIN_FITTED_MATRICES || m * n * k >= MIN_FITTED_WORK;
  const fitted = worthFitting ? fittedTile(device.subgroupSize, m) : null;
  return { ...(access === 'scalar' ? { small: tiles.small } : tiles), ...(fitted && { fitted }) };
}

/** log2 of the lines of a block; 31 where there is one block. */
export const blockShift = ({ blocks, blockLines }: TextureLayout): number =>
  blocks === 1 ? 31 : Math.log2(blockLines);

/** Both operands as textures, and the params that tell a kernel where their elements are. */
interface GemmTextures {
  readonly access: 'texture' | 'linear_texture';
  readonly operands: readonly [a: TextureOperand, b: TextureOperand];
  readonly params: Readonly<Record<string, number>>;
}

/**
 * Operands as textures: line by line, or as linear textures where lines cannot be copied one by one. Null where one
 * does not fit.
 */
export function textureOperands(problem: Gemm): GemmTextures | null {
  const { a, b } = problem;
  const { widthA, widthB } = gemmLayout(problem);
  const linesA = textureOperand(a, a.size / widthA, widthA / 4);
  const linesB = textureOperand(b, b.size / widthB, widthB / 4);
  if (linesA && linesB) {
    const [{ layout: layoutA }, { layout: layoutB }] = [linesA, linesB];
    return {
      access: 'texture',
      operands: [linesA, linesB],
      params: {
        shiftA: blockShift(layoutA),
        pitchA: layoutA.pitch,
        shiftB: blockShift(layoutB),
        pitchB: layoutB.pitch,
      },
    };
  }
  const [linearA, linearB] = [linearOperand(a), linearOperand(b)];
  return (
    linearA &&
    linearB && {
      access: 'linear_texture',
      operands: [linearA, linearB],
      params: { shiftA: linearA.shift, shiftB: linearB.shift },
    }
  );
}

// ------------------------------------------------------------------ cost model

/** Number of workgroups that keeps an adapter busy: a software adapter has a few threads, a GPU about a hundred SMs. */
const BUSY_GROUPS = { software: 16, gpu: 256 };

const busyGroups = ({ smallSubgroups }: TensorDevice): number =>
  smallSubgroups ? BUSY_GROUPS.software : BUSY_GROUPS.gpu;

type TileCosts = Readonly<Record<TileSize, number>>;

/** Costs relative to a multiply-add of the best tile. Measured on lavapipe and SwiftShader, see docs/adapters.md. */
interface Costs {
  /** Cost of a multiply-add by tile. A smaller tile reuses loaded values less, a larger one spills registers. */
  readonly buffers: TileCosts;
  readonly textures: TileCosts;
  /** A^T B reads both operands along their lines. From buffers it takes this fraction of the other forms' work. */
  readonly contiguous: number;
  /** Copying one element of an operand into a texture. */
  readonly copy: number;
}

const COSTS: Costs = {
  buffers: { wide: 2.2, large: 1.6, small: 2 },
  textures: { wide: 1, large: 1.05, small: 1.25 },
  contiguous: 0.7,
  copy: 14,
};
/**
 * Costs for subgroup sizes other than 8. SwiftShader (4 lanes) keeps all sums in memory, so larger tiles load less.
 * With 16 lanes, loads from buffers take longer.
 */
const COSTS_BY_LANES: Readonly<Record<number, Costs>> = {
  4: { ...COSTS, buffers: { wide: 1.4, large: 1.6, small: 2 } },
  16: {
    buffers: { wide: 2.1, large: 2.5, small: 2.6 },
    textures: { wide: 1, large: 1.15, small: 1.45 },
    contiguous: 0.85,
    copy: 18,
  },
};

/** The cost of a tile. For a fitted tile it is interpolated between the tiles of other heights. */
function costOf(costs: TileCosts, lanes: number, size: GemmVariant['size'], { rows }: MatmulTile): number {
  if (size !== 'fitted') return costs[size];
  const { wide, small } = SUBGROUP_TILES[lanes];
  // The rows of a tile share the loads of B, so a part of the cost is proportional to 1 / rows.
  const shared = (costs.small - costs.wide) / (1 / small.rows - 1 / wide.rows);
  return Math.max(costs.wide, costs.wide + shared * (1 / rows - 1 / wide.rows));
}

/**
 * With 4 lanes the largest tiles take two to three times as long to compile as others, up to 2 s. They pay only from
 * this many multiply-adds on (about 10 ms).
 */
export const MIN_WORK_TO_COMPILE = 2 ** 25;
/** The commands of two copies cost as much as this many multiply-adds. */
const COPIES_COST = 1e6;
/** Minimum K of a slice: a shorter one is not worth storing its partial products. */
const MIN_SLICE = 512;
/** The tuner also tries slices down to this. */
const MIN_TUNED_SLICE = 256;
/** Longer sums are split on every device, because a sum of sums rounds less than one long chain of additions. */
const MAX_CHAIN = 1024;
/** Maximum memory of the partial products of such a split. */
const MAX_PARTIAL_BYTES = 64 * 2 ** 20;

/** Minimum number of slices that K is split into. */
const minSlices = ({ m, n, k, batch }: Sizes): number =>
  Math.max(1, Math.min(Math.ceil(k / MAX_CHAIN), Math.floor(MAX_PARTIAL_BYTES / (4 * m * n * batch))));

/** Workgroups of one slice, and the number of slices that keeps the device busy. */
function slicesFor(tile: MatmulTile, busy: number, sizes: Sizes): { groups: number; slices: number } {
  const { m, n, k, batch } = sizes;
  const groups = Math.ceil(m / tile.rows) * Math.ceil(n / tile.columns) * batch;
  return {
    groups,
    slices: Math.max(minSlices(sizes), Math.min(Math.ceil(busy / groups), Math.floor(k / MIN_SLICE))),
  };
}

interface Plan extends Pick<GemmVariant, 'size' | 'slices'> {
  /** Cost per step along K, in multiply-adds of the best tile. */
  readonly cost: number;
}

/** The plan with the least padded work. If it does not keep the device busy, its cost rises in proportion. */
function plan(device: TensorDevice, tiles: Tiles, costs: TileCosts, sizes: Sizes): Plan {
  const busy = busyGroups(device);
  const candidates = (Object.keys(tiles) as GemmVariant['size'][]).flatMap((size) => {
    const tile = tiles[size];
    if (!tile) return [];
    const { groups, slices } = slicesFor(tile, busy, sizes);
    const idle = Math.max(1, busy / (groups * slices));
    const work = groups * tile.rows * tile.columns * idle;
    return [{ size, slices, cost: work * costOf(costs, device.subgroupSize, size, tile) }];
  });
  return candidates.reduce((best, candidate) => (candidate.cost < best.cost ? candidate : best));
}

/** The cost model's choice. */
function expectedVariant(device: TensorDevice, problem: Gemm, sizes: Sizes): GemmVariant {
  const { form, access } = gemmLayout(problem);
  const precision = problem.half ? device.expectedPrecision : 'f32';
  const lanes = device.subgroupSize;
  const tiles = tilesOf(device, access, precision, problem);
  const costs = COSTS_BY_LANES[lanes] ?? COSTS;
  const smallWork = sizes.m * sizes.n * sizes.k * sizes.batch < MIN_WORK_TO_COMPILE;
  const bufferTiles = lanes === 4 && smallWork ? { ...tiles, wide: undefined } : tiles;
  const { cost, ...fromBuffers } = plan(device, bufferTiles, costs.buffers, sizes);
  const texturesPossible =
    usesSubgroups(device, precision) && access !== 'scalar' && prefersTextures(device) && textureOperands(problem);
  if (!texturesPossible) return { ...fromBuffers, textures: false, precision };
  const { cost: costOfTextures, ...fromTextures } = plan(device, tiles, costs.textures, sizes);
  const { a, b, k } = problem;
  const pays =
    costOfTextures * k + (a.size + b.size) * costs.copy + COPIES_COST <
    cost * k * (form === 'tn' ? costs.contiguous : 1);
  return device.force.operands === 'texture' || pays
    ? { ...fromTextures, textures: true, precision }
    : { ...fromBuffers, textures: false, precision };
}

// ------------------------------------------------------------------ candidates

/** Properties of a problem that matter only with several batch entries. */
const BATCH_PROPERTIES = ['sharedA', 'sharedB', 'sumBatch'];

/** Runs a problem with a variant. */
export type RunGemm = (device: TensorDevice, problem: Gemm, variant: GemmVariant) => void;

/** The variant for a problem: the tuned one, or the cost model's. */
export function chooseGemm(device: TensorDevice, problem: Gemm, run: RunGemm): GemmVariant {
  const { a, b, output, transposeA, transposeB, m, n, k, batch = 1, half = false, ...rest } = problem;
  const { form } = gemmLayout(problem);
  const extras = Object.entries(rest)
    .filter(([name, value]) => value && (batch !== 1 || !BATCH_PROPERTIES.includes(name)))
    .map(([name]) => ` ${name}`)
    .sort()
    .join('');
  const key = `${form} ${m}x${n}x${k}${batch === 1 ? '' : ` batch ${batch}`}${extras}${half ? ' half' : ''}`;
  return device.tuner.choose('matmul', key, () => describeGemm(device, problem, run));
}

function describeGemm(device: TensorDevice, problem: Gemm, run: RunGemm): TuningProblem<GemmVariant> {
  const { m, n, k, batch = 1, half = false } = problem;
  const sizes = { m, n, k, batch };
  const candidate = candidateMaker(device, problem);
  const precisions: readonly StagedPrecision[] = half ? ['f32', 'f16'] : ['f32'];
  const { tensors, fill } = outline(problem);
  return {
    expected: candidate(expectedVariant(device, problem, sizes)),
    candidates: precisions.flatMap((precision) => candidatesOf(device, problem, sizes, precision)).map(candidate),
    plain: { size: 'small', textures: false, slices: 1, precision: 'f32' },
    tensors,
    output: 'output',
    run: (variant, filled) => run(device, fill(filled), variant),
  };
}

/** How the operands of a problem are read from textures; null where they cannot be. */
const textureAccess = (device: TensorDevice, problem: Gemm): GemmTextures['access'] | null =>
  device.operandTextures && usesSubgroups(device, 'f32') && gemmLayout(problem).access === 'vec4'
    ? (textureOperands(problem)?.access ?? null)
    : null;

/** All variants of a precision: each tile, with several numbers of slices, from buffers and from textures. */
function candidatesOf(
  device: TensorDevice,
  problem: Gemm,
  sizes: Sizes,
  precision: StagedPrecision,
): readonly GemmVariant[] {
  const tiles = tilesOf(device, gemmLayout(problem).access, precision, sizes);
  const min = minSlices(sizes);
  const max = Math.max(min, Math.floor(sizes.k / MIN_TUNED_SLICE));
  const sources = precision === 'f32' && textureAccess(device, problem) !== null ? [false, true] : [false];
  return (Object.keys(tiles) as GemmVariant['size'][]).flatMap((size) => {
    const { slices } = slicesFor(tiles[size]!, busyGroups(device), sizes);
    const counts = [min, Math.ceil(slices / 2), slices, slices * 2].map((count) => Math.min(max, Math.max(min, count)));
    return [...new Set(counts)].flatMap((count) =>
      sources.map((textures) => ({ size, textures, slices: count, precision })),
    );
  });
}

function candidateMaker(device: TensorDevice, problem: Gemm): (variant: GemmVariant) => Candidate<GemmVariant> {
  const { transposeA, transposeB, m, n, k, batch } = problem;
  // Without the tensors, so that a stored class does not hold them.
  const sizes: GemmSizes = { transposeA, transposeB, m, n, k, batch };
  const { access } = gemmLayout(sizes);
  const fromTextures = textureAccess(device, problem);
  return (variant) => {
    const { size, textures, slices, precision } = variant;
    const { rows, columns } = tilesOf(device, access, precision, sizes)[size]!;
    const source = precision === 'f16' ? 'f16' : textures ? 'texture' : 'buffer';
    return {
      name: `${source} ${rows}x${columns}${slices > 1 ? `, ${slices} slices` : ''}`,
      variant,
      tolerance: roundingOf(k) + (precision === 'f16' ? HALF_ROUNDING : 0),
      // Without epilogues, because these are the same few lines in all variants.
      kernels: () => [
        gemmKernel(device, sizes, variant, { access: textures && fromTextures ? fromTextures : access }),
        ...(slices > 1 ? [sumSlicesKernel(n % 4 === 0 ? 'vec4' : 'scalar', '', elementwiseLanes(device))] : []),
      ],
    };
  };
}
