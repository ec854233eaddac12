/**
 * Winograd's minimal filtering for 3x3 convolutions of stride 1 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308):
 * F(2x2, 3x3) and F(4x4, 3x3), NHWC. Three transforms around a batched matrix product [elements, tiles, K] x [elements, K, N]:
 *
 *   U = G g G^T of the weights, V = B^T d B of the image's tiles, y = A^T (U V) A of the products.
 *
 * F(4x4) multiplies 4 times less than the direct sum, but rounds about twice as coarsely; F(2x2) multiplies 2.25 times less at the direct sum's precision.
 *
 * The gradient by the weights is a correlation too, of each input tile with the upstream gradient's tile in the place of the weights: F(3x3, 2x2) and F(3x3, 4x4), at the same points
 * and therefore with the same V. The sum over tiles is that of a batched product [elements, K, tiles] x [elements, tiles, N].
 *
 * Glossary. m: side of an output tile; side t = m + 2 of an input tile, t * t elements; tiles: [batch, tilesY, tilesX], a range of them at a time; K, N channels in vec4s.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, eachPlace, kernelFamily } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import { range } from './repeat.ts';

export const WINOGRAD_SIZES = [2, 4] as const;
export type WinogradSize = (typeof WINOGRAD_SIZES)[number];

type Matrix = readonly (readonly number[])[];

interface Matrices {
  /** B^T, of tiles of the image. */
  readonly input: Matrix;
  /** G and A^T of a convolution. */
  readonly weight: Matrix;
  readonly output: Matrix;
  /** G and A^T of the gradient by the weights. */
  readonly upstream: Matrix;
  readonly gradient: Matrix;
}

/** Those of F(4x4) at the points 0, a, -a, b, -b and infinity. */
function matricesAt(a: number, b: number): Matrices {
  const [a2, b2] = [a ** 2, b ** 2];
  const points = [0, a, -a, b, -b];
  const scales = [
    1 / (a2 * b2),
    ...[1, 1].map(() => 1 / (2 * a2 * (a2 - b2))),
    ...[1, 1].map(() => 1 / (2 * b2 * (b2 - a2))),
  ];
  /** Powers of the points up to `degree`: by point, the last row that of infinity. */
  const powers = (degree: number): number[][] => [
    ...points.map((x) => range(degree + 1).map((e) => x ** e)),
    range(degree + 1).map((e) => (e === degree ? 1 : 0)),
  ];
  const transposed = (matrix: Matrix): number[][] => matrix[0].map((_, column) => matrix.map((row) => row[column]));
  const scaled = (matrix: Matrix): number[][] => matrix.map((row, i) => row.map((x) => x * (scales[i] ?? 1)));
  return {
    input: [
      [a2 * b2, 0, -a2 - b2, 0, 1, 0],
      [0, -a * b2, -b2, a, 1, 0],
      [0, a * b2, -b2, -a, 1, 0],
      [0, -b * a2, -a2, b, 1, 0],
      [0, b * a2, -a2, -b, 1, 0],
      [0, a2 * b2, 0, -a2 - b2, 0, 1],
    ],
    weight: scaled(powers(2)),
    output: transposed(powers(3)),
    upstream: scaled(powers(3)),
    gradient: transposed(powers(2)),
  };
}

/**
 * F(4x4) at 3/4 and 3/2 rounds half as coarsely as at the usual 1 and 2 (relative L2 error of a sum over 64 channels in float32: 0.9e-6 and 1.8e-6, simulated), and all of B^T and A^T
 * is exact in binary.
 */
const MATRICES: Readonly<Record<WinogradSize, Matrices>> = {
  2: {
    input: [
      [1, 0, -1, 0],
      [0, 1, 1, 0],
      [0, -1, 1, 0],
      [0, 1, 0, -1],
    ],
    weight: [
      [1, 0, 0],
      [1 / 2, 1 / 2, 1 / 2],
      [1 / 2, -1 / 2, 1 / 2],
      [0, 0, 1],
    ],
    output: [
      [1, 1, 1, 0],
      [0, 1, -1, -1],
    ],
    upstream: [
      [1, 0],
      [1 / 2, 1 / 2],
      [1 / 2, -1 / 2],
      [0, 1],
    ],
    gradient: [
      [1, 1, 1, 0],
      [0, 1, -1, 0],
      [0, 1, 1, -1],
    ],
  },
  4: matricesAt(3 / 4, 3 / 2),
};

const literal = (x: number): string => (Number.isInteger(x) ? x.toFixed(1) : String(x));

/** WGSL of a row of a matrix times a vector of names. */
function weightedSum(row: readonly number[], names: readonly string[]): string {
  const terms = row.flatMap((c, i) =>
    c === 0
      ? []
      : [{ sign: c < 0 ? '-' : '+', text: Math.abs(c) === 1 ? names[i] : `${literal(Math.abs(c))} * ${names[i]}` }],
  );
  return terms
    .map(({ sign, text }, i) => (i === 0 ? `${sign === '-' ? '-' : ''}${text}` : ` ${sign} ${text}`))
    .join('');
}

/** WGSL that computes `name`i_j, the elements of M X M^T, from X given by names[row][column]. */
function sandwich(matrix: Matrix, names: readonly (readonly string[])[], name: string): string {
  const half = matrix.map((row, i) =>
    names[0].map(
      (_, j) =>
        `let half${i}_${j} = ${weightedSum(
          row,
          names.map((line) => line[j]),
        )};`,
    ),
  );
  const whole = matrix.map((_, i) =>
    matrix.map(
      (row, j) =>
        `let ${name}${i}_${j} = ${weightedSum(
          row,
          names[0].map((__, q) => `half${i}_${q}`),
        )};`,
    ),
  );
  return [...half, ...whole].map((line) => line.join(' ')).join('\n  ');
}

const grid = (rows: number, columns: number, name: (i: number, j: number) => string): string[][] =>
  range(rows).map((i) => range(columns).map((j) => name(i, j)));

/** U [elements, K, N] of weights [3, 3, K, N]. One lane a vec4. `texture`: the weights are a linear operand texture. */
export const winogradWeightsKernel = kernelFamily((m: WinogradSize, texture: boolean) => {
  const side = m + 2;
  return defineKernel({
    name: `winograd${m}_weights_f32${texture ? '_texture' : ''}`,
    workgroup: [64],
    params: { count: 'u32', ...linearParams(texture, 'weights') },
    buffers: { ...linearBuffers(texture, 'weights'), transformed: 'write vec4f' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  ${grid(
    3,
    3,
    (a, b) =>
      `let at${a}_${b} = ${a * 3 + b}u * p.count + i; let g${a}_${b} = ${linearLoad(texture, 'weights', `at${a}_${b}`)};`,
  )
    .flat()
    .join('\n  ')}
  ${sandwich(
    MATRICES[m].weight,
    grid(3, 3, (a, b) => `g${a}_${b}`),
    'u',
  )}
  var results = array<vec4f, ${side * side}>(${grid(side, side, (a, b) => `u${a}_${b}`)
    .flat()
    .join(', ')});
  for (var e = 0u; e < ${side * side}u; e++) { transformed[e * p.count + i] = results[e]; }`,
  });
});

const TILE_PARAMS = {
  /** Tiles x vec4s of channels. */
  count: 'u32',
  /** Of the range. */
  firstTile: 'u32',
  tilesY: 'u32',
  tilesX: 'u32',
  height: 'u32',
  width: 'u32',
  channels4: 'u32',
} as const;

/** Runs `statements` for every tile of the range and vec4 `c` of channels, element `i`. */
const eachTile = (lanes: number, m: number, statements: string): string =>
  eachPlace(
    {
      lanes,
      count: 'p.count',
      sizes: [
        ['c', 'p.channels4'],
        ['tileX', 'p.tilesX'],
        ['tileY', 'p.tilesY'],
      ],
      outermost: 'image',
      offset: 'p.firstTile * p.channels4',
    },
    `
  let originX = tileX * ${m}u;
  let originY = tileY * ${m}u;
  ${statements}`,
  );

/**
 * V [elements, tiles, K] of the `input` image [batch, height, width, K] with `padding` zeros around it, whose tiles overlap by two pixels; or U [elements, tiles, N] of the
 * `upstream` gradient [batch, height, width, N], whose tiles do not. `texture`: the image is an operand texture, a line a row of pixels.
 */
export const winogradTilesKernel = kernelFamily(
  (m: WinogradSize, of: 'input' | 'upstream', texture: boolean, lanes: number) => {
    const side = m + 2;
    const loaded = of === 'input' ? side : m;
    return defineKernel({
      name: `winograd${m}_${of}_f32${texture ? '_texture' : ''}`,
      workgroup: [lanes],
      params: { ...TILE_PARAMS, padding: 'u32' },
      buffers: { image_: texture ? 'texture' : 'read vec4f', transformed: 'write vec4f' },
      body: eachTile(
        lanes,
        m,
        `  ${range(loaded)
          .map((j) => `let x${j} = originX + ${j}u - p.padding; let insideX${j} = x${j} < p.width;`)
          .join('\n  ')}
  ${range(loaded)
    .map(
      (i) =>
        `let y${i} = originY + ${i}u - p.padding; let line${i} = ${texture ? 'image * p.height + y' : '(image * p.height + y'}${i}${texture ? '' : ') * p.width'}; let insideY${i} = y${i} < p.height;`,
    )
    .join('\n  ')}
  ${grid(
    loaded,
    loaded,
    (i, j) =>
      `let d${i}_${j} = select(vec4f(), ${texture ? `textureLoad(image_, vec2u(x${j} * p.channels4 + c, line${i}))` : `image_[(line${i} + x${j}) * p.channels4 + c]`}, insideY${i} && insideX${j});`,
  )
    .flat()
    .join('\n  ')}
  ${sandwich(
    MATRICES[m][of],
    grid(loaded, loaded, (i, j) => `d${i}_${j}`),
    'v',
  )}
  var results = array<vec4f, ${side * side}>(${grid(side, side, (a, b) => `v${a}_${b}`)
    .flat()
    .join(', ')});
  for (var e = 0u; e < ${side * side}u; e++) { transformed[e * p.count + i] = results[e]; }`,
      ),
    });
  },
);

/** The gradient by the weights [3, 3, K, N] of products [elements, K, N]. One lane a vec4. `texture`: the products are a linear operand texture. */
export const winogradWeightGradientKernel = kernelFamily((m: WinogradSize, texture: boolean) => {
  const side = m + 2;
  return defineKernel({
    name: `winograd${m}_weight_gradient_f32${texture ? '_texture' : ''}`,
    workgroup: [64],
    params: { count: 'u32', ...linearParams(texture, 'products') },
    buffers: { ...linearBuffers(texture, 'products'), gradient: 'write vec4f' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  ${grid(
    side,
    side,
    (a, b) =>
      `let at${a}_${b} = ${a * side + b}u * p.count + i; let q${a}_${b} = ${linearLoad(texture, 'products', `at${a}_${b}`)};`,
  )
    .flat()
    .join('\n  ')}
  ${sandwich(
    MATRICES[m].gradient,
    grid(side, side, (a, b) => `q${a}_${b}`),
    'g',
  )}
  ${grid(3, 3, (a, b) => `gradient[${a * 3 + b}u * p.count + i] = g${a}_${b};`)
    .flat()
    .join('\n  ')}`,
  });
});

/** y [batch, height, width, N] of products [elements, tiles, N], and the epilogue. `texture`: the products are a linear operand texture. */
export const winogradOutputKernel = kernelFamily(
  (m: WinogradSize, epilogue: Epilogue, texture: boolean, lanes: number) => {
    const side = m + 2;
    return defineKernel({
      name: `winograd${m}_output_f32${texture ? '_texture' : ''}${epilogue}`,
      workgroup: [lanes],
      params: { ...TILE_PARAMS, ...linearParams(texture, 'products') },
      buffers: { ...linearBuffers(texture, 'products'), ...epilogueBuffers(epilogue, 'vec4f'), target_: 'write vec4f' },
      body: eachTile(
        lanes,
        m,
        `  ${grid(
          side,
          side,
          (i, j) =>
            `let at${i}_${j} = ${i * side + j}u * p.count + i; let q${i}_${j} = ${linearLoad(texture, 'products', `at${i}_${j}`)};`,
        )
          .flat()
          .join('\n  ')}
  ${sandwich(
    MATRICES[m].output,
    grid(side, side, (i, j) => `q${i}_${j}`),
    'y',
  )}
  ${columnOperands(epilogue, '', (buffer) => `${buffer}[c]`)}
  var results = array<vec4f, ${m * m}>(${range(m * m)
    .map((e) => `y${Math.floor(e / m)}_${e % m}`)
    .join(', ')});
  for (var e = 0u; e < ${m * m}u; e++) {
    let y = originY + e / ${m}u;
    let x = originX + e % ${m}u;
    if (y < p.height && x < p.width) {
      let at = ((image * p.height + y) * p.width + x) * p.channels4 + c;
      target_[at] = ${withEpilogue(epilogue, { sum: 'results[e]', residual: 'residual[at]' })};
    }
  }`,
      ),
    });
  },
);
