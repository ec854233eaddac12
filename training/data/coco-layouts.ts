/** Finds the annotation files of COCO data sets, in the layouts that tools export, and the folders of their images. */
import { InputError } from '../core/errors.ts';
import { IMAGE_FOLDERS, imageFoldersIn, splitFolders, type SplitFolder } from './annotation-folders.ts';
import { readEnds } from './files.ts';
import { baseName, below, withoutExtension, type FolderTree } from './folder-tree.ts';
import { inSplitOrder, splitOf, splitWithin, UNDIVIDED } from './split-names.ts';

/** An annotation file, as a path below the root. */
export interface CocoFile {
  readonly file: string;
  readonly split: string;
  /** The folder's or file's own name of the split. */
  readonly ownName: string;
  /** Folders in which its images may be, the most likely first. */
  readonly imageFolders: readonly string[];
  /** Those that an error names if none exists. */
  readonly usualFolders: readonly string[];
}

export interface CocoLayout {
  readonly name: string;
  readonly files: ReadonlyMap<string, CocoFile>;
  /** Annotation files that are not read. */
  readonly unused: readonly string[];
}

const INSTANCES = /^instances_(trainval|train|validation|valid|val|dev|test)(.*)\.json$/;
const ROBOFLOW = '_annotations.coco.json';
const ANNOTATION_FOLDERS: readonly string[] = ['annotations', 'annotation', 'labels', 'json'];
/** Bytes at the beginning and at the end of a file in which its keys are looked for. */
const PEEKED_BYTES = 65536;

/** The layout of a folder; null if it has no COCO file. Throws InputError if a split has two files. */
export function findLayout(tree: FolderTree): CocoLayout | null {
  return namedInstances(tree) ?? filesInSplitFolders(tree) ?? otherFiles(tree);
}

/** `annotations/instances_<split>*.json`. */
function namedInstances(tree: FolderTree): CocoLayout | null {
  const folders = [...tree.foldersNamed('', ANNOTATION_FOLDERS), ''];
  const folder = folders.find((path) => tree.files(path).some((name) => INSTANCES.test(name)));
  if (folder === undefined) return null;
  const found = tree.files(folder).flatMap((name) => {
    const [, ownName, suffix] = INSTANCES.exec(name) ?? [];
    if (ownName === undefined) return [];
    const split = splitOf(ownName) ?? ownName;
    const candidates = [`${ownName}${suffix}`, ownName, split];
    const imageFolders = [
      ...candidates,
      ...candidates.map((candidate) => `images/${candidate}`),
      'images',
      ...foldersOfSplit(tree, split),
      ...imageFoldersIn(tree, ''),
      '',
      folder,
    ];
    const usualFolders = [...new Set([...candidates.slice(0, 2), 'images'])];
    return [{ file: below(folder, name), split, ownName, imageFolders, usualFolders }];
  });
  return { name: 'COCO', files: bySplit(tree, found), unused: [] };
}

/** `train/_annotations.coco.json`, as Roboflow exports it, or one JSON file of another name in each split's folder. */
function filesInSplitFolders(tree: FolderTree): CocoLayout | null {
  const found = splitFolders(tree, '').flatMap(({ split, ownName, path }) =>
    [path, ...tree.foldersNamed(path, ANNOTATION_FOLDERS)].flatMap((folder) =>
      cocoFilesIn(tree, folder).map((file): CocoFile => {
        const imageFolders = [path, ...imageFoldersIn(tree, path), folder];
        return { file, split, ownName, imageFolders, usualFolders: [path] };
      }),
    ),
  );
  if (found.length === 0) return null;
  const isRoboflow = found.every(({ file }) => baseName(file) === ROBOFLOW);
  return { name: isRoboflow ? 'Roboflow COCO' : 'COCO', files: bySplit(tree, found), unused: [] };
}

/** JSON files of any name: one for each split, which their names say, or one for all images. */
function otherFiles(tree: FolderTree): CocoLayout | null {
  const usual = ['', ...tree.foldersNamed('', ANNOTATION_FOLDERS), ...imageFoldersIn(tree, '')];
  const inUsual = [...new Set(usual)].flatMap((folder) => cocoFilesIn(tree, folder));
  const paths = inUsual.length > 0 ? inUsual : tree.folders('').flatMap((folder) => cocoFilesIn(tree, folder));
  if (paths.length === 0) return null;
  const found = paths.map((file) => otherFile(tree, file));
  const divided = found.filter(({ split }) => split !== UNDIVIDED);
  const chosen = divided.length > 0 ? divided : found;
  const unused = found.filter((entry) => !chosen.includes(entry)).map(({ file }) => tree.path(file));
  return { name: 'COCO', files: bySplit(tree, chosen), unused };
}

function otherFile(tree: FolderTree, file: string): CocoFile {
  const folder = file.slice(0, Math.max(file.lastIndexOf('/'), 0));
  const ownName = splitWithin(withoutExtension(baseName(file))) ?? UNDIVIDED;
  const inFolder = [...imageFoldersIn(tree, folder), folder];
  const imageFolders = [...inFolder, ...foldersOfSplit(tree, ownName), ...imageFoldersIn(tree, ''), ''];
  return { file, split: ownName, ownName, imageFolders, usualFolders: [below(folder, IMAGE_FOLDERS[1])] };
}

/** `<split>/`, `images/<split>/` and `<split>/images/`, with the folder's own names. */
function foldersOfSplit(tree: FolderTree, split: string): string[] {
  const ofSplit = (folders: readonly SplitFolder[]) =>
    folders.filter((folder) => folder.split === split).map(({ path }) => path);
  const outer = ofSplit(splitFolders(tree, ''));
  return [
    ...outer.flatMap((path) => [...imageFoldersIn(tree, path), path]),
    ...imageFoldersIn(tree, '').flatMap((path) => ofSplit(splitFolders(tree, path))),
  ];
}

/** The COCO files in a folder. Of several, captions and keypoints are not meant, nor files that only list images. */
function cocoFilesIn(tree: FolderTree, folder: string): string[] {
  const files = tree
    .files(folder)
    .filter((name) => /\.json$/i.test(name))
    .map((name) => below(folder, name))
    .filter((path) => looksLikeCoco(tree.path(path)));
  const plain = files.filter((path) => !/^(captions|person_keypoints|panoptic|stuff|image_info)_/.test(baseName(path)));
  return plain.length > 0 ? plain : files;
}

/**
 * Whether a file has COCO's keys, judged by its beginning and its end, because it may be large. A file with the usual
 * name is taken in any case, so that reading it says what is wrong.
 */
function looksLikeCoco(file: string): boolean {
  if (baseName(file) === ROBOFLOW) return true;
  const text = readEnds(file, { first: PEEKED_BYTES, last: PEEKED_BYTES });
  const keys = ['images', 'annotations', 'categories'].filter((key) => new RegExp(`"${key}"\\s*:\\s*\\[`).test(text));
  return keys.includes('annotations') || (keys.includes('images') && keys.includes('categories'));
}

function bySplit(tree: FolderTree, found: readonly CocoFile[]): Map<string, CocoFile> {
  const files = new Map<string, CocoFile>();
  for (const entry of found) {
    const { split, file } = entry;
    const other = files.get(split)?.file;
    if (other !== undefined) {
      const what = split === UNDIVIDED ? 'one annotation file' : `one annotation file for the split "${split}"`;
      throw new InputError(`${tree.root}: expected ${what}, got ${other} and ${file}`);
    }
    files.set(split, entry);
  }
  return inSplitOrder(files);
}
