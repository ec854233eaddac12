/**
 * The engine as a library: a small network learns sin(x). After set-up, run it with
 * `node --import tsx docs/examples/fit-a-curve.ts`. In a browser, replace `openDevice()` by `Device.open()`.
 */
import { AdamW, backward, mean, Random, square, sub, tanh } from '../../engine/index.ts';
import { Linear, Module } from '../../engine/nn/index.ts';
import { openDevice } from '../../engine/node/index.ts';
import type { Device, Tensor } from '../../engine/index.ts';

class Network extends Module {
  private readonly hidden: Linear;
  private readonly output: Linear;

  constructor(device: Device) {
    super(device);
    const random = new Random(1);
    this.hidden = this.child('hidden', new Linear(device, random, 1, 32));
    this.output = this.child('output', new Linear(device, random, 32, 1));
  }

  forward(x: Tensor): Tensor {
    return this.output.forward(tanh(this.hidden.forward(x)));
  }
}

const device = await openDevice();
const network = new Network(device);
const optimizer = new AdamW(network.trainable(), { weightDecay: 0 });

const points = Float32Array.from({ length: 256 }, (_, i) => (i / 255) * 2 * Math.PI - Math.PI);
const x = device.tensor(points, [256, 1]);
const y = device.tensor(points.map(Math.sin), [256, 1]);

for (let step = 1; step <= 500; step++) {
  // A scope frees the tensors made in it, except those that it returns.
  const loss = device.scope(() => {
    const error = mean(square(sub(network.forward(x), y)));
    backward(error);
    optimizer.step({ learningRate: 1e-2 });
    optimizer.zeroGrad();
    return error;
  });
  // Only a read waits for the device. Between reads, steps queue up and keep it busy.
  if (step % 100 === 0) console.log(`step ${step}: mean squared error ${(await loss.item()).toExponential(2)}`);
  loss.dispose();
}

device.destroy();
