/** Cases of the elementwise functions of one tensor, and of reshape. */
import fc from 'fast-check';
import { abs, affine, exp, log, relu, reshape, sigmoid, sqrt, square, tanh, type Tensor } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type OpCase } from '../op-harness.ts';

function elementwise(
  run: (x: Tensor) => Tensor,
  f: (x: number) => number,
  input: Parameters<typeof randomInput>[2] = {},
): OpCase[] {
  const make = (shape: readonly number[], seed: number): OpCase => ({
    name: `[${shape.join(', ')}]`,
    inputs: [randomInput(shape, seed, input)],
    run: ([x]) => run(x),
    reference: ([x]) => ndarray(x.shape, x.data.map(f)),
  });
  const shapes = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 });
  return [
    make([], 1),
    make([1], 2),
    make([0, 3], 3),
    make([257], 4),
    make([65, 67], 5),
    ...sampleCases(4, shapes, make),
  ];
}

const positive = { scale: 0.3, shift: 2 };

export const unaryCases = {
  relu: elementwise(relu, (x) => Math.max(x, 0), { awayFromZero: 0.01 }),
  sigmoid: elementwise(sigmoid, (x) => 1 / (1 + Math.exp(-x)), { scale: 3 }),
  exp: elementwise(exp, Math.exp),
  log: elementwise(log, Math.log, positive),
  sqrt: elementwise(sqrt, Math.sqrt, positive),
  square: elementwise(square, (x) => x * x),
  abs: elementwise(abs, Math.abs, { awayFromZero: 0.01 }),
  tanh: elementwise(tanh, Math.tanh),
  affine: elementwise(
    (x) => affine(x, -2.5, 0.75),
    (x) => -2.5 * x + 0.75,
  ),
  reshape: [
    {
      name: 'to a vector',
      inputs: [randomInput([2, 3, 5], 1)],
      run: ([x]) => reshape(x, [-1]),
      reference: ([x]) => ndarray([30], x.data),
    },
    {
      name: 'empty',
      inputs: [randomInput([0, 3], 1)],
      run: ([x]) => reshape(x, [3, 0]),
      reference: () => ndarray([3, 0], []),
    },
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
