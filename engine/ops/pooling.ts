/** Max pooling of NHWC maps. */
import { maxPool2dGradientKernel, maxPool2dKernel } from '../../kernels/pooling.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { prefersTextures, withOperands } from './operand-textures.ts';
import { elementwise } from '../core/elementwise.ts';

export interface MaxPool2dOptions {
  /** Side of the square window. */
  readonly kernel: number;
  /** Default: `kernel`. */
  readonly stride?: number;
  /** Pixels of -infinity on each of the four sides, at most half the kernel; default 0. */
  readonly padding?: number;
}

type Attributes = Required<MaxPool2dOptions>;

/** Params of the kernels. `channels` counts vec4s where the number of channels allows it. */
function sizesOf([, height, width, C]: Shape, [, outH, outW]: Shape, { kernel, stride, padding }: Attributes) {
  return { height, width, outH, outW, channels: C % 4 === 0 ? C / 4 : C, kernel, stride, padding };
}

const maxPool2dOp = defineOp({
  name: 'maxPool2d',
  shape: ([x]: readonly [Tensor], { kernel, stride, padding }: Attributes) => {
    if (x.rank !== 4 || x.dtype !== 'f32')
      shapeError('maxPool2d', 'x', '[B, H, W, C] of dtype f32', x.rank === 4 ? x.dtype : x.shape);
    if (!Number.isInteger(kernel) || kernel < 1)
      shapeError('maxPool2d', 'kernel', 'a positive integer', String(kernel));
    if (!Number.isInteger(stride) || stride < 1)
      shapeError('maxPool2d', 'stride', 'a positive integer', String(stride));
    if (!Number.isInteger(padding) || padding < 0 || padding > kernel / 2)
      shapeError('maxPool2d', 'padding', 'an integer in 0 .. kernel / 2', String(padding));
    const [B, H, W, C] = x.shape;
    const [outH, outW] = [H, W].map((size) => Math.floor((size + 2 * padding - kernel) / stride) + 1);
    if (outH < 1 || outW < 1)
      shapeError(
        'maxPool2d',
        'x',
        `a map at least as large as the window of ${kernel} with padding ${padding}`,
        x.shape,
      );
    return { shape: [B, outH, outW, C] };
  },
  forward: ({ device, inputs: [x], attributes, output, requiresGrad }): { winners?: Tensor } => {
    const vec4 = x.shape[3] % 4 === 0;
    const winners = requiresGrad ? device.empty(output.shape, 'u32') : null;
    const count = vec4 ? output.size / 4 : output.size;
    const sizes = sizesOf(x.shape, output.shape, attributes);
    const { lanes, grid } = elementwise(device, count);
    withOperands(device, vec4 && prefersTextures(device), { input: x }, (texture, operands, shifts) =>
      device.run(
        maxPool2dKernel({ vec4, texture, kernel: attributes.kernel, winners: winners !== null, lanes }),
        { count, ...sizes, ...shifts },
        { ...operands, output, ...(winners && { winners }) },
        grid,
      ),
    );
    return winners ? { winners } : {};
  },
  backward: ({ device, inputs: [x], attributes, output, saved: { winners }, gradient: upstream }) => {
    const vec4 = x.shape[3] % 4 === 0;
    const gradient = device.empty(x.shape);
    const count = vec4 ? x.size / 4 : x.size;
    const sizes = sizesOf(x.shape, output.shape, attributes);
    const { lanes, grid } = elementwise(device, count);
    device.run(
      maxPool2dGradientKernel(vec4, lanes),
      { count, ...sizes },
      { upstream, winners: winners!, gradient },
      grid,
    );
    return [gradient];
  },
});

/**
 * Maximum over windows, as torch.nn.functional.max_pool2d. The gradient goes to the first maximum of a window in
 * row-major order.
 *
 * @param x [B, H, W, C]
 * @returns [B, OH, OW, C] with OH = floor((H + 2 padding - kernel) / stride) + 1
 * @throws ShapeError where an argument does not fit
 */
export const maxPool2d = opFunction(
  maxPool2dOp,
  (x: Tensor, { kernel, stride = kernel, padding = 0 }: MaxPool2dOptions): Tensor => {
    return maxPool2dOp([x], { kernel, stride, padding });
  },
);
