/** The memory that captures reserve and share. */
import { sizeClass, type BufferPool, type PooledBuffer } from './buffers.ts';

/**
 * A free arena buffer is reused only if the tensor fills at least this share of it. An arena can waste more memory than
 * the pool does, because the arena's memory is reserved anyway.
 */
const MIN_FIT = 0.5;

/**
 * Memory reserved for the intermediate tensors of captures. The arena takes buffers from the pool when it needs them,
 * reuses them, and gives them back when the last capture is closed.
 * Captures share the arena, so several captures together take about as much memory as the largest one.
 */
export class BufferArena {
  private readonly owned = new Set<PooledBuffer>();
  private free: PooledBuffer[] = [];
  private users = 0;
  private total = 0;
  private used = 0;
  private peak = 0;

  constructor(private readonly pool: BufferPool) {}

  /** Bytes taken from the pool. */
  get bytes(): number {
    return this.total;
  }

  /** Maximum of bytes in use since the last `open`. */
  get peakBytes(): number {
    return this.peak;
  }

  owns(buffer: PooledBuffer): boolean {
    return this.owned.has(buffer);
  }

  /** Registers a capture as a user of the arena. */
  open(): void {
    this.users++;
    this.peak = this.used;
  }

  /**
   * Removes a capture. After the last one the free buffers go back to the pool.
   * Buffers that are still in use follow when they are released.
   */
  close(): void {
    if (--this.users > 0) return;
    for (const buffer of this.free) this.giveBack(buffer);
    this.free = [];
  }

  /** The free buffer that fits best, or one from the pool. */
  acquire(bytes: number): PooledBuffer {
    const size = sizeClass(bytes);
    let best = -1;
    this.free.forEach((buffer, i) => {
      if (buffer.bytes >= size && size >= buffer.bytes * MIN_FIT && (best < 0 || buffer.bytes < this.free[best].bytes))
        best = i;
    });
    let buffer: PooledBuffer;
    if (best >= 0) [buffer] = this.free.splice(best, 1);
    else {
      buffer = this.pool.acquire(bytes);
      this.owned.add(buffer);
      this.total += buffer.bytes;
    }
    this.used += buffer.bytes;
    this.peak = Math.max(this.peak, this.used);
    return buffer;
  }

  release(buffer: PooledBuffer): void {
    this.used -= buffer.bytes;
    if (this.users > 0) this.free.push(buffer);
    else this.giveBack(buffer);
  }

  private giveBack(buffer: PooledBuffer): void {
    this.owned.delete(buffer);
    this.total -= buffer.bytes;
    this.pool.release(buffer);
  }
}
