/**
 * Pascal VOC data sets: an XML file for each image, in the layouts of voc-layouts.ts.
 * Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, and its development kit.
 *
 * - VOC counts pixels from 1, and boxes include their last pixel. A box xmin..xmax covers [xmin - 1, xmax] here.
 *   Many tools count from 0. If the boxes of a data set show that, a box covers [xmin, xmax].
 * - `difficult` objects become `crowd`. Crowds are no training targets. In evaluation they are neither missed objects
 *   nor false alarms, as in VOC's own evaluation.
 * - The format has no list of classes. The classes are the names in all splits together, sorted.
 */
import { basename } from 'node:path';
import { InputError } from '../core/errors.ts';
import { baseName, below, isImageName, withoutExtension, type FolderTree } from './folder-tree.ts';
import { reportMissing, type AnnotatedContent, type AnnotatedImage, type DataFormat, type Reading } from './format.ts';
import { findByName, folded } from './image-finder.ts';
import { findLayout, LISTS, type VocFile, type VocLayout } from './voc-layouts.ts';
import { readAnnotation, type ParsedAnnotation } from './voc-xml.ts';
import type { Warnings } from './warnings.ts';

export const voc: DataFormat = {
  key: 'voc',
  name: 'Pascal VOC',
  files: `ImageSets/Main/{${LISTS.join(',')}}.txt`,
  layouts: [
    ['ImageSets/Main/train.txt, val.txt', 'Annotations/*.xml', 'JPEGImages/'],
    ['Annotations/, annots/, xmls/ or labels/: *.xml', 'images/ or JPEGImages/'],
    ['*.xml beside the images, also in train/, valid/, test/ (Roboflow)'],
  ],
  crowdNoun: 'difficult objects',
  splitRemedy: (split) =>
    `ImageSets/Main/${split}.txt, one image name per line (move about a tenth of the lines out of another list)`,
  recognize: (tree) => {
    const layout = findLayout(tree);
    if (layout === null) return null;
    return {
      layout: layout.name,
      splits: layout.splits,
      read: (splits, reading) => readVoc(tree, layout, splits, reading),
    };
  },
  boxForm: 'corners',
  place: ({ source, objects, firstPixel = 0 }, index, classNames) => {
    const { box, label } = objects[index];
    const [x0, y0, x1, y1] = box;
    return {
      where: `${source}: object ${index + 1} (${classNames[label]})`,
      text: `bndbox ${x0 + firstPixel}..${x1}, ${y0 + firstPixel}..${y1} (counted from ${firstPixel})`,
    };
  },
};

/** Reads all splits, also those that are not requested, because the classes come from all of them. */
async function readVoc(
  tree: FolderTree,
  layout: VocLayout,
  splits: readonly string[],
  { warnings, notes, sizesOf }: Reading,
): Promise<AnnotatedContent> {
  const bySplit = layout.files();
  const unique = new Map([...bySplit.values()].flat().map((file) => [file.xml, file]));
  const files = [...unique.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const parsed = files.map(({ xml }) => readAnnotation(tree.path(xml)));
  const classNames = [...new Set(parsed.flatMap(({ objects }) => objects.map((object) => object.name)))].sort();
  if (classNames.length === 0) {
    throw new InputError(
      `${layout.source}: expected at least one object in the images of ${[...bySplit.keys()].join(', ')}, got none`,
    );
  }
  const firstPixel = countsFrom(parsed, notes);
  const paths = findImages(tree, layout, files, parsed, warnings);
  const images = makeImages(parsed, paths, classNames, firstPixel);
  const byXml = new Map(files.map(({ xml }, i) => [xml, images[i]]));
  const ofSplit = (split: string) => (bySplit.get(split) ?? []).flatMap(({ xml }) => byXml.get(xml) ?? []);
  await addSizes(new Set(splits.flatMap(ofSplit)), sizesOf);
  return {
    classNames,
    categoryIds: classNames.map((_, label) => label + 1),
    splits: Object.fromEntries(splits.map((split) => [split, ofSplit(split)])),
  };
}

/** Sizes that no file states come from the images. */
async function addSizes(images: ReadonlySet<AnnotatedImage>, sizesOf: Reading['sizesOf']): Promise<void> {
  const unknown = [...images].filter(({ stated }) => stated === null);
  if (unknown.length === 0) return;
  const sizes = await sizesOf(unknown.map(({ file }) => file));
  for (const image of unknown) image.stated = sizes.get(image.file) ?? null;
}

/**
 * The number of the first pixel, 0 or 1, by all boxes of the data set. If it counts from 0, boxes at the left or upper
 * border begin there. A few such boxes among more that begin at 1 are mistakes.
 */
function countsFrom(parsed: readonly ParsedAnnotation[], notes: string[]): 0 | 1 {
  let [zeros, ones] = [0, 0];
  for (const { objects } of parsed) {
    for (const { edges } of objects) {
      const [xmin, ymin, xmax, ymax] = edges;
      if (!(xmax > xmin && ymax > ymin)) continue;
      const first = Math.min(xmin < 0 ? 1 : xmin, ymin < 0 ? 1 : ymin);
      if (first < 1) zeros++;
      else if (xmin === 1 || ymin === 1) ones++;
    }
  }
  if (zeros <= ones) return 1;
  notes.push(`boxes count pixels from 0 (${zeros} begin there, ${ones} at 1), so they are not moved by a pixel`);
  return 0;
}

/** Images with ids 1, 2, ...; null where `paths` is. Annotations also have ids 1, 2, ... */
function makeImages(
  parsed: readonly ParsedAnnotation[],
  paths: readonly (string | null)[],
  classNames: readonly string[],
  firstPixel: 0 | 1,
): (AnnotatedImage | null)[] {
  const labels = new Map(classNames.map((name, label) => [name, label]));
  let annotationId = 0;
  return parsed.map(({ file, size, objects }, index) => {
    const path = paths[index];
    const image: AnnotatedImage = {
      id: index + 1,
      file: path ?? '',
      name: basename(path ?? ''),
      stated: size,
      source: file,
      firstPixel,
      objects: [],
    };
    for (const { name, edges, difficult } of objects) {
      const [xmin, ymin, xmax, ymax] = edges;
      image.objects.push({
        id: ++annotationId,
        label: labels.get(name) ?? 0,
        box: [xmin - firstPixel, ymin - firstPixel, xmax, ymax],
        area: null,
        crowd: difficult,
      });
    }
    return path === null ? null : image;
  });
}

/** The absolute path of each annotation file's image: by the file's own name, else by the name that it states. */
function findImages(
  tree: FolderTree,
  layout: VocLayout,
  files: readonly VocFile[],
  parsed: readonly ParsedAnnotation[],
  warnings: Warnings,
): (string | null)[] {
  const byStem = new Map<string, Map<string, string[]>>();
  const imagesIn = (folder: string) => {
    let index = byStem.get(folder);
    if (index === undefined) {
      index = groupByStem(tree, folder);
      byStem.set(folder, index);
    }
    return index;
  };
  const missing: string[] = [];
  const found = files.map(({ name, imageFolders }, i) => {
    const { file, filename } = parsed[i];
    const folders = imageFolders.map((folder) => below(folder, name.slice(0, Math.max(name.lastIndexOf('/'), 0))));
    for (const folder of folders) {
      const matches = imagesIn(folder).get(baseName(name)) ?? [];
      if (matches.length === 0) continue;
      const stated = matches.find((match) => match === baseName(filename));
      if (matches.length > 1 && stated === undefined)
        throw new InputError(
          `${tree.path(folder)}: expected one image of the name "${name}", got ${matches.join(' and ')}`,
        );
      return below(folder, stated ?? matches[0]);
    }
    const other = filename === '' ? null : findByName(tree, imageFolders, baseName(filename));
    if (other === null) missing.push(`${name}.jpg`);
    else if (folded(withoutExtension(baseName(other))) !== folded(name))
      warnings.add('images named by <filename> and not like the XML file', `${file}: filename: ${filename}`);
    return other;
  });
  const lookedIn = [...new Set(files.flatMap(({ imageFolders }) => imageFolders.slice(0, 1)))].map(
    (folder) => `${tree.path(folder)} (.jpg, .jpeg, .png, ...)`,
  );
  reportMissing({ source: layout.source, missing, total: files.length, lookedIn }, warnings);
  if (!layout.hasLists) reportUnlabeled(tree, found, warnings);
  return found.map((path) => (path === null ? null : tree.path(path)));
}

function groupByStem(tree: FolderTree, folder: string): Map<string, string[]> {
  const index = new Map<string, string[]>();
  for (const file of tree.files(folder).filter(isImageName)) {
    const stem = withoutExtension(file);
    const known = index.get(stem);
    if (known === undefined) index.set(stem, [file]);
    else known.push(file);
  }
  return index;
}

/** Images beside used ones that have no annotation file. Nobody has said that they show no object. */
function reportUnlabeled(tree: FolderTree, found: readonly (string | null)[], warnings: Warnings): void {
  const used = new Set(found);
  const folders = new Set(found.flatMap((path) => (path === null ? [] : [path.slice(0, path.lastIndexOf('/') + 1)])));
  for (const folder of folders)
    for (const name of tree.files(folder.slice(0, -1)).filter(isImageName))
      if (!used.has(folder + name)) warnings.add('images without annotation file, left out', tree.path(folder + name));
}
