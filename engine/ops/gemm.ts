/** Launches matrix products, as the variant that gemm-variants.ts picks for a problem's sizes and the device. What ops on matrices are written with; records nothing. */
import { epilogueOf, type Epilogue } from '../../kernels/epilogue.ts';
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import { K_ALIGNMENT, columnSumsKernel, subgroupMatmulKernel, sumSlicesKernel } from '../../kernels/matmul.ts';
import { tiledMatmulKernel } from '../../kernels/matmul-tiled.ts';
import { sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { textureOperand } from './operand-textures.ts';
import { elementwise } from '../core/elementwise.ts';
import {
  blockShift,
  chooseGemm,
  layoutOf,
  readBySubgroups,
  textureOperands,
  tilesOf,
  type GemmVariant,
} from './gemm-variants.ts';

/** What is done to a product before it is stored: act(sum * scale + bias + residual). */
export interface EpilogueOperands {
  /** [N], times every row. */
  readonly scale?: Tensor | null;
  /** [N], added to every row. */
  readonly bias?: Tensor | null;
  /** Of the output's shape. */
  readonly residual?: Tensor | null;
  readonly relu?: boolean;
}

/** The epilogue's form and the buffers that its kernels read. */
export function epilogueOperands({ scale = null, bias = null, residual = null, relu = false }: EpilogueOperands): {
  epilogue: Epilogue;
  buffers: Readonly<Record<string, Tensor>>;
} {
  return {
    epilogue: epilogueOf({ scale: scale !== null, bias: bias !== null, residual: residual !== null, relu }),
    buffers: { ...(scale && { scale }), ...(bias && { bias }), ...(residual && { residual }) },
  };
}

export interface Gemm extends EpilogueOperands {
  /** [M, K], or [K, M] with `transposeA`; with batch entries below each other unless `sharedA`. */
  readonly a: Tensor;
  readonly transposeA: boolean;
  readonly sharedA?: boolean;
  /** [K, N], or [N, K] with `transposeB`. */
  readonly b: Tensor;
  readonly transposeB: boolean;
  readonly sharedB?: boolean;
  /** [batch, M, N], or [M, N] with `sumBatch`. */
  readonly output: Tensor;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch?: number;
  /** Adds up the products of all batch entries. */
  readonly sumBatch?: boolean;
  /** [M], receives the sums of op(A) over K; for A transposed and one matrix. */
  readonly sumsOfA?: Tensor | null;
  /** Operands may be rounded to f16 (see `DeviceOptions.halfPrecision`). */
  readonly half?: boolean;
}

/** output = op(A) op(B), by batch entry or summed over them, through the epilogue asked for. `variant`: how, where that is not to be chosen (gemm-variants.ts). */
export function gemm(device: TensorDevice, problem: Gemm, variant?: GemmVariant): void {
  const { a, b, output, transposeA, transposeB, m, n, k, batch = 1, sumBatch = false, sumsOfA } = problem;
  if (m === 0 || n === 0 || (batch === 0 && !sumBatch)) {
    if (sumsOfA) columnSums(device, a, null, sumsOfA);
    return;
  }
  const { form, access, widthA, widthB, wideRows } = layoutOf(problem);
  const { epilogue, buffers } = epilogueOperands(problem);
  const lanes = device.subgroupSize;
  const { size, slices, textures: fromTextures, precision } = variant ?? chooseGemm(device, problem, gemm);
  const subgroups = readBySubgroups(device, precision);
  const tile = tilesOf(device, access, precision, problem)[size]!;
  const textures = fromTextures ? textureOperands(problem) : null;
  const subgroupAccess = textures?.access ?? access;
  const matrices = batch * slices;
  const summed = slices > 1 || (sumBatch && batch !== 1);
  const direct = summed ? '' : epilogue;
  const sums = sumsOfA && subgroups && !summed && access !== 'scalar' ? sumsOfA : null;
  if (sumsOfA && !sums) columnSums(device, a, null, sumsOfA);
  // Where operands are read from textures, the residual is as well: often it lies in one, being the operand of an earlier product.
  const residual =
    textures && !summed && (!transposeB || wideRows) && problem.residual
      ? textureOperand(problem.residual, m * batch, n / 4)
      : null;
  const kernel: Kernel = subgroups
    ? subgroupMatmulKernel(
        lanes,
        form,
        tile.rows,
        tile.columns,
        subgroupAccess,
        direct,
        sums !== null,
        wideRows,
        residual !== null,
      )
    : tiledMatmulKernel(form, size === 'small' ? size : 'large', access, precision, n % 4 === 0, direct);
  const rowTiles = Math.ceil(m / tile.rows),
    columnTiles = Math.ceil(n / tile.columns);
  const groups = rowTiles * columnTiles * matrices;
  const params = {
    m,
    n,
    k,
    rowTiles,
    columnTiles,
    groups,
    batch,
    widthA,
    widthB,
    sliceK: Math.ceil(k / slices / K_ALIGNMENT) * K_ALIGNMENT,
    linesA: problem.sharedA ? 0 : transposeA ? k : m,
    linesB: problem.sharedB ? 0 : transposeB ? n : k,
  };
  const product = summed ? device.empty([matrices, m, n]) : output;
  const rest = { output: product, ...(summed ? {} : buffers), ...(sums && { sums_: sums }) };
  if (textures) {
    const located = {
      ...params,
      ...textures.params,
      ...(residual && { shiftResidual: blockShift(residual.layout), pitchResidual: residual.layout.pitch }),
    };
    device.withTextures(
      [...textures.operands, ...(residual ? [residual] : [])],
      ([textureA, textureB, textureOfResidual]) =>
        device.run(
          kernel,
          located,
          { a: textureA, b: textureB, ...rest, ...(residual && { residual: textureOfResidual }) },
          linearGrid(groups),
        ),
    );
  } else {
    device.run(kernel, params, { a, b, ...rest }, linearGrid(groups));
  }
  if (summed) sumSlices(device, product, output, sumBatch ? matrices : slices, n, problem);
}

/** output = epilogue(sum over the first axis of `partial`), whose rows have `n` elements. */
function sumSlices(
  device: TensorDevice,
  partial: Tensor,
  output: Tensor,
  slices: number,
  n: number,
  operands: EpilogueOperands,
): void {
  const access = n % 4 === 0 ? 'vec4' : 'scalar';
  const unit = access === 'vec4' ? 4 : 1;
  const count = output.size / unit;
  const { epilogue, buffers } = epilogueOperands(operands);
  const { lanes, grid } = elementwise(device, count);
  device.run(
    sumSlicesKernel(access, epilogue, lanes),
    { count, width: n / unit, slices },
    { partial, output, ...buffers },
    grid,
  );
}

const ROWS_OF_A_BLOCK = 64;
/** As many rows are one block: another dispatch to add up blocks would take longer. */
const ROWS_AT_ONCE = 256;
const MAX_BLOCKS = 128;

/**
 * Sums of the columns of `upstream` [..., N]: the gradient of a bias. With `activated`, the output of a ReLU, the gradient is first set to 0 where that is not
 * positive, and `masked` receives it. Written to `output` where that is given.
 */
export function columnSums(
  device: TensorDevice,
  upstream: Tensor,
  relu: { readonly activated: Tensor; readonly masked: Tensor } | null,
  output: Tensor = device.empty([upstream.shape[upstream.rank - 1]]),
): Tensor {
  const n = upstream.shape[upstream.rank - 1];
  const rows = sizeOf(upstream.shape.slice(0, -1));
  const access = n % 4 === 0 ? 'vec4' : 'scalar';
  const width = access === 'vec4' ? n / 4 : n;
  const blockRows = rows <= ROWS_AT_ONCE ? ROWS_AT_ONCE : Math.max(ROWS_OF_A_BLOCK, Math.ceil(rows / MAX_BLOCKS));
  const blocks = Math.ceil(rows / blockRows);
  const partial = blocks === 1 ? output : device.empty([blocks, n]);
  const columnGroups = Math.ceil(width / 32);
  device.run(
    columnSumsKernel(access, relu !== null),
    { rows, width, blockRows, columnGroups },
    { upstream, partial, ...(relu ? { activated: relu.activated, gradient: relu.masked } : {}) },
    linearGrid(columnGroups * blocks),
  );
  if (blocks !== 1) sumSlices(device, partial, output, blocks, n, {});
  return output;
}

/** A tensor's last two dimensions, and the number of matrices that the ones before make. */
export function matrixOf(shape: Shape): { readonly batch: number; readonly rows: number; readonly columns: number } {
  return { batch: sizeOf(shape.slice(0, -2)), rows: shape[shape.length - 2], columns: shape[shape.length - 1] };
}
