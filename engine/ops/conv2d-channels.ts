/** Pads the channels of a convolution's tensors to whole vec4s, and crops them again. */
import { cropChannelsKernel, padChannelsKernel } from '../../kernels/conv2d-layout.ts';
import { itemGrid } from '../../kernels/kernel.ts';
import type { Tensor } from '../core/tensor.ts';
import type { EpilogueOperands } from './gemm-problem.ts';

/** Invocations per workgroup of the kernels around convolutions. */
export const WORKGROUP = 64;

/** A tensor as [outer, rows, groups, columns]. */
interface ChannelLayout {
  /** Default 1. */
  readonly rows?: number;
  /** Default 1. */
  readonly groups?: number;
  readonly columns: number;
  /** Also pads the rows to a multiple of 4; default false. */
  readonly padRows?: boolean;
}

/** A copy with columns padded with zeros to a multiple of 4, or the tensor itself where it needs no padding. */
export function padChannels(input: Tensor, { rows = 1, groups = 1, columns, padRows = false }: ChannelLayout): Tensor {
  const rowsTo = padRows ? Math.ceil(rows / 4) * 4 : rows;
  const columns4To = Math.ceil(columns / 4);
  if (rowsTo === rows && columns4To * 4 === columns) return input;
  const count4 = (input.size / (rows * columns)) * rowsTo * columns4To;
  const output = input.device.empty([count4 * 4]);
  input.device.run(
    padChannelsKernel(groups === 1 && rowsTo === rows),
    { count4, groups, rowsFrom: rows, columnsFrom: columns, rowsTo, columns4To },
    { input, output },
    itemGrid(count4),
  );
  return output;
}

/** Rows and columns of [outer, rows, groups, columns] with padding, and without. */
interface Crop {
  /** Default 1. */
  readonly groups?: number;
  /** Default 1. */
  readonly rowsFrom?: number;
  readonly rowsTo?: number;
  readonly columnsFrom: number;
  readonly columnsTo: number;
}

/** Copies [outer, rowsFrom, groups, columnsFrom] without its padding into `output`, and returns `output`. */
export function cropChannels(
  input: Tensor,
  output: Tensor,
  { groups = 1, rowsFrom = 1, rowsTo = 1, columnsFrom, columnsTo }: Crop,
): Tensor {
  const count = output.size;
  input.device.run(
    cropChannelsKernel(),
    { count, groups, rowsFrom, columnsFrom, rowsTo, columnsTo },
    { input, output },
    itemGrid(count),
  );
  return output;
}

/** The operands of an epilogue, with `columns` channels per group that are padded like those of the target. */
export function padEpilogue(
  { scale, bias, residual, relu }: EpilogueOperands,
  layout: Pick<ChannelLayout, 'groups' | 'columns'>,
): EpilogueOperands {
  const padded = (operand: Tensor | null | undefined): Tensor | null => (operand ? padChannels(operand, layout) : null);
  return { scale: padded(scale), bias: padded(bias), residual: padded(residual), relu };
}
