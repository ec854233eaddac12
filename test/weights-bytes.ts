/** Bytes of checkpoint files for tests: golden files, pickles made of opcodes, and zips with correct checksums. */
import { readFileSync } from 'node:fs';
import { crc32, readZip } from '../engine/weights/zip.ts';

export const FOLDER = new URL('golden/weights/', import.meta.url);
export const read = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(new URL(name, FOLDER)));

/** Small golden files of each format. */
export const SMALL = ['f32.zip.pth', 'f16.legacy.pth', 'bf16.zip.pth', 'types.zip.pth', 'training.pth', 'python2.pkl'];

export const concat = (...parts: readonly (readonly number[] | Uint8Array)[]): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(parts.flatMap((part) => [...part]));
export const ascii = (text: string): number[] => [...new TextEncoder().encode(text)];
export const u32 = (n: number): number[] => [n & 255, (n >>> 8) & 255, (n >>> 16) & 255, n >>> 24];
export const u64 = (n: bigint): number[] => Array.from({ length: 8 }, (_, i) => Number((n >> BigInt(8 * i)) & 255n));
export const text = (value: string): number[] => [0x58, ...u32(value.length), ...ascii(value)];
export const pickle = (...body: readonly (readonly number[])[]): Uint8Array<ArrayBuffer> =>
  concat([0x80, 2], ...body, [0x2e]);

/** A zip of stored entries. */
export function zip(entries: Readonly<Record<string, Uint8Array<ArrayBuffer>>>): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [],
    directory: number[] = [];
  let at = 0;
  for (const [name, data] of Object.entries(entries)) {
    const common = [
      20,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      ...u32(crc32(data)),
      ...u32(data.length),
      ...u32(data.length),
      name.length,
      0,
      0,
      0,
    ];
    const header = Uint8Array.from([...u32(0x04034b50), ...common, ...ascii(name)]);
    directory.push(...u32(0x02014b50), 20, 0, ...common, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...u32(at), ...ascii(name));
    parts.push(header, data);
    at += header.length + data.length;
  }
  const count = Object.keys(entries).length;
  parts.push(
    Uint8Array.from([
      ...directory,
      ...u32(0x06054b50),
      0,
      0,
      0,
      0,
      count,
      0,
      count,
      0,
      ...u32(directory.length),
      ...u32(at),
      0,
      0,
    ]),
  );
  return new Uint8Array(Buffer.concat(parts));
}

/** A zip with the entries of a checkpoint, changed by `change`, and with correct checksums. */
export function rezip(
  name: string,
  change: (entries: Record<string, Uint8Array<ArrayBuffer>>) => void,
): Uint8Array<ArrayBuffer> {
  const stored = readZip(read(name), (message) => {
    throw new Error(message);
  });
  const entries = Object.fromEntries(
    stored.names.map((entry) => [`a/${entry.slice(entry.indexOf('/') + 1)}`, stored.read(entry)]),
  );
  change(entries);
  return zip(entries);
}
