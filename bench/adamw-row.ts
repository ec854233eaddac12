/** The row of a case that is an optimizer step. */
import { AdamW, type Device } from '../engine/index.ts';
import { type AdamWCase, noise, type Row, sampleIndices } from './case.ts';
import { largestError } from './measure.ts';

/** Operations and bytes per parameter, without the gradient norm and the gathering of gradients: both are avoidable. */
const ADAMW_FLOPS = 14;
const ADAMW_BYTES = 4 * 7;

/** Uploads random parameters and gradients and makes the row of an optimizer step. */
export function prepareAdamW(device: Device, { op, shape, parameters, tensors }: AdamWCase): Row {
  const each = Math.floor(parameters / tensors);
  const list = Array.from({ length: tensors }, (_, i) => ({
    name: String(i),
    tensor: device.parameter(noise(each, i + 1), [each]),
  }));
  const gradients = list.map((_, i) => noise(each, 1000 + i));
  list.forEach(({ tensor }, i) => {
    tensor.grad = device.keep(device.tensor(gradients[i], [each]));
  });
  const optimizer = new AdamW(list);
  const learningRate = 1e-3;
  const weightDecay = 0.01;
  const epsilon = 1e-8;
  const step = (): void => {
    optimizer.step({ learningRate });
  };
  return {
    op,
    shape,
    part: 'step',
    flops: ADAMW_FLOPS * each * tensors,
    bytes: ADAMW_BYTES * each * tensors,
    launch: step,
    // Valid only for the first step, so before the timing. In that step the corrected moments are the gradient and its
    // square, and each parameter moves by about the learning rate.
    check: async () => {
      step();
      let worst = 0;
      for (const [index, { tensor }] of list.entries()) {
        const before = noise(each, index + 1);
        const values = await tensor.read();
        const indices = sampleIndices(each);
        const moved = indices.map((i) => values[i] - before[i]);
        const expected = indices.map(
          (i) =>
            -learningRate * (weightDecay * before[i] + gradients[index][i] / (Math.abs(gradients[index][i]) + epsilon)),
        );
        worst = Math.max(worst, largestError(moved, expected));
      }
      return worst;
    },
  };
}
