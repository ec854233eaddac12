/**
 * Replayed steps compared with steps that run anew: the host time of a training step (until everything is submitted)
 * and its wall time, in interleaved rounds on one machine. At the end the bits of weights and gradient norms are
 * compared.
 *
 *   npm run replay -- [--config small] [--batch N] [--size N] [--steps N] [--rounds N]
 */
import { Random, type Device } from '../engine/index.ts';
import { median } from '../engine/core/statistics.ts';
import { openDevice } from '../engine/node/index.ts';
import { createDetector } from '../training/core/create-detector.ts';
import type { Detector } from '../training/core/detector.ts';
import { integerOption, orExit, parseArguments } from '../training/commands/arguments.ts';
import { loadConfig } from '../training/data/config-file.ts';
import { formatTable } from '../training/output/table.ts';
import { TrainingStep } from '../training/core/step.ts';

const USAGE = 'usage: npm run replay -- [--config small] [--batch N] [--size N] [--steps N] [--rounds N]';
const { size, steps, rounds, config } = orExit(() => {
  const { values } = parseArguments('replay', process.argv.slice(2), {
    config: { type: 'string', default: 'small' },
    batch: { type: 'string' },
    size: { type: 'string', default: '96' },
    steps: { type: 'string', default: '12' },
    rounds: { type: 'string', default: '3' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const batch =
    values.batch === undefined ? [] : [`training.batchSize=${integerOption('replay', 'batch', values.batch, 1)}`];
  // At least 2 steps: the first step of a round is not counted, because the other variant's last step may still run.
  const [size, steps, rounds] = [
    integerOption('replay', 'size', values.size, 32),
    integerOption('replay', 'steps', values.steps, 2),
    integerOption('replay', 'rounds', values.rounds, 1),
  ];
  return { size, steps, rounds, config: loadConfig({ config: values.config, set: batch }).config };
});

const random = new Random(3);
const images = Array.from({ length: config.training.batchSize }, () => ({
  data: Uint8Array.from({ length: size * size * 3 }, () => random.integer(256)),
  width: size,
  height: size,
}));
const targets = images.map(() => ({
  boxes: Float32Array.from({ length: 16 }, (_, i) => size * ((i % 4 < 2 ? 0.1 : 0.5) + 0.05 * Math.floor(i / 4))),
  labels: Uint32Array.from([0, 1, 2, 3]),
}));

interface Variant {
  readonly label: string;
  readonly device: Device;
  readonly model: Detector;
  readonly step: TrainingStep;
  readonly host: number[];
  readonly wall: number[];
  readonly norms: number[];
  dispatches: number;
}

async function openVariant(label: string, replay: boolean): Promise<Variant> {
  const device = await openDevice();
  const model = createDetector(device, config.model);
  return {
    label,
    device,
    model,
    step: new TrainingStep(device, model, { ...config.training, replay }),
    host: [],
    wall: [],
    norms: [],
    dispatches: 0,
  };
}

/** Runs steps as training does: the numbers of a step are read while the next step runs. */
async function run(variant: Variant, count: number, warmUp: boolean): Promise<void> {
  const { device, step } = variant;
  let pending: Promise<unknown> = Promise.resolve();
  let last = performance.now();
  for (let i = 0; i < count; i++) {
    const before = device.dispatches;
    const start = performance.now();
    const result = await step.run(async () => ({ images, targets }), {
      learningRate: 1e-4,
      values: { temperature: 5 },
    });
    const host = performance.now() - start;
    variant.dispatches = device.dispatches - before;
    const previous = pending;
    pending = result.norm.item().then((value) => {
      variant.norms.push(value);
      result.dispose();
    });
    await previous;
    const now = performance.now();
    if (!warmUp && i > 0) {
      variant.host.push(host);
      variant.wall.push(now - last);
    }
    last = now;
  }
  await pending;
}

const variants = [await openVariant('not captured', false), await openVariant('replayed', true)];
for (const variant of variants) await run(variant, 4, true);
for (let round = 0; round < rounds; round++) for (const variant of variants) await run(variant, steps, false);
console.log(
  `${config.preset}, batch ${config.training.batchSize} of ${size} x ${size}, on ` +
    `${variants[0].device.info.description}; medians of ${variants[0].wall.length} steps`,
);
console.log(
  formatTable(
    ['step', 'dispatches', 'host ms', 'min', 'wall ms', 'min', 'host share %', 'live MB', 'peak MB'],
    variants.map(({ label, device, host, wall, dispatches }) => {
      const { liveBytes, peakBytes } = device.memory();
      return [
        label,
        String(dispatches),
        median(host).toFixed(1),
        Math.min(...host).toFixed(1),
        median(wall).toFixed(1),
        Math.min(...wall).toFixed(1),
        ((100 * median(host)) / median(wall)).toFixed(1),
        (liveBytes / 1e6).toFixed(1),
        (peakBytes / 1e6).toFixed(1),
      ];
    }),
  ),
);
const { capturedBytes } = variants[1].device.memory();
for (const { dispatches, transfers, bytes } of variants[1].step.captures)
  console.log(
    `captured: ${dispatches} dispatches, ${transfers} copies and clears, peak ${(bytes / 1e6).toFixed(1)} MB ` +
      `of ${(capturedBytes / 1e6).toFixed(1)} MB reserved`,
  );
const [weightsA, weightsB] = await Promise.all(
  variants.map(async ({ model }) =>
    Buffer.concat(
      [...(await model.save()).values()].map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
    ),
  ),
);
const sameBits = weightsA.equals(weightsB) && variants[0].norms.join() === variants[1].norms.join();
console.log(`weights and gradient norms are ${sameBits ? 'the same bits' : 'DIFFERENT'}`);
for (const { device } of variants) device.destroy();
