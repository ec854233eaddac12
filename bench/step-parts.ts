/** The parts of a training step as jobs. */
import {
  add,
  backward,
  type Device,
  initialBoxes,
  normalizeImages,
  Random,
  sum,
  type Tensor,
} from '../engine/index.ts';
import { criterion } from '../model/criterion.ts';
import { DynamicHead } from '../model/dynamic-head.ts';
import { FPN } from '../model/fpn.ts';
import type { ModelConfig } from '../model/index.ts';
import { uploadTargets } from '../model/targets.ts';
import { Proposals } from '../model/proposals.ts';
import { ResNet } from '../model/resnet.ts';
import { deviceJob } from './jobs.ts';
import type { Job } from './measure.ts';
import { randomBatch, type StepSizes } from './step-batch.ts';

/** The parts of a step, in their order. */
export const PARTS = ['upload', 'backbone', 'pyramid', 'proposals', 'head', 'criterion'] as const;
export type Part = (typeof PARTS)[number];
/** Parts with a backward pass. */
export type DifferentiablePart = Exclude<Part, 'upload'>;

export const DIFFERENTIABLE_PARTS = PARTS.filter((part): part is DifferentiablePart => part !== 'upload');

/** A scalar that depends on all tensors. */
const combined = (tensors: readonly Tensor[]): Tensor =>
  tensors.map((tensor) => sum(tensor)).reduce((a, b) => add(a, b));

/**
 * Two jobs for each part, on inputs that were computed before: the forward pass, and the forward and backward pass
 * together. The jobs of the pyramid include the backbone.
 */
export function partJobs(
  device: Device,
  config: ModelConfig,
  sizes: StepSizes,
): { forward: Record<Part, Job>; both: Record<DifferentiablePart, Job> } {
  const random = new Random(0);
  const { images, targets } = randomBatch(sizes, config.numClasses);
  const [backbone, pyramid, proposals, head] = [
    new ResNet(device, random, config),
    new FPN(device, random, config),
    new Proposals(device, random, config),
    new DynamicHead(device, random, config),
  ];
  const imageSizes = images.map(({ width, height }) => [width, height] as const);
  const normalize = (): Tensor =>
    normalizeImages(device, images, { mean: config.pixelMean, std: config.pixelStd, divisor: 32 });
  const keepLeaves = <T extends Tensor>(tensors: readonly T[]): T[] =>
    tensors.map((tensor) => {
      tensor.requiresGrad = true;
      return device.keep(tensor);
    });
  const inverseTemperature = device.keep(device.tensor([1]));
  const given = device.noGrad(() =>
    device.scope(() => {
      const x = device.keep(normalize());
      const levels = keepLeaves(pyramid.forward(x));
      const { boxes, features } = proposals.forward(levels, inverseTemperature);
      const whwh = device.keep(
        device.tensor(
          imageSizes.flatMap(([w, h]) => [w, h, w, h]),
          [images.length, 4],
        ),
      );
      const start = device.keep(initialBoxes(boxes, whwh));
      const [queries] = keepLeaves([features]);
      const stages = head
        .forward(levels, start, queries)
        .map(({ logits, boxes: refined }) => ({ logits: keepLeaves([logits])[0], boxes: keepLeaves([refined])[0] }));
      const uploaded = uploadTargets(device, targets, imageSizes);
      for (const tensor of [uploaded.labels, uploaded.boxes, uploaded.counts, uploaded.sizes]) device.keep(tensor);
      return { x, levels, whwh, start, queries, stages, uploaded };
    }),
  );
  const leaves = [...given.levels, given.queries, ...given.stages.flatMap(({ logits, boxes }) => [logits, boxes])];
  const parameters = [backbone, pyramid, proposals, head].flatMap((module) =>
    module.trainable().map(({ tensor }) => tensor),
  );
  const outputs: Record<DifferentiablePart, () => readonly Tensor[]> = {
    backbone: () => backbone.forward(given.x),
    pyramid: () => pyramid.forward(given.x),
    proposals: () => {
      const { boxes, features } = proposals.forward(given.levels, inverseTemperature);
      return [initialBoxes(boxes, given.whwh), features];
    },
    head: () => head.forward(given.levels, given.start, given.queries).flatMap(({ logits, boxes }) => [logits, boxes]),
    criterion: () => [criterion(given.stages, given.uploaded, config).total],
  };
  const forwardOf = (part: DifferentiablePart): Job =>
    deviceJob(device, part, () =>
      device.scope(() => {
        outputs[part]();
      }),
    );
  const bothOf = (part: DifferentiablePart): Job =>
    deviceJob(device, `${part} and back`, () => {
      device.scope(() => backward(combined(outputs[part]())));
      for (const tensor of [...leaves, ...parameters]) tensor.zeroGrad();
    });
  return {
    forward: {
      upload: deviceJob(device, 'upload', () =>
        device.scope(() => {
          normalize();
          uploadTargets(device, targets, imageSizes);
        }),
      ),
      backbone: forwardOf('backbone'),
      pyramid: forwardOf('pyramid'),
      proposals: forwardOf('proposals'),
      head: forwardOf('head'),
      criterion: forwardOf('criterion'),
    },
    both: {
      backbone: bothOf('backbone'),
      pyramid: bothOf('pyramid'),
      proposals: bothOf('proposals'),
      head: bothOf('head'),
      criterion: bothOf('criterion'),
    },
  };
}
