/**
 * Winograd convolutions of images with more tiles than are transformed at once. Each range of tiles adds its products
 * to the sums of the earlier ranges.
 */
import { afterAll, expect, test } from 'vitest';
import { backward, conv2d, Random, type Device } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { forcedDevices } from './devices.ts';
import { relativeError } from './op-harness.ts';

/** 15,129 tiles of 4 x 4 outputs. A range of 32 MiB has 14,563 tiles with 16 channels. */
const SIDE = 490;
const SHAPES: readonly (readonly number[])[] = [
  [1, SIDE, SIDE, 16],
  [3, 3, 16, 4],
  [1, SIDE, SIDE, 4],
];

/** The output at inference, and the gradients with respect to image and weights. */
async function convolve(device: Device): Promise<Float32Array[]> {
  const [x, weight, upstream] = SHAPES.map((shape, i) =>
    device.parameter(new Random(7, i).normalArray(shape.reduce((a, b) => a * b, 1)), [...shape]),
  );
  const results = device.scope(() => {
    const output = device.noGrad(() => conv2d(x, weight, null, { padding: 1 }));
    backward(conv2d(x, weight, null, { padding: 1 }), upstream);
    return [device.keep(output), x.grad!, weight.grad!];
  });
  const values: Float32Array[] = [];
  for (const result of results) values.push((await result.read()) as Float32Array);
  for (const tensor of [results[0], x, weight, upstream]) tensor.dispose();
  return values;
}

test('several ranges of tiles give the same result as the direct sum', async () => {
  const plain = await openDevice({ tuning: 'off', force: { convolution: 'direct' } });
  afterAll(() => plain.destroy());
  const direct = await convolve(plain);
  for (const { label, device } of await forcedDevices()) {
    (await convolve(device)).forEach((values, i) =>
      expect(
        relativeError(values, direct[i]),
        `${label}: ${['output', 'gradient of the image', 'gradient of the weights'][i]}`,
      ).toBeLessThan(2e-5),
    );
  }
});
