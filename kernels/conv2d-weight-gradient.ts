/**
 * The gradient of a convolution by its weight, in NHWC, as implicit GEMM: by subgroups, where output channels are few the other way around, and through workgroup memory.
 * Names are those of conv2d.ts: source, image read by the forward pass, [batch, sourceH, sourceW, groups, K]; upstream [batch, outH, outW, groups, N]; K4 and N4 count vec4s.
 */
import { defineKernel, kernelFamily, type KernelFlops } from './kernel.ts';
import { eachRow, handOut, lines, meetRow, range, resultsArray } from './subgroups.ts';

const WEIGHT_GRADIENT_PARAMS = {
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
const flops: KernelFlops<keyof typeof WEIGHT_GRADIENT_PARAMS> = (p) =>
  2 * p.lines * p.outW * p.groups * (4 * p.K4) * (4 * p.N4) * p.kh * p.kw;

const WEIGHT_GRADIENT_BUFFERS = { source: 'read vec4f', upstream: 'read vec4f', partialSums: 'write vec4f' } as const;
/** Vec4 `x` of the image row at `line` (as in convLoads). */
const weightGradientLoads = (textures: boolean): string => `
fn loadSource(line: u32, x: u32) -> vec4f { return ${textures ? 'textureLoad(source, vec2u(x, line))' : 'source[line + x]'}; }
fn loadUpstream(line: u32, x: u32) -> vec4f { return ${textures ? 'textureLoad(upstream, vec2u(x, line))' : 'upstream[line + x]'}; }`;

/** Rows of this GEMM are (kx, channel) of one kernel row ky, columns are output channels; the sum runs over the lines (image, oy) of one split. */
const weightGradientTile = (rows4: number, columns4: number): string => `
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

/** Where in a source line the tap's channels lie, seen from the tap of column 0 without padding. */
const sourceOffset = (i: number | string): string =>
  `let offset${i} = (i32(m${i} / p.K4) - p.padding) * i32(sourcePitch) + i32(g * p.K4 + m${i} % p.K4);`;

/** The heads of the loops over the lines of a split and the pixels of each, `pixels` at a time from `x` on: the line of the source that tap row ky reads, and that of the upstream gradient. */
function eachPixels(textures: boolean, pixels: number): string {
  const line = (row: string, length: string): string => (textures ? row : `(${row}) * ${length}`);
  return `  for (var outLine = firstLine; outLine < lastLine; outLine++) {
    let y = i32((outLine % p.outH) * p.stride + ky) - p.padding;
    if (u32(y) >= p.sourceH) { continue; }
    let sourceLine = ${line('(outLine / p.outH) * p.sourceH + u32(y)', 'lineLength')};
    let upstreamLine = ${line('outLine', '(p.outW * upstreamPitch)')};
    for (var x = 0u; x < p.outW; x += ${pixels}u) {`;
}

/**
 * A workgroup is one subgroup: `rows` (kx, channel) by `columns` output channels, `pixels` a turn of the loop. Where registers are many, the upstream values of one vec4 of
 * columns stay in them while the rows go by. `textures`: rows of both images are read from operand textures.
 */
export const convWeightGradientSubgroupKernel = kernelFamily(
  (subgroup: number, rows: number, columns: number, pixels: number, textures: boolean) => {
    const ta = rows / 4 / subgroup;
    const tn = columns / 4 / subgroup;
    const parts = subgroup <= 4 ? [range(tn)] : range(tn).map((j) => [j]);
    return defineKernel({
      name: `conv2d_weight_gradient_f32_sg${subgroup}_${rows}x${columns}_p${pixels}${textures ? '_texture' : ''}`,
      workgroup: [subgroup],
      subgroups: true,
      params: WEIGHT_GRADIENT_PARAMS,
      flops,
      buffers: { ...WEIGHT_GRADIENT_BUFFERS, ...(textures ? { source: 'texture', upstream: 'texture' } : {}) },
      module: weightGradientLoads(textures),
      body: `${weightGradientTile(rows / 4, columns / 4)}
${lines(ta, (i) => `  let m${i} = min(mFirst + ${subgroup * i}u + lane, rows4 - 1u); ${sourceOffset(i)}`)}
${lines(tn, (j) => `  let column${j} = g * p.N4 + min(c0 + ${subgroup * j}u + lane, p.N4 - 1u);`)}
${lines(rows, (r) => lines(tn, (j) => `  var c${r}_${j} = vec4f();`))}
${eachPixels(textures, pixels)}
${lines(
  pixels,
  (u) => `${u > 0 ? `      let x${u} = min(x + ${u}u, p.outW - 1u);` : '      let x0 = x;'}
${lines(
  ta,
  (i) => `      let e${u}_${i} = u32(i32(x${u} * p.stride * sourcePitch) + offset${i});
      let a${u}_${i} = select(vec4f(), loadSource(sourceLine, e${u}_${i}), e${u}_${i} < lineLength${u > 0 ? ` && x + ${u}u < p.outW` : ''});`,
)}
${lines(tn, (j) => `      let b${u}_${j} = loadUpstream(upstreamLine, x${u} * upstreamPitch + column${j});`)}`,
)}
${parts
  .map((part, first) =>
    lines(rows, (r) =>
      lines(pixels, (u) => {
        const within = r % (subgroup * 4);
        const s = `s${first}_${r}_${u}`;
        return `      let ${s} = vec4f(${meetRow(subgroup, `a${u}_${Math.floor(r / (subgroup * 4))}[${within & 3}]`, within >> 2)}); ${part
          .map((j) => `c${r}_${j} = fma(${s}, b${u}_${j}, c${r}_${j});`)
          .join(' ')}`;
      }),
    ),
  )
  .join('\n')}
    }
  }
  ${resultsArray(
    subgroup,
    'vec4f',
    range(rows).flatMap((r) => range(tn).map((j) => `c${r}_${j}`)),
  )}
  let firstRow = ((split * p.kh + ky) * rows4 + mFirst) * 4u;
  ${eachRow(subgroup, rows, '(rows4 - mFirst) * 4u', 4)}
${lines(tn, (j) => `    if (c0 + ${subgroup * j}u + lane < p.N4) { partialSums[(firstRow + row) * upstreamPitch + column${j}] = results[r * ${tn}u + ${j}u]; }`)}
  }`,
    });
  },
);

/**
 * The same for few output channels, where most lanes would have no columns of their own: `columns` of them (see isNarrow), whose values the lanes hand out; each lane keeps one vec4 of
 * (kx, channel).
 */
export const convNarrowWeightGradientKernel = kernelFamily(
  (subgroup: number, columns: number, pixels: number, textures: boolean) => {
    const columns4 = columns / 4;
    return defineKernel({
      name: `conv2d_weight_gradient_f32_sg${subgroup}_${4 * subgroup}x${columns}_p${pixels}${textures ? '_texture' : ''}`,
      workgroup: [subgroup],
      subgroups: true,
      params: WEIGHT_GRADIENT_PARAMS,
      flops,
      buffers: { ...WEIGHT_GRADIENT_BUFFERS, ...(textures ? { source: 'texture', upstream: 'texture' } : {}) },
      module: weightGradientLoads(textures),
      body: `${weightGradientTile(subgroup, columns4)}
  let m = min(mFirst + lane, rows4 - 1u); ${sourceOffset('')}
  let column = g * p.N4 + min(c0 + lane % ${columns4}u, p.N4 - 1u);
${lines(columns, (n) => `  var sum${n} = vec4f();`)}
${eachPixels(textures, pixels)}
${lines(
  pixels,
  (u) => `      let x${u} = min(x + ${u}u, p.outW - 1u);
      let e${u} = u32(i32(x${u} * p.stride * sourcePitch) + offset);
      let a${u} = select(vec4f(), loadSource(sourceLine, e${u}), e${u} < lineLength && x + ${u}u < p.outW);
      let b${u} = loadUpstream(upstreamLine, x${u} * upstreamPitch + column);`,
)}
${lines(
  columns,
  (n) =>
    `      ${range(pixels)
      .map((u) => `sum${n} = fma(a${u}, vec4f(${handOut(subgroup, `b${u}[${n & 3}]`, n >> 2)}), sum${n});`)
      .join(' ')}`,
)}
    }
  }
  if (mFirst + lane >= rows4) { return; }
  let firstRow = ((split * p.kh + ky) * rows4 + mFirst + lane) * 4u;
${lines(
  columns4,
  (j) => `  if (c0 + ${j}u < p.N4) {
    let at = firstRow * upstreamPitch + g * p.N4 + c0 + ${j}u;
${lines(
  4,
  (q) =>
    `    partialSums[at + ${q}u * upstreamPitch] = vec4f(${range(4)
      .map((n) => `sum${4 * j + n}[${q}]`)
      .join(', ')});`,
)}
  }`,
)}`,
    });
  },
);

/** Pixels that a workgroup-memory tile of the gradient by the weight holds. */
const DEPTH = 16;

export const convWeightGradientTiledKernel = kernelFamily((tile: number) => {
  const side = tile / 4;
  const lanes = side * side;
  const share = (side * DEPTH) / lanes;
  return defineKernel({
    name: `conv2d_weight_gradient_f32_tile${tile}`,
    workgroup: [lanes],
    params: WEIGHT_GRADIENT_PARAMS,
    flops,
    buffers: WEIGHT_GRADIENT_BUFFERS,
    module: `${weightGradientLoads(false)}
var<workgroup> tileA: array<vec4f, ${side * DEPTH}>;
var<workgroup> tileB: array<vec4f, ${side * DEPTH}>;`,
    body: `${weightGradientTile(side, side)}
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
      let wanted = pixel0 + lane / ${side}u + ${i * (lanes / side)}u;
      let pixel = min(wanted, lastPixel - 1u);
      let outLine = pixel / p.outW;
      let y = u32(i32((outLine % p.outH) * p.stride + ky) - p.padding);
      let e = u32(i32((pixel % p.outW) * p.stride * sourcePitch) + offsetOwn);
      let inside = wanted < lastPixel && y < p.sourceH && e < lineLength;
      tileA[lane + ${i * lanes}u] = select(vec4f(), loadSource(((outLine / p.outH) * p.sourceH + y) * lineLength, e), inside);
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
