/** The products of dynamic interaction, the ways to compute them, and which one to take: kernel and tile of each, and for all of a pass where their operands are read from. */
import {
  type INTERACTION_PARAMS,
  interactionTile,
  LANE_TILE,
  PLAIN_LANES,
  plainInteractionKernel,
  readsVectors,
  subgroupInteractionKernel,
  wholeTile,
  type InteractionForm,
} from '../../../kernels/dynamic-interaction.ts';
import { linearGrid } from '../../../kernels/kernel.ts';
import type { Tensor, TensorDevice } from '../../core/tensor.ts';
import { hasLinearOperand, prefersTextures, withLinearCopies, type LinearCopy } from '../operand-textures.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../../tuning/problem.ts';
import { roundingOf } from '../rounding.ts';

/** A matrix in memory, and its copy in a linear operand texture where products may read it from there. */
export interface Operand {
  readonly matrix: Tensor;
  readonly copy: LinearCopy | null;
}

interface ProductSizes {
  readonly form: InteractionForm;
  readonly proposals: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** A product for each proposal; `stride` (elements from one proposal to the next) and `start` are those of a matrix of its own unless given. */
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
  /** Whether a subgroup computes a tile; otherwise a lane does. */
  readonly subgroups: boolean;
  readonly rows: number;
  readonly columns: number;
}

const ofLanes: ProductVariant = { subgroups: false, ...LANE_TILE };

/** Whether a variant reads from textures, which have the operands if `copied`. */
const readsTextures = (lanes: number, form: InteractionForm, copied: boolean, tile: ProductVariant): boolean =>
  copied && tile.subgroups && readsVectors(lanes, form, tile);

/** Computes a product as its tuned variant says, or the expected one. */
export function multiply(device: TensorDevice, product: Product): void {
  const { form, proposals, m, n, k, a, b } = product;
  const copied = a.copy !== null && b.copy !== null;
  multiplyWith(
    device,
    product,
    device.tuner.choose(
      'interaction-product',
      `${form} ${proposals} of ${m}x${n}x${k}${copied ? ' in textures' : ''}`,
      () => describeProduct(device, { form, proposals, m, n, k }, copied),
    ),
  );
}

function multiplyWith(
  device: TensorDevice,
  { form, proposals, m, n, k, a, b, c, strideB = n * k, startB = 0, strideC = m * n, startC = 0 }: Product,
  variant: ProductVariant,
): void {
  const lanes = device.subgroupSize,
    { rows, columns } = variant;
  const rowTiles = Math.ceil(m / rows),
    columnTiles = Math.ceil(n / columns);
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
  if (!variant.subgroups) {
    device.run(
      plainInteractionKernel(form),
      params,
      { a: a.matrix, b: b.matrix, c },
      linearGrid(Math.ceil(groups / PLAIN_LANES)),
    );
  } else if (a.copy && b.copy && readsTextures(lanes, form, true, variant)) {
    device.run(
      subgroupInteractionKernel(lanes, form, rows, columns, true),
      { ...params, aShift: a.copy.shift, bShift: b.copy.shift },
      { a: a.copy.texture, b: b.copy.texture, c },
      linearGrid(groups),
    );
  } else {
    device.run(
      subgroupInteractionKernel(lanes, form, rows, columns, false),
      params,
      { a: a.matrix, b: b.matrix, c },
      linearGrid(groups),
    );
  }
}

/** Sums that a lane may keep, of a tile: as many as the largest expected one has. */
const MAX_SUMS = 56 * 64;
/** Columns of tiles that the tuner tries. */
const NARROWEST = 16,
  WIDEST = 64;

/** The expected tile and its neighbours: half and twice as wide, as high as 16, 32, or all rows of one up to 56; a lane a block. */
function tilesOf(lanes: number, { form, m, n }: ProductSizes): { expected: ProductVariant; others: ProductVariant[] } {
  const tile = interactionTile(lanes, form, m, n);
  if (!tile) return { expected: ofLanes, others: [] };
  const heights = m <= 16 ? [16] : m > 32 && m <= 56 ? [16, 32, wholeTile(lanes, form, m)] : [16, 32];
  const widths = [tile.columns / 2, tile.columns, tile.columns * 2].filter(
    (columns) => columns >= NARROWEST && columns <= WIDEST && columns < 2 * n && columns % lanes === 0,
  );
  const others = [
    ...heights.map((rows) => ({ rows, columns: tile.columns })),
    ...widths.map((columns) => ({ rows: tile.rows, columns })),
  ].filter(({ rows, columns }) => rows * columns <= MAX_SUMS);
  return {
    expected: { subgroups: true, ...tile },
    others: [...others.map((other) => ({ subgroups: true, ...other })), ofLanes],
  };
}

/** Operands are matrices of their own here: where they begin within a proposal's row is no matter of speed. */
function describeProduct(device: TensorDevice, sizes: ProductSizes, copied: boolean): TuningProblem<ProductVariant> {
  const { form, proposals, m, n, k } = sizes;
  const lanes = device.subgroupSize;
  const candidate = (variant: ProductVariant): Candidate<ProductVariant> => {
    const textures = readsTextures(lanes, form, copied, variant),
      { subgroups, rows, columns } = variant;
    return {
      name: subgroups ? `${textures ? 'texture' : 'buffer'} ${rows}x${columns}` : 'a lane a block',
      variant,
      tolerance: roundingOf(k),
      kernels: () => [
        subgroups ? subgroupInteractionKernel(lanes, form, rows, columns, textures) : plainInteractionKernel(form),
      ],
    };
  };
  const { expected, others } = tilesOf(lanes, sizes);
  return {
    expected: candidate(expected),
    candidates: worthMeasuring((proposals * m * n * k) / 16) ? others.map(candidate) : [],
    plain: ofLanes,
    tensors: { a: [proposals, m * k], b: [proposals, n * k], c: [proposals, m * n] },
    output: 'c',
    run: (variant, { a, b, c }) =>
      withCopies(device, copied, [a, b], ([first, second]) =>
        multiplyWith(device, { ...sizes, a: first, b: second, c }, variant),
      ),
  };
}

/** Runs `body` with matrices as operands, copied into textures if `textures` and where they fit. */
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

/** What decides where the products of a pass read from: R proposals of P positions, d and k. */
export interface InteractionSizes {
  readonly proposals: number;
  readonly positions: number;
  readonly d: number;
  readonly k: number;
}

/** What copying a value costs, in multiply-adds gained by reading from textures: measured on lavapipe. */
const WORTH_A_COPY = 12;

/** Whether the products are expected to be large enough for their operands to be copied into textures: `d` and `k` decide how often a value is used, at P positions. */
function expectsTextures(device: TensorDevice, { positions, d, k }: InteractionSizes): boolean {
  if (!prefersTextures(device)) return false;
  const tile = interactionTile(device.subgroupSize, 'nn', positions, Math.min(d, k));
  if (!tile || !readsVectors(device.subgroupSize, 'nn', tile)) return device.force.operands === 'texture';
  return (
    device.force.operands === 'texture' || 2 * positions * d * k > WORTH_A_COPY * (positions * (d + k) + 2 * d * k)
  );
}

/** What an op says of a pass where its sizes have not been seen before. */
export type InteractionProblem = Pick<TuningProblem<boolean>, 'tensors' | 'output' | 'run'>;

/** Whether the products of a pass read from textures: as tuned, or as expected. What `describe` gives must hold no tensors. */
export function chooseOperands(
  device: TensorDevice,
  family: string,
  sizes: InteractionSizes,
  describe: (device: TensorDevice, sizes: InteractionSizes) => InteractionProblem,
): boolean {
  const { proposals, positions, d, k } = sizes;
  return device.tuner.choose(family, `${proposals}x${positions}x${d}x${k}`, () =>
    describeOperands(device, sizes, describe(device, sizes)),
  );
}

function describeOperands(
  device: TensorDevice,
  sizes: InteractionSizes,
  problem: InteractionProblem,
): TuningProblem<boolean> {
  const { proposals, positions, d, k } = sizes;
  // The products' tiles are classes of their own; these kernels stand for those that read from either.
  const tile = interactionTile(device.subgroupSize, 'nn', positions, k);
  const candidate = (textures: boolean): Candidate<boolean> => ({
    name: textures ? 'texture' : 'buffer',
    variant: textures,
    tolerance: roundingOf(Math.max(d, positions)),
    kernels: () => [
      tile
        ? subgroupInteractionKernel(
            device.subgroupSize,
            'nn',
            tile.rows,
            tile.columns,
            textures && readsVectors(device.subgroupSize, 'nn', tile),
          )
        : plainInteractionKernel('nn'),
    ],
  });
  const possible = tile !== null && device.operandTextures && hasLinearOperand(device, [proposals, 2 * d * k]);
  return {
    expected: candidate(expectsTextures(device, sizes)),
    candidates:
      possible && worthMeasuring((proposals * positions * d * k) / 8) ? [candidate(false), candidate(true)] : [],
    plain: false,
    ...problem,
  };
}
