/**
 * Tensors: handles to a shape, a dtype and a range of a GPU buffer.
 * `TensorDevice` is the part of a device that tensors and ops use. `Device` implements it.
 * A tensor, its tape node and its device refer to each other, so their types share this file.
 */
import type { Grid, Kernel } from '../../kernels/kernel.ts';
import type { StagedPrecision } from '../../kernels/matmul-tiled.ts';
import type { OperandTexture, TextureLines } from '../gpu/resources.ts';
import type { Shape } from './shape.ts';
import { formatShape, sizeOf } from './shape.ts';
import { Storage, type Derivation } from './storage.ts';
import type { ForcedVariants, VariantChooser } from './variants.ts';

/** Types of elements; all have four bytes. */
export type DType = 'f32' | 'u32' | 'i32';
export type TensorData = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;

/** A call of an op on the tape. `vjp` computes the gradients of the inputs from the gradient of the output. */
export interface TapeNode {
  readonly op: string;
  /** Position on the tape. Nodes sorted by descending position are in reverse topological order. */
  readonly sequence: number;
  readonly inputs: readonly (Tensor | null)[];
  readonly output: Tensor;
  vjp(gradient: Tensor, earlier: EarlierGradients): readonly (Tensor | null)[];
}

/**
 * Takes the sum of the gradients that other ops have contributed to an input so far; null if there is none.
 * A backward function that takes the sum must add it to the gradient that it returns. If its kernel does so, a separate
 * pass for the addition is saved.
 */
export type EarlierGradients = (input: number) => Tensor | null;

/** A matrix of f32 values that kernels read from a texture. */
export interface TextureOperand extends TextureLines {
  readonly matrix: Tensor;
}

/** The part of a device that tensors and ops use. */
export interface TensorDevice {
  readonly limits: GPUSupportedLimits;
  /** Lanes per subgroup. 0 if kernels cannot rely on one size: the feature is absent, or several sizes are possible. */
  readonly subgroupSize: number;
  /**
   * Whether a subgroup is a vector of a CPU, as on software adapters. There, kernels with one subgroup per workgroup
   * are fastest. On GPUs, kernels with tiles in workgroup memory are fastest.
   */
  readonly smallSubgroups: boolean;
  /** Whether the adapter can read operands of matrix products from storage textures. */
  readonly operandTextures: boolean;
  /** Whether operands of products may be rounded to f16 in inference (`DeviceOptions.halfPrecision`). */
  readonly halfPrecision: boolean;
  /**
   * Default operand precision in inference without tuned choices. It is f16 if allowed, except with small subgroups:
   * those belong to CPUs, whose f32 kernels stage nothing in workgroup memory.
   */
  readonly expectedPrecision: StagedPrecision;
  /** Variants of kernels to use instead of the expected or tuned ones. */
  readonly force: ForcedVariants;
  /** Chooses among variants of kernels. */
  readonly tuner: VariantChooser<Tensor>;
  /** Whether ops are put on the tape now. */
  readonly gradEnabled: boolean;
  /**
   * Whether no gradient will depend on the current work. Then a faster variant may round more coarsely. Forward passes
   * of training keep the precision of plain sums: if rounding changes the sign of a ReLU's input, the gradient changes.
   */
  readonly inference: boolean;

  /** A tensor with undefined values, for ops that write every element. */
  empty(shape: Shape, dtype?: DType): Tensor;
  /** A tensor of zeros. */
  zeros(shape: Shape, dtype?: DType): Tensor;
  /**
   * Copies host values to the device. `dtype` follows the array's type; plain numbers are f32.
   * In a capture the values are constants, the same at each replay.
   */
  tensor(data: TensorData | readonly number[], shape?: Shape): Tensor;
  /** A tensor that gets a gradient. It lives until it is disposed; no scope frees it. */
  parameter(data: Float32Array<ArrayBuffer>, shape: Shape): Tensor;
  /**
   * A tensor computed from `from`. For parameters in inference, the values are computed on first use and cached in
   * textures. So weights are transformed once, not in every pass. `form` names the computation.
   */
  derived(from: Tensor, form: string, shape: Shape, compute: (into: Tensor) => void): Tensor;
  /** Another handle to the same values, with the given shape and without history on the tape. */
  alias(tensor: Tensor, shape: Shape): Tensor;
  /** A handle to a range of another tensor's memory; `offset` in elements, a multiple of 64. */
  view(tensor: Tensor, offset: number, shape: Shape): Tensor;
  /**
   * Overwrites a tensor's values from the host. In a capture, each replay writes the same values. Writes inside
   * `eachTime` run again with new values.
   */
  write(tensor: Tensor, data: TensorData): void;
  /** Copies values between tensors of equal size on the device. */
  copy(source: Tensor, destination: Tensor): void;
  /** The bytes of a tensor after all work so far. Throws in a capture. */
  readBytes(tensor: Tensor): Promise<ArrayBuffer>;

  /**
   * Runs `body` and frees the tensors made in it, except those that it keeps or returns (directly, or in arrays, maps
   * or plain objects). Tensors of a graph on the tape go to the outer scope; the outermost scope frees them.
   * `body` must not be asynchronous.
   */
  scope<T>(body: () => T): T;
  /** The scope of one op: as `scope`, but tensors of the graph survive even without an outer scope. */
  opScope<T>(body: () => T): T;
  /** As `scope`, but the tensors of a graph built in `body` are freed too, even inside other scopes. */
  graphScope<T>(body: () => T): T;
  /** Takes a tensor out of its scope. The tensor lives until it is disposed. */
  keep<T extends Tensor>(tensor: T): T;
  /** Runs `body`, and puts none of its ops on the tape. */
  noGrad<T>(body: () => T): T;
  /** Runs `body`, and puts its ops on the tape, even inside `noGrad`. */
  enableGrad<T>(body: () => T): T;
  /**
   * As `noGrad`, for work that is later computed again with the tape. Both runs use the same kernels, so the values are
   * the same.
   */
  rehearse<T>(body: () => T): T;

  /** Adds one dispatch of a kernel. Throws if the kernel needs subgroups or f16, and the device lacks the feature. */
  run<P extends string, B extends string>(
    kernel: Kernel<P, B>,
    params: Readonly<Record<P, number>>,
    buffers: Readonly<Record<B, Tensor | OperandTexture>>,
    grid: Grid,
  ): void;
  /** Runs `body` with matrices copied into operand textures. Only the commands of `body` may use these textures. */
  withTextures<T>(operands: readonly TextureOperand[], body: (textures: readonly OperandTexture[]) => T): T;
  /**
   * Runs `body`, the forward function of an op in inference. Texture copies of parameters, and of tensors derived from
   * parameters, stay for the next pass. In a capture no copies stay.
   */
  keepingOperands<T>(body: () => T): T;
  /**
   * Runs host work that later commands rely on, e.g. writing a learning rate. If it is called in a capture, the work
   * also runs before each replay.
   */
  eachTime(action: () => void): void;
}

/**
 * Values on a device. `device.tensor`, `device.parameter` and ops make tensors. The values do not change, except those
 * of parameters, gradients and optimizer state, and by `write` and `copy`. A tensor's memory goes back to the pool at
 * the end of the tensor's scope, or by `dispose`.
 */
export class Tensor {
  /** Row-major sizes; [] is a scalar. */
  readonly shape: Shape;
  readonly dtype: DType;
  readonly size: number;
  /** Whether gradients flow to this tensor: it is a parameter, or it was computed from a parameter on the tape. */
  requiresGrad = false;
  /** On parameters only: the sum of the gradients of all `backward` calls since `zeroGrad`. */
  grad: Tensor | null = null;
  /** The op that computed this tensor; null for parameters, constants, and tensors computed without the tape. */
  node: TapeNode | null = null;
  /** Whether the tensor belongs to a graph on the tape. An inner scope hands such tensors to the outer scope. */
  inGraph = false;
  /** How to compute the values on the first use of `storage` (see `TensorDevice.derived`); null for plain memory. */
  readonly derivation: Derivation | null;
  private data: Storage | 'not computed' | null;

  constructor(
    readonly device: TensorDevice,
    shape: Shape,
    dtype: DType,
    values: Storage | Derivation,
  ) {
    this.shape = shape;
    this.dtype = dtype;
    this.size = sizeOf(shape);
    this.derivation = values instanceof Storage ? null : values;
    this.data = values instanceof Storage ? values : 'not computed';
  }

  get rank(): number {
    return this.shape.length;
  }

  get byteLength(): number {
    return this.size * 4;
  }

  get disposed(): boolean {
    return this.data === null;
  }

  /** The tensor's memory. The first use computes derived values. Throws if the tensor was disposed. */
  get storage(): Storage {
    if (!this.data)
      throw new Error(
        `a tensor of shape ${formatShape(this.shape)} was used after it had been disposed: ` +
          'keep it, or return it from its scope',
      );
    if (this.data === 'not computed') this.data = this.derivation!.compute();
    return this.data;
  }

  /** Replaces the tensor's memory. Optimizers use this to move parameters into flat buffers. */
  moveTo(storage: Storage): void {
    this.storage.release();
    this.data = storage;
  }

  /** Frees the tensor. Scopes do this automatically. */
  dispose(): void {
    if (this.data instanceof Storage) this.data.release();
    this.data = null;
    this.node = null;
  }

  /** The same values without history: gradients stop here. The memory is shared. */
  detach(): Tensor {
    return this.device.alias(this, this.shape);
  }

  /** Frees the gradient. */
  zeroGrad(): void {
    this.grad?.dispose();
    this.grad = null;
  }

  /**
   * Waits until the device has done all work so far, and copies the values to the host. Only reads and
   * `Device.synchronize` wait for the device.
   */
  async read(): Promise<TensorData> {
    const bytes = await this.device.readBytes(this);
    if (this.dtype === 'f32') return new Float32Array(bytes);
    return this.dtype === 'u32' ? new Uint32Array(bytes) : new Int32Array(bytes);
  }

  /** `read` of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new Error(`item: expected a tensor with one element, got shape ${formatShape(this.shape)}`);
    return (await this.read())[0];
  }
}

/** All tensors in a value: the value itself, or inside arrays, maps and plain objects. */
export function tensorsIn(value: unknown, found: Set<Tensor> = new Set()): Set<Tensor> {
  if (value instanceof Tensor) found.add(value);
  else if (Array.isArray(value)) for (const item of value) tensorsIn(item, found);
  else if (value instanceof Map) for (const item of value.values()) tensorsIn(item, found);
  else if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) tensorsIn(item, found);
  }
  return found;
}
