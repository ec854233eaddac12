/**
 * Types for an image and its objects, as transforms, recipes and data sets use them.
 *
 * Boxes are xyxy in pixels of the original image, the frame that COCO uses: (0, 0) is the upper left corner of the
 * upper left pixel, (width, height) is the lower right corner of the lower right pixel.
 */

export type Box = [x0: number, y0: number, x1: number, y1: number];

/** Pixels. */
export interface Size {
  width: number;
  height: number;
}

export interface ObjectAnnotation {
  /** The annotation's id. Formats without ids number the annotations 1, 2, ... over all splits. */
  id: number;
  /** 0-based index into the data set's `classNames`. */
  label: number;
  /** Pixels of the original image. The box lies inside the image and is not empty. */
  box: Box;
  /** Square pixels: the area of the object's mask where the file states one, else the area of the box. */
  area: number;
  /**
   * COCO's iscrowd, Pascal VOC's difficult. Crowds are no training targets.
   * In evaluation they are neither missed objects nor false alarms.
   */
  crowd: boolean;
}

export interface ImageRecord {
  id: number;
  /** Absolute path. */
  file: string;
  /** The name in the data set: COCO's file_name, or the file's name in JPEGImages. */
  name: string;
  /** Pixels, as the annotations state them, or as the image has them after a check. Reading the image checks them. */
  width: number;
  height: number;
  objects: ObjectAnnotation[];
  /** The value that becomes 255, for images of more than 8 bits; the same for a whole data set. See data/decode.ts. */
  white?: number;
}
