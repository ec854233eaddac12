/** Softmax over any axis. */
import {
  softmaxColumnsGradientKernel,
  softmaxColumnsKernel,
  softmaxRowsGradientKernel,
  softmaxRowsKernel,
} from '../../kernels/softmax.ts';
import { itemGrid, linearGrid, type Grid } from '../../kernels/kernel.ts';
import { teamOf, widthOf, type RowForm, type Width } from '../../kernels/teams.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { normalizeAxis, shapeError } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { withOperands } from './operand-textures.ts';
import { viewAlong, type AxisView } from './reduce-variants.ts';
import {
  chooseRows,
  otherTeams,
  rowsOf,
  rowTeams,
  rowTextures,
  type RowProblem,
  type Rows,
  type RowTeams,
  type RowVariant,
} from './row-variants.ts';

interface SoftmaxAttributes {
  readonly axis: number;
}

/** Rows up to this length are handled by one invocation each, as columns are. */
const SHORT_ROW = 8;
/** The tuner tries one invocation per row up to this length, and teams from length `MIN_FOR_TEAMS` on. */
const SHORT_ROW_TRIED = 64;
const MIN_FOR_TEAMS = 5;

interface ColumnLayout {
  readonly width: Width;
  readonly params: { readonly n: number; readonly inner: number; readonly lanes: number };
  readonly grid: Grid;
}

function columnLayout({ outer, n, inner }: AxisView): ColumnLayout {
  const width = widthOf(inner);
  const lanes = (outer * inner) / width;
  return { width, params: { n, inner: inner / width, lanes }, grid: itemGrid(lanes) };
}

type Forward = Readonly<Record<'input' | 'output', Tensor>>;
type Gradient = Readonly<Record<'output' | 'upstream' | 'gradient', Tensor>>;

function rowGrid(
  { rows, columns }: Rows,
  { subgroupSize, perTeam }: RowTeams,
): { params: Record<'rows' | 'columns' | 'perTeam', number>; grid: Grid } {
  return {
    params: { rows, columns, perTeam },
    grid: linearGrid(Math.ceil(rows / perTeam / teamOf(subgroupSize).count)),
  };
}

/** How the kernel reads rows. */
const rowForm = ({ width }: Rows, { subgroupSize, slots, full }: RowTeams): RowForm => ({
  subgroupSize,
  width,
  slots,
  full,
});

/** The forward pass; without teams one invocation handles each row or column. */
function normalize({ input, output }: Forward, view: AxisView, teams: RowVariant): void {
  const { device } = output;
  if (teams === null) {
    const { width, params, grid } = columnLayout(view);
    device.run(softmaxColumnsKernel(width), params, { input, output }, grid);
    return;
  }
  const rows = rowsOf(view.outer * view.n, view.n);
  const { params, grid } = rowGrid(rows, teams);
  withOperands(device, teams.textures, { input }, (texture, operands, shifts) =>
    device.run(
      softmaxRowsKernel({ ...rowForm(rows, teams), texture }),
      { ...params, ...shifts },
      { ...operands, output },
      grid,
    ),
  );
}

function normalizeBackward({ output, upstream, gradient }: Gradient, view: AxisView, teams: RowVariant): void {
  const { device } = gradient;
  if (teams === null) {
    const { width, params, grid } = columnLayout(view);
    device.run(softmaxColumnsGradientKernel(width), params, { output, upstream, gradient }, grid);
    return;
  }
  const rows = rowsOf(view.outer * view.n, view.n);
  const { params, grid } = rowGrid(rows, teams);
  withOperands(device, teams.textures, { output, upstream }, (textures, operands, shifts) =>
    device.run(
      softmaxRowsGradientKernel(teams.subgroupSize, rows.width, textures),
      { ...params, ...shifts },
      { ...operands, gradient },
      grid,
    ),
  );
}

/** The variants for rows. Only the forward pass holds rows in registers (`held`). */
function rowVariants(
  device: TensorDevice,
  rows: Rows,
  held: boolean,
): Pick<RowProblem<RowVariant>, 'expected' | 'others' | 'plain'> {
  const n = rows.columns * rows.width;
  // On software adapters starting a workgroup takes about as long as a row.
  const busyTeams = device.smallSubgroups ? 128 : 512;
  const textures = rowTextures(device, rows);
  const teams = rowTeams(rows, {
    subgroupSize: device.subgroupSize,
    held,
    perTeam: Math.min(16, Math.max(4, Math.ceil(rows.rows / busyTeams))),
    textures: textures.expected,
  });
  const others = [
    ...(n <= SHORT_ROW_TRIED ? [null] : []),
    ...(n >= MIN_FOR_TEAMS ? [teams, ...otherTeams(rows, teams, textures.possible)] : []),
  ];
  return { expected: n > SHORT_ROW ? teams : null, others, plain: null };
}

function describeForward(device: TensorDevice, rows: Rows): RowProblem<RowVariant> {
  const view = { outer: rows.rows, n: rows.columns * rows.width, inner: 1 };
  const shape = [view.outer, view.n];
  return {
    ...rowVariants(device, rows, true),
    tensors: { input: shape, output: shape },
    output: 'output',
    run: (variant, filled) => normalize(filled as Forward, view, variant),
    kernels: (variant) => [
      variant === null
        ? softmaxColumnsKernel(1)
        : softmaxRowsKernel({ ...rowForm(rows, variant), texture: variant.textures }),
    ],
  };
}

function describeGradient(device: TensorDevice, rows: Rows): RowProblem<RowVariant> {
  const view = { outer: rows.rows, n: rows.columns * rows.width, inner: 1 };
  const shape = [view.outer, view.n];
  return {
    ...rowVariants(device, rows, false),
    tensors: { output: shape, upstream: shape, gradient: shape },
    output: 'gradient',
    run: (variant, filled) => normalizeBackward(filled as Gradient, view, variant),
    kernels: (variant) => [
      variant === null
        ? softmaxColumnsGradientKernel(1)
        : softmaxRowsGradientKernel(variant.subgroupSize, rows.width, variant.textures),
    ],
  };
}

const softmaxOp = defineOp({
  name: 'softmax',
  shape: ([x]: readonly [Tensor], _: SoftmaxAttributes) => {
    if (x.dtype !== 'f32') shapeError('softmax', 'x', 'dtype f32', x.dtype);
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input], attributes: { axis }, output }) => {
    const view = viewAlong(input.shape, axis);
    normalize(
      { input, output },
      view,
      view.inner === 1 ? chooseRows(device, 'softmax', { count: input.size, size: view.n }, describeForward) : null,
    );
  },
  backward: ({ device, inputs: [input], attributes: { axis }, output, gradient: upstream }) => {
    const view = viewAlong(input.shape, axis);
    const gradient = device.empty(input.shape);
    normalizeBackward(
      { output, upstream, gradient },
      view,
      view.inner === 1
        ? chooseRows(device, 'softmax-gradient', { count: input.size, size: view.n }, describeGradient)
        : null,
    );
    return [gradient];
  },
});

/** exp(x) / sum(exp(x)) along an axis. The maximum is subtracted from x first, so that exp cannot overflow. */
export const softmax = opFunction(
  softmaxOp,
  (x: Tensor, axis = -1): Tensor => softmaxOp([x], { axis: normalizeAxis('softmax', axis, x.rank) }),
);
