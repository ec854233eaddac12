/** RoIAlign over a feature pyramid: boxes to feature maps of fixed size. */
import { itemGrid, linearGrid } from '../../../kernels/kernel.ts';
import { MAX_LEVELS, roiAlignKernel } from '../../../kernels/roi-align.ts';
import {
  ENTRY_WORDS,
  roiAlignGradientKernel,
  roiAlignGradientSubgroupKernel,
  roiAlignListKernel,
  RUN,
} from '../../../kernels/roi-align-gradient.ts';
import { defineOp, opFunction } from '../../core/op.ts';
import { shapeError, type Shape } from '../../core/shape.ts';
import type { Tensor } from '../../core/tensor.ts';
import type { OperandTexture } from '../../gpu/resources.ts';
import { textureOperand } from '../operand-textures.ts';
import {
  choosePooling,
  choosePoolingGradient,
  type PoolingCall,
  type PoolingGradientVariant,
  type PoolingVariant,
  type RunPooling,
  type RunPoolingGradient,
} from './roi-align-variants.ts';

export interface RoiAlignOptions {
  /** Bins along each side; default 7. */
  readonly resolution?: number;
  /** Samples along each side of a bin; default 2. */
  readonly samplingRatio?: number;
  /** Image pixels per feature pixel, one number per level; default 4, 8, 16, 32. */
  readonly strides?: readonly number[];
  /** The level of a box with size `canonicalSize` (square root of its area, in pixels); defaults 4 and 224. */
  readonly canonicalLevel?: number;
  readonly canonicalSize?: number;
  /** The level of the first feature map; default 2. */
  readonly minLevel?: number;
}

type Attributes = Required<RoiAlignOptions>;
type Inputs = readonly [boxes: Tensor, ...features: Tensor[]];

const DEFAULT_STRIDES = [4, 8, 16, 32];
/** Added to the relative size before the logarithm, as Detectron2 does. */
const LEVEL_EPSILON = 1e-8;
/** Pixel ranges are packed in 16 bits. */
const MAX_SIDE = 65535;

/** Kernel params of levels and sampling, for forward and gradient. */
function geometry(
  [boxes, ...features]: Inputs,
  { resolution, samplingRatio, strides, canonicalLevel, canonicalSize, minLevel }: Attributes,
) {
  // floor(canonicalLevel + log2(sqrt(area) / canonicalSize + epsilon)) >= minLevel + step, solved for the area. This is
  // exact where a logarithm is not.
  const area = (step: number): number =>
    (canonicalSize * Math.max(0, 2 ** (minLevel + step - canonicalLevel) - LEVEL_EPSILON)) ** 2;
  const at = (level: number): number => Math.min(level, features.length - 1);
  const height = (level: number): number => features[at(level)].shape[1];
  const width = (level: number): number => features[at(level)].shape[2];
  const scale = (level: number): number => 1 / strides[at(level)];
  return {
    levels: features.length,
    resolution,
    samples: samplingRatio,
    area1: area(1),
    area2: area(2),
    area3: area(3),
    scale0: scale(0),
    scale1: scale(1),
    scale2: scale(2),
    scale3: scale(3),
    h0: height(0),
    w0: width(0),
    h1: height(1),
    w1: width(1),
    h2: height(2),
    w2: width(2),
    h3: height(3),
    w3: width(3),
    perImage: boxes.shape[1],
  };
}

function checkInteger(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) shapeError('roiAlign', name, 'a positive integer', String(value));
}

const callOf = (
  [boxes, ...features]: Inputs,
  { resolution, samplingRatio: samples, strides: [stride] }: Attributes,
): PoolingCall => ({ boxes: boxes.shape, features: features.map(({ shape }) => shape), stride, resolution, samples });

/** Tensors of a forward pass. */
interface Pooling {
  readonly boxes: Tensor;
  /** The finest level first. */
  readonly features: readonly Tensor[];
  readonly output: Tensor;
}

function pool({ boxes, features, output }: Pooling, attributes: Attributes, { access, held }: PoolingVariant): void {
  const { device } = output;
  const width = access === 'scalar' ? 1 : 4;
  const channels = output.shape[2] / width;
  const count = output.size / width / held;
  const params = { ...geometry([boxes, ...features], attributes), count, channels };
  const run = (levels: readonly (Tensor | OperandTexture)[]): void => {
    const level = (i: number): Tensor | OperandTexture => levels[Math.min(i, levels.length - 1)];
    device.run(
      roiAlignKernel(access, held),
      params,
      { boxes, features0: level(0), features1: level(1), features2: level(2), features3: level(3), output },
      itemGrid(count),
    );
  };
  if (access !== 'texture') {
    run(features);
    return;
  }
  const operands = features.map((map) =>
    textureOperand(map, map.shape[0] * map.shape[1], map.shape[2] * channels, true),
  );
  // This variant is chosen only where all levels fit.
  device.withTextures(
    operands.filter((operand) => operand !== null),
    run,
  );
}

/** Tensors of the gradients. */
interface PoolingGradients extends Omit<Pooling, 'output'> {
  readonly upstream: Tensor;
  /** With respect to each level's features; null where not needed. */
  readonly gradients: readonly (Tensor | null)[];
  /** Gradients of each level from other ops, which are added; default none. */
  readonly earlier?: readonly (Tensor | null)[];
}

function poolGradients(
  { boxes, features, upstream, gradients, earlier }: PoolingGradients,
  attributes: Attributes,
  variant: PoolingGradientVariant,
): void {
  const { device } = upstream;
  const [images, perImage] = boxes.shape;
  const levels = features.length;
  const { resolution, samplingRatio: samples } = attributes;
  const entries = device.empty([images * levels * perImage * ENTRY_WORDS], 'u32');
  const counts = device.empty([images * levels], 'u32');
  device.run(
    roiAlignListKernel(),
    { ...geometry([boxes, ...features], attributes), images },
    { boxes, entries, counts },
    itemGrid(images * (perImage + levels)),
  );
  gradients.forEach((gradient, level) => {
    if (!gradient) return;
    const [, height, width, depth] = gradient.shape;
    const vector = depth % 4 === 0;
    const channels = vector ? depth / 4 : depth;
    const runs = Math.ceil(width / RUN);
    const count = images * height * runs * channels;
    const sum = earlier?.[level] ?? null;
    const params = { count, channels, height, width, runs, levels, level, perImage, resolution, samples },
      buffers = { entries, counts, upstream, ...(sum && { earlier: sum }), gradient };
    const lanes = device.subgroupSize;
    if (variant === 'subgroups')
      device.run(roiAlignGradientSubgroupKernel(lanes, sum !== null), params, buffers, linearGrid(count / lanes));
    else device.run(roiAlignGradientKernel(vector, sum !== null), params, buffers, itemGrid(count));
  });
}

// The tuner stores these functions, so they hold only attributes.
const poolWith =
  (attributes: Attributes): RunPooling =>
  (tensors, variant) =>
    pool(tensors, attributes, variant);
const gradientsWith =
  (attributes: Attributes): RunPoolingGradient =>
  (tensors, variant) =>
    poolGradients(tensors, attributes, variant);

function checkFeatures(features: readonly Tensor[]): void {
  if (features.length < 1 || features.length > MAX_LEVELS)
    shapeError('roiAlign', 'features', `1 to ${MAX_LEVELS} levels`, String(features.length));
  const [batch, , , channels] = features[0].shape;
  features.forEach(({ shape, dtype }, level) => {
    const name = `features[${level}]`;
    if (dtype !== 'f32') shapeError('roiAlign', name, 'dtype f32', dtype);
    if (shape.length !== 4 || shape[0] !== batch || shape[3] !== channels)
      shapeError('roiAlign', name, level === 0 ? '[B, H, W, C]' : `[${batch}, H, W, ${channels}]`, shape);
    if (shape[1] < 1 || shape[2] < 1 || shape[1] > MAX_SIDE || shape[2] > MAX_SIDE)
      shapeError('roiAlign', name, `sides of 1 to ${MAX_SIDE} pixels`, shape);
  });
}

/** The output's shape. Throws ShapeError where inputs or attributes do not fit. */
function outputShape([boxes, ...features]: Inputs, attributes: Attributes): Shape {
  const { resolution, samplingRatio, strides, canonicalSize } = attributes;
  checkFeatures(features);
  const [batch, , , channels] = features[0].shape;
  if (boxes.dtype !== 'f32') shapeError('roiAlign', 'boxes', 'dtype f32', boxes.dtype);
  if (boxes.rank !== 3 || boxes.shape[0] !== batch || boxes.shape[2] !== 4)
    shapeError('roiAlign', 'boxes', `[${batch}, N, 4]`, boxes.shape);
  checkInteger('resolution', resolution);
  checkInteger('samplingRatio', samplingRatio);
  if (strides.length !== features.length)
    shapeError('roiAlign', 'strides', `one number per level (${features.length})`, strides);
  if (!strides.every((stride) => stride > 0 && Number.isFinite(stride)))
    shapeError('roiAlign', 'strides', 'positive numbers', strides);
  if (!(canonicalSize > 0 && Number.isFinite(canonicalSize)))
    shapeError('roiAlign', 'canonicalSize', 'a positive number', String(canonicalSize));
  return [batch * boxes.shape[1], resolution * resolution, channels];
}

const roiAlignOp = defineOp({
  name: 'roiAlign',
  shape: (inputs: Inputs, attributes: Attributes) => ({ shape: outputShape(inputs, attributes) }),
  forward: ({ device, inputs, attributes, output }) => {
    const [boxes, ...features] = inputs;
    pool(
      { boxes, features, output },
      attributes,
      choosePooling(device, callOf(inputs, attributes), poolWith(attributes)),
    );
  },
  backward: ({ device, inputs, attributes, gradient: upstream, needs, earlier }) => {
    const [boxes, ...features] = inputs;
    if (!needs.some((needed, i) => i > 0 && needed)) return inputs.map(() => null);
    const gradients = features.map((map, level) => (needs[level + 1] ? device.empty(map.shape) : null));
    const variant = choosePoolingGradient(device, callOf(inputs, attributes), gradientsWith(attributes));
    poolGradients(
      {
        boxes,
        features,
        upstream,
        gradients,
        earlier: gradients.map((gradient, level) => gradient && earlier(level + 1)),
      },
      attributes,
      variant,
    );
    return [null, ...gradients];
  },
});

/**
 * Multi-level RoIAlign (Mask R-CNN, section 3; FPN, equation 1) with the half-pixel offset of torchvision's
 * `aligned=True`. Each box is divided into resolution x resolution bins. A bin is the mean of samplingRatio^2 bilinear
 * samples. Samples more than one pixel outside the map count as zero.
 *
 * The level of a box is floor(canonicalLevel + log2(sqrt(area) / canonicalSize + 1e-8)), clamped to the given levels.
 * Boxes are not corrected. An inverted box is sampled backwards, at the finest level if its area is not positive. A box
 * with a coordinate that is NaN, infinite or beyond 1e15 gives zeros. Boxes get no gradient.
 *
 * @param features one to four maps [B, H, W, C], the finest first
 * @param boxes    [B, N, 4] xyxy, in pixels of the image that the maps belong to
 * @returns [B * N, resolution^2, C], bins row by row
 * @throws ShapeError where shapes, strides or sizes do not fit
 */
export const roiAlign = opFunction(
  roiAlignOp,
  (features: readonly Tensor[], boxes: Tensor, options: RoiAlignOptions = {}): Tensor => {
    const {
      resolution = 7,
      samplingRatio = 2,
      strides = DEFAULT_STRIDES.slice(0, features.length),
      canonicalLevel = 4,
      canonicalSize = 224,
      minLevel = 2,
    } = options;
    return roiAlignOp([boxes, ...features], {
      resolution,
      samplingRatio,
      strides,
      canonicalLevel,
      canonicalSize,
      minLevel,
    });
  },
);
