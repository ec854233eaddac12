/** Tensors: handles to a shape, a dtype and a range of a GPU buffer. Immutable in value except for parameters and optimiser state. */
import type { BufferRange } from '../gpu/dispatcher.ts';
import type { PooledBuffer } from '../gpu/buffers.ts';
import type { Device } from '../device/device.ts';
import type { TapeNode } from './autograd.ts';
import type { Shape } from './shape.ts';
import { formatShape, sizeOf } from './shape.ts';

export type DType = 'f32' | 'u32' | 'i32';
export type TensorData = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer> | Int32Array<ArrayBuffer>;

/** A counted reference to (part of) a pooled buffer: views of one tensor share it. */
export class Storage {
  private references = 1;
  /** What a dispatch binds: whole vec4s. */
  readonly range: BufferRange;
  /** Of a parameter that no optimiser has moved: read in pass after pass, and seldom written. */
  lasting = false;

  /** @param offset in bytes, a multiple of 256 */
  constructor(
    readonly buffer: PooledBuffer,
    readonly offset: number,
    readonly bytes: number,
    private readonly onFree: (buffer: PooledBuffer) => void,
  ) {
    this.range = { id: buffer.id, gpu: buffer.gpu, offset, bytes: Math.max(16, (bytes + 15) & ~15) };
  }

  get shared(): boolean {
    return this.references > 1;
  }

  retain(): this {
    this.references++;
    return this;
  }

  release(): void {
    if (--this.references === 0) this.onFree(this.buffer);
  }
}

/** What values follow from, and how they are computed of it. */
export interface Derivation {
  readonly from: Storage;
  /** Names the computation. */
  readonly form: string;
  readonly compute: () => Storage;
}

/** Values on a device; made by `device.tensor`, `device.parameter`, or an op. Its memory goes back to the pool with its scope, or by `dispose`. */
export class Tensor {
  /** Row-major sizes; [] is a scalar. */
  readonly shape: Shape;
  readonly dtype: DType;
  readonly size: number;
  /** Whether gradients flow to this tensor: a parameter, or computed from one while recording. */
  requiresGrad = false;
  /** On parameters only: the sum of the gradients of every `backward` since `zeroGrad`. */
  grad: Tensor | null = null;
  /** How this tensor was computed; null for parameters, constants, and whatever was computed without recording. */
  node: TapeNode | null = null;
  /** Part of a recorded graph: an inner scope hands it to the scope around it instead of freeing it. */
  inGraph = false;
  /** Of values that are computed when their memory is first asked for: an operand texture may hold them already (`Device.derived`). */
  readonly derivation: Derivation | null;
  private data: Storage | 'not computed' | null;

  constructor(
    readonly device: Device,
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

  /** The memory behind; throws if the tensor was disposed. */
  get storage(): Storage {
    if (!this.data)
      throw new Error(
        `a tensor of shape ${formatShape(this.shape)} was used after it had been disposed: keep it, or return it from its scope`,
      );
    if (this.data === 'not computed') this.data = this.derivation!.compute();
    return this.data;
  }

  /** Replaces the memory behind (parameters moved into one flat buffer by the optimiser). */
  moveTo(storage: Storage): void {
    this.storage.release();
    this.data = storage;
  }

  /** Gives the memory back. Scopes do this by themselves. */
  dispose(): void {
    if (this.data instanceof Storage) this.data.release();
    this.data = null;
    this.node = null;
  }

  /** The same values without history: gradients stop here. Shares memory. */
  detach(): Tensor {
    return this.device.alias(this, this.shape);
  }

  /** Frees the gradient. */
  zeroGrad(): void {
    this.grad?.dispose();
    this.grad = null;
  }

  /** Copies the values to the host. The only wait in the engine: values arrive when the device is done with what was recorded. */
  async read(): Promise<TensorData> {
    const bytes = await this.device.readBytes(this);
    if (this.dtype === 'f32') return new Float32Array(bytes);
    return this.dtype === 'u32' ? new Uint32Array(bytes) : new Int32Array(bytes);
  }

  /** `read` of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new Error(`item: the tensor must have one element, got shape ${formatShape(this.shape)}`);
    return (await this.read())[0];
  }
}

/** The tensors in a value: itself, or in arrays, maps and plain objects. */
export function tensorsIn(value: unknown, found: Set<Tensor> = new Set()): Set<Tensor> {
  if (value instanceof Tensor) found.add(value);
  else if (Array.isArray(value)) for (const item of value) tensorsIn(item, found);
  else if (value instanceof Map) for (const item of value.values()) tensorsIn(item, found);
  else if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) tensorsIn(item, found);
  }
  return found;
}
