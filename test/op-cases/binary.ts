/** Cases of the elementwise functions of two tensors, with broadcasting. */
import { add, div, maximum, minimum, mul, sub, type Tensor } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sizeOf, type NdArray, type OpCase } from '../op-harness.ts';

type Run = (a: Tensor, b: Tensor) => Tensor;
type Reference = (x: number, y: number) => number;

/** The value of `x`, broadcast to `shape`, at a row-major index. */
function broadcastAt(x: NdArray, shape: readonly number[], position: number): number {
  let at = 0,
    stride = 1,
    rest = position;
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = x.shape[x.shape.length - shape.length + i] ?? 1;
    if (size !== 1) at += (rest % shape[i]) * stride;
    stride *= size;
    rest = Math.floor(rest / shape[i]);
  }
  return x.data[at];
}

function broadcastReference(f: Reference, a: NdArray, b: NdArray): NdArray {
  const rank = Math.max(a.shape.length, b.shape.length);
  const shape = Array.from({ length: rank }, (_, i) => {
    const x = a.shape[a.shape.length - rank + i] ?? 1;
    return x === 1 ? (b.shape[b.shape.length - rank + i] ?? 1) : x;
  });
  return ndarray(
    shape,
    Float64Array.from({ length: sizeOf(shape) }, (_, i) => f(broadcastAt(a, shape, i), broadcastAt(b, shape, i))),
  );
}

type Pair = readonly [readonly number[], readonly number[]];

/** One function is tested with every form of operands. The other functions share the code that reads operands. */
const EVERY_FORM: readonly Pair[] = [
  [
    [65, 67],
    [65, 67],
  ],
  [[], []],
  [[3], []],
  [[], [5]],
  [[0, 3], [3]],
  [[4, 5, 8], [8]],
  [[8], [4, 5, 8]],
  [[6, 7], [7]],
  [
    [6, 8],
    [6, 1],
  ],
  [
    [6, 1],
    [1, 8],
  ],
  [
    [5, 1],
    [1, 7],
  ],
  [
    [2, 1, 3, 1, 4],
    [1, 5, 3, 2, 4],
  ],
  [
    [2, 3, 1, 3, 1],
    [1, 3, 5, 1, 3],
  ],
  [[300, 9], [9]],
];
const SOME: readonly Pair[] = [
  [
    [7, 9],
    [7, 9],
  ],
  [[5, 8], [8]],
  [
    [4, 1],
    [1, 4],
  ],
];

function casesOf(run: Run, f: Reference, pairs: readonly Pair[], options: { awayFromZero?: number } = {}): OpCase[] {
  return pairs.map(([a, b]) => ({
    name: `[${a.join(', ')}] and [${b.join(', ')}]`,
    inputs: [randomInput(a, 1), randomInput(b, 2, options)],
    run: ([x, y]) => run(x, y),
    reference: ([x, y]) => broadcastReference(f, x, y),
  }));
}

/** Equal values everywhere. Each side gets half of the gradient, and the central differences are half of it, too. */
function ties(run: Run, f: Reference): OpCase {
  const shared = randomInput([3, 4], 5);
  return {
    name: 'ties',
    inputs: [shared, shared],
    run: ([x, y]) => run(x, y),
    reference: ([x, y]) => broadcastReference(f, x, y),
  };
}

export const binaryCases = {
  add: casesOf(add, (x, y) => x + y, EVERY_FORM),
  sub: casesOf(sub, (x, y) => x - y, SOME),
  mul: casesOf(mul, (x, y) => x * y, EVERY_FORM),
  div: casesOf(div, (x, y) => x / y, SOME, { awayFromZero: 0.5 }),
  maximum: [...casesOf(maximum, Math.max, SOME), ties(maximum, Math.max)],
  minimum: [...casesOf(minimum, Math.min, SOME), ties(minimum, Math.min)],
} satisfies Partial<Record<OpName, OpCase[]>>;
