/**
 * numpy's globals that a pickle of weights may mention, and the arrays that they build.
 * Source: numpy/core/multiarray.
 */
import type { Bytes } from './byte-reader.ts';
import { denseStrides, type ElementType, type StridedTensor } from './elements.ts';
import { bytesOf, integers } from './pickle-arguments.ts';
import {
  describePickle,
  PickleGlobal,
  PickleList,
  PickleObject,
  PickleTuple,
  printable,
  type PickleCall,
  type PickleContext,
  type PickleValue,
} from './pickle-values.ts';

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

  /** The state is (version, byte order, subdtype, names, fields, size, alignment, flags). */
  override build(state: PickleValue, context: PickleContext): void {
    const order = state instanceof PickleTuple ? state.items[1] : null;
    if (typeof order !== 'string' || !/^[<>=|]$/.test(order))
      context.fail("pickle: a numpy.dtype's state: expected a byte order, got none: corrupt");
    this.bigEndian = order === '>';
  }
}

export class NumpyArray extends PickleObject {
  override readonly kind = 'numpy.ndarray';
  /** Null before the array has its state, for arrays of objects, and for element types that are not supported. */
  tensor: StridedTensor | null = null;
  /** The reason why `tensor` is null. */
  reason = 'it has no data';

  /** @param fortran the first axis is the fastest */
  fill(shape: readonly number[], dtype: NumpyDtype, data: Bytes, fortran: boolean, context: PickleContext): void {
    if (dtype.bigEndian)
      context.fail(`pickle: a numpy array: expected little-endian elements, got big-endian ${printable(dtype.code)}`);
    const { type } = dtype;
    if (type === null) this.reason = `its numpy dtype ${printable(dtype.code)} is not read`;
    else this.tensor = { bytes: data, type, shape, strides: denseStrides(shape, fortran), offset: 0 };
  }

  /** The state is (version, shape, dtype, is Fortran order, data). */
  override build(state: PickleValue, context: PickleContext): void {
    const [, shape, dtype, fortran, data] = state instanceof PickleTuple ? state.items : [];
    if (!(dtype instanceof NumpyDtype) || typeof fortran !== 'boolean') {
      context.fail(
        "pickle: a numpy array's state: expected (version, shape, dtype, order, data), " +
          `got ${describePickle(state)}: corrupt`,
      );
    }
    if (data instanceof PickleList) {
      this.reason = 'it holds Python objects';
      return;
    }
    this.fill(integers(shape, "a numpy array's shape", context), dtype, bytesOf(data, context), fortran, context);
  }
}

const reconstruct: PickleCall = ([subtype], context) => {
  if (subtype instanceof PickleGlobal && subtype.name === 'numpy.ndarray') return new NumpyArray();
  return context.fail(`pickle: numpy's _reconstruct: expected numpy.ndarray, got ${describePickle(subtype)}`);
};

const numpyDtype: PickleCall = ([code], context) => {
  if (typeof code === 'string' && code.length <= 16) return new NumpyDtype(code);
  return context.fail(`pickle: numpy.dtype: expected a short code, got ${describePickle(code)}`);
};

/** _frombuffer(buffer, dtype, shape, order): arrays in protocol 5. */
const fromBuffer: PickleCall = ([data, dtype, shape, order], context) => {
  if (!(dtype instanceof NumpyDtype) || !(data instanceof Uint8Array)) {
    return context.fail(
      "pickle: numpy's _frombuffer: expected bytes and a dtype, " +
        `got ${describePickle(data)} and ${describePickle(dtype)}: corrupt`,
    );
  }
  const array = new NumpyArray();
  array.fill(integers(shape, "a numpy array's shape", context), dtype, data, order === 'F', context);
  return array;
};

/** scalar(dtype, bytes): a number, which is an array without axes. */
const scalar: PickleCall = ([dtype, data], context) => {
  if (!(dtype instanceof NumpyDtype))
    return context.fail(`pickle: a numpy scalar: expected a dtype, got ${describePickle(dtype)}: corrupt`);
  const array = new NumpyArray();
  array.fill([], dtype, bytesOf(data, context), false, context);
  return array;
};

/** The globals by `module.name`. numpy 2 renamed `core` to `_core`. */
export function numpyGlobals(): Map<string, PickleGlobal> {
  const calls: [string, PickleCall | null][] = [
    ...['numpy.core', 'numpy._core'].flatMap((core): [string, PickleCall][] => [
      [`${core}.multiarray._reconstruct`, reconstruct],
      [`${core}.multiarray.scalar`, scalar],
      [`${core}.numeric._frombuffer`, fromBuffer],
    ]),
    ['numpy.ndarray', null],
    ['numpy.dtype', numpyDtype],
  ];
  return new Map(calls.map(([name, call]) => [name, new PickleGlobal(name, call)]));
}
