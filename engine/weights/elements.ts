/** Element types of stored tensors, and the conversion of strided tensors to dense float32. */
import type { Bytes } from './byte-reader.ts';
import { WeightsError, type Fail } from './errors.ts';

export type ElementType = 'f32' | 'f16' | 'bf16' | 'f64' | 'i64' | 'i32' | 'i16' | 'i8' | 'u8' | 'bool';

export const ELEMENT_BYTES: Readonly<Record<ElementType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  f64: 8,
  i64: 8,
  i32: 4,
  i16: 2,
  i8: 1,
  u8: 1,
  bool: 1,
};

/** A tensor in a file: little-endian elements in `bytes`. `checkStrided` checks it. */
export interface StridedTensor {
  readonly bytes: Bytes;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** In elements. */
  readonly strides: readonly number[];
  /** In elements. */
  readonly offset: number;
}

/** Maximum number of axes. No real tensor has more. */
export const MAX_AXES = 64;

/** Strides of a dense tensor. The last axis is the fastest; with `fortran` the first axis. */
export function denseStrides(shape: readonly number[], fortran = false): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = 0; i < shape.length; i++) {
    const axis = fortran ? i : shape.length - 1 - i;
    strides[axis] = step;
    step *= Math.max(shape[axis], 1);
  }
  return strides;
}

/** The number of elements of a shape. It may be Infinity for a shape that was not checked. */
function countOf(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : shape.reduce((product, n) => product * n, 1);
}

/** Throws WeightsError unless a shape has `length` elements. */
export function checkLength(name: string, shape: readonly number[], length: number): void {
  const elements = shape.reduce((product, n) => product * n, 1);
  if (elements !== length)
    throw new WeightsError(`${name}: shape [${shape.join(', ')}] has ${elements} elements, the data ${length}`);
}

/**
 * Checks that every element lies inside the bytes.
 * @param what names the tensor in errors
 * @returns the number of elements
 */
export function checkStrided({ bytes, type, shape, strides, offset }: StridedTensor, what: string, fail: Fail): number {
  const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 0;
  if (shape.length > MAX_AXES || strides.length !== shape.length) {
    fail(
      `${what}: expected at most ${MAX_AXES} axes with one stride each, ` +
        `got ${shape.length} axes and ${strides.length} strides`,
    );
  }
  if (!shape.every(isCount) || !strides.every(isCount) || !isCount(offset)) {
    fail(
      `${what}: expected shape, strides and offset of non-negative integers, ` +
        `got [${shape.join(', ')}], [${strides.join(', ')}] and ${offset}`,
    );
  }
  const count = countOf(shape);
  if (count === 0) return 0;
  const available = Math.floor(bytes.length / ELEMENT_BYTES[type]);
  const last = shape.reduce((at, n, axis) => at + (n - 1) * strides[axis], offset);
  if (!(last < available)) {
    fail(
      `${what}: shape [${shape.join(', ')}] with strides [${strides.join(', ')}] from ${offset} ` +
        `reaches element ${last}; the storage has ${available} of ${type}`,
    );
  }
  return count;
}

/**
 * The dense float32 values of a tensor that passed `checkStrided`.
 * For aligned dense float32 tensors this is a view of their bytes, so that a checkpoint is not in memory twice. For
 * other tensors it is a copy. float64 and integers round to nearest. `true` becomes 1.
 */
export function toFloat32(tensor: StridedTensor): Float32Array<ArrayBuffer> {
  const { bytes, type, shape, strides, offset } = tensor;
  const count = countOf(shape);
  if (count === 0) return new Float32Array(0);
  const dense = denseStrides(shape);
  const isDense = shape.every((n, axis) => n === 1 || strides[axis] === dense[axis]);
  // Every WebGPU host is little-endian, and so are the files.
  const first = bytes.byteOffset + 4 * offset;
  if (isDense && type === 'f32' && first % 4 === 0) return new Float32Array(bytes.buffer, first, count);
  const out = new Float32Array(count);
  if (isDense && type === 'f32') {
    new Uint8Array(out.buffer).set(bytes.subarray(4 * offset, 4 * (offset + count)));
    return out;
  }
  const elementAt = elementReader(bytes, type);
  if (isDense) {
    for (let i = 0; i < count; i++) out[i] = elementAt(offset + i);
    return out;
  }
  const index = new Array<number>(shape.length).fill(0);
  let at = offset;
  for (let i = 0; i < count; i++) {
    out[i] = elementAt(at);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += strides[axis];
      if (++index[axis] < shape[axis]) break;
      at -= shape[axis] * strides[axis];
      index[axis] = 0;
    }
  }
  return out;
}

/** A function that reads element i as a number. The bytes need no alignment. */
function elementReader(bytes: Bytes, type: ElementType): (i: number) => number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (type) {
    case 'f32':
      return (i) => view.getFloat32(4 * i, true);
    case 'f64':
      return (i) => view.getFloat64(8 * i, true);
    case 'f16': {
      const table = halfTable();
      return (i) => table[view.getUint16(2 * i, true)];
    }
    case 'bf16': {
      const bits = new Uint32Array(1);
      const value = new Float32Array(bits.buffer);
      return (i) => {
        bits[0] = view.getUint16(2 * i, true) << 16;
        return value[0];
      };
    }
    case 'i64':
      return (i) => Number(view.getBigInt64(8 * i, true));
    case 'i32':
      return (i) => view.getInt32(4 * i, true);
    case 'i16':
      return (i) => view.getInt16(2 * i, true);
    case 'i8':
      return (i) => view.getInt8(i);
    case 'u8':
      return (i) => view.getUint8(i);
    case 'bool':
      return (i) => (view.getUint8(i) === 0 ? 0 : 1);
  }
}

let halves: Float32Array | null = null;

/** All 65536 values of IEEE 754 binary16. */
function halfTable(): Float32Array {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const magnitude = halfMagnitude((bits >> 10) & 31, bits & 1023);
    halves[bits] = bits >= 0x8000 ? -magnitude : magnitude;
  }
  return halves;
}

/** The magnitude of a binary16 value from its exponent and fraction bits. */
function halfMagnitude(exponent: number, fraction: number): number {
  if (exponent === 0) return fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? Infinity : NaN;
  return (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * f32 values as the bits of IEEE 754 binary16, rounded to nearest, ties to even. Values from 65520 on become infinity.
 */
export function toHalf(values: ArrayLike<number>): Uint16Array<ArrayBuffer> {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = halfBits(values[i]);
  return out;
}

function halfBits(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return sign | 0x7c00;
  // Numbers below 2^-14 are multiples of 2^-24. Larger numbers have 10 bits after the first.
  const exponent = magnitude < 2 ** -14 ? -14 : Math.floor(Math.log2(magnitude));
  const units = roundHalfEven(magnitude / 2 ** (exponent - 10));
  // A carry out of the fraction increases the exponent, as it should.
  return sign | (units + (exponent + 14) * 1024);
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}
