/** The same images and boxes as different tools export them: every export gives the same boxes, classes and splits. */
import fc from 'fast-check';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { openDataset, type Dataset } from '../training/data/index.ts';
import { object, write } from './dataset-files.ts';

const SIZE = { width: 640, height: 480 };
const CLASSES = ['Cell', 'Platelets', 'RBC'];
/** Label and corners. */
type Labeled = readonly [number, number, number, number, number];
type Pictures = ReadonlyMap<string, readonly Labeled[]>;
type Files = Record<string, string | object>;

const jpeg = await sharp({ create: { ...SIZE, channels: 3, background: 'pink' } })
  .jpeg()
  .toBuffer();

/** Images of different content: bytes after the end of a JPEG change no pixel. */
const images = (names: readonly string[], folder: string): Files =>
  Object.fromEntries(names.map((name) => [`${folder}${name}.jpg`, Buffer.concat([jpeg, Buffer.from(name)])]));

const xmlOf = (boxes: readonly Labeled[]) =>
  `<annotation><size><width>640</width><height>480</height></size>${boxes
    .map(([label, x0, y0, x1, y1]) => object(CLASSES[label], [x0 + 1, y0 + 1, x1, y1]))
    .join('')}</annotation>`;

const yoloOf = (boxes: readonly Labeled[]) =>
  boxes
    .map(([label, x0, y0, x1, y1]) => {
      const parts = [(x0 + x1) / 2 / 640, (y0 + y1) / 2 / 480, (x1 - x0) / 640, (y1 - y0) / 480];
      return `${label} ${parts.map((part) => part.toFixed(6)).join(' ')}\n`;
    })
    .join('');

function cocoOf(pictures: Pictures, names: readonly string[], root = false): object {
  const own = CLASSES.map((name, i) => ({ id: i + 1, name, ...(root ? { supercategory: 'cells' } : {}) }));
  return {
    images: names.map((name, i) => ({ id: i + 1, file_name: `${name}.jpg`, ...SIZE })),
    categories: root ? [{ id: 0, name: 'cells', supercategory: 'none' }, ...own] : own,
    annotations: names
      .flatMap((name, i) => (pictures.get(name) ?? []).map((box) => [i + 1, ...box] as const))
      .map(([image_id, label, x0, y0, x1, y1], id) => {
        return { id, image_id, category_id: label + 1, bbox: [x0, y0, x1 - x0, y1 - y0], iscrowd: 0 };
      }),
  };
}

/** The exports of pictures in splits. */
function dividedExports(pictures: Pictures, train: readonly string[], val: readonly string[]): Files[] {
  const perSplit = (each: (split: string, names: readonly string[]) => Files, valName = 'val') => ({
    ...each('train', train),
    ...each(valName, val),
  });
  const text = (names: readonly string[], path: (name: string) => string, of: (boxes: readonly Labeled[]) => string) =>
    Object.fromEntries(names.map((name) => [path(name), of(pictures.get(name) ?? [])]));
  const lists = { 'ImageSets/Main/train.txt': train.join('\n'), 'ImageSets/Main/val.txt': val.join('\n') };
  const all = [...train, ...val];
  const yaml = `path: .\ntrain: images/train\nval: images/val\nnc: 3\nnames: [${CLASSES.join(', ')}]\n`;
  return [
    perSplit((split, names) => ({
      [`annotations/instances_${split}.json`]: cocoOf(pictures, names),
      ...images(names, `${split}/`),
    })),
    perSplit(
      (split, names) => ({
        [`${split}/_annotations.coco.json`]: cocoOf(pictures, names, true),
        ...images(names, `${split}/`),
      }),
      'valid',
    ),
    {
      'data.yaml': yaml,
      ...perSplit((split, names) => ({
        ...images(names, `images/${split}/`),
        ...text(names, (name) => `labels/${split}/${name}.txt`, yoloOf),
      })),
    },
    perSplit(
      (split, names) => ({ ...images(names, `${split}/`), ...text(names, (name) => `${split}/${name}.xml`, xmlOf) }),
      'valid',
    ),
    { ...lists, ...images(all, 'JPEGImages/'), ...text(all, (name) => `Annotations/${name}.xml`, xmlOf) },
  ];
}

/** The exports of pictures that are not divided, and of a training split alone. */
function undividedExports(pictures: Pictures): Files[] {
  const names = [...pictures.keys()];
  const text = (path: (name: string) => string, of: (boxes: readonly Labeled[]) => string) =>
    Object.fromEntries(names.map((name) => [path(name), of(pictures.get(name) ?? [])]));
  return [
    { 'result.json': cocoOf(pictures, names), ...images(names, 'images/') },
    { 'annotations/instances_train.json': cocoOf(pictures, names), ...images(names, 'train/') },
    { 'classes.txt': CLASSES.join('\n'), ...images(names, 'images/'), ...text((name) => `labels/${name}.txt`, yoloOf) },
    { ...images(names, ''), ...text((name) => `${name}.xml`, xmlOf) },
    { ...images(names, 'images/'), ...text((name) => `annots/${name}.xml`, xmlOf) },
  ];
}

/** What training depends on. */
const contentOf = ({ classNames, splits }: Dataset) => ({
  classNames,
  splits: ['train', 'val'].map((split) =>
    splits[split].map(({ name, width, height, objects }) => ({
      name,
      width,
      height,
      objects: objects.map(({ label, box, area, crowd }) => ({ label, box, area, crowd })),
    })),
  ),
});

const box = fc
  .tuple(
    fc.integer({ min: 0, max: 2 }),
    fc.uniqueArray(fc.integer({ min: 0, max: 640 }), { minLength: 2, maxLength: 2 }),
    fc.uniqueArray(fc.integer({ min: 0, max: 480 }), { minLength: 2, maxLength: 2 }),
  )
  .map(([label, xs, ys]): Labeled => {
    const [[x0, x1], [y0, y1]] = [xs, ys].map((values) => values.sort((a, b) => a - b));
    return [label, x0, y0, x1, y1];
  });

/** Twelve images; every class occurs in the first, and its first box begins at the first pixel. */
const pictures = fc.array(fc.array(box, { maxLength: 4 }), { minLength: 12, maxLength: 12 }).map((lists): Pictures => {
  const all = CLASSES.map((_, label): Labeled => [label, 0, 0, 20 + label, 30]);
  return new Map(lists.map((boxes, i) => [`Photo ${i}`, i === 0 ? all : boxes]));
});

test('all exports of the same images in splits give the same data', async () => {
  await fc.assert(
    fc.asyncProperty(pictures, async (content) => {
      const names = [...content.keys()];
      const [first, ...others] = dividedExports(content, names.slice(0, 8), names.slice(8));
      const expected = contentOf(await openDataset(write(first)));
      expect(expected.classNames).toEqual(CLASSES);
      expect(expected.splits.map((records) => records.length)).toEqual([8, 4]);
      expect(expected.splits[0][0].objects.map((entry) => entry.box)).toEqual([0, 1, 2].map((i) => [0, 0, 20 + i, 30]));
      for (const files of others) {
        const dataset = await openDataset(write(files));
        expect(contentOf(dataset)).toEqual(expected);
        expect(dataset.warnings).toEqual([]);
      }
    }),
    { numRuns: 4 },
  );
});

test('all exports of the same images without splits give the same data and the same created splits', async () => {
  await fc.assert(
    fc.asyncProperty(pictures, async (content) => {
      const [first, ...others] = undividedExports(content);
      const expected = contentOf(await openDataset(write(first)));
      expect(expected.splits.flat().length).toBe(12);
      for (const files of others) {
        const dataset = await openDataset(write(files));
        expect(contentOf(dataset)).toEqual(expected);
        expect([dataset.warnings, dataset.notes.length]).toEqual([[], 1]);
      }
    }),
    { numRuns: 4 },
  );
});
