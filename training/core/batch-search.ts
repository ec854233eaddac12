/** Chooses the number of images per pass by memory and speed (`train --batch auto`). */

/** One measured training pass. */
export interface BatchTrial {
  readonly batchSize: number;
  readonly imagesPerSecond: number;
  /** Peak of the device's memory. */
  readonly peakBytes: number;
}

export interface BatchSearch {
  /** Images per optimizer step of the recipe. Smaller batches are accumulated up to this number. */
  readonly recipeBatch: number;
  /** Images of the training split. */
  readonly images: number;
  /** Bytes that are free; null if the adapter does not say. */
  readonly freeBytes: number | null;
  /** Measures a pass on the largest images with the most objects; null: it does not fit. */
  readonly measure: (batchSize: number) => Promise<BatchTrial | null>;
}

export interface BatchChoice {
  readonly batchSize: number;
  readonly accumulation: number;
  /** Measured batches, in rising order. */
  readonly trials: readonly BatchTrial[];
  readonly reason: string;
}

/**
 * Free memory per byte of the measured peak. The rest is for the driver, and for what the measured pass did not need.
 */
const HEADROOM = 1.25;
/** A larger batch must be this much faster. */
const GAIN = 1.1;
/** With a larger share of the images in each step, a training would have too few steps. */
const MIN_STEPS_PER_EPOCH = 8;
const MAX_BATCH = 256;

/** The divisors of a number, in rising order. */
const divisors = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

/** Whether a batch may fit, from the peaks of smaller ones. Memory grows linearly with the batch. */
function mayFit(batchSize: number, trials: readonly BatchTrial[], freeBytes: number | null): boolean {
  if (freeBytes === null || trials.length === 0) return true;
  const [last, before] = [trials[trials.length - 1], trials.at(-2)];
  const perImage = before
    ? (last.peakBytes - before.peakBytes) / (last.batchSize - before.batchSize)
    : last.peakBytes / last.batchSize;
  return HEADROOM * (last.peakBytes + perImage * (batchSize - last.batchSize)) <= freeBytes;
}

/**
 * Measures larger and larger batches. Up to the recipe's images per step, batches are divisors of this number, and the
 * rest of the step is accumulated: the training stays that of the recipe. Beyond, the batch doubles as long as it makes
 * the training faster. Of batches that are about equally fast, the recipe's is chosen.
 * @returns null if not even one image fits
 */
export async function searchBatch(search: BatchSearch): Promise<BatchChoice | null> {
  const { recipeBatch, images, freeBytes, measure } = search;
  const trials: BatchTrial[] = [];
  let stopped = '';
  const attempt = async (batchSize: number): Promise<BatchTrial | null> => {
    const trial = mayFit(batchSize, trials, freeBytes) ? await measure(batchSize) : null;
    const fits = trial !== null && (freeBytes === null || HEADROOM * trial.peakBytes <= freeBytes);
    if (fits) trials.push(trial);
    else stopped = `${batchSize} would leave too little memory`;
    return fits ? trial : null;
  };
  let best: BatchTrial | null = null;
  for (const batchSize of divisors(recipeBatch)) {
    const trial = await attempt(batchSize);
    if (!trial) break;
    // The larger of two about equally fast batches has fewer passes.
    if (!best || trial.imagesPerSecond * GAIN > best.imagesPerSecond) best = trial;
  }
  if (!best) return null;
  if (stopped === '') {
    for (let batchSize = 2 * recipeBatch; ; batchSize *= 2) {
      if (batchSize > Math.min(MAX_BATCH, images / MIN_STEPS_PER_EPOCH)) {
        stopped = `${batchSize} is too much for ${images} images`;
        break;
      }
      const trial = await attempt(batchSize);
      if (!trial) break;
      if (trial.imagesPerSecond < GAIN * best.imagesPerSecond) {
        stopped = `${batchSize} is not faster (${trial.imagesPerSecond.toFixed(1)} images/s)`;
        break;
      }
      best = trial;
    }
  }
  const { batchSize, imagesPerSecond, peakBytes } = best;
  return {
    batchSize,
    accumulation: Math.max(1, recipeBatch / batchSize),
    trials,
    reason: `${imagesPerSecond.toFixed(1)} images/s with ${Math.round(peakBytes / 1e6)} MB; ${stopped}`,
  };
}

/** A batch that needs less memory, and the same images per step. Null: a batch of one image cannot be divided. */
export function smallerBatch(
  batchSize: number,
  accumulation: number,
): { batchSize: number; accumulation: number } | null {
  const smaller = divisors(batchSize).at(-2);
  return smaller === undefined ? null : { batchSize: smaller, accumulation: accumulation * (batchSize / smaller) };
}
