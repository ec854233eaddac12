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
import { type Batch, randomBatch, type StepSizes } from './step-batch.ts';

/** The parts of a step, in their order. */
export const PARTS = ['upload', 'backbone', 'pyramid', 'proposals', 'head', 'criterion'] as const;
export type Part = (typeof PARTS)[number];
/** Parts with a backward pass. */
export type DifferentiablePart = Exclude<Part, 'upload'>;

export const DIFFERENTIABLE_PARTS = PARTS.filter((part): part is DifferentiablePart => part !== 'upload');

/** A scalar that depends on all tensors. */
const combined = (tensors: readonly Tensor[]): Tensor =>
  tensors.map((tensor) => sum(tensor)).reduce((a, b) => add(a, b));

interface Modules {
  readonly backbone: ResNet;
  readonly pyramid: FPN;
  readonly proposals: Proposals;
  readonly head: DynamicHead;
}

const normalized = (device: Device, { images }: Batch, config: ModelConfig): Tensor =>
  normalizeImages(device, images, { mean: config.pixelMean, std: config.pixelStd, divisor: 32 });

const imageSizesOf = ({ images }: Batch): (readonly [number, number])[] =>
  images.map(({ width, height }) => [width, height] as const);

/** Keeps tensors and makes them leaves, which get gradients. */
const keepLeaves = (device: Device, tensors: readonly Tensor[]): Tensor[] =>
  tensors.map((tensor) => {
    tensor.requiresGrad = true;
    return device.keep(tensor);
  });

/** The inputs of the parts: `x` of backbone and pyramid, and those of the other parts as earlier parts compute them. */
function computeInputs(device: Device, { pyramid, proposals, head }: Modules, batch: Batch, config: ModelConfig) {
  const inverseTemperature = device.keep(device.tensor([1]));
  const imageSizes = imageSizesOf(batch);
  return device.noGrad(() =>
    device.scope(() => {
      const x = device.keep(normalized(device, batch, config));
      const levels = keepLeaves(device, pyramid.forward(x));
      const { boxes, features } = proposals.forward(levels, inverseTemperature);
      const whwh = device.keep(
        device.tensor(
          imageSizes.flatMap(([w, h]) => [w, h, w, h]),
          [imageSizes.length, 4],
        ),
      );
      const start = device.keep(initialBoxes(boxes, whwh));
      const [queries] = keepLeaves(device, [features]);
      const stages = head.forward(levels, start, queries).map((stage) => {
        const [logits] = keepLeaves(device, [stage.logits]);
        const [refined] = keepLeaves(device, [stage.boxes]);
        return { logits, boxes: refined };
      });
      const uploaded = uploadTargets(device, batch.targets, imageSizes);
      for (const tensor of [uploaded.labels, uploaded.boxes, uploaded.counts, uploaded.sizes]) device.keep(tensor);
      return { inverseTemperature, x, levels, whwh, start, queries, stages, uploaded };
    }),
  );
}

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
  const batch = randomBatch(sizes, config.numClasses);
  const modules: Modules = {
    backbone: new ResNet(device, random, config),
    pyramid: new FPN(device, random, config),
    proposals: new Proposals(device, random, config),
    head: new DynamicHead(device, random, config),
  };
  const { backbone, pyramid, proposals, head } = modules;
  const imageSizes = imageSizesOf(batch);
  const given = computeInputs(device, modules, batch, config);
  const leaves = [...given.levels, given.queries, ...given.stages.flatMap(({ logits, boxes }) => [logits, boxes])];
  const parameters = [backbone, pyramid, proposals, head].flatMap((module) =>
    module.trainable().map(({ tensor }) => tensor),
  );
  const outputs: Record<DifferentiablePart, () => readonly Tensor[]> = {
    backbone: () => backbone.forward(given.x),
    pyramid: () => pyramid.forward(given.x),
    proposals: () => {
      const { boxes, features } = proposals.forward(given.levels, given.inverseTemperature);
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
          normalized(device, batch, config);
          uploadTargets(device, batch.targets, imageSizes);
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
