/** Finds the images that annotations name, also under paths of another machine. */
import { existsSync } from 'node:fs';
import { isAbsolute, posix } from 'node:path';
import { wrong } from '../core/checks.ts';
import { baseName, below, isImageName, type FolderTree } from './folder-tree.ts';
import { reportMissing } from './format.ts';
import { splitOf } from './split-names.ts';
import type { Warnings } from './warnings.ts';

/** An image as annotations name it. */
export interface ImageReference {
  /** A name or path; folders are separated by slashes or backslashes. */
  readonly path: string;
  /** The field or line that holds the path, for messages. */
  readonly field: string;
  /** The image in messages about missing images. */
  readonly label: string;
}

/** A path that exists; several that could be meant; or none. */
type Match = { readonly path: string; readonly exact: boolean } | { readonly candidates: readonly string[] } | null;

export interface ImageSearch {
  readonly tree: FolderTree;
  /** The split of the images, whose other splits' folders are not searched; null: none. */
  readonly split: string | null;
  /** Folders in which images are looked for first; those that do not exist are skipped. */
  readonly folders: readonly string[];
  /** Folders for the error about missing images, if none of `folders` exists. */
  readonly usual: readonly string[];
}

/** Finds images by name. All images below the root are listed when the first one is not at its place. */
export class ImageFinder {
  private readonly tree: FolderTree;
  private readonly split: string | null;
  private readonly folders: readonly string[];
  private readonly usual: readonly string[];
  private byName: Map<string, string[]> | null = null;

  constructor({ tree, split, folders, usual }: ImageSearch) {
    this.tree = tree;
    this.split = split;
    this.folders = [...new Set(folders)].filter((folder) => tree.list(folder) !== null);
    this.usual = usual;
  }

  /** The searched folders, for errors. */
  get lookedIn(): string[] {
    const holding = this.folders.filter((folder) => splitOf(baseName(folder)) || this.holdsImages(folder));
    if (holding.length > 0) return holding.map((folder) => this.tree.path(folder));
    return this.usual.map((folder) => `${this.tree.path(folder)} (no such folder)`);
  }

  private holdsImages(folder: string): boolean {
    return this.tree.files(folder).some(isImageName);
  }

  /**
   * Absolute paths of images in the order of the references; null for those that do not exist. Warnings name missing
   * images and those whose path fits only in its last parts.
   * @param source the file that has the references
   * @throws InputError if a reference fits several images, if two fit the same image, or if more than a tenth of the
   *   images is missing
   */
  locate(source: string, references: readonly ImageReference[], warnings: Warnings): (string | null)[] {
    const missing: string[] = [];
    const meant = new Map<string, string>();
    const files = references.map(({ path, field, label }) => {
      const match = this.find(path);
      if (match === null) {
        missing.push(label);
        return null;
      }
      if ('candidates' in match)
        throw wrong(source, field, `a path that fits one image (it fits ${match.candidates.join(', ')})`, path);
      const other = meant.get(match.path);
      if (other !== undefined && other !== path)
        throw wrong(source, field, `a path that fits another image than ${other} (both fit ${match.path})`, path);
      meant.set(match.path, path);
      if (!match.exact)
        warnings.add(
          'paths of images that fit in their last parts only',
          `${source}: ${field}: ${path} is ${match.path}`,
        );
      return this.tree.path(match.path);
    });
    reportMissing({ source, missing, total: references.length, lookedIn: this.lookedIn }, warnings);
    return files;
  }

  /** A path with folders is relative to one of the folders or to the root. */
  private find(reference: string): Match {
    const places = /[\\/]/.test(reference) ? [...this.folders, ''] : this.folders;
    for (const folder of places) {
      const path = posix.normalize(below(folder, reference));
      if (path.startsWith('..') ? existsSync(this.tree.path(path)) : this.tree.hasFile(path))
        return { path, exact: true };
    }
    return this.findByLastParts(reference) ?? this.findOutside(reference);
  }

  /** The images whose last parts fit best. Of equally good ones, those in the first folders win. */
  private findByLastParts(reference: string): Match {
    const parts = reference.split(/[\\/]+/).map(folded);
    this.byName ??= this.listImages();
    const scored = (this.byName.get(parts[parts.length - 1]) ?? []).map((path) => ({
      path,
      score: commonEnd(path.split('/').map(folded), parts),
      rank: this.rankOf(path),
    }));
    if (scored.length === 0) return null;
    const score = Math.max(...scored.map((item) => item.score));
    const best = scored.filter((item) => item.score === score);
    const rank = Math.min(...best.map((item) => item.rank));
    const first = best.filter((item) => item.rank === rank).map(({ path }) => path);
    if (first.length > 1) return { candidates: first };
    const [path] = first;
    // A plain name below one of the folders is no guess.
    const inFolder = this.folders.some((folder) => folder !== '' && path.startsWith(`${folder}/`));
    return { path, exact: inFolder && baseName(path) === reference };
  }

  private rankOf(path: string): number {
    const rank = this.folders.findIndex((folder) => folder === '' || path.startsWith(`${folder}/`));
    return rank < 0 ? this.folders.length : rank;
  }

  /** An absolute path of this machine, outside of the data set. */
  private findOutside(reference: string): Match {
    if (!isAbsolute(reference) || !existsSync(reference)) return null;
    return { path: posix.relative(this.tree.root, reference), exact: true };
  }

  /** All images below the root by name, without those in folders of other splits. */
  private listImages(): Map<string, string[]> {
    const byName = new Map<string, string[]>();
    for (const path of this.tree.walk('')) {
      if (!isImageName(path) || this.inOtherSplit(path)) continue;
      const key = folded(baseName(path));
      const known = byName.get(key);
      if (known === undefined) byName.set(key, [path]);
      else known.push(path);
    }
    return byName;
  }

  private inOtherSplit(path: string): boolean {
    if (this.split === null) return false;
    const splits = path
      .split('/')
      .slice(0, -1)
      .flatMap((folder) => splitOf(folder) ?? []);
    return splits.some((split) => split !== this.split) && !splits.includes(this.split);
  }
}

/** A name in one case and in composed Unicode, because other systems change both. */
export const folded = (name: string): string => name.normalize('NFC').toLowerCase();

/** Number of equal parts at the end of two paths. */
function commonEnd(a: readonly string[], b: readonly string[]): number {
  let count = 0;
  while (count < a.length && count < b.length && a[a.length - 1 - count] === b[b.length - 1 - count]) count++;
  return count;
}

/** The image of a name, in any case, in the first of some folders that has it; null if none has. */
export function findByName(tree: FolderTree, folders: readonly string[], name: string): string | null {
  const key = folded(name);
  for (const folder of folders) {
    const inFolder = tree.files(folder).filter((file) => isImageName(file) && folded(file) === key);
    if (inFolder.length === 1) return below(folder, inFolder[0]);
  }
  return null;
}
