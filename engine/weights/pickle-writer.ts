/** Python's pickle format written: just what files of weights need. Every opcode is in the allow-list of PyTorch's `weights_only` unpickler. Format: CPython's Lib/pickletools.py. */
import type { Bytes } from './byte-reader.ts';
import { WeightsError } from './safetensors.ts';

/** Collects bytes; large ones are kept as they are until the end. */
export class ByteWriter {
  private readonly parts: Uint8Array[] = [];
  private pending: number[] = [];
  private flushed = 0;

  /** Bytes written so far. */
  get length(): number {
    return this.flushed + this.pending.length;
  }

  u8(...values: readonly number[]): this {
    for (const value of values) this.pending.push(value & 0xff);
    return this;
  }

  u16(value: number): this {
    return this.u8(value, value >>> 8);
  }

  u32(value: number): this {
    return this.u8(value, value >>> 8, value >>> 16, value >>> 24);
  }

  /** Does not copy: `bytes` must stay as they are until `join`. */
  bytes(bytes: Uint8Array): this {
    this.flush();
    this.parts.push(bytes);
    this.flushed += bytes.length;
    return this;
  }

  private flush(): void {
    this.parts.push(Uint8Array.from(this.pending));
    this.flushed += this.pending.length;
    this.pending = [];
  }

  /** Everything written, in one piece. */
  join(): Bytes {
    this.flush();
    const out = new Uint8Array(this.flushed);
    let at = 0;
    for (const part of this.parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }
}

const OP = {
  PROTO: 0x80,
  STOP: 0x2e,
  MARK: 0x28,
  NONE: 0x4e,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  BININT: 0x4a,
  BINUNICODE: 0x58,
  BINBYTES: 0x42,
  GLOBAL: 0x63,
  REDUCE: 0x52,
  BUILD: 0x62,
  BINPERSID: 0x51,
  EMPTY_DICT: 0x7d,
  EMPTY_TUPLE: 0x29,
  TUPLE: 0x74,
  SETITEMS: 0x75,
} as const;

/** Writes values onto the stack of Python's pickle machine, one call a value or operation. */
export class PickleWriter {
  private readonly out = new ByteWriter();

  /** @param protocol 2, or 3 where there are bytes */
  constructor(protocol: 2 | 3) {
    this.out.u8(OP.PROTO, protocol);
  }

  text(value: string): this {
    const utf8 = new TextEncoder().encode(value);
    this.out.u8(OP.BINUNICODE).u32(utf8.length).bytes(utf8);
    return this;
  }

  bytes(value: Uint8Array): this {
    this.out.u8(OP.BINBYTES).u32(value.length).bytes(value);
    return this;
  }

  /** Within 32 bits, signed. */
  integer(value: number): this {
    if (!Number.isInteger(value) || Math.abs(value) >= 2 ** 31)
      throw new WeightsError(`pickle: integers of 32 bits are written, got ${value}`);
    this.out.u8(OP.BININT).u32(value);
    return this;
  }

  boolean(value: boolean): this {
    return this.op(value ? OP.NEWTRUE : OP.NEWFALSE);
  }

  none(): this {
    return this.op(OP.NONE);
  }

  /** A class or function by its module and name. */
  global(module: string, name: string): this {
    this.out.u8(OP.GLOBAL).bytes(new TextEncoder().encode(`${module}\n${name}\n`));
    return this;
  }

  /** A tuple of what `items` writes. */
  tuple(items: () => void): this {
    this.op(OP.MARK);
    items();
    return this.op(OP.TUPLE);
  }

  integers(values: readonly number[]): this {
    return this.tuple(() => {
      for (const value of values) this.integer(value);
    });
  }

  /** Calls the global below the tuple of arguments on top. */
  call(): this {
    return this.op(OP.REDUCE);
  }

  /** Gives the object below the state on top. */
  build(): this {
    return this.op(OP.BUILD);
  }

  /** Names something outside of the pickle by the tuple on top. */
  persistent(): this {
    return this.op(OP.BINPERSID);
  }

  emptyDict(): this {
    return this.op(OP.EMPTY_DICT);
  }

  emptyOrderedDict(): this {
    return this.global('collections', 'OrderedDict').op(OP.EMPTY_TUPLE).op(OP.REDUCE);
  }

  /** Puts the keys and values that `items` writes into the dict below. */
  setItems(items: () => void): this {
    this.op(OP.MARK);
    items();
    return this.op(OP.SETITEMS);
  }

  private op(code: number): this {
    this.out.u8(code);
    return this;
  }

  finish(): Bytes {
    this.out.u8(OP.STOP);
    return this.out.join();
  }
}
