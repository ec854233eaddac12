/**
 * The matrix products of dynamic interaction (Sparse R-CNN, section 3.3): one small product per proposal. Its weights
 * are in one row of generated parameters, first W1 (d, k), then W2 (k, d). So operands and results start at an offset
 * within the row of a proposal, which the general products do not support.
 *
 * d and k are multiples of 4. Counts, strides and offsets are in vec4s. The tuned variants are listed in
 * engine/ops/detection/dynamic-interaction-variants.ts.
 *
 * Products and normalizations are separate kernels. One kernel for the whole forward pass gains nothing, because the
 * gradient needs the intermediate results in memory anyway. Measured on lavapipe (one kernel, separate kernels):
 * (R, P, d, k) = (300, 49, 256, 64) 29.6 ms, 30.9 ms; (200, 49, 64, 16) 3.7 ms, 3.4 ms; to compile 5 s, 1.5 s.
 */
import { defineKernel, kernelFamily, type BufferSpec, type Kernel, type KernelFlops } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import type { MatmulTile } from './matmul.ts';
import { joined, range } from './repeat.ts';
import { laneColumn, laneResults, resultsArray, rowLoop, rowValue } from './subgroups.ts';

/** `nn`: C = A B, `nt`: C = A B^T, `tn`: C = A^T B. */
export type InteractionForm = 'nn' | 'nt' | 'tn';

export const INTERACTION_PARAMS = {
  m: 'u32',
  n: 'u32',
  k: 'u32',
  /** Tiles along M and along N, and tiles of all proposals. */
  rowTiles: 'u32',
  columnTiles: 'u32',
  groups: 'u32',
  /** Distance from one proposal to the next. */
  strideA: 'u32',
  strideB: 'u32',
  strideC: 'u32',
  /** Where B and C start within the row of a proposal. */
  startB: 'u32',
  startC: 'u32',
} as const;

/** FLOPs of a dispatch: `groups` tiles, so groups / (rowTiles * columnTiles) proposals. */
const flops: KernelFlops = (p) => 2 * p.m * p.n * p.k * (p.groups / (p.rowTiles * p.columnTiles));

/** Maximum rows of a tile. More rows would spill too many registers. */
export const MAX_TILE_ROWS = 56;

/**
 * Number of rows of a tile that covers all m rows of a product. Subgroups of 4 lanes swap values (see shareRowValue).
 * There the number is a multiple of the rows that the lanes load at once.
 */
export function wholeTile(lanes: number, form: InteractionForm, m: number): number {
  if (lanes !== 4) return m;
  const block = form === 'tn' ? 16 : 4;
  return Math.ceil(m / block) * block;
}

/**
 * The expected tile for a product of m rows and n columns. Null for subgroup sizes without this kernel.
 *  - As for the general products, large tiles are the fastest on lavapipe (8 lanes) and SwiftShader (4 lanes).
 *  - Narrow and low tiles waste less where k is at most 16.
 *  - On both adapters one tile covers all 49 positions of a proposal, so that its weights are loaded once.
 */
export function interactionTile(lanes: number, form: InteractionForm, m: number, n: number): MatmulTile | null {
  if (lanes !== 4 && lanes !== 8 && lanes !== 16) return null;
  const whole = m > 32 && m <= MAX_TILE_ROWS;
  const rows = m <= 16 ? 16 : whole ? wholeTile(lanes, form, m) : lanes !== 8 && m > MAX_TILE_ROWS ? 64 : 32;
  return { rows, columns: n <= 16 ? 16 : lanes === 16 || (lanes === 8 && n >= 64) ? 64 : 32 };
}

/** Whether a tile gives every lane whole vec4s of B. Only such tiles may read operand textures. */
export const readsVectors = (lanes: number, form: InteractionForm, { columns }: Pick<MatmulTile, 'columns'>): boolean =>
  form === 'nt' || columns % (4 * lanes) === 0;

/** Rows and columns that one invocation computes without subgroups. */
export const LANE_TILE: MatmulTile = { rows: 4, columns: 4 };
/** Invocations per workgroup without subgroups. */
export const PLAIN_LANES = 64;

/** WGSL that finds the tile with a given index, and where its proposal's matrices start. */
const placeTile = (index: string, { rows, columns }: MatmulTile): string => `
  let tile = ${index} % (p.rowTiles * p.columnTiles);
  let proposal = ${index} / (p.rowTiles * p.columnTiles);
  let row0 = (tile / p.columnTiles) * ${rows}u;
  let column0 = (tile % p.columnTiles) * ${columns}u;
  let atA = proposal * p.strideA;
  let atB = proposal * p.strideB + p.startB;
  let atC = proposal * p.strideC + p.startC;`;

/** Options of the subgroup variant: each combination is one shader. */
export type SubgroupInteractionOptions = {
  /** Subgroup size. */
  readonly lanes: number;
  readonly form: InteractionForm;
  /** Rows and columns of the tile. */
  readonly rows: number;
  readonly columns: number;
  /** A and B are linear operand textures; only for tiles with `readsVectors`. */
  readonly textures: boolean;
};

/** How a tile is divided among lanes. */
interface Division {
  readonly transposedA: boolean;
  readonly transposedB: boolean;
  /** Vec4s of A per lane. */
  readonly blocksA: number;
  /** The tile is too narrow for a vec4 of B per lane: lanes have single columns. */
  readonly narrow: boolean;
  /** Vec4s of B's columns per lane. Single columns if B is transposed or the tile is narrow. */
  readonly vectors: number;
  /** Type of one sum. */
  readonly sum: 'f32' | 'vec4f';
  /** B is transposed, and a lane has groups of four neighboring columns, whose results are stored as one vec4. */
  readonly wide: boolean;
  /** Type of one store, and stores per row and lane. */
  readonly stored: 'f32' | 'vec4f';
  readonly pieces: number;
  /** Steps along K per turn of the loop. */
  readonly steps: number;
}

function divide({ lanes, form, rows, columns }: SubgroupInteractionOptions): Division {
  const [transposedA, transposedB] = [form === 'tn', form === 'nt'];
  const narrow = !readsVectors(lanes, form, { columns });
  const single = transposedB || narrow;
  const vectors = single ? columns / lanes : columns / (4 * lanes);
  const sum = single ? 'f32' : 'vec4f';
  const wide = transposedB && vectors % 4 === 0;
  return {
    transposedA,
    transposedB,
    blocksA: Math.ceil(rows / (transposedA ? 4 * lanes : lanes)),
    narrow,
    vectors,
    sum,
    wide,
    stored: wide ? 'vec4f' : sum,
    pieces: wide ? vectors / 4 : vectors,
    // With A transposed any number of steps is possible. With three, the code of large tiles fits into the instruction
    // cache of a CPU.
    steps: transposedA && lanes * rows > 960 ? 3 : 4,
  };
}

/** WGSL of the positions in A and B that a lane loads from. */
function places({ lanes }: SubgroupInteractionOptions, division: Division): string[] {
  const { transposedA, transposedB, blocksA, narrow, vectors, wide } = division;
  const placeA = range(blocksA).map((i) =>
    transposedA
      ? `let a${i} = atA + min(row0 / 4u + ${i * lanes}u + lane, p.m / 4u - 1u);`
      : `let a${i} = atA + min(row0 + ${i * lanes}u + lane, p.m - 1u) * (p.k / 4u);`,
  );
  const placeB = range(vectors).map((j) => {
    if (transposedB) return `let b${j} = atB + min(column0 + ${laneColumn(lanes, j, wide)}, p.n - 1u) * (p.k / 4u);`;
    return narrow
      ? `let b${j} = atB * 4u + min(column0 + ${j * lanes}u + lane, p.n - 1u);`
      : `let b${j} = atB + min(column0 / 4u + ${j * lanes}u + lane, p.n / 4u - 1u);`;
  });
  return [...placeA, ...placeB];
}

/** WGSL of a lane's loads of A and B for one turn of the loop along K. */
function loads(division: Division): string[] {
  const { transposedA, transposedB, blocksA, narrow, vectors, steps } = division;
  // With A transposed, K is a number of positions, which need not be a multiple of 4. For steps past the end, the
  // values of A are 0.
  const line = (step: number): string => (transposedA ? `min(k + ${step}u, p.k - 1u)` : `(k + ${step}u)`);
  const loadsA = transposedA
    ? range(steps).flatMap((step) =>
        range(blocksA).map((i) => {
          const load = `loadA(a${i} + ${line(step)} * (p.m / 4u))`;
          return `let va${step}_${i} = select(vec4f(), ${load}, k + ${step}u < p.k);`;
        }),
      )
    : range(blocksA).map((i) => `let va${i} = loadA(a${i} + k / 4u);`);
  const pitch = narrow ? 'p.n' : '(p.n / 4u)';
  const loadsB = transposedB
    ? range(vectors).map((j) => `let vb${j} = loadB(b${j} + k / 4u);`)
    : range(steps).flatMap((step) =>
        range(vectors).map((j) => `let vb${step}_${j} = loadB(b${j} + ${line(step)} * ${pitch});`),
      );
  return [...loadsA, ...loadsB];
}

/** WGSL of the multiply-adds of one turn. */
function products({ lanes, rows }: SubgroupInteractionOptions, division: Division): string {
  const { transposedA: transposed, transposedB, vectors, sum, steps } = division;
  const terms = (row: number, step: number): string =>
    joined(vectors, ' ', (j) =>
      transposedB
        ? `c${row}_${j} = fma(s${row}_${step}, vb${j}[${step}], c${row}_${j});`
        : `c${row}_${j} = fma(${sum}(s${row}_${step}), vb${step}_${j}, c${row}_${j});`,
    );
  const value = (row: number, step: number): string => rowValue({ lanes, transposed, name: 'va' }, row, step);
  return joined(rows, '\n', (row) =>
    joined(steps, '\n', (step) => `let s${row}_${step} = ${value(row, step)}; ${terms(row, step)}`),
  );
}

/** WGSL of the stores of one row of the tile. */
function stores({ lanes }: SubgroupInteractionOptions, { stored, vectors, pieces }: Division): string[] {
  return range(pieces).map((j) => {
    if (stored === 'f32') {
      const store = `c[atC * 4u + (row0 + row) * p.n + column] = results[r * ${vectors}u + ${j}u];`;
      return `{ let column = column0 + ${j * lanes}u + lane; if (column < p.n) { ${store} } }`;
    }
    const store = `c[atC + (row0 + row) * (p.n / 4u) + x] = results[r * ${pieces}u + ${j}u];`;
    return `{ let x = column0 / 4u + ${j * lanes}u + lane; if (x < p.n / 4u) { ${store} } }`;
  });
}

/**
 * A workgroup is one subgroup and computes one tile. As in matmul-subgroup.ts, every value is loaded once per subgroup:
 * values of A are shared with all lanes, each lane keeps its own columns of B.
 */
export const subgroupInteractionKernel = kernelFamily((options: SubgroupInteractionOptions): Kernel => {
  const { lanes, form, rows, columns, textures } = options;
  const division = divide(options);
  const { transposedA, narrow, vectors, sum, wide, stored, steps } = division;
  return defineKernel({
    name: `dynamic_interaction_${form}_f32_sg${lanes}_${rows}x${columns}${textures ? '_texture' : ''}`,
    workgroup: [lanes],
    subgroups: true,
    flops,
    params: { ...INTERACTION_PARAMS, ...linearParams(textures, 'a', 'b') },
    buffers: {
      ...linearBuffers(textures, 'a', 'b'),
      ...(narrow && { b: 'read f32' as BufferSpec }),
      c: `write ${stored}`,
    },
    module: `
fn loadA(e: u32) -> vec4f { return ${linearLoad(textures, 'a', 'e')}; }
fn loadB(e: u32) -> ${narrow ? 'f32' : 'vec4f'} { return ${linearLoad(textures, 'b', 'e')}; }`,
    body: `
  if (linearGroup >= p.groups) { return; }
  ${placeTile('linearGroup', { rows, columns })}
  ${places(options, division).join('\n  ')}
  ${joined(rows, '\n  ', (row) => joined(vectors, ' ', (j) => `var c${row}_${j} = ${sum}();`))}
  for (var k = 0u; k < p.k; k += ${steps}u) {
${loads(division).join('\n')}
${products(options, division)}
  }
  ${resultsArray(lanes, stored, laneResults(rows, vectors, wide))}
  ${rowLoop(lanes, rows, 'p.m - row0', transposedA ? 4 : 1)}
    ${stores(options, division).join('\n    ')}
  }`,
  });
});

/** WGSL of the sum over K of a 4 x 4 block, by form. */
function blockSum(form: InteractionForm): string {
  if (form === 'tn') {
    return `
  for (var k = 0u; k < p.k; k++) {
    let va = a[atA + k * (p.m / 4u) + row0 / 4u];
    let vb = b[atB + k * (p.n / 4u) + column0 / 4u];
    ${joined(4, ' ', (r) => `c${r} += va[${r}] * vb;`)}
  }`;
  }
  const line = (s: number): string =>
    form === 'nn' ? `(k * 4u + ${s}u) * (p.n / 4u) + column0 / 4u` : `(column0 + ${s}u) * (p.k / 4u) + k`;
  const terms = (r: number): string =>
    form === 'nn'
      ? `a${r}.x * b0 + a${r}.y * b1 + a${r}.z * b2 + a${r}.w * b3`
      : `vec4f(dot(a${r}, b0), dot(a${r}, b1), dot(a${r}, b2), dot(a${r}, b3))`;
  return `
  for (var k = 0u; k < p.k / 4u; k++) {
    ${joined(4, '\n    ', (s) => `let b${s} = b[atB + ${line(s)}];`)}
    ${joined(4, '\n    ', (r) => `let a${r} = a[a_${r} + k]; c${r} += ${terms(r)};`)}
  }`;
}

/**
 * One invocation computes a 4 x 4 block, neighboring invocations neighboring columns. For adapters without subgroups,
 * and for GPUs, whose caches serve the repeated loads.
 */
export const plainInteractionKernel = kernelFamily((form: InteractionForm) =>
  defineKernel({
    name: `dynamic_interaction_${form}_f32_4x4`,
    workgroup: [PLAIN_LANES],
    flops,
    params: INTERACTION_PARAMS,
    buffers: { a: 'read vec4f', b: 'read vec4f', c: 'write vec4f' },
    body: `
  let index = linearGroup * ${PLAIN_LANES}u + lane;
  if (index >= p.groups) { return; }
  ${placeTile('index', LANE_TILE)}
  ${form === 'tn' ? '' : joined(4, '\n  ', (r) => `let a_${r} = atA + min(row0 + ${r}u, p.m - 1u) * (p.k / 4u);`)}
  ${joined(4, ' ', (r) => `var c${r} = vec4f();`)}
  ${blockSum(form)}
  let out = atC + row0 * (p.n / 4u) + column0 / 4u;
  ${joined(4, '\n  ', (r) => `if (row0 + ${r}u < p.m) { c[out + ${r}u * (p.n / 4u)] = c${r}; }`)}`,
  }),
);
