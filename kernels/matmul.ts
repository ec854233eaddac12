/**
 * Matrix products for adapters with small subgroups (software Vulkan: 4 to 16 lanes), and what all matrix product kernels share.
 *
 * A workgroup is one subgroup and owns a tile of the output. Every value is loaded once per subgroup: each lane loads its own vec4 of A, and a shuffle
 * hands single values of it to all lanes; each lane keeps its own columns of B. On a software adapter a load costs as much as a hundred multiply-adds.
 *
 * Operands are 2-D arrays of lines, one batch entry below the other. Names: M x N output, K summed over; form `nt`: A as it is [M, K], B transposed [N, K].
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, eachElement, kernelFamily, type BufferSpec, type Kernel, type KernelFlops } from './kernel.ts';
import { linearTextureLoad } from './linear.ts';
import { eachRow, laneColumn, laneResults, range, resultsArray, rowValue } from './subgroups.ts';

export type MatmulForm = 'nn' | 'nt' | 'tn' | 'tt';
/** `vec4`: the contiguous dimension of A and of B is a multiple of 4. `scalar`: any sizes, element by element. */
export type OperandAccess = 'vec4' | 'scalar';
/**
 * `texture`: as `vec4`, but read from operand textures (rgba32float), which software adapters do faster: line l of an operand lies in row l mod 2^shift, from
 * texel (l >> shift) * pitch on. `linear_texture`: vec4 e of the whole operand at texel (e mod 2^shift, e >> shift), for lines that cannot be copied one by one.
 */
export type SubgroupAccess = OperandAccess | 'texture' | 'linear_texture';
export type TileSize = 'wide' | 'large' | 'small';

export interface MatmulTile {
  readonly rows: number;
  readonly columns: number;
}

/** The k that a chunk of a sum split over workgroups must be a multiple of. */
export const K_ALIGNMENT = 16;

export const MATMUL_PARAMS = {
  m: 'u32',
  n: 'u32',
  k: 'u32',
  /** Tiles along M and N; workgroups in all: tiles x batch x slices of K. */
  rowTiles: 'u32',
  columnTiles: 'u32',
  groups: 'u32',
  batch: 'u32',
  /** K of one slice: a multiple of K_ALIGNMENT; slice s of batch entry b is output matrix s * batch + b. */
  sliceK: 'u32',
  /** Lines from one batch entry to the next, 0 for a shared operand. */
  linesA: 'u32',
  linesB: 'u32',
  /** Elements of a line of A and of B. */
  widthA: 'u32',
  widthB: 'u32',
} as const;

/** FLOPs of a dispatch of a matrix product kernel. */
export const matmulFlops: KernelFlops = (p) => 2 * p.m * p.n * p.k * p.batch;

/** Where lines lie in operand textures: see SubgroupAccess. */
const TEXTURE_PARAMS: Readonly<Record<SubgroupAccess, Readonly<Record<string, 'u32'>>>> = {
  vec4: {},
  scalar: {},
  texture: { shiftA: 'u32', pitchA: 'u32', shiftB: 'u32', pitchB: 'u32' },
  linear_texture: { shiftA: 'u32', shiftB: 'u32' },
};

/** Where the lines of a residual in a texture lie. */
const RESIDUAL_PARAMS = { shiftResidual: 'u32', pitchResidual: 'u32' } as const;

/** WGSL of a load of vec4 `x4` of a line of an operand in a texture, by its params `shift<suffix>` and `pitch<suffix>`. */
const lineTextureLoad = (texture: string, suffix: string, line: string, x4: string): string =>
  `textureLoad(${texture}, vec2u((${line} >> p.shift${suffix}) * p.pitch${suffix} + ${x4}, ${line} & ((1u << p.shift${suffix}) - 1u)))`;

/**
 * WGSL of `load<name>(line, x4) -> vec4f`: elements 4 x4 .. 4 x4 + 3 of a line. The one place that knows how an operand is stored.
 * With scalar access elements past the line's end are 0.
 */
export function operandLoader(name: 'A' | 'B', access: SubgroupAccess): string {
  const buffer = name.toLowerCase();
  if (access === 'texture') {
    return `fn load${name}(line: u32, x4: u32) -> vec4f {
  return ${lineTextureLoad(buffer, name, 'line', 'x4')};
}`;
  }
  if (access === 'linear_texture') {
    return `fn load${name}(line: u32, x4: u32) -> vec4f {
  let e = line * (p.width${name} / 4u) + x4;
  return ${linearTextureLoad(buffer, `p.shift${name}`, 'e')};
}`;
  }
  if (access === 'vec4')
    return `fn load${name}(line: u32, x4: u32) -> vec4f { return ${buffer}[line * (p.width${name} / 4u) + x4]; }`;
  return `fn load${name}(line: u32, x4: u32) -> vec4f {
  let i = line * p.width${name} + x4 * 4u;
  return select(vec4f(), vec4f(${buffer}[i], ${buffer}[i + 1u], ${buffer}[i + 2u], ${buffer}[i + 3u]), vec4u(x4 * 4u) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.width${name}));
}`;
}

/** WGSL that finds the workgroup's tile (`row0`, `column0`), its batch entry (`lineA`, `lineB`), its slice of K (`k0` to `k1`) and its output matrix `z`. */
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
 * Tile sizes by lanes of a subgroup. From buffers the large one is the fastest on lavapipe with 8 lanes: a larger one spills registers, a smaller one uses every loaded value less.
 * From textures, with 16 lanes, and on SwiftShader (4 lanes), the wide one is. The small one wastes less on small outputs. Scalar access has the small one and fitted ones only.
 */
export const SUBGROUP_TILES: Readonly<Record<number, Readonly<Record<TileSize, MatmulTile>>>> = {
  4: { wide: { rows: 64, columns: 64 }, large: { rows: 32, columns: 32 }, small: { rows: 16, columns: 16 } },
  8: { wide: { rows: 32, columns: 64 }, large: { rows: 32, columns: 32 }, small: { rows: 16, columns: 32 } },
  16: { wide: { rows: 48, columns: 64 }, large: { rows: 32, columns: 64 }, small: { rows: 16, columns: 64 } },
};

/** Rows beyond which a tile spills too many registers (8 lanes), or its code leaves no room in a processor's instruction cache (16 lanes). */
const MAX_TILE: Readonly<Record<number, number>> = { 8: 32, 16: 60 };
/** A tile made to measure must leave out so much of the wide tile's padding, relative to what is left: it is a shader of its own. */
const WORTH_A_SHADER = 1.05;

/**
 * The tile that divides `m` rows into equal parts, as high as they may be, with the least padding; null where the wide tile wastes little, another tile of SUBGROUP_TILES is as high,
 * or lanes swap their values in whole blocks (4 lanes).
 */
export function fittedTile(lanes: number, m: number): MatmulTile | null {
  const highest = MAX_TILE[lanes];
  if (highest === undefined || m === 0) return null;
  const { wide, ...others } = SUBGROUP_TILES[lanes];
  const tiles = Math.ceil(m / highest),
    rows = Math.ceil(m / tiles / 4) * 4;
  if (Object.values(others).some((tile) => tile.rows === rows)) return null;
  return Math.ceil(m / wide.rows) * wide.rows >= WORTH_A_SHADER * rows * tiles ? { rows, columns: wide.columns } : null;
}

/**
 * C = op(A) op(B) with one subgroup a workgroup; a shader for each form, tile, access and epilogue. `sums`, with A transposed and read as vec4s: also writes the sums of
 * op(A) over K, [M], of a product that is neither batched nor split. `wideRows`, with B transposed: N is a multiple of 4, so that a lane's columns are neighbours and stored as vec4s, as
 * those of the other forms with vec4 access. `residualTexture`: the residual is an operand texture too, where the output is written as vec4s.
 */
export const subgroupMatmulKernel = kernelFamily(
  (
    lanes: number,
    form: MatmulForm,
    tileRows: number,
    tileColumns: number,
    access: SubgroupAccess,
    epilogue: Epilogue,
    sums: boolean,
    wideRows: boolean,
    residualTexture: boolean,
  ): Kernel => {
    const tile: MatmulTile = { rows: tileRows, columns: tileColumns };
    const transposedA = form[0] === 't',
      transposedB = form[1] === 't';
    const { rows } = tile;
    // A lane's share: of A one vec4 along K for each of its rows, or vec4s along M; of B vec4s along N, or one vec4 along K for each of its columns.
    const blocksA = Math.ceil(rows / (transposedA ? 4 * lanes : lanes));
    const vectors = transposedB ? tile.columns / lanes : tile.columns / (4 * lanes);
    const type = transposedB ? 'f32' : 'vec4f';
    const vec4Output = transposedB ? wideRows : access !== 'scalar';
    // What is stored at once, and how many of them a lane has of a row.
    const stored = vec4Output ? 'vec4f' : type;
    const pieces = wideRows ? vectors / 4 : vectors;
    const zero = stored === 'f32' ? '0.0' : 'vec4f()';
    // With vec4 access K is a multiple of 4 wherever K is the contiguous dimension of an operand.
    const guardK = form === 'tn' || access === 'scalar';
    const lineK = (name: 'A' | 'B', step: number, x: string): string => {
      const load = `load${name}(line${name} + k + ${step}u, ${x})`;
      return guardK && step > 0 ? `select(vec4f(), ${load}, k + ${step}u < p.k)` : load;
    };

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
    const loadsA = transposedA
      ? range(4).flatMap((step) => range(blocksA).map((i) => `let a${step}_${i} = ${lineK('A', step, `xA${i}`)};`))
      : range(blocksA).map((i) => `let a${i} = loadA(rowA${i}, k / 4u);`);
    const loadsB = transposedB
      ? range(vectors).map((j) => `let b${j} = loadB(columnB${j}, k / 4u);`)
      : range(4).flatMap((step) => range(vectors).map((j) => `let b${step}_${j} = ${lineK('B', step, `xB${j}`)};`));
    // Columns in parts of four values a lane where registers are many: a part's B then stays in them while the rows go by.
    const part = lanes <= 4 ? vectors : transposedB ? 4 : 1;
    const products = range(vectors / part)
      .map((first) =>
        range(rows)
          .map((row) =>
            range(4)
              .map((step) => {
                const s = `s${first}_${row}_${step}`;
                const terms = range(part)
                  .map((q) => first * part + q)
                  .map((j) =>
                    transposedB
                      ? `c${row}_${j} = fma(${s}, b${j}[${step}], c${row}_${j});`
                      : `c${row}_${j} = fma(vec4f(${s}), b${step}_${j}, c${row}_${j});`,
                  );
                return `let ${s} = ${rowValue(lanes, transposedA, 'a', row, step)}; ${terms.join(' ')}`;
              })
              .join('\n'),
          )
          .join('\n'),
      )
      .join('\n');

    const columnLoads = range(pieces).map((j) =>
      columnOperands(epilogue, j, (buffer) => {
        if (vec4Output) return `${buffer}[min(column0 / 4u + ${j * lanes}u + lane, p.n / 4u - 1u)]`;
        if (transposedB) return `${buffer}[min(column0 + ${j * lanes}u + lane, p.n - 1u)]`;
        return `vec4f(${range(4)
          .map((q) => `${buffer}[min(xB${j} * 4u + ${q}u, p.n - 1u)]`)
          .join(', ')})`;
      }),
    );
    const stores = range(pieces).map((j) => {
      const value = (residual: string): string =>
        withEpilogue(epilogue, `results[r * ${pieces}u + ${j}u]`, j, residual, zero);
      if (transposedB && !vec4Output)
        return `{ let column = column0 + ${j * lanes}u + lane; if (column < p.n) { let at = line * p.n + column; output[at] = ${value('residual[at]')}; } }`;
      const x = `let x = column0 / 4u + ${j * lanes}u + lane;`;
      if (vec4Output)
        return `{ ${x} if (x < p.n / 4u) { let at = line * (p.n / 4u) + x; output[at] = ${value(residualTexture ? lineTextureLoad('residual', 'Residual', 'line', 'x') : 'residual[at]')}; } }`;
      return `{ ${x} let at = line * p.n + x * 4u; let value = ${value('vec4f(residual[at], residual[at + 1u], residual[at + 2u], residual[at + 3u])')};
      ${range(4)
        .map((q) => `if (x * 4u + ${q}u < p.n) { output[at + ${q}u] = value[${q}]; }`)
        .join('\n      ')} }`;
    });

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
      name: `matmul_${form}_f32_sg${lanes}_${rows}x${tile.columns}_${access}${wideRows ? '_wide' : ''}${epilogue}${residualTexture ? '_texture' : ''}${sums ? '_sums' : ''}`,
      workgroup: [lanes],
      params,
      buffers,
      subgroups: true,
      flops: matmulFlops,
      module: `${operandLoader('A', access)}\n${operandLoader('B', access)}`,
      body: `${tilePlacement(tile)}
  ${[...placeA, ...placeB].join('\n  ')}
  ${range(rows)
    .map((row) =>
      range(vectors)
        .map((j) => `var c${row}_${j} = ${type}();`)
        .join(' '),
    )
    .join('\n  ')}
  ${sumsOfA.map((i) => `var sum${i} = vec4f();`).join(' ')}
  for (var k = k0; k < k1; k += 4u) {
${[...loadsA, ...loadsB].join('\n')}
${sumsOfA.map((i) => `sum${i} += (a0_${i} + a1_${i}) + (a2_${i} + a3_${i});`).join(' ')}
${products}
  }
  ${sumsOfA.map((i) => `{ let x = row0 / 4u + ${i * lanes}u + lane; if (column0 == 0u && x < min(row0 + ${rows}u, p.m) / 4u) { sums_[x] = sum${i}; } }`).join('\n  ')}
  ${columnLoads.filter((line) => line !== '').join('\n  ')}
  ${resultsArray(lanes, stored, laneResults(rows, vectors, wideRows))}
  ${eachRow(lanes, rows, 'p.m - row0', transposedA ? 4 : 1)}
    let line = z * p.m + row0 + row;
    ${stores.join('\n    ')}
  }`,
    });
  },
);

/** Adds up the slices of a split sum, in their order, and applies the epilogue: `output[i] = sum of partial[s * count + i]`. */
export const sumSlicesKernel = kernelFamily((access: OperandAccess, epilogue: Epilogue, lanes: number): Kernel => {
  const element = access === 'vec4' ? 'vec4f' : 'f32';
  const buffers: Record<string, BufferSpec> = {
    partial: `read ${element}`,
    ...epilogueBuffers(epilogue, element),
    output: `write ${element}`,
  };
  return defineKernel({
    name: `matmul_sum_slices_f32_${access}${epilogue}`,
    workgroup: [lanes],
    /** Count and width in elements of the buffers: vec4s or scalars. */
    params: { count: 'u32', width: 'u32', slices: 'u32' },
    buffers,
    body: eachElement(
      lanes,
      'p.count',
      `
    var sum = ${element}();
    for (var s = 0u; s < p.slices; s++) { sum += partial[s * p.count + i]; }
    ${columnOperands(epilogue, '', (buffer) => `${buffer}[i % p.width]`)}
    output[i] = ${withEpilogue(epilogue, 'sum', '', 'residual[i]', `${element}()`)};`,
    ),
  });
});

/**
 * Sums of the columns of a matrix over blocks of rows: `partial[block, column]`. With `masked` the matrix is first set to 0 where `activated`, the output of
 * a ReLU, is not positive, and is written to `gradient` so: the gradient before the ReLU and that of the bias in one pass.
 */
export const columnSumsKernel = kernelFamily((access: OperandAccess, masked: boolean): Kernel => {
  const element = access === 'vec4' ? 'vec4f' : 'f32';
  const buffers: Record<string, BufferSpec> = {
    upstream: `read ${element}`,
    ...(masked ? { activated: `read ${element}` as const, gradient: `write ${element}` as const } : {}),
    partial: `write ${element}`,
  };
  return defineKernel({
    name: `column_sums_f32_${access}${masked ? '_relu' : ''}`,
    workgroup: [32],
    params: { rows: 'u32', width: 'u32', blockRows: 'u32', columnGroups: 'u32' },
    buffers,
    body: `
  let column = (linearGroup % p.columnGroups) * 32u + lane;
  let block = linearGroup / p.columnGroups;
  let first = block * p.blockRows;
  if (column >= p.width || first >= p.rows) { return; }
  var sum = ${element}();
  for (var row = first; row < min(p.rows, first + p.blockRows); row++) {
    let i = row * p.width + column;
    ${masked ? `let value = select(${element}(), upstream[i], activated[i] > ${element}());\n    gradient[i] = value;` : 'let value = upstream[i];'}
    sum += value;
  }
  partial[block * p.width + column] = sum;`,
  });
});
