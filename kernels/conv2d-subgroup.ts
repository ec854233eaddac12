/**
 * Convolution for adapters with small subgroups. See conv2d.ts for the names.
 *
 * A workgroup is one subgroup and computes `rows` pixels by `columns` channels. Every value is loaded once for all
 * lanes.
 *  - Wide tiles have at least one vec4 of columns per lane. Each lane loads the channels of its own pixels and shares
 *    their components; each lane keeps its own columns of the weights.
 *  - Narrow tiles (isNarrow): each lane keeps its own pixels, with all columns, and lanes share the weights.
 */
import {
  CONV_OPERANDS,
  CONV_PARAMS,
  convFlops,
  convLoads,
  convTile,
  FIRST_TARGET_PIXEL,
  isNarrow,
  LINE_PARAMS,
  lineTile,
  NEXT_TARGET_PIXEL,
  sourceLine,
  sourceOrigin,
  TARGET_PIXEL,
} from './conv2d.ts';
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, kernelFamily, type Kernel } from './kernel.ts';
import { joined, lines, range } from './repeat.ts';
import { broadcastLane, opaqueNumber, resultsArray, rowLoop, shareRowValue } from './subgroups.ts';

/** Options of the kernel family: each combination is one shader. */
export type SubgroupConvOptions = {
  /** Subgroup size. */
  readonly lanes: number;
  /** Pixels and channels of the tile. */
  readonly rows: number;
  readonly columns: number;
  /** The source, and the weights of wide tiles, are operand textures. */
  readonly textures: boolean;
  /** Sums each row of taps alone, then adds those sums. For long sums: one chain of additions would round more. */
  readonly split: boolean;
  /** The image is read by lines. */
  readonly byLines: boolean;
  readonly epilogue: Epilogue;
};

/** How a tile is divided among lanes. */
interface Division {
  readonly narrow: boolean;
  /** Pixels whose channels a lane loads. */
  readonly pixels: number;
  /** Vec4s of columns per lane. */
  readonly vectors: number;
  /** Pixels per lane with sums for each of its vec4s of columns. */
  readonly results: number;
  /** WGSL of vec4 column `j` of a lane. */
  readonly column: (j: number) => string;
}

function divide({ lanes, rows, columns }: SubgroupConvOptions): Division {
  const narrow = isNarrow(lanes, columns);
  const pixels = rows / lanes;
  return {
    narrow,
    pixels,
    vectors: narrow ? columns / 4 : columns / 4 / lanes,
    results: narrow ? pixels : rows,
    column: (j) => (narrow ? `c0 + ${j}u` : `c0 + lane + ${lanes * j}u`),
  };
}

/**
 * WGSL of the weights of a narrow tile that a lane loads. Weight (kk, j) is in lane (kk * vectors + j) mod subgroup.
 */
const placeWeights = ({ lanes, columns }: SubgroupConvOptions, { vectors }: Division): string =>
  lines(Math.ceil(columns / lanes), (i) =>
    [
      `  let weight${i} = min(lane + ${lanes * i}u, ${columns - 1}u);`,
      `let tap${i} = weight${i} / ${vectors}u;`,
      `let from${i} = weightsBase + min(c0 + weight${i} % ${vectors}u, p.N4 - 1u);`,
    ].join(' '),
  );

/** WGSL of a lane's loads of weights for four channels of the source. */
const loadWeights = ({ lanes, columns }: SubgroupConvOptions, { narrow, vectors }: Division): string =>
  narrow
    ? lines(Math.ceil(columns / lanes), (i) => `        let w${i} = loadWeights(k + tap${i}, from${i});`)
    : lines(4, (kk) => lines(vectors, (j) => `        let b${kk}_${j} = loadWeights(k + ${kk}u, column${j});`));

/** WGSL of the multiply-adds of four channels. The weights of one vec4 of columns stay in registers over all pixels. */
function products({ lanes, rows }: SubgroupConvOptions, { narrow, pixels, vectors }: Division): string {
  if (narrow) {
    const weight = (kk: number, j: number): string => {
      const at = kk * vectors + j;
      return broadcastLane(lanes, `w${Math.floor(at / lanes)}`, at % lanes);
    };
    const term = (r: number, j: number, kk: number): string =>
      `c${r}_${j} = fma(vec4f(a${r}[${kk}]), b${kk}_${j}, c${r}_${j});`;
    return lines(
      vectors,
      (j) => `${lines(4, (kk) => `        let b${kk}_${j} = ${weight(kk, j)};`)}
${lines(pixels, (r) => `        ${joined(4, ' ', (kk) => term(r, j, kk))}`)}`,
    );
  }
  const value = (r: number, kk: number): string => shareRowValue(lanes, `a${Math.floor(r / lanes)}[${kk}]`, r % lanes);
  const terms = (r: number, kk: number): string =>
    joined(vectors, ' ', (j) => `c${r}_${j} = fma(s${r}_${kk}, b${kk}_${j}, c${r}_${j});`);
  return lines(rows, (r) => lines(4, (kk) => `        let s${r}_${kk} = vec4f(${value(r, kk)}); ${terms(r, kk)}`));
}

/** WGSL of the loop that stores the results. */
function stores({ lanes, rows, epilogue }: SubgroupConvOptions, division: Division): string {
  const { narrow, vectors, results, column } = division;
  // All lanes store the same pixel, one pixel after the other.
  const inOrder = !narrow && lanes !== 4;
  const head = narrow
    ? `for (var r = 0u; r < ${opaqueNumber(results)}; r++) {
    let row = r * ${lanes}u + lane;
    if (r0 + row >= M) { break; }`
    : rowLoop(lanes, rows, 'M - r0', 1);
  const store = (j: number): string => {
    const value = withEpilogue(epilogue, {
      sum: `results[r * ${vectors}u + ${j}u]`,
      suffix: j,
      residual: 'residual[at]',
    });
    return `    if (${column(j)} < p.N4) { let at = pixel * targetPitch + column${j}; target_[at] = ${value}; }`;
  };
  return `${inOrder ? FIRST_TARGET_PIXEL : ''}
  ${head}${
    inOrder
      ? ''
      : `
    let m = r0 + row;${TARGET_PIXEL}`
  }
${lines(vectors, store)}${inOrder ? NEXT_TARGET_PIXEL : ''}
  }`;
}

function nameOf({ lanes, rows, columns, textures, split, byLines, epilogue }: SubgroupConvOptions): string {
  const forms = `${textures ? '_texture' : ''}${split ? '_split' : ''}${byLines ? '_lines' : ''}`;
  return `conv2d_f32_sg${lanes}_${rows}x${columns}${forms}${epilogue}`;
}

/** Target pixels by channels with one subgroup per workgroup. */
export const convSubgroupKernel = kernelFamily((options: SubgroupConvOptions): Kernel => {
  const { lanes, rows, columns, textures, split, byLines, epilogue } = options;
  const division = divide(options);
  const { narrow, pixels, vectors, results, column } = division;
  const total = split ? 'total' : 'c';
  const loadSource = (i: number): string =>
    [
      `        let e${i} = u32(x${i}) + u * sourcePitch + q;`,
      `let a${i} = select(vec4f(), loadSource(line${i}, e${i}), e${i} < limit${i});`,
    ].join(' ');
  return defineKernel({
    name: nameOf(options),
    workgroup: [lanes],
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
${lines(pixels, (i) => `  let m${i} = min(r0 + ${lanes * i}u + lane, M - 1u);${sourceOrigin(i)}`)}
${lines(vectors, (j) => `  let column${j} = weightsBase + min(${column(j)}, p.N4 - 1u);`)}
${narrow ? placeWeights(options, division) : ''}
${lines(results, (r) => lines(vectors, (j) => `  var ${total}${r}_${j} = vec4f();`))}
  var k = firstRow;
  for (var t = 0u; t < tapsY; t++) {${lines(pixels, (i) => sourceLine(i, textures))}
${split ? lines(results, (r) => lines(vectors, (j) => `    var c${r}_${j} = vec4f();`)) : ''}
    for (var u = 0u; u < outer; u++) {
      for (var q = 0u; q < inner; q++) {
${lines(pixels, loadSource)}
${loadWeights(options, division)}
        k += 4u;
${products(options, division)}
      }
    }
${split ? lines(results, (r) => lines(vectors, (j) => `    total${r}_${j} += c${r}_${j};`)) : ''}
  }
${lines(vectors, (j) => `  ${columnOperands(epilogue, j, (buffer) => `${buffer}[column${j}]`)}`)}
  ${resultsArray(
    lanes,
    'vec4f',
    range(results).flatMap((r) => range(vectors).map((j) => `${total}${r}_${j}`)),
  )}
  ${stores(options, division)}`,
  });
});
