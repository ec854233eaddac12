/**
 * GPU buffers: a pool by size class, an arena for captures, and the ledger of all memory on the device.
 * Buffers are reused because creating one costs more than a dispatch, and a new one is cleared at its first use.
 */

/** A GPU buffer from the pool; `id` names it in cache keys. */
export interface PooledBuffer {
  readonly id: number;
  readonly gpu: GPUBuffer;
  readonly bytes: number;
}

export interface MemoryReport {
  /**
   * Bytes in use: buffers of tensors, buffers reserved by captures, and operand textures in use.
   * A buffer counts with its size class.
   */
  readonly liveBytes: number;
  /** Maximum of `liveBytes` since the start or the last `resetPeak`. */
  readonly peakBytes: number;
  /** Bytes of buffers and textures kept for reuse. */
  readonly pooledBytes: number;
  readonly liveBuffers: number;
}

const MIN_BUFFER_BYTES = 256;
/** Unique over all pools, because caches name buffers by it. */
let nextId = 1;

/** Rounds up to a quarter step between powers of two: at most a fifth is wasted. */
export function sizeClass(bytes: number): number {
  if (bytes <= MIN_BUFFER_BYTES) return MIN_BUFFER_BYTES;
  const step = Math.max(MIN_BUFFER_BYTES, 2 ** Math.floor(Math.log2(bytes - 1)) / 4);
  return Math.ceil(bytes / step) * step;
}

/** Counts the bytes in use and the free bytes of all pools of a device. */
export class MemoryLedger {
  private live = 0;
  private peak = 0;
  private pooled = 0;

  /** Memory was created and is in use. */
  add(bytes: number): void {
    this.live += bytes;
    this.peak = Math.max(this.peak, this.live);
  }

  /** Free memory is in use again. */
  reuse(bytes: number): void {
    this.pooled -= bytes;
    this.add(bytes);
  }

  /** Memory in use is free now. */
  release(bytes: number): void {
    this.live -= bytes;
    this.pooled += bytes;
  }

  /** Free memory was destroyed. */
  drop(bytes: number): void {
    this.pooled -= bytes;
  }

  resetPeak(): void {
    this.peak = this.live;
  }

  report(): Omit<MemoryReport, 'liveBuffers'> {
    return { liveBytes: this.live, peakBytes: this.peak, pooledBytes: this.pooled };
  }
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

  /** A buffer of at least `bytes` bytes. Throws RangeError if the device has no buffers that large. */
  acquire(bytes: number): PooledBuffer {
    const size = sizeClass(bytes);
    let buffer = this.free.get(size)?.pop();
    if (buffer) {
      this.freeBytes -= size;
      this.ledger.reuse(size);
    } else {
      if (size > this.maxBytes)
        throw new RangeError(
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
    // Sorted so that the oldest free buffer is handed out first, whatever the order of releases.
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

/**
 * Smallest share of a free arena buffer that a tensor may use. An arena can waste more than the pool does,
 * because its memory is reserved anyway.
 */
const MIN_FIT = 0.5;

/**
 * Memory reserved for the intermediate tensors of captures. The arena takes buffers from the pool when it needs them,
 * reuses them, and gives them back when the last capture is closed.
 * Captures share the arena, so several of them take about as much memory as the largest.
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
