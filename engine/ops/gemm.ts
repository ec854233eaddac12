/** Launches matrix products, as the variant that gemm-variants.ts picks for a problem's sizes and the device. What ops on matrices are written with; records nothing. */
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import { K_ALIGNMENT, SUBGROUP_TILES, columnSumsKernel, subgroupMatmulKernel, sumSlicesKernel, type Epilogue } from '../../kernels/matmul.ts';
import { tiledMatmulKernel } from '../../kernels/matmul-tiled.ts';
import type { Device } from '../device.ts';
import { sizeOf, type Shape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import type { TextureLayout } from '../textures.ts';
import { chooseGemm, layoutOf, textureOperands, tilesOf, type GemmVariant } from './gemm-variants.ts';

export interface Gemm {
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
  /** [N], added to every row. */
  readonly bias?: Tensor | null;
  readonly relu?: boolean;
}

/** output = op(A) op(B), by batch entry or summed over them, with bias and ReLU if asked for. `variant`: how, where that is not to be chosen (gemm-variants.ts). */
export function gemm(device: Device, problem: Gemm, variant?: GemmVariant): void {
  const { a, b, output, transposeA, transposeB, m, n, k, batch = 1, sumBatch = false, bias = null, relu = false } = problem;
  if (m === 0 || n === 0 || (batch === 0 && !sumBatch)) return;
  const { form, access, widthA, widthB } = layoutOf(problem);
  const epilogue: Epilogue = bias ? (relu ? 'bias_relu' : 'bias') : relu ? 'relu' : 'none';
  const lanes = device.subgroupSize;
  const { size, slices, textures: fromTextures } = variant ?? chooseGemm(device, problem, gemm);
  const subgroups = SUBGROUP_TILES[lanes] !== undefined;
  const tile = tilesOf(device, access)[size]!;
  const textures = fromTextures ? textureOperands(problem) : null;
  const subgroupAccess = textures ? 'texture' : access;
  const matrices = batch * slices;
  const summed = slices > 1 || (sumBatch && batch !== 1);
  const direct = summed ? 'none' : epilogue;
  const kernel: Kernel = subgroups
    ? subgroupMatmulKernel(lanes, form, size, subgroupAccess, direct)
    : tiledMatmulKernel(form, size === 'wide' ? 'large' : size, access, n % 4 === 0, direct);
  const rowTiles = Math.ceil(m / tile.rows), columnTiles = Math.ceil(n / tile.columns);
  const groups = rowTiles * columnTiles * matrices;
  const params = {
    m, n, k, rowTiles, columnTiles, groups, batch, widthA, widthB,
    sliceK: Math.ceil(k / slices / K_ALIGNMENT) * K_ALIGNMENT,
    linesA: problem.sharedA ? 0 : transposeA ? k : m,
    linesB: problem.sharedB ? 0 : transposeB ? n : k,
  };
  const product = summed ? device.empty([matrices, m, n]) : output;
  const rest = { output: product, ...(bias ? { bias } : {}) };
  if (textures) {
    const { a: { layout: layoutA }, b: { layout: layoutB } } = textures;
    const blocks = { shiftA: blockShift(layoutA), pitchA: layoutA.pitch, shiftB: blockShift(layoutB), pitchB: layoutB.pitch };
    device.withTextures([textures.a, textures.b], ([textureA, textureB]) => device.run(kernel, { ...params, ...blocks }, { a: textureA, b: textureB, ...rest }, linearGrid(groups)));
  } else {
    device.run(kernel, params, { a, b, ...rest }, linearGrid(groups));
  }
  if (summed) sumSlices(device, product, output, sumBatch ? matrices : slices, n, epilogue, bias);
}

/** log2 of the lines of a block, where there are several. */
const blockShift = ({ blocks, blockLines }: TextureLayout): number => (blocks === 1 ? 31 : Math.log2(blockLines));

/** output = epilogue(sum over the first axis of `partial`), whose rows have `n` elements. */
function sumSlices(device: Device, partial: Tensor, output: Tensor, slices: number, n: number, epilogue: Epilogue, bias: Tensor | null): void {
  const access = n % 4 === 0 ? 'vec4' : 'scalar';
  const unit = access === 'vec4' ? 4 : 1;
  const count = output.size / unit;
  device.run(sumSlicesKernel(access, epilogue), { count, width: n / unit, slices }, { partial, output, ...(bias ? { bias } : {}) }, linearGrid(Math.ceil(count / 64)));
}

const ROWS_OF_A_BLOCK = 64;
const MOST_BLOCKS = 128;

/**
 * Sums of the columns of `upstream` [..., N]: the gradient of a bias. With `activated`, the output of a ReLU, the gradient is first set to 0 where that is not
 * positive, and `masked` receives it.
 */
export function columnSums(device: Device, upstream: Tensor, relu: { readonly activated: Tensor; readonly masked: Tensor } | null): Tensor {
  const n = upstream.shape[upstream.rank - 1];
  const rows = sizeOf(upstream.shape.slice(0, -1));
  const output = device.empty([n]);
  const access = n % 4 === 0 ? 'vec4' : 'scalar';
  const width = access === 'vec4' ? n / 4 : n;
  const blockRows = Math.max(ROWS_OF_A_BLOCK, Math.ceil(rows / MOST_BLOCKS));
  const blocks = Math.ceil(rows / blockRows);
  const partial = blocks === 1 ? output : device.empty([blocks, n]);
  const columnGroups = Math.ceil(width / 32);
  device.run(columnSumsKernel(access, relu !== null), { rows, width, blockRows, columnGroups },
    { upstream, partial, ...(relu ? { activated: relu.activated, gradient: relu.masked } : {}) }, linearGrid(columnGroups * blocks));
  if (blocks !== 1) sumSlices(device, partial, output, blocks, n, 'none', null);
  return output;
}

/** A tensor's last two dimensions, and the number of matrices that the ones before make. */
export function matrixOf(shape: Shape): { readonly batch: number; readonly rows: number; readonly columns: number } {
  return { batch: sizeOf(shape.slice(0, -2)), rows: shape[shape.length - 2], columns: shape[shape.length - 1] };
}
