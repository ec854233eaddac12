/**
 * The whole Dynamic Sparse R-CNN: images in, detections or losses out.
 *
 * Glossary: B images; N proposals; C classes; T stages; E experts; P2..P5 feature pyramid.
 * Boxes are xyxy in pixels of the padded batch. Images are padded at the right and bottom only, so these are also
 * pixels of the unpadded image.
 */
import { initialBoxes, normalizePacked, Random, type Device, type ImageData, type Tensor } from '../engine/index.ts';
import { Module } from '../engine/nn/index.ts';
import { DeviceBatch, batchShape, shapeKey, type BatchShape } from './batch.ts';
import { selectDetections, sigmoid, type Detections } from './boxes.ts';
import type { ModelConfig } from './config.ts';
import { criterion, LOSS_PARTS, type Losses } from './criterion.ts';
import { DynamicHead, type StageOutput } from './dynamic-head.ts';
import { countFlops, type ModelPart } from './flops.ts';
import { FPN } from './fpn.ts';
import { Proposals, type InitialProposals } from './proposals.ts';
import type { ImageTargets } from './targets.ts';

export interface Predictions {
  /** P2..P5. */
  readonly pyramid: readonly Tensor[];
  readonly proposals: InitialProposals;
  /** [B, N, 4] xyxy pixels: the boxes that the first stage starts from. */
  readonly initialBoxes: Tensor;
  readonly stages: readonly StageOutput[];
}

/** The intermediate results of the detection in one image. Only the boxes of `detections` are clipped to the image. */
export interface Trace {
  readonly detections: Detections;
  /** [N, 4]: the boxes that the first stage starts from. */
  readonly initialBoxes: Float32Array;
  /** [E, N], summing to 1 over E; null without dynamic proposal generation. */
  readonly expertWeights: Float32Array | null;
  /** Each stage's output for each proposal: scores [N, C] in 0 .. 1, boxes [N, 4]. */
  readonly stages: readonly { readonly scores: Float32Array; readonly boxes: Float32Array }[];
}

export class DynamicSparseRCNN extends Module {
  readonly lossParts = LOSS_PARTS;
  /** Parameters of the ResNet; the feature pyramid is trained from its beginning. */
  readonly backbonePrefix = 'backbone.bottom_up.';
  private readonly backbone: FPN;
  private readonly proposals: Proposals;
  private readonly head: DynamicHead;

  /** @param seed seed of the initial weights. The same seed gives the same weights on every adapter */
  constructor(
    device: Device,
    readonly config: ModelConfig,
    seed = 0,
  ) {
    super(device);
    const random = new Random(seed);
    this.backbone = this.child('backbone', new FPN(device, random, config));
    this.proposals = this.child('proposals', new Proposals(device, random, config));
    this.head = this.child('head', new DynamicHead(device, random, config));
  }

  /** Number of stages T. */
  get stages(): number {
    return this.config.numStages;
  }

  get pixelMean(): readonly number[] {
    return this.config.pixelMean;
  }

  get pixelStd(): readonly number[] {
    return this.config.pixelStd;
  }

  /** The model in one line, for logs. */
  get summary(): string {
    const { depth, numProposals, numStages } = this.config;
    return `ResNet-${depth}, ${numProposals} proposals, ${numStages} stages`;
  }

  /** FLOPs of a forward pass on one image (pixels, multiples of 32), by part of the model. */
  countFlops(height: number, width: number): Record<ModelPart, number> {
    return countFlops(this.config, height, width);
  }

  /**
   * @param images      RGB, 0..255, of any sizes; padded at the right and bottom to a multiple of 32
   * @param temperature temperature of the softmax over experts: 1 in inference
   */
  forward(images: readonly ImageData[], temperature = 1): Predictions {
    const batch = this.batch(batchShape(images));
    batch.writeImages(images, { temperature });
    return this.forwardBatch(batch);
  }

  /** Losses of all stages for a batch with its objects. Nothing is read back. */
  loss(images: readonly ImageData[], targets: readonly ImageTargets[], temperature: number): Losses {
    const batch = this.makeBatch(images, targets);
    batch.write(images, targets, { temperature });
    return this.lossOf(batch);
  }

  /**
   * Device memory for batches of a shape. Write values to it, then pass it to `forwardBatch` or `lossOf`. Both can be
   * repeated with other values.
   */
  batch(shape: BatchShape): DeviceBatch {
    return new DeviceBatch(this.device, shape, this.config.numClasses);
  }

  /** Device memory for batches of the shape of these images and objects. */
  makeBatch(images: readonly ImageData[], targets: readonly ImageTargets[]): DeviceBatch {
    return this.batch(batchShape(images, targets));
  }

  /** Names the shape of a batch: batches of one key do the same work on the device. */
  batchKey(images: readonly ImageData[], targets: readonly ImageTargets[]): string {
    return shapeKey(batchShape(images, targets));
  }

  /** As `forward`, for the current values of a batch. Nothing comes from the host, so that it can be captured. */
  forwardBatch(batch: DeviceBatch): Predictions {
    const { device, config } = this;
    const { height, width, images } = batch.shape;
    const x = device.opScope(() =>
      normalizePacked(batch.packed, images, { mean: config.pixelMean, std: config.pixelStd, height, width }),
    );
    const pyramid = this.backbone.forward(x);
    const proposals = this.proposals.forward(pyramid, batch.inverseTemperature);
    const boxes = initialBoxes(proposals.boxes, batch.sizes);
    return { pyramid, proposals, initialBoxes: boxes, stages: this.head.forward(pyramid, boxes, proposals.features) };
  }

  /** As `loss`, for the current values of a batch. */
  lossOf(batch: DeviceBatch): Losses {
    return criterion(this.forwardBatch(batch).stages, batch.targets, this.config);
  }

  /**
   * Detections of each image, best first: the N best of the N x C scores of the last stage. NMS follows unless the
   * matcher is one-to-one. Boxes are clipped to the image.
   */
  async detect(images: readonly ImageData[]): Promise<Detections[]> {
    const { device, config } = this;
    const { logits, boxes } = device.noGrad(() =>
      device.scope(() => {
        const last = this.forward(images).stages[config.numStages - 1];
        return { logits: device.keep(last.logits), boxes: device.keep(last.boxes) };
      }),
    );
    try {
      const [logitValues, boxValues] = [await logits.read(), await boxes.read()];
      const perImage = config.numProposals;
      return images.map((image, b) =>
        selectDetections(
          logitValues.subarray(b * perImage * config.numClasses, (b + 1) * perImage * config.numClasses),
          boxValues.subarray(b * perImage * 4, (b + 1) * perImage * 4),
          [image.width, image.height],
          config,
        ),
      );
    } finally {
      logits.dispose();
      boxes.dispose();
    }
  }

  /** The detections of one image as in `detect`, with initial boxes, expert weights, and every stage's output. */
  async trace(image: ImageData): Promise<Trace> {
    const { device, config } = this;
    const kept: Tensor[] = [];
    const keep = (tensor: Tensor): Tensor => {
      kept.push(device.keep(tensor));
      return tensor;
    };
    const { initial, weights, stages } = device.noGrad(() =>
      device.scope(() => {
        const {
          proposals: { expertWeights },
          ...run
        } = this.forward([image]);
        return {
          initial: keep(run.initialBoxes),
          weights: expertWeights && keep(expertWeights),
          stages: run.stages.map(({ logits, boxes }) => ({ logits: keep(logits), boxes: keep(boxes) })),
        };
      }),
    );
    try {
      const read = async (tensor: Tensor): Promise<Float32Array> => Float32Array.from(await tensor.read());
      const values = await Promise.all(
        stages.map(async ({ logits, boxes }) => ({ logits: await read(logits), boxes: await read(boxes) })),
      );
      const last = values[config.numStages - 1];
      return {
        detections: selectDetections(last.logits, last.boxes, [image.width, image.height], config),
        initialBoxes: await read(initial),
        expertWeights: weights && (await read(weights)),
        stages: values.map(({ logits, boxes }) => ({ scores: logits.map(sigmoid), boxes })),
      };
    } finally {
      for (const tensor of kept) tensor.dispose();
    }
  }
}
