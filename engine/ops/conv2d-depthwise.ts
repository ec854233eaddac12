/** Launches depthwise convolutions, forward and gradients. Operands are in linear textures where that is faster. */
import { sumPartsKernel } from '../../kernels/conv2d-layout.ts';
import {
  depthwiseInputGradientKernel,
  depthwiseKernel,
  depthwiseWeightGradientKernel,
} from '../../kernels/depthwise.ts';
import { itemGrid } from '../../kernels/kernel.ts';
import { elementwise } from '../core/elementwise.ts';
import type { Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { cropChannels, padChannels, padEpilogue, WORKGROUP } from './conv2d-channels.ts';
import type { Conv2dAttributes, Geometry } from './conv2d-geometry.ts';
import { splitLines } from './conv2d-weight-gradient-variants.ts';
import { epilogueOperands, type EpilogueOperands } from './gemm-problem.ts';
import { prefersTextures, withOperands } from './operand-textures.ts';

/**
 * Neighboring output pixels that one invocation computes on software adapters, where loads take most of the time. GPUs
 * need many invocations instead.
 */
const PIXELS_PER_LANE = 4;

interface DepthwiseCall {
  readonly g: Geometry;
  readonly attributes: Conv2dAttributes;
  readonly x: Tensor;
  readonly weight: Tensor;
}

/** Sizes that the kernels read, with C4 counting the channels of all groups. */
function kernelSizes(g: Geometry, { stride, padding, groups }: Conv2dAttributes) {
  const { height, width, outH, outW, kh, kw } = g;
  return { sourceH: height, sourceW: width, outH, outW, C4: Math.ceil(groups / 4), kh, kw, stride, padding };
}

/** output = x * weight, with an epilogue. */
export function depthwiseForward(
  device: TensorDevice,
  { g, attributes, x, weight }: DepthwiseCall,
  operands: EpilogueOperands,
  output: Tensor,
): void {
  const { groups } = attributes;
  const sizes = kernelSizes(g, attributes);
  const target = groups % 4 === 0 ? output : device.empty([(output.size / groups) * sizes.C4 * 4]);
  const pixels = device.smallSubgroups ? PIXELS_PER_LANE : 1;
  const parts = Math.ceil(g.outW / pixels);
  const count = g.batch * g.outH * parts * sizes.C4;
  const { epilogue, buffers } = epilogueOperands(padEpilogue(operands, { columns: groups }));
  const { lanes, grid } = elementwise(device, count);
  const images = { source: padChannels(x, { columns: groups }), weights: padChannels(weight, { columns: groups }) };
  withOperands(device, prefersTextures(device), images, (textures, padded, shifts) =>
    device.run(
      depthwiseKernel(pixels, textures, epilogue, lanes),
      { count, ...sizes, parts, ...shifts },
      { ...padded, ...buffers, output: target },
      grid,
    ),
  );
  if (target !== output) cropChannels(target, output, { columnsFrom: sizes.C4 * 4, columnsTo: groups });
}

/** A result with padded channels, in the shape of an operand of the op. */
function cropped(result: Tensor, shape: Shape, { groups }: Conv2dAttributes): Tensor {
  const { device } = result;
  return groups % 4 === 0
    ? device.alias(result, shape)
    : cropChannels(result, device.empty(shape), { columnsFrom: Math.ceil(groups / 4) * 4, columnsTo: groups });
}

function inputGradient({ g, attributes, x, weight }: DepthwiseCall, upstream: Tensor): Tensor {
  const { device } = x;
  const sizes = kernelSizes(g, attributes);
  const count = g.batch * g.height * g.width * sizes.C4;
  const gradient = device.empty([count * 4]);
  const weights = padChannels(weight, { columns: attributes.groups });
  const { lanes, grid } = elementwise(device, count);
  withOperands(device, prefersTextures(device), { upstream, weights }, (textures, padded, shifts) =>
    device.run(
      depthwiseInputGradientKernel(textures, lanes),
      { count, ...sizes, ...shifts },
      { ...padded, gradient },
      grid,
    ),
  );
  return cropped(gradient, x.shape, attributes);
}

function weightGradient({ g, attributes, x, weight }: DepthwiseCall, upstream: Tensor): Tensor {
  const { device } = x;
  const sizes = kernelSizes(g, attributes);
  const count4 = g.kh * g.kw * sizes.C4;
  const lines = g.batch * g.outH;
  const { splits, perSplit } = splitLines(device, {
    lines,
    lineLength: g.outW,
    workgroups: Math.ceil(count4 / WORKGROUP),
    partial4: count4,
  });
  const sum = device.empty([count4 * 4]);
  const partial = splits === 1 ? sum : device.empty([splits * count4 * 4]);
  const count = count4 * splits;
  const source = padChannels(x, { columns: attributes.groups });
  withOperands(device, prefersTextures(device), { source, upstream }, (textures, padded, shifts) =>
    device.run(
      depthwiseWeightGradientKernel(textures),
      { count, lines, linesPerSplit: perSplit, ...sizes, ...shifts },
      { ...padded, partialSums: partial },
      itemGrid(count),
    ),
  );
  if (splits > 1) device.run(sumPartsKernel(), { count4, parts: splits }, { parts_: partial, sum }, itemGrid(count4));
  return cropped(sum, weight.shape, attributes);
}

/** Gradients with respect to x and weight; null for those not needed. */
export function depthwiseGradients(
  call: DepthwiseCall,
  gradient: Tensor,
  [needsInput, needsWeight]: readonly boolean[],
): [input: Tensor | null, weight: Tensor | null] {
  const upstream = padChannels(gradient, { columns: call.attributes.groups });
  return [needsInput ? inputGradient(call, upstream) : null, needsWeight ? weightGradient(call, upstream) : null];
}
