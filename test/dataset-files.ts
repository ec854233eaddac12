/** Small data sets on disk for tests of data set formats, in COCO and VOC format. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import { afterAll } from 'vitest';

/** The folder of all data sets of a test file. It is removed at the end of the file. */
export const folder = mkdtempSync(join(tmpdir(), 'datasets-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const image = await sharp({ create: { width: 40, height: 30, channels: 3, background: 'teal' } })
  .jpeg()
  .toBuffer();

let count = 0;
/**
 * Writes files into a new folder. A content is text, bytes, an object for JSON, or null for an image of 40 x 30 pixels.
 */
export function write(files: Readonly<Record<string, string | object | null>>): string {
  const root = join(folder, `set-${count++}`);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(
      join(root, name),
      content === null
        ? image
        : typeof content === 'string' || content instanceof Uint8Array
          ? content
          : JSON.stringify(content),
    );
  }
  return root;
}

/** An entry of a COCO file. */
export type Entry = Record<string, unknown>;
export const categories: Entry[] = [
  { id: 7, name: 'dog' },
  { id: 3, name: 'cat' },
];
export const picture = (id: number, change: Entry = {}): Entry => ({
  id,
  file_name: `${id}.jpg`,
  width: 40,
  height: 30,
  ...change,
});
export const annotation = (id: number, change: Entry = {}): Entry => ({
  id,
  image_id: 1,
  category_id: 3,
  bbox: [10, 5, 20, 10],
  area: 150,
  iscrowd: 0,
  ...change,
});
export const instances = (change: Entry = {}): Entry => ({
  images: [picture(1)],
  annotations: [annotation(1)],
  categories,
  ...change,
});

/** A COCO data set. `change` replaces fields of its train file. */
export const coco = (change: Entry) =>
  write({
    'annotations/instances_train.json': instances(change),
    'annotations/instances_val.json': instances(),
    'train/1.jpg': null,
    'train/2.jpg': null,
    'val/1.jpg': null,
  });

export const object = (name: string, [xmin, ymin, xmax, ymax]: readonly (number | string)[], extra = '') =>
  `<object><name>${name}</name>${extra}<bndbox><xmin>${xmin}</xmin><ymin>${ymin}</ymin>` +
  `<xmax>${xmax}</xmax><ymax>${ymax}</ymax></bndbox></object>`;
export const xml = (...objects: string[]) => `<annotation verified="yes"><filename>whatever.jpg</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>${objects.join('')}</annotation>\n`;
/** A VOC data set with three images, one in each list. `first` is the annotation of the first image. */
export const voc = (first: string, change: Readonly<Record<string, string | null>> = {}) =>
  write({
    'ImageSets/Main/train.txt': 'a\n',
    'ImageSets/Main/val.txt': '\uFEFFb  \r\n\r\n',
    'ImageSets/Main/test.txt': 'c',
    'Annotations/a.xml': first,
    'Annotations/b.xml': xml(object('zebra', [1, 1, 40, 30])),
    'Annotations/c.xml': xml(),
    'JPEGImages/a.jpg': null,
    'JPEGImages/b.JPG': null,
    'JPEGImages/c.png': null,
    'JPEGImages/readme.txt': 'no image',
    ...change,
  });
