/** Launches matrix products: picks kernel, tile and the split of K for a problem's sizes and the device. What ops on matrices are written with; records nothing. */
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import { K_ALIGNMENT, SUBGROUP_TILES, columnSumsKernel, subgroupMatmulKernel, sumSlicesKernel, type Epilogue, type MatmulForm, type MatmulTile, type OperandAccess } from '../../kernels/matmul.ts';
import { WORKGROUP_TILES, tiledMatmulKernel } from '../../kernels/matmul-tiled.ts';
import type { Device } from '../device.ts';
import { sizeOf, type Shape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

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

interface Plan {
  readonly size: 'large' | 'small';
  readonly tile: MatmulTile;
  readonly slices: number;
}

/** Workgroups that keep an adapter busy: a software adapter has a few threads, a GPU some hundred multiprocessors. */
const WANTED_GROUPS = { software: 16, gpu: 256 };
/** Work of a multiply-add in the small tile, relative to the large: fewer uses of every value loaded. */
const SMALL_TILE_COST = 1.4;
/** A slice of K shorter than this is not worth storing its partial products. */
const SHORTEST_SLICE = 256;

/** The least padded work, counted as if a device that is not kept busy ran that much longer. */
function plan(tiles: Readonly<Record<'large' | 'small', MatmulTile>>, sizes: readonly ('large' | 'small')[], wanted: number, { m, n, k, batch }: { m: number; n: number; k: number; batch: number }): Plan {
  const candidates = sizes.map((size) => {
    const tile = tiles[size];
    const groups = Math.ceil(m / tile.rows) * Math.ceil(n / tile.columns) * batch;
    const slices = Math.max(1, Math.min(Math.ceil(wanted / groups), Math.floor(k / SHORTEST_SLICE)));
    const idle = Math.max(1, wanted / (groups * slices));
    return { size, tile, slices, cost: groups * tile.rows * tile.columns * idle * (size === 'small' ? SMALL_TILE_COST : 1) };
  });
  return candidates.reduce((best, candidate) => (candidate.cost < best.cost ? candidate : best));
}

/** output = op(A) op(B), by batch entry or summed over them, with bias and ReLU if asked for. */
export function gemm(device: Device, problem: Gemm): void {
  const { a, b, output, transposeA, transposeB, m, n, k, batch = 1, sumBatch = false, bias = null, relu = false } = problem;
  if (m === 0 || n === 0 || (batch === 0 && !sumBatch)) return;
  const form = `${transposeA ? 't' : 'n'}${transposeB ? 't' : 'n'}` as MatmulForm;
  const epilogue: Epilogue = bias ? (relu ? 'bias_relu' : 'bias') : relu ? 'relu' : 'none';
  const widthA = transposeA ? m : k, widthB = transposeB ? k : n;
  const access: OperandAccess = widthA % 4 === 0 && widthB % 4 === 0 ? 'vec4' : 'scalar';
  const lanes = device.subgroupSize;
  const subgroupTiles = SUBGROUP_TILES[lanes];
  const { size, tile, slices } = subgroupTiles
    ? plan(subgroupTiles, access === 'scalar' ? ['small'] : ['large', 'small'], WANTED_GROUPS.software, { m, n, k, batch })
    : plan(WORKGROUP_TILES, ['large', 'small'], WANTED_GROUPS.gpu, { m, n, k, batch });
  const matrices = batch * slices;
  const summed = slices > 1 || (sumBatch && batch !== 1);
  const direct = summed ? 'none' : epilogue;
  const kernel: Kernel = subgroupTiles
    ? subgroupMatmulKernel(lanes, form, size, access, direct)
    : tiledMatmulKernel(form, size, access, n % 4 === 0, direct);
  const rowTiles = Math.ceil(m / tile.rows), columnTiles = Math.ceil(n / tile.columns);
  const groups = rowTiles * columnTiles * matrices;
  const params = {
    m, n, k, rowTiles, columnTiles, groups, batch, widthA, widthB,
    sliceK: Math.ceil(k / slices / K_ALIGNMENT) * K_ALIGNMENT,
    linesA: problem.sharedA ? 0 : transposeA ? k : m,
    linesB: problem.sharedB ? 0 : transposeB ? n : k,
  };
  const product = summed ? device.empty([matrices, m, n]) : output;
  device.run(kernel, params, { a, b, output: product, ...(bias ? { bias } : {}) }, linearGrid(groups));
  if (summed) sumSlices(device, product, output, sumBatch ? matrices : slices, n, epilogue, bias);
}

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
