/**
 * The gradient of a convolution with respect to its weight, in NHWC, as implicit GEMM. Three variants: by subgroups, by
 * subgroups for few output channels, and through workgroup memory.
 *
 * Names are those of conv2d.ts: source, the image read by the forward pass, [batch, sourceH, sourceW, groups, K];
 * upstream gradient [batch, outH, outW, groups, N]; K4 and N4 count vec4s.
 */
import { defineKernel, kernelFamily, type BufferSpec, type KernelFlops } from './kernel.ts';
import { joined, lines, range } from './repeat.ts';
import { broadcastLane, resultsArray, rowLoop, shareRowValue } from './subgroups.ts';

const PARAMS = {
  lines: 'u32',
  linesPerSplit: 'u32',
  sourceH: 'u32',
  sourceW: 'u32',
  outH: 'u32',
  outW: 'u32',
  K4: 'u32',
  N4: 'u32',
  groups: 'u32',
  kh: 'u32',
  kw: 'u32',
  stride: 'u32',
  padding: 'i32',
  tilesM: 'u32',
  tilesN: 'u32',
  tiles: 'u32',
} as const;

const flops: KernelFlops<keyof typeof PARAMS> = (p) =>
  2 * p.lines * p.outW * p.groups * (4 * p.K4) * (4 * p.N4) * p.kh * p.kw;

/** `textures`: the rows of both images are read from operand textures. */
function buffersOf(textures: boolean): Readonly<Record<'source' | 'upstream' | 'partialSums', BufferSpec>> {
  const image = textures ? 'texture' : 'read vec4f';
  return { source: image, upstream: image, partialSums: 'write vec4f' };
}

/** WGSL that loads vec4 `x` of the image row at `line` (as in convLoads). */
function loaders(textures: boolean): string {
  const load = (name: string): string => (textures ? `textureLoad(${name}, vec2u(x, line))` : `${name}[line + x]`);
  return `
fn loadSource(line: u32, x: u32) -> vec4f { return ${load('source')}; }
fn loadUpstream(line: u32, x: u32) -> vec4f { return ${load('upstream')}; }`;
}

/**
 * WGSL that finds the tile of a workgroup. Rows of this GEMM are (kx, channel) of one kernel row ky. Columns are output
 * channels. The sum runs over the lines (image, oy) of one split.
 */
const placeTile = (rows4: number, columns4: number): string => `
  if (linearGroup >= p.tiles) { return; }
  let ky = (linearGroup / p.tilesM) % p.kh;
  let tileN = (linearGroup / (p.tilesM * p.kh)) % p.tilesN;
  let g = (linearGroup / (p.tilesM * p.kh * p.tilesN)) % p.groups;
  let split = linearGroup / (p.tilesM * p.kh * p.tilesN * p.groups);
  let rows4 = p.kw * p.K4;
  let mFirst = (linearGroup % p.tilesM) * ${rows4}u;
  let c0 = tileN * ${columns4}u;
  let sourcePitch = p.K4 * p.groups;
  let upstreamPitch = p.N4 * p.groups;
  let lineLength = p.sourceW * sourcePitch;
  let firstLine = split * p.linesPerSplit;
  let lastLine = min(firstLine + p.linesPerSplit, p.lines);`;

/** WGSL of the offset of a tap's channels in a source line, relative to the tap of column 0 without padding. */
const sourceOffset = (i: number | string): string =>
  `let offset${i} = (i32(m${i} / p.K4) - p.padding) * i32(sourcePitch) + i32(g * p.K4 + m${i} % p.K4);`;

/**
 * WGSL of the heads of two loops: over the lines of a split, and over the pixels of a line, `pixels` at a time from `x`
 * on. It finds the source line that tap row ky reads, and the line of the upstream gradient.
 */
function pixelLoop(textures: boolean, pixels: number): string {
  const line = (row: string, length: string): string => (textures ? row : `(${row}) * ${length}`);
  return `  for (var outLine = firstLine; outLine < lastLine; outLine++) {
    let y = i32((outLine % p.outH) * p.stride + ky) - p.padding;
    if (u32(y) >= p.sourceH) { continue; }
    let sourceLine = ${line('(outLine / p.outH) * p.sourceH + u32(y)', 'lineLength')};
    let upstreamLine = ${line('outLine', '(p.outW * upstreamPitch)')};
    for (var x = 0u; x < p.outW; x += ${pixels}u) {`;
}

/** Options of the subgroup variants: each combination is one shader. */
export type SubgroupWeightGradientOptions = {
  /** Subgroup size. */
  readonly lanes: number;
  /** Rows (kx, channel) and columns (output channels) of the tile. */
  readonly rows: number;
  readonly columns: number;
  /** Pixels per turn of the loop. */
  readonly pixels: number;
  /** The rows of both images are read from operand textures. */
  readonly textures: boolean;
};

function nameOf({ lanes, rows, columns, pixels, textures }: SubgroupWeightGradientOptions): string {
  return `conv2d_weight_gradient_f32_sg${lanes}_${rows}x${columns}_p${pixels}${textures ? '_texture' : ''}`;
}

/**
 * One subgroup per workgroup. Where there are many registers, the upstream values of one vec4 of columns stay in
 * registers for all rows.
 */
export const convWeightGradientSubgroupKernel = kernelFamily((options: SubgroupWeightGradientOptions) => {
  const { lanes, rows, columns, pixels, textures } = options;
  const blocks = rows / 4 / lanes;
  const vectors = columns / 4 / lanes;
  const parts = lanes <= 4 ? [range(vectors)] : range(vectors).map((j) => [j]);
  const loadBlock = (u: number, i: number): string => {
    const e = `e${u}_${i}`;
    const inside = `${e} < lineLength${u > 0 ? ` && x + ${u}u < p.outW` : ''}`;
    return `      let ${e} = u32(i32(x${u} * p.stride * sourcePitch) + offset${i});
      let a${u}_${i} = select(vec4f(), loadSource(sourceLine, ${e}), ${inside});`;
  };
  const product = (part: readonly number[], first: number, r: number, u: number): string => {
    const within = r % (lanes * 4);
    const value = `a${u}_${Math.floor(r / (lanes * 4))}[${within & 3}]`;
    const s = `s${first}_${r}_${u}`;
    const terms = part.map((j) => `c${r}_${j} = fma(${s}, b${u}_${j}, c${r}_${j});`).join(' ');
    return `      let ${s} = vec4f(${shareRowValue(lanes, value, within >> 2)}); ${terms}`;
  };
  const store = (j: number): string => {
    const at = `(firstRow + row) * upstreamPitch + column${j}`;
    return `    if (c0 + ${lanes * j}u + lane < p.N4) { partialSums[${at}] = results[r * ${vectors}u + ${j}u]; }`;
  };
  return defineKernel({
    name: nameOf(options),
    workgroup: [lanes],
    subgroups: true,
    params: PARAMS,
    flops,
    buffers: buffersOf(textures),
    module: loaders(textures),
    body: `${placeTile(rows / 4, columns / 4)}
${lines(blocks, (i) => `  let m${i} = min(mFirst + ${lanes * i}u + lane, rows4 - 1u); ${sourceOffset(i)}`)}
${lines(vectors, (j) => `  let column${j} = g * p.N4 + min(c0 + ${lanes * j}u + lane, p.N4 - 1u);`)}
${lines(rows, (r) => lines(vectors, (j) => `  var c${r}_${j} = vec4f();`))}
${pixelLoop(textures, pixels)}
${lines(
  pixels,
  (u) => `${u > 0 ? `      let x${u} = min(x + ${u}u, p.outW - 1u);` : '      let x0 = x;'}
${lines(blocks, (i) => loadBlock(u, i))}
${lines(vectors, (j) => `      let b${u}_${j} = loadUpstream(upstreamLine, x${u} * upstreamPitch + column${j});`)}`,
)}
${parts.map((part, first) => lines(rows, (r) => lines(pixels, (u) => product(part, first, r, u)))).join('\n')}
    }
  }
  ${resultsArray(
    lanes,
    'vec4f',
    range(rows).flatMap((r) => range(vectors).map((j) => `c${r}_${j}`)),
  )}
  let firstRow = ((split * p.kh + ky) * rows4 + mFirst) * 4u;
  ${rowLoop(lanes, rows, '(rows4 - mFirst) * 4u', 4)}
${lines(vectors, store)}
  }`,
  });
});

/**
 * The subgroup variant for few output channels (isNarrow), where most lanes would have no columns of their own. Lanes
 * share the upstream values of all `columns`. Each lane keeps one vec4 of (kx, channel), so a tile has 4 * lanes rows.
 */
export const convNarrowWeightGradientKernel = kernelFamily(
  ({ lanes, columns, pixels, textures }: Omit<SubgroupWeightGradientOptions, 'rows'>) => {
    const columns4 = columns / 4;
    const product = (n: number, u: number): string => {
      const upstream = broadcastLane(lanes, `b${u}[${n & 3}]`, n >> 2);
      return `sum${n} = fma(a${u}, vec4f(${upstream}), sum${n});`;
    };
    const store = (j: number, q: number): string =>
      `    partialSums[at + ${q}u * upstreamPitch] = vec4f(${joined(4, ', ', (n) => `sum${4 * j + n}[${q}]`)});`;
    return defineKernel({
      name: nameOf({ lanes, rows: 4 * lanes, columns, pixels, textures }),
      workgroup: [lanes],
      subgroups: true,
      params: PARAMS,
      flops,
      buffers: buffersOf(textures),
      module: loaders(textures),
      body: `${placeTile(lanes, columns4)}
  let m = min(mFirst + lane, rows4 - 1u); ${sourceOffset('')}
  let column = g * p.N4 + min(c0 + lane % ${columns4}u, p.N4 - 1u);
${lines(columns, (n) => `  var sum${n} = vec4f();`)}
${pixelLoop(textures, pixels)}
${lines(
  pixels,
  (u) => `      let x${u} = min(x + ${u}u, p.outW - 1u);
      let e${u} = u32(i32(x${u} * p.stride * sourcePitch) + offset);
      let a${u} = select(vec4f(), loadSource(sourceLine, e${u}), e${u} < lineLength && x + ${u}u < p.outW);
      let b${u} = loadUpstream(upstreamLine, x${u} * upstreamPitch + column);`,
)}
${lines(columns, (n) => `      ${joined(pixels, ' ', (u) => product(n, u))}`)}
    }
  }
  if (mFirst + lane >= rows4) { return; }
  let firstRow = ((split * p.kh + ky) * rows4 + mFirst + lane) * 4u;
${lines(
  columns4,
  (j) => `  if (c0 + ${j}u < p.N4) {
    let at = firstRow * upstreamPitch + g * p.N4 + c0 + ${j}u;
${lines(4, (q) => store(j, q))}
  }`,
)}`,
    });
  },
);

/** Pixels that a tile in workgroup memory holds. */
const DEPTH = 16;

/** A workgroup computes a square tile of `tile` rows by `tile` columns through workgroup memory. */
export const convWeightGradientTiledKernel = kernelFamily((tile: number) => {
  const side = tile / 4;
  const lanes = side * side;
  const share = (side * DEPTH) / lanes;
  return defineKernel({
    name: `conv2d_weight_gradient_f32_tile${tile}`,
    workgroup: [lanes],
    params: PARAMS,
    flops,
    buffers: buffersOf(false),
    module: `${loaders(false)}
var<workgroup> tileA: array<vec4f, ${side * DEPTH}>;
var<workgroup> tileB: array<vec4f, ${side * DEPTH}>;`,
    body: `${placeTile(side, side)}
  let mOwn = min(mFirst + lane % ${side}u, rows4 - 1u);
  ${sourceOffset('Own')}
  let column = g * p.N4 + min(c0 + lane % ${side}u, p.N4 - 1u);
  let ownRow4 = lane / ${side}u;
${lines(4, (r) => `  var sum${r} = vec4f();`)}
  let lastPixel = lastLine * p.outW;
  for (var pixel0 = firstLine * p.outW; pixel0 < lastPixel; pixel0 += ${DEPTH}u) {
${lines(
  share,
  (i) => `    {
      let nextPixel = pixel0 + lane / ${side}u + ${i * (lanes / side)}u;
      let pixel = min(nextPixel, lastPixel - 1u);
      let outLine = pixel / p.outW;
      let y = u32(i32((outLine % p.outH) * p.stride + ky) - p.padding);
      let e = u32(i32((pixel % p.outW) * p.stride * sourcePitch) + offsetOwn);
      let inside = nextPixel < lastPixel && y < p.sourceH && e < lineLength;
      tileA[lane + ${i * lanes}u] =
        select(vec4f(), loadSource(((outLine / p.outH) * p.sourceH + y) * lineLength, e), inside);
      tileB[lane + ${i * lanes}u] = loadUpstream(pixel * upstreamPitch, column);
    }`,
)}
    workgroupBarrier();
    for (var d = 0u; d < ${DEPTH}u; d++) {
      let a = tileA[d * ${side}u + ownRow4];
      let b = tileB[d * ${side}u + lane % ${side}u];
${lines(4, (r) => `      sum${r} = fma(vec4f(a[${r}]), b, sum${r});`)}
    }
    workgroupBarrier();
  }
  if (mFirst + ownRow4 >= rows4 || c0 + lane % ${side}u >= p.N4) { return; }
  let firstRow = (((split * p.kh + ky) * rows4) + mFirst + ownRow4) * 4u;
${lines(4, (r) => `  partialSums[(firstRow + ${r}u) * upstreamPitch + column] = sum${r};`)}`,
  });
});
