/** The order of training images in each epoch, with repeat-factor sampling for rare classes. */
import { Random } from '../../engine/core/random.ts';
import type { ImageRecord } from './image-record.ts';

/** Number of the random streams for the order of each epoch. Positions in an epoch are smaller. */
const ORDER_STREAM = 0xffffffff;
/** Number of the random streams that round the repeat factors of each epoch. */
const ROUNDING_STREAM = 0xfffffffe;

export interface EpochOrder {
  /** Positions in each epoch. */
  readonly length: number;
  /** The images of an epoch, as indices of the records. */
  at(epoch: number): Uint32Array;
}

/**
 * The repeat factor of each image (LVIS, arXiv 1908.03195, section 4.2): max(1, sqrt(threshold / f)) of its rarest
 * class, where f is the share of the images that have the class. Crowds do not count.
 */
export function repeatFactors(records: readonly ImageRecord[], threshold: number): Float64Array {
  const counts = new Map<number, number>();
  const classesOf = ({ objects }: ImageRecord) => new Set(objects.filter((o) => !o.crowd).map(({ label }) => label));
  for (const record of records) for (const label of classesOf(record)) counts.set(label, (counts.get(label) ?? 0) + 1);
  const ofClass = (label: number) => Math.sqrt((threshold * records.length) / (counts.get(label) ?? 1));
  return Float64Array.from(records, (record) => Math.max(1, ...[...classesOf(record)].map(ofClass)));
}

/**
 * The orders of all epochs. Each is a random permutation of the images. With a `threshold` above 0, images with rare
 * classes occur more often: as often as their repeat factor on average, rounded up or down at random in each epoch.
 * All epochs have the same length, the sum of the repeat factors rounded up.
 */
export function createEpochOrder(records: readonly ImageRecord[], seed: number, threshold: number): EpochOrder {
  const factors = threshold > 0 ? repeatFactors(records, threshold) : null;
  const total = factors === null ? records.length : factors.reduce((sum, factor) => sum + factor, 0);
  // Rounded up, so that no image occurs less often than once. The sum of the factors has rounding errors.
  const length = Math.ceil(total - 1e-6);
  // Prefetching asks for the next epoch while batches still need this one.
  const known = new Map<number, Uint32Array>();
  const make = (epoch: number): Uint32Array => {
    const order = new Random(seed, epoch, ORDER_STREAM).permutation(length);
    if (factors === null) return order;
    const images = occurrences(factors, length / total, new Random(seed, epoch, ROUNDING_STREAM), length);
    return order.map((position) => images[position]);
  };
  return {
    length,
    at(epoch) {
      let order = known.get(epoch);
      if (order === undefined) {
        order = make(epoch);
        known.set(epoch, order);
        for (const old of known.keys()) if (known.size > 2) known.delete(old);
      }
      return order;
    },
  };
}

/**
 * A list with each image about `factor * correction` times, `length` entries in all. Systematic sampling: the factors
 * of the images, in random order, are intervals one after the other; each whole number plus a random offset selects
 * the image in whose interval it lies.
 */
function occurrences(factors: Float64Array, correction: number, random: Random, length: number): Uint32Array {
  const images = new Uint32Array(length);
  const offset = random.uniform();
  let count = 0,
    end = 0;
  const order = random.permutation(factors.length);
  for (const [place, image] of order.entries()) {
    end += factors[image] * correction;
    // The last interval ends at `length`, whatever the rounding of the sum.
    const until = place === order.length - 1 ? length : Math.min(length, Math.ceil(end - offset));
    while (count < until) images[count++] = image;
  }
  return images;
}
