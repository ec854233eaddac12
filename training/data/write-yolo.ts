/**
 * Writes YOLO data sets: `data.yaml`, `images/<split>/` and `labels/<split>/<name>.txt`. Images that are not divided
 * into splits: `classes.txt`, `images/` and `labels/`.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { ImageRecord } from '../core/image-record.ts';
import type { DataWriter, OutputContent } from './data-writer.ts';
import { withoutExtension } from './folder-tree.ts';
import { UNDIVIDED } from './split-names.ts';

export const writeYolo: DataWriter = {
  format: 'yolo',
  imageFolder: (split) => (split === UNDIVIDED ? 'images' : `images/${split}`),
  keepsFolders: false,
  namesStems: true,
  sharesImages: false,
  needsObjects: false,
  // classes.txt has one name a line.
  writableName: (name) => name.replace(/[\r\n\u2028\u2029]/g, ' ').trim() || '_',
  // Other tools would train on a crowd as on one object.
  holds: ({ crowd }) => !crowd,
  write,
};

function write(folder: string, { classes, splits }: OutputContent): void {
  const names = classes.map(({ name }) => name);
  if (splits.has(UNDIVIDED)) writeFileSync(join(folder, 'classes.txt'), names.map((name) => `${name}\n`).join(''));
  else {
    const folders = Object.fromEntries([...splits.keys()].map((split) => [split, writeYolo.imageFolder(split)]));
    // Without `path`, the folders are relative to the file. Ultralytics looks for a relative `path` in its own folder.
    const byIndex = new Map(names.map((name, index) => [index, name]));
    writeFileSync(join(folder, 'data.yaml'), stringify({ ...folders, nc: names.length, names: byIndex }));
  }
  for (const [split, images] of splits) {
    const labels = writeYolo.imageFolder(split).replace('images', 'labels');
    mkdirSync(join(folder, labels), { recursive: true });
    for (const { name, record } of images)
      writeFileSync(join(folder, labels, `${withoutExtension(name)}.txt`), linesOf(record));
  }
}

/** "label cx cy width height", in parts of the image's size. */
function linesOf({ width, height, objects }: ImageRecord): string {
  const lines = objects.filter(writeYolo.holds).map(({ label, box: [x0, y0, x1, y1] }) => {
    const values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height];
    return `${label} ${values.map(partText).join(' ')}\n`;
  });
  return lines.join('');
}

/**
 * 17 digits, which give a double exactly, also where fewer would do: readers may take the number of digits for the
 * precision of a value.
 */
const partText = (value: number): string => value.toFixed(17);
