/**
 * Matrix products through workgroup memory, for adapters without subgroups or with large ones (GPUs).
 *
 * Tiles of A and B are staged k-major as vec4s, for every form. Each invocation computes a block of the output in
 * registers. Params and buffers are those of the plain product in matmul-subgroup.ts.
 *
 * Operands are staged as f32, or rounded to f16 (`StagedPrecision`), which halves the workgroup memory of a tile.
 * Products and sums are f32 in either case.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, kernelFamily, type BufferSpec, type Kernel } from './kernel.ts';
import {
  MATMUL_PARAMS,
  matmulFlops,
  operandLoader,
  tilePlacement,
  type MatmulForm,
  type MatmulTile,
  type OperandAccess,
  type TileSize,
} from './matmul.ts';
import { joined, range } from './repeat.ts';

/** Steps along K staged at once: 8 KiB of workgroup memory for the large tile, 4 KiB in f16. */
const STAGED_K = 16;

/** Precision of operands in workgroup memory. Operands in buffers and all sums are f32. */
export type StagedPrecision = 'f32' | 'f16';

interface Staging {
  /** Type of a staged vec4. */
  readonly vector: string;
  /** Module-scope WGSL that `store` needs. */
  readonly module: string;
  /** WGSL that converts a vec4f to the staged type, and back. */
  readonly store: (value: string) => string;
  readonly load: (value: string) => string;
}

/**
 * The largest f16 is 65504. Larger values, infinities too, are clamped to it, so that finite numbers never give an
 * infinity. A NaN need not stay a NaN: WGSL leaves that to the adapter. Below 6.1e-5 precision decreases, and below
 * 6e-8 values become 0.
 */
export const STAGING: Readonly<Record<StagedPrecision, Staging>> = {
  f32: { vector: 'vec4f', module: '', store: (value) => value, load: (value) => value },
  f16: {
    vector: 'vec4h',
    module: '\nfn rounded(value: vec4f) -> vec4h { return vec4h(clamp(value, vec4f(-65504.0), vec4f(65504.0))); }',
    store: (value) => `rounded(${value})`,
    load: (value) => `vec4f(${value})`,
  },
};

interface TiledShape extends MatmulTile {
  /** Rows and vec4 columns of an invocation. */
  readonly laneRows: number;
  readonly laneVectors: number;
}

export type WorkgroupTileSize = Extract<TileSize, 'large' | 'small'>;

/** Tile sizes. Each entry is a variant of products. */
export const WORKGROUP_TILES: Readonly<Record<WorkgroupTileSize, TiledShape>> = {
  large: { rows: 64, columns: 64, laneRows: 8, laneVectors: 2 },
  small: { rows: 32, columns: 32, laneRows: 4, laneVectors: 1 },
};

/** One operand of a tile to be staged. */
interface StagedOperand {
  readonly name: 'A' | 'B';
  /** Whether K is the contiguous dimension of the operand. */
  readonly kContiguous: boolean;
  /** Lines of op(A), or columns of op(B), of the tile. */
  readonly extent: number;
}

/** WGSL that stages k .. k + STAGED_K - 1 of an operand, with zeros beyond K. `lanes`: invocations per workgroup. */
function stage({ name, kContiguous, extent }: StagedOperand, lanes: number, { store }: Staging): string {
  const quads = extent / 4;
  const [origin, bound] = name === 'A' ? ['row0', 'p.m'] : ['column0', 'p.n'];
  if (kContiguous) {
    // 4 x 4 blocks, transposed in registers, because one invocation must write a whole vec4 of the tile.
    const steps = STAGED_K / 4;
    const line = (q: number): string => `line${name} + min(${origin} + quad * 4u + ${q}u, ${bound} - 1u)`;
    const load = (q: number): string => `select(vec4f(), load${name}(${line(q)}, min(k / 4u + k4, lastK4)), inside)`;
    const column = (c: string): string => store(`vec4f(v0.${c}, v1.${c}, v2.${c}, v3.${c})`);
    const place = (step: number): string => `tile${name}[(k4 * 4u + ${step}u) * ${quads}u + quad]`;
    return `for (var i = lane; i < ${quads * steps}u; i += ${lanes}u) {
      let k4 = i % ${steps}u;
      let quad = i / ${steps}u;
      let inside = k + k4 * 4u < k1;
      ${joined(4, '\n      ', (q) => `let v${q} = ${load(q)};`)}
      ${['x', 'y', 'z', 'w'].map((c, step) => `${place(step)} = ${column(c)};`).join('\n      ')}
    }`;
  }
  const load = `load${name}(line${name} + min(line, p.k - 1u), x)`;
  return `for (var i = lane; i < ${quads * STAGED_K}u; i += ${lanes}u) {
      let line = k + i / ${quads}u;
      let x = min(${origin} / 4u + i % ${quads}u, (${bound} + 3u) / 4u - 1u);
      tile${name}[i] = ${store(`select(vec4f(), ${load}, line < k1)`)};
    }`;
}

/** Options of the kernel family: each combination is one shader. */
export type TiledMatmulOptions = {
  readonly form: MatmulForm;
  readonly size: WorkgroupTileSize;
  readonly access: OperandAccess;
  readonly precision: StagedPrecision;
  /** N is a multiple of 4. */
  readonly vec4Output: boolean;
  readonly epilogue: Epilogue;
};

/** WGSL that stores sum `c<row>_<j>`, which is at `line` and vec4 column `x<j>`. */
function storeOf({ vec4Output, epilogue }: TiledMatmulOptions, row: number, j: number): string {
  const value = (residual: string): string => withEpilogue(epilogue, { sum: `c${row}_${j}`, suffix: j, residual });
  if (vec4Output) {
    const store = `let at = line * (p.n / 4u) + x${j}; output[at] = ${value('residual[at]')};`;
    return `if (x${j} < p.n / 4u) { ${store} }`;
  }
  const residual = 'vec4f(residual[at], residual[at + 1u], residual[at + 2u], residual[at + 3u])';
  return `{ let at = line * p.n + x${j} * 4u; let value = ${value(residual)};
      ${joined(4, ' ', (q) => `if (x${j} * 4u + ${q}u < p.n) { output[at + ${q}u] = value[${q}]; }`)} }`;
}

/** WGSL that loads the epilogue's column operands of vec4 column `x<j>`. */
const columnLoads = ({ vec4Output, epilogue }: TiledMatmulOptions, j: number): string =>
  columnOperands(epilogue, j, (buffer) =>
    vec4Output
      ? `${buffer}[min(x${j}, p.n / 4u - 1u)]`
      : `vec4f(${joined(4, ', ', (q) => `${buffer}[min(x${j} * 4u + ${q}u, p.n - 1u)]`)})`,
  );

/** C = op(A) op(B) through workgroup memory. */
export const tiledMatmulKernel = kernelFamily((options: TiledMatmulOptions): Kernel => {
  const { form, size, access, precision, vec4Output, epilogue } = options;
  const staging = STAGING[precision];
  const tile = WORKGROUP_TILES[size];
  const { rows, columns, laneRows, laneVectors } = tile;
  const lanesX = columns / (4 * laneVectors);
  const lanes = lanesX * (rows / laneRows);
  const operand: BufferSpec = access === 'vec4' ? 'read vec4f' : 'read f32';
  const buffers: Record<string, BufferSpec> = {
    a: operand,
    b: operand,
    ...epilogueBuffers(epilogue, vec4Output ? 'vec4f' : 'f32'),
    output: vec4Output ? 'write vec4f' : 'write f32',
  };
  const output = `${access}${vec4Output ? '' : '_scalar_output'}`;
  const valueA = (i: number): string => `tileA[step * ${rows / 4}u + laneY * ${laneRows / 4}u + ${i}u]`;
  const valueB = (j: number): string => `tileB[step * ${columns / 4}u + laneX + ${j * lanesX}u]`;
  return defineKernel({
    name: `matmul_${form}_${precision}_wg${lanes}_${rows}x${columns}_${output}${epilogue}`,
    workgroup: [lanes],
    params: MATMUL_PARAMS,
    buffers,
    f16: precision === 'f16',
    flops: matmulFlops,
    module: `${operandLoader('A', access)}\n${operandLoader('B', access)}${staging.module}
var<workgroup> tileA: array<${staging.vector}, ${(STAGED_K * rows) / 4}>;
var<workgroup> tileB: array<${staging.vector}, ${(STAGED_K * columns) / 4}>;`,
    body: `${tilePlacement(tile)}
  let lastK4 = (p.k + 3u) / 4u - 1u;
  let laneX = lane % ${lanesX}u;
  let laneY = lane / ${lanesX}u;
  ${joined(laneRows, '\n  ', (row) => joined(laneVectors, ' ', (j) => `var c${row}_${j} = vec4f();`))}
  for (var k = k0; k < k1; k += ${STAGED_K}u) {
    ${stage({ name: 'A', kContiguous: form[0] === 'n', extent: rows }, lanes, staging)}
    ${stage({ name: 'B', kContiguous: form[1] === 't', extent: columns }, lanes, staging)}
    workgroupBarrier();
    for (var step = 0u; step < ${STAGED_K}u; step++) {
      ${joined(laneRows / 4, '\n      ', (i) => `let a${i} = ${staging.load(valueA(i))};`)}
      ${joined(laneVectors, '\n      ', (j) => `let b${j} = ${staging.load(valueB(j))};`)}
      ${joined(laneRows, '\n      ', (row) =>
        joined(laneVectors, ' ', (j) => `c${row}_${j} = fma(vec4f(a${row >> 2}[${row & 3}]), b${j}, c${row}_${j});`),
      )}
    }
    workgroupBarrier();
  }
  ${range(laneVectors)
    .map((j) => `let x${j} = column0 / 4u + laneX + ${j * lanesX}u; ${columnLoads(options, j)}`)
    .join('\n  ')}
  ${joined(
    laneRows,
    '\n  ',
    (row) => `{ let row = row0 + laneY * ${laneRows}u + ${row}u; let line = z * p.m + row;
    if (row < p.m) { ${joined(laneVectors, ' ', (j) => storeOf(options, row, j))} } }`,
  )}`,
  });
});
