/** `train --batch auto`: measures worst-case passes of several batches on the device, and chooses one. */
import { freemem } from 'node:os';
import { OutOfMemoryError, type Device } from '../../engine/index.ts';
import { searchBatch, type BatchTrial } from '../core/batch-search.ts';
import type { Choice } from '../core/choice.ts';
import { createDetector } from '../core/create-detector.ts';
import type { Detector } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import type { ImageRecord, Size } from '../core/image-record.ts';
import { scaledLearningRate } from '../core/learning-rate-rule.ts';
import type { RunConfig } from '../core/recipe.ts';
import { TrainingStep } from '../core/step.ts';
import { largestSize, mostObjects, syntheticBatch } from '../core/synthetic-batch.ts';

/** A shape runs plainly, is captured, and is replayed; the last steps are measured. */
const WARMUP_STEPS = 2;
const MEASURED_STEPS = 2;
/** Share of the measured peak that must be free besides, on adapters that do not say how much is free. */
const SPARE_SHARE = 0.25;

export interface ChosenBatch {
  readonly config: RunConfig;
  readonly choices: readonly Choice[];
  /** Whether the device ran out of memory. Open it again then. */
  readonly exhausted: boolean;
}

/**
 * Chooses the images per pass. Up to the recipe's images per step, passes are accumulated. A larger batch gets a larger
 * learning rate, unless the user gave it.
 * @param records   the training images
 * @param givenRate whether the user gave the learning rate
 * @throws InputError if not even one image fits
 */
export async function chooseBatch(
  device: Device,
  config: RunConfig,
  records: readonly ImageRecord[],
  givenRate: boolean,
): Promise<ChosenBatch> {
  const { model, training } = config;
  const recipeBatch = training.batchSize * training.accumulation;
  const size = largestSize(training, records);
  const objects = mostObjects(training, records);
  const freeBytes = device.smallSubgroups ? freeHostBytes() : null;
  let exhausted = false;
  const detector = createDetector(device, model, training.seed);
  const measure = async (batchSize: number): Promise<BatchTrial | null> => {
    const trial = await measureBatch(detector, config, { batchSize, size, objects });
    exhausted ||= trial === null;
    return trial;
  };
  const chosen = await searchBatch({ recipeBatch, images: records.length, freeBytes, measure });
  detector.dispose();
  const worst = `${size.height} x ${size.width} pixels and ${objects} objects`;
  if (!chosen)
    throw new InputError(
      `train: --batch auto: expected memory for one image of ${worst}, got too little; ` +
        'smaller images need less (--set shortSides=[N]), and so does --set gradientCheckpointing=true',
    );
  const { batchSize, accumulation, reason } = chosen;
  const factor = (batchSize * accumulation) / recipeBatch;
  const learningRate =
    factor > 1 && !givenRate ? scaledLearningRate(training.learningRate, factor) : training.learningRate;
  const passes = accumulation > 1 ? `, ${accumulation} passes per step` : '';
  const choices: Choice[] = [
    { value: `batch ${batchSize}${passes}`, reason: `${reason} (with ${worst})`, key: '--batch N' },
  ];
  if (learningRate !== training.learningRate)
    choices.push({
      value: `learning rate ${learningRate}`,
      reason: `${training.learningRate} times the square root of ${factor}, as the batch is larger`,
      key: '--set learningRate=R',
    });
  return {
    config: { ...config, training: { ...training, batchSize, accumulation, learningRate } },
    choices,
    exhausted,
  };
}

interface WorstCase {
  readonly batchSize: number;
  readonly size: Size;
  readonly objects: number;
}

/** Steps on the largest images with the most objects; null if they do not fit the device. */
async function measureBatch(
  detector: Detector,
  { model, training }: RunConfig,
  { batchSize, size, objects }: WorstCase,
): Promise<BatchTrial | null> {
  const { device } = detector;
  const settings = { ...training, batchSize, accumulation: 1 };
  const step = new TrainingStep(device, detector, settings);
  try {
    const data = syntheticBatch(settings, model.numClasses, size, objects);
    device.resetPeak();
    let start = 0;
    for (let done = 0; done < WARMUP_STEPS + MEASURED_STEPS; done++) {
      if (done === WARMUP_STEPS) start = performance.now();
      (await step.run(async () => data, { learningRate: 0, values: {} })).dispose();
      await device.synchronize();
    }
    const seconds = (performance.now() - start) / 1000 / MEASURED_STEPS;
    const { peakBytes } = device.memory();
    if (!device.smallSubgroups && !(await hasFree(device, SPARE_SHARE * peakBytes))) return null;
    return { batchSize, imagesPerSecond: batchSize / seconds, peakBytes };
  } catch (error) {
    if (error instanceof OutOfMemoryError) return null;
    throw error;
  } finally {
    step.dispose();
  }
}

/** Bytes that this process may still take. On software adapters, memory of the device is memory of the host. */
function freeHostBytes(): number {
  const { availableMemory } = process as { availableMemory?: () => number };
  return availableMemory ? availableMemory.call(process) : freemem();
}

/** Whether the device can allocate this number of bytes now. They are freed at once. */
async function hasFree({ gpu }: Device, bytes: number): Promise<boolean> {
  const size = Math.floor(Math.min(bytes, gpu.limits.maxBufferSize) / 4) * 4;
  const buffers: GPUBuffer[] = [];
  gpu.pushErrorScope('out-of-memory');
  for (let total = 0; total < bytes && size > 0; total += size)
    buffers.push(gpu.createBuffer({ size, usage: GPUBufferUsage.STORAGE }));
  const error = await gpu.popErrorScope();
  for (const buffer of buffers) buffer.destroy();
  return error === null;
}
