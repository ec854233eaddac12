/**
 * Batches of images and boxes, ready for upload, prepared ahead by an ImagePool.
 *
 * The training batch of an iteration depends only on (seed, iteration):
 * - Each epoch has one permutation of the images. Every image occurs once per epoch.
 * - A batch may span two epochs, so no batch is short.
 * - The augmentation of each image has a random stream of its own.
 *
 * So `seek(iteration)` continues a run with the same batches. The numbers of workers and of prefetched batches do not
 * change a batch.
 * Images are not grouped by aspect ratio. Batches mix landscape and portrait, which costs some padding.
 */
import { Random } from '../../engine/core/random.ts';
import {
  validateAugmentation,
  validateEvaluationResize,
  type Augmentation,
  type EvaluationResize,
} from '../core/augmentation.ts';
import { InputError } from '../core/errors.ts';
import type { ImageRecord } from '../core/image-record.ts';
import { planAugmentation, planEvaluation, scaleOf, transformBox, type ImageTransform } from '../core/transforms.ts';
import { ImagePool } from './image-pool.ts';

export interface BatchImage {
  /** RGB, HWC: height * width * 3 bytes. */
  data: Uint8Array;
  /** Pixels of the network's input, without padding. */
  width: number;
  height: number;
  record: ImageRecord;
  /**
   * Network pixels per pixel of the original, [horizontally, vertically].
   * A training image may also be cropped and flipped.
   */
  scale: [number, number];
}

/** The objects of one image, without crowds. */
export interface BatchTargets {
  /** [M, 4] xyxy in pixels of the resized image. */
  boxes: Float32Array;
  /** [M] 0-based class indices. */
  labels: Uint32Array;
}

export interface LoadedBatch {
  images: BatchImage[];
  /** One for each image, in the same order. */
  targets: BatchTargets[];
  /** Training: the iteration of this batch. Evaluation: the number of this batch. Both count from 0. */
  iteration: number;
}

interface LoaderOptions {
  records: readonly ImageRecord[];
  batchSize: number;
  /** Threads that decode and transform; 0: the calling thread does it. Default: 1. */
  workers?: number;
  /** Batches prepared ahead. Default: 2. */
  prefetch?: number;
  /**
   * Bytes of cached images, all workers together. Default: 256 MiB.
   * The cache holds decoded images, or resized images where each epoch gives the same size.
   */
  cacheBytes?: number;
}

export interface TrainingLoaderOptions extends LoaderOptions {
  seed: number;
  augmentation: Augmentation;
}

export interface EvaluationLoaderOptions extends LoaderOptions {
  resize: EvaluationResize;
}

export interface TrainingLoader {
  /**
   * The batch of the next iteration. Rejects with InputError naming the file if an image cannot be read.
   * The next call then tries the same iteration again.
   */
  next(): Promise<LoadedBatch>;
  /** Makes `iteration` (from 0) the next one. */
  seek(iteration: number): void;
  /** Ends the workers; `next` rejects from then on. */
  close(): Promise<void>;
}

/** Iterates over all images once, in order. The last batch may be smaller. It can be iterated again until closed. */
export interface EvaluationLoader extends AsyncIterable<LoadedBatch> {
  /** Number of batches. */
  readonly length: number;
  close(): Promise<void>;
}

const DEFAULT_CACHE_BYTES = 256 * 2 ** 20;

/** Number of the random streams for the loader's seed and for the order of each epoch. Image positions are smaller. */
const RESERVED_STREAM = 0xffffffff;

/** Batches for training, without end. Throws InputError if an option has a bad value. */
export function createTrainingLoader(options: TrainingLoaderOptions): TrainingLoader {
  const { records, batchSize, augmentation } = options;
  validateAugmentation(augmentation);
  // The loader derives a seed of its own, so that its numbers differ from those of a model's initial weights.
  const seed = new Random(options.seed, RESERVED_STREAM, RESERVED_STREAM).uint32();
  const { pool, prefetch } = open(options);
  const order = createEpochOrder(records.length, seed);
  const sameSize =
    augmentation.crop === null && (augmentation.fixedSize !== null || augmentation.shortSides.length === 1);
  const prepare = (iteration: number) =>
    readBatch(
      pool,
      iteration,
      sameSize,
      Array.from({ length: batchSize }, (_, slot) => {
        const position = iteration * batchSize + slot;
        const epoch = Math.floor(position / records.length);
        const place = position % records.length;
        const index = order(epoch)[place];
        return {
          index,
          record: records[index],
          transform: planAugmentation(records[index], augmentation, new Random(seed, epoch, place)),
        };
      }),
    );

  let iteration = 0;
  let ahead: Promise<LoadedBatch>[] = [];
  return {
    async next() {
      while (ahead.length <= prefetch) ahead.push(handled(prepare(iteration + ahead.length)));
      const current = iteration;
      const [batch, ...rest] = ahead;
      ahead = rest;
      iteration++;
      try {
        return await batch;
      } catch (error) {
        if (iteration === current + 1) [iteration, ahead] = [current, []];
        throw error;
      }
    },
    seek(to) {
      if (!Number.isSafeInteger(to) || to < 0)
        throw new RangeError(`TrainingLoader.seek: iteration: expected an integer of at least 0, got ${to}`);
      iteration = to;
      ahead = [];
    },
    close: () => pool.close(),
  };
}

/** Batches for evaluation; images are only resized. Throws InputError if an option has a bad value. */
export function createEvaluationLoader(options: EvaluationLoaderOptions): EvaluationLoader {
  const { records, batchSize, resize } = options;
  validateEvaluationResize(resize);
  const { pool, prefetch } = open(options);
  const length = Math.ceil(records.length / batchSize);
  const prepare = (number: number) =>
    readBatch(
      pool,
      number,
      true,
      records.slice(number * batchSize, (number + 1) * batchSize).map((record, slot) => ({
        index: number * batchSize + slot,
        record,
        transform: planEvaluation(record, resize),
      })),
    );
  return {
    length,
    async *[Symbol.asyncIterator]() {
      const ahead: Promise<LoadedBatch>[] = [];
      for (let number = 0; number < length; number++) {
        while (ahead.length <= prefetch && number + ahead.length < length)
          ahead.push(handled(prepare(number + ahead.length)));
        const batch = ahead.shift();
        if (batch !== undefined) yield await batch;
      }
    },
    close: () => pool.close(),
  };
}

function open(options: LoaderOptions): { pool: ImagePool; prefetch: number } {
  const { records, batchSize, workers = 1, prefetch = 2, cacheBytes = DEFAULT_CACHE_BYTES } = options;
  const limits = [
    ['batchSize', batchSize, 1],
    ['workers', workers, 0],
    ['prefetch', prefetch, 0],
    ['cacheBytes', cacheBytes, 0],
  ] as const;
  for (const [name, value, min] of limits) {
    if (Number.isSafeInteger(value) && value >= min) continue;
    throw new InputError(`loader: ${name}: expected an integer of at least ${min}, got ${value}`);
  }
  if (records.length === 0) throw new InputError('loader: records: expected at least one image, got none');
  return { pool: new ImagePool(workers, cacheBytes), prefetch };
}

/**
 * The order of the images in an epoch.
 * It remembers the two latest epochs, because prefetching asks for the next epoch while batches still need this one.
 */
function createEpochOrder(length: number, seed: number): (epoch: number) => Uint32Array {
  const known = new Map<number, Uint32Array>();
  return (epoch) => {
    let order = known.get(epoch);
    if (order === undefined) {
      order = new Random(seed, epoch, RESERVED_STREAM).permutation(length);
      known.set(epoch, order);
      for (const old of known.keys()) if (known.size > 2) known.delete(old);
    }
    return order;
  };
}

interface Sample {
  /** Index of the record in the loader's records. */
  index: number;
  record: ImageRecord;
  transform: ImageTransform;
}

async function readBatch(
  pool: ImagePool,
  iteration: number,
  sameSize: boolean,
  samples: readonly Sample[],
): Promise<LoadedBatch> {
  const images = await Promise.all(
    samples.map(async ({ index, record, transform }): Promise<BatchImage> => {
      const stated = { width: record.width, height: record.height };
      const { data, width, height } = await pool.read({ file: record.file, stated, transform, sameSize }, index);
      return { data, width, height, record, scale: scaleOf(transform, record) };
    }),
  );
  return { images, targets: samples.map(targetsOf), iteration };
}

function targetsOf({ record, transform }: Sample): BatchTargets {
  const boxes: number[] = [];
  const labels: number[] = [];
  for (const object of record.objects) {
    const box = object.crowd ? null : transformBox(object.box, transform, record);
    if (box === null) continue;
    boxes.push(...box);
    labels.push(object.label);
  }
  return { boxes: Float32Array.from(boxes), labels: Uint32Array.from(labels) };
}

/** A batch prepared ahead may fail before it is requested. Such a failure must not end the process. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
