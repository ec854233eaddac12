/**
 * The matrix products of dynamic interaction (Sparse R-CNN, 3.3): a small product for each proposal, whose weights lie in one row of generated parameters,
 * first W1 (d, k), then W2 (k, d). So operands and results begin at an offset within each proposal's row, which the general products do not know.
 * All of d and k are multiples of 4; counts, strides and offsets are in vec4s.
 *
 * Products and normalisations are separate kernels. All of the forward pass in one (the k-wide middle in workgroup memory) gained nothing on lavapipe, since
 * the gradient needs what lies between in memory anyway: 29.6 ms against 30.9 at (R, P, d, k) = (300, 49, 256, 64), 3.7 against 3.4 at (200, 49, 64, 16),
 * and 5 s against 1.5 to compile.
 */
import { defineKernel, kernelFamily, type Kernel, type KernelFlops } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import type { MatmulTile } from './matmul.ts';
import { range } from './repeat.ts';
import { laneColumn, laneResults, resultsArray, rowLoop, rowValue } from './subgroups.ts';

/** `nn`: C = A B, `nt`: C = A B^T, `tn`: C = A^T B. */
export type InteractionForm = 'nn' | 'nt' | 'tn';

export const INTERACTION_PARAMS = {
  m: 'u32',
  n: 'u32',
  k: 'u32',
  rowTiles: 'u32',
  columnTiles: 'u32',
  groups: 'u32',
  /** From one proposal to the next. */
  strideA: 'u32',
  strideB: 'u32',
  strideC: 'u32',
  /** Where B and C begin within a proposal's row. */
  startB: 'u32',
  startC: 'u32',
} as const;

/** FLOPs of a dispatch: `groups` tiles, so groups / (rowTiles * columnTiles) proposals. */
const flops: KernelFlops = (p) => 2 * p.m * p.n * p.k * (p.groups / (p.rowTiles * p.columnTiles));

/** Rows beyond which a tile would spill too many registers. */
const MAX_TILE = 56;

/** Rows of a tile that takes all m rows of a product: whole blocks of those that the lanes load at once where they swap them (see meetRow). */
export function wholeTile(lanes: number, form: InteractionForm, m: number): number {
  if (lanes !== 4) return m;
  const block = form === 'tn' ? 16 : 4;
  return Math.ceil(m / block) * block;
}

/**
 * The tile of a subgroup for a product of m rows and n columns: large ones were the fastest on lavapipe (8 lanes) and SwiftShader (4 lanes), as for the
 * general products; narrow and low ones waste less where k is 16 or less, and on both one tile takes all 49 positions of a proposal, so that its weights are
 * loaded once. Null where subgroups are too small or large for this form.
 */
export function interactionTile(lanes: number, form: InteractionForm, m: number, n: number): MatmulTile | null {
  if (lanes !== 4 && lanes !== 8 && lanes !== 16) return null;
  const whole = m > 32 && m <= MAX_TILE;
  const rows = m <= 16 ? 16 : whole ? wholeTile(lanes, form, m) : lanes !== 8 && m > MAX_TILE ? 64 : 32;
  return { rows, columns: n <= 16 ? 16 : lanes === 16 || (lanes === 8 && n >= 64) ? 64 : 32 };
}

/** Whether a tile of a form gives every lane whole vec4s of B: only such tiles may read operand textures. */
export const readsVectors = (lanes: number, form: InteractionForm, { columns }: MatmulTile): boolean =>
  form === 'nt' || columns % (4 * lanes) === 0;

/** Rows and columns that a lane without subgroups computes. */
export const LANE_TILE: MatmulTile = { rows: 4, columns: 4 };
/** Lanes of a workgroup without subgroups. */
export const PLAIN_LANES = 64;

const PLACE = (index: string, { rows, columns }: MatmulTile): string => `
  let tile = ${index} % (p.rowTiles * p.columnTiles);
  let proposal = ${index} / (p.rowTiles * p.columnTiles);
  let row0 = (tile / p.columnTiles) * ${rows}u;
  let column0 = (tile % p.columnTiles) * ${columns}u;
  let atA = proposal * p.strideA;
  let atB = proposal * p.strideB + p.startB;
  let atC = proposal * p.strideC + p.startC;`;

/**
 * One subgroup a workgroup: every value is loaded once per subgroup, values of A are handed to all lanes, each lane keeps its columns of B.
 * The form of matmul.ts: a load costs software adapters as much as a hundred multiply-adds. `textures`: A and B are linear operand textures (not for tiles too narrow
 * for a vec4 a lane).
 */
export const subgroupInteractionKernel = kernelFamily(
  (lanes: number, form: InteractionForm, rows: number, columns: number, textures: boolean): Kernel => {
    const transposedA = form === 'tn',
      transposedB = form === 'nt';
    const blocksA = Math.ceil(rows / (transposedA ? 4 * lanes : lanes));
    // A lane keeps vec4s of B's columns, or single columns: those of the rows of B^T, and where the tile is too narrow for a vec4 a lane.
    const narrow = !readsVectors(lanes, form, { rows, columns });
    const single = transposedB || narrow;
    const vectors = single ? columns / lanes : columns / (4 * lanes);
    const type = single ? 'f32' : 'vec4f';
    // Of B^T a lane takes neighbouring rows where it takes four: their results are stored as a vec4.
    const wide = transposedB && vectors % 4 === 0;
    const stored = wide ? 'vec4f' : type,
      pieces = wide ? vectors / 4 : vectors;
    // Steps along K of a turn. Where they may be any number, so many that the code fits into a processor's instruction cache.
    const steps = transposedA && lanes * rows > 960 ? 3 : 4;
    const placeA = range(blocksA).map((i) =>
      transposedA
        ? `let a${i} = atA + min(row0 / 4u + ${i * lanes}u + lane, p.m / 4u - 1u);`
        : `let a${i} = atA + min(row0 + ${i * lanes}u + lane, p.m - 1u) * (p.k / 4u);`,
    );
    const placeB = range(vectors).map((j) =>
      transposedB
        ? `let b${j} = atB + min(column0 + ${laneColumn(lanes, j, wide)}, p.n - 1u) * (p.k / 4u);`
        : narrow
          ? `let b${j} = atB * 4u + min(column0 + ${j * lanes}u + lane, p.n - 1u);`
          : `let b${j} = atB + min(column0 / 4u + ${j * lanes}u + lane, p.n / 4u - 1u);`,
    );
    // Only with A transposed K is a number of positions, which need not be a multiple of 4: the steps beyond count as zeros of A.
    const line = (step: number): string => (transposedA ? `min(k + ${step}u, p.k - 1u)` : `(k + ${step}u)`);
    const loadsA = transposedA
      ? range(steps).flatMap((step) =>
          range(blocksA).map(
            (i) =>
              `let va${step}_${i} = select(vec4f(), loadA(a${i} + ${line(step)} * (p.m / 4u)), k + ${step}u < p.k);`,
          ),
        )
      : range(blocksA).map((i) => `let va${i} = loadA(a${i} + k / 4u);`);
    const loadsB = transposedB
      ? range(vectors).map((j) => `let vb${j} = loadB(b${j} + k / 4u);`)
      : range(steps).flatMap((step) =>
          range(vectors).map(
            (j) => `let vb${step}_${j} = loadB(b${j} + ${line(step)} * ${narrow ? 'p.n' : '(p.n / 4u)'});`,
          ),
        );
    const products = range(rows)
      .map((row) =>
        range(steps)
          .map((step) => {
            const terms = range(vectors).map((j) =>
              transposedB
                ? `c${row}_${j} = fma(s${row}_${step}, vb${j}[${step}], c${row}_${j});`
                : `c${row}_${j} = fma(${type}(s${row}_${step}), vb${step}_${j}, c${row}_${j});`,
            );
            return `let s${row}_${step} = ${rowValue({ lanes, transposed: transposedA, name: 'va' }, row, step)}; ${terms.join(' ')}`;
          })
          .join('\n'),
      )
      .join('\n');
    const stores = range(pieces).map((j) =>
      stored === 'f32'
        ? `{ let column = column0 + ${j * lanes}u + lane; if (column < p.n) { c[atC * 4u + (row0 + row) * p.n + column] = results[r * ${vectors}u + ${j}u]; } }`
        : `{ let x = column0 / 4u + ${j * lanes}u + lane; if (x < p.n / 4u) { c[atC + (row0 + row) * (p.n / 4u) + x] = results[r * ${pieces}u + ${j}u]; } }`,
    );
    return defineKernel({
      name: `dynamic_interaction_${form}_f32_sg${lanes}_${rows}x${columns}${textures ? '_texture' : ''}`,
      workgroup: [lanes],
      subgroups: true,
      flops,
      params: { ...INTERACTION_PARAMS, ...linearParams(textures, 'a', 'b') },
      buffers: {
        ...linearBuffers(textures, 'a', 'b'),
        ...(narrow && { b: 'read f32' as const }),
        c: `write ${stored}`,
      },
      module: `
fn loadA(e: u32) -> vec4f { return ${linearLoad(textures, 'a', 'e')}; }
fn loadB(e: u32) -> ${narrow ? 'f32' : 'vec4f'} { return ${linearLoad(textures, 'b', 'e')}; }`,
      body: `
  if (linearGroup >= p.groups) { return; }
  ${PLACE('linearGroup', { rows, columns })}
  ${[...placeA, ...placeB].join('\n  ')}
  ${range(rows)
    .map((row) =>
      range(vectors)
        .map((j) => `var c${row}_${j} = ${type}();`)
        .join(' '),
    )
    .join('\n  ')}
  for (var k = 0u; k < p.k; k += ${steps}u) {
${[...loadsA, ...loadsB].join('\n')}
${products}
  }
  ${resultsArray(lanes, stored, laneResults(rows, vectors, wide))}
  ${rowLoop(lanes, rows, 'p.m - row0', transposedA ? 4 : 1)}
    ${stores.join('\n    ')}
  }`,
    });
  },
);

/** A lane a 4 x 4 block, neighbouring lanes on neighbouring columns: for adapters without subgroups, and for GPUs, whose caches serve the repeated loads. */
export const plainInteractionKernel = kernelFamily((form: InteractionForm) => {
  const inner = {
    nn: `
  for (var k = 0u; k < p.k / 4u; k++) {
    ${range(4)
      .map((s) => `let b${s} = b[atB + (k * 4u + ${s}u) * (p.n / 4u) + column0 / 4u];`)
      .join('\n    ')}
    ${range(4)
      .map((r) => `let a${r} = a[a_${r} + k]; c${r} += a${r}.x * b0 + a${r}.y * b1 + a${r}.z * b2 + a${r}.w * b3;`)
      .join('\n    ')}
  }`,
    nt: `
  for (var k = 0u; k < p.k / 4u; k++) {
    ${range(4)
      .map((s) => `let b${s} = b[atB + (column0 + ${s}u) * (p.k / 4u) + k];`)
      .join('\n    ')}
    ${range(4)
      .map(
        (r) =>
          `let a${r} = a[a_${r} + k]; c${r} += vec4f(dot(a${r}, b0), dot(a${r}, b1), dot(a${r}, b2), dot(a${r}, b3));`,
      )
      .join('\n    ')}
  }`,
    tn: `
  for (var k = 0u; k < p.k; k++) {
    let va = a[atA + k * (p.m / 4u) + row0 / 4u];
    let vb = b[atB + k * (p.n / 4u) + column0 / 4u];
    ${range(4)
      .map((r) => `c${r} += va[${r}] * vb;`)
      .join(' ')}
  }`,
  };
  return defineKernel({
    name: `dynamic_interaction_${form}_f32_4x4`,
    workgroup: [PLAIN_LANES],
    flops,
    params: INTERACTION_PARAMS,
    buffers: { a: 'read vec4f', b: 'read vec4f', c: 'write vec4f' },
    body: `
  let index = linearGroup * ${PLAIN_LANES}u + lane;
  if (index >= p.groups) { return; }
  ${PLACE('index', LANE_TILE)}
  ${
    form === 'tn'
      ? ''
      : range(4)
          .map((r) => `let a_${r} = atA + min(row0 + ${r}u, p.m - 1u) * (p.k / 4u);`)
          .join('\n  ')
  }
  ${range(4)
    .map((r) => `var c${r} = vec4f();`)
    .join(' ')}
  ${inner[form]}
  let out = atC + row0 * (p.n / 4u) + column0 / 4u;
  ${range(4)
    .map((r) => `if (row0 + ${r}u < p.m) { c[out + ${r}u * (p.n / 4u)] = c${r}; }`)
    .join('\n  ')}`,
  });
});
