/**
 * tfjs as a peer, in its fastest form: its kernels for the gradients of convolutions, and many launches per wait. It
 * waits as our device does, by sleeping between polls.
 */
import { settleSleeping } from '../../engine/node/index.ts';
import { gradientPart, type PeerOp, TOGETHER } from '../case.ts';
import { loadPeer } from './install.ts';
import type { Peer } from './peer.ts';

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

type TfFunction = (...inputs: TfTensor[]) => TfTensor;

const layerNormOf =
  (tf: Tfjs): TfFunction =>
  (x, gamma, beta) => {
    const { mean, variance } = tf.moments(x, -1, true);
    return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-5))), gamma), beta);
  };

const interactionOf = (tf: Tfjs): TfFunction => {
  const layerNorm = layerNormOf(tf);
  return (roi, parameters, gamma1, beta1, gamma2, beta2) => {
    const [r, , d] = roi.shape;
    const [k] = gamma1.shape;
    const w1 = tf.reshape(tf.slice(parameters, [0, 0], [r, d * k]), [r, d, k]);
    const w2 = tf.reshape(tf.slice(parameters, [0, d * k], [r, d * k]), [r, k, d]);
    return tf.relu(layerNorm(tf.matMul(tf.relu(layerNorm(tf.matMul(roi, w1), gamma1, beta1)), w2), gamma2, beta2));
  };
};

/** The forward pass of an op. */
function forwardOf(tf: Tfjs, op: PeerOp): TfFunction {
  if (op.kind === 'matmul') return (a, b) => tf.matMul(a, b, op.transposeA, op.transposeB);
  if (op.kind === 'conv2d') return (x, weight) => tf.conv2d(x, weight, op.stride, op.padding, 'NHWC', 1, 'floor');
  if (op.kind === 'layerNorm') return layerNormOf(tf);
  if (op.kind === 'interaction') return interactionOf(tf);
  return op.kind === 'softmax' ? (x) => tf.softmax(x) : (x) => tf.sum(x);
}

/**
 * A function that launches a part; null if tfjs does not have the part. Its first result is compared and waited for.
 * @param given the op's inputs, then the upstream gradient
 */
function launchOf(tf: Tfjs, op: PeerOp, given: readonly TfTensor[], part: string): (() => TfTensor[]) | null {
  const inputs = given.slice(0, -1);
  const upstream = given[given.length - 1];
  const forward = forwardOf(tf, op);
  if (part === 'forward') return () => [tf.tidy(() => forward(...inputs))];
  if (part === TOGETHER) {
    const gradients = tf.grads(forward);
    return () => tf.tidy(() => gradients(inputs, upstream));
  }
  if (op.kind !== 'conv2d') return null;
  const common = { strides: [op.stride, op.stride], pad: op.padding, dataFormat: 'NHWC', dimRoundingMode: 'floor' };
  const [x, filter] = inputs;
  const run: ReturnType<Tfjs['engine']>['runKernel'] = (...kernel) => tf.engine().runKernel(...kernel);
  if (part === gradientPart('x'))
    return () => [run('Conv2DBackpropInput', { dy: upstream, filter }, { ...common, inputShape: x.shape })];
  return () => [run('Conv2DBackpropFilter', { x, dy: upstream }, { ...common, filterShape: filter.shape })];
}

/** Opens tfjs. Throws if it does not run on WebGPU. */
export async function openTfjs(): Promise<Peer> {
  const tf = loadPeer<Tfjs>('@tensorflow/tfjs');
  loadPeer<unknown>('@tensorflow/tfjs-backend-webgpu');
  await tf.setBackend('webgpu');
  await tf.ready();
  if (tf.getBackend() !== 'webgpu') throw new Error(`tfjs: expected the backend webgpu, got ${tf.getBackend()}`);
  return {
    name: 'tfjs',
    job: ({ peer }, inputs, upstream, part) => {
      if (!peer) return null;
      const given = [...Object.values(inputs), upstream].map(({ data, shape }) => tf.tensor(data, shape));
      const dispose = (): void => {
        for (const tensor of given) tensor.dispose();
      };
      const launch = launchOf(tf, peer, given, part);
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
          const entry = tf.tidy(() => tf.slice(tf.reshape(last[0], [-1]), [0], [1]));
          await settleSleeping(entry.data());
          for (const tensor of [entry, ...last]) tensor.dispose();
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
