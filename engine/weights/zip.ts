/**
 * Reads the part of the zip format that PyTorch writes: stored entries, found by the central directory, with zip64.
 * Entries are views of the file's bytes. Nothing is inflated, so a small file cannot become a large one.
 * Source: PKWARE APPNOTE 6.3.
 */
import { ByteReader, type Bytes } from './byte-reader.ts';
import type { Fail } from './errors.ts';

interface Entry {
  readonly method: number;
  readonly encrypted: boolean;
  readonly crc: number;
  readonly size: number;
  readonly storedSize: number;
  readonly headerAt: number;
}

export interface StoredZip {
  /** In the order of the directory. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** A view of an entry's bytes. Throws WeightsError if the entry is missing, compressed, or has another CRC-32. */
  read(name: string): Bytes;
}

/** Signatures of records. */
const END = 0x06054b50;
const END64_LOCATOR = 0x07064b50;
const END64 = 0x06064b50;
const DIRECTORY = 0x02014b50;
const LOCAL = 0x04034b50;

const END_BYTES = 22;
const LOCATOR_BYTES = 20;
const MAX_COMMENT = 65535;
/** A field with this value has its 64-bit value in the extra field. */
const IN_EXTRA_FIELD = 0xffffffff;

/** Reads the directory. Throws WeightsError if it is corrupt, or if entries share bytes. */
export function readZip(bytes: Bytes, fail: Fail): StoredZip {
  const { directoryAt, count } = findDirectory(bytes, fail);
  const entries = new Map<string, Entry>();
  const reader = new ByteReader(bytes, fail, directoryAt);
  const utf8 = new TextDecoder();
  let total = 0;
  for (let i = 0; i < count; i++) {
    if (reader.u32() !== DIRECTORY) fail(`zip: entry ${i} of the directory has no signature: corrupt`);
    reader.take(4);
    const flags = reader.u16();
    const method = reader.u16();
    reader.take(4);
    const crc = reader.u32();
    const storedSize = reader.u32();
    const size = reader.u32();
    const nameBytes = reader.u16();
    const extraBytes = reader.u16();
    const commentBytes = reader.u16();
    reader.take(8);
    const headerAt = reader.u32();
    const name = utf8.decode(reader.take(nameBytes));
    const extra = new ByteReader(reader.take(extraBytes), fail);
    reader.take(commentBytes);
    if (entries.has(name)) fail(`zip: two entries are called ${JSON.stringify(name.slice(0, 100))}: refused`);
    const sizes = zip64Sizes(extra, { size, storedSize, headerAt });
    total += sizes.storedSize;
    // Without this check, entries of a small file could name the same bytes many times.
    if (total > bytes.length)
      fail(`zip: its entries hold ${total} bytes, the file ${bytes.length}: truncated, or entries overlap`);
    entries.set(name, { method, encrypted: (flags & 1) !== 0, crc, ...sizes });
  }
  const read = (name: string): Bytes => {
    const entry = entries.get(name);
    if (!entry) return fail(`zip: no entry ${JSON.stringify(name.slice(0, 100))}: truncated or corrupt`);
    if (entry.encrypted) fail(`zip: ${name} is encrypted`);
    if (entry.method !== 0 || entry.size !== entry.storedSize) {
      fail(
        `zip: ${name}: expected a stored entry, as PyTorch writes it, ` +
          `got one that is compressed (method ${entry.method})`,
      );
    }
    const local = new ByteReader(bytes, fail, entry.headerAt);
    if (local.u32() !== LOCAL) fail(`zip: ${name} has no header at byte ${entry.headerAt}: corrupt`);
    local.take(22);
    const nameBytes = local.u16();
    const extraBytes = local.u16();
    local.take(nameBytes + extraBytes);
    const data = local.take(entry.size);
    if (crc32(data) !== entry.crc) fail(`zip: ${name} does not match its CRC-32: corrupt`);
    return data;
  };
  return { names: [...entries.keys()], has: (name) => entries.has(name), read };
}

/** The position of the directory and its number of entries. */
function findDirectory(bytes: Bytes, fail: Fail): { directoryAt: number; count: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = bytes.length - END_BYTES; at >= Math.max(0, bytes.length - END_BYTES - MAX_COMMENT); at--) {
    if (view.getUint32(at, true) !== END || at + END_BYTES + view.getUint16(at + 20, true) !== bytes.length) continue;
    let count = view.getUint16(at + 10, true);
    let directoryAt = view.getUint32(at + 16, true);
    const locatorAt = at - LOCATOR_BYTES;
    if (locatorAt >= 0 && view.getUint32(locatorAt, true) === END64_LOCATOR) {
      const end64 = new ByteReader(bytes, fail, Number(view.getBigUint64(locatorAt + 8, true)));
      if (end64.u32() !== END64) fail('zip: no zip64 end of directory where its locator says: corrupt');
      end64.take(28);
      count = end64.u64();
      end64.take(8);
      directoryAt = end64.u64();
    }
    return { directoryAt, count };
  }
  return fail('zip: no end of directory: the file is truncated');
}

/** The sizes, with 64-bit values from the extra field. It has a value for each field whose 32 bits are all ones. */
function zip64Sizes(
  extra: ByteReader,
  sizes: Pick<Entry, 'size' | 'storedSize' | 'headerAt'>,
): Pick<Entry, 'size' | 'storedSize' | 'headerAt'> {
  let { size, storedSize, headerAt } = sizes;
  while (extra.bytes.length - extra.at >= 4) {
    const id = extra.u16();
    const length = extra.u16();
    if (id !== 1) {
      extra.take(length);
      continue;
    }
    if (size === IN_EXTRA_FIELD) size = extra.u64();
    if (storedSize === IN_EXTRA_FIELD) storedSize = extra.u64();
    if (headerAt === IN_EXTRA_FIELD) headerAt = extra.u64();
    break;
  }
  return { size, storedSize, headerAt };
}

let crcTables: Uint32Array[] | null = null;

/** CRC-32 (IEEE 802.3, as in zip), eight bytes per step. */
export function crc32(bytes: Bytes): number {
  crcTables ??= makeCrcTables();
  const [t0, t1, t2, t3, t4, t5, t6, t7] = crcTables;
  let crc = 0xffffffff;
  let i = 0;
  for (; i + 8 <= bytes.length; i += 8) {
    crc ^= bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    crc =
      t7[crc & 255] ^
      t6[(crc >>> 8) & 255] ^
      t5[(crc >>> 16) & 255] ^
      t4[crc >>> 24] ^
      t3[bytes[i + 4]] ^
      t2[bytes[i + 5]] ^
      t1[bytes[i + 6]] ^
      t0[bytes[i + 7]];
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[i]) & 255];
  return (crc ^ 0xffffffff) >>> 0;
}

function makeCrcTables(): Uint32Array[] {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let n = 0; n < 256; n++) {
    let crc = n;
    for (let k = 0; k < 8; k++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
    tables[0][n] = crc;
  }
  for (let n = 0; n < 256; n++)
    for (let k = 1; k < 8; k++) tables[k][n] = (tables[k - 1][n] >>> 8) ^ tables[0][tables[k - 1][n] & 255];
  return tables;
}
