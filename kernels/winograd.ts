/**
 * Winograd's minimal filtering for 3x3 convolutions of stride 1, NHWC: F(2x2, 3x3) and F(4x4, 3x3). Source: Lavin and
 * Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308.
 *
 * There are three transforms around a batched matrix product [elements, tiles, K] x [elements, K, N]:
 *  - U = G g G^T of the weights,
 *  - V = B^T d B of the image's tiles,
 *  - y = A^T (U V) A of the products.
 *
 * F(4x4) multiplies 4 times less than the direct sum, but rounds about twice as coarsely. F(2x2) multiplies 2.25 times
 * less at the precision of the direct sum.
 *
 * The gradient with respect to the weights is a correlation too: of each input tile with the tile of the upstream
 * gradient, which takes the place of the weights. It uses F(3x3, 2x2) and F(3x3, 4x4) at the same points, so V is the
 * same. The sum over tiles is that of a batched product [elements, K, tiles] x [elements, tiles, N].
 *
 * Glossary: m is the side of an output tile; m + 2 is the side of an input tile, which has (m + 2)^2 elements; tiles
 * are [batch, tilesY, tilesX], processed in ranges; K and N are channels in vec4s.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, eachPlace, kernelFamily } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import { joined, range } from './repeat.ts';

export const WINOGRAD_SIZES = [2, 4] as const;
export type WinogradSize = (typeof WINOGRAD_SIZES)[number];

type Matrix = readonly (readonly number[])[];

interface Matrices {
  /** B^T, for tiles of the image. */
  readonly input: Matrix;
  /** G and A^T for a convolution. */
  readonly weight: Matrix;
  readonly output: Matrix;
  /** G and A^T for the gradient with respect to the weights. */
  readonly upstream: Matrix;
  readonly gradient: Matrix;
}

/** The matrices of F(4x4) at the points 0, a, -a, b, -b and infinity. */
function matricesAt(a: number, b: number): Matrices {
  const [a2, b2] = [a ** 2, b ** 2];
  const points = [0, a, -a, b, -b];
  const scales = [
    1 / (a2 * b2),
    ...[1, 1].map(() => 1 / (2 * a2 * (a2 - b2))),
    ...[1, 1].map(() => 1 / (2 * b2 * (b2 - a2))),
  ];
  /** Powers of the points up to `degree`: one row per point, the last row for infinity. */
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
 * F(4x4) at the points 3/4 and 3/2 rounds half as coarsely as at the usual points 1 and 2. The simulated relative L2
 * error of a sum over 64 channels in f32 is 0.9e-6 instead of 1.8e-6. All elements of B^T and A^T are exact in binary.
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

/** WGSL that computes `<name>i_j`, the elements of M X M^T, from X given by names[row][column]. */
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

/** Text for each element of a matrix, by row and column. */
const grid = (rows: number, columns: number, name: (i: number, j: number) => string): string[][] =>
  range(rows).map((i) => range(columns).map((j) => name(i, j)));

/** WGSL that stores the elements `<name>i_j` of a transformed tile of side `side`. */
const transformedArray = (side: number, name: string): string => {
  const elements = grid(side, side, (a, b) => `${name}${a}_${b}`).flat();
  return `var results = array<vec4f, ${elements.length}>(${elements.join(', ')});
  for (var e = 0u; e < ${elements.length}u; e++) { transformed[e * p.count + i] = results[e]; }`;
};

/**
 * WGSL that loads `<value>i_j`, the elements of a tile of side `side`, from `name`, whose elements are p.count apart.
 */
const loadElements = (texture: boolean, name: string, side: number, value: string): string =>
  grid(side, side, (i, j) => {
    const at = `at${i}_${j}`;
    return `let ${at} = ${i * side + j}u * p.count + i; let ${value}${i}_${j} = ${linearLoad(texture, name, at)};`;
  })
    .flat()
    .join('\n  ');

/**
 * U [elements, K, N] of weights [3, 3, K, N]. One invocation computes one vec4.
 * `texture`: the weights are a linear operand texture.
 */
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
  ${loadElements(texture, 'weights', 3, 'g')}
  ${sandwich(
    MATRICES[m].weight,
    grid(3, 3, (a, b) => `g${a}_${b}`),
    'u',
  )}
  ${transformedArray(side, 'u')}`,
  });
});

const TILE_PARAMS = {
  /** Tiles x vec4s of channels. */
  count: 'u32',
  /** First tile of the range. */
  firstTile: 'u32',
  tilesY: 'u32',
  tilesX: 'u32',
  height: 'u32',
  width: 'u32',
  channels4: 'u32',
} as const;

/** WGSL that runs `statements` for every tile of the range and every vec4 `c` of channels, as element `i`. */
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
 * V [elements, tiles, K] of the `input` image [batch, height, width, K] with `padding` zeros around it, whose tiles
 * overlap by two pixels; or U [elements, tiles, N] of the `upstream` gradient [batch, height, width, N], whose tiles do
 * not overlap. `texture`: the image is an operand texture, one line per row of pixels.
 */
export const winogradTilesKernel = kernelFamily(
  (m: WinogradSize, of: 'input' | 'upstream', texture: boolean, lanes: number) => {
    const side = m + 2;
    const loaded = of === 'input' ? side : m;
    const line = (i: number): string => (texture ? `image * p.height + y${i}` : `(image * p.height + y${i}) * p.width`);
    const load = (i: number, j: number): string =>
      texture
        ? `textureLoad(image_, vec2u(x${j} * p.channels4 + c, line${i}))`
        : `image_[(line${i} + x${j}) * p.channels4 + c]`;
    const row = (i: number): string =>
      [
        `let y${i} = originY + ${i}u - p.padding;`,
        `let line${i} = ${line(i)};`,
        `let insideY${i} = y${i} < p.height;`,
      ].join(' ');
    const element = (i: number, j: number): string =>
      `let d${i}_${j} = select(vec4f(), ${load(i, j)}, insideY${i} && insideX${j});`;
    return defineKernel({
      name: `winograd${m}_${of}_f32${texture ? '_texture' : ''}`,
      workgroup: [lanes],
      params: { ...TILE_PARAMS, padding: 'u32' },
      buffers: { image_: texture ? 'texture' : 'read vec4f', transformed: 'write vec4f' },
      body: eachTile(
        lanes,
        m,
        `  ${joined(
          loaded,
          '\n  ',
          (j) => `let x${j} = originX + ${j}u - p.padding; let insideX${j} = x${j} < p.width;`,
        )}
  ${joined(loaded, '\n  ', row)}
  ${grid(loaded, loaded, element).flat().join('\n  ')}
  ${sandwich(
    MATRICES[m][of],
    grid(loaded, loaded, (i, j) => `d${i}_${j}`),
    'v',
  )}
  ${transformedArray(side, 'v')}`,
      ),
    });
  },
);

/**
 * The gradient with respect to the weights, [3, 3, K, N], of products [elements, K, N]. One invocation computes one
 * vec4. `texture`: the products are a linear operand texture.
 */
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
  ${loadElements(texture, 'products', side, 'q')}
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

/**
 * y [batch, height, width, N] of products [elements, tiles, N], with an epilogue.
 * `texture`: the products are a linear operand texture.
 */
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
        `  ${loadElements(texture, 'products', side, 'q')}
  ${sandwich(
    MATRICES[m].output,
    grid(side, side, (i, j) => `q${i}_${j}`),
    'y',
  )}
  ${columnOperands(epilogue, '', (buffer) => `${buffer}[c]`)}
  var results = array<vec4f, ${m * m}>(${joined(m * m, ', ', (e) => `y${Math.floor(e / m)}_${e % m}`)});
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
