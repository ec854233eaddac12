/** Finds the images of YOLO data sets and their label files, with data.yaml or without. */
import { isAbsolute, posix } from 'node:path';
import { InputError } from '../core/errors.ts';
import {
  annotationFolders,
  IMAGE_FOLDERS,
  imagesBelow,
  requireOneDivision,
  splitFolders,
  type AnnotationFolder,
} from './annotation-folders.ts';
import { readText } from './files.ts';
import { baseName, below, isImageName, withoutExtension, type FolderTree } from './folder-tree.ts';
import { ImageFinder } from './image-finder.ts';
import { inSplitOrder, splitOf, splitWithin, UNDIVIDED } from './split-names.ts';
import { Warnings } from './warnings.ts';
import { findConfig, isList, type YoloConfig } from './yolo-config.ts';

const LABEL_FOLDERS: readonly string[] = ['labels', 'label', 'annotations', 'txt'];

/** The images of a split. Paths are below the root. */
export interface YoloSplit {
  /** The folder's own name of the split. */
  readonly ownName: string;
  /** Number of images, or of lines that name an image. */
  readonly count: () => number;
  /** Throws InputError for images that are listed and do not exist. */
  readonly images: (warnings: Warnings) => string[];
  /** The label file of an image; null if there is none. */
  readonly labelOf: (image: string) => string | null;
}

export interface YoloLayout {
  readonly config: YoloConfig | null;
  readonly splits: ReadonlyMap<string, YoloSplit>;
  /** Folders in which a list of class names may be. */
  readonly nameFolders: readonly string[];
  /** Folders of label files, all of whose files should have an image; empty if lists name the images. */
  readonly labelFolders: readonly string[];
  /** Paths of the configuration that do not exist, for notes. */
  readonly absent: readonly string[];
}

/** The layout of a folder; null if it has no YOLO labels. */
export function findLayout(tree: FolderTree): YoloLayout | null {
  const config = findConfig(tree) ?? listsInRoot(tree);
  const configured = config && withConfig(tree, config);
  // A configuration whose training images are nowhere does not describe the folder. Its class names count.
  const describesFolder = !config?.splits.has('train') || configured?.splits.has('train');
  if (configured && describesFolder) return configured;
  return withFolders(tree, config, configured?.absent ?? []) ?? configured;
}

/** `train.txt` and others in the root that list images, as darknet reads them. */
function listsInRoot(tree: FolderTree): YoloConfig | null {
  const splits = new Map(
    tree.files('').flatMap((name) => {
      const split = /\.txt$/i.test(name) ? splitOf(withoutExtension(name)) : null;
      if (split === null || !readLines(tree, name).slice(0, 3).some(isImageName)) return [];
      return [[split, { ownName: withoutExtension(name), paths: [name] }] as const];
    }),
  );
  return splits.size === 0 ? null : { file: '', names: null, path: '', splits, pointNumbers: 0, isRoboflow: false };
}

function withConfig(tree: FolderTree, config: YoloConfig): YoloLayout | null {
  const placed = new Map<string, PlacedSplit>();
  const absent: string[] = [];
  for (const [split, { ownName, paths }] of config.splits) {
    const places = paths.flatMap((path) => {
      const place = findPlace(tree, config, path, split);
      if (place === null) absent.push(`${tree.path(config.file)}: ${ownName}: ${path}`);
      return place === null ? [] : [place];
    });
    if (places.length > 0) placed.set(split, { split: placesSplit(tree, split, ownName, places), places });
  }
  const found = [...placed.values()];
  if (!found.some((entry) => hasLabels(tree, entry))) return null;
  const onlyFolders = found.every(({ places }) => places.every((place) => tree.list(place) !== null));
  const labelFolders = onlyFolders ? found.flatMap(({ split }) => labelFoldersOf(split)) : [];
  return {
    config,
    splits: inSplitOrder([...placed].map(([name, { split }]) => [name, split] as const)),
    nameFolders: ['', 'labels', 'data', 'images'],
    labelFolders: [...new Set(labelFolders)],
    absent,
  };
}

/** Whether an image of a folder has a label file. Lists of images say themselves that they belong to labels. */
function hasLabels(tree: FolderTree, { split, places }: PlacedSplit): boolean {
  if (places.some((place) => tree.list(place) === null)) return true;
  return split.images(new Warnings()).some((image) => split.labelOf(image) !== null);
}

interface PlacedSplit {
  readonly split: YoloSplit;
  /** Folders and list files. */
  readonly places: readonly string[];
}

function labelFoldersOf({ images, labelOf }: YoloSplit): string[] {
  return images(new Warnings()).flatMap((image) => {
    const label = labelOf(image);
    return label === null ? [] : [folderOf(label)];
  });
}

const folderOf = (path: string): string => path.slice(0, Math.max(path.lastIndexOf('/'), 0));

/**
 * The folder or list file that a configuration names. Paths of another machine, and paths such as "../train/images" in
 * Roboflow's files, fit by their last parts. Of these parts, one must name the split if one of all parts does.
 */
function findPlace(tree: FolderTree, { path, file }: YoloConfig, value: string, split: string): string | null {
  const exists = (place: string) => tree.list(place) !== null || tree.hasFile(place);
  const exact = [path, '', folderOf(file)].map((base) => {
    const full = isAbsolute(value) || !isAbsolute(base) ? value : posix.join(base, value);
    if (isAbsolute(full)) return posix.relative(tree.root, full);
    return posix.normalize(below(base, full)).replace(/\/$/, '').replace(/^\.$/, '');
  });
  const inside = exact.find((place) => !place.startsWith('..') && exists(place));
  if (inside !== undefined) return inside;
  const parts = value.split(/[\\/]+/).filter((part) => !/^(\.{0,2}|[A-Za-z]:)$/.test(part));
  const named = parts.findLastIndex((part) => splitWithin(withoutExtension(part)) === split);
  for (let from = 0; from < parts.length && (named < 0 || from <= named); from++) {
    const place = parts.slice(from).join('/');
    if (exists(place)) return place;
  }
  return exact.find(exists) ?? null;
}

/** The images of folders and list files. */
function placesSplit(tree: FolderTree, split: string, ownName: string, places: readonly string[]): YoloSplit {
  const isFolder = (place: string) => tree.list(place) !== null;
  const listed = (place: string) => readLines(tree, place);
  return {
    ownName,
    count: () =>
      places.reduce((sum, place) => sum + (isFolder(place) ? imagesBelow(tree, place) : listed(place)).length, 0),
    images: (warnings) => [
      ...new Set(
        places.flatMap((place) =>
          isFolder(place) ? imagesBelow(tree, place) : listedImages(tree, split, place, listed(place), warnings),
        ),
      ),
    ],
    labelOf: (image) => usualLabels(image).find((path) => tree.hasFile(path)) ?? null,
  };
}

function readLines(tree: FolderTree, file: string): string[] {
  return readText(tree.path(file))
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

function listedImages(
  tree: FolderTree,
  split: string,
  list: string,
  lines: readonly string[],
  warnings: Warnings,
): string[] {
  const folders = [folderOf(list), '', ...tree.foldersNamed('', IMAGE_FOLDERS)];
  const finder = new ImageFinder({ tree, split, folders, usual: [IMAGE_FOLDERS[1]] });
  const references = lines.map((path, i) => ({ path, field: `line ${i + 1}`, label: path }));
  return finder
    .locate(tree.path(list), references, warnings)
    .flatMap((file) => (file === null ? [] : [posix.relative(tree.root, file)]));
}

/** Where the label file of an image may be: `images` in its path becomes `labels`, or it is beside the image. */
function usualLabels(image: string): string[] {
  const label = `${withoutExtension(image)}.txt`;
  const parts = label.split('/');
  const at = parts
    .slice(0, -1)
    .findLastIndex((part) => IMAGE_FOLDERS.some((name) => name.toLowerCase() === part.toLowerCase()));
  const replaced = at < 0 ? [] : [[...parts.slice(0, at), 'labels', ...parts.slice(at + 1)].join('/')];
  return [...replaced, label, below(folderOf(label), 'labels', baseName(label))];
}

/** A folder of labels, and the folder of its images. */
interface LabeledFolder extends Pick<AnnotationFolder, 'split' | 'ownName'> {
  readonly labels: string;
  readonly images: string;
}

/** `images/` and `labels/` with or without folders of splits, or labels beside the images. */
function withFolders(tree: FolderTree, config: YoloConfig | null, absent: readonly string[]): YoloLayout | null {
  const found = annotationFolders(tree, LABEL_FOLDERS, (folder) => holdsLabels(tree, folder));
  requireOneDivision(tree, found);
  const folders = found.flatMap((folder) => labeledFolders(tree, folder));
  if (folders.length === 0) return null;
  const splits = new Map<string, YoloSplit>();
  for (const name of new Set(folders.map(({ split }) => split))) {
    const own = folders.filter(({ split }) => split === name);
    splits.set(name, foldersSplit(tree, own));
  }
  return {
    config,
    splits: inSplitOrder(splits),
    nameFolders: [...new Set(['', ...folders.flatMap(({ labels, images }) => [labels, folderOf(labels), images])])],
    labelFolders: [...new Set(folders.map(({ labels }) => labels))],
    absent,
  };
}

/** The folders of images of a folder of labels: several if only the images are divided into splits. */
function labeledFolders(tree: FolderTree, found: AnnotationFolder): LabeledFolder[] {
  const { folder: labels, split, ownName, imageFolders } = found;
  const direct = imageFolders.find((folder) => tree.files(folder).some(isImageName));
  if (direct !== undefined) return [{ labels, images: direct, split, ownName }];
  if (split === UNDIVIDED) {
    const divided = imageFolders.flatMap((folder) => splitFolders(tree, folder));
    const withImages = divided.filter(({ path }) => tree.files(path).some(isImageName));
    if (withImages.length > 0) return withImages.map((entry) => ({ ...entry, labels, images: entry.path }));
  }
  const nested = imageFolders.find((folder) => folder !== '' && imagesBelow(tree, folder).length > 0);
  return nested === undefined ? [] : [{ labels, images: nested, split, ownName }];
}

function foldersSplit(tree: FolderTree, folders: readonly LabeledFolder[]): YoloSplit {
  const images = new Map(
    folders.flatMap((folder) => {
      // The root holds other folders of images too.
      const paths = folder.images === '' ? tree.files('').filter(isImageName) : imagesBelow(tree, folder.images);
      return paths.map((path) => [path, folder] as const);
    }),
  );
  return {
    ownName: folders[0].ownName === '' ? folders[0].split : folders[0].ownName,
    count: () => images.size,
    images: () => [...images.keys()],
    labelOf: (image) => {
      const folder = images.get(image);
      if (folder === undefined) return null;
      const inFolder = image.slice(folder.images === '' ? 0 : folder.images.length + 1);
      const candidates = [
        below(folder.labels, `${withoutExtension(inFolder)}.txt`),
        below(folder.labels, `${withoutExtension(baseName(image))}.txt`),
      ];
      return candidates.find((path) => tree.hasFile(path)) ?? null;
    },
  };
}

const isLabel = (name: string): boolean => /\.txt$/i.test(name) && !isList(name);

/** The label files in a folder, without lists of classes and images. */
export const labelFilesIn = (tree: FolderTree, folder: string): string[] =>
  tree
    .files(folder)
    .filter(isLabel)
    .map((name) => below(folder, name));

/** Whether a folder has label files, judged by the first ones. Empty files are labels only in a folder of that name. */
function holdsLabels(tree: FolderTree, folder: string): boolean {
  const lines = labelFilesIn(tree, folder)
    .slice(0, 5)
    .map((path) => firstLine(tree, path));
  const written = lines.filter((line) => line !== '');
  if (written.length > 0)
    return 2 * written.filter((line) => /^\d+(\.0*)?([\s,]+\S+){4}/.test(line)).length >= written.length;
  return lines.length > 0 && folder.split('/').some((part) => part.toLowerCase() === LABEL_FOLDERS[0]);
}

/** The first line that is not empty; '' if there is none or the file cannot be read. */
function firstLine(tree: FolderTree, path: string): string {
  try {
    return readLines(tree, path).at(0) ?? '';
  } catch (error) {
    if (error instanceof InputError) return '';
    throw error;
  }
}
