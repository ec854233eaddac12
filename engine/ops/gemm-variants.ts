/** The ways to compute a matrix product, and which one to take: kernel, tile, where operands are read from, and the split of K. */
import {
  fittedTile,
  SUBGROUP_TILES,
  subgroupMatmulKernel,
  sumSlicesKernel,
  type MatmulForm,
  type MatmulTile,
  type OperandAccess,
  type TileSize,
} from '../../kernels/matmul.ts';
import { WORKGROUP_TILES, tiledMatmulKernel, type StagedPrecision } from '../../kernels/matmul-tiled.ts';
import type { TextureLayout } from '../gpu/resources.ts';
import { linearOperand, prefersTextures, textureOperand } from './operand-textures.ts';
import { outline, type Candidate } from '../tuning/problem.ts';
import { elementwise } from '../core/elementwise.ts';
import type { TensorDevice, TextureOperand } from '../core/tensor.ts';
import type { Gemm } from './gemm.ts';

export interface GemmVariant {
  /** One of the tiles that there are for a device (`tilesOf`). */
  readonly size: TileSize | 'fitted';
  /** Whether both operands are read from textures. */
  readonly textures: boolean;
  /** Parts that K is split into, summed up afterwards. */
  readonly slices: number;
  /** f16: through workgroup memory, whatever the device. */
  readonly precision: StagedPrecision;
}

interface Plan extends Pick<GemmVariant, 'size' | 'slices'> {
  /** Multiply-adds of the best tile, for each k. */
  readonly cost: number;
}

interface Sizes {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch: number;
}

type Tiles = Readonly<Partial<Record<GemmVariant['size'], MatmulTile>>>;

/** Workgroups that keep an adapter busy: a software adapter has a few threads, a GPU some hundred multiprocessors. */
const WANTED_GROUPS = { software: 16, gpu: 256 };

type TileCosts = Readonly<Record<TileSize, number>>;

/** Work of a multiply-add, and what else decides, relative to a multiply-add of the best tile. */
interface Costs {
  /** By tile: a smaller one uses every loaded value less, a larger one spills registers. */
  readonly buffers: TileCosts;
  readonly textures: TileCosts;
  /** A^T B reads both operands along their lines: from buffers it takes so much of the other forms' work. */
  readonly contiguous: number;
  /** Copying an element of an operand into a texture. */
  readonly copy: number;
}

const COSTS: Costs = {
  buffers: { wide: 2.2, large: 1.6, small: 2 },
  textures: { wide: 1, large: 1.05, small: 1.25 },
  contiguous: 0.7,
  copy: 14,
};
/** Where lanes are of another number than 8. SwiftShader (4) keeps all sums in memory: a larger tile loads less. With 16 lanes loads from buffers take longer. */
const COSTS_BY_LANES: Readonly<Record<number, Costs>> = {
  4: { ...COSTS, buffers: { wide: 1.4, large: 1.6, small: 2 } },
  16: {
    buffers: { wide: 2.1, large: 2.5, small: 2.6 },
    textures: { wide: 1, large: 1.15, small: 1.45 },
    contiguous: 0.85,
    copy: 18,
  },
};

/** The cost of a tile by its size; of one made to measure between those of the other heights. */
function costOf(costs: TileCosts, lanes: number, size: GemmVariant['size'], { rows }: MatmulTile): number {
  if (size !== 'fitted') return costs[size];
  const { wide, small } = SUBGROUP_TILES[lanes];
  // Loads of B are shared by the rows of a tile: a part of the cost goes with 1 / rows.
  const shared = (costs.small - costs.wide) / (1 / small.rows - 1 / wide.rows);
  return Math.max(costs.wide, costs.wide + shared * (1 / rows - 1 / wide.rows));
}

/** With 4 lanes the largest tiles take two to three times as long to compile as others, up to 2 s: not for fewer multiply-adds (some 10 ms). */
export const WORTH_COMPILING = 2 ** 25;
/** Two copies are worth so many multiply-adds as commands alone. */
const COPIES_COST = 1e6;
/** A slice of K shorter than this is not worth storing its partial products. */
const MIN_SLICE = 512;
/** The tuner tries shorter ones as well. */
const MIN_SLICE_TRIED = 256;
/** Longer sums are split whatever the device, because a sum of sums rounds less than one long chain of additions. */
const MAX_CHAIN = 1024;
/** As far as the partial products of such a split take no more than this. */
const PARTIAL_BYTES = 64 * 2 ** 20;

/** How operands lie: the elements of a line of each, and whether they are read as vec4s; `wideRows`: see subgroupMatmulKernel. */
export function layoutOf({ transposeA, transposeB, m, n, k }: Gemm): {
  readonly form: MatmulForm;
  readonly access: OperandAccess;
  readonly widthA: number;
  readonly widthB: number;
  readonly wideRows: boolean;
} {
  const widthA = transposeA ? m : k,
    widthB = transposeB ? k : n;
  return {
    form: `${transposeA ? 't' : 'n'}${transposeB ? 't' : 'n'}`,
    access: widthA % 4 === 0 && widthB % 4 === 0 ? 'vec4' : 'scalar',
    widthA,
    widthB,
    wideRows: transposeB && n % 4 === 0,
  };
}

/** Whether products of a precision are computed by the kernels for small subgroups; otherwise through workgroup memory. */
export const readBySubgroups = ({ smallSubgroups }: TensorDevice, precision: StagedPrecision): boolean =>
  precision === 'f32' && smallSubgroups;

/** Matrices, or multiply-adds of a single one, from which on a tile made for the rows is worth a shader. */
const MANY_MATRICES = 8;
const LARGE_PRODUCT = 2 ** 24;

/** The tiles that there are for a device, an access and a precision, for `batch` products of m rows. */
export function tilesOf(
  device: TensorDevice,
  access: OperandAccess,
  precision: StagedPrecision,
  { m, n, k, batch = 1 }: Pick<Gemm, keyof Sizes>,
): Tiles {
  if (!readBySubgroups(device, precision)) return WORKGROUP_TILES;
  const tiles = SUBGROUP_TILES[device.subgroupSize];
  const fitted = batch >= MANY_MATRICES || m * n * k >= LARGE_PRODUCT ? fittedTile(device.subgroupSize, m) : null;
  return { ...(access === 'scalar' ? { small: tiles.small } : tiles), ...(fitted && { fitted }) };
}

/** log2 of the lines of a block, where there are several. */
export const blockShift = ({ blocks, blockLines }: TextureLayout): number =>
  blocks === 1 ? 31 : Math.log2(blockLines);

/** Both operands as textures, and what the kernel must know of them. */
interface Textures {
  readonly access: 'texture' | 'linear_texture';
  readonly operands: readonly [a: TextureOperand, b: TextureOperand];
  readonly params: Readonly<Record<string, number>>;
}

/** Operands line by line, or one vec4 after the other where lines cannot be copied; null where one does not fit. */
export function textureOperands(problem: Gemm): Textures | null {
  const { a, b } = problem;
  const { widthA, widthB } = layoutOf(problem);
  const lines = [textureOperand(a, a.size / widthA, widthA / 4), textureOperand(b, b.size / widthB, widthB / 4)];
  if (lines[0] && lines[1]) {
    const [{ layout: layoutA }, { layout: layoutB }] = [lines[0], lines[1]];
    return {
      access: 'texture',
      operands: [lines[0], lines[1]],
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

/** The fewest slices that K is split into. */
const leastSlices = ({ m, n, k, batch }: Sizes): number =>
  Math.max(1, Math.min(Math.ceil(k / MAX_CHAIN), Math.floor(PARTIAL_BYTES / (4 * m * n * batch))));

/** Slices that keep the device busy. */
function slicesFor(tile: MatmulTile, wanted: number, sizes: Sizes): { groups: number; slices: number } {
  const { m, n, k, batch } = sizes;
  const groups = Math.ceil(m / tile.rows) * Math.ceil(n / tile.columns) * batch;
  return {
    groups,
    slices: Math.max(leastSlices(sizes), Math.min(Math.ceil(wanted / groups), Math.floor(k / MIN_SLICE))),
  };
}

/** The least padded work, counted as if a device that is not kept busy ran that much longer. */
function plan(lanes: number, tiles: Tiles, costs: TileCosts, wanted: number, sizes: Sizes): Plan {
  const candidates = (Object.keys(tiles) as GemmVariant['size'][]).flatMap((size) => {
    const tile = tiles[size];
    if (!tile) return [];
    const { groups, slices } = slicesFor(tile, wanted, sizes);
    const idle = Math.max(1, wanted / (groups * slices));
    return [{ size, slices, cost: groups * tile.rows * tile.columns * idle * costOf(costs, lanes, size, tile) }];
  });
  return candidates.reduce((best, candidate) => (candidate.cost < best.cost ? candidate : best));
}

const wantedGroups = ({ smallSubgroups }: TensorDevice): number =>
  smallSubgroups ? WANTED_GROUPS.software : WANTED_GROUPS.gpu;

/** The cost model's choice. */
function expectedVariant(device: TensorDevice, problem: Gemm, sizes: Sizes): GemmVariant {
  const { form, access } = layoutOf(problem);
  const precision = problem.half ? device.expectedPrecision : 'f32';
  const lanes = device.subgroupSize,
    tiles = tilesOf(device, access, precision, problem),
    wanted = wantedGroups(device);
  const costs = COSTS_BY_LANES[lanes] ?? COSTS;
  const { cost, ...fromBuffers } = plan(
    lanes,
    lanes === 4 && sizes.m * sizes.n * sizes.k * sizes.batch < WORTH_COMPILING ? { ...tiles, wide: undefined } : tiles,
    costs.buffers,
    wanted,
    sizes,
  );
  if (
    !readBySubgroups(device, precision) ||
    access === 'scalar' ||
    !prefersTextures(device) ||
    !textureOperands(problem)
  )
    return { ...fromBuffers, textures: false, precision };
  const { cost: costOfTextures, ...fromTextures } = plan(lanes, tiles, costs.textures, wanted, sizes);
  const { a, b, k } = problem;
  const pays =
    costOfTextures * k + (a.size + b.size) * costs.copy + COPIES_COST <
    cost * k * (form === 'tn' ? costs.contiguous : 1);
  return device.force.operands === 'texture' || pays
    ? { ...fromTextures, textures: true, precision }
    : { ...fromBuffers, textures: false, precision };
}

/** What rounding may do to a sum of `terms` products, relative to the result: f32, with room for chains of a thousand. */
export const roundingOf = (terms: number): number => 1e-5 * Math.sqrt(Math.max(1, terms / 1024));

/**
 * What rounding both operands to f16 may do besides: a unit roundoff of 2^-11 for each, so every product is off by at most 2^-10 of itself. On the tuner's operands (independent, of either
 * sign, far from f16's bounds) errors of products add up as the products do, so that the sum's error is no larger a part of it; rounded to nearest it is about a quarter of this, and
 * where an adapter cuts digits off instead (WGSL allows it), less than this still.
 */
export const HALF_ROUNDING = 2 ** -10;

const OF_BATCHES = ['sharedA', 'sharedB', 'sumBatch'];

/** The variant for a problem: the tuned one, or the cost model's. `run` computes the problem as a variant says. */
export function chooseGemm(
  device: TensorDevice,
  problem: Gemm,
  run: (device: TensorDevice, problem: Gemm, variant: GemmVariant) => void,
): GemmVariant {
  const { a, b, output, transposeA, transposeB, m, n, k, batch = 1, half = false, ...rest } = problem;
  const { form, access, wideRows } = layoutOf(problem);
  // What concerns batches says nothing where there is one matrix.
  const extras = Object.entries(rest)
    .filter(([name, value]) => value && (batch !== 1 || !OF_BATCHES.includes(name)))
    .map(([name]) => ` ${name}`)
    .sort()
    .join('');
  return device.tuner.choose(
    'matmul',
    `${form} ${m}x${n}x${k}${batch === 1 ? '' : ` batch ${batch}`}${extras}${half ? ' half' : ''}`,
    () => {
      const sizes = { m, n, k, batch };
      const lanes = device.subgroupSize;
      const copied =
        device.operandTextures && readBySubgroups(device, 'f32') && access === 'vec4' ? textureOperands(problem) : null;
      const candidate = (variant: GemmVariant): Candidate<GemmVariant> => {
        const { size, textures, slices, precision } = variant;
        const { rows, columns } = tilesOf(device, access, precision, problem)[size]!;
        return {
          name: `${precision === 'f16' ? 'f16' : textures ? 'texture' : 'buffer'} ${rows}x${columns}${slices > 1 ? `, ${slices} slices` : ''}`,
          variant,
          tolerance: roundingOf(k) + (precision === 'f16' ? HALF_ROUNDING : 0),
          // Without epilogues, which are the same few lines in all of them.
          kernels: () => [
            readBySubgroups(device, precision)
              ? subgroupMatmulKernel(
                  lanes,
                  form,
                  rows,
                  columns,
                  textures && copied ? copied.access : access,
                  '',
                  false,
                  wideRows,
                  false,
                )
              : tiledMatmulKernel(form, size === 'small' ? size : 'large', access, precision, n % 4 === 0, ''),
            ...(slices > 1 ? [sumSlicesKernel(n % 4 === 0 ? 'vec4' : 'scalar', '', elementwise(device, 1).lanes)] : []),
          ],
        };
      };
      const expected = expectedVariant(device, problem, sizes);
      const least = leastSlices(sizes),
        most = Math.max(least, Math.floor(k / MIN_SLICE_TRIED));
      const candidatesOf = (precision: StagedPrecision): Candidate<GemmVariant>[] => {
        const tiles = tilesOf(device, access, precision, sizes);
        return (Object.keys(tiles) as GemmVariant['size'][]).flatMap((size) => {
          const { slices } = slicesFor(tiles[size]!, wantedGroups(device), sizes);
          const counts = [
            ...new Set(
              [least, Math.ceil(slices / 2), slices, slices * 2].map((count) => Math.min(most, Math.max(least, count))),
            ),
          ];
          return counts.flatMap((count) =>
            [false, ...(copied && precision === 'f32' ? [true] : [])].map((textures) =>
              candidate({ size, textures, slices: count, precision }),
            ),
          );
        });
      };
      const candidates = [...candidatesOf('f32'), ...(half ? candidatesOf('f16') : [])];
      const { tensors, fill } = outline(problem);
      return {
        expected: candidate(expected),
        candidates,
        plain: { size: 'small', textures: false, slices: 1, precision: 'f32' },
        tensors,
        output: 'output',
        run: (variant, filled) => run(device, fill(filled), variant),
      };
    },
  );
}
