/** In-place addition: not an op of the tape, but what gradients are summed with. */
import { accumulateKernel } from '../../kernels/accumulate.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import type { Tensor } from '../tensor.ts';

/** destination += source; both f32 and of equal size. */
export function addInPlace(destination: Tensor, source: Tensor): void {
  destination.device.run(accumulateKernel(), { count: source.size }, { source, destination }, linearGrid(Math.ceil(source.size / 256)));
}
