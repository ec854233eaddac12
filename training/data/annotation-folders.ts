/** Finds the folders of data sets that have an annotation file for each image, and the folders of their images. */
import { InputError } from '../core/errors.ts';
import { below, isImageName, type FolderTree } from './folder-tree.ts';
import { inSplitOrder, splitOf, UNDIVIDED } from './split-names.ts';

/** Usual names of folders of images. Case does not matter. */
export const IMAGE_FOLDERS: readonly string[] = ['JPEGImages', 'images', 'image', 'imgs', 'img', 'photos', 'data'];

/** A folder of annotation files. */
export interface AnnotationFolder {
  readonly folder: string;
  /** The split of its images; `UNDIVIDED` if its path names none. */
  readonly split: string;
  /** The name of the split in the path; '' if there is none. */
  readonly ownName: string;
  /** The folders that may hold its images, the most likely first. */
  readonly imageFolders: readonly string[];
}

export interface SplitFolder {
  readonly split: string;
  readonly ownName: string;
  readonly path: string;
}

/** The folders in a folder that are named after splits. */
export function splitFolders(tree: FolderTree, parent: string): SplitFolder[] {
  return tree.folders(parent).flatMap((ownName) => {
    const split = splitOf(ownName);
    return split === null ? [] : [{ split, ownName, path: below(parent, ownName) }];
  });
}

/** The folders of images in a folder: those with usual names, then others that hold images and name no split. */
export function imageFoldersIn(tree: FolderTree, parent: string): string[] {
  const usual = tree.foldersNamed(parent, IMAGE_FOLDERS);
  const others = tree
    .folders(parent)
    .filter((name) => splitOf(name) === null)
    .map((name) => below(parent, name))
    .filter((folder) => tree.files(folder).some(isImageName));
  return [...new Set([...usual, ...others])];
}

/**
 * The folders that hold annotation files. These are: the root; `<name>/`, `<split>/` and `images/`; and two of them in
 * either order.
 * @param names usual names of folders of annotations
 * @param holds whether a folder holds annotation files
 */
export function annotationFolders(
  tree: FolderTree,
  names: readonly string[],
  holds: (folder: string) => boolean,
): AnnotationFolder[] {
  const found = new Map<string, AnnotationFolder>();
  const add = (folder: string, split: SplitFolder | null, imageFolders: readonly string[]): void => {
    if (found.has(folder) || !holds(folder)) return;
    found.set(folder, {
      folder,
      split: split?.split ?? UNDIVIDED,
      ownName: split?.ownName ?? '',
      imageFolders: [...new Set(imageFolders)],
    });
  };
  const images = imageFoldersIn(tree, '');
  const splits = splitFolders(tree, '');
  const imagesOf = (split: string): string[] => [
    ...images.flatMap((folder) => splitFolders(tree, folder).filter((inner) => inner.split === split)).map(pathOf),
    ...splits.filter((outer) => outer.split === split).flatMap(({ path }) => [...imageFoldersIn(tree, path), path]),
  ];
  add('', null, ['', ...images]);
  for (const folder of tree.foldersNamed('', names)) {
    add(folder, null, [...images, folder, '']);
    for (const split of splitFolders(tree, folder))
      add(split.path, split, [...imagesOf(split.split), split.path, ...images, '']);
  }
  for (const split of splits) {
    const inner = imageFoldersIn(tree, split.path);
    add(split.path, split, [split.path, ...inner]);
    for (const folder of tree.foldersNamed(split.path, names)) add(folder, split, [...inner, split.path, folder]);
    for (const folder of inner) add(folder, split, [folder]);
  }
  for (const folder of images) {
    add(folder, null, [folder]);
    for (const split of splitFolders(tree, folder)) add(split.path, split, [split.path]);
  }
  return [...found.values()];
}

const pathOf = ({ path }: SplitFolder): string => path;

/** Throws InputError if some annotations are in folders of splits and some are not. */
export function requireOneDivision(tree: FolderTree, folders: readonly AnnotationFolder[]): void {
  const inSplit = folders.find(({ split }) => split !== UNDIVIDED);
  const outside = folders.find(({ split }) => split === UNDIVIDED);
  if (inSplit === undefined || outside === undefined) return;
  throw new InputError(
    `${tree.root}: expected annotations either in folders of splits or outside of them, ` +
      `got some in ${inSplit.folder} and some in ${outside.folder || 'the folder itself'}`,
  );
}

/** The splits of folders with their own names, in order. */
export function splitsOf(folders: readonly AnnotationFolder[]): Map<string, string> {
  return inSplitOrder(folders.map(({ split, ownName }) => [split, ownName === '' ? split : ownName] as const));
}

/** The images in a folder and below it. */
export const imagesBelow = (tree: FolderTree, folder: string): string[] => tree.walk(folder).filter(isImageName);
