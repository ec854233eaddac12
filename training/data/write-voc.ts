/**
 * Writes Pascal VOC data sets: `Annotations/<name>.xml`, `JPEGImages/`, and the lists `ImageSets/Main/<split>.txt`.
 * Images that are not divided into splits have no lists.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { XMLBuilder } from 'fast-xml-parser';
import type { DataWriter, OutputClass, OutputContent, OutputImage } from './data-writer.ts';
import { withoutExtension } from './folder-tree.ts';
import { UNDIVIDED } from './split-names.ts';

export const writeVoc: DataWriter = {
  format: 'voc',
  imageFolder: () => 'JPEGImages',
  keepsFolders: false,
  namesStems: true,
  sharesImages: true,
  needsObjects: true,
  // Readers cut white space at the ends of names; XML has no control characters, and lists of images no line ends.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these characters are meant
  writableName: (name) => name.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\ufffe\uffff]/g, ' ').trim() || '_',
  holds: () => true,
  write,
};

const builder = new XMLBuilder({ format: true, indentBy: '  ', suppressEmptyNode: false });

function write(folder: string, { classes, splits }: OutputContent): void {
  mkdirSync(join(folder, 'Annotations'), { recursive: true });
  const written = new Set<string>();
  for (const [split, images] of splits) {
    const stems = images.map(({ name }) => withoutExtension(name));
    images.forEach((image, i) => {
      if (written.has(image.path)) return;
      written.add(image.path);
      writeFileSync(join(folder, 'Annotations', `${stems[i]}.xml`), annotationXml(image, classes));
    });
    if (split === UNDIVIDED) continue;
    mkdirSync(join(folder, 'ImageSets', 'Main'), { recursive: true });
    writeFileSync(join(folder, 'ImageSets', 'Main', `${split}.txt`), stems.map((stem) => `${stem}\n`).join(''));
  }
}

/** VOC counts pixels from 1, and a box includes its last pixel. */
function annotationXml({ name, record }: OutputImage, classes: readonly OutputClass[]): string {
  const { width, height, objects } = record;
  return builder.build({
    annotation: {
      folder: 'JPEGImages',
      filename: name,
      size: { width, height, depth: 3 },
      segmented: 0,
      object: objects.map(({ label, box: [x0, y0, x1, y1], crowd }) => ({
        name: classes[label].name,
        pose: 'Unspecified',
        truncated: 0,
        difficult: crowd ? 1 : 0,
        bndbox: { xmin: x0 + 1, ymin: y0 + 1, xmax: x1, ymax: y1 },
      })),
    },
  });
}
