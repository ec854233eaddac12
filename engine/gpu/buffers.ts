/** Pool of GPU buffers by size class: creating a buffer costs more than a dispatch, and a new one is cleared at its first use. And the books of all memory on the device. */

/** A GPU buffer out of the pool; `id` names it in cache keys. */
export interface PooledBuffer {
  readonly id: number;
  readonly gpu: GPUBuffer;
  readonly bytes: number;
}

export interface MemoryReport {
  /** Bytes of buffers that tensors hold now or captures have reserved, by size class, and of operand textures in use. */
  readonly liveBytes: number;
  /** The most that `liveBytes` has been since the start or the last `resetPeak`. */
  readonly peakBytes: number;
  /** Bytes of buffers and textures kept for reuse. */
  readonly pooledBytes: number;
  readonly liveBuffers: number;
}

const SMALLEST = 256;
/** One count for all pools: caches name buffers by it. */
let nextId = 1;

/** Rounds up to a quarter step between powers of two, so that at most a fifth is wasted. */
export function sizeClass(bytes: number): number {
  if (bytes <= SMALLEST) return SMALLEST;
  const step = Math.max(SMALLEST, 2 ** Math.floor(Math.log2(bytes - 1)) / 4);
  return Math.ceil(bytes / step) * step;
}

/** Bytes in use and free, over all pools of a device. */
export class MemoryLedger {
  private live = 0;
  private peak = 0;
  private pooled = 0;

  /** Memory was made, and is in use. */
  add(bytes: number): void {
    this.live += bytes;
    this.peak = Math.max(this.peak, this.live);
  }

  /** Free memory is in use again. */
  reuse(bytes: number): void {
    this.pooled -= bytes;
    this.add(bytes);
  }

  /** Memory in use is free. */
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

export class BufferPool {
  private readonly free = new Map<number, PooledBuffer[]>();
  private freeBytes = 0;
  private liveCount = 0;

  /** @param onDestroy called before buffers are destroyed: pending work must be submitted and cached bind groups dropped. */
  constructor(
    private readonly device: GPUDevice,
    private readonly maxBytes: number,
    private readonly ledger: MemoryLedger,
    private readonly onDestroy: () => void,
  ) {}

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
    // The oldest free buffer is handed out first, whatever the order of releases: a step that repeats gets the buffers it had, and its bind groups are there already.
    let at = list.length;
    while (at > 0 && list[at - 1].id < buffer.id) at--;
    list.splice(at, 0, buffer);
    this.ledger.release(buffer.bytes);
    this.liveCount--;
    this.freeBytes += buffer.bytes;
  }

  /** Destroys the free buffers where they take more than `keepBytes`. */
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

/** A free buffer of an arena may serve a tensor of down to this share of its size: what lies in the arena is paid for already. */
const WORST_FIT = 0.5;

/**
 * Memory that captures keep for themselves: taken from the pool as it is needed and used again within, and given back all together at the end.
 * Captures share it: what one computes on the way lies where another does, so that several cost about as much as the largest.
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

  /** The most bytes in use at once since the last `open`. */
  get peakBytes(): number {
    return this.peak;
  }

  owns(buffer: PooledBuffer): boolean {
    return this.owned.has(buffer);
  }

  /** One more capture uses the arena. */
  open(): void {
    this.users++;
    this.peak = this.used;
  }

  /** One capture less uses it; the last one gives the memory back to the pool. Buffers still in use then follow when they are released. */
  close(): void {
    if (--this.users > 0) return;
    for (const buffer of this.free) this.giveBack(buffer);
    this.free = [];
  }

  /** The best fitting free buffer, or one from the pool. */
  acquire(bytes: number): PooledBuffer {
    const size = sizeClass(bytes);
    let best = -1;
    this.free.forEach((buffer, i) => {
      if (
        buffer.bytes >= size &&
        size >= buffer.bytes * WORST_FIT &&
        (best < 0 || buffer.bytes < this.free[best].bytes)
      )
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
