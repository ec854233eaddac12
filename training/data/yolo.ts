/**
 * YOLO data sets: images, and for each a text file with a line for each object: the number of the class, then a box or
 * a polygon in parts of the image's size. The layouts are those of yolo-layouts.ts.
 * https://docs.ultralytics.com/datasets/detect, and darknet's original format.
 *
 * - An image without label file has no objects, as in other programs. Their number is reported.
 * - The files do not state the sizes of images. They come from the images.
 */
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import { baseName, type FolderTree } from './folder-tree.ts';
import {
  firstNames,
  numbersOf,
  reportMissing,
  type AnnotatedContent,
  type AnnotatedImage,
  type AnnotatedObject,
  type DataFormat,
  type Reading,
} from './format.ts';
import { Warnings } from './warnings.ts';
import { checkCount, findNames } from './yolo-config.ts';
import { boxOf, isInPixels, readLabels, type LabelFile } from './yolo-labels.ts';
import { findLayout, labelFilesIn, type YoloLayout } from './yolo-layouts.ts';

export const yolo: DataFormat = {
  key: 'yolo',
  name: 'YOLO',
  files: 'data.yaml, or images/ and labels/*.txt',
  layouts: [
    ['data.yaml', 'images/train/, images/val/', 'labels/train/*.txt, labels/val/*.txt'],
    ['data.yaml', 'train/images/, train/labels/*.txt', 'valid/, test/ alike (Roboflow)'],
    ['classes.txt', 'images/', 'labels/*.txt'],
  ],
  crowdNoun: 'crowds',
  splitRemedy: (split) =>
    `images/${split}/ and labels/${split}/, and name them in data.yaml (move about a tenth of another split)`,
  recognize: (tree) => {
    const layout = findLayout(tree);
    if (layout === null) return null;
    return {
      layout: layout.config?.isRoboflow ? 'Roboflow YOLO' : 'YOLO',
      splits: new Map([...layout.splits].map(([split, { ownName }]) => [split, ownName])),
      read: (splits, reading) => readYolo(tree, layout, splits, reading),
    };
  },
  boxForm: 'center and size',
  place: ({ source, stated, objects }, index) => {
    const { line, box, numbers } = objects[index];
    const { width, height } = stated ?? { width: 1, height: 1 };
    const [x, y, w, h] = numbersOf(box, 'center and size');
    const parts = numbers ?? [x / width, y / height, w / width, h / height].map((part) => Number(part.toPrecision(6)));
    return { where: `${source}: line ${line}`, text: `box ${parts.join(' ')}` };
  },
};

/** An image, its label file, and its number over all splits. */
interface LabeledImage {
  readonly id: number;
  readonly path: string;
  readonly label: string | null;
}

/** Most classes without names. A larger number in a label file is a mistake. */
const MAX_UNNAMED = 10000;

async function readYolo(
  tree: FolderTree,
  layout: YoloLayout,
  splits: readonly string[],
  { warnings, notes, sizesOf }: Reading,
): Promise<AnnotatedContent> {
  for (const place of layout.absent) notes.push(`${place} does not exist, so it is ignored`);
  if (layout.config !== null) checkCount(tree, layout.config, warnings);
  const bySplit = listImages(layout, splits, warnings);
  const images = [...new Map([...bySplit.values()].flat().map((image) => [image.path, image])).values()];
  requireLabels(tree, images, splits, warnings);
  const pointNumbers = layout.config?.pointNumbers ?? 0;
  const labels = new Map(
    images.flatMap(({ path, label }) =>
      label === null ? [] : [[path, readLabels(tree.path(label), pointNumbers)] as const],
    ),
  );
  requireParts([...labels.values()]);
  const names = classNames(tree, layout, [...labels.values()], warnings);
  reportUnused(tree, layout, warnings);
  const sizes = await sizesOf(images.map(({ path }) => tree.path(path)));
  const annotated = makeImages(tree, images, labels, sizes, names);
  return {
    classNames: [...names.values()],
    categoryIds: [...names.keys()].map((_, label) => label + 1),
    splits: Object.fromEntries(
      [...bySplit].map(([split, list]) => [split, list.flatMap(({ path }) => annotated.get(path) ?? [])]),
    ),
  };
}

/** The images of splits. Their numbers count the images of all splits, so that they are always the same. */
function listImages(
  { splits }: YoloLayout,
  wanted: readonly string[],
  warnings: Warnings,
): Map<string, readonly LabeledImage[]> {
  const lists = new Map<string, readonly LabeledImage[]>();
  const known = new Map<string, LabeledImage>();
  let first = 1;
  for (const [name, { count, images, labelOf }] of splits) {
    if (wanted.includes(name)) {
      const list = [...images(warnings)].sort().map((path, i) => {
        const image = known.get(path) ?? { id: first + i, path, label: labelOf(path) };
        known.set(path, image);
        return image;
      });
      lists.set(name, list);
    }
    first += count();
  }
  return lists;
}

/** Warns about images without labels. Throws InputError if all images are without labels. */
function requireLabels(
  tree: FolderTree,
  images: readonly LabeledImage[],
  splits: readonly string[],
  warnings: Warnings,
): void {
  const without = images.filter(({ label }) => label === null).map(({ path }) => tree.path(path));
  if (without.length === images.length)
    throw new InputError(
      `${tree.root}: expected label files (.txt) for the ${images.length} images of ${splits.join(', ')}, ` +
        `got none: ${firstNames(without) || 'there are no images'}`,
    );
  for (const path of without) warnings.add('images without label file, used as images without objects', path);
}

/** Throws InputError if most boxes are in pixels. A few such boxes are mistakes, which are dropped or clipped. */
function requireParts(files: readonly LabelFile[]): void {
  let [total, inPixels] = [0, 0];
  let first: string | null = null;
  for (const { file, objects } of files) {
    for (const object of objects) {
      total++;
      if (!isInPixels(object)) continue;
      inPixels++;
      first ??= `${file}: line ${object.line}: expected parts of the image's size (0 to 1), got ${object.numbers
        .map(({ value }) => value)
        .join(' ')}`;
    }
  }
  if (first !== null && 2 * inPixels > total)
    throw new InputError(`${first}; ${inPixels} of ${total} boxes seem to be in pixels`);
}

/**
 * Class names by number: from data.yaml, or from a list. Without names, the numbers in the labels of all splits count.
 * @throws InputError if a label has a number without name
 */
function classNames(
  tree: FolderTree,
  layout: YoloLayout,
  labels: readonly LabelFile[],
  warnings: Warnings,
): ReadonlyMap<number, string> {
  const config = layout.config?.names ? { file: layout.config.file, names: layout.config.names } : null;
  const list = config ?? findNames(tree, layout.nameFolders);
  if (list === null) return namesByNumber(tree, layout, warnings);
  for (const { file, objects } of labels) {
    const wrong = objects.find(({ index }) => !list.names.has(index));
    if (wrong !== undefined)
      throw new InputError(
        `${file}: line ${wrong.line}: class: expected one of the ${list.names.size} classes of ` +
          `${tree.path(list.file)} (${numbersText([...list.names.keys()])}), got ${wrong.index}`,
      );
  }
  return list.names;
}

/** "0 to 2", or the numbers themselves if some are missing. */
const numbersText = (numbers: readonly number[]): string =>
  numbers.every((number, i) => number === i) ? `0 to ${numbers.length - 1}` : numbers.join(', ');

function namesByNumber(tree: FolderTree, layout: YoloLayout, warnings: Warnings): Map<number, string> {
  const pointNumbers = layout.config?.pointNumbers ?? 0;
  let most = -1;
  for (const { images, labelOf } of layout.splits.values()) {
    for (const image of images(new Warnings())) {
      const label = labelOf(image);
      if (label === null) continue;
      for (const { index } of readLabels(tree.path(label), pointNumbers).objects) most = Math.max(most, index);
    }
  }
  if (most < 0) throw new InputError(`${tree.root}: expected at least one object in the label files, got none`);
  if (most >= MAX_UNNAMED)
    throw new InputError(
      `${tree.root}: expected class names in data.yaml or classes.txt, got none, and the labels have class ${most}`,
    );
  const names = new Map(Array.from({ length: most + 1 }, (_, i) => [i, `class ${i}`]));
  warnings.add(
    'no class names found, so classes are numbered',
    `${tree.root}: expected data.yaml or classes.txt with a name a line, got neither; ` +
      `the classes are ${firstNames([...names.values()])}`,
  );
  return names;
}

/** Label files without image. Throws InputError if they are more than a tenth: the images are somewhere else. */
function reportUnused(tree: FolderTree, layout: YoloLayout, warnings: Warnings): void {
  if (layout.labelFolders.length === 0) return;
  const used = new Set<string>();
  for (const { images, labelOf } of layout.splits.values())
    for (const image of images(new Warnings())) used.add(labelOf(image) ?? '');
  for (const folder of layout.labelFolders) {
    const files = labelFilesIn(tree, folder);
    const missing = files.filter((file) => !used.has(file)).map((file) => `the image of ${baseName(file)}`);
    const lookedIn = [...new Set([...layout.splits.values()].map(({ ownName }) => ownName))];
    reportMissing({ source: tree.path(folder), missing, total: files.length, lookedIn }, warnings);
  }
}

function makeImages(
  tree: FolderTree,
  images: readonly LabeledImage[],
  labels: ReadonlyMap<string, LabelFile>,
  sizes: ReadonlyMap<string, Size>,
  names: ReadonlyMap<number, string>,
): Map<string, AnnotatedImage> {
  const labelOf = new Map([...names.keys()].map((index, label) => [index, label]));
  let id = 0;
  return new Map(
    images.map((image) => {
      const file = tree.path(image.path);
      const stated = sizes.get(file) ?? null;
      const source = image.label === null ? file : tree.path(image.label);
      const objects: AnnotatedObject[] = (labels.get(image.path)?.objects ?? []).map((object) => ({
        id: ++id,
        label: labelOf.get(object.index) ?? 0,
        box: stated === null ? [NaN, NaN, NaN, NaN] : boxOf(object, stated),
        area: null,
        crowd: false,
        line: object.line,
        ...(object.numbers.some(({ value }) => Number.isNaN(value))
          ? { numbers: object.numbers.map(({ value }) => value) }
          : {}),
      }));
      return [image.path, { id: image.id, file, name: baseName(image.path), stated, source, objects }] as const;
    }),
  );
}
