/**
 * Code that all matrix product kernels share: forms, params, operand access and tile sizes.
 *
 * The kernels are in matmul-subgroup.ts (small subgroups) and matmul-tiled.ts (workgroup memory). The sums around them
 * are in matmul-sums.ts.
 *
 * Operands are 2-D arrays of lines, one batch entry below the other. The output is M x N, K is summed over.
 * The form says how operands are stored: `nt` means A as [M, K], and B transposed, as [N, K].
 */
import type { KernelFlops } from './kernel.ts';
import { linearTextureLoad } from './linear.ts';

export type MatmulForm = 'nn' | 'nt' | 'tn' | 'tt';
/** `vec4`: the contiguous dimension of A and of B is a multiple of 4. `scalar`: any sizes, element by element. */
export type OperandAccess = 'vec4' | 'scalar';
/**
 * How the subgroup kernel reads operands. Both texture forms have vec4 access, from operand textures (rgba32float),
 * which software adapters read faster than buffers.
 *  - `texture`: line l is in row l mod 2^shift, from texel (l >> shift) * pitch on.
 *  - `linear_texture`: vec4 e of the whole operand is at texel (e mod 2^shift, e >> shift). For operands whose lines
 *    cannot be copied one by one.
 */
export type SubgroupAccess = OperandAccess | 'texture' | 'linear_texture';
export type TileSize = 'wide' | 'large' | 'small';

/** Rows and columns of the output that one workgroup computes. */
export interface MatmulTile {
  readonly rows: number;
  readonly columns: number;
}

/** If K is split over workgroups, each slice is a multiple of this. */
export const K_ALIGNMENT = 16;

export const MATMUL_PARAMS = {
  m: 'u32',
  n: 'u32',
  k: 'u32',
  /** Number of tiles along M and along N. */
  rowTiles: 'u32',
  columnTiles: 'u32',
  /** Number of workgroups: tiles x batch x slices of K. */
  groups: 'u32',
  batch: 'u32',
  /** K of one slice: a multiple of K_ALIGNMENT. Slice s of batch entry b is output matrix s * batch + b. */
  sliceK: 'u32',
  /** Lines from one batch entry to the next; 0 for a shared operand. */
  linesA: 'u32',
  linesB: 'u32',
  /** Elements of a line of A and of B. */
  widthA: 'u32',
  widthB: 'u32',
} as const;

/** FLOPs of a dispatch of a matrix product kernel. */
export const matmulFlops: KernelFlops = (p) => 2 * p.m * p.n * p.k * p.batch;

/**
 * WGSL that loads vec4 `x4` of a line from a texture with access `texture`, by the params `shift<suffix>` and
 * `pitch<suffix>`.
 */
export const lineTextureLoad = (texture: string, suffix: string, line: string, x4: string): string => {
  const [shift, pitch] = [`p.shift${suffix}`, `p.pitch${suffix}`];
  return `textureLoad(${texture}, vec2u((${line} >> ${shift}) * ${pitch} + ${x4}, ${line} & ((1u << ${shift}) - 1u)))`;
};

/**
 * WGSL of `load<name>(line, x4) -> vec4f`: elements 4 x4 .. 4 x4 + 3 of a line. Only this function knows how an operand
 * is stored. With scalar access, elements past the end of the line are 0.
 */
export function operandLoader(name: 'A' | 'B', access: SubgroupAccess): string {
  const buffer = name.toLowerCase();
  const head = `fn load${name}(line: u32, x4: u32) -> vec4f {`;
  if (access === 'texture') {
    return `${head}
  return ${lineTextureLoad(buffer, name, 'line', 'x4')};
}`;
  }
  if (access === 'linear_texture') {
    return `${head}
  let e = line * (p.width${name} / 4u) + x4;
  return ${linearTextureLoad(buffer, `p.shift${name}`, 'e')};
}`;
  }
  if (access === 'vec4') return `${head} return ${buffer}[line * (p.width${name} / 4u) + x4]; }`;
  const values = `vec4f(${buffer}[i], ${buffer}[i + 1u], ${buffer}[i + 2u], ${buffer}[i + 3u])`;
  return `${head}
  let i = line * p.width${name} + x4 * 4u;
  return select(vec4f(), ${values}, vec4u(x4 * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.width${name}));
}`;
}

/**
 * WGSL that finds the work of a workgroup: its tile (`row0`, `column0`), its batch entry (`lineA`, `lineB`), its slice
 * of K (`k0` to `k1`) and its output matrix `z`.
 */
export function tilePlacement({ rows, columns }: MatmulTile): string {
  return `
  if (linearGroup >= p.groups) { return; }
  let tiles = p.rowTiles * p.columnTiles;
  let tile = linearGroup % tiles;
  let z = linearGroup / tiles;
  let row0 = (tile % p.rowTiles) * ${rows}u;
  let column0 = (tile / p.rowTiles) * ${columns}u;
  let lineA = (z % p.batch) * p.linesA;
  let lineB = (z % p.batch) * p.linesB;
  let k0 = (z / p.batch) * p.sliceK;
  let k1 = min(p.k, k0 + p.sliceK);`;
}

/**
 * Tile sizes of the subgroup kernel, by subgroup size.
 *  - With buffers and 8 lanes (lavapipe) the large tile is the fastest: a larger one spills registers, a smaller one
 *    reuses loaded values less.
 *  - With textures, with 16 lanes, and on SwiftShader (4 lanes) the wide tile is the fastest.
 *  - The small tile wastes less on small outputs.
 * Scalar access has only the small tile and fitted tiles.
 */
export const SUBGROUP_TILES: Readonly<Record<number, Readonly<Record<TileSize, MatmulTile>>>> = {
  4: { wide: { rows: 64, columns: 64 }, large: { rows: 32, columns: 32 }, small: { rows: 16, columns: 16 } },
  8: { wide: { rows: 32, columns: 64 }, large: { rows: 32, columns: 32 }, small: { rows: 16, columns: 32 } },
  16: { wide: { rows: 48, columns: 64 }, large: { rows: 32, columns: 64 }, small: { rows: 16, columns: 64 } },
};

/**
 * Maximum rows of a fitted tile, by subgroup size. A tile with more rows spills too many registers (8 lanes), or its
 * code fills the instruction cache of a CPU (16 lanes).
 */
const MAX_TILE_ROWS: Readonly<Record<number, number>> = { 8: 32, 16: 60 };
/** A fitted tile is a shader of its own. It must save this much of the wide tile's rows, relative to its own rows. */
const MIN_SAVING = 1.05;

/**
 * The tile that divides `m` rows into equal parts with the least padding. There are as few parts as possible. Null
 * where the wide tile wastes little, where another tile of SUBGROUP_TILES has the same number of rows, and for
 * subgroups of 4, whose lanes swap values in whole blocks.
 */
export function fittedTile(lanes: number, m: number): MatmulTile | null {
  const maxRows = MAX_TILE_ROWS[lanes];
  if (maxRows === undefined || m === 0) return null;
  const { wide, ...others } = SUBGROUP_TILES[lanes];
  const tiles = Math.ceil(m / maxRows);
  const rows = Math.ceil(m / tiles / 4) * 4;
  if (Object.values(others).some((tile) => tile.rows === rows)) return null;
  return Math.ceil(m / wide.rows) * wide.rows >= MIN_SAVING * rows * tiles ? { rows, columns: wide.columns } : null;
}
