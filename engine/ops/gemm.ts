/** Launches matrix products: picks kernel, tile and the split of K for a problem's sizes and the device. What ops on matrices are written with; records nothing. */
import { epilogueOf, type Epilogue } from '../../kernels/epilogue.ts';
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import { K_ALIGNMENT, SUBGROUP_TILES, columnSumsKernel, subgroupMatmulKernel, sumSlicesKernel, type MatmulForm, type MatmulTile, type OperandAccess, type TileSize } from '../../kernels/matmul.ts';
import { WORKGROUP_TILES, tiledMatmulKernel } from '../../kernels/matmul-tiled.ts';
import type { Device } from '../device.ts';
import { sizeOf, type Shape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { linearOperand, prefersTextures, textureOperand, type TextureLayout, type TextureOperand } from '../textures.ts';

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
export function epilogueOperands({ scale = null, bias = null, residual = null, relu = false }: EpilogueOperands): { epilogue: Epilogue; buffers: Readonly<Record<string, Tensor>> } {
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
}

interface Plan {
  readonly size: TileSize;
  readonly tile: MatmulTile;
  readonly slices: number;
  /** Multiply-adds of the best tile, for each k. */
  readonly cost: number;
}

/** Workgroups that keep an adapter busy: a software adapter has a few threads, a GPU some hundred multiprocessors. */
const WANTED_GROUPS = { software: 16, gpu: 256 };
/** Work of a multiply-add by tile and access, relative to the best: a smaller tile uses every loaded value less, a larger one spills registers. */
const TILE_COST: Readonly<Record<OperandAccess | 'texture', Readonly<Record<TileSize, number>>>> = {
  vec4: { wide: 2.2, large: 1.6, small: 2 },
  texture: { wide: 1, large: 1.05, small: 1.25 },
  scalar: { wide: 2.2, large: 1.6, small: 2 },
};
/** A^T B reads both operands along their lines: from buffers it takes so much less than the other forms. */
const CONTIGUOUS_READS = 0.7;
/** What copying an element of an operand into a texture costs, in multiply-adds of the best tile. */
const COPY_COST = 14;
/** A slice of K shorter than this is not worth storing its partial products. */
const SHORTEST_SLICE = 256;
/** Longer sums are split whatever the device, because a sum of sums rounds less than one long chain of additions. */
const LONGEST_CHAIN = 1024;
/** As far as the partial products of such a split take no more than this. */
const PARTIAL_BYTES = 64 * 2 ** 20;

/** The least padded work, counted as if a device that is not kept busy ran that much longer. */
function plan(tiles: Readonly<Partial<Record<TileSize, MatmulTile>>>, costs: Readonly<Record<TileSize, number>>, wanted: number, { m, n, k, batch }: { m: number; n: number; k: number; batch: number }): Plan {
  const chains = Math.min(Math.ceil(k / LONGEST_CHAIN), Math.floor(PARTIAL_BYTES / (4 * m * n * batch)));
  const candidates = (Object.keys(tiles) as TileSize[]).flatMap((size) => {
    const tile = tiles[size];
    if (!tile) return [];
    const groups = Math.ceil(m / tile.rows) * Math.ceil(n / tile.columns) * batch;
    const slices = Math.max(chains, Math.min(Math.ceil(wanted / groups), Math.floor(k / SHORTEST_SLICE)), 1);
    const idle = Math.max(1, wanted / (groups * slices));
    return [{ size, tile, slices, cost: groups * tile.rows * tile.columns * idle * costs[size] }];
  });
  return candidates.reduce((best, candidate) => (candidate.cost < best.cost ? candidate : best));
}

/** Two copies are worth so many multiply-adds as commands alone. */
const COPIES_COST = 1e6;

/** Both operands as textures, and what the kernel must know of them. */
interface Textures {
  readonly access: 'texture' | 'linear_texture';
  readonly operands: readonly [a: TextureOperand, b: TextureOperand];
  readonly params: Readonly<Record<string, number>>;
}

/** Null where textures are not to be used or an operand does not fit. */
function textureOperands(device: Device, { a, b }: Gemm, widthA: number, widthB: number): Textures | null {
  if (!prefersTextures(device)) return null;
  const lines = [textureOperand(a, a.size / widthA, widthA / 4), textureOperand(b, b.size / widthB, widthB / 4)];
  if (lines[0] && lines[1]) {
    const [{ layout: layoutA }, { layout: layoutB }] = [lines[0], lines[1]];
    return { access: 'texture', operands: [lines[0], lines[1]], params: { shiftA: blockShift(layoutA), pitchA: layoutA.pitch, shiftB: blockShift(layoutB), pitchB: layoutB.pitch } };
  }
  const [linearA, linearB] = [linearOperand(a), linearOperand(b)];
  return linearA && linearB && { access: 'linear_texture', operands: [linearA, linearB], params: { shiftA: linearA.shift, shiftB: linearB.shift } };
}

/** output = op(A) op(B), by batch entry or summed over them, through the epilogue asked for. */
export function gemm(device: Device, problem: Gemm): void {
  const { a, b, output, transposeA, transposeB, m, n, k, batch = 1, sumBatch = false } = problem;
  if (m === 0 || n === 0 || (batch === 0 && !sumBatch)) return;
  const form = `${transposeA ? 't' : 'n'}${transposeB ? 't' : 'n'}` as MatmulForm;
  const { epilogue, buffers } = epilogueOperands(problem);
  const widthA = transposeA ? m : k, widthB = transposeB ? k : n;
  const access: OperandAccess = widthA % 4 === 0 && widthB % 4 === 0 ? 'vec4' : 'scalar';
  const lanes = device.subgroupSize;
  const tiles = SUBGROUP_TILES[lanes];
  const sizes = { m, n, k, batch };
  let textures = tiles && access === 'vec4' ? textureOperands(device, problem, widthA, widthB) : null;
  let chosen = tiles
    ? plan(access === 'scalar' ? { small: tiles.small } : tiles, TILE_COST[access], WANTED_GROUPS.software, sizes)
    : plan(WORKGROUP_TILES, TILE_COST.vec4, WANTED_GROUPS.gpu, sizes);
  if (textures) {
    const copied = plan(tiles, TILE_COST.texture, WANTED_GROUPS.software, sizes);
    const fromBuffers = chosen.cost * k * (form === 'tn' ? CONTIGUOUS_READS : 1);
    if (device.force.operands === 'texture' || copied.cost * k + (a.size + b.size) * COPY_COST + COPIES_COST < fromBuffers) chosen = copied;
    else textures = null;
  }
  const { size, tile, slices } = chosen;
  const subgroupAccess = textures?.access ?? access;
  const matrices = batch * slices;
  const summed = slices > 1 || (sumBatch && batch !== 1);
  const direct = summed ? '' : epilogue;
  const kernel: Kernel = tiles
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
  const rest = { output: product, ...(summed ? {} : buffers) };
  if (textures) {
    const located = { ...params, ...textures.params };
    device.withTextures(textures.operands, ([textureA, textureB]) => device.run(kernel, located, { a: textureA, b: textureB, ...rest }, linearGrid(groups)));
  } else {
    device.run(kernel, params, { a, b, ...rest }, linearGrid(groups));
  }
  if (summed) sumSlices(device, product, output, sumBatch ? matrices : slices, n, problem);
}

/** log2 of the lines of a block, where there are several. */
const blockShift = ({ blocks, blockLines }: TextureLayout): number => (blocks === 1 ? 31 : Math.log2(blockLines));

/** output = epilogue(sum over the first axis of `partial`), whose rows have `n` elements. */
function sumSlices(device: Device, partial: Tensor, output: Tensor, slices: number, n: number, operands: EpilogueOperands): void {
  const access = n % 4 === 0 ? 'vec4' : 'scalar';
  const unit = access === 'vec4' ? 4 : 1;
  const count = output.size / unit;
  const { epilogue, buffers } = epilogueOperands(operands);
  device.run(sumSlicesKernel(access, epilogue), { count, width: n / unit, slices }, { partial, output, ...buffers }, linearGrid(Math.ceil(count / 64)));
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
  if (blocks !== 1) sumSlices(device, partial, output, blocks, n, {});
  return output;
}

/** A tensor's last two dimensions, and the number of matrices that the ones before make. */
export function matrixOf(shape: Shape): { readonly batch: number; readonly rows: number; readonly columns: number } {
  return { batch: sizeOf(shape.slice(0, -2)), rows: shape[shape.length - 2], columns: shape[shape.length - 1] };
}
