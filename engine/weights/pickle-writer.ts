/**
 * Writes the parts of Python's pickle format that files of weights need.
 * Every opcode is in the allow-list of PyTorch's `weights_only` unpickler. Source: CPython's Lib/pickletools.py.
 */
import type { Bytes } from './byte-reader.ts';
import { WeightsError } from './errors.ts';
import { OP } from './pickle-opcodes.ts';

/** Collects bytes. Only `join` copies arrays. */
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

  /** Adds an array without copying it. The array must not change before `join`. */
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

  /** Everything that was written, in one array. */
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

/** Writes the opcodes of Python's pickle machine. Most calls push a value on the machine's stack. */
export class PickleWriter {
  private readonly out = new ByteWriter();

  /** @param protocol 2; 3 for pickles with bytes */
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

  /** A signed integer of 32 bits. */
  integer(value: number): this {
    if (!Number.isInteger(value) || Math.abs(value) >= 2 ** 31)
      throw new WeightsError(`pickle: expected an integer of 32 bits, got ${value}`);
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

  /** A tuple of the values that `items` writes. */
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

  /** Calls a global. The stack has the global and, above it, the tuple of arguments. */
  call(): this {
    return this.op(OP.REDUCE);
  }

  /** Sets the state of an object. The stack has the object and, above it, the state. */
  build(): this {
    return this.op(OP.BUILD);
  }

  /** Replaces the tuple on top of the stack by an object outside of the pickle. The tuple is the object's id. */
  persistent(): this {
    return this.op(OP.BINPERSID);
  }

  emptyDict(): this {
    return this.op(OP.EMPTY_DICT);
  }

  emptyOrderedDict(): this {
    return this.global('collections', 'OrderedDict').op(OP.EMPTY_TUPLE).op(OP.REDUCE);
  }

  /** Adds the keys and values that `items` writes to the dict on top of the stack. */
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
