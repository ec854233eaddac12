/** Ops that move elements: permute, transpose, slice, expand, concat, stack and gather. They accept every dtype. */
import {
  concatKernel,
  gatherGradientKernel,
  gatherKernel,
  gatherLinksKernel,
  MAX_COPY_RANK,
  MAX_PARTS,
  padKernel,
  stridedCopyKernel,
  transposeKernel,
  type CopyForm,
} from '../../kernels/layout.ts';
import { widthOf, type Width } from '../../kernels/teams.ts';
import { itemGrid } from '../../kernels/kernel.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { formatShape, normalizeAxis, sameShape, shapeError, sizeOf, stridesOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { elementwise } from '../core/elementwise.ts';
import { sumTo } from './reduce-variants.ts';
import { reshape } from './reshape.ts';

/** A dimension of the output, and the stride of its elements in the input. */
interface Dimension {
  size: number;
  stride: number;
}

/** Merges adjacent dimensions whose strides in the input are those of one dimension. */
function mergedDimensions(sizes: Shape, strides: readonly number[]): Dimension[] {
  const merged: Dimension[] = [];
  sizes.forEach((size, i) => {
    if (size === 1) return;
    const last = merged.at(-1);
    if (last && last.stride === strides[i] * size) {
      last.size *= size;
      last.stride = strides[i];
    } else merged.push({ size, stride: strides[i] });
  });
  return merged.length > 0 ? merged : [{ size: 1, stride: 1 }];
}

/** Whether the copy is [batch, rows, columns] to [batch, columns, rows], with or without batch, in whole vec4s. */
function isTranspose(dims: readonly Dimension[]): boolean {
  if (dims.length !== 2 && dims.length !== 3) return false;
  const [across, along] = dims.slice(-2);
  if (across.stride !== 1 || along.stride !== across.size || across.size % 4 !== 0 || along.size % 4 !== 0)
    return false;
  return dims.length === 2 || dims[0].stride === across.size * along.size;
}

/** Which elements of an input a copy reads: sizes of the output's dimensions, and strides and offset in the input. */
interface Strided {
  readonly sizes: Shape;
  readonly strides: readonly number[];
  readonly offset?: number;
}

/** output (row-major) = input at offset + sum of index * stride. */
function copyByStrides(input: Tensor, output: Tensor, { sizes, strides, offset = 0 }: Strided): void {
  const { device } = output;
  if (output.size === 0) return;
  const dims = mergedDimensions(sizes, strides);
  const rank = dims.length;
  const { size: innermost, stride: innerStride } = dims[rank - 1];
  if (offset === 0 && isTranspose(dims)) {
    const [rows, columns] = [innermost, dims[rank - 2].size];
    const count = output.size / 16;
    const { lanes, grid } = elementwise(device, count);
    device.run(transposeKernel(lanes), { count, rows4: rows / 4, columns4: columns / 4 }, { input, output }, grid);
    return;
  }
  const form: CopyForm = innerStride === 1 ? 'vector' : innerStride === 0 ? 'splat' : 'strided';
  const outer = dims.slice(0, -1);
  const whole = (value: number): boolean => value % 4 === 0;
  const width =
    (whole(innermost) || rank === 1) && (form !== 'vector' || (whole(offset) && outer.every((d) => whole(d.stride))))
      ? 4
      : 1;
  const unit = form === 'vector' ? width : 1;
  const count = Math.ceil(output.size / width);
  const size = (d: number): number => (d < rank - 1 ? dims[d].size : 1);
  const stride = (d: number): number => (d < rank - 1 ? dims[d].stride / unit : 0);
  const { lanes, grid } = elementwise(device, count);
  device.run(
    stridedCopyKernel(form, width, rank, lanes),
    {
      count,
      n: Math.ceil(innermost / width),
      offset: offset / unit,
      innerStride,
      size1: size(1),
      size2: size(2),
      size3: size(3),
      size4: size(4),
      stride0: stride(0),
      stride1: stride(1),
      stride2: stride(2),
      stride3: stride(3),
      stride4: stride(4),
    },
    { input, output },
    grid,
  );
}

function checkCopyRank(op: string, sizes: Shape, strides: readonly number[]): void {
  const { length } = mergedDimensions(sizes, strides);
  if (length > MAX_COPY_RANK) shapeError(op, 'x', `at most ${MAX_COPY_RANK} dimensions after merging`, sizes);
}

// ------------------------------------------------------------------ permute

interface PermuteAttributes {
  /** Output dimension i is input dimension axes[i]. */
  readonly axes: readonly number[];
}

const permuteOp = defineOp({
  name: 'permute',
  shape: ([x]: readonly [Tensor], { axes }: PermuteAttributes) => {
    const shape = axes.map((axis) => x.shape[axis]);
    const strides = stridesOf(x.shape);
    checkCopyRank(
      'permute',
      shape,
      axes.map((axis) => strides[axis]),
    );
    return { shape, dtype: x.dtype };
  },
  forward: ({ inputs: [x], attributes: { axes }, output }) => {
    const strides = stridesOf(x.shape);
    copyByStrides(x, output, { sizes: output.shape, strides: axes.map((axis) => strides[axis]) });
  },
  backward: ({ device, inputs: [x], attributes: { axes }, gradient: upstream }) => {
    const gradient = device.empty(x.shape);
    const strides = stridesOf(upstream.shape);
    copyByStrides(upstream, gradient, {
      sizes: x.shape,
      strides: x.shape.map((_, axis) => strides[axes.indexOf(axis)]),
    });
    return [gradient];
  },
});

/**
 * Reorders dimensions: dimension i of the result is dimension axes[i] of x. Throws ShapeError unless each axis occurs
 * once.
 */
export const permute = opFunction(permuteOp, (x: Tensor, axes: readonly number[]): Tensor => {
  const normal = axes.map((axis) => normalizeAxis('permute', axis, x.rank));
  if (normal.length !== x.rank || new Set(normal).size !== x.rank)
    shapeError('permute', 'axes', `each of the ${x.rank} axes once`, axes);
  return permuteOp([x], { axes: normal });
});

/** Swaps the last two dimensions. Throws ShapeError where there are fewer. */
export function transpose(x: Tensor): Tensor {
  if (x.rank < 2) shapeError('transpose', 'x', 'two dimensions or more', x.shape);
  const axes = x.shape.map((_, i) => i);
  return permuteOp([x], { axes: [...axes.slice(0, -2), x.rank - 1, x.rank - 2] });
}

// ------------------------------------------------------------------ slice, expand

interface SliceAttributes {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
}

const sliceOp = defineOp({
  name: 'slice',
  shape: ([x]: readonly [Tensor], { axis, start, end }: SliceAttributes) => ({
    shape: x.shape.map((size, i) => (i === axis ? end - start : size)),
    dtype: x.dtype,
  }),
  forward: ({ inputs: [x], attributes: { axis, start }, output }) => {
    const strides = stridesOf(x.shape);
    copyByStrides(x, output, { sizes: output.shape, strides, offset: start * strides[axis] });
  },
  backward: ({ device, inputs: [x], attributes: { axis, start, end }, gradient: input }) => {
    const output = device.empty(x.shape);
    const inner = stridesOf(x.shape)[axis];
    const [total, from, length] = [x.shape[axis] * inner, start * inner, (end - start) * inner];
    const width = [total, from, length].every((value) => value % 4 === 0) ? 4 : 1;
    const count = x.size / width;
    const params = { count, total: total / width, start: from / width, length: length / width };
    device.run(padKernel(width), params, { input, output }, itemGrid(count));
    return [output];
  },
});

/**
 * Elements start .. end - 1 along an axis. Negative positions count from the end; `end` defaults to the size of the
 * axis. Throws ShapeError where the range does not lie within the axis.
 */
export const slice = opFunction(
  sliceOp,
  (x: Tensor, axis: number, start: number, end: number = x.shape[normalizeAxis('slice', axis, x.rank)]): Tensor => {
    const along = normalizeAxis('slice', axis, x.rank);
    const size = x.shape[along];
    const [from, to] = [start < 0 ? start + size : start, end < 0 ? end + size : end];
    if (!Number.isInteger(from) || !Number.isInteger(to) || from < 0 || to < from || to > size) {
      shapeError(
        'slice',
        'start and end',
        `0 <= start <= end <= ${size} (axis ${axis} of ${formatShape(x.shape)})`,
        `${start} and ${end}`,
      );
    }
    return sliceOp([x], { axis: along, start: from, end: to });
  },
);

/** Strides of x in the dimensions of the shape that x is broadcast to. */
function broadcastStrides(x: Shape, shape: Shape): number[] {
  const strides = stridesOf(x);
  const leading = shape.length - x.length;
  return shape.map((_, i) => (i < leading || x[i - leading] === 1 ? 0 : strides[i - leading]));
}

const expandOp = defineOp({
  name: 'expand',
  shape: ([x]: readonly [Tensor], shape: Shape) => {
    const leading = shape.length - x.rank;
    if (leading < 0 || x.shape.some((size, i) => size !== 1 && size !== shape[leading + i])) {
      shapeError('expand', 'shape', `a shape that ${formatShape(x.shape)} broadcasts to`, shape);
    }
    checkCopyRank('expand', shape, broadcastStrides(x.shape, shape));
    return { shape, dtype: x.dtype };
  },
  forward: ({ inputs: [x], attributes: shape, output }) =>
    copyByStrides(x, output, { sizes: shape, strides: broadcastStrides(x.shape, shape) }),
  backward: ({ inputs: [x], gradient }) => [sumTo(gradient, x.shape)],
});

/** Broadcasts x to a shape: repeats it along dimensions of size 1 and along new leading dimensions. */
export const expand = opFunction(expandOp, (x: Tensor, shape: Shape): Tensor => expandOp([x], shape));

// ------------------------------------------------------------------ concat

interface ConcatAttributes {
  readonly axis: number;
}

/** Copies parts [.., size_k, ..] side by side into `whole` along an axis (`join`), or back. */
function copyParts(whole: Tensor, parts: readonly Tensor[], axis: number, join: boolean): void {
  const { device } = whole;
  const inner = stridesOf(whole.shape)[axis];
  const outer = sizeOf(whole.shape.slice(0, axis));
  const lengths = parts.map((part) => part.shape[axis] * inner);
  const width = lengths.every((length) => length % 4 === 0) ? 4 : 1;
  const total = (whole.shape[axis] * inner) / width;
  let start = 0;
  for (let first = 0; first < parts.length; first += MAX_PARTS) {
    const chosen = parts.slice(first, first + MAX_PARTS);
    const params: Record<string, number> = { total, start };
    const buffers: Record<string, Tensor> = { whole };
    let end = 0;
    chosen.forEach((part, k) => {
      end += lengths[first + k] / width;
      params[`end${k}`] = end;
      buffers[`part${k}`] = part;
    });
    params.count = outer * end;
    const { lanes, grid } = elementwise(device, params.count);
    device.run(concatKernel(chosen.length, width, join, lanes), params, buffers, grid);
    start += end;
  }
}

const concatOp = defineOp({
  name: 'concat',
  shape: (tensors: readonly Tensor[], { axis }: ConcatAttributes) => {
    const [first] = tensors;
    for (const tensor of tensors) {
      if (tensor.dtype !== first.dtype) shapeError('concat', 'tensors', `dtype ${first.dtype}`, tensor.dtype);
      if (tensor.rank !== first.rank || tensor.shape.some((size, i) => i !== axis && size !== first.shape[i])) {
        shapeError('concat', 'tensors', `${formatShape(first.shape)} except along axis ${axis}`, tensor.shape);
      }
    }
    const joined = tensors.reduce((sum, tensor) => sum + tensor.shape[axis], 0);
    return { shape: first.shape.map((size, i) => (i === axis ? joined : size)), dtype: first.dtype };
  },
  forward: ({ inputs, attributes: { axis }, output }) => copyParts(output, inputs, axis, true),
  backward: ({ device, inputs, attributes: { axis }, gradient, needs }) => {
    const gradients = inputs.map((input) => device.empty(input.shape));
    copyParts(gradient, gradients, axis, false);
    return gradients.map((each, i) => (needs[i] ? each : null));
  },
});

/** Joins tensors along an axis. Their other dimensions must be equal. */
export const concat = opFunction(concatOp, (tensors: readonly Tensor[], axis: number): Tensor => {
  if (tensors.length === 0) shapeError('concat', 'tensors', 'at least one tensor', 'none');
  return concatOp(tensors, { axis: normalizeAxis('concat', axis, tensors[0].rank) });
});

/** Joins tensors of equal shape along a new axis. */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  if (tensors.length === 0) shapeError('stack', 'tensors', 'at least one tensor', 'none');
  const { shape, rank } = tensors[0];
  const along = normalizeAxis('stack', axis, rank + 1);
  for (const tensor of tensors) {
    if (!sameShape(tensor.shape, shape)) shapeError('stack', 'tensors', `shape ${formatShape(shape)}`, tensor.shape);
  }
  return concat(
    tensors.map((tensor) => reshape(tensor, [...shape.slice(0, along), 1, ...shape.slice(along)])),
    along,
  );
}

// ------------------------------------------------------------------ gather

interface GatherAttributes {
  readonly axis: number;
}

/** Sizes of x as [outer, n, inner]. `inner` counts elements of `width` values. */
function gatherView(x: Tensor, axis: number): { n: number; inner: number; width: Width } {
  const inner = stridesOf(x.shape)[axis];
  const width = widthOf(inner);
  return { n: x.shape[axis], inner: inner / width, width };
}

const gatherOp = defineOp({
  name: 'gather',
  shape: ([x, indices]: readonly [Tensor, Tensor], { axis }: GatherAttributes) => {
    if (indices.dtype !== 'u32') shapeError('gather', 'indices', 'dtype u32', indices.dtype);
    return { shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)], dtype: x.dtype };
  },
  forward: ({ device, inputs: [input, indices], attributes: { axis }, output }) => {
    const { n, inner, width } = gatherView(input, axis);
    const count = output.size / width;
    device.run(gatherKernel(width), { count, n, m: indices.size, inner }, { input, indices, output }, itemGrid(count));
  },
  backward: ({ device, inputs: [x, indices], attributes: { axis }, gradient: upstream }) => {
    const { n, inner, width } = gatherView(x, axis);
    const m = indices.size;
    const head = device.zeros([n], 'u32');
    const next = device.empty([m], 'u32');
    device.run(gatherLinksKernel(), { n, m }, { indices, head, next }, itemGrid(m / 4));
    const gradient = device.empty(x.shape);
    const count = x.size / width;
    device.run(
      gatherGradientKernel(width),
      { count, n, m, inner },
      { upstream, head, next, gradient },
      itemGrid(count),
    );
    return [gradient, null];
  },
});

/**
 * Picks rows along an axis. In the result's shape, the shape of `indices` (u32) replaces dimension `axis` of x.
 * An index beyond the axis gives zeros and no gradient, because the device cannot throw.
 */
export const gather = opFunction(gatherOp, (x: Tensor, indices: Tensor, axis = 0): Tensor => {
  return gatherOp([x, indices], { axis: normalizeAxis('gather', axis, x.rank) });
});
