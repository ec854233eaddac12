/** Sizes and options of a 2-D convolution, and which of its special cases it is. */
import type { Tensor, TensorDevice } from '../core/tensor.ts';

export interface Conv2dOptions {
  /** Of both axes; default 1. */
  readonly stride?: number;
  /** Zeros added on each of the four sides; default 0. */
  readonly padding?: number;
  /** Number of groups of input and output channels. Channels of one group do not read those of another; default 1. */
  readonly groups?: number;
}

/** Attributes of the op. */
export type Conv2dAttributes = Required<Conv2dOptions> & { readonly relu: boolean };

/** The sizes of a convolution. `C4` and `O4` are the channels of a group, in vec4s. */
export interface ConvolutionSizes {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  readonly outH: number;
  readonly outW: number;
  readonly kh: number;
  readonly kw: number;
  readonly C4: number;
  readonly O4: number;
}

/** The sizes of one call. `C` and `O` are the channels of a group before they are padded to vec4s. */
export interface Geometry extends ConvolutionSizes {
  readonly C: number;
  readonly O: number;
}

export function geometryOf(x: Tensor, weight: Tensor, { stride, padding, groups }: Conv2dAttributes): Geometry {
  const [batch, height, width] = x.shape;
  const [kh, kw, C, outputs] = weight.shape;
  const O = outputs / groups;
  return {
    batch,
    height,
    width,
    kh,
    kw,
    C,
    O,
    C4: Math.ceil(C / 4),
    O4: Math.ceil(O / 4),
    outH: Math.floor((height + 2 * padding - kh) / stride) + 1,
    outW: Math.floor((width + 2 * padding - kw) / stride) + 1,
  };
}

/** Every channel has its own filter. */
export const isDepthwise = ({ C, O }: Geometry): boolean => C === 1 && O === 1;

/** A kernel of one pixel: the convolution is a matrix product of pixels by channels. */
export const isPointwise = ({ kh, kw }: Geometry, { stride, padding, groups }: Conv2dAttributes): boolean =>
  kh === 1 && kw === 1 && stride === 1 && padding === 0 && groups === 1;

/** How an image is read by lines: see LINE_PARAMS in kernels/conv2d.ts. */
export interface ImageLines {
  readonly classes: number;
  readonly channels: number;
  readonly vectors: number;
  readonly pitch: number;
}

const greatestCommonDivisor = (a: number, b: number): number => (b === 0 ? a : greatestCommonDivisor(b, a % b));

/**
 * How an image is read by lines (kernels/conv2d.ts). Null where it is not read by lines: without small subgroups, with
 * groups, where its channels are whole vec4s, where its lines are not, or where pixels padded to vec4s need no more
 * vec4s.
 */
export function imageLines(
  device: TensorDevice,
  channels: number,
  { width, kw }: Pick<ConvolutionSizes, 'width' | 'kw'>,
  { stride, padding, groups }: Required<Conv2dOptions>,
): ImageLines | null {
  if (!device.smallSubgroups || groups !== 1 || channels % 4 === 0 || (width * channels) % 4 !== 0) return null;
  const classes = 4 / greatestCommonDivisor(4, stride * channels);
  const positions = Array.from({ length: classes }, (_, firstX) => ((firstX * stride - padding) * channels) & 3);
  const vectors = Math.ceil((Math.max(...positions) + kw * channels) / 4);
  return vectors < kw * Math.ceil(channels / 4)
    ? { classes, channels, vectors, pitch: (classes * stride * channels) / 4 }
    : null;
}
