/**
 * Random numbers from a seed, equal on every adapter and in every process.
 *
 * The generator is counter-based: Philox4x32-10, Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
 * The n-th number is a pure function of (seed, stream, n). So these three values are enough to continue a stream
 * exactly. Independent streams (for example one per image and epoch) need no coordination.
 */

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

/** Upper 32 bits of the 64-bit product of two u32. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff,
    aHigh = a >>> 16,
    bLow = b & 0xffff,
    bHigh = b >>> 16;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >>> 16);
  const carry = (middle & 0xffff) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}

/** Ten rounds of Philox4x32. They map a counter (4 x u32) and a key (2 x u32) to four u32. */
export function philox(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0),
      low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const high1 = multiplyHigh(MULTIPLIER_1, c2),
      low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** A stream of random numbers. Equal constructor arguments give equal numbers. */
export class Random {
  private readonly key: [number, number];
  private counter = 0;
  private block: [number, number, number, number] = [0, 0, 0, 0];
  private used = 4;
  private spareNormal: number | null = null;

  /**
   * @param seed      integer in 0 .. 2^32 - 1
   * @param stream    integer in 0 .. 2^32 - 1; with `substream` it names an independent stream, e.g. (epoch, image)
   * @param substream integer in 0 .. 2^32 - 1
   */
  constructor(
    seed: number,
    private readonly stream: number = 0,
    private readonly substream: number = 0,
  ) {
    for (const [name, value] of [
      ['seed', seed],
      ['stream', stream],
      ['substream', substream],
    ] as const) {
      if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) {
        throw new RangeError(`Random: ${name}: expected an integer in 0 .. 4294967295, got ${value}`);
      }
    }
    this.key = [seed, 0x5eed];
  }

  /** Uniform integer in 0 .. 2^32 - 1. */
  uint32(): number {
    if (this.used === 4) {
      this.block = philox(
        [this.counter >>> 0, Math.floor(this.counter / 0x100000000), this.stream, this.substream],
        this.key,
      );
      this.counter++;
      this.used = 0;
    }
    return this.block[this.used++];
  }

  /** Uniform in [0, 1), with 24 bits: exact in f32. */
  uniform(): number {
    return (this.uint32() >>> 8) / 0x1000000;
  }

  /** Uniform integer in 0 .. bound - 1, by rejection, without bias. */
  integer(bound: number): number {
    if (!Number.isInteger(bound) || bound < 1 || bound > 0x100000000)
      throw new RangeError(`Random.integer: bound: expected an integer in 1 .. 2^32, got ${bound}`);
    const limit = 0x100000000 - (0x100000000 % bound);
    for (;;) {
      const value = this.uint32();
      if (value < limit) return value % bound;
    }
  }

  /** Standard normal, by the method of Box and Muller. */
  normal(): number {
    if (this.spareNormal !== null) {
      const value = this.spareNormal;
      this.spareNormal = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log((this.uint32() + 1) / 0x100000001));
    const angle = 2 * Math.PI * (this.uint32() / 0x100000000);
    this.spareNormal = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** A random permutation of 0 .. length - 1, by the method of Fisher and Yates. */
  permutation(length: number): Uint32Array {
    const order = Uint32Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  /** `length` uniform numbers in [low, high) as f32. */
  uniformArray(length: number, low = 0, high = 1): Float32Array<ArrayBuffer> {
    return Float32Array.from({ length }, () => low + (high - low) * this.uniform());
  }

  /** `length` normal numbers with mean `mean` and standard deviation `deviation`, as f32. */
  normalArray(length: number, mean = 0, deviation = 1): Float32Array<ArrayBuffer> {
    return Float32Array.from({ length }, () => mean + deviation * this.normal());
  }
}
