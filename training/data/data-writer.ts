/** The interface of the writers of annotation formats: where a format puts images, and how it writes annotations. */
import type { ImageRecord, ObjectAnnotation } from '../core/image-record.ts';

/** An image and its place in the written data set. */
export interface OutputImage {
  readonly record: ImageRecord;
  /** Path below the image folder of the split, with slashes. */
  readonly name: string;
  /** Path below the data set, with slashes. */
  readonly path: string;
}

export interface OutputClass {
  /** As the format can write it; no two classes have the same. */
  readonly name: string;
  /** COCO category id. */
  readonly id: number;
}

export interface OutputContent {
  /** In the order of the labels. */
  readonly classes: readonly OutputClass[];
  readonly splits: ReadonlyMap<string, readonly OutputImage[]>;
}

export interface DataWriter {
  /** The key of the format that reads the result. */
  readonly format: string;
  /** Folder of a split's images, below the data set, with slashes. */
  readonly imageFolder: (split: string) => string;
  /** Whether images lie in folders of the image folder, as their names say; else names lose their folders. */
  readonly keepsFolders: boolean;
  /** Whether annotations belong to a name without extension, so that one folder cannot have a.jpg and a.png. */
  readonly namesStems: boolean;
  /** Whether one image can be in several splits. */
  readonly sharesImages: boolean;
  /** Whether the classes are those of the objects, so that a data set without objects has none. */
  readonly needsObjects: boolean;
  /** A name as the format can write it. */
  readonly writableName: (name: string) => string;
  /** Whether the format's files can hold an object. The side file holds the others. */
  readonly holds: (object: ObjectAnnotation) => boolean;
  /** Writes all files except images into an existing folder. */
  readonly write: (folder: string, content: OutputContent) => void;
}
