/**
 * `train --dry-run`: measures a training step of a configuration on noise, without decoding an image. Prints
 * parameters, memory, FLOPs by part, and the seconds of one step.
 */
import { backward, type Device } from '../../engine/index.ts';
import { openDevice } from '../../engine/node/index.ts';
import { createDetector } from '../core/create-detector.ts';
import { computeLosses, type Detector } from '../core/detector.ts';
import type { Size } from '../core/image-record.ts';
import type { RunConfig, TrainingConfig } from '../core/recipe.ts';
import { TrainingStep, type PassData } from '../core/step.ts';
import { largestSize, syntheticBatch } from '../core/synthetic-batch.ts';
import { adapterName } from '../output/device-line.ts';
import { formatDuration } from '../output/duration.ts';
import { formatTable } from '../output/table.ts';

/** Images are padded to multiples of this number of pixels. */
const DIVISOR = 32;
/** The first round also compiles kernels and allocates buffers. The second round is like a step of a training. */
const ROUNDS = 2;
/** A shape runs without capture first, is captured the second time, and is replayed the third time. */
const REPLAY_ROUNDS = 3;

const padded = (size: number): number => Math.ceil(size / DIVISOR) * DIVISOR;
const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);

/**
 * Prints the report for the largest batch that the configuration can make; resolves to the exit code.
 * @param images the sizes of the training images
 */
export async function dryRun(config: RunConfig, images: readonly Size[]): Promise<number> {
  const size = largestSize(config.training, images);
  const { model: modelConfig, training } = config;
  const device = await openDevice();
  try {
    const detector = createDetector(device, modelConfig, training.seed);
    describeBatch(device, config, size);
    const flops = describeModel(detector, size);
    const step = new TrainingStep(device, detector, training);
    const data = syntheticBatch(training, modelConfig.numClasses, size);
    const weightBytes = device.memory().liveBytes;
    const measured = await measureStep(detector, step, data, training.clipNorm);
    const replayMs = training.replay ? await measureReplay(device, step, data) : null;
    console.log(
      formatTable(
        ['device memory', 'MB'],
        [
          ['weights, gradients and optimizer', megabytes(weightBytes)],
          ['peak of the forward pass', megabytes(measured.forwardPeakBytes)],
          ['peak of a step', megabytes(measured.stepPeakBytes)],
          ...(training.replay ? [['with a captured step for replay', megabytes(device.memory().peakBytes)]] : []),
        ],
      ),
    );
    describeTime(training, measured, replayMs, flops);
    return 0;
  } finally {
    device.destroy();
  }
}

function describeBatch(device: Device, { preset, model, training }: RunConfig, { width, height }: Size): void {
  const { batchSize, accumulation } = training;
  console.log(`${preset} on ${adapterName(device)}`);
  console.log(
    [
      `batch of ${batchSize} image${batchSize === 1 ? '' : 's'} of ${height} x ${width} pixels`,
      ...(accumulation > 1 ? [`${accumulation} passes per step`] : []),
      ...(model.gradientCheckpointing ? ['gradient checkpointing'] : []),
    ].join(', '),
  );
}

/** Prints parameters and FLOPs by part; returns the FLOPs of a forward pass on one image. */
function describeModel(detector: Detector, { width, height }: Size): number {
  const parameters = [...detector.tensors()].filter(({ kind }) => kind === 'parameter');
  const millions = (list: typeof parameters): string =>
    (list.reduce((sum, { tensor }) => sum + tensor.size, 0) / 1e6).toFixed(2);
  console.log(`parameters ${millions(parameters)} M, of which trained ${millions(detector.trainable())} M`);
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
  return total;
}

interface MeasuredStep {
  readonly passMs: number;
  readonly updateMs: number;
  readonly forwardPeakBytes: number;
  readonly stepPeakBytes: number;
}

/** One pass and one update, without capture. */
async function measureStep(
  detector: Detector,
  { optimizer }: TrainingStep,
  { images, targets }: PassData,
  clipNorm: number,
): Promise<MeasuredStep> {
  const { device } = detector;
  let passMs = 0,
    updateMs = 0,
    forwardPeakBytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    await device.synchronize();
    device.resetPeak();
    const start = performance.now();
    device.scope(() => {
      const { total } = computeLosses(detector, images, targets);
      forwardPeakBytes = device.memory().peakBytes;
      backward(total);
    });
    await device.synchronize();
    const afterPass = performance.now();
    optimizer.step({ learningRate: 0, maxGradientNorm: clipNorm || undefined });
    optimizer.zeroGrad();
    await device.synchronize();
    passMs = afterPass - start;
    updateMs = performance.now() - afterPass;
  }
  return { passMs, updateMs, forwardPeakBytes, stepPeakBytes: device.memory().peakBytes };
}

/** Milliseconds of a replayed step. */
async function measureReplay(device: Device, step: TrainingStep, data: PassData): Promise<number> {
  let elapsed = 0;
  for (let round = 0; round < REPLAY_ROUNDS; round++) {
    const start = performance.now();
    const result = await step.run(async () => data, { learningRate: 0, values: {} });
    await device.synchronize();
    elapsed = performance.now() - start;
    result.dispose();
  }
  return elapsed;
}

function describeTime(
  { batchSize, accumulation, iterations }: TrainingConfig,
  { passMs, updateMs }: MeasuredStep,
  replayMs: number | null,
  flops: number,
): void {
  const plainSeconds = (passMs * accumulation + updateMs) / 1000;
  const seconds = replayMs === null ? plainSeconds : replayMs / 1000;
  // A backward pass counts as two forward passes.
  const gflops = (3 * flops * batchSize) / passMs / 1e6;
  console.log(
    `forward and backward ${(passMs / 1000).toFixed(2)} s, update ${(updateMs / 1000).toFixed(2)} s: ` +
      `${plainSeconds.toFixed(2)} s per step${replayMs === null ? '' : `, ${seconds.toFixed(2)} s replayed`}, ` +
      `${gflops.toFixed(1)} GFLOP/s (a backward pass counts as two forward passes)`,
  );
  console.log(
    `${iterations} iterations: about ${formatDuration(seconds * iterations)} without loading, evaluation and saving`,
  );
}
