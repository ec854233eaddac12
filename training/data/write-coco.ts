/**
 * Writes COCO data sets: `annotations/instances_<split>.json` with the images in `<split>/`, or as Roboflow does:
 * `<split>/_annotations.coco.json` beside the images. Images that are not divided into splits: `annotations.json` with
 * the images in `images/`.
 */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Box } from '../core/image-record.ts';
import type { DataWriter, OutputContent, OutputImage } from './data-writer.ts';
import { UNDIVIDED } from './split-names.ts';
import { appendList, writeTextFile } from './text-writer.ts';

const shared = {
  format: 'coco',
  keepsFolders: true,
  namesStems: false,
  sharesImages: false,
  needsObjects: false,
  writableName: (name: string) => name,
  holds: () => true,
} as const;

/** The layout of the COCO data sets themselves. */
export const writeCoco: DataWriter = {
  ...shared,
  imageFolder: (split) => (split === UNDIVIDED ? 'images' : split),
  write: (folder, content) =>
    writeFiles(folder, content, (split) =>
      split === UNDIVIDED ? 'annotations.json' : `annotations/instances_${split}.json`,
    ),
};

/** Roboflow's own names of splits. */
const ROBOFLOW_FOLDERS: ReadonlyMap<string, string> = new Map([
  ['val', 'valid'],
  [UNDIVIDED, 'train'],
]);

/** The layout of Roboflow's exports. It has no place for undivided images, which become the training split. */
export const writeRoboflow: DataWriter = {
  ...shared,
  imageFolder: roboflowFolder,
  write: (folder, content) => writeFiles(folder, content, (split) => `${roboflowFolder(split)}/_annotations.coco.json`),
};

function roboflowFolder(split: string): string {
  return ROBOFLOW_FOLDERS.get(split) ?? split;
}

function writeFiles(folder: string, { classes, splits }: OutputContent, fileOf: (split: string) => string): void {
  for (const [split, images] of splits) {
    const path = join(folder, fileOf(split));
    mkdirSync(dirname(path), { recursive: true });
    writeTextFile(path, (append) => {
      append('{"images": ');
      appendList(append, imageEntries(images));
      append(',\n"annotations": ');
      appendList(
        append,
        annotationEntries(
          images,
          classes.map(({ id }) => id),
        ),
      );
      append(',\n"categories": ');
      appendList(
        append,
        classes.map(({ name, id }) => ({ id, name })),
      );
      append('}\n');
    });
  }
}

function* imageEntries(images: readonly OutputImage[]): Generator<object> {
  for (const { name, record } of images)
    yield { id: record.id, file_name: name, width: record.width, height: record.height };
}

function* annotationEntries(images: readonly OutputImage[], categoryIds: readonly number[]): Generator<object> {
  for (const { record } of images)
    for (const { id, label, box, area, crowd } of record.objects)
      yield {
        id,
        image_id: record.id,
        category_id: categoryIds[label],
        bbox: cornerAndSize(box),
        area,
        iscrowd: crowd ? 1 : 0,
      };
}

/** [x, y, width, height] from which x + width and y + height give the box's edges exactly, where that is possible. */
export function cornerAndSize([x0, y0, x1, y1]: Box): [number, number, number, number] {
  return [x0, y0, extent(x0, x1), extent(y0, y1)];
}

function extent(from: number, to: number): number {
  const size = to - from;
  const step = Number.EPSILON * size;
  return (
    [size, size + step / 2, size - step / 2, size + step, size - step].find((value) => from + value === to) ?? size
  );
}
