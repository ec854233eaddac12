/** Cases of sum, mean and max. */
import fc from 'fast-check';
import { max, mean, sum, type Tensor } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, sizeOf, type NdArray, type OpCase, type OpInput } from '../op-harness.ts';

type Reduce = (x: Tensor, options: { axes?: readonly number[]; keepDims?: boolean }) => Tensor;
type Fold = (values: readonly number[]) => number;

/** Collects the values of each output position and reduces each collection. */
function reduceReference(x: NdArray, axes: readonly number[], keepDims: boolean, f: Fold): NdArray {
  const kept = x.shape.map((size, i) => (axes.includes(i) ? 1 : size));
  const collections = Array.from({ length: sizeOf(kept) }, (): number[] => []);
  x.data.forEach((value, position) => {
    let at = 0,
      stride = 1,
      rest = position;
    for (let i = x.shape.length - 1; i >= 0; i--) {
      if (!axes.includes(i)) {
        at += (rest % x.shape[i]) * stride;
        stride *= x.shape[i];
      }
      rest = Math.floor(rest / x.shape[i]);
    }
    collections[at].push(value);
  });
  return ndarray(keepDims ? kept : x.shape.filter((_, i) => !axes.includes(i)), collections.map(f));
}

const total = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Makes cases of a sum or mean over axes. */
const caseMaker =
  (run: Reduce, f: Fold) =>
  (shape: readonly number[], axes?: readonly number[], keepDims = false): OpCase => {
    const all = axes?.map((axis) => (axis < 0 ? axis + shape.length : axis)) ?? shape.map((_, i) => i);
    return {
      name: `[${shape.join(', ')}] over ${axes ? `[${axes.join(', ')}]` : 'all'}${keepDims ? ', kept' : ''}`,
      inputs: [randomInput(shape, 1, { shift: 0.5 })],
      run: ([x]) => run(x, { axes, keepDims }),
      reference: ([x]) => reduceReference(x, all, keepDims, f),
    };
  };

function maxCase(name: string, input: OpInput, axis: number, keepDims = false): OpCase {
  return {
    name: `${name} [${input.shape.join(', ')}] over ${axis}`,
    inputs: [input],
    run: ([x]) => max(x, { axis, keepDims }),
    reference: ([x]) =>
      reduceReference(x, [axis < 0 ? axis + x.shape.length : axis], keepDims, (values) => Math.max(...values)),
    step: 1e-7,
  };
}

const average = (values: readonly number[]): number => total(values) / values.length;
const sumCase = caseMaker(sum, total);
const meanCase = caseMaker(mean, average);

const anyShape = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 5 });
const anyAxes = fc.tuple(anyShape, fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }), fc.boolean());

export const reduceCases = {
  sum: [
    sumCase([]),
    sumCase([20001]),
    sumCase([3, 5001], [-1]),
    sumCase([2100, 7], [1]),
    sumCase([2100, 18], [1]),
    sumCase([1500, 8], [0]),
    sumCase([1501, 3], [0], true),
    sumCase([2, 300, 6], [1]),
    sumCase([4, 6, 5, 8], [0, 2]),
    sumCase([3, 1, 2], [1]),
    sumCase([0, 3], [0]),
    sumCase([2, 3], []),
    ...sampleCases(4, anyAxes, ([shape, chosen, keepDims]) =>
      sumCase(
        shape,
        shape.map((_, i) => i).filter((i) => chosen[i]),
        keepDims,
      ),
    ),
  ],
  mean: [meanCase([5, 7]), meanCase([6, 4, 3], [0, 2], true), meanCase([700, 12], [0])],
  max: [
    maxCase('rows', randomInput([9, 81], 1), -1, true),
    maxCase('long rows', randomInput([2, 5003], 2), 1),
    maxCase('columns', randomInput([3, 200, 8], 3), 1),
    maxCase('odd columns', randomInput([7, 3], 4), 0),
    maxCase('negative', randomInput([5, 6], 5, { shift: -100 }), 0),
    maxCase('one value', randomInput([1, 4], 6), 0),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
