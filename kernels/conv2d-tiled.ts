/**
 * Convolution through workgroup memory, for adapters without small subgroups (GPUs). See conv2d.ts for the names.
 * Operands in workgroup memory are f32, or rounded to f16.
 */
import {
  CONV_OPERANDS,
  CONV_PARAMS,
  convFlops,
  convLoads,
  convTile,
  sourceLine,
  sourceOrigin,
  TARGET_PIXEL,
} from './conv2d.ts';
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, kernelFamily } from './kernel.ts';
import { STAGING, type StagedPrecision } from './matmul-tiled.ts';
import { lines } from './repeat.ts';

/** Vec4s along K that a tile in workgroup memory holds. */
const DEPTH4 = 4;

/** A workgroup computes a tile of `tile` pixels by `tile` channels. Each invocation computes 4 x 4 of these outputs. */
export const convTiledKernel = kernelFamily((tile: number, precision: StagedPrecision, epilogue: Epilogue) => {
  const { vector, module, store, load } = STAGING[precision];
  const side = tile / 4;
  const lanes = side * side;
  const share = (tile * DEPTH4) / lanes;
  const sourceValue = (i: number): string =>
    store(`select(vec4f(), loadSource(line${i}, e), e < limit${i} && q < inner)`);
  const placePixel = (i: number): string =>
    `  let m${i} = min(r0 + lane / ${DEPTH4}u + ${i * (lanes / DEPTH4)}u, M - 1u);${sourceOrigin(i)}`;
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
${lines(share, placePixel)}
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
          tileA[lane + ${i * lanes}u] = ${sourceValue(i)};
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
      target_[at] = ${withEpilogue(epilogue, { sum: 'results[r]', residual: 'residual[at]' })};
    }
  }`,
  });
});
