/**
 * Matrix products through workgroup memory, for adapters without subgroups or with large ones (real GPUs): tiles of A and B are staged
 * k-major as vec4s, whatever the form, and each invocation owns a block of the output in registers. Same params and buffers as the kernels of matmul.ts.
 *
 * Operands are staged as they are, or rounded to f16 (`StagedPrecision`): then tiles take half the workgroup memory. Products and sums are f32 in either case.
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
} from './matmul.ts';
import { range } from './subgroups.ts';

/** k staged at once: 8 KiB of workgroup memory for the large tile, 4 KiB in f16. */
const STAGED_K = 16;

/** What operands are in workgroup memory. In buffers they are f32 always, and so are sums. */
export type StagedPrecision = 'f32' | 'f16';

interface Staging {
  /** Type of a staged vec4. */
  readonly vector: string;
  /** Module-scope WGSL that `store` needs. */
  readonly module: string;
  /** WGSL of a vec4f as it is staged, and of a staged vec4 as vec4f. */
  readonly store: (value: string) => string;
  readonly load: (value: string) => string;
}

/**
 * f16 reaches to 65504: values beyond are clamped to that, infinities too, so that no infinity comes out of finite numbers. A NaN need not stay one (WGSL leaves that to the adapter).
 * Below 6.1e-5 precision falls off, and below 6e-8 values are 0.
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

export type WorkgroupTileSize = 'large' | 'small';

export const WORKGROUP_TILES: Readonly<Record<WorkgroupTileSize, TiledShape>> = {
  large: { rows: 64, columns: 64, laneRows: 8, laneVectors: 2 },
  small: { rows: 32, columns: 32, laneRows: 4, laneVectors: 1 },
};

/** Stages `extent` lines of op(A) or columns of op(B) for k .. k + STAGED_K - 1; zeros beyond K. */
function stage(name: 'A' | 'B', kContiguous: boolean, extent: number, lanes: number, { store }: Staging): string {
  const quads = extent / 4;
  const [origin, bound] = name === 'A' ? ['row0', 'p.m'] : ['column0', 'p.n'];
  if (kContiguous) {
    // 4 x 4 blocks, transposed in registers: a vec4 of the tile must be written by one invocation.
    const steps = STAGED_K / 4;
    return `for (var i = lane; i < ${quads * steps}u; i += ${lanes}u) {
      let k4 = i % ${steps}u;
      let quad = i / ${steps}u;
      let inside = k + k4 * 4u < k1;
      ${range(4)
        .map(
          (q) =>
            `let v${q} = select(vec4f(), load${name}(line${name} + min(${origin} + quad * 4u + ${q}u, ${bound} - 1u), min(k / 4u + k4, lastK4)), inside);`,
        )
        .join('\n      ')}
      ${['x', 'y', 'z', 'w'].map((c, step) => `tile${name}[(k4 * 4u + ${step}u) * ${quads}u + quad] = ${store(`vec4f(v0.${c}, v1.${c}, v2.${c}, v3.${c})`)};`).join('\n      ')}
    }`;
  }
  return `for (var i = lane; i < ${quads * STAGED_K}u; i += ${lanes}u) {
      let line = k + i / ${quads}u;
      let x = min(${origin} / 4u + i % ${quads}u, (${bound} + 3u) / 4u - 1u);
      tile${name}[i] = ${store(`select(vec4f(), load${name}(line${name} + min(line, p.k - 1u), x), line < k1)`)};
    }`;
}

/** C = op(A) op(B) through workgroup memory; `vec4Output`: N is a multiple of 4. */
export const tiledMatmulKernel = kernelFamily(
  (
    form: MatmulForm,
    size: WorkgroupTileSize,
    access: OperandAccess,
    precision: StagedPrecision,
    vec4Output: boolean,
    epilogue: Epilogue,
  ): Kernel => {
    const staging = STAGING[precision];
    const tile = WORKGROUP_TILES[size];
    const { rows, columns, laneRows, laneVectors } = tile;
    const lanesX = columns / (4 * laneVectors);
    const lanes = lanesX * (rows / laneRows);
    const store = (row: number, j: number): string => {
      const value = (residual: string): string => withEpilogue(epilogue, `c${row}_${j}`, j, residual, 'vec4f()');
      if (vec4Output)
        return `if (x${j} < p.n / 4u) { let at = line * (p.n / 4u) + x${j}; output[at] = ${value('residual[at]')}; }`;
      return `{ let at = line * p.n + x${j} * 4u; let value = ${value('vec4f(residual[at], residual[at + 1u], residual[at + 2u], residual[at + 3u])')};
      ${range(4)
        .map((q) => `if (x${j} * 4u + ${q}u < p.n) { output[at + ${q}u] = value[${q}]; }`)
        .join(' ')} }`;
    };
    const columnLoads = (j: number): string =>
      columnOperands(epilogue, j, (buffer) =>
        vec4Output
          ? `${buffer}[min(x${j}, p.n / 4u - 1u)]`
          : `vec4f(${range(4)
              .map((q) => `${buffer}[min(x${j} * 4u + ${q}u, p.n - 1u)]`)
              .join(', ')})`,
      );
    const operand: BufferSpec = access === 'vec4' ? 'read vec4f' : 'read f32';
    const buffers: Record<string, BufferSpec> = {
      a: operand,
      b: operand,
      ...epilogueBuffers(epilogue, vec4Output ? 'vec4f' : 'f32'),
      output: vec4Output ? 'write vec4f' : 'write f32',
    };
    return defineKernel({
      name: `matmul_${form}_${precision}_wg${lanes}_${rows}x${columns}_${access}${vec4Output ? '' : '_scalar_output'}${epilogue}`,
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
  ${range(laneRows)
    .map((row) =>
      range(laneVectors)
        .map((j) => `var c${row}_${j} = vec4f();`)
        .join(' '),
    )
    .join('\n  ')}
  for (var k = k0; k < k1; k += ${STAGED_K}u) {
    ${stage('A', form[0] === 'n', rows, lanes, staging)}
    ${stage('B', form[1] === 't', columns, lanes, staging)}
    workgroupBarrier();
    for (var step = 0u; step < ${STAGED_K}u; step++) {
      ${range(laneRows / 4)
        .map((i) => `let a${i} = ${staging.load(`tileA[step * ${rows / 4}u + laneY * ${laneRows / 4}u + ${i}u]`)};`)
        .join('\n      ')}
      ${range(laneVectors)
        .map((j) => `let b${j} = ${staging.load(`tileB[step * ${columns / 4}u + laneX + ${j * lanesX}u]`)};`)
        .join('\n      ')}
      ${range(laneRows)
        .map((row) =>
          range(laneVectors)
            .map((j) => `c${row}_${j} = fma(vec4f(a${row >> 2}[${row & 3}]), b${j}, c${row}_${j});`)
            .join(' '),
        )
        .join('\n      ')}
    }
    workgroupBarrier();
  }
  ${range(laneVectors)
    .map((j) => `let x${j} = column0 / 4u + laneX + ${j * lanesX}u; ${columnLoads(j)}`)
    .join('\n  ')}
  ${range(laneRows)
    .map(
      (row) => `{ let row = row0 + laneY * ${laneRows}u + ${row}u; let line = z * p.m + row;
    if (row < p.m) { ${range(laneVectors)
      .map((j) => store(row, j))
      .join(' ')} } }`,
    )
    .join('\n  ')}`,
    });
  },
);
