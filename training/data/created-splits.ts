/**
 * Creates a validation split for data sets that have none.
 *
 * A hash of an image's name decides. So an image stays in its split when others are added, and the same images in
 * another format are split the same way. Copies of an image stay together: those with equal content, and those that
 * Roboflow augments (`photo_jpg.rf.<hash>.jpg`).
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { withoutExtension } from './folder-tree.ts';

/** Share of the images that become the validation split. */
export const VALIDATION_SHARE = 0.15;

/** Bytes at the beginning of files of equal size that are compared before the whole files. */
const FIRST_BYTES = 65536;

/** Files that are read at the same time. */
const PARALLEL_READS = 16;

export interface DividedImages<T> {
  readonly train: readonly T[];
  readonly val: readonly T[];
  /** Number of images that have the content of another image and follow it into its split. */
  readonly duplicates: number;
}

/**
 * Divides images into training and validation. Both get an image if there are at least two images.
 * @returns null if there are fewer
 */
export async function divideImages<T extends { readonly file: string }>(
  images: readonly T[],
): Promise<DividedImages<T> | null> {
  if (images.length < 2) return null;
  const { groupOf, duplicates } = await groupKeys(images.map(({ file }) => file));
  const shares = new Map([...groupOf.values()].map((key) => [key, shareOf(key)]));
  const ordered = [...shares].sort(([a, p], [b, q]) => p - q || (a < b ? -1 : 1)).map(([key]) => key);
  const validation = new Set(ordered.filter((key) => (shares.get(key) ?? 1) < VALIDATION_SHARE));
  validation.add(ordered[0]);
  if (validation.size === ordered.length) validation.delete(ordered[ordered.length - 1]);
  const isVal = ({ file }: T) => validation.has(groupOf.get(file) ?? '');
  return { train: images.filter((image) => !isVal(image)), val: images.filter(isVal), duplicates };
}

/**
 * The part of a file's name that all copies of an image share: without extension, and without what Roboflow adds.
 * Unicode is composed, because macOS decomposes it in names.
 */
export function imageKey(file: string): string {
  const name = withoutExtension(basename(file)).normalize('NFC');
  return name.replace(/(?:_(?:jpe?g|png|webp|bmp|tiff?))?\.rf\.[0-9a-zA-Z]{8,}$/, '');
}

/** A number in [0, 1) that depends on the key alone. */
function shareOf(key: string): number {
  return createHash('sha256').update(key).digest().readUInt32BE(0) / 2 ** 32;
}

/** The key of each file's group. Groups have the same name or the same content, unless that makes a single group. */
async function groupKeys(files: readonly string[]): Promise<{ groupOf: Map<string, string>; duplicates: number }> {
  const byName = new Map(files.map((file) => [file, imageKey(file)]));
  const copies = await filesOfEqualContent(files);
  const byContent = joinGroups(byName, copies);
  const severalGroups = (keys: ReadonlyMap<string, string>) => new Set(keys.values()).size > 1;
  if (severalGroups(byContent))
    return { groupOf: byContent, duplicates: copies.reduce((sum, group) => sum + group.length - 1, 0) };
  return { groupOf: severalGroups(byName) ? byName : new Map(files.map((file) => [file, file])), duplicates: 0 };
}

/** Gives files of one group of copies the same key: the first of their keys in alphabetical order. */
function joinGroups(keys: ReadonlyMap<string, string>, copies: readonly (readonly string[])[]): Map<string, string> {
  const parents = new Map<string, string>();
  const rootOf = (key: string): string => {
    let root = key;
    for (let parent = parents.get(root); parent !== undefined; parent = parents.get(root)) root = parent;
    return root;
  };
  for (const group of copies) {
    const roots = [...new Set(group.map((file) => rootOf(keys.get(file) ?? file)))].sort();
    for (const root of roots.slice(1)) parents.set(root, roots[0]);
  }
  return new Map([...keys].map(([file, key]) => [file, rootOf(key)]));
}

/** Groups of at least two files with the same bytes. Only files of equal size are read, and empty files are none. */
export async function filesOfEqualContent(files: readonly string[]): Promise<string[][]> {
  const bySize = await groupBy(files, async (file) => (await stat(file)).size || null);
  const byStart = await groupBy(bySize.flat(), hashOfStart);
  return groupBy(byStart.flat(), hashOfWhole);
}

/** Groups of at least two files with the same key. Files that cannot be read, or have the key null, are in no group. */
async function groupBy(
  files: readonly string[],
  keyOf: (file: string) => Promise<string | number | null>,
): Promise<string[][]> {
  const keys: (string | number | null)[] = files.map(() => null);
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < files.length) {
      const index = next++;
      keys[index] = await keyOf(files[index]).catch(() => null);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL_READS }, work));
  const groups = new Map<string | number, string[]>();
  files.forEach((file, i) => {
    const key = keys[i];
    if (key === null) return;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [file]);
    else group.push(file);
  });
  return [...groups.values()].filter((group) => group.length > 1);
}

/** Size and SHA-256 of the first bytes. */
async function hashOfStart(file: string): Promise<string> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(FIRST_BYTES), 0, FIRST_BYTES, 0);
    return `${size} ${createHash('sha256').update(buffer.subarray(0, bytesRead)).digest('hex')}`;
  } finally {
    await handle.close();
  }
}

/** SHA-256 of the whole file; that of its start if it has no more bytes. */
async function hashOfWhole(file: string): Promise<string> {
  if ((await stat(file)).size <= FIRST_BYTES) return hashOfStart(file);
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
