/** The ledger of a device's memory: bytes in use, their peak, and bytes kept for reuse. */

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
