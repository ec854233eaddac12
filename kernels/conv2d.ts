/**
 * Convolution in NHWC as implicit GEMM, forward and gradient by the input in one kernel, as a subgroup and as a workgroup-memory variant. The gradient by the weight is in
 * conv2d-weight-gradient.ts, the small kernels around them in conv2d-layout.ts.
 *
 * Glossary. source: image read, [batch, sourceH, sourceW, groups, K]; target: image written, [batch, targetH, targetW, groups, N]; K and N are channels
 * a group, multiples of 4 (others are padded first, see `padChannelsKernel`), counted in vec4 as K4 and N4; weights [taps, K, groups, N].
 *
 * Forward and gradient by the input are one computation. The target pixels are taken in step * step phases: phase (ry, rx) holds the pixels that meet the
 * kernel rows ky = ry (mod step) only, and there a target pixel is a plain convolution of neighbouring source pixels. Forward has a single phase; the
 * gradient by the input of a convolution of stride s has s * s phases, reads the upstream gradient as source, and the weights transposed, reversed
 * and sorted by phase (`transposeWeightsKernel`). No multiplication by an inserted zero anywhere.
 *
 * Along a row of the source, the taps' columns and their channels lie one behind the other in memory, so kx and channel are one contiguous loop,
 * and one comparison a vec4 decides about the zero padding at left and right.
 *
 * By lines: an image whose channels are no multiple of 4 (photographs) need not be padded where its lines are whole vec4s. What an output pixel reads of a line then begins at one of
 * at most four places within a vec4, at the same one for every `classes`-th pixel: the target pixels are taken in these classes along x, each with weights moved to its place
 * (`lineWeightsKernel`), [classes, kh, vec4s of a line, 4, N]. For the kernel such an image has one vec4 of channels and lines of sourceW vec4s.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, kernelFamily, type Kernel, type KernelFlops } from './kernel.ts';
import { STAGING, type StagedPrecision } from './matmul-tiled.ts';
import { eachRow, handOut, lines, meetRow, range, resultsArray, unknown } from './subgroups.ts';

const CONV_PARAMS = {
  batch: 'u32',
  sourceH: 'u32',
  sourceW: 'u32',
  targetH: 'u32',
  targetW: 'u32',
  K4: 'u32',
  N4: 'u32',
  groups: 'u32',
  kh: 'u32',
  kw: 'u32',
  stride: 'u32',
  step: 'u32',
  padY: 'i32',
  padX: 'i32',
  tilesM: 'u32',
  tilesN: 'u32',
  tiles: 'u32',
} as const;
/** By lines: see above. `channels`: of a pixel; `vectors`: of a line of the source that an output pixel reads; `pitch`: vec4s from an output pixel to the next of its class. */
const LINE_PARAMS = { classes: 'u32', channels: 'i32', vectors: 'u32', pitch: 'i32' } as const;
const CONV_OPERANDS = { source: 'read vec4f', weights: 'read vec4f' } as const;

/**
 * FLOPs of a dispatch. Each phase, or class of an image read by lines, sums over its own share of the taps.
 * By lines, whole vec4s of a line count.
 */
const convFlops =
  (byLines: boolean): KernelFlops =>
  (p) =>
    (2 * p.batch * p.targetH * p.targetW * p.groups * (4 * p.K4) * (4 * p.N4) * p.kh * p.kw) /
    (byLines ? p.classes : p.step * p.step);

/** Source vec4 `x` of the image row at `line` (its first vec4's index in a buffer, its number in an operand texture), and vec4 `column` of a row of the weights. */
const convLoads = (sourceTexture: boolean, weightsTexture: boolean): string => `
fn loadSource(line: u32, x: u32) -> vec4f { return ${sourceTexture ? 'textureLoad(source, vec2u(x, line))' : 'source[line + x]'}; }
fn loadWeights(row: u32, column: u32) -> vec4f { return ${weightsTexture ? 'textureLoad(weights, vec2u(column, row))' : 'weights[row * (p.N4 * p.groups) + column]'}; }`;

/** Which tile of which phase and group this workgroup computes, and the geometry of the phase. */
const convTile = (rows: number, columns4: number): string => `
  if (linearGroup >= p.tiles) { return; }
  let tileN = (linearGroup / p.tilesM) % p.tilesN;
  let g = (linearGroup / (p.tilesM * p.tilesN)) % p.groups;
  let phase = linearGroup / (p.tilesM * p.tilesN * p.groups);
  let ry = phase / p.step;
  let rx = phase % p.step;
  let tapsY = (p.kh + p.step - 1u - ry) / p.step;
  let tapsX = (p.kw + p.step - 1u - rx) / p.step;
  let firstY = u32(((i32(ry) - p.padY) % i32(p.step) + i32(p.step)) % i32(p.step));
  let firstX = u32(((i32(rx) - p.padX) % i32(p.step) + i32(p.step)) % i32(p.step));
  let rowsY = (p.targetH + p.step - 1u - firstY) / p.step;
  let rowsX = (p.targetW + p.step - 1u - firstX) / p.step;
  let M = p.batch * rowsY * rowsX;
  let r0 = (linearGroup % p.tilesM) * ${rows}u;
  if (r0 >= M) { return; }
  let c0 = tileN * ${columns4}u;
  let sourceY0 = (i32(firstY) + p.padY - i32(ry)) / i32(p.step) + 1 - i32(tapsY);
  let sourceX0 = (i32(firstX) + p.padX - i32(rx)) / i32(p.step) + 1 - i32(tapsX);
  let sourcePitch = p.K4 * p.groups;
  let targetPitch = p.N4 * p.groups;
  let lineLength = p.sourceW * sourcePitch;
  // Taps of the phases before this one: (kernel rows before) * kw + (own kernel rows) * (kernel columns before).
  let rowsBefore = (p.kh / p.step) * ry + min(p.kh % p.step, ry);
  let columnsBefore = (p.kw / p.step) * rx + min(p.kw % p.step, rx);
  let firstTap = rowsBefore * p.kw + tapsY * columnsBefore;
  // With one group kx and channel are one loop over contiguous memory; with several the channels of a tap are followed by those of other groups.
  let merged = p.groups == 1u;
  let outer = select(tapsX, 1u, merged);
  let inner = select(p.K4, tapsX * p.K4, merged);
  let weightsBase = g * p.N4;
  let stepX = p.step;
  let stepY = p.step;
  let pitchX = i32(p.stride * sourcePitch);
  let originX = sourceX0 * i32(sourcePitch) + i32(g * p.K4);
  let firstRow = firstTap * p.K4 * 4u;`;

/** The same for images taken by lines, whose classes are phases along x. */
const lineTile = (rows: number, columns4: number): string => `
  if (linearGroup >= p.tiles) { return; }
  let tileN = (linearGroup / p.tilesM) % p.tilesN;
  let firstX = linearGroup / (p.tilesM * p.tilesN);
  let firstY = 0u;
  let rowsY = p.targetH;
  let rowsX = (p.targetW + p.classes - 1u - firstX) / p.classes;
  let M = p.batch * rowsY * rowsX;
  let r0 = (linearGroup % p.tilesM) * ${rows}u;
  if (r0 >= M) { return; }
  let c0 = tileN * ${columns4}u;
  let tapsY = p.kh;
  let sourceY0 = p.padY;
  let sourcePitch = 1u;
  let targetPitch = p.N4;
  let lineLength = p.sourceW;
  let outer = 1u;
  let inner = p.vectors;
  let weightsBase = 0u;
  let stepX = p.classes;
  let stepY = 1u;
  let pitchX = p.pitch;
  let originX = ((i32(firstX * p.stride) + p.padX) * p.channels) >> 2u;
  let firstRow = firstX * p.kh * p.vectors * 4u;`;

/** Pixel `m` of the phase: image, row and column of the source that its first tap reads. */
const sourceOrigin = (i: number): string => `
  let targetRow${i} = m${i} / rowsX;
  let image${i} = targetRow${i} / rowsY;
  let y${i} = i32((targetRow${i} - image${i} * rowsY) * p.stride) + sourceY0;
  let x${i} = i32(m${i} - targetRow${i} * rowsX) * pitchX + originX;`;

/** Memory of the source row that tap row `t` reads; `limit` is 0 where that row is padding. */
const sourceLine = (i: number, textures = false): string => `
    let row${i} = y${i} + i32(t);
    let line${i} = u32(i32(image${i} * p.sourceH) + row${i})${textures ? '' : ' * lineLength'};
    let limit${i} = select(0u, lineLength, u32(row${i}) < p.sourceH);`;

/** WGSL that finds target pixel `pixel` of pixel `m` of the phase. Software adapters divide lane by lane: only where lines of the phase are not lines of the target. */
const TARGET_PIXEL = `
    var pixel = m * stepX + firstX;
    if (rowsX * stepX != p.targetW || stepY != 1u) {
      let targetRow = m / rowsX;
      let image = targetRow / rowsY;
      pixel = (image * p.targetH + (targetRow - image * rowsY) * stepY + firstY) * p.targetW + (m - targetRow * rowsX) * stepX + firstX;
    }`;

/** The same for pixels one after the other, from `r0` on: WGSL before the loop over them, and at the end of its body. */
const FIRST_TARGET_PIXEL = `
  var targetRow = r0 / rowsX;
  var targetX = r0 - targetRow * rowsX;
  let firstImage = targetRow / rowsY;
  targetRow -= firstImage * rowsY;
  var pixel = (firstImage * p.targetH + targetRow * stepY + firstY) * p.targetW + targetX * stepX + firstX;
  let toNextRow = stepY * p.targetW - rowsX * stepX;
  let toNextImage = (p.targetH - rowsY * stepY) * p.targetW;`;
const NEXT_TARGET_PIXEL = `
    targetX++;
    let rowEnds = targetX == rowsX;
    targetX = select(targetX, 0u, rowEnds);
    targetRow += select(0u, 1u, rowEnds);
    let imageEnds = targetRow == rowsY;
    targetRow = select(targetRow, 0u, imageEnds);
    pixel += stepX + select(0u, toNextRow, rowEnds) + select(0u, toNextImage, imageEnds);`;

/** Tiles narrower than a subgroup's vec4s: their weights are few, and stay in the buffer where the source is read from a texture. */
export const isNarrow = (subgroup: number, columns: number): boolean => columns / 4 < subgroup;

/**
 * A workgroup is one subgroup and computes `rows` pixels by `columns` channels, and every value is loaded once for all lanes. Tiles as wide as the subgroup: each lane loads
 * its own pixels' vec4 of channels and hands the components out; each lane keeps its own columns of the weights. Narrower tiles: each lane keeps to its own pixels, with
 * all columns, and the lanes hand out the weights. `split`: a sum for each row of taps, and the sum of those, for long sums: one chain of additions would round more.
 * `byLines`: the image is taken by lines.
 */
export const convSubgroupKernel = kernelFamily(
  (
    subgroup: number,
    rows: number,
    columns: number,
    textures: boolean,
    split: boolean,
    byLines: boolean,
    epilogue: Epilogue,
  ): Kernel => {
    const narrow = isNarrow(subgroup, columns);
    const total = split ? 'total' : 'c';
    const tm = rows / subgroup;
    /** Results of a lane: vec4s of columns, and for each of them pixels. */
    const tn = narrow ? columns / 4 : columns / 4 / subgroup;
    const results = narrow ? tm : rows;
    /** Whether all lanes store the same pixel, one after the other. */
    const inOrder = !narrow && subgroup !== 4;
    const weightLoads = Math.ceil(columns / subgroup);
    const column = (j: number): string => (narrow ? `c0 + ${j}u` : `c0 + lane + ${subgroup * j}u`);
    const placeWeights = narrow
      ? range(weightLoads)
          .map(
            (i) =>
              `  let weight${i} = min(lane + ${subgroup * i}u, ${columns - 1}u); let tap${i} = weight${i} / ${tn}u; let from${i} = weightsBase + min(c0 + weight${i} % ${tn}u, p.N4 - 1u);`,
          )
          .join('\n')
      : '';
    const loadWeights = narrow
      ? range(weightLoads)
          .map((i) => `        let w${i} = loadWeights(k + tap${i}, from${i});`)
          .join('\n')
      : lines(4, (kk) => lines(tn, (j) => `        let b${kk}_${j} = loadWeights(k + ${kk}u, column${j});`));
    /** Weights (kk, j) lie in lane (kk * tn + j) mod subgroup. */
    const handedWeights = (kk: number, j: number): string =>
      handOut(subgroup, `w${Math.floor((kk * tn + j) / subgroup)}`, (kk * tn + j) % subgroup);
    // Weights of one vec4 of columns at a time stay in registers while the pixels go by.
    const products = narrow
      ? lines(
          tn,
          (j) => `${lines(4, (kk) => `        let b${kk}_${j} = ${handedWeights(kk, j)};`)}
${lines(
  tm,
  (r) =>
    `        ${range(4)
      .map((kk) => `c${r}_${j} = fma(vec4f(a${r}[${kk}]), b${kk}_${j}, c${r}_${j});`)
      .join(' ')}`,
)}`,
        )
      : lines(rows, (r) =>
          lines(
            4,
            (kk) =>
              `        let s${r}_${kk} = vec4f(${meetRow(subgroup, `a${Math.floor(r / subgroup)}[${kk}]`, r % subgroup)}); ${range(
                tn,
              )
                .map((j) => `c${r}_${j} = fma(s${r}_${kk}, b${kk}_${j}, c${r}_${j});`)
                .join(' ')}`,
          ),
        );
    return defineKernel({
      name: `conv2d_f32_sg${subgroup}_${rows}x${columns}${textures ? '_texture' : ''}${split ? '_split' : ''}${byLines ? '_lines' : ''}${epilogue}`,
      workgroup: [subgroup],
      subgroups: true,
      params: byLines ? { ...CONV_PARAMS, ...LINE_PARAMS } : CONV_PARAMS,
      buffers: {
        ...CONV_OPERANDS,
        ...(textures ? { source: 'texture' } : {}),
        ...(textures && !narrow ? { weights: 'texture' } : {}),
        ...epilogueBuffers(epilogue, 'vec4f'),
        target_: 'write vec4f',
      },
      flops: convFlops(byLines),
      module: convLoads(textures, textures && !narrow),
      body: `${byLines ? lineTile(rows, columns / 4) : convTile(rows, columns / 4)}
${lines(tm, (i) => `  let m${i} = min(r0 + ${subgroup * i}u + lane, M - 1u);${sourceOrigin(i)}`)}
${lines(tn, (j) => `  let column${j} = weightsBase + min(${column(j)}, p.N4 - 1u);`)}
${placeWeights}
${lines(results, (r) => lines(tn, (j) => `  var ${total}${r}_${j} = vec4f();`))}
  var k = firstRow;
  for (var t = 0u; t < tapsY; t++) {${lines(tm, (i) => sourceLine(i, textures))}
${split ? lines(results, (r) => lines(tn, (j) => `    var c${r}_${j} = vec4f();`)) : ''}
    for (var u = 0u; u < outer; u++) {
      for (var q = 0u; q < inner; q++) {
${lines(tm, (i) => `        let e${i} = u32(x${i}) + u * sourcePitch + q; let a${i} = select(vec4f(), loadSource(line${i}, e${i}), e${i} < limit${i});`)}
${loadWeights}
        k += 4u;
${products}
      }
    }
${split ? lines(results, (r) => lines(tn, (j) => `    total${r}_${j} += c${r}_${j};`)) : ''}
  }
${lines(tn, (j) => `  ${columnOperands(epilogue, j, (buffer) => `${buffer}[column${j}]`)}`)}
  ${resultsArray(
    subgroup,
    'vec4f',
    range(results).flatMap((r) => range(tn).map((j) => `${total}${r}_${j}`)),
  )}
  ${inOrder ? FIRST_TARGET_PIXEL : ''}
  ${
    narrow
      ? `for (var r = 0u; r < ${unknown(results)}; r++) {
    let row = r * ${subgroup}u + lane;
    if (r0 + row >= M) { break; }`
      : eachRow(subgroup, rows, 'M - r0', 1)
  }${
    inOrder
      ? ''
      : `
    let m = r0 + row;${TARGET_PIXEL}`
  }
${lines(
  tn,
  (j) =>
    `    if (${column(j)} < p.N4) { let at = pixel * targetPitch + column${j}; target_[at] = ${withEpilogue(
      epilogue,
      `results[r * ${tn}u + ${j}u]`,
      j,
      'residual[at]',
      'vec4f()',
    )}; }`,
)}${inOrder ? NEXT_TARGET_PIXEL : ''}
  }`,
    });
  },
);

/** Vec4s along K that a workgroup-memory tile holds. */
const DEPTH4 = 4;

/** A workgroup computes a square tile of pixels by channels, each lane 4 x 4 of it, from operands in workgroup memory, as they are or rounded to f16: for adapters without small subgroups. */
export const convTiledKernel = kernelFamily((tile: number, precision: StagedPrecision, epilogue: Epilogue) => {
  const { vector, module, store, load } = STAGING[precision];
  const side = tile / 4;
  const lanes = side * side;
  const share = (tile * DEPTH4) / lanes;
  return defineKernel({
    name: `conv2d_${precision}_tile${tile}${epilogue}`,
    workgroup: [lanes],
    params: CONV_PARAMS,
    buffers: { ...CONV_OPERANDS, ...epilogueBuffers(epilogue, 'vec4f'), target_: 'write vec4f' },
    f16: precision === 'f16',
    flops: convFlops(false),
    module: `${convLoads(false, false)}${module}
var<workgroup> tileA: array<${vector}, ${tile * DEPTH4}>;
var<workgroup> tileB: array<${vector}, ${tile * DEPTH4}>;`,
    body: `${convTile(tile, side)}
  let depth = lane % ${DEPTH4}u;
${lines(share, (i) => `  let m${i} = min(r0 + lane / ${DEPTH4}u + ${i * (lanes / DEPTH4)}u, M - 1u);${sourceOrigin(i)}`)}
  let loadColumn = weightsBase + min(c0 + lane % ${side}u, p.N4 - 1u);
  let column = c0 + lane % ${side}u;
  let ownRow = (lane / ${side}u) * 4u;
${lines(4, (r) => `  var sum${r} = vec4f();`)}
  for (var t = 0u; t < tapsY; t++) {${lines(share, (i) => sourceLine(i))}
    for (var u = 0u; u < outer; u++) {
      let k = (firstTap * p.K4 + (t * outer + u) * inner) * 4u;
      for (var q0 = 0u; q0 < inner; q0 += ${DEPTH4}u) {
        let q = q0 + depth;
${lines(
  share,
  (i) => `        {
          let e = u32(x${i}) + u * sourcePitch + q;
          tileA[lane + ${i * lanes}u] = ${store(`select(vec4f(), loadSource(line${i}, e), e < limit${i} && q < inner)`)};
          let kk = q0 * 4u + lane / ${side}u + ${i * (lanes / side)}u;
          tileB[lane + ${i * lanes}u] = ${store('select(vec4f(), loadWeights(k + kk, loadColumn), kk < inner * 4u)')};
        }`,
)}
        workgroupBarrier();
        for (var d = 0u; d < ${DEPTH4}u; d++) {
${lines(4, (r) => `          let a${r} = ${load(`tileA[(ownRow + ${r}u) * ${DEPTH4}u + d]`)};`)}
${lines(4, (kk) => `          let b${kk} = ${load(`tileB[(d * 4u + ${kk}u) * ${side}u + lane % ${side}u]`)};`)}
${lines(4, (r) => lines(4, (kk) => `          sum${r} = fma(vec4f(a${r}[${kk}]), b${kk}, sum${r});`))}
        }
        workgroupBarrier();
      }
    }
  }
  if (column >= p.N4) { return; }
  ${columnOperands(epilogue, '', (buffer) => `${buffer}[loadColumn]`)}
  var results = array<vec4f, 4>(sum0, sum1, sum2, sum3);
  for (var r = 0u; r < 4u; r++) {
    let m = r0 + ownRow + r;
    if (m < M) {${TARGET_PIXEL}
      let at = pixel * targetPitch + loadColumn;
      target_[at] = ${withEpilogue(epilogue, 'results[r]', '', 'residual[at]', 'vec4f()')};
    }
  }`,
  });
});
