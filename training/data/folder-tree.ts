/** The folders of a data set. Each folder is listed once, because listing is slow on network disks. */
import { readdirSync, statSync, type Dirent } from 'node:fs';
import { join } from 'node:path';

/** Extensions of images, in lower case. sharp decodes all of them except .bmp. */
const IMAGE = /\.(jpe?g|jpe|jfif|png|webp|tiff?|gif|avif|heic|heif|bmp)$/i;

/** Folders below the root that `walk` enters. It ends also in circles of links. */
const MAX_DEPTH = 8;

export interface FolderContent {
  /** Names, sorted by code units. */
  readonly files: readonly string[];
  readonly folders: readonly string[];
}

export const isImageName = (name: string): boolean => IMAGE.test(name);

/** The last part of a path, which has slashes or, from Windows, backslashes. */
export const baseName = (path: string): string =>
  path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1);

/** A name without its last extension. A name that begins with its only dot is whole. */
export const withoutExtension = (name: string): string => name.replace(/(?<=[^/\\])\.[^./\\]*$/, '');

/** Joins parts of a path below the root. Empty parts disappear. */
export const below = (...parts: readonly string[]): string => parts.filter((part) => part !== '').join('/');

/** Lists the folders of a data set. Paths are relative to the root and have slashes; the root itself is ''. */
export class FolderTree {
  private readonly known = new Map<string, FolderContent | null>();

  /** @param root absolute path */
  constructor(readonly root: string) {}

  /** Absolute path. */
  path(relative: string): string {
    return join(this.root, relative);
  }

  /** The content of a folder without hidden folders; null if there is no such folder. */
  list(folder: string): FolderContent | null {
    let content = this.known.get(folder);
    if (content === undefined) {
      content = this.read(folder);
      this.known.set(folder, content);
    }
    return content;
  }

  files(folder: string): readonly string[] {
    return this.list(folder)?.files ?? [];
  }

  folders(folder: string): readonly string[] {
    return this.list(folder)?.folders ?? [];
  }

  hasFile(path: string): boolean {
    const at = path.lastIndexOf('/');
    return includesSorted(this.files(path.slice(0, Math.max(at, 0))), path.slice(at + 1));
  }

  /** Paths of the folders in `parent` that have one of these names, in the order of the names. Case does not matter. */
  foldersNamed(parent: string, names: readonly string[]): string[] {
    const present = this.folders(parent);
    return names.flatMap((name) =>
      present.filter((folder) => folder.toLowerCase() === name.toLowerCase()).map((folder) => below(parent, folder)),
    );
  }

  /** Paths of the files in a folder and in all folders below it. Those of a folder come before those of its folders. */
  walk(folder: string, depth = MAX_DEPTH): string[] {
    const content = this.list(folder);
    if (content === null) return [];
    const paths = content.files.map((name) => below(folder, name));
    if (depth === 0) return paths;
    for (const name of content.folders) for (const path of this.walk(below(folder, name), depth - 1)) paths.push(path);
    return paths;
  }

  private read(folder: string): FolderContent | null {
    let entries: Dirent[];
    try {
      entries = readdirSync(this.path(folder), { withFileTypes: true });
    } catch {
      return null;
    }
    const files: string[] = [];
    const folders: string[] = [];
    for (const entry of entries) {
      const { name } = entry;
      // macOS adds `._name` files and __MACOSX folders to archives.
      if (name.startsWith('._') || name === '.DS_Store' || name === '__MACOSX') continue;
      const kind = entry.isSymbolicLink() ? statSync(join(this.path(folder), name), NO_ERROR) : entry;
      if (kind?.isFile()) files.push(name);
      else if (kind?.isDirectory() && !name.startsWith('.')) folders.push(name);
    }
    return { files: files.sort(), folders: folders.sort() };
  }
}

const NO_ERROR = { throwIfNoEntry: false } as const;

/** Whether a sorted list has a name, by binary search: folders can have a hundred thousand files. */
function includesSorted(names: readonly string[], name: string): boolean {
  let [from, to] = [0, names.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (names[middle] < name) from = middle + 1;
    else to = middle;
  }
  return names[from] === name;
}
