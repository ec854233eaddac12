/** Cases of softmax. */
import fc from 'fast-check';
import { softmax } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, sizeOf, type NdArray, type OpCase } from '../op-harness.ts';

function softmaxReference(x: NdArray, axis: number): NdArray {
  const n = x.shape[axis];
  const inner = sizeOf(x.shape.slice(axis + 1));
  const y = new Float64Array(x.data.length);
  for (let first = 0; first < y.length; first++) {
    if (Math.floor(first / inner) % n !== 0) continue;
    const positions = Array.from({ length: n }, (_, i) => first + i * inner);
    const largest = Math.max(...positions.map((i) => x.data[i]));
    const total = positions.reduce((sum, i) => sum + Math.exp(x.data[i] - largest), 0);
    for (const i of positions) y[i] = Math.exp(x.data[i] - largest) / total;
  }
  return ndarray(x.shape, y);
}

const softmaxCase = (
  name: string,
  shape: readonly number[],
  axis: number,
  input: Parameters<typeof randomInput>[2] = { scale: 3 },
): OpCase => ({
  name: `${name} [${shape.join(', ')}] over ${axis}`,
  inputs: [randomInput(shape, 1, input)],
  run: ([x]) => softmax(x, axis),
  reference: ([x]) => softmaxReference(x, axis < 0 ? axis + shape.length : axis),
});

export const softmaxCases = {
  softmax: [
    softmaxCase('rows', [33, 300], -1),
    softmaxCase('odd rows', [2, 5, 81], -1),
    softmaxCase('one value', [3, 1], -1),
    softmaxCase('many short rows', [131, 5], -1),
    softmaxCase('wider than registers', [3, 2600], -1),
    softmaxCase('wider than registers, odd', [2, 1031], 1),
    softmaxCase('columns', [3, 4, 36], 1),
    softmaxCase('odd columns', [5, 7, 3], 0),
    softmaxCase('empty', [0, 4], -1),
    // exp overflows beyond 88. The step is smaller because it is relative to the values.
    { ...softmaxCase('large values do not overflow', [4, 12], -1, { scale: 3, shift: 200 }), step: 1e-7 },
    ...sampleCases(
      3,
      fc.tuple(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 }), fc.nat(3)),
      ([shape, axis]) => softmaxCase('random', shape, axis % shape.length),
    ),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
