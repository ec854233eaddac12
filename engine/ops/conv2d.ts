/** 2-D convolution (cross-correlation, as everywhere in this field), NHWC: dense, grouped and depthwise. */
import { convSubgroupKernel, convTiledKernel, isNarrow } from '../../kernels/conv2d.ts';
import {
  cropChannelsKernel,
  lineWeightsKernel,
  padChannelsKernel,
  sumPartsKernel,
  transposeWeightsKernel,
} from '../../kernels/conv2d-layout.ts';
import {
  depthwiseInputGradientKernel,
  depthwiseKernel,
  depthwiseWeightGradientKernel,
} from '../../kernels/depthwise.ts';
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { formatShape, sameShape, shapeError, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice, EarlierGradients } from '../core/tensor.ts';
import { prefersTextures, withOperands } from './operand-textures.ts';
import {
  chooseConvolution,
  chooseWeightGradient,
  imageLines,
  pixelsOf,
  splitLines,
  splitsTaps,
  textureOperands,
  weightGradientKernel,
  weightGradientTextures,
  weightGradientTiles,
  type AllowedRounding,
  type ConvolutionCall,
  type ConvolutionSizes,
  type ConvolutionTensors,
  type ConvolutionVariant,
  type ImageLines,
  type WeightGradientCall,
  type WeightGradientTensors,
  type WeightGradientVariant,
} from './conv2d-variants.ts';
import { elementwise } from '../core/elementwise.ts';
import { columnSums, epilogueOperands, gemm, type EpilogueOperands } from './gemm.ts';
import { maskGradient } from './relu-gradient.ts';
import { scaleShiftGradients } from './scale-shift-gradients.ts';
import { winograd, winogradWeightGradient } from './winograd.ts';

export interface Conv2dOptions {
  /** Of both axes; default 1. */
  readonly stride?: number;
  /** Zeros added on each of the four sides; default 0. */
  readonly padding?: number;
  /** Input and output channels fall into this many groups that do not see each other; default 1. */
  readonly groups?: number;
}

type Attributes = Required<Conv2dOptions> & { readonly relu: boolean };

/** The sizes of one call, with the channels of a group as they are, before they fill vec4s. */
interface Geometry extends ConvolutionSizes {
  readonly C: number;
  readonly O: number;
}

function geometry(x: Tensor, weight: Tensor, { stride, padding, groups }: Attributes): Geometry {
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

/** Neighbouring output pixels of a depthwise convolution that a lane computes: on software adapters loads are what takes the time, GPUs want many lanes. */
const PIXELS_OF_A_LANE = 4;

const isDepthwise = ({ C, O }: Geometry): boolean => C === 1 && O === 1;

const WORKGROUP = 64;
const gridOf = (lanes: number): readonly [number, number, number] => linearGrid(Math.ceil(lanes / WORKGROUP));

/**
 * The tensor itself, or where `columns` is no multiple of 4 a copy of [outer, rows, groups, columns] with columns (and rows, if `padsRows`) filled up
 * by zeros.
 */
function padded(input: Tensor, rows: number, groups: number, columns: number, padsRows = false): Tensor {
  const rowsTo = padsRows ? Math.ceil(rows / 4) * 4 : rows;
  const columns4To = Math.ceil(columns / 4);
  if (rowsTo === rows && columns4To * 4 === columns) return input;
  const count4 = (input.size / (rows * columns)) * rowsTo * columns4To;
  const output = input.device.empty([count4 * 4]);
  input.device.run(
    padChannelsKernel(groups === 1 && rowsTo === rows),
    { count4, groups, rowsFrom: rows, columnsFrom: columns, rowsTo, columns4To },
    { input, output },
    gridOf(count4),
  );
  return output;
}

/** Writes what of [outer, rows, groups, columns] is not padding into `output`, [outer, rowsTo, groups, columnsTo]. */
function crop(
  input: Tensor,
  output: Tensor,
  rows: number,
  groups: number,
  columns: number,
  rowsTo: number,
  columnsTo: number,
): Tensor {
  const count = output.size;
  input.device.run(
    cropChannelsKernel(),
    { count, groups, rowsFrom: rows, columnsFrom: columns, rowsTo, columnsTo },
    { input, output },
    gridOf(count),
  );
  return output;
}

/** A kernel of one pixel: the convolution is a matrix product of pixels by channels. */
const isPointwise = ({ kh, kw }: Geometry, { stride, padding, groups }: Attributes): boolean =>
  kh === 1 && kw === 1 && stride === 1 && padding === 0 && groups === 1;

/** Runs the forward pass or the gradient by the input, as the variant given, or the one chosen: one of the Winograd variants allowed, or implicit GEMM (conv2d-variants.ts). */
function runConvolution(
  device: TensorDevice,
  call: ConvolutionCall,
  allowed: AllowedRounding,
  tensors: ConvolutionTensors,
  given?: ConvolutionVariant,
): void {
  const { source, weights, target, ...operands } = tensors;
  const { N4, groups, step, byLines = null, ...sizes } = call;
  const variant =
    given ??
    chooseConvolution(device, call, allowed, tensors, (filled, other) =>
      runConvolution(device, call, allowed, filled, other),
    );
  if (variant.winograd !== null)
    return winograd(
      device,
      variant.winograd,
      { ...call, padding: 2 - call.padY },
      source,
      weights,
      operands,
      target,
      allowed.half,
    );
  const { rows: tileRows, columns: tileColumns, precision } = variant;
  const textures = variant.textures
    ? textureOperands(call, source, weights, isNarrow(device.subgroupSize, tileColumns))
    : null;
  const { epilogue, buffers } = epilogueOperands(operands);
  const kernel: Kernel =
    precision === 'f32' && device.smallSubgroups
      ? convSubgroupKernel(
          device.subgroupSize,
          tileRows,
          tileColumns,
          textures !== null,
          splitsTaps(call),
          byLines !== null,
          epilogue,
        )
      : convTiledKernel(tileRows, precision, epilogue);
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

/** The forward pass of an image taken by lines (kernels/conv2d.ts). */
function convolveLines(
  device: TensorDevice,
  lines: ImageLines,
  { batch, height, width, outH, outW, kh, kw, C, O, O4 }: Geometry,
  { stride, padding }: Attributes,
  x: Tensor,
  weight: Tensor,
  rest: Omit<ConvolutionTensors, 'source' | 'weights'>,
): void {
  const { classes, vectors } = lines;
  const count = vectors * 4 * O4;
  const weights = device.empty([classes * kh * count * 4]);
  device.run(
    lineWeightsKernel(),
    { count, kh, taps: kw * C, N4: O4, channels: C, stride, padX: -padding },
    { input: padded(weight, 1, 1, O), output: weights },
    [Math.ceil(count / WORKGROUP), kh, classes],
  );
  runConvolution(
    device,
    {
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
    { winograd: [], half: false },
    { source: x, weights, ...rest },
  );
}

/** Gradient by the weight, [kh, kw, C, groups, O] with C and O filled up: partial sums over splits of the output lines, then their sum. */
function weightGradient(
  device: TensorDevice,
  g: Geometry,
  { stride, padding, groups }: Attributes,
  source: Tensor,
  upstream: Tensor,
): Tensor {
  const sum = device.empty([g.kh * g.kw * g.C4 * 4 * groups * g.O4 * 4]);
  const { batch, height, width, outH, outW, kh, kw, C4, O4 } = g;
  runWeightGradient(
    device,
    { batch, height, width, outH, outW, kh, kw, C4, O4, groups, stride, padding },
    { source, upstream, sum },
  );
  return sum;
}

function runWeightGradient(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
  given?: WeightGradientVariant,
): void {
  const { source, upstream, sum } = tensors;
  const { groups, stride, padding, ...g } = call;
  const lines = g.batch * g.outH;
  const count4 = sum.size / 4;
  const variant =
    given ??
    chooseWeightGradient(device, call, tensors, (filled, other) => runWeightGradient(device, call, filled, other));
  if (variant.winograd !== null) {
    const { height: sourceH, width: sourceW, outH: targetH, outW: targetW, C4: K4, O4: N4, batch } = g;
    return winogradWeightGradient(
      device,
      variant.winograd,
      { batch, sourceH, sourceW, targetH, targetW, K4, N4, padding },
      source,
      upstream,
      sum,
    );
  }
  const kernel = weightGradientKernel(device, variant);
  const { tilesM, tilesN, whole } = weightGradientTiles(call, variant);
  const { perSplit } = variant;
  const splits = Math.ceil(lines / perSplit);
  const partial = splits === 1 ? sum : device.empty([splits * count4 * 4]);
  const tiles = whole * splits;
  const params = {
    lines,
    linesPerSplit: perSplit,
    sourceH: g.height,
    sourceW: g.width,
    outH: g.outH,
    outW: g.outW,
    K4: g.C4,
    N4: g.O4,
    groups,
    kh: g.kh,
    kw: g.kw,
    stride,
    padding,
    tilesM,
    tilesN,
    tiles,
  };
  const textures = variant.textures ? weightGradientTextures(call, tensors) : null;
  if (textures) {
    device.withTextures(textures, ([sourceRows, upstreamRows]) =>
      device.run(
        kernel,
        params,
        { source: sourceRows, upstream: upstreamRows, partialSums: partial },
        linearGrid(tiles),
      ),
    );
  } else {
    device.run(kernel, params, { source, upstream, partialSums: partial }, linearGrid(tiles));
  }
  if (splits > 1) device.run(sumPartsKernel(), { count4, parts: splits }, { parts_: partial, sum }, gridOf(count4));
}

type Inputs = readonly [x: Tensor, weight: Tensor, bias: Tensor | null, scale: Tensor | null, residual: Tensor | null];

/** The epilogue's operands with channels filled up as the target's are. */
function paddedEpilogue(
  { scale, bias, residual, relu }: EpilogueOperands,
  groups: number,
  O: number,
): EpilogueOperands {
  const filled = (operand: Tensor | null | undefined): Tensor | null =>
    operand ? padded(operand, 1, groups, O) : null;
  return { scale: filled(scale), bias: filled(bias), residual: filled(residual), relu };
}

/** Gradients by the sum over taps, and by what was added to it (bias and residual), from that by the output. */
function epilogueGradients(
  upstream: Tensor,
  output: Tensor,
  scale: Tensor | null,
  relu: boolean,
  added: boolean,
): { sum: Tensor; added: Tensor | null } {
  if (scale) {
    const { scaled, plain } = scaleShiftGradients(upstream, scale, relu ? output : null, {
      scaled: true,
      plain: added,
    });
    return { sum: scaled ?? upstream, added: plain };
  }
  const sum = relu ? maskGradient(upstream.device, upstream, output) : upstream;
  return { sum, added: added ? sum : null };
}

const conv2dOp = defineOp({
  name: 'conv2d',
  shape: ([x, weight, bias, scale, residual]: Inputs, attributes: Attributes) => {
    const { stride, padding, groups } = attributes;
    if (!Number.isInteger(stride) || stride < 1) shapeError('conv2d', 'stride', 'a positive integer', String(stride));
    if (!Number.isInteger(padding) || padding < 0)
      shapeError('conv2d', 'padding', 'a non-negative integer', String(padding));
    if (!Number.isInteger(groups) || groups < 1) shapeError('conv2d', 'groups', 'a positive integer', String(groups));
    if (x.rank !== 4) shapeError('conv2d', 'x', '[B, H, W, C]', x.shape);
    if (weight.rank !== 4 || weight.size === 0)
      shapeError('conv2d', 'weight', '[kh, kw, C / groups, O], not empty', weight.shape);
    const C = x.shape[3];
    if (C % groups !== 0) shapeError('conv2d', 'x', `[B, H, W, C] with C a multiple of ${groups} groups`, x.shape);
    if (C !== weight.shape[2] * groups)
      shapeError('conv2d', 'weight', `[kh, kw, ${C / groups}, O] for ${C} channels in ${groups} groups`, weight.shape);
    if (weight.shape[3] % groups !== 0)
      shapeError('conv2d', 'weight', `[kh, kw, C / groups, O] with O a multiple of ${groups} groups`, weight.shape);
    for (const [name, tensor] of [
      ['bias', bias],
      ['scale', scale],
    ] as const) {
      if (tensor && (tensor.rank !== 1 || tensor.size !== weight.shape[3]))
        shapeError('conv2d', name, `[${weight.shape[3]}]`, tensor.shape);
    }
    if (scale?.requiresGrad)
      shapeError(
        'conv2d',
        'scale',
        'a constant (scaleShift computes that gradient)',
        'a tensor that requires a gradient',
      );
    for (const [name, tensor] of [
      ['x', x],
      ['weight', weight],
      ['bias', bias],
      ['scale', scale],
      ['residual', residual],
    ] as const) {
      if (tensor && tensor.dtype !== 'f32') shapeError('conv2d', name, 'dtype f32', tensor.dtype);
    }
    const { batch, outH, outW } = geometry(x, weight, attributes);
    if (outH < 1 || outW < 1) {
      shapeError(
        'conv2d',
        'x',
        `a map at least as large as the kernel [${weight.shape[0]}, ${weight.shape[1]}] with padding ${padding}`,
        x.shape,
      );
    }
    const shape = [batch, outH, outW, weight.shape[3]];
    if (residual && !sameShape(residual.shape, shape))
      shapeError('conv2d', 'residual', `the result's shape ${formatShape(shape)}`, residual.shape);
    return { shape };
  },

  forward: ({
    device,
    inputs: [x, weight, bias, scale, residual],
    attributes,
    output,
    requiresGrad,
    inference,
    half,
  }): { source?: Tensor } => {
    if (output.size === 0) return {};
    const { stride, padding, groups, relu } = attributes;
    const g = geometry(x, weight, attributes);
    const { batch, height, width, outH, outW, kh, kw, C, O, C4, O4 } = g;
    const operands = { scale, bias, residual, relu };
    if (isDepthwise(g)) {
      const channels4 = Math.ceil(groups / 4);
      const target = groups % 4 === 0 ? output : device.empty([(output.size / groups) * channels4 * 4]);
      const pixels = device.smallSubgroups ? PIXELS_OF_A_LANE : 1,
        parts = Math.ceil(outW / pixels);
      const count = batch * outH * parts * channels4;
      const { epilogue, buffers } = epilogueOperands(paddedEpilogue(operands, 1, groups));
      const { lanes, grid } = elementwise(device, count);
      withOperands(
        device,
        prefersTextures(device),
        { source: padded(x, 1, 1, groups), weights: padded(weight, 1, 1, groups) },
        (textures, filled, shifts) =>
          device.run(
            depthwiseKernel(pixels, textures, epilogue, lanes),
            {
              count,
              sourceH: height,
              sourceW: width,
              outH,
              outW,
              C4: channels4,
              kh,
              kw,
              stride,
              padding,
              parts,
              ...shifts,
            },
            { ...filled, ...buffers, output: target },
            grid,
          ),
      );
      if (target !== output) crop(target, output, 1, 1, channels4 * 4, 1, groups);
      return {};
    }
    if (isPointwise(g, attributes)) {
      gemm(device, {
        a: x,
        transposeA: false,
        b: weight,
        transposeB: false,
        output,
        m: batch * outH * outW,
        n: O,
        k: C,
        half,
        ...operands,
      });
      return {};
    }
    const target = O % 4 === 0 ? output : device.empty([(output.size / O) * O4 * 4]);
    const lines = half && device.expectedPrecision === 'f16' ? null : imageLines(device, C, g, attributes);
    if (lines) {
      convolveLines(device, lines, g, attributes, x, weight, { ...paddedEpilogue(operands, groups, O), target });
      if (target !== output) crop(target, output, 1, groups, O4 * 4, 1, O);
      return {};
    }
    const source = padded(x, 1, groups, C);
    runConvolution(
      device,
      {
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
      { winograd: inference ? [2, 4] : [2], half },
      { source, weights: padded(weight, C, groups, O, true), ...paddedEpilogue(operands, groups, O), target },
    );
    if (target !== output) crop(target, output, 1, groups, O4 * 4, 1, O);
    return requiresGrad && weight.requiresGrad && source !== x ? { source } : {};
  },

  backward: ({
    device,
    inputs: [x, weight, bias, scale, residual],
    attributes,
    output,
    saved,
    gradient: byOutput,
    needs,
    earlier,
  }) => {
    const g = geometry(x, weight, attributes);
    if (byOutput.size === 0)
      return [x, weight, bias, scale, residual].map((input, i) =>
        input && needs[i] ? device.zeros(input.shape) : null,
      );
    const { sum: gradient, added } = epilogueGradients(byOutput, output, scale, attributes.relu, needs[2] || needs[4]);
    const byAdded = [added && needs[2] ? columnSums(device, added, null) : null, null, needs[4] ? added : null];
    if (isDepthwise(g)) return [...depthwiseBackward(device, g, attributes, x, weight, gradient, needs), ...byAdded];
    if (isPointwise(g, attributes))
      return [...pointwiseBackward(device, g, x, weight, gradient, needs, earlier), ...byAdded];
    const { stride, padding, groups } = attributes;
    const { batch, height, width, outH, outW, kh, kw, C, O, C4, O4 } = g;
    const upstream = padded(gradient, 1, groups, O);
    let byInput: Tensor | null = null,
      byWeight: Tensor | null = null;
    if (needs[0]) {
      const count = kh * kw * C4 * O4 * groups;
      const transposed = device.empty([count * 16]);
      const input = padded(weight, C, groups, O, true);
      device.run(
        transposeWeightsKernel(),
        { count, kh, kw, step: stride, K4: C4, N4: O4, groups },
        { input, output: transposed },
        gridOf(count),
      );
      byInput = device.empty(x.shape);
      const target = C % 4 === 0 ? byInput : device.empty([(x.size / C) * C4 * 4]);
      runConvolution(
        device,
        {
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
        { winograd: [2, 4], half: false },
        { source: upstream, weights: transposed, target, residual: target === byInput ? earlier(0) : null },
      );
      if (target !== byInput) crop(target, byInput, 1, groups, C4 * 4, 1, C);
    }
    if (needs[1]) {
      const sum = weightGradient(device, g, attributes, saved.source ?? padded(x, 1, groups, C), upstream);
      byWeight =
        C % 4 === 0 && O % 4 === 0
          ? device.alias(sum, weight.shape)
          : crop(sum, device.empty(weight.shape), C4 * 4, groups, O4 * 4, C, O);
    }
    return [byInput, byWeight, ...byAdded];
  },
});

function pointwiseBackward(
  device: TensorDevice,
  { batch, outH, outW, C, O }: Geometry,
  x: Tensor,
  weight: Tensor,
  gradient: Tensor,
  needs: readonly boolean[],
  earlier: EarlierGradients,
): (Tensor | null)[] {
  const pixels = batch * outH * outW;
  const byInput = needs[0] ? device.empty(x.shape) : null;
  if (byInput)
    gemm(device, {
      a: gradient,
      transposeA: false,
      b: weight,
      transposeB: true,
      output: byInput,
      m: pixels,
      n: C,
      k: O,
      residual: earlier(0),
    });
  const byWeight = needs[1] ? device.empty(weight.shape) : null;
  if (byWeight)
    gemm(device, { a: x, transposeA: true, b: gradient, transposeB: false, output: byWeight, m: C, n: O, k: pixels });
  return [byInput, byWeight];
}

function depthwiseBackward(
  device: TensorDevice,
  g: Geometry,
  { stride, padding, groups }: Attributes,
  x: Tensor,
  weight: Tensor,
  gradient: Tensor,
  needs: readonly boolean[],
): (Tensor | null)[] {
  const { batch, height, width, outH, outW, kh, kw } = g;
  const C4 = Math.ceil(groups / 4);
  const whole = groups % 4 === 0;
  const sizes = { sourceH: height, sourceW: width, outH, outW, C4, kh, kw, stride, padding };
  const upstream = padded(gradient, 1, 1, groups);
  const finished = (result: Tensor, shape: Shape): Tensor =>
    whole ? device.alias(result, shape) : crop(result, device.empty(shape), 1, 1, C4 * 4, 1, groups);
  let byInput: Tensor | null = null,
    byWeight: Tensor | null = null;
  if (needs[0]) {
    const count = batch * height * width * C4;
    const result = device.empty([count * 4]);
    const weights = padded(weight, 1, 1, groups);
    const { lanes, grid } = elementwise(device, count);
    withOperands(device, prefersTextures(device), { upstream, weights }, (textures, filled, shifts) =>
      device.run(
        depthwiseInputGradientKernel(textures, lanes),
        { count, ...sizes, ...shifts },
        { ...filled, gradient: result },
        grid,
      ),
    );
    byInput = finished(result, x.shape);
  }
  if (needs[1]) {
    const count4 = kh * kw * C4;
    const { splits, perSplit } = splitLines(device, batch * outH, outW, Math.ceil(count4 / WORKGROUP), count4);
    const sum = device.empty([count4 * 4]);
    const partial = splits === 1 ? sum : device.empty([splits * count4 * 4]);
    const count = count4 * splits;
    const source = padded(x, 1, 1, groups);
    withOperands(device, prefersTextures(device), { source, upstream }, (textures, filled, shifts) =>
      device.run(
        depthwiseWeightGradientKernel(textures),
        { count, lines: batch * outH, linesPerSplit: perSplit, ...sizes, ...shifts },
        { ...filled, partialSums: partial },
        gridOf(count),
      ),
    );
    if (splits > 1) device.run(sumPartsKernel(), { count4, parts: splits }, { parts_: partial, sum }, gridOf(count4));
    byWeight = finished(sum, weight.shape);
  }
  return [byInput, byWeight];
}

/** What follows a convolution in residual networks, in the same kernel: act(convolution * scale + bias + residual). */
export interface Conv2dEpilogue {
  /** [O], a factor for each channel (a frozen batch norm's, with its shift as bias); has no gradient. */
  readonly scale?: Tensor;
  /** Of the result's shape, added before the activation. */
  readonly residual?: Tensor;
  readonly activation?: 'relu';
}

/**
 * Convolution of x [B, H, W, C] with weight [kh, kw, C / groups, O], plus bias [O] unless null: [B, OH, OW, O] with OH = floor((H + 2 padding - kh) / stride) + 1;
 * with scale, residual and ReLU where given. Depthwise: groups = C, weight [kh, kw, 1, C].
 * Throws ShapeError where the shapes do not fit, or the kernel does not fit into the padded image, or scale requires a gradient.
 */
export const conv2d = opFunction(
  conv2dOp,
  (
    x: Tensor,
    weight: Tensor,
    bias: Tensor | null,
    { stride = 1, padding = 0, groups = 1, scale, residual, activation }: Conv2dOptions & Conv2dEpilogue = {},
  ): Tensor => {
    return conv2dOp([x, weight, bias, scale ?? null, residual ?? null], {
      stride,
      padding,
      groups,
      relu: activation === 'relu',
    });
  },
);
