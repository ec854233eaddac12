/**
 * The globals that a pickle of weights may mention, and what stands for them here: descriptions of tensors and plain data. A name that is not in
 * these lists is refused by the unpickler. Sources: torch/_utils.py and torch/serialization.py (1.13, and 2.x for v3), numpy/core/multiarray.
 */
import type { Bytes } from './byte-reader.ts';
import { denseStrides, type ElementType, type StridedTensor } from './elements.ts';
import {
  LongText,
  PickleDict,
  PickleGlobal,
  PickleList,
  PickleObject,
  PickleTuple,
  describePickle,
  printable,
  type PickleContext,
  type PickleValue,
} from './pickle.ts';

/** torch.device, argparse.Namespace, ...: allowed because it is harmless, kept without its content. */
class Inert extends PickleObject {
  constructor(readonly kind: string) {
    super();
  }

  override build(): void {}
}

/** torch.FloatStorage, ...: names the type of a storage's elements; null: no type of its own, or one that is not read. */
export class StorageType extends PickleGlobal {
  constructor(
    name: string,
    readonly type: ElementType | null,
  ) {
    super(name, null);
  }
}

/** torch.float32, ... */
class TorchDtype extends PickleGlobal {
  constructor(
    name: string,
    readonly type: ElementType | null,
  ) {
    super(name, null);
  }
}

/** A storage that a persistent id names; its bytes come later. */
export class TorchStorage extends PickleObject {
  override readonly kind = 'torch storage';

  /** @param offset, count in elements; count is null for the whole */
  constructor(
    readonly key: string,
    readonly type: StorageType,
    readonly count: number,
    readonly offset = 0,
  ) {
    super();
  }
}

export class TorchTensor extends PickleObject {
  override readonly kind = 'torch.Tensor';

  constructor(
    readonly storage: TorchStorage,
    readonly type: ElementType | null,
    readonly typeName: string,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {
    super();
  }

  /** A parameter's Python attributes. */
  override build(): void {}
}

class NumpyDtype extends PickleObject {
  override readonly kind = 'numpy.dtype';
  bigEndian = false;

  constructor(readonly code: string) {
    super();
    this.bigEndian = code.startsWith('>');
  }

  get type(): ElementType | null {
    return NUMPY_TYPES.get(this.code.replace(/^[<>=|]/, '')) ?? null;
  }

  /** (version, byte order, subdtype, names, fields, size, alignment, flags). */
  override build(state: PickleValue, context: PickleContext): void {
    const order = state instanceof PickleTuple ? state.items[1] : null;
    if (typeof order !== 'string' || !/^[<>=|]$/.test(order))
      context.fail("pickle: a numpy.dtype's state must name its byte order: corrupt");
    this.bigEndian = order === '>';
  }
}

export class NumpyArray extends PickleObject {
  override readonly kind = 'numpy.ndarray';
  /** null until its state came, and for arrays of objects. */
  tensor: StridedTensor | null = null;
  /** Why `tensor` is null. */
  reason = 'its data never came';

  fill(shape: readonly number[], dtype: NumpyDtype, data: Bytes, fortran: boolean, context: PickleContext): void {
    if (dtype.bigEndian)
      context.fail(`pickle: a numpy array of big-endian ${printable(dtype.code)}; little-endian expected`);
    const { type } = dtype;
    if (type === null) this.reason = `its numpy dtype ${printable(dtype.code)} is not read`;
    else this.tensor = { bytes: data, type, shape, strides: denseStrides(shape, fortran), offset: 0 };
  }

  /** (version, shape, dtype, is Fortran order, data). */
  override build(state: PickleValue, context: PickleContext): void {
    const [, shape, dtype, fortran, data] = state instanceof PickleTuple ? state.items : [];
    if (!(dtype instanceof NumpyDtype) || typeof fortran !== 'boolean') {
      return context.fail(
        `pickle: a numpy array's state must be (version, shape, dtype, order, data), got ${describePickle(state)}: corrupt`,
      );
    }
    if (data instanceof PickleList) {
      this.reason = 'it holds Python objects';
      return;
    }
    this.fill(integers(shape, "a numpy array's shape", context), dtype, bytesOf(data, context), fortran, context);
  }
}

const STORAGES: readonly (readonly [string, ElementType | null])[] = [
  ['Float', 'f32'],
  ['Half', 'f16'],
  ['BFloat16', 'bf16'],
  ['Double', 'f64'],
  ['Long', 'i64'],
  ['Int', 'i32'],
  ['Short', 'i16'],
  ['Char', 'i8'],
  ['Byte', 'u8'],
  ['Bool', 'bool'],
  ['Untyped', null],
  ['ComplexFloat', null],
  ['ComplexDouble', null],
];

const DTYPES: readonly (readonly [string, ElementType | null])[] = [
  ['float32', 'f32'],
  ['float', 'f32'],
  ['float16', 'f16'],
  ['half', 'f16'],
  ['bfloat16', 'bf16'],
  ['float64', 'f64'],
  ['double', 'f64'],
  ['int64', 'i64'],
  ['long', 'i64'],
  ['int32', 'i32'],
  ['int', 'i32'],
  ['int16', 'i16'],
  ['short', 'i16'],
  ['int8', 'i8'],
  ['uint8', 'u8'],
  ['bool', 'bool'],
  ['complex64', null],
  ['complex128', null],
  ['uint16', null],
  ['uint32', null],
  ['uint64', null],
  ['float8_e4m3fn', null],
  ['float8_e5m2', null],
];

const NUMPY_TYPES: ReadonlyMap<string, ElementType> = new Map([
  ['f4', 'f32'],
  ['f2', 'f16'],
  ['f8', 'f64'],
  ['i8', 'i64'],
  ['i4', 'i32'],
  ['i2', 'i16'],
  ['i1', 'i8'],
  ['u1', 'u8'],
  ['b1', 'bool'],
  ['?', 'bool'],
]);

function integers(value: PickleValue | undefined, what: string, context: PickleContext): number[] {
  if (!(value instanceof PickleTuple) && !(value instanceof PickleList)) {
    return context.fail(`pickle: ${what} must be a tuple, got ${describePickle(value ?? null)}: corrupt`);
  }
  // A shape in the memo can be used again and again.
  context.charge(value.items.length);
  return value.items.map((item) => integer(item, what, context));
}

function integer(value: PickleValue | undefined, what: string, context: PickleContext): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  return context.fail(
    `pickle: ${what} must be of integers >= 0, got ${typeof value === 'number' ? value : describePickle(value ?? null)}: corrupt`,
  );
}

/** Bytes as Python 3 has them, or a text whose characters are bytes. */
function bytesOf(value: PickleValue | undefined, context: PickleContext): Bytes {
  if (value instanceof Uint8Array) return value;
  if (typeof value !== 'string')
    return context.fail(`pickle: bytes expected, got ${describePickle(value ?? null)}: corrupt`);
  return encodeLatin1(value, context);
}

function encodeLatin1(text: PickleValue | undefined, context: PickleContext): Bytes {
  if (typeof text === 'string') {
    context.charge(text.length);
    return Uint8Array.from(text, (character) => {
      const code = character.codePointAt(0)!;
      return code < 256
        ? code
        : context.fail('pickle: a text that should hold bytes has a character beyond 255: corrupt');
    });
  }
  if (!(text instanceof LongText))
    return context.fail(`pickle: _codecs.encode expects a text, got ${describePickle(text ?? null)}`);
  const { utf8 } = text;
  context.charge(utf8.length);
  const out = new Uint8Array(utf8.length);
  let length = 0;
  for (let i = 0; i < utf8.length; i++) {
    const byte = utf8[i];
    if (byte < 0x80) out[length++] = byte;
    // Characters 128..255 take two bytes in UTF-8: 110000vv 10vvvvvv.
    else if ((byte & 0xfc) === 0xc0 && i + 1 < utf8.length && (utf8[i + 1] & 0xc0) === 0x80)
      out[length++] = ((byte & 3) << 6) | (utf8[++i] & 63);
    else context.fail('pickle: a text that should hold bytes has a character beyond 255: corrupt');
  }
  return out.subarray(0, length);
}

type Call = (args: readonly PickleValue[], context: PickleContext) => PickleValue;

function rebuildTensor(args: readonly PickleValue[], context: PickleContext, dtype?: PickleValue): PickleValue {
  const [storage, offset, shape, strides] = args;
  if (!(storage instanceof TorchStorage))
    return context.fail(`pickle: a tensor needs a storage, got ${describePickle(storage ?? null)}: corrupt`);
  const typed = dtype instanceof TorchDtype ? dtype : storage.type;
  const at = integer(offset, "a tensor's offset", context);
  return new TorchTensor(
    storage,
    typed.type,
    typed.name,
    at,
    integers(shape, "a tensor's shape", context),
    integers(strides, "a tensor's strides", context),
  );
}

const rebuildParameter: Call = ([tensor], context) =>
  tensor instanceof TorchTensor
    ? tensor
    : context.fail(`pickle: a parameter needs a tensor, got ${describePickle(tensor ?? null)}: corrupt`);

/** OrderedDict(), or with Python 2's list of pairs. */
const orderedDict: Call = ([pairs], context) => {
  const dict = new PickleDict();
  context.charge(32);
  if (pairs === undefined) return dict;
  if (!(pairs instanceof PickleList))
    return context.fail(`pickle: an OrderedDict of ${describePickle(pairs)}: corrupt`);
  context.charge(8 * pairs.items.length);
  for (const pair of pairs.items) {
    if (!(pair instanceof PickleTuple || pair instanceof PickleList) || pair.items.length !== 2) {
      return context.fail(`pickle: an OrderedDict's item must be a pair, got ${describePickle(pair)}: corrupt`);
    }
    dict.entries.set(pair.items[0], pair.items[1]);
  }
  return dict;
};

/** A container's own content where it brings one, else a new one. */
const container =
  (make: () => PickleValue): Call =>
  ([content], context) => {
    context.charge(32);
    return content instanceof PickleDict || content instanceof PickleList || content instanceof PickleTuple
      ? content
      : make();
  };

const reconstruct: Call = ([subtype], context) => {
  if (subtype instanceof PickleGlobal && subtype.name === 'numpy.ndarray') return new NumpyArray();
  return context.fail(`pickle: numpy's _reconstruct expects numpy.ndarray, got ${describePickle(subtype ?? null)}`);
};

const numpyDtype: Call = ([code], context) => {
  if (typeof code === 'string' && code.length <= 16) return new NumpyDtype(code);
  return context.fail(`pickle: numpy.dtype expects a short code, got ${describePickle(code ?? null)}`);
};

/** (buffer, dtype, shape, order): how protocol 5 holds arrays. */
const fromBuffer: Call = ([data, dtype, shape, order], context) => {
  if (!(dtype instanceof NumpyDtype) || !(data instanceof Uint8Array)) {
    return context.fail(
      `pickle: numpy's _frombuffer expects bytes and a dtype, got ${describePickle(data ?? null)} and ${describePickle(dtype ?? null)}: corrupt`,
    );
  }
  const array = new NumpyArray();
  array.fill(integers(shape, "a numpy array's shape", context), dtype, data, order === 'F', context);
  return array;
};

/** (dtype, bytes): a numpy number, an array without axes. */
const scalar: Call = ([dtype, data], context) => {
  if (!(dtype instanceof NumpyDtype))
    return context.fail(`pickle: a numpy scalar needs a dtype, got ${describePickle(dtype ?? null)}: corrupt`);
  const array = new NumpyArray();
  array.fill([], dtype, bytesOf(data, context), false, context);
  return array;
};

const encode: Call = ([text, codec], context) =>
  codec === 'latin1' || codec === 'latin-1'
    ? encodeLatin1(text, context)
    : context.fail('pickle: _codecs.encode is allowed with latin1 only');

const emptyBytes: Call = ([content], context) => {
  if (content === undefined) return new Uint8Array(0);
  return content instanceof PickleList && content.items.length === 0
    ? new Uint8Array(0)
    : context.fail('pickle: bytes() with arguments is refused');
};

function table(): Map<string, PickleGlobal> {
  const globals = new Map<string, PickleGlobal>();
  const add = (name: string, call: Call | null): void => void globals.set(name, new PickleGlobal(name, call));
  for (const [name, type] of STORAGES) {
    for (const module of ['torch', 'torch.cuda', 'torch.storage'])
      globals.set(`${module}.${name}Storage`, new StorageType(`torch.${name}Storage`, type));
  }
  for (const [name, type] of DTYPES) globals.set(`torch.${name}`, new TorchDtype(`torch.${name}`, type));
  add('torch._utils._rebuild_tensor', (args, context) => rebuildTensor(args, context));
  add('torch._utils._rebuild_tensor_v2', (args, context) => rebuildTensor(args, context));
  add('torch._utils._rebuild_tensor_v3', (args, context) => rebuildTensor(args, context, args[6]));
  add('torch._utils._rebuild_parameter', rebuildParameter);
  add('torch._utils._rebuild_parameter_with_state', rebuildParameter);
  add('torch.Size', ([sizes], context) =>
    sizes instanceof PickleTuple ? sizes : context.fail('pickle: torch.Size expects a tuple: corrupt'),
  );
  add('torch.device', () => new Inert('torch.device'));
  add('argparse.Namespace', () => new Inert('argparse.Namespace'));
  add('collections.OrderedDict', orderedDict);
  add(
    'collections.defaultdict',
    container(() => new PickleDict()),
  );
  add(
    'collections.Counter',
    container(() => new PickleDict()),
  );
  for (const module of ['builtins', '__builtin__']) {
    add(
      `${module}.dict`,
      container(() => new PickleDict()),
    );
    for (const name of ['list', 'set', 'frozenset', 'tuple'])
      add(
        `${module}.${name}`,
        container(() => new PickleList()),
      );
    add(`${module}.bytes`, emptyBytes);
    for (const name of ['int', 'float', 'bool', 'str']) add(`${module}.${name}`, null);
  }
  for (const core of ['numpy.core', 'numpy._core']) {
    add(`${core}.multiarray._reconstruct`, reconstruct);
    add(`${core}.multiarray.scalar`, scalar);
    add(`${core}.numeric._frombuffer`, fromBuffer);
  }
  add('numpy.ndarray', null);
  add('numpy.dtype', numpyDtype);
  add('_codecs.encode', encode);
  return globals;
}

/** Everything a weights pickle may mention, by `module.name`. */
export const WEIGHT_GLOBALS: ReadonlyMap<string, PickleGlobal> = table();

/** The persistent id of a storage: ('storage', type, key, location, count[, view]). */
export function storageOf(id: PickleValue, fail: PickleContext['fail']): TorchStorage {
  const [tag, type, key, , count, view] = id instanceof PickleTuple ? id.items : [];
  if (
    tag !== 'storage' ||
    !(type instanceof StorageType) ||
    !(typeof key === 'string' || typeof key === 'number') ||
    typeof count !== 'number'
  ) {
    return fail(
      `pickle: a persistent id must be ('storage', type, key, location, count), got ${describePickle(id)}: corrupt`,
    );
  }
  const isCount = (n: PickleValue): n is number => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0;
  if (!isCount(count)) fail(`pickle: a storage of ${count} elements: corrupt`);
  // PyTorch before 0.4 shared storages through views: (key, offset, count).
  if (view instanceof PickleTuple) {
    const [, offset, viewed] = view.items;
    if (!isCount(offset) || !isCount(viewed) || offset + viewed > count)
      return fail(`pickle: a storage's view must lie inside its ${count} elements: corrupt`);
    return new TorchStorage(String(key), type, count, offset);
  }
  return new TorchStorage(String(key), type, count);
}
