/**
 * The description of a matrix product: operands, sizes and epilogue. gemm.ts launches it, gemm-variants.ts picks how.
 */
import { epilogueOf, type Epilogue } from '../../kernels/epilogue.ts';
import type { MatmulForm, OperandAccess } from '../../kernels/matmul.ts';
import { sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';

/** Operands of the epilogue of a product: act(sum * scale + bias + residual). */
export interface EpilogueOperands {
  /** [N], a factor for each column. */
  readonly scale?: Tensor | null;
  /** [N], added to every row. */
  readonly bias?: Tensor | null;
  /** Of the output's shape. */
  readonly residual?: Tensor | null;
  readonly relu?: boolean;
}

/** The form of the epilogue, and the buffers that its kernels read. */
export function epilogueOperands({ scale = null, bias = null, residual = null, relu = false }: EpilogueOperands): {
  readonly epilogue: Epilogue;
  readonly buffers: Readonly<Record<string, Tensor>>;
} {
  return {
    epilogue: epilogueOf({ scale: scale !== null, bias: bias !== null, residual: residual !== null, relu }),
    buffers: { ...(scale && { scale }), ...(bias && { bias }), ...(residual && { residual }) },
  };
}

/** output = op(A) op(B) for each batch entry, or summed over them, with an epilogue. */
export interface Gemm extends EpilogueOperands {
  /** [M, K], or [K, M] with `transposeA`. Batch entries are below each other unless `sharedA`. */
  readonly a: Tensor;
  readonly transposeA: boolean;
  readonly sharedA?: boolean;
  /** [K, N], or [N, K] with `transposeB`. Batch entries are below each other unless `sharedB`. */
  readonly b: Tensor;
  readonly transposeB: boolean;
  readonly sharedB?: boolean;
  /** [batch, M, N], or [M, N] with `sumBatch`. */
  readonly output: Tensor;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch?: number;
  /** Adds up the products of all batch entries. */
  readonly sumBatch?: boolean;
  /** [M], receives the sums of op(A) over K. Only for A transposed and a single matrix. */
  readonly sumsOfA?: Tensor | null;
  /** Operands may be rounded to f16 (see `DeviceOptions.halfPrecision`). */
  readonly half?: boolean;
}

/** Sizes and forms of a product, without its tensors. */
export type GemmSizes = Pick<Gemm, 'transposeA' | 'transposeB' | 'm' | 'n' | 'k' | 'batch'>;

/** How the operands of a product are stored. */
export interface GemmLayout {
  readonly form: MatmulForm;
  /** Whether operands are read as vec4s. */
  readonly access: OperandAccess;
  /** Elements of a line of A and of B. */
  readonly widthA: number;
  readonly widthB: number;
  /** See SubgroupMatmulOptions. */
  readonly wideRows: boolean;
}

export function gemmLayout({ transposeA, transposeB, m, n, k }: GemmSizes): GemmLayout {
  const widthA = transposeA ? m : k;
  const widthB = transposeB ? k : n;
  return {
    form: `${transposeA ? 't' : 'n'}${transposeB ? 't' : 'n'}`,
    access: widthA % 4 === 0 && widthB % 4 === 0 ? 'vec4' : 'scalar',
    widthA,
    widthB,
    wideRows: transposeB && n % 4 === 0,
  };
}

/** The last two dimensions of a shape, and the number of matrices that the dimensions before them make. */
export function matrixOf(shape: Shape): { readonly batch: number; readonly rows: number; readonly columns: number } {
  return { batch: sizeOf(shape.slice(0, -2)), rows: shape[shape.length - 2], columns: shape[shape.length - 1] };
}
