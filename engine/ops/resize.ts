/** Resizing of NHWC maps: nearest neighbor by an integer factor, and bilinear to any size. */
import {
  resizeBilinearGradientKernel,
  resizeBilinearKernel,
  upsampleNearestGradientKernel,
  upsampleNearestKernel,
} from '../../kernels/resize.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { elementwise } from '../core/elementwise.ts';

function checkMap(op: string, x: Tensor): void {
  if (x.rank !== 4 || x.dtype !== 'f32')
    shapeError(op, 'x', '[B, H, W, C] of dtype f32', x.rank === 4 ? x.dtype : x.shape);
}

/** Whether invocations handle vec4s of channels, the number of elements, and the launch. */
function launchOf(tensor: Tensor) {
  const C = tensor.shape[3];
  const vec4 = C % 4 === 0;
  const count = vec4 ? tensor.size / 4 : tensor.size;
  return { vec4, count, channels: vec4 ? C / 4 : C, ...elementwise(tensor.device, count) };
}

const upsampleNearestOp = defineOp({
  name: 'upsampleNearest',
  shape: ([x]: readonly [Tensor], { factor }: { readonly factor: number }) => {
    checkMap('upsampleNearest', x);
    if (!Number.isInteger(factor) || factor < 1)
      shapeError('upsampleNearest', 'factor', 'a positive integer', String(factor));
    const [B, H, W, C] = x.shape;
    return { shape: [B, H * factor, W * factor, C] };
  },
  forward: ({ device, inputs: [x], attributes, output }) => {
    const { vec4, lanes, grid, ...sizes } = launchOf(x);
    device.run(
      upsampleNearestKernel(vec4, lanes),
      { ...sizes, height: x.shape[1], width: x.shape[2], ...attributes },
      { input: x, output },
      grid,
    );
  },
  backward: ({ device, inputs: [x], attributes, gradient: upstream }) => {
    const gradient = device.empty(x.shape);
    const { vec4, lanes, grid, ...sizes } = launchOf(gradient);
    device.run(
      upsampleNearestGradientKernel(vec4, lanes),
      { ...sizes, height: x.shape[1], width: x.shape[2], ...attributes },
      { upstream, gradient },
      grid,
    );
    return [gradient];
  },
});

function bilinearSizes([, height, width]: Shape, [, outH, outW]: Shape) {
  return { height, width, outH, outW, scaleY: height / outH, scaleX: width / outW };
}

const resizeBilinearOp = defineOp({
  name: 'resizeBilinear',
  shape: ([x]: readonly [Tensor], { size }: { readonly size: readonly [height: number, width: number] }) => {
    checkMap('resizeBilinear', x);
    if (size.some((length) => !Number.isInteger(length) || length < 1))
      shapeError('resizeBilinear', 'size', 'two positive integers', size);
    const [B, H, W, C] = x.shape;
    if (H * W === 0) shapeError('resizeBilinear', 'x', '[B, H, W, C] with at least one pixel', x.shape);
    return { shape: [B, size[0], size[1], C] };
  },
  forward: ({ device, inputs: [x], output }) => {
    const { vec4, lanes, grid, ...sizes } = launchOf(output);
    device.run(
      resizeBilinearKernel(vec4, lanes),
      { ...sizes, ...bilinearSizes(x.shape, output.shape) },
      { input: x, output },
      grid,
    );
  },
  backward: ({ device, inputs: [x], output, gradient: upstream }) => {
    const gradient = device.empty(x.shape);
    const { vec4, lanes, grid, ...sizes } = launchOf(gradient);
    device.run(
      resizeBilinearGradientKernel(vec4, lanes),
      { ...sizes, ...bilinearSizes(x.shape, output.shape) },
      { upstream, gradient },
      grid,
    );
    return [gradient];
  },
});

/** Repeats every pixel of x [B, H, W, C] in a block of factor x factor pixels: [B, H factor, W factor, C]. */
export const upsampleNearest = opFunction(
  upsampleNearestOp,
  (x: Tensor, factor: number): Tensor => upsampleNearestOp([x], { factor }),
);

/**
 * Bilinear interpolation of x [B, H, W, C] at the pixel centers of a grid of `size`: [B, size[0], size[1], C].
 * As torch.nn.functional.interpolate with mode 'bilinear' and align_corners=False: no smoothing before downscaling.
 */
export const resizeBilinear = opFunction(
  resizeBilinearOp,
  (x: Tensor, size: readonly [height: number, width: number]): Tensor => resizeBilinearOp([x], { size }),
);
