/**
 * A batch on the device: the tensors with the host's input for a forward pass and its losses. Their values can be
 * overwritten, so that batches of one shape can use the same tensors one after the other. A captured step needs this:
 * numbers that vary from batch to batch are values of tensors, never parameters of kernels.
 *
 * Glossary: B images, M rows of ground truths per image (padded).
 */
import { packedWords, packImages, paddedSize, type Device, type ImageData, type Tensor } from '../engine/index.ts';
import { checkHighestLabel, packTargets, targetRows, type ImageTargets, type Targets } from './targets.ts';

/** Height and width of the network's input are multiples of this: the stride of P5. */
const DIVISOR = 32;

/** Everything that decides the shapes of a step. Batches of equal shape give the same work on the device. */
export interface BatchShape {
  /** B. */
  readonly images: number;
  /** Height and width of the padded batch, in pixels. */
  readonly height: number;
  readonly width: number;
  /** M; 0 without ground truths. */
  readonly rows: number;
  /** Whether some image has float values. They take four times the memory of bytes. */
  readonly floats: boolean;
}

/** The shape of a batch. Images are padded to a common size, and objects to `targetRows` rows. */
export function batchShape(images: readonly ImageData[], targets?: readonly ImageTargets[]): BatchShape {
  const [height, width] = paddedSize(images, { divisor: DIVISOR });
  return {
    images: images.length,
    height,
    width,
    rows: targets ? targetRows(targets) : 0,
    floats: images.some(({ data }) => data instanceof Float32Array),
  };
}

/** A shape as text, for use as a key. */
export const shapeKey = ({ images, height, width, rows, floats }: BatchShape): string =>
  `${images}x${height}x${width}x${rows}${floats ? 'f' : ''}`;

/** Numbers that vary from step to step, by name. */
export interface BatchValues {
  /** Temperature of the softmax over experts, > 0; default 1, the value of inference. */
  readonly temperature?: number;
}

/** The tensors of batches of one shape. */
export class DeviceBatch {
  /** u32: images in the layout of `packImages`. */
  readonly packed: Tensor;
  /** [B, 4]: width, height, width, height of the unpadded images, pixels. */
  readonly sizes: Tensor;
  /** [1]: 1 / temperature of the softmax over experts. */
  readonly inverseTemperature: Tensor;
  private readonly objects: Omit<Targets, 'highestLabel' | 'sizes'> | null;
  private readonly staging: Uint32Array<ArrayBuffer>;
  private highestLabel = -1;

  /** @param classes the model's number of classes: labels are smaller */
  constructor(
    private readonly device: Device,
    readonly shape: BatchShape,
    private readonly classes: number,
  ) {
    const { images, height, width, rows, floats } = shape;
    this.staging = new Uint32Array(packedWords(images, height, width, floats));
    this.packed = device.empty([this.staging.length], 'u32');
    this.sizes = device.empty([images, 4]);
    this.inverseTemperature = device.empty([1]);
    this.objects =
      rows === 0
        ? null
        : {
            labels: device.empty([images, rows], 'u32'),
            boxes: device.empty([images, rows, 4]),
            counts: device.empty([images], 'u32'),
            maxObjects: rows,
          };
  }

  /** The ground truths. Throws if the shape has none. */
  get targets(): Targets {
    return { ...this.requireObjects(), sizes: this.sizes, highestLabel: this.highestLabel };
  }

  /** Overwrites the images and the step's values. Throws RangeError if the images do not have the batch's shape. */
  writeImages(images: readonly ImageData[], { temperature = 1 }: BatchValues = {}): void {
    const { device, shape } = this;
    const given = shapeKey({ ...batchShape(images), rows: shape.rows }),
      expected = shapeKey(shape);
    if (given !== expected)
      throw new RangeError(`DeviceBatch: images: expected a batch of shape ${expected}, got ${given}`);
    if (!(temperature > 0)) throw new RangeError(`DeviceBatch: temperature: expected a number > 0, got ${temperature}`);
    device.write(this.packed, packImages(images, this.staging));
    device.write(this.sizes, Float32Array.from(images.flatMap(({ width, height }) => [width, height, width, height])));
    device.write(this.inverseTemperature, Float32Array.of(1 / temperature));
  }

  /**
   * Overwrites images, objects and the step's values. Throws RangeError if images or objects do not fit the batch's
   * shape.
   */
  write(images: readonly ImageData[], targets: readonly ImageTargets[], values: BatchValues = {}): void {
    const { device, classes } = this;
    const objects = this.requireObjects();
    if (targets.length !== images.length)
      throw new RangeError(`DeviceBatch: targets: expected those of ${images.length} images, got ${targets.length}`);
    const { labels, boxes, counts, highestLabel } = packTargets('DeviceBatch', targets, objects.maxObjects);
    checkHighestLabel('DeviceBatch', highestLabel, classes);
    this.highestLabel = highestLabel;
    this.writeImages(images, values);
    device.write(objects.labels, labels);
    device.write(objects.boxes, boxes);
    device.write(objects.counts, counts);
  }

  dispose(): void {
    for (const tensor of [this.packed, this.sizes, this.inverseTemperature]) tensor.dispose();
    if (this.objects)
      for (const tensor of [this.objects.labels, this.objects.boxes, this.objects.counts]) tensor.dispose();
  }

  private requireObjects(): Omit<Targets, 'highestLabel' | 'sizes'> {
    if (!this.objects)
      throw new Error('DeviceBatch: expected a shape with ground truths, got one made without targets');
    return this.objects;
  }
}
