/** In-place addition, which sums gradients. It is not an op: the tape does not see it. */
import { accumulateKernel } from '../../kernels/accumulate.ts';
import type { Tensor } from './tensor.ts';
import { elementwise } from './elementwise.ts';

/** destination += source, both f32 with equally many elements. */
export function addInPlace(destination: Tensor, source: Tensor): void {
  const { device, size: count } = source;
  const { lanes, grid } = elementwise(device, Math.ceil(count / 4));
  device.run(accumulateKernel(lanes), { count }, { source, destination }, grid);
}
