/**
 * Matrix products for adapters with small subgroups (software Vulkan: 4 to 16 lanes).
 *
 * A workgroup is one subgroup and computes one tile of the output. Every value is loaded once per subgroup. Each lane
 * loads its own vec4s of A and shares single values with all lanes; each lane keeps its own columns of B. On a software
 * adapter one load costs as much as a hundred multiply-adds.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, kernelFamily, type BufferSpec, type Kernel } from './kernel.ts';
import {
  lineTextureLoad,
  MATMUL_PARAMS,
  matmulFlops,
  operandLoader,
  tilePlacement,
  type MatmulForm,
  type SubgroupAccess,
} from './matmul.ts';
import { joined, range } from './repeat.ts';
import { laneColumn, laneResults, resultsArray, rowLoop, rowValue } from './subgroups.ts';

/** Params of operands in textures: see SubgroupAccess. */
const TEXTURE_PARAMS: Readonly<Record<SubgroupAccess, Readonly<Record<string, 'u32'>>>> = {
  vec4: {},
  scalar: {},
  texture: { shiftA: 'u32', pitchA: 'u32', shiftB: 'u32', pitchB: 'u32' },
  linear_texture: { shiftA: 'u32', shiftB: 'u32' },
};

/** Params of a residual in a texture. */
const RESIDUAL_PARAMS = { shiftResidual: 'u32', pitchResidual: 'u32' } as const;

/** Options of the kernel family: each combination is one shader. */
export type SubgroupMatmulOptions = {
  /** Subgroup size. */
  readonly lanes: number;
  readonly form: MatmulForm;
  /** Rows and columns of the tile. */
  readonly rows: number;
  readonly columns: number;
  readonly access: SubgroupAccess;
  readonly epilogue: Epilogue;
  /**
   * Also writes the sums of op(A) over K, [M]. Only with A transposed and vec4 access, for one product whose K is not
   * split.
   */
  readonly sums: boolean;
  /**
   * With B transposed: N is a multiple of 4. A lane then has neighboring columns and stores them as vec4s, as the
   * other forms do with vec4 access.
   */
  readonly wideRows: boolean;
  /** The residual is an operand texture too. Only where the output is written as vec4s. */
  readonly residualTexture: boolean;
};

/** How a tile is divided among lanes. */
interface Division {
  readonly transposedA: boolean;
  readonly transposedB: boolean;
  /** Vec4s of A per lane: along K for each of its rows, or along M if A is transposed. */
  readonly blocksA: number;
  /** Vec4s of B per lane: along N, or along K for each of its columns if B is transposed. */
  readonly vectors: number;
  /** Type of one sum. */
  readonly sum: 'f32' | 'vec4f';
  /** Type of one store, and stores per row and lane. */
  readonly stored: 'f32' | 'vec4f';
  readonly pieces: number;
  readonly vec4Output: boolean;
}

function divide({ lanes, form, rows, columns, access, wideRows }: SubgroupMatmulOptions): Division {
  const [transposedA, transposedB] = [form[0] === 't', form[1] === 't'];
  const vectors = transposedB ? columns / lanes : columns / (4 * lanes);
  const sum = transposedB ? 'f32' : 'vec4f';
  const vec4Output = transposedB ? wideRows : access !== 'scalar';
  return {
    transposedA,
    transposedB,
    blocksA: Math.ceil(rows / (transposedA ? 4 * lanes : lanes)),
    vectors,
    sum,
    stored: vec4Output ? 'vec4f' : sum,
    pieces: wideRows ? vectors / 4 : vectors,
    vec4Output,
  };
}

/** WGSL of the positions in A and B that a lane loads from. */
function places({ lanes, wideRows }: SubgroupMatmulOptions, division: Division): string[] {
  const { transposedA, transposedB, blocksA, vectors } = division;
  const placeA = range(blocksA).map((i) =>
    transposedA
      ? `let xA${i} = min(row0 / 4u + ${i * lanes}u + lane, (p.m + 3u) / 4u - 1u);`
      : `let rowA${i} = lineA + min(row0 + ${i * lanes}u + lane, p.m - 1u);`,
  );
  const placeB = range(vectors).map((j) =>
    transposedB
      ? `let columnB${j} = lineB + min(column0 + ${laneColumn(lanes, j, wideRows)}, p.n - 1u);`
      : `let xB${j} = min(column0 / 4u + ${j * lanes}u + lane, (p.n + 3u) / 4u - 1u);`,
  );
  return [...placeA, ...placeB];
}

/** WGSL of a lane's loads of A and B for four steps along K. */
function loads({ form, access }: SubgroupMatmulOptions, division: Division): string[] {
  const { transposedA, transposedB, blocksA, vectors } = division;
  // With vec4 access K is a multiple of 4 wherever K is the contiguous dimension of an operand.
  const guardK = form === 'tn' || access === 'scalar';
  const lineK = (name: 'A' | 'B', step: number, x: string): string => {
    const load = `load${name}(line${name} + k + ${step}u, ${x})`;
    return guardK && step > 0 ? `select(vec4f(), ${load}, k + ${step}u < p.k)` : load;
  };
  const loadsA = transposedA
    ? range(4).flatMap((step) => range(blocksA).map((i) => `let a${step}_${i} = ${lineK('A', step, `xA${i}`)};`))
    : range(blocksA).map((i) => `let a${i} = loadA(rowA${i}, k / 4u);`);
  const loadsB = transposedB
    ? range(vectors).map((j) => `let b${j} = loadB(columnB${j}, k / 4u);`)
    : range(4).flatMap((step) => range(vectors).map((j) => `let b${step}_${j} = ${lineK('B', step, `xB${j}`)};`));
  return [...loadsA, ...loadsB];
}

/** WGSL of the multiply-adds of four steps along K. */
function products({ lanes, rows }: SubgroupMatmulOptions, division: Division): string {
  const { transposedA: transposed, transposedB, vectors } = division;
  // Where there are many registers, columns are processed in parts of four values per lane. The values of B of one part
  // then stay in registers for all rows.
  const part = lanes <= 4 ? vectors : transposedB ? 4 : 1;
  const step = (first: number, row: number, k: number): string => {
    const s = `s${first}_${row}_${k}`;
    const terms = joined(part, ' ', (q) => {
      const j = first * part + q;
      return transposedB
        ? `c${row}_${j} = fma(${s}, b${j}[${k}], c${row}_${j});`
        : `c${row}_${j} = fma(vec4f(${s}), b${k}_${j}, c${row}_${j});`;
    });
    return `let ${s} = ${rowValue({ lanes, transposed, name: 'a' }, row, k)}; ${terms}`;
  };
  return joined(vectors / part, '\n', (first) =>
    joined(rows, '\n', (row) => joined(4, '\n', (k) => step(first, row, k))),
  );
}

/** WGSL of the loads of the epilogue's column operands. */
function columnLoads({ lanes, epilogue }: SubgroupMatmulOptions, division: Division): string[] {
  const { transposedB, vec4Output, pieces } = division;
  return range(pieces).map((j) =>
    columnOperands(epilogue, j, (buffer) => {
      if (vec4Output) return `${buffer}[min(column0 / 4u + ${j * lanes}u + lane, p.n / 4u - 1u)]`;
      if (transposedB) return `${buffer}[min(column0 + ${j * lanes}u + lane, p.n - 1u)]`;
      return `vec4f(${joined(4, ', ', (q) => `${buffer}[min(xB${j} * 4u + ${q}u, p.n - 1u)]`)})`;
    }),
  );
}

/** WGSL of the stores of one row of the tile. */
function stores({ lanes, epilogue, residualTexture }: SubgroupMatmulOptions, division: Division): string[] {
  const { transposedB, vec4Output, pieces, stored } = division;
  const zero = stored === 'f32' ? '0.0' : 'vec4f()';
  return range(pieces).map((j) => {
    const value = (residual: string): string =>
      withEpilogue(epilogue, { sum: `results[r * ${pieces}u + ${j}u]`, suffix: j, residual, zero });
    if (transposedB && !vec4Output) {
      const store = `let at = line * p.n + column; output[at] = ${value('residual[at]')};`;
      return `{ let column = column0 + ${j * lanes}u + lane; if (column < p.n) { ${store} } }`;
    }
    const x = `let x = column0 / 4u + ${j * lanes}u + lane;`;
    if (vec4Output) {
      const residual = residualTexture ? lineTextureLoad('residual', 'Residual', 'line', 'x') : 'residual[at]';
      return `{ ${x} if (x < p.n / 4u) { let at = line * (p.n / 4u) + x; output[at] = ${value(residual)}; } }`;
    }
    const residual = 'vec4f(residual[at], residual[at + 1u], residual[at + 2u], residual[at + 3u])';
    return `{ ${x} let at = line * p.n + x * 4u; let value = ${value(residual)};
      ${joined(4, '\n      ', (q) => `if (x * 4u + ${q}u < p.n) { output[at + ${q}u] = value[${q}]; }`)} }`;
  });
}

/** WGSL that stores the sums of op(A). Only the workgroups of the first column of tiles store them. */
const storeSums = ({ lanes, rows }: SubgroupMatmulOptions, blocks: readonly number[]): string =>
  blocks
    .map((i) =>
      [
        `{ let x = row0 / 4u + ${i * lanes}u + lane;`,
        `if (column0 == 0u && x < min(row0 + ${rows}u, p.m) / 4u) { sums_[x] = sum${i}; } }`,
      ].join(' '),
    )
    .join('\n  ');

function nameOf(options: SubgroupMatmulOptions): string {
  const { lanes, form, rows, columns, access, epilogue, sums, wideRows, residualTexture } = options;
  const tile = `sg${lanes}_${rows}x${columns}_${access}${wideRows ? '_wide' : ''}`;
  return `matmul_${form}_f32_${tile}${epilogue}${residualTexture ? '_texture' : ''}${sums ? '_sums' : ''}`;
}

/** C = op(A) op(B) with one subgroup per workgroup. */
export const subgroupMatmulKernel = kernelFamily((options: SubgroupMatmulOptions): Kernel => {
  const { lanes, rows, columns, access, epilogue, sums, wideRows, residualTexture } = options;
  const division = divide(options);
  const { transposedA, blocksA, vectors, sum, stored, vec4Output } = division;
  const operand: BufferSpec = access.endsWith('texture') ? 'texture' : access === 'vec4' ? 'read vec4f' : 'read f32';
  const buffers: Record<string, BufferSpec> = {
    a: operand,
    b: operand,
    ...epilogueBuffers(epilogue, vec4Output ? 'vec4f' : 'f32'),
    ...(residualTexture ? { residual: 'texture' } : {}),
    output: vec4Output ? 'write vec4f' : 'write f32',
    ...(sums ? { sums_: 'write vec4f' } : {}),
  };
  const params: Readonly<Record<string, 'u32'>> = {
    ...MATMUL_PARAMS,
    ...TEXTURE_PARAMS[access],
    ...(residualTexture ? RESIDUAL_PARAMS : {}),
  };
  const sumsOfA = sums ? range(blocksA) : [];
  return defineKernel({
    name: nameOf(options),
    workgroup: [lanes],
    params,
    buffers,
    subgroups: true,
    flops: matmulFlops,
    module: `${operandLoader('A', access)}\n${operandLoader('B', access)}`,
    body: `${tilePlacement({ rows, columns })}
  ${places(options, division).join('\n  ')}
  ${joined(rows, '\n  ', (row) => joined(vectors, ' ', (j) => `var c${row}_${j} = ${sum}();`))}
  ${sumsOfA.map((i) => `var sum${i} = vec4f();`).join(' ')}
  for (var k = k0; k < k1; k += 4u) {
${loads(options, division).join('\n')}
${sumsOfA.map((i) => `sum${i} += (a0_${i} + a1_${i}) + (a2_${i} + a3_${i});`).join(' ')}
${products(options, division)}
  }
  ${storeSums(options, sumsOfA)}
  ${columnLoads(options, division)
    .filter((line) => line !== '')
    .join('\n  ')}
  ${resultsArray(lanes, stored, laneResults(rows, vectors, wideRows))}
  ${rowLoop(lanes, rows, 'p.m - row0', transposedA ? 4 : 1)}
    let line = z * p.m + row0 + row;
    ${stores(options, division).join('\n    ')}
  }`,
  });
});
