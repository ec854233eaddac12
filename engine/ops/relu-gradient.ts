/** The gradient of a ReLU that is fused into another kernel. */
import { unaryGradientKernel } from '../../kernels/unary.ts';
import { elementwise } from '../core/elementwise.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';

/** Gradient with respect to the input of a ReLU with the output `activated`. */
export function maskGradient(device: TensorDevice, upstream: Tensor, activated: Tensor): Tensor {
  const gradient = device.empty(upstream.shape);
  const count4 = Math.ceil(upstream.size / 4);
  const { lanes, grid } = elementwise(device, count4);
  device.run(
    unaryGradientKernel('relu', lanes),
    { count4, a: 0, b: 0 },
    { input: activated, output: activated, upstream, gradient },
    grid,
  );
  return gradient;
}
