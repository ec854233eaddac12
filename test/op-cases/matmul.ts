/** Cases for matrix products and for mixtures of experts. */
import fc from 'fast-check';
import { linear, matmul, mixExperts } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, sizeOf, type NdArray, type OpCase } from '../op-harness.ts';

/** An array as matrices [batch, rows, columns]. A 2-D array has batch 1. */
function matrices(
  { shape, data }: NdArray,
  transposed: boolean,
): { batch: number; rows: number; columns: number; at(batch: number, row: number, column: number): number } {
  const [lines, width] = shape.slice(-2);
  const batch = sizeOf(shape.slice(0, -2));
  const [rows, columns] = transposed ? [width, lines] : [lines, width];
  const at = (b: number, row: number, column: number): number => {
    const [line, x] = transposed ? [column, row] : [row, column];
    return data[((batch === 1 ? 0 : b) * lines + line) * width + x];
  };
  return { batch, rows, columns, at };
}

function matmulReference(a: NdArray, b: NdArray, transposeA: boolean, transposeB: boolean): NdArray {
  const left = matrices(a, transposeA),
    right = matrices(b, transposeB);
  const batchShape = a.shape.length > 2 ? a.shape.slice(0, -2) : b.shape.slice(0, -2);
  const shape = [...batchShape, left.rows, right.columns];
  const data = new Float64Array(sizeOf(shape));
  let i = 0;
  for (let batch = 0; batch < sizeOf(batchShape); batch++) {
    for (let row = 0; row < left.rows; row++) {
      for (let column = 0; column < right.columns; column++) {
        let sum = 0;
        for (let k = 0; k < left.columns; k++) sum += left.at(batch, row, k) * right.at(batch, k, column);
        data[i++] = sum;
      }
    }
  }
  return ndarray(shape, data);
}

interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly form: 'nn' | 'nt' | 'tn' | 'tt';
  readonly batchA?: readonly number[];
  readonly batchB?: readonly number[];
}

function product({ m, n, k, form, batchA = [], batchB = [] }: Product, note = ''): OpCase {
  const transposeA = form[0] === 't',
    transposeB = form[1] === 't';
  const shapeA = [...batchA, ...(transposeA ? [k, m] : [m, k])],
    shapeB = [...batchB, ...(transposeB ? [n, k] : [k, n])];
  return {
    name: `${form} [${shapeA.join(', ')}] [${shapeB.join(', ')}]${note ? `: ${note}` : ''}`,
    inputs: [randomInput(shapeA, m + 1), randomInput(shapeB, n + 2)],
    run: ([a, b]) => matmul(a, b, { transposeA, transposeB }),
    reference: ([a, b]) => matmulReference(a, b, transposeA, transposeB),
  };
}

const size = fc.integer({ min: 1, max: 70 });
const forms = fc.constantFrom('nn' as const, 'nt' as const, 'tn' as const, 'tt' as const);

const matmulCases = [
  product({ m: 1, n: 1, k: 1, form: 'nn' }),
  product({ m: 0, n: 3, k: 4, form: 'nt' }, 'no rows'),
  product({ m: 3, n: 8, k: 0, form: 'nn' }, 'an empty sum'),
  product({ m: 68, n: 132, k: 20, form: 'nn' }, 'more than a tile each way'),
  product({ m: 132, n: 68, k: 36, form: 'nt' }),
  product({ m: 68, n: 132, k: 27, form: 'tn' }, 'K not a multiple of 4'),
  product({ m: 36, n: 67, k: 12, form: 'tt' }),
  product({ m: 5, n: 12, k: 1028, form: 'nn' }, 'K split'),
  product({ m: 6, n: 9, k: 8, form: 'nn', batchA: [2, 3], batchB: [2, 3] }, 'batched'),
  product({ m: 4, n: 8, k: 520, form: 'nt', batchA: [2], batchB: [2] }, 'batched and K split'),
  product({ m: 4, n: 520, k: 8, form: 'nn', batchB: [3] }, 'gradient of the shared operand over batch and split K'),
  product({ m: 8, n: 4, k: 12, form: 'nt', batchA: [3] }, 'B shared'),
  product({ m: 8, n: 4, k: 12, form: 'tn', batchB: [3] }, 'A shared'),
  product({ m: 4, n: 8, k: 12, form: 'tt', batchA: [2], batchB: [2] }),
  product({ m: 3, n: 4, k: 5, form: 'tn', batchA: [4] }, 'A transposed and batched, B shared'),
  // Operand textures need lines with a multiple of 64 elements.
  product({ m: 5, n: 64, k: 64, form: 'nn' }, 'in textures'),
  product({ m: 35, n: 66, k: 128, form: 'nt' }, 'in textures'),
  product({ m: 128, n: 64, k: 7, form: 'tn' }, 'in textures, K not a multiple of 4'),
  product({ m: 64, n: 33, k: 64, form: 'tt' }, 'in textures'),
  product({ m: 3, n: 64, k: 64, form: 'nn', batchA: [3], batchB: [3] }, 'in textures, batched'),
  product({ m: 64, n: 64, k: 640, form: 'tn' }, 'in textures, K split'),
  product({ m: 3, n: 4, k: 5, form: 'nn', batchA: [0], batchB: [0] }, 'no batch entries'),
  product({ m: 2, n: 3, k: 4, form: 'nn', batchA: [0] }, 'gradient of the shared operand over no batch entries'),
  ...sampleCases(6, fc.record({ m: size, n: size, k: size, form: forms }), (sizes) => product(sizes)),
  ...sampleCases(
    3,
    fc.record({ m: size, n: size, k: size, form: forms, batchA: fc.constant([2]), batchB: fc.constant([2]) }),
    (sizes) => product(sizes),
  ),
];

interface LinearCase {
  /** Default true. */
  readonly bias?: boolean;
  readonly relu?: boolean;
  readonly residual?: boolean;
  readonly note?: string;
}

function linearCase(
  batch: readonly number[],
  n: number,
  k: number,
  { bias = true, relu = false, residual = false, note = '' }: LinearCase,
): OpCase {
  const shape = [...batch, k];
  const inputs = [
    randomInput(shape, 21),
    randomInput([n, k], 22, { scale: 1 / Math.sqrt(k) }),
    ...(bias ? [randomInput([n], 23)] : []),
    ...(residual ? [randomInput([...batch, n], 24)] : []),
  ];
  const added = <T>([, , ...others]: readonly T[]): { b: T | null; r: T | null } => ({
    b: bias ? others[0] : null,
    r: residual ? others[bias ? 1 : 0] : null,
  });
  return {
    name: [
      `[${shape.join(', ')}] to ${n}`,
      `${bias ? '' : ', no bias'}${residual ? ', residual' : ''}${relu ? ', relu' : ''}`,
      note ? `: ${note}` : '',
    ].join(''),
    inputs,
    run: (inputs) => {
      const { b, r } = added(inputs);
      return linear(inputs[0], inputs[1], b, {
        ...(relu && { activation: 'relu' as const }),
        ...(r && { residual: r }),
      });
    },
    reference: (inputs) => {
      const [x, weight] = inputs,
        { b, r } = added(inputs);
      const rows = sizeOf(batch);
      const { data } = matmulReference(ndarray([rows, k], x.data), weight, false, true);
      return ndarray(
        [...batch, n],
        data.map((value, i) => {
          const sum = value + (b ? b.data[i % n] : 0) + (r ? r.data[i] : 0);
          return relu ? Math.max(sum, 0) : sum;
        }),
      );
    },
    // A difference across the kink of a ReLU is not a derivative. With this small step, few of some hundred outputs are
    // so close to the kink.
    ...(relu ? { step: 1e-7 } : {}),
  };
}

const linearCases = [
  linearCase([1], 5, 16, {}),
  linearCase([25], 4, 256, { note: 'boxes' }),
  linearCase([2, 25], 5, 36, { note: 'classes' }),
  linearCase([7], 3, 5, { relu: true, note: 'nothing a multiple of 4' }),
  linearCase([0], 8, 4, { relu: true, note: 'no rows' }),
  linearCase([12], 8, 49 * 64, { relu: true, note: 'K long' }),
  linearCase([150], 72, 40, { relu: true, note: 'more than a tile each way' }),
  linearCase([33], 64, 12, { bias: false, relu: true }),
  linearCase([9], 20, 8, { bias: false }),
  linearCase([2, 9], 20, 8, { residual: true }),
  linearCase([33], 64, 64, { residual: true, relu: true, note: 'in textures' }),
  linearCase([7], 6, 12, { bias: false, residual: true, relu: true, note: 'rows not made of whole vec4s' }),
  linearCase([12], 8, 49 * 64, { residual: true, note: 'K long' }),
];

function mixExpertsCase(batch: number, experts: number, rows: number, k: number): OpCase {
  return {
    name: `[${batch}, ${experts}, ${rows}] of [${experts}, ${rows}, ${k}]`,
    inputs: [randomInput([batch, experts, rows], 31), randomInput([experts, rows, k], 32)],
    run: ([weights, values]) => mixExperts(weights, values),
    reference: ([weights, values]) => {
      const data = new Float64Array(batch * rows * k);
      for (let b = 0; b < batch; b++)
        for (let e = 0; e < experts; e++)
          for (let n = 0; n < rows; n++)
            for (let x = 0; x < k; x++) {
              data[(b * rows + n) * k + x] +=
                weights.data[(b * experts + e) * rows + n] * values.data[(e * rows + n) * k + x];
            }
      return ndarray([batch, rows, k], data);
    },
  };
}

const dimension = fc.integer({ min: 1, max: 12 });

const mixExpertsCases = [
  mixExpertsCase(1, 1, 1, 1),
  mixExpertsCase(2, 4, 25, 4),
  mixExpertsCase(3, 2, 7, 36),
  mixExpertsCase(0, 2, 3, 4),
  mixExpertsCase(2, 0, 3, 4),
  ...sampleCases(3, fc.tuple(dimension, dimension, dimension, dimension), (shape) => mixExpertsCase(...shape)),
];

export const matmulFamilyCases = {
  matmul: matmulCases,
  linear: linearCases,
  mixExperts: mixExpertsCases,
} satisfies Partial<Record<OpName, OpCase[]>>;
