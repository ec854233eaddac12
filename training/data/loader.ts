/**
 * Batches of images and boxes, ready for upload, prepared ahead by an ImagePool.
 *
 * The training batch of an iteration depends only on (seed, iteration):
 * - Each epoch has one permutation of the images. Every image occurs once per epoch, or more often by repeat-factor
 *   sampling.
 * - A batch may span two epochs, so no batch is short.
 * - The augmentation of each image has a random stream of its own. It also chooses the partners of a mosaic, from the
 *   same epoch.
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
import { canvasOf, planComposition, visibleObjects, type Composition, type Piece } from '../core/composition.ts';
import { InputError } from '../core/errors.ts';
import type { ImageRecord, Size } from '../core/image-record.ts';
import { createEpochOrder } from '../core/sampling.ts';
import { planEvaluation, scaleOf } from '../core/transforms.ts';
import { composeImage } from './augment-pixels.ts';
import { ImagePool } from './image-pool.ts';
import { UnreadableImages, type ReadImage } from './unreadable-images.ts';

export interface BatchImage {
  /** RGB, HWC: height * width * 3 bytes. */
  data: Uint8Array;
  /** Pixels of the network's input, without padding. */
  width: number;
  height: number;
  /** In a mosaic, the first of its images. */
  record: ImageRecord;
  /**
   * Network pixels per pixel of the original, [horizontally, vertically].
   * A training image may also be cropped, flipped and turned.
   */
  scale: [number, number];
  /** The file cannot be read: the pixels are gray, and there are no targets. */
  unreadable: boolean;
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
  /** Called once for each image that cannot be read, with the reason. A gray image without objects replaces it. */
  onUnreadable?: (file: string, reason: string) => void;
}

export interface TrainingLoaderOptions extends LoaderOptions {
  seed: number;
  augmentation: Augmentation;
  /** See `repeatThreshold` of the configuration. Default: 0. */
  repeatThreshold?: number;
  /** Batches of the whole training, whose last share has no mosaics (`mosaicEnd`). Default: mosaics never end. */
  totalBatches?: number;
}

export interface EvaluationLoaderOptions extends LoaderOptions {
  resize: EvaluationResize;
}

export interface TrainingLoader {
  /**
   * The batch of the next iteration. Rejects with InputError if more than half of the images cannot be read.
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

/** Numbers of the random stream for the loader's seed. */
const SEED_STREAM = 0xffffffff;

/** Batches for training, without end. Throws InputError if an option has a bad value. */
export function createTrainingLoader(options: TrainingLoaderOptions): TrainingLoader {
  const { records, batchSize, augmentation, repeatThreshold = 0, totalBatches = Infinity } = options;
  validateAugmentation(augmentation);
  // The loader derives a seed of its own, so that its numbers differ from those of a model's initial weights.
  const seed = new Random(options.seed, SEED_STREAM, SEED_STREAM).uint32();
  const { pool, source, prefetch } = open(options);
  const order = createEpochOrder(records, seed, repeatThreshold);
  const canvas = canvasOf(records, augmentation);
  const plan = (position: number, mosaics: boolean): Composition => {
    const epoch = Math.floor(position / order.length);
    const place = position % order.length;
    const images = order.at(epoch);
    const random = new Random(seed, epoch, place);
    const drawOther = mosaics ? () => images[random.integer(images.length)] : null;
    return planComposition({ records, augmentation, canvas }, images[place], random, drawOther);
  };
  const sameSize =
    augmentation.crop === null && (augmentation.fixedSize !== null || augmentation.shortSides.length === 1);
  const cachedSize = ({ transform }: Piece): Size | null =>
    canvas !== null ? transform.uncropped : sameSize ? transform : null;
  const prepare = (iteration: number) => {
    const mosaics = iteration < (1 - augmentation.mosaicEnd) * totalBatches;
    const compositions = Array.from({ length: batchSize }, (_, slot) => plan(iteration * batchSize + slot, mosaics));
    return readBatch({ source, records, cachedSize, minVisible: augmentation.minVisible }, iteration, compositions);
  };

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
  const { pool, source, prefetch } = open(options);
  const length = Math.ceil(records.length / batchSize);
  const prepare = (number: number) =>
    readBatch(
      { source, records, cachedSize: ({ transform }) => transform, minVisible: 0 },
      number,
      records.slice(number * batchSize, (number + 1) * batchSize).map((record, slot) => {
        const transform = planEvaluation(record, resize);
        const index = number * batchSize + slot;
        const piece = { index, transform, flipVertical: false, transpose: false, color: null, x: 0, y: 0 };
        return { width: transform.width, height: transform.height, pieces: [piece] };
      }),
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

interface Opened {
  pool: ImagePool;
  /** Reads through the pool. */
  source: UnreadableImages;
  prefetch: number;
}

function open(options: LoaderOptions): Opened {
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
  const pool = new ImagePool(workers, cacheBytes);
  return { pool, source: new UnreadableImages(pool, records.length, options.onUnreadable), prefetch };
}

interface Reading {
  readonly source: UnreadableImages;
  readonly records: readonly ImageRecord[];
  /** See `ImageTask`. */
  readonly cachedSize: (piece: Piece) => Size | null;
  readonly minVisible: number;
}

async function readBatch(
  reading: Reading,
  iteration: number,
  compositions: readonly Composition[],
): Promise<LoadedBatch> {
  const { records, minVisible } = reading;
  const loaded = await Promise.all(
    compositions.map(async (composition): Promise<{ image: BatchImage; targets: BatchTargets }> => {
      const pixels = await Promise.all(composition.pieces.map((piece) => readPiece(reading, piece)));
      const { data, width, height } = composeImage(composition, pixels);
      const { index, transform } = composition.pieces[0];
      const record = records[index];
      const unreadable = pixels.every((piece) => piece.unreadable);
      // The objects of an image that cannot be read are no targets.
      const pieces = composition.pieces.filter((_, i) => !pixels[i].unreadable);
      const { boxes, labels } = visibleObjects({ ...composition, pieces }, records, minVisible);
      return {
        image: { data, width, height, record, scale: scaleOf(transform, record), unreadable },
        targets: { boxes: Float32Array.from(boxes), labels: Uint32Array.from(labels) },
      };
    }),
  );
  return { images: loaded.map(({ image }) => image), targets: loaded.map(({ targets }) => targets), iteration };
}

function readPiece({ source, records, cachedSize }: Reading, piece: Piece): Promise<ReadImage> {
  const { file, width, height, white } = records[piece.index];
  const { transform, flipVertical, transpose, color } = piece;
  const changes = flipVertical || transpose || color !== null ? { flipVertical, transpose, color } : null;
  const task = { file, stated: { width, height }, white, transform, changes, cachedSize: cachedSize(piece) };
  return source.read(task, piece.index);
}

/** A batch prepared ahead may fail before it is requested. Such a failure must not end the process. */
function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}
