/**
 * Reads Python's pickle format, protocols 2 to 5, as plain data.
 *
 * Nothing is executed. A global is looked up in the caller's allow-list. A global that is not in the list is refused as
 * soon as the pickle mentions it. The size of the file bounds time and memory: values refer to the file's bytes, there
 * is no recursion, and a budget limits the data that globals build.
 * Source: CPython's Lib/pickletools.py.
 */
import { latin1, type ByteReader, type Bytes } from './byte-reader.ts';
import type { Fail } from './errors.ts';
import { EXTENSION_OPCODES, INST, OP, REFUSED_OPCODES } from './pickle-opcodes.ts';
import {
  describePickle,
  LongText,
  PickleDict,
  PickleGlobal,
  PickleList,
  PickleObject,
  PickleTuple,
  printable,
  type PickleContext,
  type PickleValue,
} from './pickle-values.ts';

export interface PickleOptions {
  readonly fail: Fail;
  /** The allow-list, by `module.name`. */
  readonly globals: ReadonlyMap<string, PickleGlobal>;
  /** Resolves persistent ids (storages). Without this function they are refused. */
  readonly persistent?: (id: PickleValue) => PickleValue;
}

/** Texts longer than this are not decoded. */
const MAX_TEXT_BYTES = 1 << 16;
/** Maximum length of an integer. The longest in a checkpoint is PyTorch's magic number, with 10 bytes. */
const MAX_INTEGER_BYTES = 64;
/** Maximum number of containers and other objects in one pickle. A tensor takes about six. */
const MAX_OBJECTS = 2 ** 21;
const NO_ITEMS = new PickleTuple([]);

/**
 * Reads one pickle at the reader's position. Afterwards the reader is behind the STOP opcode.
 * @throws WeightsError naming the file, and the opcode, the global or the position
 */
export function readPickle(reader: ByteReader, options: PickleOptions): PickleValue {
  return new Unpickler(reader, options).run();
}

class Unpickler implements PickleContext {
  readonly fail: Fail;
  private readonly stack: PickleValue[] = [];
  /** Heights of the stack at the MARK opcodes. */
  private readonly marks: number[] = [];
  readonly memo = new Map<number, PickleValue>();
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  private budget: number;
  private objects = 0;

  constructor(
    readonly reader: ByteReader,
    readonly options: PickleOptions,
  ) {
    this.fail = options.fail;
    this.budget = 4 * reader.bytes.length + 1024;
  }

  run(): PickleValue {
    const { reader } = this;
    if (reader.u8() !== OP.PROTO)
      this.fail(`pickle: no protocol opcode at byte ${reader.at - 1}: not a pickle of protocol 2 to 5`);
    const protocol = reader.u8();
    if (protocol < 2 || protocol > 5) this.fail(`pickle: protocol: expected 2 to 5, got ${protocol}`);
    for (;;) {
      const opcode = reader.u8();
      if (opcode === OP.STOP) return this.result();
      const handler = HANDLERS[opcode];
      if (handler === undefined) return this.refuse(opcode);
      handler(this, reader);
    }
  }

  private result(): PickleValue {
    const value = this.pop();
    if (this.stack.length > 0 || this.marks.length > 0)
      this.fail(`pickle: ${this.stack.length} values are left at its end: corrupt`);
    return value;
  }

  // Budget

  charge(count: number): void {
    this.budget -= count;
    if (this.budget < 0) this.fail('pickle: builds more data than the file holds: refused');
  }

  /** Charges for the memory of an object, because a single byte of the file can create an object. */
  private chargeObject(cost: number): void {
    this.charge(cost);
    if (++this.objects > MAX_OBJECTS) this.fail(`pickle: builds more than ${MAX_OBJECTS} objects: refused`);
  }

  // Stack

  push(value: PickleValue): void {
    this.stack.push(value);
  }

  pop(): PickleValue {
    const floor = this.marks.length > 0 ? this.marks[this.marks.length - 1] : 0;
    if (this.stack.length <= floor) this.fail(`pickle: a value is missing at byte ${this.reader.at - 1}: corrupt`);
    return this.stack.pop()!;
  }

  top(): PickleValue {
    const value = this.pop();
    this.stack.push(value);
    return value;
  }

  popItems(count: number): PickleValue[] {
    const items: PickleValue[] = [];
    for (let i = 0; i < count; i++) items.unshift(this.pop());
    return items;
  }

  mark(): void {
    this.marks.push(this.stack.length);
  }

  /** Removes the last mark and the values above it. Returns the values. */
  popMark(): PickleValue[] {
    const mark = this.marks.pop();
    return mark === undefined
      ? this.fail(`pickle: a mark is missing at byte ${this.reader.at - 1}: corrupt`)
      : this.stack.splice(mark);
  }

  /** The POP opcode. As in CPython, it removes the mark if no value is above the mark. */
  popValueOrMark(): void {
    if (this.marks.length > 0 && this.marks[this.marks.length - 1] === this.stack.length) this.marks.pop();
    else this.pop();
  }

  // Values

  tuple(items: readonly PickleValue[]): PickleTuple {
    this.chargeObject(8);
    return new PickleTuple(items);
  }

  list(): PickleList {
    this.chargeObject(8);
    return new PickleList();
  }

  dict(): PickleDict {
    this.chargeObject(32);
    return new PickleDict();
  }

  bytes(length: number): Bytes {
    this.chargeObject(8);
    return this.reader.take(length);
  }

  /** A little-endian integer in two's complement. */
  integer(length: number): number | bigint {
    if (length > MAX_INTEGER_BYTES)
      this.fail(`pickle: an integer of ${length} bytes: expected at most ${MAX_INTEGER_BYTES}`);
    const bytes = this.reader.take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i]);
    if (length > 0 && bytes[length - 1] >= 0x80) value -= 1n << BigInt(8 * length);
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  text(length: number): string | LongText {
    const bytes = this.reader.take(length);
    if (length > MAX_TEXT_BYTES) return new LongText(bytes);
    try {
      return this.utf8.decode(bytes);
    } catch {
      return this.fail(`pickle: the text at byte ${this.reader.at - length} is not UTF-8: corrupt`);
    }
  }

  append(list: PickleValue, items: readonly PickleValue[]): void {
    if (!(list instanceof PickleList))
      this.fail(`pickle: items: expected a list for them, got ${describePickle(list)}: corrupt`);
    for (const item of items) list.items.push(item);
  }

  setItems(dict: PickleValue, pairs: readonly PickleValue[]): void {
    if (!(dict instanceof PickleDict) || pairs.length % 2 !== 0)
      this.fail(
        `pickle: expected pairs for a dict, got ${pairs.length} keys and values for ${describePickle(dict)}: corrupt`,
      );
    for (let i = 0; i < pairs.length; i += 2) dict.entries.set(pairs[i], pairs[i + 1]);
  }

  memoEntry(index: number): PickleValue {
    const value = this.memo.get(index);
    return value === undefined ? this.fail(`pickle: memo entry ${index} was never stored: corrupt`) : value;
  }

  // Globals

  global(module: string, name: string): PickleGlobal {
    const found = this.options.globals.get(`${module}.${name}`);
    if (found) return found;
    const hint = module.startsWith('torch.nn.modules')
      ? ' (the file holds a whole module: save its state_dict() instead)'
      : '';
    return this.fail(
      `pickle: the global ${printable(`${module}.${name}`)} is refused: ` +
        `not among those that build tensors${hint}; nothing was executed`,
    );
  }

  globalFromStack(): PickleGlobal {
    const name = this.pop();
    const module = this.pop();
    if (typeof module !== 'string' || typeof name !== 'string')
      return this.fail(
        `pickle: STACK_GLOBAL: expected two names, got ${describePickle(module)} and ${describePickle(name)}: corrupt`,
      );
    return this.global(module, name);
  }

  call(callee: PickleValue, args: PickleValue): void {
    if (!(callee instanceof PickleGlobal) || !(args instanceof PickleTuple))
      this.fail(`pickle: a call of ${describePickle(callee)} with ${describePickle(args)}: corrupt`);
    if (callee.call === null) this.fail(`pickle: a call of ${callee.name} is refused`);
    this.chargeObject(8);
    this.push(callee.call(args.items, this));
  }

  callWithNames(): void {
    const named = this.pop();
    const args = this.pop();
    const callee = this.pop();
    if (!(named instanceof PickleDict) || named.entries.size > 0)
      this.fail('pickle: NEWOBJ_EX with named arguments is refused');
    this.call(callee, args);
  }

  build(target: PickleValue, state: PickleValue): void {
    // The attributes of an OrderedDict (e.g. _metadata of a state_dict) are not part of its data.
    if (target instanceof PickleDict) return;
    if (!(target instanceof PickleObject)) this.fail(`pickle: BUILD on ${describePickle(target)} is refused`);
    target.build(state, this);
  }

  persistent(id: PickleValue): PickleValue {
    return this.options.persistent
      ? this.options.persistent(id)
      : this.fail('pickle: a persistent id in a file that has no storages: refused');
  }

  private refuse(opcode: number): never {
    const { reader } = this;
    if (opcode === INST) {
      const name = printable(`${reader.line()}.${reader.line()}`);
      this.fail(`pickle: the global ${name} (INST) is refused: not among those that build tensors`);
    }
    const codeBytes = EXTENSION_OPCODES.get(opcode);
    if (codeBytes) {
      const code = codeBytes === 1 ? reader.u8() : codeBytes === 2 ? reader.u16() : reader.u32();
      this.fail(`pickle: extension code ${code} is refused: not among the globals that build tensors`);
    }
    const name = REFUSED_OPCODES.get(opcode);
    return this.fail(
      name
        ? `pickle: opcode ${name} is refused: no checkpoint of protocol 2 to 5 needs it`
        : `pickle: unknown opcode 0x${opcode.toString(16)} at byte ${reader.at - 1}: corrupt`,
    );
  }
}

/** Checks the announced length of a frame. Frames do not change the values. */
function skipFrame(reader: ByteReader, fail: Fail): void {
  const length = reader.u64();
  const left = reader.bytes.length - reader.at;
  if (length > left) fail(`pickle: a frame of ${length} bytes does not fit the ${left} that are left: truncated`);
}

/** A string of Python 2: a name, or the bytes of an array. Names are read as latin1, as in Detectron2. */
function python2String(reader: ByteReader): string | Bytes {
  const bytes = reader.take(reader.u32());
  return bytes.length > MAX_TEXT_BYTES ? bytes : latin1(bytes);
}

type Handler = (machine: Unpickler, reader: ByteReader) => void;

const appendMarked: Handler = (m) => {
  const items = m.popMark();
  m.append(m.top(), items);
};
const callTop: Handler = (m) => {
  const args = m.pop();
  m.call(m.pop(), args);
};

/** The action of each opcode, except STOP. */
const HANDLERS: Readonly<Record<number, Handler | undefined>> = {
  [OP.PROTO]: (_, r) => void r.u8(),
  [OP.FRAME]: (m, r) => skipFrame(r, m.fail),
  [OP.MARK]: (m) => m.mark(),
  [OP.POP]: (m) => m.popValueOrMark(),
  [OP.POP_MARK]: (m) => void m.popMark(),
  [OP.DUP]: (m) => m.push(m.top()),

  [OP.NONE]: (m) => m.push(null),
  [OP.NEWTRUE]: (m) => m.push(true),
  [OP.NEWFALSE]: (m) => m.push(false),
  [OP.BININT]: (m, r) => m.push(r.i32()),
  [OP.BININT1]: (m, r) => m.push(r.u8()),
  [OP.BININT2]: (m, r) => m.push(r.u16()),
  [OP.LONG1]: (m, r) => m.push(m.integer(r.u8())),
  [OP.LONG4]: (m, r) => m.push(m.integer(r.u32())),
  [OP.BINFLOAT]: (m, r) => m.push(r.f64BigEndian()),

  [OP.SHORT_BINUNICODE]: (m, r) => m.push(m.text(r.u8())),
  [OP.BINUNICODE]: (m, r) => m.push(m.text(r.u32())),
  [OP.BINUNICODE8]: (m, r) => m.push(m.text(r.u64())),
  [OP.SHORT_BINSTRING]: (m, r) => m.push(latin1(r.take(r.u8()))),
  [OP.BINSTRING]: (m, r) => m.push(python2String(r)),
  [OP.SHORT_BINBYTES]: (m, r) => m.push(m.bytes(r.u8())),
  [OP.BINBYTES]: (m, r) => m.push(m.bytes(r.u32())),
  [OP.BINBYTES8]: (m, r) => m.push(m.bytes(r.u64())),
  [OP.BYTEARRAY8]: (m, r) => m.push(m.bytes(r.u64())),
  [OP.READONLY_BUFFER]: (m) => void m.top(),

  [OP.EMPTY_TUPLE]: (m) => m.push(NO_ITEMS),
  [OP.TUPLE]: (m) => m.push(m.tuple(m.popMark())),
  [OP.FROZENSET]: (m) => m.push(m.tuple(m.popMark())),
  [OP.TUPLE1]: (m) => m.push(m.tuple(m.popItems(1))),
  [OP.TUPLE2]: (m) => m.push(m.tuple(m.popItems(2))),
  [OP.TUPLE3]: (m) => m.push(m.tuple(m.popItems(3))),
  [OP.EMPTY_LIST]: (m) => m.push(m.list()),
  [OP.EMPTY_SET]: (m) => m.push(m.list()),
  [OP.LIST]: (m) => {
    const items = m.popMark();
    m.push(m.list());
    m.append(m.top(), items);
  },
  [OP.APPEND]: (m) => {
    const item = m.pop();
    m.append(m.top(), [item]);
  },
  [OP.APPENDS]: appendMarked,
  [OP.ADDITEMS]: appendMarked,
  [OP.EMPTY_DICT]: (m) => m.push(m.dict()),
  [OP.DICT]: (m) => {
    const pairs = m.popMark();
    m.push(m.dict());
    m.setItems(m.top(), pairs);
  },
  [OP.SETITEM]: (m) => {
    const pair = m.popItems(2);
    m.setItems(m.top(), pair);
  },
  [OP.SETITEMS]: (m) => {
    const pairs = m.popMark();
    m.setItems(m.top(), pairs);
  },

  [OP.BINPUT]: (m, r) => void m.memo.set(r.u8(), m.top()),
  [OP.LONG_BINPUT]: (m, r) => void m.memo.set(r.u32(), m.top()),
  [OP.MEMOIZE]: (m) => void m.memo.set(m.memo.size, m.top()),
  [OP.BINGET]: (m, r) => m.push(m.memoEntry(r.u8())),
  [OP.LONG_BINGET]: (m, r) => m.push(m.memoEntry(r.u32())),

  [OP.GLOBAL]: (m, r) => m.push(m.global(r.line(), r.line())),
  [OP.STACK_GLOBAL]: (m) => m.push(m.globalFromStack()),
  [OP.REDUCE]: callTop,
  [OP.NEWOBJ]: callTop,
  [OP.NEWOBJ_EX]: (m) => m.callWithNames(),
  [OP.BUILD]: (m) => {
    const state = m.pop();
    m.build(m.top(), state);
  },
  [OP.BINPERSID]: (m) => m.push(m.persistent(m.pop())),
};
