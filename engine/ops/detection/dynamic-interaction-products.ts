/** Launches the products of dynamic interaction, with the tuned or the expected variant (kernel and tile). */
import {
  type INTERACTION_PARAMS,
  interactionTile,
  LANE_TILE,
  MAX_TILE_ROWS,
  PLAIN_LANES,
  plainInteractionKernel,
  readsVectors,
  subgroupInteractionKernel,
  wholeTile,
  type InteractionForm,
} from '../../../kernels/dynamic-interaction.ts';
import { linearGrid, type Kernel } from '../../../kernels/kernel.ts';
import type { MatmulTile } from '../../../kernels/matmul.ts';
import type { Tensor, TensorDevice } from '../../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../../tuning/problem.ts';
import { withLinearCopies, type LinearCopy } from '../operand-textures.ts';
import { roundingOf } from '../rounding.ts';

/** A matrix in memory, and its copy in a linear operand texture where products may read it from there. */
export interface Operand {
  readonly matrix: Tensor;
  readonly copy: LinearCopy | null;
}

/** Runs `body` with matrices as operands: copied into textures if `textures` and if they fit. */
export function withCopies<T>(
  device: TensorDevice,
  textures: boolean,
  matrices: readonly Tensor[],
  body: (operands: readonly Operand[]) => T,
): T {
  const plain = (): T => body(matrices.map((matrix) => ({ matrix, copy: null })));
  if (!textures) return plain();
  return withLinearCopies(device, matrices, (copies) =>
    copies ? body(matrices.map((matrix, i) => ({ matrix, copy: copies[i] }))) : plain(),
  );
}

interface ProductSizes {
  readonly form: InteractionForm;
  readonly proposals: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/**
 * One product per proposal. `stride` is the distance from one proposal to the next in elements, `start` the offset
 * within a proposal's row. By default, a row holds nothing but the matrix.
 */
interface Product extends ProductSizes {
  readonly a: Operand;
  readonly b: Operand;
  readonly c: Tensor;
  readonly strideB?: number;
  readonly startB?: number;
  readonly strideC?: number;
  readonly startC?: number;
}

interface ProductVariant {
  /** Whether a subgroup computes a tile. Otherwise one invocation does. */
  readonly subgroups: boolean;
  readonly rows: number;
  readonly columns: number;
}

const PLAIN: ProductVariant = { subgroups: false, ...LANE_TILE };
const subgroupVariant = (tile: MatmulTile): ProductVariant => ({ subgroups: true, ...tile });

/** The kernel of a variant. `textures`: both operands are in linear textures, and the variant can read them. */
const productKernel = (
  { subgroupSize: lanes }: TensorDevice,
  form: InteractionForm,
  { subgroups, rows, columns }: ProductVariant,
  textures: boolean,
): Kernel =>
  subgroups ? subgroupInteractionKernel({ lanes, form, rows, columns, textures }) : plainInteractionKernel(form);

/** Whether a variant reads from textures, if its operands are copied there. */
const readsTextures = ({ subgroupSize }: TensorDevice, form: InteractionForm, variant: ProductVariant): boolean =>
  variant.subgroups && readsVectors(subgroupSize, form, variant);

/** Computes a product with its tuned variant, or the expected one. */
export function multiply(device: TensorDevice, product: Product): void {
  const { form, proposals, m, n, k, a, b } = product;
  const copied = a.copy !== null && b.copy !== null;
  const key = `${form} ${proposals} of ${m}x${n}x${k}${copied ? ' in textures' : ''}`;
  const variant = device.tuner.choose('interaction-product', key, () =>
    describeProduct(device, { form, proposals, m, n, k }, copied),
  );
  multiplyWith(device, product, variant);
}

function multiplyWith(
  device: TensorDevice,
  { form, proposals, m, n, k, a, b, c, strideB = n * k, startB = 0, strideC = m * n, startC = 0 }: Product,
  variant: ProductVariant,
): void {
  const rowTiles = Math.ceil(m / variant.rows);
  const columnTiles = Math.ceil(n / variant.columns);
  const groups = proposals * rowTiles * columnTiles;
  const params: Record<keyof typeof INTERACTION_PARAMS, number> = {
    m,
    n,
    k,
    rowTiles,
    columnTiles,
    groups,
    strideA: (m * k) / 4,
    strideB: strideB / 4,
    strideC: strideC / 4,
    startB: startB / 4,
    startC: startC / 4,
  };
  const grid = linearGrid(variant.subgroups ? groups : Math.ceil(groups / PLAIN_LANES));
  if (a.copy && b.copy && readsTextures(device, form, variant)) {
    device.run(
      productKernel(device, form, variant, true),
      { ...params, aShift: a.copy.shift, bShift: b.copy.shift },
      { a: a.copy.texture, b: b.copy.texture, c },
      grid,
    );
  } else {
    device.run(productKernel(device, form, variant, false), params, { a: a.matrix, b: b.matrix, c }, grid);
  }
}

/** Maximum sums of a tile: those of the largest expected tile. */
/** Minimum and maximum columns of the tiles that the tuner tries. */
const MIN_COLUMNS = 16;
const MAX_COLUMNS = 64;
/** Maximum sums of a tile: those of the largest expected tile. */
const MAX_SUMS = MAX_TILE_ROWS * MAX_COLUMNS;

/**
 * The expected variant, and the others that the tuner tries: tiles of half and twice the columns, tiles of 16, 32 or
 * (up to MAX_TILE_ROWS) all rows, and one invocation per block.
 */
function variantsOf(
  { subgroupSize: lanes }: TensorDevice,
  { form, m, n }: ProductSizes,
): { readonly expected: ProductVariant; readonly others: readonly ProductVariant[] } {
  const tile = interactionTile(lanes, form, m, n);
  if (!tile) return { expected: PLAIN, others: [] };
  const heights = m <= 16 ? [16] : m > 32 && m <= MAX_TILE_ROWS ? [16, 32, wholeTile(lanes, form, m)] : [16, 32];
  const widths = [tile.columns / 2, tile.columns, tile.columns * 2].filter(
    (columns) => columns >= MIN_COLUMNS && columns <= MAX_COLUMNS && columns < 2 * n && columns % lanes === 0,
  );
  const others = [
    ...heights.map((rows) => ({ rows, columns: tile.columns })),
    ...widths.map((columns) => ({ rows: tile.rows, columns })),
  ].filter(({ rows, columns }) => rows * columns <= MAX_SUMS);
  return { expected: subgroupVariant(tile), others: [...others.map(subgroupVariant), PLAIN] };
}

/** The tuner's operands fill their rows, because offsets within a proposal's row do not affect speed. */
function describeProduct(device: TensorDevice, sizes: ProductSizes, copied: boolean): TuningProblem<ProductVariant> {
  const { form, proposals, m, n, k } = sizes;
  const candidate = (variant: ProductVariant): Candidate<ProductVariant> => {
    const textures = copied && readsTextures(device, form, variant);
    const { subgroups, rows, columns } = variant;
    return {
      name: subgroups ? `${textures ? 'texture' : 'buffer'} ${rows}x${columns}` : 'one lane per block',
      variant,
      tolerance: roundingOf(k),
      kernels: () => [productKernel(device, form, variant, textures)],
    };
  };
  const { expected, others } = variantsOf(device, sizes);
  return {
    expected: candidate(expected),
    candidates: worthMeasuring((proposals * m * n * k) / 16) ? others.map(candidate) : [],
    plain: PLAIN,
    tensors: { a: [proposals, m * k], b: [proposals, n * k], c: [proposals, m * n] },
    output: 'c',
    run: (variant, { a, b, c }) =>
      withCopies(device, copied, [a, b], ([first, second]) =>
        multiplyWith(device, { ...sizes, a: first, b: second, c }, variant),
      ),
  };
}
