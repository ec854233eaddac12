/**
 * Reads and writes the safetensors format: an 8-byte header length, a JSON header, and the bytes of the tensors.
 * The reader checks a file completely. The writer keeps the order of the tensors.
 */
import { isObject, type JsonObject } from '../core/json.ts';
import { checkLength, MAX_AXES } from './elements.ts';
import { failFor, type Fail } from './errors.ts';

/** Values that can be written. `toHalf` makes Uint16Arrays: the bits of f16. */
export type SafetensorData =
  | Uint16Array<ArrayBuffer>
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>;

/** Values that can be read. F16 and BF16 are read as their bits. */
export type StoredSafetensorData = SafetensorData | Int16Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

export interface SafetensorEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: StoredSafetensorData;
}

export interface SafetensorsFile {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, SafetensorEntry>;
}

/** Per dtype: bytes per element, and the typed array of its values. */
const VIEWS = {
  F32: [4, (bytes: ArrayBuffer) => new Float32Array(bytes)],
  F64: [8, (bytes: ArrayBuffer) => new Float64Array(bytes)],
  I32: [4, (bytes: ArrayBuffer) => new Int32Array(bytes)],
  U32: [4, (bytes: ArrayBuffer) => new Uint32Array(bytes)],
  I64: [8, (bytes: ArrayBuffer) => new BigInt64Array(bytes)],
  U8: [1, (bytes: ArrayBuffer) => new Uint8Array(bytes)],
  BOOL: [1, (bytes: ArrayBuffer) => new Uint8Array(bytes)],
  I8: [1, (bytes: ArrayBuffer) => new Int8Array(bytes)],
  I16: [2, (bytes: ArrayBuffer) => new Int16Array(bytes)],
  F16: [2, (bytes: ArrayBuffer) => new Uint16Array(bytes)],
  BF16: [2, (bytes: ArrayBuffer) => new Uint16Array(bytes)],
} as const satisfies Record<string, readonly [number, (bytes: ArrayBuffer) => StoredSafetensorData]>;

const MAX_HEADER_BYTES = 100 * 2 ** 20;

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.length <= MAX_AXES && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

/** A value of the header, shortened for a message. It stays short for nested values too. */
function brief(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 60));
  if (Array.isArray(value)) {
    const isShort = value.length <= 8 && value.every((n) => typeof n === 'number');
    return `a list of ${value.length}${isShort ? `: [${value.join(', ')}]` : ''}`;
  }
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

/** The JSON header of a file, and the position of the tensors' bytes. */
function readHeader(bytes: ArrayBuffer, fail: Fail): { readonly header: JsonObject; readonly body: number } {
  if (bytes.byteLength < 8) fail(`not a safetensors file: ${bytes.byteLength} bytes, expected at least 8`);
  const headerBytes = Number(new DataView(bytes).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER_BYTES || 8 + headerBytes > bytes.byteLength) {
    fail(
      `header length ${headerBytes} does not fit a file of ${bytes.byteLength} bytes: ` +
        'truncated, or not a safetensors file',
    );
  }
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array(bytes, 8, headerBytes)));
  } catch (error) {
    fail(`the header is not JSON (${(error as Error).message})`);
  }
  if (!isObject(header)) return fail('the header: expected a JSON object');
  return { header, body: 8 + headerBytes };
}

/**
 * Reads a whole file.
 * @param file names the source in errors
 * @throws WeightsError naming the file, the tensor and the field
 */
export function readSafetensors(bytes: ArrayBuffer, file = 'safetensors'): SafetensorsFile {
  const fail = failFor(file);
  const { header, body } = readHeader(bytes, fail);
  const metadata: [string, string][] = [];
  const tensors = new Map<string, SafetensorEntry>();
  let total = 0;
  for (const [name, entry] of Object.entries(header)) {
    if (!isObject(entry)) return fail(`${name}: expected an object, got ${brief(entry)}`);
    if (name === '__metadata__') {
      for (const [key, value] of Object.entries(entry))
        metadata.push([
          key,
          typeof value === 'string' ? value : fail(`__metadata__.${key}: expected a string, got ${brief(value)}`),
        ]);
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = entry;
    if (typeof dtype !== 'string' || !Object.hasOwn(VIEWS, dtype))
      return fail(`${name}: dtype: expected one of ${Object.keys(VIEWS).join(', ')}, got ${brief(dtype)}`);
    if (!isSizes(shape))
      return fail(`${name}: shape: expected at most ${MAX_AXES} non-negative integers, got ${brief(shape)}`);
    if (!isSizes(offsets) || offsets.length !== 2)
      return fail(`${name}: data_offsets: expected [begin, end], got ${brief(offsets)}`);
    const [elementBytes, view] = VIEWS[dtype as keyof typeof VIEWS];
    const [begin, end] = offsets;
    const expected = shape.reduce((product, n) => product * n, elementBytes);
    if (end - begin !== expected)
      fail(
        `${name}: shape [${shape.join(', ')}] of ${dtype} takes ${expected} bytes, data_offsets give ${end - begin}`,
      );
    if (body + end > bytes.byteLength)
      fail(`${name}: data ends at byte ${body + end} of a file of ${bytes.byteLength}: truncated`);
    // Without this check, the tensors of a small file could name the same bytes many times.
    total += expected;
    if (body + total > bytes.byteLength)
      fail(
        `${name}: the tensors up to here take ${total} bytes, ` +
          `the file has ${bytes.byteLength - body} for them: they overlap`,
      );
    tensors.set(name, { dtype, shape, data: view(bytes.slice(body + begin, body + end)) });
  }
  // Object.fromEntries makes an own property of every name, even of `__proto__`.
  return { metadata: Object.fromEntries(metadata), tensors };
}

/** Writes tensors in the given order, with the element types of their arrays. Throws WeightsError for a bad shape. */
export function writeSafetensors(
  tensors: ReadonlyMap<string, { readonly shape: readonly number[]; readonly data: SafetensorData }>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let offset = 0;
  for (const [name, { shape, data }] of tensors) {
    checkLength(name, shape, data.length);
    header[name] = { dtype: dtypeOf(data), shape, data_offsets: [offset, offset + data.byteLength] };
    offset += data.byteLength;
  }
  const json = JSON.stringify(header);
  const encoded = new TextEncoder().encode(json);
  const padding = (8 - (encoded.length % 8)) % 8;
  const out = new Uint8Array(8 + encoded.length + padding + offset);
  new DataView(out.buffer).setBigUint64(0, BigInt(encoded.length + padding), true);
  out.set(encoded, 8);
  out.fill(0x20, 8 + encoded.length, 8 + encoded.length + padding);
  let at = 8 + encoded.length + padding;
  for (const { data } of tensors.values()) {
    out.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return out;
}

function dtypeOf(data: SafetensorData): keyof typeof VIEWS {
  if (data instanceof Float32Array) return 'F32';
  if (data instanceof Float64Array) return 'F64';
  if (data instanceof Int32Array) return 'I32';
  if (data instanceof Uint32Array) return 'U32';
  if (data instanceof Uint16Array) return 'F16';
  return data instanceof BigInt64Array ? 'I64' : 'U8';
}
