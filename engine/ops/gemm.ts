/**
 * Launches matrix products, with the variant that gemm-variants.ts picks. Ops on matrices use `gemm`, which has no
 * gradient of its own.
 */
import { linearGrid } from '../../kernels/kernel.ts';
import { K_ALIGNMENT } from '../../kernels/matmul.ts';
import type { TensorDevice } from '../core/tensor.ts';
import { epilogueOperands, gemmLayout, type Gemm } from './gemm-problem.ts';
import {
  blockShift,
  chooseGemm,
  gemmKernel,
  textureOperands,
  tilesOf,
  usesSubgroups,
  type GemmVariant,
} from './gemm-variants.ts';
import { columnSums, sumSlices } from './matmul-sums.ts';
import { textureOperand } from './operand-textures.ts';

/** The params of the kernels that do not depend on where operands are read from. */
function paramsOf(device: TensorDevice, problem: Gemm, { size, slices, precision }: GemmVariant) {
  const { transposeA, transposeB, m, n, k, batch = 1 } = problem;
  const { access, widthA, widthB } = gemmLayout(problem);
  const tile = tilesOf(device, access, precision, problem)[size]!;
  const rowTiles = Math.ceil(m / tile.rows);
  const columnTiles = Math.ceil(n / tile.columns);
  return {
    m,
    n,
    k,
    rowTiles,
    columnTiles,
    groups: rowTiles * columnTiles * batch * slices,
    batch,
    widthA,
    widthB,
    sliceK: Math.ceil(k / slices / K_ALIGNMENT) * K_ALIGNMENT,
    linesA: problem.sharedA ? 0 : transposeA ? k : m,
    linesB: problem.sharedB ? 0 : transposeB ? n : k,
  };
}

/**
 * output = op(A) op(B), by batch entry or summed over them, with an epilogue.
 *
 * @param variant how to compute it; chosen unless given (gemm-variants.ts)
 */
export function gemm(device: TensorDevice, problem: Gemm, variant?: GemmVariant): void {
  const { a, b, output, transposeB, m, n, batch = 1, sumBatch = false, sumsOfA } = problem;
  if (m === 0 || n === 0 || (batch === 0 && !sumBatch)) {
    if (sumsOfA) columnSums(device, a, null, sumsOfA);
    return;
  }
  const { access, wideRows } = gemmLayout(problem);
  const { epilogue, buffers } = epilogueOperands(problem);
  const chosen = variant ?? chooseGemm(device, problem, gemm);
  const { slices, precision } = chosen;
  const textures = chosen.textures ? textureOperands(problem) : null;
  const matrices = batch * slices;
  const summed = slices > 1 || (sumBatch && batch !== 1);
  const sums = sumsOfA && usesSubgroups(device, precision) && !summed && access !== 'scalar' ? sumsOfA : null;
  if (sumsOfA && !sums) columnSums(device, a, null, sumsOfA);
  // With operands in textures, the residual is read from a texture too. Often it is in one already, as the operand of
  // an earlier product.
  const residual =
    textures && !summed && (!transposeB || wideRows) && problem.residual
      ? textureOperand(problem.residual, m * batch, n / 4)
      : null;
  const kernel = gemmKernel(device, problem, chosen, {
    access: textures?.access ?? access,
    epilogue: summed ? '' : epilogue,
    sums: sums !== null,
    residualTexture: residual !== null,
  });
  const params = paramsOf(device, problem, chosen);
  const grid = linearGrid(params.groups);
  const product = summed ? device.empty([matrices, m, n]) : output;
  const rest = { output: product, ...(summed ? {} : buffers), ...(sums && { sums_: sums }) };
  if (textures) {
    const residualPlace = residual && {
      shiftResidual: blockShift(residual.layout),
      pitchResidual: residual.layout.pitch,
    };
    device.withTextures(
      [...textures.operands, ...(residual ? [residual] : [])],
      ([textureA, textureB, residualTexture]) =>
        device.run(
          kernel,
          { ...params, ...textures.params, ...residualPlace },
          { a: textureA, b: textureB, ...rest, ...(residual && { residual: residualTexture }) },
          grid,
        ),
    );
  } else {
    device.run(kernel, params, { a, b, ...rest }, grid);
  }
  if (summed) sumSlices(device, { partial: product, output, slices: sumBatch ? matrices : slices, n }, problem);
}
