/** Chooses the names of images and classes in a written data set: such as the format can hold, and each only once. */
import type { ImageRecord } from '../core/image-record.ts';
import type { DataWriter, OutputImage } from './data-writer.ts';
import { baseName, below, isImageName, withoutExtension } from './folder-tree.ts';

/** Names that differ only in case or in the form of Unicode are one name on some systems. */
const folded = (name: string): string => name.normalize('NFC').toLowerCase();

/** A splitting of a name into the part that may get a number, and the rest. */
type Parts = (name: string) => readonly [stem: string, extension: string];

const nameParts: Parts = (name) => {
  const stem = withoutExtension(name);
  return [stem, name.slice(stem.length)];
};

/**
 * Unique names. The first of several equal names stays; the others get `_2`, `_3`, ... A name that needs no change is
 * never taken by one that does.
 * @param keyOf what must be unique about a name
 */
export function uniqueNames(names: readonly string[], parts: Parts, keyOf: (name: string) => string): string[] {
  const natural = new Set(names.map(keyOf));
  const used = new Set<string>();
  return names.map((name) => {
    const [stem, extension] = parts(name);
    let chosen = name;
    for (let count = 2; used.has(keyOf(chosen)) || (chosen !== name && natural.has(keyOf(chosen))); count++)
      chosen = `${stem}_${count}${extension}`;
    used.add(keyOf(chosen));
    return chosen;
  });
}

/** Class names as a format can write them. */
export function writableClasses(names: readonly string[], { writableName }: DataWriter): string[] {
  return uniqueNames(
    names.map(writableName),
    (name) => [name, ''],
    (name) => name,
  );
}

/**
 * Places for the images of all splits.
 * @param extensionOf the extension by content ('.png') for files whose names do not say that they are images
 */
export function placeImages(
  splits: ReadonlyMap<string, readonly ImageRecord[]>,
  writer: DataWriter,
  extensionOf: (file: string) => string,
): Map<string, OutputImage[]> {
  const folders = new Map<string, ImageRecord[]>();
  for (const [split, records] of splits) {
    const folder = writer.imageFolder(split);
    folders.set(folder, [...(folders.get(folder) ?? []), ...records]);
  }
  const places = new Map([...folders].map(([folder, records]) => [folder, namesIn(records, writer, extensionOf)]));
  return new Map(
    [...splits].map(([split, records]) => {
      const folder = writer.imageFolder(split);
      const images = records.map((record): OutputImage => {
        const name = places.get(folder)?.get(record) ?? '';
        return { record, name, path: below(folder, name) };
      });
      return [split, images];
    }),
  );
}

/** The name of each record's image in one folder. Records of one image share it if the format allows it. */
function namesIn(
  records: readonly ImageRecord[],
  writer: DataWriter,
  extensionOf: (file: string) => string,
): Map<ImageRecord, string> {
  const groups = new Map<string | ImageRecord, ImageRecord[]>();
  for (const record of records) {
    const key = writer.sharesImages ? record.file : record;
    groups.set(key, [...(groups.get(key) ?? []), record]);
  }
  const wanted = [...groups.values()].map(([{ name, file }]) => {
    const clean = cleanPath(name, writer);
    return isImageName(clean) ? clean : `${clean}${extensionOf(file)}`;
  });
  const keyOf = (name: string) => folded(writer.namesStems ? withoutExtension(name) : name);
  const names = uniqueNames(wanted, nameParts, keyOf);
  return new Map([...groups.values()].flatMap((group, i) => group.map((record) => [record, names[i]] as const)));
}

/** A name without parts that lead out of the folder or that readers skip. */
function cleanPath(name: string, { keepsFolders, writableName }: DataWriter): string {
  const parts = keepsFolders ? name.split(/[\\/]+/) : [baseName(name)];
  const kept = parts.filter((part) => part !== '' && part !== '.' && part !== '..' && !/^[A-Za-z]:$/.test(part));
  return kept.length === 0 ? 'image' : kept.map((part) => writableName(part).replace(/^\./, '_')).join('/');
}
