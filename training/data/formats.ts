/** The table of annotation formats. A new format is a file that implements `DataFormat`, and an entry here. */
import { coco } from './coco.ts';
import type { DataFormat } from './format.ts';
import { voc } from './voc.ts';
import { yolo } from './yolo.ts';

export const DATA_FORMATS: readonly DataFormat[] = [coco, voc, yolo];

/** "COCO, Pascal VOC or YOLO", for help texts. */
export const FORMAT_NAMES: string = DATA_FORMATS.map(({ name }) => name)
  .join(', ')
  .replace(/, (?=[^,]*$)/, ' or ');

/** "coco, voc or yolo", for help texts. */
export const FORMAT_KEYS: string = DATA_FORMATS.map(({ key }) => key)
  .join(', ')
  .replace(/, (?=[^,]*$)/, ' or ');
