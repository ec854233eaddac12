/**
 * jax-js as a peer, in its fastest form: everything under `jit`, many launches per wait, and waiting like our device
 * (sleeping between polls).
 */
import { settleSleeping } from '../../engine/node/index.ts';
import { gradientPart, type Inputs, type PeerOp, TOGETHER } from '../case.ts';
import type { HostArray } from '../references/reference.ts';
import { loadPeer } from './install.ts';
import { type Peer, transposeMaps, transposeWeight } from './peer.ts';

interface JaxArray {
  /** Another reference: an operation consumes its operands. */
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

/** Opens jax-js. Throws if it does not run on WebGPU. */
export async function openJax(): Promise<Peer> {
  const jax = loadPeer<Jax>('@jax-js/jax');
  if (!(await jax.init('webgpu')).includes('webgpu')) throw new Error('jax-js: expected the device webgpu, got none');
  jax.defaultDevice('webgpu');
  const { numpy: np, lax, nn } = jax;
  const layerNorm: JaxFunction = (x, gamma, beta) => nn.standardize(x).mul(gamma).add(beta);
  const functionOf = (op: PeerOp, inputs: Inputs): JaxFunction => {
    if (op.kind === 'matmul')
      return (a, b) => np.matmul(op.transposeA ? np.matrixTranspose(a) : a, op.transposeB ? np.matrixTranspose(b) : b);
    if (op.kind === 'conv2d')
      return (x, weight) =>
        lax.convGeneralDilated(
          x,
          weight,
          [op.stride, op.stride],
          [
            [op.padding, op.padding],
            [op.padding, op.padding],
          ],
        );
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
  };
  /** A part as a function of all inputs and the upstream gradient. The first result is compared. */
  const partOf = (f: JaxFunction, count: number, part: string): ((...all: JaxArray[]) => JaxArray[]) => {
    if (part === 'forward') return (...all) => [f(...all)];
    if (part === TOGETHER) {
      return (...all) => {
        const [output, pull] = jax.vjp(f, all.slice(0, count));
        const gradients = pull(all[count]);
        pull.dispose();
        return [...gradients, output];
      };
    }
    const moving = part === gradientPart('x') ? 0 : 1;
    return (...all) => {
      const fixed = all[1 - moving];
      const [output, pull] = jax.vjp((value) => (moving === 0 ? f(value, fixed) : f(fixed, value)), [all[moving]]);
      output.dispose();
      const [gradient] = pull(all[count]);
      pull.dispose();
      return [gradient];
    };
  };
  return {
    name: 'jax-js',
    job: ({ peer }, inputs, upstream, part) => {
      if (!peer) return null;
      const maps = peer.kind === 'conv2d';
      const place = ({ data, shape }: HostArray, kind: 'map' | 'weight'): JaxArray => {
        if (!maps) return np.array(data, { shape: [...shape] });
        const [n, h, w, c] = shape;
        return kind === 'map'
          ? np.array(transposeMaps(data, shape), { shape: [n, c, h, w] })
          : np.array(transposeWeight(data, shape), { shape: [c, w, n, h] });
      };
      const arrays = Object.entries(inputs).map(([name, array]) => place(array, name === 'weight' ? 'weight' : 'map'));
      const f = partOf(functionOf(peer, inputs), arrays.length, part);
      if (part !== 'forward') arrays.push(place(upstream, 'map'));
      const compiled = jax.jit(f);
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
          const [n, c, h, w] = first.shape;
          const values = await settleSleeping(first.data());
          for (const array of rest) array.dispose();
          if (!maps) return values;
          return part === gradientPart('weight')
            ? transposeWeight(values, [h, w, c, n], true)
            : transposeMaps(values, [n, c, h, w], true);
        },
        dispose: () => {
          for (const array of arrays) array.dispose();
        },
      };
    },
  };
}
