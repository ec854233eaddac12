/** Launches the gradient of a dense or grouped convolution with respect to its weight. */
import { sumPartsKernel } from '../../kernels/conv2d-layout.ts';
import { itemGrid, linearGrid } from '../../kernels/kernel.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { cropChannels } from './conv2d-channels.ts';
import type { Conv2dAttributes, Geometry } from './conv2d-geometry.ts';
import {
  chooseWeightGradient,
  weightGradientKernel,
  weightGradientTextures,
  weightGradientTiles,
  type WeightGradientCall,
  type WeightGradientTensors,
  type WeightGradientVariant,
} from './conv2d-weight-gradient-variants.ts';
import { winogradWeightGradient } from './winograd.ts';

/** Partial sums over splits of the output lines, then their sum. */
function runWeightGradient(
  device: TensorDevice,
  call: WeightGradientCall,
  tensors: WeightGradientTensors,
  given?: WeightGradientVariant,
): void {
  const { source, upstream, sum } = tensors;
  const { batch, height, width, outH, outW, kh, kw, C4, O4, groups, stride, padding } = call;
  const variant = given ?? chooseWeightGradient(device, call, tensors, runWeightGradient);
  if (variant.winograd !== null) {
    winogradWeightGradient(
      device,
      variant.winograd,
      { batch, sourceH: height, sourceW: width, targetH: outH, targetW: outW, K4: C4, N4: O4, padding },
      { source, upstream, gradient: sum },
    );
    return;
  }
  const kernel = weightGradientKernel(device, variant);
  const { tilesM, tilesN, workgroups } = weightGradientTiles(call, variant);
  const lines = batch * outH;
  const count4 = sum.size / 4;
  const splits = Math.ceil(lines / variant.perSplit);
  const partial = splits === 1 ? sum : device.empty([splits * count4 * 4]);
  const tiles = workgroups * splits;
  const params = {
    lines,
    linesPerSplit: variant.perSplit,
    sourceH: height,
    sourceW: width,
    outH,
    outW,
    K4: C4,
    N4: O4,
    groups,
    kh,
    kw,
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
  if (splits > 1) device.run(sumPartsKernel(), { count4, parts: splits }, { parts_: partial, sum }, itemGrid(count4));
}

/**
 * The gradient with respect to `weight`, of its shape.
 *
 * @param source   image read by the forward pass, padded to vec4s of channels
 * @param upstream gradient with respect to the output, padded likewise
 */
export function denseWeightGradient(
  { g, attributes, weight }: { readonly g: Geometry; readonly attributes: Conv2dAttributes; readonly weight: Tensor },
  source: Tensor,
  upstream: Tensor,
): Tensor {
  const { device } = weight;
  const { groups, stride, padding } = attributes;
  const { batch, height, width, outH, outW, kh, kw, C, O, C4, O4 } = g;
  const sum = device.empty([kh * kw * C4 * 4 * groups * O4 * 4]);
  runWeightGradient(
    device,
    { batch, height, width, outH, outW, kh, kw, C4, O4, groups, stride, padding },
    { source, upstream, sum },
  );
  return C % 4 === 0 && O % 4 === 0
    ? device.alias(sum, weight.shape)
    : cropChannels(sum, device.empty(weight.shape), {
        groups,
        rowsFrom: C4 * 4,
        rowsTo: C,
        columnsFrom: O4 * 4,
        columnsTo: O,
      });
}
