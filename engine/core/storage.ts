/** The memory of tensors: counted references to pooled buffers, and values that are computed on first use. */
import type { PooledBuffer } from '../gpu/buffers.ts';
import type { BufferRange } from '../gpu/resources.ts';

/** A counted reference to a pooled buffer or to a part of one. Aliases of a tensor share one Storage. */
export class Storage {
  private references = 1;
  /** The range that a dispatch binds. Its size is rounded up to whole vec4s. */
  readonly range: BufferRange;
  /**
   * Whether this is the memory of a parameter, which every pass reads and which is rarely written. False for
   * parameters that an optimizer has moved into its own memory.
   */
  persistent = false;

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

/** How to compute a tensor's values from other memory, on the first use of the tensor. */
export interface Derivation {
  readonly from: Storage;
  /** Names the computation. */
  readonly form: string;
  readonly compute: () => Storage;
}
