/** Finds the annotation files of Pascal VOC data sets, with lists of splits or without. */
import { InputError } from '../core/errors.ts';
import {
  annotationFolders,
  imageFoldersIn,
  requireOneDivision,
  splitFolders,
  splitsOf,
  type AnnotationFolder,
} from './annotation-folders.ts';
import { readEnds, readText } from './files.ts';
import { baseName, below, isImageName, withoutExtension, type FolderTree } from './folder-tree.ts';
import { firstNames } from './format.ts';
import { inSplitOrder, UNDIVIDED } from './split-names.ts';

export const ANNOTATION_FOLDERS: readonly string[] = [
  'Annotations',
  'annotation',
  'annots',
  'annot',
  'xmls',
  'xml',
  'labels',
];

/** The lists in ImageSets/Main, which are splits, in this order. */
export const LISTS: readonly string[] = ['train', 'val', 'test', 'trainval'];
const LIST_FOLDERS: readonly string[] = ['ImageSets/Main', 'ImageSets'];

/** An annotation file, as a path below the root, and the folders in which its image may be. */
export interface VocFile {
  readonly xml: string;
  /** The image's name without extension, as the list or the XML file has it. */
  readonly name: string;
  readonly imageFolders: readonly string[];
}

export interface VocLayout {
  readonly name: string;
  /** The splits with the folder's own names. */
  readonly splits: ReadonlyMap<string, string>;
  /** The folder or file that lists the images, for errors. */
  readonly source: string;
  /** Whether the folder has lists. Without lists, every image should have an annotation file. */
  readonly hasLists: boolean;
  /** The files of every split. Throws InputError if a list or an annotation file is missing or wrong. */
  readonly files: () => Map<string, readonly VocFile[]>;
}

/** The layout of a folder; null if it has no Pascal VOC files. */
export function findLayout(tree: FolderTree): VocLayout | null {
  return withLists(tree) ?? withoutLists(tree);
}

function withLists(tree: FolderTree): VocLayout | null {
  const listsIn = (path: string) => LISTS.filter((split) => tree.files(path).includes(`${split}.txt`));
  const folder = LIST_FOLDERS.find((path) => listsIn(path).length > 0);
  if (folder === undefined) return null;
  const splits = listsIn(folder);
  return {
    name: 'Pascal VOC',
    splits: inSplitOrder(splits.map((split) => [split, split] as const)),
    source: tree.path(folder),
    hasLists: true,
    files: () => {
      const lists = new Map(splits.map((split) => [split, readList(tree.path(`${folder}/${split}.txt`))]));
      return listedFiles(tree, lists);
    },
  };
}

/** Throws InputError if a listed image has no annotation file. */
function listedFiles(tree: FolderTree, lists: ReadonlyMap<string, readonly string[]>): Map<string, VocFile[]> {
  const found = tree.foldersNamed('', ANNOTATION_FOLDERS);
  const folder = found.find((path) => tree.files(path).some(isXml)) ?? found.at(0) ?? ANNOTATION_FOLDERS[0];
  const images = imageFoldersIn(tree, '');
  const imageFolders = images.length > 0 ? [...images, folder] : ['JPEGImages', folder, ''];
  const fileOf = (listed: string): VocFile | null => {
    const names = [listed, withoutExtension(listed), withoutExtension(baseName(listed))];
    for (const name of names) {
      const xml = ['.xml', '.XML']
        .map((extension) => `${folder}/${name}${extension}`)
        .find((path) => tree.hasFile(path));
      if (xml !== undefined) return { xml, name, imageFolders };
    }
    return null;
  };
  const names = new Set([...lists.values()].flat());
  const files = new Map([...names].map((name) => [name, fileOf(name)]));
  const missing = [...files].filter(([, file]) => file === null).map(([name]) => `${name}.xml`);
  if (missing.length > 0)
    throw new InputError(
      `${tree.path(folder)}: expected an annotation file for each of the ${names.size} images ` +
        `listed in ImageSets/Main, got none for ${missing.length}: ${firstNames(missing)}`,
    );
  return new Map([...lists].map(([split, list]) => [split, list.flatMap((name) => files.get(name) ?? [])]));
}

function readList(file: string): string[] {
  const lines = new Map<string, number>();
  readText(file)
    .split(/\r?\n/)
    .forEach((text, i) => {
      const name = text.trim();
      if (name === '') return;
      const earlier = lines.get(name);
      if (earlier !== undefined) {
        throw new InputError(
          `${file}: line ${i + 1}: expected every image once, got "${name}", which is in line ${earlier} too`,
        );
      }
      lines.set(name, i + 1);
    });
  if (lines.size === 0) throw new InputError(`${file}: expected image names, one per line, got an empty list`);
  return [...lines.keys()];
}

const isXml = (name: string): boolean => /\.xml$/i.test(name);

function withoutLists(tree: FolderTree): VocLayout | null {
  const holds = (folder: string) => holdsAnnotations(tree, folder);
  const known = annotationFolders(tree, ANNOTATION_FOLDERS, holds);
  const folders = known.length > 0 ? known : otherFolders(tree, holds);
  if (folders.length === 0) return null;
  const divided = folders.filter(({ split }) => split !== UNDIVIDED);
  requireOneDivision(tree, folders);
  const byImages = divided.length > 0 ? null : dividedImages(tree, folders);
  if (byImages !== null) return byImages;
  const besideImages = folders.every(({ folder, imageFolders }) => imageFolders[0] === folder);
  return {
    name: divided.length > 0 && besideImages ? 'Roboflow Pascal VOC' : 'Pascal VOC',
    splits: splitsOf(folders),
    source: tree.path(folders[0].folder),
    hasLists: false,
    files: () => filesBySplit(tree, folders),
  };
}

/** One folder of annotations for images in folders of splits; null if the images are not divided. */
function dividedImages(tree: FolderTree, folders: readonly AnnotationFolder[]): VocLayout | null {
  const [{ folder, imageFolders }] = folders;
  if (folders.length > 1 || imageFolders.some((path) => tree.files(path).some(isImageName))) return null;
  const splits = ['', ...imageFoldersIn(tree, '')]
    .flatMap((path) => splitFolders(tree, path))
    .map((split) => ({ ...split, imageFolders: [split.path, ...imageFoldersIn(tree, split.path)], folder }));
  if (splits.length === 0) return null;
  return {
    name: 'Pascal VOC',
    splits: splitsOf(splits),
    source: tree.path(folder),
    hasLists: false,
    files: () => filesOfImages(tree, splits),
  };
}

/** The annotation files by the split of their images. Files without an image are in the first split. */
function filesOfImages(tree: FolderTree, splits: readonly AnnotationFolder[]): Map<string, VocFile[]> {
  const files = new Map<string, VocFile[]>(splits.map(({ split }) => [split, []]));
  const stems = splits.map(
    ({ imageFolders }) =>
      new Set(imageFolders.flatMap((path) => tree.files(path).filter(isImageName)).map(withoutExtension)),
  );
  for (const file of tree.files(splits[0].folder).filter(isXml)) {
    const name = withoutExtension(file);
    const { folder, split, imageFolders } =
      splits[
        Math.max(
          stems.findIndex((names) => names.has(name)),
          0,
        )
      ];
    files.get(split)?.push({ xml: below(folder, file), name, imageFolders });
  }
  return files;
}

/** Folders of any name that hold annotation files, such as one for each class in `Annotations/`. */
function otherFolders(tree: FolderTree, holds: (folder: string) => boolean): AnnotationFolder[] {
  const parents = new Set(
    tree
      .walk('', 3)
      .filter(isXml)
      .map((path) => path.slice(0, Math.max(path.lastIndexOf('/'), 0))),
  );
  const images = imageFoldersIn(tree, '');
  return [...parents].filter(holds).map((folder) => {
    const inner = folder.slice(folder.indexOf('/') + 1);
    const imageFolders = [folder, ...images.map((path) => below(path, inner)), ...images];
    return { folder, split: UNDIVIDED, ownName: '', imageFolders };
  });
}

function filesBySplit(tree: FolderTree, folders: readonly AnnotationFolder[]): Map<string, VocFile[]> {
  const files = new Map<string, VocFile[]>();
  for (const { folder, split, imageFolders } of folders) {
    const list = files.get(split) ?? [];
    for (const name of tree.files(folder).filter(isXml))
      list.push({ xml: below(folder, name), name: withoutExtension(name), imageFolders });
    files.set(split, list);
  }
  return files;
}

/** Whether a folder has XML files of annotations, judged by the first ones. */
function holdsAnnotations(tree: FolderTree, folder: string): boolean {
  return tree
    .files(folder)
    .filter(isXml)
    .slice(0, 3)
    .some((name) => /<annotation[\s>]/.test(readEnds(tree.path(below(folder, name)), { first: 4096 })));
}
