/** Softmax over any axis. */
import {
  MAX_SLOTS, softmaxColumnsGradientKernel, softmaxColumnsKernel, softmaxRowsGradientKernel, softmaxRowsKernel, type Width,
} from '../../kernels/softmax.ts';
import { linearGrid, type Grid } from '../../kernels/kernel.ts';
import { teamOf } from '../../kernels/reduce.ts';
import { defineOp } from '../op.ts';
import { normalizeAxis, shapeError, sizeOf } from '../shape.ts';
import type { Tensor } from '../tensor.ts';

interface SoftmaxAttributes {
  readonly axis: number;
}

interface RowLayout {
  readonly width: Width;
  readonly params: { readonly rows: number; readonly columns: number; readonly per_team: number };
  readonly grid: Grid;
}

/** Whether teams of lanes take rows; very short rows get a lane each, as columns do. */
const byRows = (n: number, inner: number): boolean => inner === 1 && n > 8;

function rowLayout(x: Tensor, n: number): RowLayout {
  const width = n % 4 === 0 ? 4 : 1;
  const rows = n === 0 ? 0 : x.size / n;
  const perTeam = Math.min(16, Math.max(4, Math.ceil(rows / 512)));
  const { count } = teamOf(x.device.subgroupSize);
  return { width, params: { rows, columns: n / width, per_team: perTeam }, grid: linearGrid(Math.ceil(rows / perTeam / count)) };
}

interface ColumnLayout {
  readonly width: Width;
  readonly params: { readonly n: number; readonly inner: number; readonly lanes: number };
  readonly grid: Grid;
}

function columnLayout(outer: number, n: number, inner: number): ColumnLayout {
  const width = inner % 4 === 0 ? 4 : 1;
  const lanes = outer * inner / width;
  return { width, params: { n, inner: inner / width, lanes }, grid: linearGrid(Math.ceil(lanes / 64)) };
}

export const softmaxOp = defineOp({
  name: 'softmax',
  shape: ([x]: readonly [Tensor], _: SoftmaxAttributes) => {
    if (x.dtype !== 'f32') shapeError('softmax', 'x', 'of dtype f32', x.dtype);
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input], attributes: { axis }, output }) => {
    const n = input.shape[axis];
    const inner = sizeOf(input.shape.slice(axis + 1));
    if (byRows(n, inner)) {
      const { width, params, grid } = rowLayout(input, n);
      const { lanes } = teamOf(device.subgroupSize);
      const slots = Math.ceil(params.columns / lanes);
      const held = slots <= MAX_SLOTS ? slots : 0;
      device.run(softmaxRowsKernel(device.subgroupSize, width, held, params.columns === held * lanes), params, { input, output }, grid);
    } else {
      const { width, params, grid } = columnLayout(sizeOf(input.shape.slice(0, axis)), n, inner);
      device.run(softmaxColumnsKernel(width), params, { input, output }, grid);
    }
  },
  backward: ({ device, inputs: [input], attributes: { axis }, output, gradient: upstream }) => {
    const n = input.shape[axis];
    const inner = sizeOf(input.shape.slice(axis + 1));
    const gradient = device.empty(input.shape);
    if (byRows(n, inner)) {
      const { width, params, grid } = rowLayout(input, n);
      device.run(softmaxRowsGradientKernel(device.subgroupSize, width), params, { output, upstream, gradient }, grid);
    } else {
      const { width, params, grid } = columnLayout(sizeOf(input.shape.slice(0, axis)), n, inner);
      device.run(softmaxColumnsGradientKernel(width), params, { output, upstream, gradient }, grid);
    }
    return [gradient];
  },
});

/** exp(x) / sum(exp(x)) along an axis, the largest value subtracted first. */
export function softmax(x: Tensor, axis = -1): Tensor {
  return softmaxOp([x], { axis: normalizeAxis('softmax', axis, x.rank) });
}
