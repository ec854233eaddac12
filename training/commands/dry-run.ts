/** What a training step of a configuration takes, before any data is read: parameters, memory, FLOPs by part, and the seconds of one measured step. */
import { backward, Random } from '../../engine/index.ts';
import { openDevice } from '../../engine/node/index.ts';
import { createDetector } from '../core/create-detector.ts';
import { computeLosses } from '../core/detector.ts';
import type { RunConfig, TrainingConfig } from '../core/recipe.ts';
import { formatDuration } from '../output/duration.ts';
import { formatTable } from '../output/table.ts';
import { TrainingStep, type PassData } from '../core/step.ts';

/** Objects of a synthetic image: COCO's images have seven on average. */
const OBJECTS = 7;
const ROUNDING = 32;

/** Of images: pixels, before padding. */
export interface ImageSize {
  readonly width: number;
  readonly height: number;
}

/** The largest image that the augmentation gives. */
export function largestSize({ augmentation: { fixedSize, shortSides, maxSize } }: TrainingConfig): ImageSize {
  return fixedSize
    ? { height: fixedSize[0], width: fixedSize[1] }
    : { height: Math.min(Math.max(...shortSides), maxSize), width: maxSize };
}

/** A batch of noise, with some objects in each image. */
export function syntheticBatch(
  { seed, batchSize }: TrainingConfig,
  numClasses: number,
  { width, height }: ImageSize,
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

const padded = (size: number): number => Math.ceil(size / ROUNDING) * ROUNDING;

/** Prints the report for the largest batch that the configuration can make; resolves to the exit code. */
export async function dryRun(
  { preset, model: modelConfig, training }: RunConfig,
  size = largestSize(training),
): Promise<number> {
  const device = await openDevice();
  try {
    const detector = createDetector(device, modelConfig, training.seed);
    const parameters = [...detector.tensors()].filter(({ kind }) => kind === 'parameter');
    const elements = (list: typeof parameters): number => list.reduce((sum, { tensor }) => sum + tensor.size, 0);
    const trainable = detector.trainable();
    const { width, height } = size;
    console.log(`${preset} on ${device.info.description || device.info.vendor}`);
    console.log(
      `batch of ${training.batchSize} image${training.batchSize === 1 ? '' : 's'} of ${height} x ${width} pixels${training.accumulation > 1 ? `, ${training.accumulation} passes a step` : ''}${modelConfig.gradientCheckpointing ? ', gradient checkpointing' : ''}`,
    );
    console.log(
      `parameters ${(elements(parameters) / 1e6).toFixed(2)} M, of which trained ${(elements(trainable) / 1e6).toFixed(2)} M`,
    );
    const flops = detector.countFlops(padded(height), padded(width));
    const total = Object.values(flops).reduce((a, b) => a + b, 0);
    console.log(
      formatTable(
        ['forward pass of one image', 'GFLOP', '%'],
        [...Object.entries(flops), ['all', total] as const].map(([part, value]) => [
          part,
          (value / 1e9).toFixed(2),
          ((100 * value) / total).toFixed(1),
        ]),
      ),
    );

    const step = new TrainingStep(device, detector, training);
    const { optimizer } = step;
    const { images, targets } = syntheticBatch(training, modelConfig.numClasses, size);
    const weights = device.memory().liveBytes;
    let pass = 0,
      update = 0,
      forwardPeak = 0;
    // The first round compiles kernels and allocates buffers; the second is what a training step is like.
    for (let round = 0; round < 2; round++) {
      await device.synchronize();
      device.resetPeak();
      const start = performance.now();
      device.scope(() => {
        const { total: loss } = computeLosses(detector, images, targets);
        forwardPeak = device.memory().peakBytes;
        backward(loss);
      });
      await device.synchronize();
      const afterPass = performance.now();
      optimizer.step({ learningRate: 0, maxGradientNorm: training.clipNorm || undefined });
      optimizer.zeroGrad();
      await device.synchronize();
      [pass, update] = [afterPass - start, performance.now() - afterPass];
    }
    const { peakBytes } = device.memory();
    // The first time a shape runs plainly, the second time it is recorded, from then on replayed.
    let replayed = 0;
    for (let round = 0; training.replay && round < 3; round++) {
      const start = performance.now();
      const result = await step.run(async () => ({ images, targets }), { learningRate: 0, values: {} });
      await device.synchronize();
      replayed = performance.now() - start;
      result.dispose();
    }
    const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);
    console.log(
      formatTable(
        ['device memory', 'MB'],
        [
          ['weights, gradients and optimiser', megabytes(weights)],
          ['peak of the forward pass', megabytes(forwardPeak)],
          ['peak of a step', megabytes(peakBytes)],
          ...(training.replay ? [['with a recorded step kept for replay', megabytes(device.memory().peakBytes)]] : []),
        ],
      ),
    );
    const anew = (pass * training.accumulation + update) / 1000;
    const seconds = training.replay ? replayed / 1000 : anew;
    console.log(
      `forward and backward ${(pass / 1000).toFixed(2)} s, update ${(update / 1000).toFixed(2)} s: ${anew.toFixed(2)} s a step${training.replay ? `, ${seconds.toFixed(2)} s replayed` : ''}, ${((3 * total * training.batchSize) / pass / 1e6).toFixed(1)} GFLOP/s (a backward pass counted as two forward passes)`,
    );
    console.log(
      `${training.iterations} iterations: about ${formatDuration(seconds * training.iterations)} without loading, evaluation and saving`,
    );
    return 0;
  } finally {
    device.destroy();
  }
}
