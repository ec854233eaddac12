/** Sums around matrix products: of the slices of a split K, and of a matrix's columns (the gradient of a bias). */
import { linearGrid } from '../../kernels/kernel.ts';
import { columnSumsKernel, sumSlicesKernel } from '../../kernels/matmul-sums.ts';
import { elementwise } from '../core/elementwise.ts';
import { sizeOf } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { epilogueOperands, type EpilogueOperands } from './gemm-problem.ts';

/** Partial sums to add up. */
export interface Slices {
  /** [slices, ...output]. */
  readonly partial: Tensor;
  readonly output: Tensor;
  readonly slices: number;
  /** Elements of a row of the output. */
  readonly n: number;
}

/** output = epilogue(sum over the first axis of `partial`). */
export function sumSlices(
  device: TensorDevice,
  { partial, output, slices, n }: Slices,
  operands: EpilogueOperands = {},
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

const MIN_BLOCK_ROWS = 64;
/** Up to this many rows are one block, because a second dispatch to add up blocks would take longer. */
const MAX_ROWS_IN_ONE_BLOCK = 256;
const MAX_BLOCKS = 128;

/** The output of a ReLU, and the tensor that receives the gradient before it. */
export interface MaskedColumns {
  readonly activated: Tensor;
  readonly masked: Tensor;
}

/**
 * Sums of the columns of `upstream` [..., N]: the gradient of a bias. With `relu` the gradient is first set to 0 where
 * `relu.activated` is not positive, and `relu.masked` receives it.
 *
 * @param output [N], receives the sums; allocated unless given
 */
export function columnSums(
  device: TensorDevice,
  upstream: Tensor,
  relu: MaskedColumns | null,
  output: Tensor = device.empty([upstream.shape[upstream.rank - 1]]),
): Tensor {
  const n = upstream.shape[upstream.rank - 1];
  const rows = sizeOf(upstream.shape.slice(0, -1));
  const access = n % 4 === 0 ? 'vec4' : 'scalar';
  const width = access === 'vec4' ? n / 4 : n;
  const blockRows =
    rows <= MAX_ROWS_IN_ONE_BLOCK ? MAX_ROWS_IN_ONE_BLOCK : Math.max(MIN_BLOCK_ROWS, Math.ceil(rows / MAX_BLOCKS));
  const blocks = Math.ceil(rows / blockRows);
  const partial = blocks === 1 ? output : device.empty([blocks, n]);
  const columnGroups = Math.ceil(width / 32);
  device.run(
    columnSumsKernel(access, relu !== null),
    { rows, width, blockRows, columnGroups },
    { upstream, partial, ...(relu ? { activated: relu.activated, gradient: relu.masked } : {}) },
    linearGrid(columnGroups * blocks),
  );
  if (blocks !== 1) sumSlices(device, { partial, output, slices: blocks, n });
  return output;
}
