/**
 * tfjs and jax-js doing what a case does, on the same adapter in the same process, waiting as our device does (sleeping between polls).
 * Each in the way that is fastest with it, as ours is captured and replayed: tfjs by its kernels for the gradients of convolutions, jax-js with everything under `jit`, both many
 * launches to a wait.
 */
import { create } from 'webgpu';
import { dawnFlags, settleSleeping } from '../../engine/node/index.ts';
import { TOGETHER, type Inputs, type OpCase, type PeerOp } from '../case.ts';
import type { Job } from '../measure.ts';
import type { HostArray } from '../references/reference.ts';
import { loadPeer } from './install.ts';

/** A peer's job for a row, and what it computes, in our layout. */
export interface PeerJob extends Job {
  readonly values: () => Promise<ArrayLike<number>>;
  /** Frees its inputs. */
  readonly dispose: () => void;
}

export interface Peer {
  readonly name: string;
  /** Our upstream gradient is what it differentiates with. Null where the peer has nothing for the part. */
  job(benchCase: OpCase, inputs: Inputs, upstream: HostArray, part: string): PeerJob | null;
}

/** Both look for the browser's objects; nothing of them is used but `navigator.gpu`. The driver was applied when our device was opened, and Dawn's flags are the same. */
export function pretendBrowser(): void {
  const canvas = { getContext: () => null };
  const define = (name: string, value: unknown): void => {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  };
  define('navigator', { gpu: create(dawnFlags()), userAgent: 'node', platform: 'linux', vendor: '' });
  define('self', globalThis);
  define('window', globalThis);
  define('document', { createElement: () => canvas });
  define(
    'OffscreenCanvas',
    class {
      getContext(): null {
        return null;
      }
    },
  );
}

/** [N, H, W, C] to [N, C, H, W], or with `back` the other way; `shape` is that of the data. */
export function transposeMaps(
  data: ArrayLike<number>,
  [n, ...rest]: readonly number[],
  back = false,
): Float32Array<ArrayBuffer> {
  const [h, w, c] = back ? [rest[1], rest[2], rest[0]] : rest;
  const out = new Float32Array(data.length);
  for (let i = 0; i < n; i++)
    for (let at = 0; at < h * w; at++)
      for (let k = 0; k < c; k++) {
        const [last, first] = [(i * h * w + at) * c + k, (i * c + k) * h * w + at];
        if (back) out[last] = data[first];
        else out[first] = data[last];
      }
  return out;
}

/** [kh, kw, C, O] to [O, C, kh, kw], or back. */
export function transposeWeight(
  data: ArrayLike<number>,
  [kh, kw, c, o]: readonly number[],
  back = false,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let at = 0; at < kh * kw; at++)
    for (let i = 0; i < c; i++)
      for (let j = 0; j < o; j++) {
        const [ours, theirs] = [(at * c + i) * o + j, (j * c + i) * kh * kw + at];
        if (back) out[ours] = data[theirs];
        else out[theirs] = data[ours];
      }
  return out;
}

// ------------------------------------------------------------------ tfjs

interface TfTensor {
  readonly shape: number[];
  data(): Promise<Float32Array>;
  dispose(): void;
}

interface Tfjs {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  getBackend(): string;
  tensor(data: Float32Array, shape: readonly number[]): TfTensor;
  tidy<T>(body: () => T): T;
  matMul(a: TfTensor, b: TfTensor, transposeA?: boolean, transposeB?: boolean): TfTensor;
  conv2d(
    x: TfTensor,
    weight: TfTensor,
    strides: number,
    pad: number,
    dataFormat: 'NHWC',
    dilations: number,
    rounding: 'floor',
  ): TfTensor;
  add(a: TfTensor, b: TfTensor | number): TfTensor;
  sub(a: TfTensor, b: TfTensor): TfTensor;
  mul(a: TfTensor, b: TfTensor): TfTensor;
  rsqrt(x: TfTensor): TfTensor;
  relu(x: TfTensor): TfTensor;
  sum(x: TfTensor): TfTensor;
  softmax(x: TfTensor): TfTensor;
  moments(x: TfTensor, axis: number, keepDims: boolean): { mean: TfTensor; variance: TfTensor };
  reshape(x: TfTensor, shape: readonly number[]): TfTensor;
  slice(x: TfTensor, begin: readonly number[], size: readonly number[]): TfTensor;
  grads(f: (...inputs: TfTensor[]) => TfTensor): (inputs: TfTensor[], upstream: TfTensor) => TfTensor[];
  engine(): {
    runKernel(name: string, inputs: Record<string, TfTensor>, attributes: Record<string, unknown>): TfTensor;
  };
}

/** Throws where it does not run on WebGPU. */
export async function openTfjs(): Promise<Peer> {
  const tf = loadPeer<Tfjs>('@tensorflow/tfjs');
  loadPeer<unknown>('@tensorflow/tfjs-backend-webgpu');
  await tf.setBackend('webgpu');
  await tf.ready();
  if (tf.getBackend() !== 'webgpu') throw new Error(`tfjs: expected the backend webgpu, got ${tf.getBackend()}`);

  const layerNorm = (x: TfTensor, gamma: TfTensor, beta: TfTensor): TfTensor => {
    const { mean, variance } = tf.moments(x, -1, true);
    return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-5))), gamma), beta);
  };
  const interaction = (
    roi: TfTensor,
    parameters: TfTensor,
    gamma1: TfTensor,
    beta1: TfTensor,
    gamma2: TfTensor,
    beta2: TfTensor,
  ): TfTensor => {
    const [r, , d] = roi.shape;
    const [k] = gamma1.shape;
    const w1 = tf.reshape(tf.slice(parameters, [0, 0], [r, d * k]), [r, d, k]);
    const w2 = tf.reshape(tf.slice(parameters, [0, d * k], [r, d * k]), [r, k, d]);
    return tf.relu(layerNorm(tf.matMul(tf.relu(layerNorm(tf.matMul(roi, w1), gamma1, beta1)), w2), gamma2, beta2));
  };
  const functionOf = (op: PeerOp): ((...inputs: TfTensor[]) => TfTensor) => {
    if (op.kind === 'matmul') return (a, b) => tf.matMul(a, b, op.transposeA, op.transposeB);
    if (op.kind === 'conv2d') return (x, weight) => tf.conv2d(x, weight, op.stride, op.padding, 'NHWC', 1, 'floor');
    if (op.kind === 'layerNorm') return layerNorm;
    if (op.kind === 'interaction') return interaction;
    return op.kind === 'softmax' ? (x) => tf.softmax(x) : (x) => tf.sum(x);
  };
  /** A launch; the first tensor is what is compared and waited for. */
  const launchOf = (op: PeerOp, inputs: TfTensor[], upstream: TfTensor, part: string): (() => TfTensor[]) | null => {
    const f = functionOf(op);
    if (part === 'forward') return () => [tf.tidy(() => f(...inputs))];
    if (part === TOGETHER) {
      const gradients = tf.grads(f);
      return () => tf.tidy(() => gradients(inputs, upstream));
    }
    if (op.kind !== 'conv2d') return null;
    const common = { strides: [op.stride, op.stride], pad: op.padding, dataFormat: 'NHWC', dimRoundingMode: 'floor' };
    const [x, filter] = inputs;
    if (part === 'gradient by x')
      return () => [
        tf.engine().runKernel('Conv2DBackpropInput', { dy: upstream, filter }, { ...common, inputShape: x.shape }),
      ];
    return () => [
      tf.engine().runKernel('Conv2DBackpropFilter', { x, dy: upstream }, { ...common, filterShape: filter.shape }),
    ];
  };
  return {
    name: 'tfjs',
    job: ({ peer }, inputs, upstream, part) => {
      if (!peer) return null;
      const given = [...Object.values(inputs), upstream].map(({ data, shape }) => tf.tensor(data, shape));
      const dispose = (): void => {
        for (const tensor of given) tensor.dispose();
      };
      const launch = launchOf(peer, given.slice(0, -1), given[given.length - 1], part);
      if (!launch) {
        dispose();
        return null;
      }
      return {
        name: 'tfjs',
        run: async (times) => {
          let last: TfTensor[] = [];
          for (let i = 0; i < times; i++) {
            for (const tensor of last) tensor.dispose();
            last = launch();
          }
          const one = tf.tidy(() => tf.slice(tf.reshape(last[0], [-1]), [0], [1]));
          await settleSleeping(one.data());
          for (const tensor of [one, ...last]) tensor.dispose();
        },
        values: async () => {
          const [first, ...rest] = launch();
          const values = await settleSleeping(first.data());
          for (const tensor of [first, ...rest]) tensor.dispose();
          return values;
        },
        dispose,
      };
    },
  };
}

// ------------------------------------------------------------------ jax-js

interface JaxArray {
  /** Another reference: an operation consumes what it is given. */
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

/** Throws where it does not run on WebGPU. */
export async function openJax(): Promise<Peer> {
  const jax = loadPeer<Jax>('@jax-js/jax');
  if (!(await jax.init('webgpu')).includes('webgpu')) throw new Error('jax-js: WebGPU is not among its devices');
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
  /** The function of all inputs and the upstream gradient that a part is; the first result is what is compared. */
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
    const by = part === 'gradient by x' ? 0 : 1;
    return (...all) => {
      const held = all[1 - by];
      const [output, pull] = jax.vjp((moving) => (by === 0 ? f(moving, held) : f(held, moving)), [all[by]]);
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
          return part === 'gradient by weight'
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
