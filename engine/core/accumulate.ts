/** In-place addition: not an op of the tape, but what gradients are summed with. */
import { accumulateKernel } from '../../kernels/accumulate.ts';
import type { Tensor } from './tensor.ts';
import { elementwise } from './elementwise.ts';

/** destination += source; both f32 and of equal size. */
export function addInPlace(destination: Tensor, source: Tensor): void {
  const { device, size: count } = source;
  const { lanes, grid } = elementwise(device, Math.ceil(count / 4));
  device.run(accumulateKernel(lanes), { count }, { source, destination }, grid);
}
