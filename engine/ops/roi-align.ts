/** RoIAlign over a feature pyramid: boxes to feature maps of fixed size. */
import { linearGrid } from '../../kernels/kernel.ts';
import { ENTRY_WORDS, MAX_LEVELS, RUN, roiAlignGradientKernel, roiAlignGradientSubgroupKernel, roiAlignKernel, roiAlignListKernel } from '../../kernels/roi-align.ts';
import { defineOp } from '../op.ts';
import { shapeError } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { prefersTextures, textureOperand, type OperandTexture } from '../textures.ts';
import { usesSubgroups } from './conv2d-variants.ts';

export interface RoiAlignOptions {
  /** Bins along each side; default 7. */
  readonly resolution?: number;
  /** Samples along each side of a bin; default 2. */
  readonly samplingRatio?: number;
  /** Image pixels a feature pixel, one number a level; default 4, 8, 16, 32. */
  readonly strides?: readonly number[];
  /** The level of a box of `canonicalSize` (its area's square root, in pixels); defaults 4 and 224. */
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
/** Pixels that a sample reads. */
const SAMPLED_PIXELS = 4;
/** Reads of a feature value from which on copying the levels into operand textures pays. */
const WORTH_A_COPY = 3;
/** Pixel ranges are packed in 16 bits. */
const MAX_SIDE = 65535;

/** What both directions tell the kernels about levels and sampling. */
function geometry([boxes, ...features]: Inputs, { resolution, samplingRatio, strides, canonicalLevel, canonicalSize, minLevel }: Attributes) {
  // floor(canonicalLevel + log2(sqrt(area) / canonicalSize + epsilon)) >= minLevel + step, solved for the area: exact where a logarithm is not.
  const area = (step: number): number => (canonicalSize * Math.max(0, 2 ** (minLevel + step - canonicalLevel) - LEVEL_EPSILON)) ** 2;
  const at = (level: number): number => Math.min(level, features.length - 1);
  const height = (level: number): number => features[at(level)].shape[1];
  const width = (level: number): number => features[at(level)].shape[2];
  const scale = (level: number): number => 1 / strides[at(level)];
  return {
    levels: features.length, resolution, samples: samplingRatio, area1: area(1), area2: area(2), area3: area(3),
    scale0: scale(0), scale1: scale(1), scale2: scale(2), scale3: scale(3),
    h0: height(0), w0: width(0), h1: height(1), w1: width(1), h2: height(2), w2: width(2), h3: height(3), w3: width(3),
    perImage: boxes.shape[1],
  };
}

function checkInteger(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) shapeError('roiAlign', name, 'a positive integer', String(value));
}

export const roiAlignOp = defineOp({
  name: 'roiAlign',
  shape: ([boxes, ...features]: Inputs, { resolution, samplingRatio, strides, canonicalSize }: Attributes) => {
    if (features.length < 1 || features.length > MAX_LEVELS) shapeError('roiAlign', 'features', `1 to ${MAX_LEVELS} levels`, String(features.length));
    const [batch, , , channels] = features[0].shape;
    features.forEach((map, level) => {
      const { shape, dtype } = map;
      if (dtype !== 'f32') shapeError('roiAlign', `features[${level}]`, 'of dtype f32', dtype);
      if (shape.length !== 4 || shape[0] !== batch || shape[3] !== channels) shapeError('roiAlign', `features[${level}]`, level === 0 ? '[B, H, W, C]' : `[${batch}, H, W, ${channels}]`, shape);
      if (shape[1] < 1 || shape[2] < 1 || shape[1] > MAX_SIDE || shape[2] > MAX_SIDE) shapeError('roiAlign', `features[${level}]`, `with sides of 1 to ${MAX_SIDE} pixels`, shape);
    });
    if (boxes.dtype !== 'f32') shapeError('roiAlign', 'boxes', 'of dtype f32', boxes.dtype);
    if (boxes.rank !== 3 || boxes.shape[0] !== batch || boxes.shape[2] !== 4) shapeError('roiAlign', 'boxes', `[${batch}, N, 4]`, boxes.shape);
    checkInteger('resolution', resolution);
    checkInteger('samplingRatio', samplingRatio);
    if (strides.length !== features.length) shapeError('roiAlign', 'strides', `one number a level (${features.length})`, strides);
    if (!strides.every((stride) => stride > 0 && Number.isFinite(stride))) shapeError('roiAlign', 'strides', 'positive numbers', strides);
    if (!(canonicalSize > 0 && Number.isFinite(canonicalSize))) shapeError('roiAlign', 'canonicalSize', 'a positive number', String(canonicalSize));
    return { shape: [batch * boxes.shape[1], resolution * resolution, channels] };
  },
  forward: ({ device, inputs, attributes, output }) => {
    const [boxes, ...features] = inputs;
    const vector = output.shape[2] % 4 === 0;
    const channels = vector ? output.shape[2] / 4 : output.shape[2];
    const held = vector && channels % 4 === 0 ? 4 : 1;
    const count = (vector ? output.size / 4 : output.size) / held;
    const params = { ...geometry(inputs, attributes), count, channels };
    const pool = (access: 'scalar' | 'vec4' | 'texture', levels: readonly (Tensor | OperandTexture)[]): void => {
      const level = (i: number): Tensor | OperandTexture => levels[Math.min(i, levels.length - 1)];
      device.run(roiAlignKernel(access, held), params, { boxes, features0: level(0), features1: level(1), features2: level(2), features3: level(3), output }, linearGrid(Math.ceil(count / 64)));
    };
    const operands = vector && prefersTextures(device) ? features.map((map) => textureOperand(map, map.shape[0] * map.shape[1], map.shape[2] * channels, true)) : [null];
    const copied = features.reduce((sum, map) => sum + map.size, 0);
    const worth = device.force.operands === 'texture' || output.size * SAMPLED_PIXELS * attributes.samplingRatio ** 2 > WORTH_A_COPY * copied;
    if (worth && operands.every((operand) => operand !== null)) device.withTextures(operands, (textures) => pool('texture', textures));
    else pool(vector ? 'vec4' : 'scalar', features);
  },
  backward: ({ device, inputs, attributes, gradient: upstream, needs, earlier }) => {
    const [boxes, ...features] = inputs;
    if (!needs.some((needed, i) => i > 0 && needed)) return inputs.map(() => null);
    const [images, perImage] = boxes.shape;
    const levels = features.length;
    const { resolution, samplingRatio: samples } = attributes;
    const entries = device.empty([images * levels * perImage * ENTRY_WORDS], 'u32');
    const counts = device.empty([images * levels], 'u32');
    device.run(
      roiAlignListKernel(), { ...geometry(inputs, attributes), images }, { boxes, entries, counts }, linearGrid(Math.ceil((images * (perImage + levels)) / 64)),
    );
    const gradients = features.map((map, level) => {
      if (!needs[level + 1]) return null;
      const gradient = device.empty(map.shape);
      const [, height, width, depth] = map.shape;
      const vector = depth % 4 === 0;
      const channels = vector ? depth / 4 : depth;
      const runs = Math.ceil(width / RUN);
      const count = images * height * runs * channels;
      const sum = earlier(level + 1);
      const params = { count, channels, height, width, runs, levels, level, perImage, resolution, samples }, buffers = { entries, counts, upstream, ...(sum && { earlier: sum }), gradient };
      const lanes = device.subgroupSize;
      const whole = vector && usesSubgroups(device) && channels % lanes === 0;
      if (whole) device.run(roiAlignGradientSubgroupKernel(lanes, sum !== null), params, buffers, linearGrid(count / lanes));
      else device.run(roiAlignGradientKernel(vector, sum !== null), params, buffers, linearGrid(Math.ceil(count / 64)));
      return gradient;
    });
    return [null, ...gradients];
  },
});

/**
 * Multi-level RoIAlign (Mask R-CNN 3; FPN equation 1) with the half-pixel offset (torchvision's `aligned=True`): each box is divided into
 * resolution x resolution bins; a bin is the mean of samplingRatio^2 bilinear samples. Samples more than a pixel outside the map count as zero.
 *
 * The level of a box is floor(canonicalLevel + log2(sqrt(area) / canonicalSize + 1e-8)), clamped to the levels given. Boxes are taken as they are: an
 * inverted box is sampled backwards, at the finest level if its area is not positive; a box with a coordinate that is NaN, infinite or beyond 1e15
 * gives zeros. Boxes get no gradient.
 *
 * @param features one to four maps [B, H, W, C], the finest first
 * @param boxes    [B, N, 4] xyxy, pixels of the image that the maps belong to
 * @returns [B * N, resolution^2, C], bins row by row
 * @throws ShapeError where shapes, strides or sizes do not fit
 */
export function roiAlign(features: readonly Tensor[], boxes: Tensor, options: RoiAlignOptions = {}): Tensor {
  const { resolution = 7, samplingRatio = 2, strides = DEFAULT_STRIDES.slice(0, features.length), canonicalLevel = 4, canonicalSize = 224, minLevel = 2 } = options;
  return roiAlignOp([boxes, ...features], { resolution, samplingRatio, strides, canonicalLevel, canonicalSize, minLevel });
}
