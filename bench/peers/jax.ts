/**
 * jax-js as a peer, in its fastest form: everything under `jit`, and many launches per wait. It waits as our device
 * does, by sleeping between polls.
 */
import { settleSleeping } from '../../engine/node/index.ts';
import { gradientPart, type Inputs, type PeerOp, TOGETHER } from '../case.ts';
import { channelsFirst, channelsLast, outputsFirst, outputsLast } from '../layout.ts';
import type { HostArray } from '../references/reference.ts';
import { loadPeer } from './install.ts';
import type { Peer } from './peer.ts';

interface JaxArray {
  /** Another reference to the array. Operations consume their operands, so an operand that is used again needs one. */
  readonly ref: JaxArray;
  readonly shape: number[];
  blockUntilReady(): Promise<JaxArray>;
  data(): Promise<Float32Array>;
  dispose(): void;
  add(other: JaxArray): JaxArray;
  mul(other: JaxArray): JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  slice(...index: unknown[]): JaxArray;
}

type JaxFunction = (...inputs: JaxArray[]) => JaxArray;

interface Jax {
  init(device: 'webgpu'): Promise<string[]>;
  defaultDevice(device: 'webgpu'): unknown;
  jit<R>(f: (...inputs: JaxArray[]) => R): (...inputs: JaxArray[]) => R;
  vjp(f: JaxFunction, inputs: JaxArray[]): [JaxArray, ((upstream: JaxArray) => JaxArray[]) & { dispose(): void }];
  readonly numpy: {
    array(data: Float32Array, options: { shape: number[] }): JaxArray;
    matmul(a: JaxArray, b: JaxArray): JaxArray;
    matrixTranspose(a: JaxArray): JaxArray;
    sum(a: JaxArray): JaxArray;
  };
  readonly lax: {
    convGeneralDilated(x: JaxArray, weight: JaxArray, strides: number[], padding: [number, number][]): JaxArray;
  };
  readonly nn: { softmax(x: JaxArray): JaxArray; relu(x: JaxArray): JaxArray; standardize(x: JaxArray): JaxArray };
}

type JaxJob = (...all: JaxArray[]) => JaxArray[];

const layerNormOf =
  ({ nn }: Jax): JaxFunction =>
  (x, gamma, beta) =>
    nn.standardize(x).mul(gamma).add(beta);

/** The forward pass of an op. */
function forwardOf(jax: Jax, op: PeerOp, inputs: Inputs): JaxFunction {
  const { numpy: np, lax, nn } = jax;
  const layerNorm = layerNormOf(jax);
  if (op.kind === 'matmul')
    return (a, b) => np.matmul(op.transposeA ? np.matrixTranspose(a) : a, op.transposeB ? np.matrixTranspose(b) : b);
  if (op.kind === 'conv2d') {
    const { stride, padding } = op;
    return (x, weight) =>
      lax.convGeneralDilated(
        x,
        weight,
        [stride, stride],
        [
          [padding, padding],
          [padding, padding],
        ],
      );
  }
  if (op.kind === 'layerNorm') return layerNorm;
  if (op.kind === 'softmax') return (x) => nn.softmax(x);
  if (op.kind === 'sum') return (x) => np.sum(x);
  const [r, , d] = inputs.roi.shape;
  const [k] = inputs.gamma1.shape;
  return (roi, parameters, gamma1, beta1, gamma2, beta2) => {
    const w1 = parameters.ref.slice([], [0, d * k]).reshape([r, d, k]);
    const w2 = parameters.slice([], [d * k, 2 * d * k]).reshape([r, k, d]);
    return nn.relu(layerNorm(np.matmul(nn.relu(layerNorm(np.matmul(roi, w1), gamma1, beta1)), w2), gamma2, beta2));
  };
}

/** A part as a function of the op's `count` inputs and the upstream gradient. Its first result is compared. */
function partOf(jax: Jax, forward: JaxFunction, count: number, part: string): JaxJob {
  if (part === 'forward') return (...all) => [forward(...all)];
  if (part === TOGETHER) {
    return (...all) => {
      const [output, pull] = jax.vjp(forward, all.slice(0, count));
      const gradients = pull(all[count]);
      pull.dispose();
      return [...gradients, output];
    };
  }
  const differentiated = part === gradientPart('x') ? 0 : 1;
  return (...all) => {
    const constant = all[1 - differentiated];
    const [output, pull] = jax.vjp(
      (value) => (differentiated === 0 ? forward(value, constant) : forward(constant, value)),
      [all[differentiated]],
    );
    output.dispose();
    const [gradient] = pull(all[count]);
    pull.dispose();
    return [gradient];
  };
}

/** Uploads an array; `layout` says how a convolution's array is transposed. */
function upload({ numpy }: Jax, { data, shape }: HostArray, layout: 'as it is' | 'maps' | 'weight'): JaxArray {
  if (layout === 'as it is') return numpy.array(data, { shape: [...shape] });
  const [n, h, w, c] = shape;
  return layout === 'maps'
    ? numpy.array(channelsFirst(data, shape), { shape: [n, c, h, w] })
    : numpy.array(outputsFirst(data, shape), { shape: [c, w, n, h] });
}

/** Opens jax-js. Throws if it does not run on WebGPU. */
export async function openJax(): Promise<Peer> {
  const jax = loadPeer<Jax>('@jax-js/jax');
  if (!(await jax.init('webgpu')).includes('webgpu')) throw new Error('jax-js: expected the device webgpu, got none');
  jax.defaultDevice('webgpu');
  return {
    name: 'jax-js',
    job: ({ peer }, inputs, upstream, part) => {
      if (!peer) return null;
      const conv = peer.kind === 'conv2d';
      const layoutOf = (name: string) => (!conv ? 'as it is' : name === 'weight' ? 'weight' : 'maps');
      const arrays = Object.entries(inputs).map(([name, array]) => upload(jax, array, layoutOf(name)));
      const compiled = jax.jit(partOf(jax, forwardOf(jax, peer, inputs), arrays.length, part));
      if (part !== 'forward') arrays.push(upload(jax, upstream, layoutOf('upstream')));
      const launch = (): JaxArray[] => compiled(...arrays.map((array) => array.ref));
      return {
        name: 'jax-js',
        run: async (times) => {
          const made: JaxArray[] = [];
          const ready: Promise<JaxArray>[] = [];
          for (let i = 0; i < times; i++) {
            const results = launch();
            made.push(...results);
            ready.push(results[0].blockUntilReady());
          }
          for (const promise of ready) await settleSleeping(promise);
          for (const array of made) array.dispose();
        },
        values: async () => {
          const [first, ...rest] = launch();
          const { shape } = first;
          const values = await settleSleeping(first.data());
          for (const array of rest) array.dispose();
          if (!conv) return values;
          return part === gradientPart('weight') ? outputsLast(values, shape) : channelsLast(values, shape);
        },
        dispose: () => {
          for (const array of arrays) array.dispose();
        },
      };
    },
  };
}
