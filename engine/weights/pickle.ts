/**
 * Python's pickle format, protocols 2 to 5, read as plain data. Nothing is executed: a global is looked up in the caller's allow-list, and what is
 * not there is refused by its name the moment it is mentioned. Time and memory are bounded by the file's size: the values refer to the file's bytes,
 * the machine has no recursion, and what a global builds is charged against a budget.
 * Format: CPython's Lib/pickletools.py.
 */
import { latin1, type ByteReader, type Bytes, type Fail } from './byte-reader.ts';

/** A text too long to be a name, still in UTF-8: Python 3 writes an array's bytes so in protocol 2. */
export class LongText {
  constructor(readonly utf8: Bytes) {}
}

export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A list, or a set. */
export class PickleList {
  readonly items: PickleValue[] = [];
}

/** A dict, OrderedDict, ...; keys are compared as JavaScript's Map does, and never become properties. */
export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();
}

/** Anything that an allowed global built. */
export abstract class PickleObject {
  /** For messages, e.g. `numpy.ndarray`. */
  abstract readonly kind: string;

  /** Takes the state that BUILD gives. Objects that expect none refuse it. */
  build(_state: PickleValue, context: PickleContext): void {
    context.fail(`pickle: ${this.kind} takes no state (BUILD)`);
  }
}

/** An allowed class or function. */
export class PickleGlobal {
  /** @param call what REDUCE and NEWOBJ give; null where the global is only ever mentioned */
  constructor(
    readonly name: string,
    readonly call: ((args: readonly PickleValue[], context: PickleContext) => PickleValue) | null,
  ) {}
}

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Bytes
  | LongText
  | PickleTuple
  | PickleList
  | PickleDict
  | PickleObject
  | PickleGlobal;

/** What globals may use while they build. */
export interface PickleContext {
  readonly fail: Fail;
  /** Pays for copying or creating `count` items or bytes. Throws where the pickle asks for more than its size explains. */
  charge(count: number): void;
}

export interface PickleOptions {
  readonly fail: Fail;
  /** The allow-list. */
  readonly globals: ReadonlyMap<string, PickleGlobal>;
  /** Resolves persistent ids (storages); without it they are refused. */
  readonly persistent?: (id: PickleValue) => PickleValue;
}

/** Longer texts stay bytes. */
const LONG_TEXT = 1 << 16;
/** PyTorch's magic number takes 10; nothing in a checkpoint needs more. */
const MAX_INTEGER_BYTES = 64;
/** Containers and other objects in one pickle; a tensor takes about six. */
const MAX_OBJECTS = 2 ** 21;
const NO_ITEMS = new PickleTuple([]);

const OP = {
  PROTO: 0x80,
  FRAME: 0x95,
  STOP: 0x2e,
  MARK: 0x28,
  POP: 0x30,
  POP_MARK: 0x31,
  DUP: 0x32,
  NONE: 0x4e,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  BININT: 0x4a,
  BININT1: 0x4b,
  BININT2: 0x4d,
  LONG1: 0x8a,
  LONG4: 0x8b,
  BINFLOAT: 0x47,
  BINUNICODE: 0x58,
  SHORT_BINUNICODE: 0x8c,
  BINUNICODE8: 0x8d,
  BINSTRING: 0x54,
  SHORT_BINSTRING: 0x55,
  BINBYTES: 0x42,
  SHORT_BINBYTES: 0x43,
  BINBYTES8: 0x8e,
  BYTEARRAY8: 0x96,
  READONLY_BUFFER: 0x98,
  EMPTY_TUPLE: 0x29,
  TUPLE: 0x74,
  TUPLE1: 0x85,
  TUPLE2: 0x86,
  TUPLE3: 0x87,
  EMPTY_LIST: 0x5d,
  LIST: 0x6c,
  APPEND: 0x61,
  APPENDS: 0x65,
  EMPTY_DICT: 0x7d,
  DICT: 0x64,
  SETITEM: 0x73,
  SETITEMS: 0x75,
  EMPTY_SET: 0x8f,
  ADDITEMS: 0x90,
  FROZENSET: 0x91,
  BINPUT: 0x71,
  LONG_BINPUT: 0x72,
  MEMOIZE: 0x94,
  BINGET: 0x68,
  LONG_BINGET: 0x6a,
  GLOBAL: 0x63,
  STACK_GLOBAL: 0x93,
  REDUCE: 0x52,
  NEWOBJ: 0x81,
  NEWOBJ_EX: 0x92,
  BUILD: 0x62,
  BINPERSID: 0x51,
} as const;

/** Opcodes that are known and refused: text forms of protocol 0, and the ways to make objects that no checkpoint needs. */
const REFUSED: ReadonlyMap<number, string> = new Map([
  [0x49, 'INT'],
  [0x4c, 'LONG'],
  [0x46, 'FLOAT'],
  [0x53, 'STRING'],
  [0x56, 'UNICODE'],
  [0x70, 'PUT'],
  [0x67, 'GET'],
  [0x50, 'PERSID'],
  [0x6f, 'OBJ'],
  [0x97, 'NEXT_BUFFER'],
]);

const EXTENSIONS: ReadonlyMap<number, number> = new Map([
  [0x82, 1],
  [0x83, 2],
  [0x84, 4],
]);

/** For messages: what a value is, in a few words. */
export function describePickle(value: PickleValue): string {
  if (value === null) return 'None';
  if (typeof value === 'string') return 'a text';
  if (typeof value === 'boolean') return 'a boolean';
  if (typeof value === 'number' || typeof value === 'bigint') return 'a number';
  if (value instanceof Uint8Array || value instanceof LongText) return 'bytes';
  if (value instanceof PickleTuple) return `a tuple of ${value.items.length}`;
  if (value instanceof PickleList) return `a list of ${value.items.length}`;
  if (value instanceof PickleDict) return `a dict of ${value.entries.size}`;
  return value instanceof PickleGlobal ? `the global ${value.name}` : `a ${value.kind}`;
}

/**
 * Reads one pickle at the reader's place and leaves it after the STOP.
 * @throws WeightsError naming the file and the opcode, the global or the place
 */
export function readPickle(reader: ByteReader, options: PickleOptions): PickleValue {
  return new Unpickler(reader, options).run();
}

class Unpickler implements PickleContext {
  readonly fail: Fail;
  private readonly stack: PickleValue[] = [];
  private readonly marks: number[] = [];
  private readonly memo = new Map<number, PickleValue>();
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  private budget: number;
  private objects = 0;

  constructor(
    private readonly reader: ByteReader,
    private readonly options: PickleOptions,
  ) {
    this.fail = options.fail;
    this.budget = 4 * reader.bytes.length + 1024;
  }

  charge(count: number): void {
    this.budget -= count;
    if (this.budget < 0) this.fail('pickle: builds more data than the file holds: refused');
  }

  run(): PickleValue {
    const { reader } = this;
    if (reader.u8() !== OP.PROTO)
      this.fail(`pickle: no protocol opcode at byte ${reader.at - 1}: not a pickle of protocol 2 to 5`);
    const protocol = reader.u8();
    if (protocol < 2 || protocol > 5) this.fail(`pickle: protocol must be 2 to 5, got ${protocol}`);
    for (;;) {
      const opcode = reader.u8();
      if (opcode === OP.STOP) {
        const value = this.pop();
        if (this.stack.length > 0 || this.marks.length > 0)
          this.fail(`pickle: ${this.stack.length} values are left at its end: corrupt`);
        return value;
      }
      this.step(opcode);
    }
  }

  private push(value: PickleValue): void {
    this.stack.push(value);
  }

  private pop(): PickleValue {
    const floor = this.marks.length > 0 ? this.marks[this.marks.length - 1] : 0;
    if (this.stack.length <= floor) this.fail(`pickle: a value is missing at byte ${this.reader.at - 1}: corrupt`);
    return this.stack.pop()!;
  }

  private top(): PickleValue {
    const value = this.pop();
    this.stack.push(value);
    return value;
  }

  /** The values since the last MARK, which goes too. */
  private popMark(): PickleValue[] {
    const mark = this.marks.pop();
    return mark === undefined
      ? this.fail(`pickle: a mark is missing at byte ${this.reader.at - 1}: corrupt`)
      : this.stack.splice(mark);
  }

  private popItems(count: number): PickleValue[] {
    const items: PickleValue[] = [];
    for (let i = 0; i < count; i++) items.unshift(this.pop());
    return items;
  }

  /** Pays for an object: memory that one byte of the file can ask for. */
  private made(cost: number): void {
    this.charge(cost);
    if (++this.objects > MAX_OBJECTS) this.fail(`pickle: builds more than ${MAX_OBJECTS} objects: refused`);
  }

  private tuple(items: readonly PickleValue[]): PickleTuple {
    this.made(8);
    return new PickleTuple(items);
  }

  private list(): PickleList {
    this.made(8);
    return new PickleList();
  }

  private dict(): PickleDict {
    this.made(32);
    return new PickleDict();
  }

  private bytes(length: number): Bytes {
    this.made(8);
    return this.reader.take(length);
  }

  private step(opcode: number): void {
    const { reader } = this;
    switch (opcode) {
      case OP.PROTO: {
        reader.u8();
        return;
      }
      case OP.FRAME: {
        const length = reader.u64();
        const left = reader.bytes.length - reader.at;
        if (length > left)
          this.fail(`pickle: a frame of ${length} bytes does not fit the ${left} that are left: truncated`);
        return;
      }
      case OP.MARK: {
        this.marks.push(this.stack.length);
        return;
      }
      case OP.POP: {
        // As in CPython: where nothing lies above it, POP removes the mark.
        if (this.marks.length > 0 && this.marks[this.marks.length - 1] === this.stack.length) this.marks.pop();
        else this.pop();
        return;
      }
      case OP.POP_MARK: {
        this.popMark();
        return;
      }
      case OP.DUP: {
        this.push(this.top());
        return;
      }

      case OP.NONE: {
        this.push(null);
        return;
      }
      case OP.NEWTRUE: {
        this.push(true);
        return;
      }
      case OP.NEWFALSE: {
        this.push(false);
        return;
      }
      case OP.BININT: {
        this.push(reader.i32());
        return;
      }
      case OP.BININT1: {
        this.push(reader.u8());
        return;
      }
      case OP.BININT2: {
        this.push(reader.u16());
        return;
      }
      case OP.LONG1: {
        this.push(this.integer(reader.u8()));
        return;
      }
      case OP.LONG4: {
        this.push(this.integer(reader.u32()));
        return;
      }
      case OP.BINFLOAT: {
        this.push(reader.f64BigEndian());
        return;
      }

      case OP.SHORT_BINUNICODE: {
        this.push(this.text(reader.u8()));
        return;
      }
      case OP.BINUNICODE: {
        this.push(this.text(reader.u32()));
        return;
      }
      case OP.BINUNICODE8: {
        this.push(this.text(reader.u64()));
        return;
      }
      // Python 2's strings: names, or an array's bytes; latin1, as Detectron2 reads them.
      case OP.SHORT_BINSTRING: {
        this.push(latin1(reader.take(reader.u8())));
        return;
      }
      case OP.BINSTRING: {
        const bytes = reader.take(reader.u32());
        this.push(bytes.length > LONG_TEXT ? bytes : latin1(bytes));
        return;
      }
      case OP.SHORT_BINBYTES: {
        this.push(this.bytes(reader.u8()));
        return;
      }
      case OP.BINBYTES: {
        this.push(this.bytes(reader.u32()));
        return;
      }
      case OP.BINBYTES8:
      case OP.BYTEARRAY8: {
        this.push(this.bytes(reader.u64()));
        return;
      }
      case OP.READONLY_BUFFER: {
        this.top();
        return;
      }

      case OP.EMPTY_TUPLE: {
        this.push(NO_ITEMS);
        return;
      }
      case OP.TUPLE:
      case OP.FROZENSET: {
        this.push(this.tuple(this.popMark()));
        return;
      }
      case OP.TUPLE1: {
        this.push(this.tuple(this.popItems(1)));
        return;
      }
      case OP.TUPLE2: {
        this.push(this.tuple(this.popItems(2)));
        return;
      }
      case OP.TUPLE3: {
        this.push(this.tuple(this.popItems(3)));
        return;
      }
      case OP.EMPTY_LIST:
      case OP.EMPTY_SET: {
        this.push(this.list());
        return;
      }
      case OP.LIST: {
        const items = this.popMark();
        this.push(this.list());
        this.append(this.top(), items);
        return;
      }
      case OP.APPEND: {
        const item = this.pop();
        this.append(this.top(), [item]);
        return;
      }
      case OP.APPENDS:
      case OP.ADDITEMS: {
        const items = this.popMark();
        this.append(this.top(), items);
        return;
      }
      case OP.EMPTY_DICT: {
        this.push(this.dict());
        return;
      }
      case OP.DICT: {
        const pairs = this.popMark();
        this.push(this.dict());
        this.setItems(this.top(), pairs);
        return;
      }
      case OP.SETITEM: {
        const pair = this.popItems(2);
        this.setItems(this.top(), pair);
        return;
      }
      case OP.SETITEMS: {
        const pairs = this.popMark();
        this.setItems(this.top(), pairs);
        return;
      }

      case OP.BINPUT: {
        this.memo.set(reader.u8(), this.top());
        return;
      }
      case OP.LONG_BINPUT: {
        this.memo.set(reader.u32(), this.top());
        return;
      }
      case OP.MEMOIZE: {
        this.memo.set(this.memo.size, this.top());
        return;
      }
      case OP.BINGET: {
        this.push(this.remembered(reader.u8()));
        return;
      }
      case OP.LONG_BINGET: {
        this.push(this.remembered(reader.u32()));
        return;
      }

      case OP.GLOBAL: {
        this.push(this.global(reader.line(), reader.line()));
        return;
      }
      case OP.STACK_GLOBAL: {
        const name = this.pop(),
          module = this.pop();
        if (typeof module !== 'string' || typeof name !== 'string')
          this.fail('pickle: STACK_GLOBAL expects two names: corrupt');
        this.push(this.global(module, name));
        return;
      }
      case OP.REDUCE:
      case OP.NEWOBJ: {
        const args = this.pop();
        this.call(this.pop(), args);
        return;
      }
      case OP.NEWOBJ_EX: {
        const named = this.pop(),
          args = this.pop(),
          callee = this.pop();
        if (!(named instanceof PickleDict) || named.entries.size > 0)
          this.fail('pickle: NEWOBJ_EX with named arguments is refused');
        this.call(callee, args);
        return;
      }
      case OP.BUILD: {
        const state = this.pop();
        this.build(this.top(), state);
        return;
      }
      case OP.BINPERSID: {
        const id = this.pop();
        this.push(
          this.options.persistent
            ? this.options.persistent(id)
            : this.fail('pickle: a persistent id in a file that has no storages: refused'),
        );
        return;
      }
      default: {
        this.refuse(opcode);
        return;
      }
    }
  }

  private refuse(opcode: number): never {
    const { reader } = this;
    if (opcode === 0x69)
      this.fail(
        `pickle: the global ${printable(`${reader.line()}.${reader.line()}`)} (INST) is refused: not among those that build tensors`,
      );
    const extension = EXTENSIONS.get(opcode);
    if (extension) {
      const code = extension === 1 ? reader.u8() : extension === 2 ? reader.u16() : reader.u32();
      this.fail(`pickle: extension code ${code} is refused: not among the globals that build tensors`);
    }
    const name = REFUSED.get(opcode);
    return this.fail(
      name
        ? `pickle: opcode ${name} is refused: no checkpoint of protocol 2 to 5 needs it`
        : `pickle: unknown opcode 0x${opcode.toString(16)} at byte ${reader.at - 1}: corrupt`,
    );
  }

  private integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES)
      this.fail(`pickle: an integer of ${length} bytes, at most ${MAX_INTEGER_BYTES} are read`);
    const bytes = this.reader.take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]);
    if (length > 0 && bytes[length - 1] >= 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  private text(length: number): string | LongText {
    const bytes = this.reader.take(length);
    if (length > LONG_TEXT) return new LongText(bytes);
    try {
      return this.utf8.decode(bytes);
    } catch {
      return this.fail(`pickle: the text at byte ${this.reader.at - length} is not UTF-8: corrupt`);
    }
  }

  private append(list: PickleValue, items: readonly PickleValue[]): void {
    if (!(list instanceof PickleList)) this.fail(`pickle: items for ${describePickle(list)}, a list expected: corrupt`);
    for (const item of items) list.items.push(item);
  }

  private setItems(dict: PickleValue, pairs: readonly PickleValue[]): void {
    if (!(dict instanceof PickleDict) || pairs.length % 2 !== 0) {
      this.fail(
        `pickle: ${pairs.length} keys and values for ${describePickle(dict)}, pairs for a dict expected: corrupt`,
      );
    }
    for (let i = 0; i < pairs.length; i += 2) dict.entries.set(pairs[i], pairs[i + 1]);
  }

  private remembered(index: number): PickleValue {
    const value = this.memo.get(index);
    return value === undefined ? this.fail(`pickle: memo entry ${index} was never stored: corrupt`) : value;
  }

  private global(module: string, name: string): PickleGlobal {
    const found = this.options.globals.get(`${module}.${name}`);
    if (found) return found;
    const hint = module.startsWith('torch.nn.modules')
      ? ' (the file holds a whole module: save its state_dict() instead)'
      : '';
    return this.fail(
      `pickle: the global ${printable(`${module}.${name}`)} is refused: not among those that build tensors${hint}; nothing was executed`,
    );
  }

  private call(callee: PickleValue, args: PickleValue): void {
    if (!(callee instanceof PickleGlobal) || !(args instanceof PickleTuple)) {
      this.fail(`pickle: a call of ${describePickle(callee)} with ${describePickle(args)}: corrupt`);
    }
    if (callee.call === null) this.fail(`pickle: a call of ${callee.name} is refused`);
    this.made(8);
    this.push(callee.call(args.items, this));
  }

  private build(target: PickleValue, state: PickleValue): void {
    // An OrderedDict's attributes (a state_dict's _metadata) are no part of its data.
    if (target instanceof PickleDict) return;
    if (!(target instanceof PickleObject)) this.fail(`pickle: BUILD on ${describePickle(target)} is refused`);
    target.build(state, this);
  }
}

/** A name from the file, fit for a message. */
export function printable(text: string): string {
  const clean = text.replace(/[^\x20-\x7e]/g, '?');
  return clean.length > 120 ? `${clean.slice(0, 120)}...` : clean;
}
