/** Launches dense and grouped convolutions: the forward pass and the gradient with respect to the input. */
import { isNarrow } from '../../kernels/conv2d.ts';
import { lineWeightsKernel, transposeWeightsKernel } from '../../kernels/conv2d-layout.ts';
import { itemGrid, linearGrid } from '../../kernels/kernel.ts';
import type { EarlierGradients, Tensor, TensorDevice } from '../core/tensor.ts';
import { cropChannels, padChannels, padEpilogue, WORKGROUP } from './conv2d-channels.ts';
import { imageLines, type Conv2dAttributes, type Geometry, type ImageLines } from './conv2d-geometry.ts';
import {
  chooseConvolution,
  convolutionKernel,
  convolutionTextures,
  pixelsOf,
  type AllowedRounding,
  type Convolution,
  type ConvolutionTensors,
  type ConvolutionVariant,
} from './conv2d-variants.ts';
import { epilogueOperands, type EpilogueOperands } from './gemm-problem.ts';
import { winograd } from './winograd.ts';

/**
 * Runs an implicit GEMM or a Winograd convolution.
 *
 * @param given how to compute it; chosen unless given (conv2d-variants.ts)
 */
function runConvolution(device: TensorDevice, convolution: Convolution, given?: ConvolutionVariant): void {
  const { call, allowed, tensors } = convolution;
  const { source, weights, target, ...operands } = tensors;
  const { N4, groups, step, byLines = null, ...sizes } = call;
  const variant = given ?? chooseConvolution(device, convolution, runConvolution);
  if (variant.winograd !== null) {
    const { half } = allowed;
    winograd(device, variant.winograd, { ...call, padding: 2 - call.padY }, { ...tensors, half });
    return;
  }
  const { rows: tileRows, columns: tileColumns } = variant;
  const textures = variant.textures
    ? convolutionTextures(call, source, weights, isNarrow(device.subgroupSize, tileColumns))
    : null;
  const { epilogue, buffers } = epilogueOperands(operands);
  const kernel = convolutionKernel(device, call, { ...variant, textures: textures !== null }, epilogue);
  const tilesM = Math.ceil(pixelsOf(call) / tileRows);
  const tilesN = Math.ceil((N4 * 4) / tileColumns);
  const tiles = tilesM * tilesN * groups * (byLines?.classes ?? step * step);
  const params = { ...sizes, N4, groups, step, ...byLines, tilesM, tilesN, tiles };
  const rest = { ...buffers, target_: target };
  if (!textures) {
    device.run(kernel, params, { source, weights, ...rest }, linearGrid(tiles));
    return;
  }
  device.withTextures(
    [textures.source, ...(textures.weights ? [textures.weights] : [])],
    ([sourceTexture, weightTexture]) =>
      device.run(
        kernel,
        params,
        { source: sourceTexture, weights: weightTexture ?? weights, ...rest },
        linearGrid(tiles),
      ),
  );
}

/** A convolution with its tensors, before padding. */
interface DenseCall {
  readonly g: Geometry;
  readonly attributes: Conv2dAttributes;
  readonly x: Tensor;
  readonly weight: Tensor;
}

/** The forward pass of an image read by lines (kernels/conv2d.ts). */
function convolveLines(
  device: TensorDevice,
  lines: ImageLines,
  { g, attributes: { stride, padding }, x, weight }: DenseCall,
  rest: Omit<ConvolutionTensors, 'source' | 'weights'>,
): void {
  const { batch, height, width, outH, outW, kh, kw, C, O, O4 } = g;
  const { classes, vectors } = lines;
  const count = vectors * 4 * O4;
  const weights = device.empty([classes * kh * count * 4]);
  device.run(
    lineWeightsKernel(),
    { count, kh, taps: kw * C, N4: O4, channels: C, stride, padX: -padding },
    { input: padChannels(weight, { columns: O }), output: weights },
    [Math.ceil(count / WORKGROUP), kh, classes],
  );
  runConvolution(device, {
    call: {
      batch,
      sourceH: height,
      sourceW: (width * C) / 4,
      targetH: outH,
      targetW: outW,
      K4: 1,
      N4: O4,
      groups: 1,
      kh,
      kw: classes * vectors,
      stride,
      step: 1,
      padY: -padding,
      padX: -padding,
      byLines: lines,
    },
    allowed: { winograd: [], half: false },
    tensors: { source: x, weights, ...rest },
  });
}

/**
 * The forward pass: output = x * weight, with an epilogue.
 *
 * @returns the source image, padded to vec4s of channels where it was not; null where it was read by lines
 */
export function denseForward(
  device: TensorDevice,
  dense: DenseCall,
  operands: EpilogueOperands,
  { output, ...allowed }: AllowedRounding & { readonly output: Tensor },
): Tensor | null {
  const { g, attributes, x, weight } = dense;
  const { stride, padding, groups } = attributes;
  const { batch, height, width, outH, outW, kh, kw, C, O, C4, O4 } = g;
  const target = O % 4 === 0 ? output : device.empty([(output.size / O) * O4 * 4]);
  const expectsHalf = allowed.half && device.expectedPrecision === 'f16';
  const lines = expectsHalf ? null : imageLines(device, C, g, attributes);
  const source = lines ? null : padChannels(x, { groups, columns: C });
  if (lines) {
    convolveLines(device, lines, dense, { ...padEpilogue(operands, { groups, columns: O }), target });
  } else if (source) {
    const weights = padChannels(weight, { rows: C, groups, columns: O, padRows: true });
    runConvolution(device, {
      call: {
        batch,
        sourceH: height,
        sourceW: width,
        targetH: outH,
        targetW: outW,
        K4: C4,
        N4: O4,
        groups,
        kh,
        kw,
        stride,
        step: 1,
        padY: kh - 1 - padding,
        padX: kw - 1 - padding,
      },
      allowed,
      tensors: { source, weights, ...padEpilogue(operands, { groups, columns: O }), target },
    });
  }
  if (target !== output) cropChannels(target, output, { groups, columnsFrom: O4 * 4, columnsTo: O });
  return source;
}

/**
 * The gradient with respect to x, of its shape.
 *
 * @param upstream gradient with respect to the output, padded to vec4s of channels
 * @param earlier  see BackwardCall
 */
export function denseInputGradient(
  device: TensorDevice,
  { g, attributes, x, weight }: DenseCall,
  upstream: Tensor,
  earlier: EarlierGradients,
): Tensor {
  const { stride, padding, groups } = attributes;
  const { batch, height, width, outH, outW, kh, kw, C, O, C4, O4 } = g;
  const count = kh * kw * C4 * O4 * groups;
  const transposed = device.empty([count * 16]);
  const input = padChannels(weight, { rows: C, groups, columns: O, padRows: true });
  device.run(
    transposeWeightsKernel(),
    { count, kh, kw, step: stride, K4: C4, N4: O4, groups },
    { input, output: transposed },
    itemGrid(count),
  );
  const gradient = device.empty(x.shape);
  const target = C % 4 === 0 ? gradient : device.empty([(x.size / C) * C4 * 4]);
  runConvolution(device, {
    call: {
      batch,
      sourceH: outH,
      sourceW: outW,
      targetH: height,
      targetW: width,
      K4: O4,
      N4: C4,
      groups,
      kh,
      kw,
      stride: 1,
      step: stride,
      padY: padding,
      padX: padding,
    },
    allowed: { winograd: [2, 4], half: false },
    tensors: { source: upstream, weights: transposed, target, residual: target === gradient ? earlier(0) : null },
  });
  if (target !== gradient) cropChannels(target, gradient, { groups, columnsFrom: C4 * 4, columnsTo: C });
  return gradient;
}
