/** Timestamps of compute passes (feature `timestamp-query`). */

/** Queries per set: the maximum that WebGPU allows. A pass takes two. */
const MAX_QUERIES = 4096;
/** The queries are resolved if fewer than this many are left. The passes of one submit use fewer. */
const QUERY_RESERVE = 512;

/** Begin and end of passes in milliseconds of the device's clock, in pairs, and the resolution of that clock. */
export interface PassTimes {
  readonly times: number[];
  readonly resolutionNs: number;
}

/** Writes the begin and end of every compute pass to a query set, and reads them back. */
export class PassTimestamps {
  private readonly querySet: GPUQuerySet;
  /** Queries used since the last `resolve`. */
  private used = 0;
  private readonly resolved: GPUBuffer[] = [];

  constructor(private readonly gpu: GPUDevice) {
    this.querySet = gpu.createQuerySet({ label: 'profile', type: 'timestamp', count: MAX_QUERIES });
  }

  /** The descriptor of the next pass. */
  nextPass(): GPUComputePassDescriptor {
    const timestampWrites = {
      querySet: this.querySet,
      beginningOfPassWriteIndex: this.used,
      endOfPassWriteIndex: this.used + 1,
    };
    this.used += 2;
    return { timestampWrites };
  }

  /** Resolves the queries if few are left. Call it before an encoder is finished. */
  resolveIfFull(encoder: GPUCommandEncoder): void {
    if (this.used > MAX_QUERIES - QUERY_RESERVE) this.resolve(encoder);
  }

  private resolve(encoder: GPUCommandEncoder): void {
    if (this.used === 0) return;
    const size = this.used * 8;
    const buffer = this.gpu.createBuffer({
      label: 'timestamps',
      size,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const staging = this.gpu.createBuffer({
      label: 'timestamps read',
      size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    encoder.resolveQuerySet(this.querySet, 0, this.used, buffer, 0);
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
    this.resolved.push(staging);
    this.used = 0;
  }

  /** Reads all timestamps; `allDone` waits for all submitted work. */
  async read(allDone: () => Promise<unknown>): Promise<PassTimes> {
    const encoder = this.gpu.createCommandEncoder();
    this.resolve(encoder);
    this.gpu.queue.submit([encoder.finish()]);
    const raw: bigint[] = [];
    for (const staging of this.resolved) {
      await Promise.all([staging.mapAsync(GPUMapMode.READ), allDone()]);
      raw.push(...new BigUint64Array(staging.getMappedRange()));
      staging.unmap();
    }
    const first = raw[0] ?? 0n;
    return {
      times: raw.map((value) => Number(value - first) / 1e6),
      resolutionNs: raw.length > 0 ? commonDivisor(raw) : 0,
    };
  }

  destroy(): void {
    this.querySet.destroy();
    for (const staging of this.resolved) staging.destroy();
  }
}

/** The greatest common divisor. */
function commonDivisor(values: readonly bigint[]): number {
  let divisor = 0n;
  for (let value of values) {
    while (value !== 0n) [divisor, value] = [value, divisor % value];
    if (divisor === 1n) break;
  }
  return Number(divisor);
}
