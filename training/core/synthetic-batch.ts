/** Batches of noise, for measuring steps before any data is read. */
import { Random } from '../../engine/index.ts';
import type { Size } from './image-record.ts';
import type { TrainingConfig } from './recipe.ts';
import type { PassData } from './step.ts';

/** Objects per image. COCO's images have seven on average. */
const OBJECTS = 7;

/** The largest image that the augmentation gives, before padding. */
export function largestSize({ augmentation: { fixedSize, shortSides, maxSize } }: TrainingConfig): Size {
  return fixedSize
    ? { height: fixedSize[0], width: fixedSize[1] }
    : { height: Math.min(Math.max(...shortSides), maxSize), width: maxSize };
}

/** A batch of noise, with some objects in each image. */
export function syntheticBatch(
  { seed, batchSize }: TrainingConfig,
  numClasses: number,
  { width, height }: Size,
): PassData {
  const random = new Random(seed);
  const pixels = Uint8Array.from({ length: width * height * 3 }, () => random.integer(256));
  const images = Array.from({ length: batchSize }, () => ({ data: pixels, width, height }));
  const boxes = Float32Array.from(
    { length: OBJECTS * 4 },
    (_, i) => (i % 4 < 2 ? 0.05 : 0.5) * (i % 2 === 0 ? width : height) * (1 + 0.1 * Math.floor(i / 4)),
  );
  return {
    images,
    targets: images.map(() => ({ boxes, labels: Uint32Array.from({ length: OBJECTS }, (_, i) => i % numClasses) })),
  };
}
