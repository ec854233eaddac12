/** Matrix products: `matmul` of two tensors, and `linear` with bias, residual and ReLU in its epilogue. */
import { defineOp, opFunction } from '../core/op.ts';
import { formatShape, sameShape, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { gemm } from './gemm.ts';
import { matrixOf } from './gemm-problem.ts';
import { columnSums } from './matmul-sums.ts';
import { maskGradient } from './relu-gradient.ts';

export interface MatmulOptions {
  /** `a` is stored [..., K, M]. */
  readonly transposeA?: boolean;
  /** `b` is stored [..., N, K]. */
  readonly transposeB?: boolean;
}

/** The shape of the product. Throws ShapeError where operands do not fit. */
function matmulShape(a: Tensor, b: Tensor, { transposeA, transposeB }: MatmulOptions): Shape {
  for (const [name, { dtype, shape }] of Object.entries({ a, b })) {
    if (dtype !== 'f32') shapeError('matmul', name, 'dtype f32', dtype);
    if (shape.length < 2) shapeError('matmul', name, 'rank 2 or more', shape);
  }
  const { rows: rowsA, columns: columnsA } = matrixOf(a.shape);
  const { rows: rowsB, columns: columnsB } = matrixOf(b.shape);
  const [m, k] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const n = transposeB ? rowsB : columnsB;
  if ((transposeB ? columnsB : rowsB) !== k)
    shapeError('matmul', 'b', `[..., ${transposeB ? `N, ${k}` : `${k}, N`}] for a ${formatShape(a.shape)}`, b.shape);
  const batchA = a.shape.slice(0, -2);
  const batchB = b.shape.slice(0, -2);
  if (a.rank > 2 && b.rank > 2 && !sameShape(batchA, batchB))
    shapeError('matmul', 'b', `batch ${formatShape(batchA)} as in a, or 2-D`, b.shape);
  return [...(a.rank > 2 ? batchA : batchB), m, n];
}

/** Operands of a product, each as it is or transposed. */
interface Product extends Required<MatmulOptions> {
  readonly a: Tensor;
  readonly b: Tensor;
  /** Operands may be rounded to f16. */
  readonly half: boolean;
}

/**
 * output = op(a) op(b). A 2-D operand is shared by all batch entries of the other. A 2-D output of batched operands is
 * the sum over the batch.
 */
function multiply(device: TensorDevice, product: Product, output: Tensor): void {
  const { a, transposeA, b, transposeB } = product;
  const left = matrixOf(a.shape);
  const right = matrixOf(b.shape);
  const [m, k] = transposeA ? [left.columns, left.rows] : [left.rows, left.columns];
  const n = transposeB ? right.rows : right.columns;
  const common = { ...product, output, n };
  if (a.rank > 2 && b.rank === 2 && !transposeA) {
    // Batch entries of A are rows below each other.
    gemm(device, { ...common, m: m * left.batch, k });
  } else if (a.rank > 2 && b.rank > 2 && output.rank === 2 && transposeA && !transposeB) {
    // Here the rows along K of all batch entries are below each other.
    gemm(device, { ...common, m, k: k * left.batch });
  } else {
    gemm(device, {
      ...common,
      m,
      k,
      batch: a.rank > 2 ? left.batch : right.batch,
      sharedA: a.rank === 2,
      sharedB: b.rank === 2,
      sumBatch: output.rank === 2,
    });
  }
}

const matmulOp = defineOp({
  name: 'matmul',
  shape: ([a, b]: readonly [Tensor, Tensor], options: Required<MatmulOptions>) => ({
    shape: matmulShape(a, b, options),
  }),
  forward: ({ device, inputs: [a, b], attributes, output, half }) =>
    multiply(device, { a, b, ...attributes, half }, output),
  backward: ({ device, inputs: [a, b], attributes: { transposeA, transposeB }, gradient, needs }) => {
    const product = (shape: Shape, operands: Omit<Product, 'half'>): Tensor => {
      const output = device.empty(shape);
      multiply(device, { ...operands, half: false }, output);
      return output;
    };
    // With respect to op(A): G op(B)^T. With respect to op(B): op(A)^T G. If an operand is stored transposed, so is its
    // gradient.
    const gradientA = (): Tensor =>
      product(
        a.shape,
        transposeA
          ? { a: b, transposeA: transposeB, b: gradient, transposeB: true }
          : { a: gradient, transposeA: false, b, transposeB: !transposeB },
      );
    const gradientB = (): Tensor =>
      product(
        b.shape,
        transposeB
          ? { a: gradient, transposeA: true, b: a, transposeB: transposeA }
          : { a, transposeA: !transposeA, b: gradient, transposeB: false },
      );
    return [needs[0] ? gradientA() : null, needs[1] ? gradientB() : null];
  },
});

/**
 * Matrix product by batch entry: a [..., M, K] times b [..., K, N] gives [..., M, N].
 * With `transposeA` a is [..., K, M], with `transposeB` b is [..., N, K]. Leading dimensions are equal, or one operand
 * is 2-D and shared by all batch entries of the other. Throws ShapeError where sizes do not fit.
 */
export const matmul = opFunction(
  matmulOp,
  (a: Tensor, b: Tensor, { transposeA = false, transposeB = false }: MatmulOptions = {}): Tensor =>
    matmulOp([a, b], { transposeA, transposeB }),
);

/** The shape of the result of `linear`. Throws ShapeError where operands do not fit. */
function linearShape(x: Tensor, weight: Tensor, bias: Tensor | null, residual: Tensor | null): Shape {
  for (const [name, tensor] of Object.entries({ x, weight, bias, residual })) {
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
  return shape;
}

const linearOp = defineOp({
  name: 'linear',
  shape: (
    [x, weight, bias, residual]: readonly [Tensor, Tensor, Tensor | null, Tensor | null],
    _: { readonly relu: boolean },
  ) => ({ shape: linearShape(x, weight, bias, residual) }),
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
    // Without a ReLU, the gradients of weight and bias read the same tensor, so one product gives both.
    const biasWithWeight = needs[1] && needs[2] && !relu;
    let gradient = upstream;
    let biasGradient: Tensor | null = biasWithWeight ? device.empty([n]) : null;
    if (needs[2] && !biasWithWeight) {
      if (relu) gradient = device.empty(upstream.shape);
      biasGradient = columnSums(device, upstream, relu ? { activated: output, masked: gradient } : null);
    } else if (relu) {
      gradient = maskGradient(device, upstream, output);
    }
    const inputGradient = needs[0] ? device.empty(x.shape) : null;
    if (inputGradient)
      gemm(device, {
        a: gradient,
        transposeA: false,
        b: weight,
        transposeB: false,
        output: inputGradient,
        m,
        n: k,
        k: n,
        residual: earlier(0),
      });
    const weightGradient = needs[1] ? device.empty(weight.shape) : null;
    if (weightGradient)
      gemm(device, {
        a: gradient,
        transposeA: true,
        b: x,
        transposeB: false,
        output: weightGradient,
        m: n,
        n: k,
        k: m,
        sumsOfA: biasWithWeight ? biasGradient : null,
      });
    return [inputGradient, weightGradient, biasGradient, needs[3] ? gradient : null];
  },
});

export interface LinearOptions {
  /** Applied to the result, in the same kernel. */
  readonly activation?: 'relu';
  /** Added before the activation, in the same kernel; of the result's shape. */
  readonly residual?: Tensor;
}

/**
 * act(x weight^T + bias + residual): x [..., K], weight [N, K], bias [N] or null, result [..., N]. Throws ShapeError
 * where sizes do not fit.
 */
export const linear = opFunction(
  linearOp,
  (x: Tensor, weight: Tensor, bias: Tensor | null, { activation, residual }: LinearOptions = {}): Tensor =>
    linearOp([x, weight, bias, residual ?? null], { relu: activation === 'relu' }),
);
