/** Element types of stored tensors, and strided views of bytes turned into dense float32. */
import type { Bytes, Fail } from './byte-reader.ts';

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

/** A tensor as it lies in a file: little-endian elements somewhere in `bytes`. Nothing is checked yet. */
export interface StridedTensor {
  readonly bytes: Bytes;
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** In elements, as is `offset`. */
  readonly strides: readonly number[];
  readonly offset: number;
}

/** More axes than any tensor has. */
const MAX_AXES = 64;

/** Strides of a dense tensor, last axis fastest; `fortran`: first axis fastest. */
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

/** Elements of a shape; may be Infinity for one that nobody has checked. */
function countOf(shape: readonly number[]): number {
  return shape.includes(0) ? 0 : shape.reduce((product, n) => product * n, 1);
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
      `${what}: ${shape.length} axes and ${strides.length} strides, expected one stride an axis and at most ${MAX_AXES}`,
    );
  }
  if (!shape.every(isCount) || !strides.every(isCount) || !isCount(offset)) {
    fail(
      `${what}: shape [${shape.join(', ')}], strides [${strides.join(', ')}] and offset ${offset} must be non-negative integers`,
    );
  }
  const count = countOf(shape);
  if (count === 0) return 0;
  const held = Math.floor(bytes.length / ELEMENT_BYTES[type]);
  const last = shape.reduce((at, n, axis) => at + (n - 1) * strides[axis], offset);
  if (!(last < held)) {
    fail(
      `${what}: shape [${shape.join(', ')}] with strides [${strides.join(', ')}] from ${offset} reaches element ${last} of a storage of ${held} ${type}`,
    );
  }
  return count;
}

/**
 * The dense float32 values of a tensor that `checkStrided` has passed: a view of its bytes where they are that already (a checkpoint need not be in memory twice),
 * otherwise a copy. float64 and integers round to nearest; true is 1.
 */
export function toFloat32(tensor: StridedTensor): Float32Array<ArrayBuffer> {
  const { bytes, type, shape, strides, offset } = tensor;
  const count = countOf(shape);
  if (count === 0) return new Float32Array(0);
  const dense = denseStrides(shape);
  const isDense = shape.every((n, axis) => n === 1 || strides[axis] === dense[axis]);
  // Every WebGPU host is little-endian, as are the files.
  const first = bytes.byteOffset + 4 * offset;
  if (isDense && type === 'f32' && first % 4 === 0) return new Float32Array(bytes.buffer, first, count);
  const out = new Float32Array(count);
  if (isDense && type === 'f32') {
    new Uint8Array(out.buffer).set(bytes.subarray(4 * offset, 4 * (offset + count)));
    return out;
  }
  const source = elements(bytes, type);
  if (isDense) {
    for (let i = 0; i < count; i++) out[i] = source(offset + i);
    return out;
  }
  const index = new Array<number>(shape.length).fill(0);
  let at = offset;
  for (let i = 0; i < count; i++) {
    out[i] = source(at);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += strides[axis];
      if (++index[axis] < shape[axis]) break;
      at -= shape[axis] * strides[axis];
      index[axis] = 0;
    }
  }
  return out;
}

/** Reads element i as a number, wherever the bytes begin. */
function elements(bytes: Bytes, type: ElementType): (i: number) => number {
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
      const bits = new Uint32Array(1),
        value = new Float32Array(bits.buffer);
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
    const exponent = (bits >> 10) & 31,
      fraction = bits & 1023;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction === 0
            ? Infinity
            : NaN
          : (1 + fraction / 1024) * 2 ** (exponent - 15);
    halves[bits] = bits >= 0x8000 ? -magnitude : magnitude;
  }
  return halves;
}
