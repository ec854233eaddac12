/** A cursor over untrusted bytes. Every read is checked against the end; every error names the file. */
import type { Fail } from './errors.ts';

export type Bytes = Uint8Array<ArrayBuffer>;

/** Maximum length of a line that `line` returns. Names are shorter. */
const MAX_LINE = 1000;

/** Reads little-endian values, one after the other. Set `at` to move. */
export class ByteReader {
  private readonly view: DataView;

  constructor(
    readonly bytes: Bytes,
    private readonly fail: Fail,
    public at = 0,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Moves past `count` bytes. Returns the position of the first one. */
  private advance(count: number): number {
    const begin = this.at;
    const left = this.bytes.length - begin;
    if (!(count >= 0 && count <= left))
      this.fail(`at byte ${begin}: expected ${count} bytes, got ${Math.max(left, 0)}: truncated or corrupt`);
    this.at = begin + count;
    return begin;
  }

  /** The next `count` bytes, as a view and not as a copy. */
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
  /** Big-endian, as in pickles. */
  f64BigEndian(): number {
    return this.view.getFloat64(this.advance(8), false);
  }

  /** A number of bytes or elements. Values beyond 2^53 are rounded, but no file is that long. */
  u64(): number {
    return Number(this.view.getBigUint64(this.advance(8), true));
  }

  /** The text before the next newline. The newline is skipped. */
  line(): string {
    const end = this.bytes.indexOf(0x0a, this.at);
    if (end < 0) this.fail(`at byte ${this.at}: expected a line, got no end of it: truncated or corrupt`);
    const text = this.take(end - this.at);
    this.at++;
    return latin1(text.subarray(0, MAX_LINE));
  }
}

/** One character per byte, for short texts. (TextDecoder's "latin1" is windows-1252.) */
export function latin1(bytes: Bytes): string {
  let text = '';
  for (let i = 0; i < bytes.length; i += 4096) text += String.fromCharCode(...bytes.subarray(i, i + 4096));
  return text;
}
