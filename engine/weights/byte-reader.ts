/** A cursor over untrusted bytes: every read is checked against the end, every error names the file. */
import { WeightsError } from './safetensors.ts';

export type Bytes = Uint8Array<ArrayBuffer>;

/** Throws a WeightsError that starts with the file's name. */
export type Fail = (message: string) => never;

export function failFor(file: string): Fail {
  return (message) => {
    throw new WeightsError(`${file}: ${message}`);
  };
}

/** Little-endian reads, forward only unless `at` is set. */
export class ByteReader {
  private readonly view: DataView;

  constructor(
    readonly bytes: Bytes,
    private readonly fail: Fail,
    public at = 0,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Moves past `count` bytes and returns where they begin. */
  private advance(count: number): number {
    const begin = this.at;
    const left = this.bytes.length - begin;
    if (!(count >= 0 && count <= left))
      this.fail(`${count} bytes expected at byte ${begin}, ${Math.max(left, 0)} are left: truncated or corrupt`);
    this.at = begin + count;
    return begin;
  }

  /** A view of the next `count` bytes, not a copy. */
  take(count: number): Bytes {
    const begin = this.advance(count);
    return this.bytes.subarray(begin, begin + count);
  }

  u8(): number {
    return this.view.getUint8(this.advance(1));
  }
  u16(): number {
    return this.view.getUint16(this.advance(2), true);
  }
  u32(): number {
    return this.view.getUint32(this.advance(4), true);
  }
  i32(): number {
    return this.view.getInt32(this.advance(4), true);
  }
  /** Big-endian, as pickles hold it. */
  f64BigEndian(): number {
    return this.view.getFloat64(this.advance(8), false);
  }

  /** A count of bytes or elements; beyond 2^53 it rounds, which no file can hold anyway. */
  u64(): number {
    return Number(this.view.getBigUint64(this.advance(8), true));
  }

  /** Up to the next newline, without it. */
  line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) this.fail(`a line expected at byte ${this.at} does not end: truncated or corrupt`);
    const text = this.take(end - this.at);
    this.at++;
    return latin1(text.subarray(0, 1000));
  }
}

/** One character a byte. (TextDecoder's "latin1" is windows-1252.) For short texts. */
export function latin1(bytes: Bytes): string {
  let text = '';
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return text;
}
