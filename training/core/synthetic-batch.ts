/** Batches of noise, for measuring steps before any data is read. */
import { Random } from '../../engine/index.ts';
import { canvasOf } from './composition.ts';
import type { ImageRecord, Size } from './image-record.ts';
import type { TrainingConfig } from './recipe.ts';
import type { PassData } from './step.ts';
import { resizedSize } from './transforms.ts';

/** Default number of objects per image. COCO's images have seven on average. */
const OBJECTS = 7;

/**
 * The largest image that the augmentation gives, before padding. A batch is padded to its largest width and its largest
 * height, so these may be those of two images.
 * @param records the training images; without them, images may have any shape
 */
export function largestSize(
  { augmentation }: Pick<TrainingConfig, 'augmentation'>,
  records: readonly Size[] = [],
): Size {
  const { fixedSize, shortSides, maxSize, crop } = augmentation;
  if (fixedSize) return { height: fixedSize[0], width: fixedSize[1] };
  if (records.length === 0 || (crop !== null && crop.probability > 0))
    return { height: Math.min(Math.max(...shortSides), maxSize), width: maxSize };
  const canvas = canvasOf(records, augmentation);
  if (canvas) return canvas;
  const size = { width: 0, height: 0 };
  for (const record of records) {
    const { width, height } = resizedSize(record, Math.max(...shortSides), maxSize);
    size.width = Math.max(size.width, width);
    size.height = Math.max(size.height, height);
  }
  return size;
}

/** The most objects that an image of a batch can have. A mosaic has the objects of four images. */
export function mostObjects(
  { augmentation: { mosaic } }: Pick<TrainingConfig, 'augmentation'>,
  records: readonly ImageRecord[],
): number {
  const counts = records.map(({ objects }) => objects.filter(({ crowd }) => !crowd).length).sort((a, b) => b - a);
  return counts.slice(0, mosaic > 0 ? 4 : 1).reduce((a, b) => a + b, 0);
}

/** A batch of noise, with some objects in each image. */
export function syntheticBatch(
  { seed, batchSize }: TrainingConfig,
  numClasses: number,
  { width, height }: Size,
  objects = OBJECTS,
): PassData {
  const random = new Random(seed);
  const pixels = Uint8Array.from({ length: width * height * 3 }, () => random.integer(256));
  const images = Array.from({ length: batchSize }, () => ({ data: pixels, width, height }));
  const boxes = Float32Array.from(
    { length: objects * 4 },
    (_, i) => (i % 4 < 2 ? 0.05 : 0.5) * (i % 2 === 0 ? width : height) * (1 + 0.1 * (Math.floor(i / 4) % 7)),
  );
  return {
    images,
    targets: images.map(() => ({ boxes, labels: Uint32Array.from({ length: objects }, (_, i) => i % numClasses) })),
  };
}
