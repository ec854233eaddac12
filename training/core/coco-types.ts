/** Types of COCO's two file formats for boxes: ground truth ("instances") and detections ("results"). */

/** [x, y, width, height] in pixels of the original image; x and y are the top left corner. */
export type CocoBox = [number, number, number, number];

export interface CocoImage {
  id: number;
  file_name: string;
  /** Pixels. */
  width: number;
  height: number;
}

export interface CocoAnnotation {
  id: number;
  image_id: number;
  category_id: number;
  bbox: CocoBox;
  /** Square pixels of the object, or of its mask where there is one. It decides between small, medium and large. */
  area: number;
  /** 1: the box holds a crowd. A crowd is never missed, and any number of detections may match it. */
  iscrowd: 0 | 1;
}

export interface CocoCategory {
  id: number;
  name: string;
}

export interface CocoGroundTruth {
  images: CocoImage[];
  annotations: CocoAnnotation[];
  categories: CocoCategory[];
}

export interface CocoDetection {
  image_id: number;
  category_id: number;
  bbox: CocoBox;
  score: number;
}
