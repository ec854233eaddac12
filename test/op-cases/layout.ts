/** Cases of permute, slice, expand, concat, stack and gather. */
import fc from 'fast-check';
import { concat, expand, gather, permute, slice, stack, transpose } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { integerInput, ndarray, randomInput, sampleCases, sizeOf, type NdArray, type OpCase } from '../op-harness.ts';

/** An array with the value of a function at each index. */
function build(shape: readonly number[], value: (index: readonly number[]) => number): NdArray {
  return ndarray(
    shape,
    Float64Array.from({ length: sizeOf(shape) }, (_, position) => {
      let rest = position;
      const index = shape.map(() => 0);
      for (let i = shape.length - 1; i >= 0; i--) {
        index[i] = rest % shape[i];
        rest = Math.floor(rest / shape[i]);
      }
      return value(index);
    }),
  );
}

const at = (x: NdArray, index: readonly number[]): number =>
  x.data[index.reduce((position, i, axis) => position * x.shape[axis] + i, 0)];

const permuteCase = (shape: readonly number[], axes: readonly number[]): OpCase => ({
  name: `[${shape.join(', ')}] by [${axes.join(', ')}]`,
  inputs: [randomInput(shape, 1)],
  run: ([x]) => permute(x, axes),
  reference: ([x]) =>
    build(
      axes.map((axis) => shape[axis]),
      (index) =>
        at(
          x,
          shape.map((_, axis) => index[axes.indexOf(axis)]),
        ),
    ),
});

const sliceCase = (shape: readonly number[], axis: number, start: number, end: number): OpCase => ({
  name: `[${shape.join(', ')}] along ${axis}, ${start} to ${end}`,
  inputs: [randomInput(shape, 1)],
  run: ([x]) => slice(x, axis, start, end),
  reference: ([x]) =>
    build(
      shape.map((size, i) => (i === axis ? end - start : size)),
      (index) =>
        at(
          x,
          index.map((v, i) => (i === axis ? v + start : v)),
        ),
    ),
});

const expandCase = (from: readonly number[], to: readonly number[]): OpCase => ({
  name: `[${from.join(', ')}] to [${to.join(', ')}]`,
  inputs: [randomInput(from, 1)],
  run: ([x]) => expand(x, to),
  reference: ([x]) =>
    build(to, (index) =>
      at(
        x,
        index.slice(to.length - from.length).map((v, i) => (from[i] === 1 ? 0 : v)),
      ),
    ),
});

function concatCase(name: string, shape: readonly number[], axis: number, sizes: readonly number[]): OpCase {
  const along = axis < 0 ? axis + shape.length : axis;
  return {
    name: `${name}: sizes ${sizes.join(', ')} along ${axis} of [${shape.join(', ')}]`,
    inputs: sizes.map((size, i) => ({
      ...randomInput(
        shape.map((other, j) => (j === along ? size : other)),
        i,
      ),
      differentiate: i !== 1,
    })),
    run: (inputs) => concat(inputs, axis),
    reference: (inputs) =>
      build(
        shape.map((size, i) => (i === along ? sizes.reduce((a, b) => a + b, 0) : size)),
        (index) => {
          let part = 0,
            offset = index[along];
          while (offset >= sizes[part]) offset -= sizes[part++];
          return at(
            inputs[part],
            index.map((v, i) => (i === along ? offset : v)),
          );
        },
      ),
  };
}

interface GatherCase {
  /** Shape of the gathered tensor. */
  readonly shape: readonly number[];
  /** Shape of the indices. */
  readonly indices: readonly number[];
  readonly axis: number;
  /** Indices are below this; default: the size of the axis. */
  readonly bound?: number;
}

function gatherCase(name: string, { shape, indices, axis, bound = shape[axis] }: GatherCase): OpCase {
  const after = axis + indices.length;
  return {
    name: `${name}: [${indices.join(', ')}] of [${shape.join(', ')}] along ${axis}`,
    inputs: [randomInput(shape, 1), integerInput(indices, bound, 2)],
    run: ([x, chosen]) => gather(x, chosen, axis),
    reference: ([x, chosen]) =>
      build([...shape.slice(0, axis), ...indices, ...shape.slice(axis + 1)], (index) => {
        const from = at(chosen, index.slice(axis, after));
        return from < shape[axis] ? at(x, [...index.slice(0, axis), from, ...index.slice(after)]) : 0;
      }),
  };
}

const fiveSizes = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 5, maxLength: 5 });
const twoByThree = [randomInput([2, 3], 1), randomInput([2, 3], 2)];

export const layoutCases = {
  permute: [
    permuteCase([2, 5, 3, 8], [0, 2, 1, 3]),
    permuteCase([12, 8], [1, 0]),
    permuteCase([3, 8, 20], [0, 2, 1]),
    permuteCase([7, 5], [1, 0]),
    permuteCase([2, 4, 3, 4], [0, 3, 1, 2]),
    permuteCase([3, 1, 4], [0, 1, 2]),
    permuteCase([0, 4], [1, 0]),
    {
      name: 'transpose of a batch',
      inputs: [randomInput([2, 3, 5], 1)],
      run: ([x]) => transpose(x),
      reference: ([x]) => build([2, 5, 3], ([b, i, j]) => at(x, [b, j, i])),
    },
    ...sampleCases(4, fc.tuple(fiveSizes, fc.shuffledSubarray([0, 1, 2, 3, 4], { minLength: 5 })), ([shape, axes]) =>
      permuteCase(shape, axes),
    ),
  ],
  slice: [
    sliceCase([4, 6, 8], 1, 2, 5),
    sliceCase([4, 24], 1, 8, 20),
    sliceCase([4, 9], 1, 2, 9),
    sliceCase([9, 4], 0, 3, 4),
    sliceCase([5], 0, 1, 4),
    sliceCase([5, 4], 0, 2, 2),
    {
      name: 'from the end',
      inputs: [randomInput([6, 3], 1)],
      run: ([x]) => slice(x, 0, -2),
      reference: ([x]) => build([2, 3], ([i, j]) => at(x, [i + 4, j])),
    },
  ],
  expand: [
    expandCase([], [3, 4]),
    expandCase([1], [70]),
    expandCase([8], [5, 8]),
    expandCase([6, 1], [6, 4]),
    expandCase([3, 1, 5], [3, 4, 5]),
    expandCase([2, 1, 3, 1], [5, 2, 4, 3, 2]),
    expandCase([3, 4], [3, 4]),
    expandCase([1, 4], [0, 4]),
  ],
  concat: [
    concatCase('channels', [2, 5, 0], -1, [8, 4, 12]),
    concatCase('odd channels', [7, 0], 1, [3, 1, 4]),
    concatCase('leading', [0, 6], 0, [5, 1, 0, 8]),
    concatCase('more tensors than one dispatch joins', [3, 0, 2], 1, [1, 2, 1, 3, 1, 1, 2, 4, 1]),
    concatCase('a single tensor', [3, 0], 1, [5]),
    {
      name: 'stack',
      inputs: twoByThree,
      run: (inputs) => stack(inputs),
      reference: ([a, b]) => build([2, 2, 3], ([k, i, j]) => at(k ? b : a, [i, j])),
    },
    {
      name: 'stack last',
      inputs: twoByThree,
      run: (inputs) => stack(inputs, -1),
      reference: ([a, b]) => build([2, 3, 2], ([i, j, k]) => at(k ? b : a, [i, j])),
    },
  ],
  gather: [
    gatherCase('rows', { shape: [30, 8], indices: [50], axis: 0 }),
    gatherCase('odd rows', { shape: [9, 5], indices: [2, 7], axis: 0 }),
    gatherCase('a middle axis', { shape: [2, 6, 4], indices: [9], axis: 1 }),
    gatherCase('a last axis', { shape: [3, 7], indices: [5], axis: 1 }),
    gatherCase('all the same', { shape: [4, 4], indices: [67], axis: 0, bound: 1 }),
    gatherCase('beyond the axis', { shape: [4, 3], indices: [40], axis: 0, bound: 9 }),
    gatherCase('nothing', { shape: [4, 3], indices: [0], axis: 0 }),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
