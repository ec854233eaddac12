/** The interface that every annotation format implements, and the errors that formats share. */
import { InputError } from '../core/errors.ts';
import type { Box, ObjectAnnotation, Size } from '../core/image-record.ts';
import type { FolderTree } from './folder-tree.ts';
import type { Warnings } from './warnings.ts';

/** An object as its file has it. The box is not clipped: it may reach out of its image, and be degenerate. */
export interface AnnotatedObject extends Omit<ObjectAnnotation, 'area'> {
  /** Square pixels; null if the file states none. The area is then that of the clipped box. */
  area: number | null;
  /** The line of the object in its file, for formats of lines. */
  line?: number;
  /** The four numbers in the file, where `box` does not determine them: some are not finite. */
  numbers?: readonly number[];
}

/** An image as the annotations describe it. `clip-boxes.ts` makes an ImageRecord of it. */
export interface AnnotatedImage {
  id: number;
  /** Absolute path. */
  file: string;
  /** The name in the data set. */
  name: string;
  /**
   * Pixels, as the annotations state them; read from the image where they do not. Null if neither is possible: such an
   * image is left out.
   */
  stated: Size | null;
  /** The annotation file that it comes from. */
  source: string;
  /** The number of the first pixel in the file, in formats where that differs; default 0. */
  firstPixel?: 0 | 1;
  objects: AnnotatedObject[];
}

/** The content that a format reads from a folder. */
export interface AnnotatedContent {
  readonly classNames: readonly string[];
  /** The COCO category id of each class, in the order of `classNames`. */
  readonly categoryIds: readonly number[];
  /** The images of each split that was asked for. An image of several splits may be one object. */
  readonly splits: Readonly<Record<string, readonly AnnotatedImage[]>>;
}

/** How warnings name an object. */
export interface ObjectPlace {
  /** File and annotation. */
  readonly where: string;
  /** The box as the file has it. */
  readonly text: string;
}

/**
 * The four numbers of a box in a file: corners x0, y0, x1, y1; or the upper left corner or the center, with width and
 * height.
 */
export type BoxForm = 'corners' | 'corner and size' | 'center and size';

/** The four numbers that a box has in a file of this form, in pixels. */
export function numbersOf([x0, y0, x1, y1]: Box, form: BoxForm): Box {
  if (form === 'corners') return [x0, y0, x1, y1];
  const size = [x1 - x0, y1 - y0] as const;
  return form === 'corner and size' ? [x0, y0, ...size] : [(x0 + x1) / 2, (y0 + y1) / 2, ...size];
}

/** Numbers for a message, without the rounding errors of `numbersOf`. */
export function numbersText(numbers: readonly number[]): string {
  return numbers.map((value) => Number(value.toPrecision(12))).join(', ');
}

/** What a format is read with. */
export interface Reading {
  /** Corrections and data that is left out. */
  readonly warnings: Warnings;
  /** Receives sentences about decisions for the whole data set, such as categories that are left out. */
  readonly notes: string[];
  /**
   * The sizes of images in pixels, as they are displayed: an EXIF orientation is applied. Images that cannot be read
   * are absent.
   */
  readonly sizesOf: (files: readonly string[]) => Promise<ReadonlyMap<string, Size>>;
}

/** A data set that a format has recognized in a folder. */
export interface DataSource {
  /** The layout by name: "Roboflow COCO". */
  readonly layout: string;
  /**
   * The splits that the folder has, and its own names of them ("val": "valid"). Images that are not divided into
   * splits are the split `UNDIVIDED`.
   */
  readonly splits: ReadonlyMap<string, string>;
  /**
   * Reads annotations and checks that images exist. Boxes are not clipped.
   * @param splits every one is a key of `splits`
   * @throws InputError naming the file, the field, the expected and the found value
   */
  readonly read: (splits: readonly string[], reading: Reading) => AnnotatedContent | Promise<AnnotatedContent>;
}

/** An annotation format on disk. Formats are listed in formats.ts. */
export interface DataFormat {
  /** The value of `--format`. */
  readonly key: string;
  /** Name in plain text: "Pascal VOC". */
  readonly name: string;
  /** Path of the files by which a folder is recognized, for errors. */
  readonly files: string;
  /** The layouts that are recognized, each as the entries of the data set's folder, for errors. */
  readonly layouts: readonly (readonly string[])[];
  /** Plural noun for objects with `crowd` set, for errors. */
  readonly crowdNoun: string;
  /** The files that the user writes to make a new split, for the error of a missing split. */
  readonly splitRemedy: (split: string) => string;
  readonly boxForm: BoxForm;
  /** How warnings name the object `image.objects[index]`. */
  readonly place: (image: AnnotatedImage, index: number, classNames: readonly string[]) => ObjectPlace;
  /**
   * Finds a data set of this format by the names of its files; null if the folder has another format.
   * @throws InputError if the folder has this format and is ambiguous
   */
  readonly recognize: (tree: FolderTree) => DataSource | null;
}

/** The error for a split that does not exist. It says how to make one. */
export function missingSplit(root: string, format: DataFormat, split: string, present: readonly string[]): InputError {
  const found = present.length > 0 ? `there is: ${present.join(', ')}` : 'there is none';
  return new InputError(`${root}: no split "${split}" (${found}); to make one, write ${format.splitRemedy(split)}`);
}

/** Share of the listed images that may be missing. */
const MAX_MISSING = 0.1;

/** Images that a file lists and that do not exist. */
export interface MissingImages {
  /** The file that lists the images. */
  readonly source: string;
  readonly missing: readonly string[];
  /** Number of listed images. */
  readonly total: number;
  /** The searched folders. */
  readonly lookedIn: readonly string[];
}

/**
 * Adds missing images to the warnings. The caller leaves them out.
 * @throws InputError with the first missing images and the searched folders if more than a tenth is missing
 */
export function reportMissing({ source, missing, total, lookedIn }: MissingImages, warnings: Warnings): void {
  if (missing.length > total * MAX_MISSING)
    throw new InputError(
      `${source}: ${missing.length} of ${total} images are missing: ${firstNames(missing)}; ` +
        `looked in ${lookedIn.join(', ')}`,
    );
  for (const name of missing) warnings.add('images that do not exist, left out', `${source}: ${name}`);
}

/** The first three names, with ", ..." for the others. */
export function firstNames(names: readonly string[]): string {
  return names.slice(0, 3).join(', ') + (names.length > 3 ? ', ...' : '');
}
