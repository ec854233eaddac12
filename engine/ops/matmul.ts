/** Matrix products: `matmul` of two tensors, and `linear` with bias and ReLU in its epilogue. */
import { defineOp, opFunction } from '../core/op.ts';
import { formatShape, sameShape, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { columnSums, gemm, matrixOf } from './gemm.ts';
import { maskGradient } from './relu-gradient.ts';

export interface MatmulOptions {
  /** `a` is stored [..., K, M]. */
  readonly transposeA?: boolean;
  /** `b` is stored [..., N, K]. */
  readonly transposeB?: boolean;
}

interface Sizes {
  readonly batchShape: Shape;
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

function matmulSizes(a: Tensor, b: Tensor, { transposeA, transposeB }: MatmulOptions): Sizes {
  for (const [name, { dtype, shape }] of [
    ['a', a],
    ['b', b],
  ] as const) {
    if (dtype !== 'f32') shapeError('matmul', name, 'dtype f32', dtype);
    if (shape.length < 2) shapeError('matmul', name, 'rank 2 or more', shape);
  }
  const { rows: rowsA, columns: columnsA } = matrixOf(a.shape),
    { rows: rowsB, columns: columnsB } = matrixOf(b.shape);
  const [m, k] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const n = transposeB ? rowsB : columnsB;
  if ((transposeB ? columnsB : rowsB) !== k)
    shapeError('matmul', 'b', `[..., ${transposeB ? `N, ${k}` : `${k}, N`}] for a ${formatShape(a.shape)}`, b.shape);
  const batchA = a.shape.slice(0, -2),
    batchB = b.shape.slice(0, -2);
  if (a.rank > 2 && b.rank > 2 && !sameShape(batchA, batchB))
    shapeError('matmul', 'b', `batch ${formatShape(batchA)} as in a, or 2-D`, b.shape);
  return { batchShape: a.rank > 2 ? batchA : batchB, m, n, k };
}

/** output = op(a) op(b), in f16 where `half` allows it, where a 2-D operand is shared by all batch entries of the other; a 2-D output of batched operands is their sum over the batch. */
function multiply(
  device: TensorDevice,
  a: Tensor,
  transposeA: boolean,
  b: Tensor,
  transposeB: boolean,
  output: Tensor,
  half: boolean,
): void {
  const left = matrixOf(a.shape),
    right = matrixOf(b.shape);
  const [m, k] = transposeA ? [left.columns, left.rows] : [left.rows, left.columns];
  const n = transposeB ? right.rows : right.columns;
  const common = { a, b, transposeA, transposeB, output, n, half };
  if (a.rank > 2 && b.rank === 2 && !transposeA) return gemm(device, { ...common, m: m * left.batch, k }); // batch entries of A are rows below each other
  if (a.rank > 2 && b.rank > 2 && output.rank === 2 && transposeA && !transposeB)
    return gemm(device, { ...common, m, k: k * left.batch }); // so is K here
  const batch = a.rank > 2 ? left.batch : right.batch;
  return gemm(device, {
    ...common,
    m,
    k,
    batch,
    sharedA: a.rank === 2,
    sharedB: b.rank === 2,
    sumBatch: output.rank === 2,
  });
}

const matmulOp = defineOp({
  name: 'matmul',
  shape: ([a, b]: readonly [Tensor, Tensor], options: Required<MatmulOptions>) => {
    const { batchShape, m, n } = matmulSizes(a, b, options);
    return { shape: [...batchShape, m, n] };
  },
  forward: ({ device, inputs: [a, b], attributes: { transposeA, transposeB }, output, half }) =>
    multiply(device, a, transposeA, b, transposeB, output, half),
  backward: ({ device, inputs: [a, b], attributes: { transposeA, transposeB }, gradient, needs }) => {
    const product = (shape: Shape, x: Tensor, transposeX: boolean, y: Tensor, transposeY: boolean): Tensor => {
      const output = device.empty(shape);
      multiply(device, x, transposeX, y, transposeY, output, false);
      return output;
    };
    // By op(A): G op(B)^T, by op(B): op(A)^T G; where the operand is stored transposed, so is its gradient.
    return [
      !needs[0]
        ? null
        : transposeA
          ? product(a.shape, b, transposeB, gradient, true)
          : product(a.shape, gradient, false, b, !transposeB),
      !needs[1]
        ? null
        : transposeB
          ? product(b.shape, gradient, true, a, transposeA)
          : product(b.shape, a, !transposeA, gradient, false),
    ];
  },
});

/**
 * Matrix product by batch entry: a [..., M, K] times b [..., K, N] gives [..., M, N]; `transposeA`: a is [..., K, M], `transposeB`: b is [..., N, K].
 * Leading dimensions are equal, or one operand is 2-D and serves all batch entries. Throws ShapeError otherwise.
 */
export const matmul = opFunction(
  matmulOp,
  (a: Tensor, b: Tensor, { transposeA = false, transposeB = false }: MatmulOptions = {}): Tensor =>
    matmulOp([a, b], { transposeA, transposeB }),
);

const linearOp = defineOp({
  name: 'linear',
  shape: (
    [x, weight, bias, residual]: readonly [Tensor, Tensor, Tensor | null, Tensor | null],
    _: { readonly relu: boolean },
  ) => {
    for (const [name, tensor] of [
      ['x', x],
      ['weight', weight],
      ['bias', bias],
      ['residual', residual],
    ] as const) {
      if (tensor && tensor.dtype !== 'f32') shapeError('linear', name, 'dtype f32', tensor.dtype);
    }
    if (x.rank < 1) shapeError('linear', 'x', '[..., K]', x.shape);
    const k = x.shape[x.rank - 1];
    if (weight.rank !== 2 || weight.shape[1] !== k)
      shapeError('linear', 'weight', `[N, ${k}] for x ${formatShape(x.shape)}`, weight.shape);
    const n = weight.shape[0];
    if (bias && !sameShape(bias.shape, [n]))
      shapeError('linear', 'bias', `[${n}] for weight ${formatShape(weight.shape)}`, bias.shape);
    const shape = [...x.shape.slice(0, -1), n];
    if (residual && !sameShape(residual.shape, shape))
      shapeError('linear', 'residual', `the result's shape ${formatShape(shape)}`, residual.shape);
    return { shape };
  },
  forward: ({ device, inputs: [x, weight, bias, residual], attributes: { relu }, output, half }) => {
    const [n, k] = weight.shape;
    gemm(device, {
      a: x,
      transposeA: false,
      b: weight,
      transposeB: true,
      output,
      m: sizeOf(x.shape.slice(0, -1)),
      n,
      k,
      bias,
      residual,
      relu,
      half,
    });
  },
  backward: ({ device, inputs: [x, weight], attributes: { relu }, output, gradient: upstream, needs, earlier }) => {
    const [n, k] = weight.shape;
    const m = sizeOf(x.shape.slice(0, -1));
    // Without a ReLU to mask it, the product that gives the weight's gradient reads what the bias's sums up.
    const withWeight = needs[1] && needs[2] && !relu;
    let gradient = upstream;
    let bias: Tensor | null = withWeight ? device.empty([n]) : null;
    if (needs[2] && !withWeight) {
      if (relu) gradient = device.empty(upstream.shape);
      bias = columnSums(device, upstream, relu ? { activated: output, masked: gradient } : null);
    } else if (relu) {
      gradient = maskGradient(device, upstream, output);
    }
    const byInput = needs[0] ? device.empty(x.shape) : null;
    if (byInput)
      gemm(device, {
        a: gradient,
        transposeA: false,
        b: weight,
        transposeB: false,
        output: byInput,
        m,
        n: k,
        k: n,
        residual: earlier(0),
      });
    const byWeight = needs[1] ? device.empty(weight.shape) : null;
    if (byWeight)
      gemm(device, {
        a: gradient,
        transposeA: true,
        b: x,
        transposeB: false,
        output: byWeight,
        m: n,
        n: k,
        k: m,
        sumsOfA: withWeight ? bias : null,
      });
    return [byInput, byWeight, bias, needs[3] ? gradient : null];
  },
});

export interface LinearOptions {
  /** Applied to the result, in the same kernel. */
  readonly activation?: 'relu';
  /** Added before the activation, in the same kernel; of the result's shape. */
  readonly residual?: Tensor;
}

/** act(x weight^T + bias + residual): x [..., K], weight [N, K], bias [N] or null, result [..., N]. Throws ShapeError where sizes do not fit. */
export const linear = opFunction(
  linearOp,
  (x: Tensor, weight: Tensor, bias: Tensor | null, { activation, residual }: LinearOptions = {}): Tensor =>
    linearOp([x, weight, bias, residual ?? null], { relu: activation === 'relu' }),
);
