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
  const folders = new Map<string, ImageGroups>();
  const groups = [...splits].map(([split, records]) => {
    const folder = writer.imageFolder(split);
    const known: ImageGroups = folders.get(folder) ?? new Map();
    folders.set(folder, known);
    const own = new Map<string, number>();
    const keys = records.map((record) => {
      const content = contentKey(record);
      const count = (own.get(content) ?? 0) + 1;
      own.set(content, count);
      // An image has one place in all splits of a folder, and as many as it is listed in one split.
      const key = `${count} ${writer.sharesImages ? '' : split} ${content}`;
      known.set(key, record);
      return key;
    });
    return { split, folder, records, keys };
  });
  const names = new Map([...folders].map(([folder, known]) => [folder, namesIn(known, writer, extensionOf)]));
  return new Map(
    groups.map(({ split, folder, records, keys }) => [
      split,
      records.map((record, i): OutputImage => {
        const name = names.get(folder)?.get(keys[i]) ?? '';
        return { record, name, path: below(folder, name) };
      }),
    ]),
  );
}

/** Images of one folder by key. */
type ImageGroups = Map<string, ImageRecord>;

/** Equal for records of one image with the same objects. */
export const contentKey = (record: ImageRecord): string => JSON.stringify(record);

/** The name of each image in one folder. */
function namesIn(records: ImageGroups, writer: DataWriter, extensionOf: (file: string) => string): Map<string, string> {
  const wanted = [...records.values()].map(({ name, file }) => {
    const clean = cleanPath(name, writer);
    return isImageName(clean) ? clean : `${clean}${extensionOf(file)}`;
  });
  const keyOf = (name: string) => folded(writer.namesStems ? withoutExtension(name) : name);
  const names = uniqueNames(wanted, nameParts, keyOf);
  return new Map([...records.keys()].map((key, i) => [key, names[i]]));
}

/** A name without parts that lead out of the folder or that readers skip. Readers of lists cut white space at ends. */
function cleanPath(name: string, { keepsFolders, namesStems, writableName }: DataWriter): string {
  const parts = keepsFolders ? name.split(/[\\/]+/) : [baseName(name)];
  const kept = parts.filter((part) => part !== '' && part !== '.' && part !== '..' && !/^[A-Za-z]:$/.test(part));
  const clean = kept.map((part) => writableName(part).replace(/^\./, '_')).join('/');
  return (namesStems ? clean.replace(/\s+(?=\.[^.]*$)/, '') : clean) || 'image';
}
