/**
 * Converts a data set to another format: links or copies the images, writes the annotations, reads the result back,
 * and compares it with the source. The result appears complete or not at all.
 */
import { mkdirSync, readdirSync, realpathSync, renameSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { copyFile, link, mkdir } from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import sharp from 'sharp';
import { InputError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image-record.ts';
import { clipDataset, type ImagePlan } from './clip-boxes.ts';
import { CONVERSION_FILE, type Conversion } from './conversion.ts';
import { firstDifference, missingContent, type ExpectedContent } from './conversion-content.ts';
import type { DataWriter, OutputImage } from './data-writer.ts';
import type { Dataset } from './dataset.ts';
import { writeJson } from './files.ts';
import { isImageName } from './folder-tree.ts';
import type { AnnotatedImage } from './format.ts';
import { readImageSizes } from './image-sizes.ts';
import { openDataset } from './index.ts';
import { contentKey, placeImages, writableClasses } from './output-names.ts';
import { UNDIVIDED } from './split-names.ts';
import { writeCoco, writeRoboflow } from './write-coco.ts';
import { writeVoc } from './write-voc.ts';
import { writeYolo } from './write-yolo.ts';

/** The writers by target and layout. */
export const WRITERS: ReadonlyMap<string, ReadonlyMap<string, DataWriter>> = new Map([
  [
    'coco',
    new Map([
      ['standard', writeCoco],
      ['roboflow', writeRoboflow],
    ]),
  ],
  ['voc', new Map([['standard', writeVoc]])],
  ['yolo', new Map([['standard', writeYolo]])],
]);

export interface ConvertOptions {
  /** Folder of the data set. */
  readonly data: string;
  /** Its format's key; null: recognized. */
  readonly format: string | null;
  readonly writer: DataWriter;
  /** Folder of the result; new or empty. */
  readonly out: string;
  /** Copies images instead of linking them. */
  readonly copy: boolean;
  readonly progress: (task: string, done: number, total: number) => void;
  readonly signal: AbortSignal;
}

export interface ConvertedDataset {
  readonly source: Dataset;
  readonly splits: ReadonlyMap<string, readonly ImageRecord[]>;
  readonly linked: number;
  readonly copied: number;
  /** Images whose name in the result differs from their name in the data set: "train/a.jpg -> JPEGImages/a_2.jpg". */
  readonly renamed: readonly string[];
  /** What only conversion.json has; null: there is none. */
  readonly conversion: Conversion | null;
}

/**
 * Converts a data set.
 * @throws InputError for a bad source or target; an error of the signal; an error if the result differs from the source
 */
export async function convertDataset(options: ConvertOptions): Promise<ConvertedDataset> {
  const { writer, signal } = options;
  const out = resolve(options.out);
  requireNewFolder(out, resolve(options.data));
  const source = await openWithRealSizes(options);
  signal.throwIfAborted();
  const expected = expectedContent(source, writer);
  const { own, added } = divideSplits(expected.splits, writer, source.root);
  const extensions = await extensionsOf([...own.values()].flat());
  const places = placeImages(own, writer, (file) => extensions.get(file) ?? '');
  const classNames = writableClasses(expected.classNames, writer);
  const partial = `${out}.partial-${process.pid}`;
  try {
    mkdirSync(partial, { recursive: true });
    const images = [...places.values()].flat();
    const counts = await placeFiles(images, partial, options);
    writer.write(partial, {
      classes: classNames.map((name, label) => ({ name, id: expected.categoryIds[label] })),
      splits: places,
    });
    const pathOf = new Map(images.map(({ record, path }) => [record.file, path]));
    const conversion = await completeConversion(partial, expected, {
      writer,
      classNames,
      images,
      addedSplits: [...added].map(([name, records]) => ({
        name,
        files: records.map(({ file }) => pathOf.get(file) ?? ''),
      })),
      options,
    });
    if (statSync(out, { throwIfNoEntry: false }) !== undefined) rmdirSync(out);
    renameSync(partial, out);
    return { source, splits: expected.splits, ...counts, renamed: renamedImages(places), conversion };
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

function requireNewFolder(out: string, data: string): void {
  const entry = statSync(out, { throwIfNoEntry: false });
  const expected = 'convert: --out: expected a new or empty folder';
  if (entry !== undefined && !entry.isDirectory()) throw new InputError(`${expected}, got the file ${out}`);
  const count = entry === undefined ? 0 : readdirSync(out).length;
  if (count > 0) throw new InputError(`${expected}, got ${out} with ${count} entries`);
  if (`${out}${sep}`.startsWith(`${data}${sep}`))
    throw new InputError(`convert: --out: expected a folder outside of ${data}, got ${out}`);
  mkdirSync(dirname(out), { recursive: true });
}

/** The source with all its splits. Boxes are clipped to the real images, because YOLO files divide by their sizes. */
async function openWithRealSizes({ data, format, progress }: ConvertOptions): Promise<Dataset> {
  const source = await openDataset(data, {
    ...(format === null ? {} : { format }),
    divide: false,
    progress: (done, total) => progress('image sizes read', done, total),
  });
  const warnings = source.readWarnings;
  const files = new Set(Object.values(source.annotated).flatMap((images) => images.map(({ file }) => file)));
  const sizes = await readImageSizes([...files], warnings, (done, total) => progress('image sizes read', done, total));
  const planOf = ({ file, stated, source: annotations }: AnnotatedImage): ImagePlan => {
    const size = sizes.get(file);
    if (size === undefined) return null;
    if (stated !== null && (stated.width !== size.width || stated.height !== size.height))
      warnings.add(
        'images of another size than stated, read with their real size',
        `${annotations}: ${file}: expected ${stated.width} x ${stated.height}, got ${size.width} x ${size.height}`,
      );
    return { size, boxScale: [1, 1] };
  };
  const { root, recognized, notes, classNames, categoryIds, annotated } = source;
  const content = { classNames, categoryIds, splits: annotated };
  return clipDataset({ root, format: source.format, recognized, notes, content, readWarnings: warnings }, planOf);
}

/** The content of the result. Roboflow's layout has no undivided images: they become the training split. */
function expectedContent({ root, classNames, categoryIds, splits }: Dataset, writer: DataWriter): ExpectedContent {
  const entries = Object.entries(splits);
  if (entries.length > 1 && entries.some(([split]) => split === UNDIVIDED))
    throw new InputError(
      `${root}: expected images either in splits or not divided into splits, got both: ` +
        entries.map(([split, records]) => `${split} (${records.length})`).join(', '),
    );
  if (writer.needsObjects && entries.every(([, records]) => records.every(({ objects }) => objects.length === 0)))
    throw new InputError(`${root}: expected at least one object, because the target has no list of classes, got none`);
  const rename = (split: string) => (split === UNDIVIDED && writer === writeRoboflow ? 'train' : split);
  return { classNames, categoryIds, splits: new Map(entries.map(([split, records]) => [rename(split), records])) };
}

interface DividedSplits {
  /** Splits that the format's files have. */
  readonly own: ReadonlyMap<string, readonly ImageRecord[]>;
  /** Splits of images that other splits have too, such as VOC's trainval. Only conversion.json has these splits. */
  readonly added: ReadonlyMap<string, readonly ImageRecord[]>;
}

/** Throws InputError if a format of one folder for each split has no place for a split's images. */
function divideSplits(
  splits: ReadonlyMap<string, readonly ImageRecord[]>,
  { sharesImages }: DataWriter,
  root: string,
): DividedSplits {
  const own = new Map(splits);
  const added = new Map<string, readonly ImageRecord[]>();
  const trainval = splits.get('trainval');
  if (trainval === undefined || sharesImages) return { own, added };
  const others = new Set(['train', 'val', 'test'].flatMap((split) => splits.get(split) ?? []).map(contentKey));
  const left = trainval.filter((record) => !others.has(contentKey(record)));
  if (left.length > 0)
    throw new InputError(
      `${root}: the split "trainval": expected images that are in "train", "val" or "test" too, with the same ` +
        `objects, got ${left.length} others, such as ${left[0].name}; --to voc can hold them`,
    );
  own.delete('trainval');
  added.set('trainval', trainval);
  return { own, added };
}

/** The usual extensions of images whose names have none, by their content. */
async function extensionsOf(records: readonly ImageRecord[]): Promise<Map<string, string>> {
  const extensions = new Map<string, string>();
  for (const { file, name } of records) {
    if (isImageName(name)) continue;
    const { format } = await sharp(file).metadata();
    extensions.set(file, format === 'jpeg' ? '.jpg' : `.${format}`);
  }
  return extensions;
}

/** Files that are linked or copied at the same time. */
const PARALLEL_FILES = 8;

async function placeFiles(
  images: readonly OutputImage[],
  folder: string,
  { copy, progress, signal }: ConvertOptions,
): Promise<{ readonly linked: number; readonly copied: number }> {
  // Images of several splits may have one place.
  const files = [...new Map(images.map(({ path, record }) => [path, record.file]))];
  for (const parent of new Set(files.map(([path]) => dirname(join(folder, path)))))
    await mkdir(parent, { recursive: true });
  let [next, done, linked] = [0, 0, 0];
  const placeNext = async (): Promise<void> => {
    while (next < files.length) {
      signal.throwIfAborted();
      const [path, file] = files[next++];
      if (await linkOrCopy(realpathSync(file), join(folder, path), copy)) linked++;
      progress('images linked or copied', ++done, files.length);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL_FILES }, placeNext));
  return { linked, copied: files.length - linked };
}

/** Whether the file was linked. Not all file systems can link, and none across disks. */
async function linkOrCopy(from: string, to: string, copy: boolean): Promise<boolean> {
  if (!copy) {
    try {
      await link(from, to);
      return true;
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? String(error.code) : '';
      if (!['EXDEV', 'EPERM', 'EACCES', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EINVAL'].includes(code))
        throw error;
    }
  }
  await copyFile(from, to);
  return false;
}

interface Completion extends Omit<Parameters<typeof missingContent>[1], 'dataset'> {
  readonly options: ConvertOptions;
}

/** Writes conversion.json, if the written files lack anything, and compares what is read back with the source. */
async function completeConversion(
  folder: string,
  expected: ExpectedContent,
  { options, ...written }: Completion,
): Promise<Conversion | null> {
  const { progress, signal, writer } = options;
  const open = async () => {
    signal.throwIfAborted();
    return openDataset(folder, {
      format: writer.format,
      divide: false,
      progress: (done, total) => progress('images checked', done, total),
    });
  };
  const conversion = missingContent(expected, { ...written, dataset: await open() });
  if (conversion !== null) writeJson(join(folder, CONVERSION_FILE), conversion);
  const { splits, ...content } = await open();
  const difference = firstDifference(expected, { ...content, splits: new Map(Object.entries(splits)) });
  if (difference !== null) throw new Error(`convert: the result differs from the source: ${difference}`);
  return conversion;
}

function renamedImages(places: ReadonlyMap<string, readonly OutputImage[]>): string[] {
  return [...places].flatMap(([split, images]) =>
    images
      .filter(({ name, record }) => name !== record.name)
      .map(({ path, record }) => `${record.name}${split === UNDIVIDED ? '' : ` (${split})`} -> ${path}`),
  );
}
