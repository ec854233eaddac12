/** Images made by formula: the same seed gives the same image, and the boxes are where the objects are drawn. */
import { expect, test } from 'vitest';
import { formulaClasses, FORMULA_CLASSES, OUTLINE_ANGLES } from '../training/data/formula-classes.ts';
import { drawScene, formulaDataset, formulaRecords, readFormulaImage } from '../training/data/formula-images.ts';
import {
  formulaScene,
  MAX_FORMULA_OBJECTS,
  type FormulaObject,
  type FormulaScene,
} from '../training/data/formula-scenes.ts';
import { splitRecords } from '../training/data/index.ts';
import { createTrainingLoader } from '../training/data/loader.ts';
import { PLAIN_AUGMENTATION } from '../training/core/augmentation.ts';
import { Random } from '../engine/core/random.ts';

const SIZE = 128;
const sceneOf = (index: number, split = 0, seed = 0): FormulaScene => formulaScene({ seed, split, index, size: SIZE });

test('the same path gives the same pixels; other seeds, splits and indices give others', async () => {
  const [first, again] = [await readFormulaImage('formula:3/0/7/128'), await readFormulaImage('formula:3/0/7/128')];
  expect(first).toEqual(again);
  expect(first).toMatchObject({ width: SIZE, height: SIZE });
  expect(first.data).toHaveLength(SIZE * SIZE * 3);
  for (const other of ['formula:4/0/7/128', 'formula:3/1/7/128', 'formula:3/0/8/128'])
    expect((await readFormulaImage(other)).data).not.toEqual(first.data);
});

test('every class has a name of its own, and outlines with a longest radius of about 1', () => {
  const classes = formulaClasses(0);
  expect(new Set(classes.map(({ name }) => name)).size).toBe(FORMULA_CLASSES);
  for (const { outline, aspect } of classes) {
    expect(aspect).toBeGreaterThan(0.3);
    for (let object = 0; object < 5; object++) {
      const drawn = outline(new Random(1, object));
      if (drawn.kind === 'radial') {
        expect(drawn.radii).toHaveLength(OUTLINE_ANGLES);
        expect(Math.max(...drawn.radii)).toBeCloseTo(1, 5);
        expect(Math.min(...drawn.radii)).toBeGreaterThan(0);
      } else expect(Math.max(...drawn.points.map(Math.abs))).toBeCloseTo(1, 5);
    }
  }
});

test('boxes lie in the image, are not tiny, and their number is bounded', () => {
  for (let index = 0; index < 200; index++) {
    const { objects } = sceneOf(index);
    expect(objects.length).toBeLessThanOrEqual(MAX_FORMULA_OBJECTS);
    for (const { box, bounds } of objects) {
      const [x0, y0, x1, y1] = box;
      expect(Math.min(x0, y0)).toBeGreaterThanOrEqual(0);
      expect(Math.max(x1, y1)).toBeLessThanOrEqual(SIZE);
      const area = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1]);
      expect((x1 - x0) * (y1 - y0)).toBeGreaterThanOrEqual(0.5 * area - 1e-6);
    }
  }
});

/** A scene with one object, drawn in white on black without effects. */
function plainScene(object: FormulaObject): FormulaScene {
  const texture = (value: number) => ({
    ...object.texture,
    colors: [
      [value, value, value],
      [value, value, value],
    ] as const,
  });
  const white: FormulaObject = {
    ...object,
    texture: texture(255),
    opacity: 1,
    softness: 0.5,
    shade: [0, 0],
    rim: 0,
    nucleus: null,
    shadow: null,
  };
  const camera = { gain: 1, bias: 0, vignette: 0, blur: 0, noise: 0, gray: false, quality: null, noiseSeed: 1 };
  return { size: SIZE, background: texture(0), horizon: null, strokes: [], objects: [white], camera };
}

test('the drawn pixels of an object fill its box', () => {
  const distances: number[] = [];
  for (let index = 0; index < 20; index++) {
    for (const object of sceneOf(index).objects) {
      const pixels = drawScene(plainScene(object));
      const drawn = [SIZE, SIZE, 0, 0];
      for (let i = 0; i < pixels.length; i += 3) {
        if (pixels[i] < 100) continue;
        const [x, y] = [(i / 3) % SIZE, Math.floor(i / 3 / SIZE)];
        drawn[0] = Math.min(drawn[0], x);
        drawn[1] = Math.min(drawn[1], y);
        drawn[2] = Math.max(drawn[2], x + 1);
        drawn[3] = Math.max(drawn[3], y + 1);
      }
      // A part of a sharp corner is thinner than a pixel, so that it is not drawn. Nothing lies outside of the box.
      const { box } = object;
      const sizes = [box[2] - box[0], box[3] - box[1]];
      box.forEach((edge, i) => {
        const inwards = i < 2 ? drawn[i] - edge : edge - drawn[i];
        expect(inwards, `${index}: ${i}`).toBeGreaterThan(-1.5);
        expect(inwards, `${index}: ${i}`).toBeLessThan(2 + 0.25 * sizes[i % 2]);
        distances.push(inwards);
      });
    }
  }
  expect(distances.length).toBeGreaterThan(250);
  const sorted = distances.sort((a, b) => a - b);
  expect(sorted[Math.floor(0.9 * sorted.length)]).toBeLessThan(2);
});

test('a data set of scenes works with the loader, and its images differ', async () => {
  const dataset = formulaDataset({ seed: 0, size: 64, trainImages: 1000, valImages: 5 });
  expect(dataset.classNames).toHaveLength(FORMULA_CLASSES);
  expect(splitRecords(dataset, 'val')).toHaveLength(5);
  const augmentation = { ...PLAIN_AUGMENTATION, flip: 0.5, shortSides: [64], maxSize: 64, crop: null, fixedSize: null };
  const records = splitRecords(dataset, 'train');
  const loader = createTrainingLoader({ records, batchSize: 3, seed: 1, augmentation, workers: 1 });
  try {
    const { images, targets } = await loader.next();
    expect(images.map(({ width, height }) => [width, height])).toEqual(Array(3).fill([64, 64]));
    expect(images[0].data).not.toEqual(images[1].data);
    images.forEach(({ record }, i) => expect(targets[i].labels).toHaveLength(record.objects.length));
  } finally {
    await loader.close();
  }
});

test('records compute their objects anew, with the same result', () => {
  const [record] = formulaRecords({ seed: 0, split: 0, size: SIZE }, 1);
  expect(record.objects).toEqual(record.objects);
  expect(record.objects.map(({ box }) => box)).toEqual(sceneOf(0).objects.map(({ box }) => box));
});
