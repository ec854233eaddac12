/**
 * The pool of GPU buffers, by size class.
 * Buffers are reused because creating one costs more than a dispatch, and a new one is cleared at its first use.
 */
import type { MemoryLedger } from './memory-ledger.ts';
import { OutOfMemoryError } from './out-of-memory.ts';

/** A GPU buffer from the pool; `id` names it in cache keys. */
export interface PooledBuffer {
  readonly id: number;
  readonly gpu: GPUBuffer;
  readonly bytes: number;
}

const MIN_BUFFER_BYTES = 256;
/** Unique over all pools, because caches name buffers by it. */
let nextId = 1;

/** Rounds up to a multiple of a quarter of the next lower power of two. At most a fifth of a buffer is wasted. */
export function sizeClass(bytes: number): number {
  if (bytes <= MIN_BUFFER_BYTES) return MIN_BUFFER_BYTES;
  const step = Math.max(MIN_BUFFER_BYTES, 2 ** Math.floor(Math.log2(bytes - 1)) / 4);
  return Math.ceil(bytes / step) * step;
}

/** Buffers of a device: in use, or free for reuse. */
export class BufferPool {
  private readonly free = new Map<number, PooledBuffer[]>();
  private freeBytes = 0;
  private liveCount = 0;

  /**
   * @param maxBytes  largest buffer of the device
   * @param onDestroy called before buffers are destroyed; it submits pending work and drops cached bind groups
   */
  constructor(
    private readonly device: GPUDevice,
    private readonly maxBytes: number,
    private readonly ledger: MemoryLedger,
    private readonly onDestroy: () => void,
  ) {}

  /** A buffer of at least `bytes` bytes. Throws OutOfMemoryError if the device has no buffers that large. */
  acquire(bytes: number): PooledBuffer {
    const size = sizeClass(bytes);
    let buffer = this.free.get(size)?.pop();
    if (buffer) {
      this.freeBytes -= size;
      this.ledger.reuse(size);
    } else {
      if (size > this.maxBytes)
        throw new OutOfMemoryError(
          `a tensor of ${bytes} bytes does not fit a buffer of this device (at most ${this.maxBytes} bytes)`,
        );
      const gpu = this.device.createBuffer({
        size,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
      });
      buffer = { id: nextId++, gpu, bytes: size };
      this.ledger.add(size);
    }
    this.liveCount++;
    return buffer;
  }

  release(buffer: PooledBuffer): void {
    const list = this.free.get(buffer.bytes) ?? [];
    if (list.length === 0) this.free.set(buffer.bytes, list);
    // The list is sorted, so that `acquire` returns the oldest free buffer, in whatever order buffers were released.
    // Then a repeated step gets the same buffers again and finds its bind groups in the cache.
    let at = list.length;
    while (at > 0 && list[at - 1].id < buffer.id) at--;
    list.splice(at, 0, buffer);
    this.ledger.release(buffer.bytes);
    this.liveCount--;
    this.freeBytes += buffer.bytes;
  }

  /** Destroys all free buffers if together they take more than `keepBytes`. */
  trim(keepBytes = 0): void {
    if (this.freeBytes <= keepBytes) return;
    this.onDestroy();
    for (const [size, list] of this.free) {
      for (const buffer of list) buffer.gpu.destroy();
      this.ledger.drop(size * list.length);
    }
    this.free.clear();
    this.freeBytes = 0;
  }

  get liveBuffers(): number {
    return this.liveCount;
  }
}
