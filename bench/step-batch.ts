/** The random batch that a training step is measured with. */
import type { ImageTargets, PresetName } from '../model/index.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { noise } from './case.ts';

/** The sizes of a batch. */
export interface StepSizes {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  /** Objects per image. */
  readonly objects: number;
}

export interface Batch {
  readonly images: readonly {
    readonly data: Uint8Array<ArrayBuffer>;
    readonly width: number;
    readonly height: number;
  }[];
  readonly targets: readonly ImageTargets[];
}

/** Objects per image in COCO, on average. */
const OBJECTS = 7;

/** The sizes that a preset trains with. Presets with the paper's backbone use one image of 480 x 640. */
export function sizesOf(preset: PresetName): StepSizes {
  const { training } = presetConfig(preset);
  return preset === 'small' || preset === 'tiny'
    ? { batch: training.batchSize, height: 96, width: 96, objects: OBJECTS }
    : { batch: 1, height: 480, width: 640, objects: OBJECTS };
}

/** A reproducible batch of random images and objects. */
export function randomBatch({ batch, height, width, objects }: StepSizes, numClasses: number): Batch {
  const images = Array.from({ length: batch }, (_, b) => ({
    data: Uint8Array.from(noise(height * width * 3, b + 1), (v) => 256 * (v + 0.5)),
    width,
    height,
  }));
  const targets = images.map((_, b) => {
    const values = noise(4 * objects, 100 + b);
    const boxes = new Float32Array(4 * objects);
    for (let i = 0; i < objects; i++) {
      const [w, h] = [(0.15 + 0.3 * (values[4 * i] + 0.5)) * width, (0.15 + 0.3 * (values[4 * i + 1] + 0.5)) * height];
      const [x, y] = [(values[4 * i + 2] + 0.5) * (width - w), (values[4 * i + 3] + 0.5) * (height - h)];
      boxes.set([x, y, x + w, y + h], 4 * i);
    }
    return { boxes, labels: Uint32Array.from({ length: objects }, (__, i) => i % numClasses) };
  });
  return { images, targets };
}
