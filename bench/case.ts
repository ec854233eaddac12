/** What a benchmark case is, and how it becomes jobs on a device: forward and gradients through the engine's public ops, each checked before it is timed. */
import { AdamW, backward, type Device, type Tensor } from '../engine/index.ts';
import { largestError, type Job } from './measure.ts';
import type { Entry, HostArray, Reference } from './references/reference.ts';

export type Inputs = Readonly<Record<string, HostArray>>;

/** Gradients that one row measures. */
export interface GradientPart {
  readonly by: readonly string[];
  /** Inputs that must be read for it, besides the upstream gradient; default: all. */
  readonly reads?: readonly string[];
  readonly flops: number;
}

/** What a peer needs to know to do the same. */
export type PeerOp =
  | { readonly kind: 'matmul'; readonly transposeA: boolean; readonly transposeB: boolean }
  | { readonly kind: 'conv2d'; readonly stride: number; readonly padding: number }
  | { readonly kind: 'interaction' | 'layerNorm' | 'softmax' | 'sum' };

export interface OpCase {
  readonly kind: 'op';
  /** E.g. `matmul nt`, `conv 3x3`. */
  readonly op: string;
  readonly shape: string;
  readonly inputs: () => Inputs;
  readonly run: (inputs: Readonly<Record<string, Tensor>>) => Tensor;
  readonly flops: number;
  readonly gradients: readonly GradientPart[];
  readonly reference: (inputs: Inputs, upstream: HostArray, blocks: readonly number[]) => Reference;
  /** Where the float64 reference of the whole is too slow: entries of the first axis that are checked; the checked upstream gradient is zero elsewhere. */
  readonly blocks?: { readonly axis: number; readonly checked: readonly number[] };
  readonly peer?: PeerOp;
}

export interface AdamWCase {
  readonly kind: 'adamw';
  readonly op: string;
  readonly shape: string;
  readonly parameters: number;
  readonly tensors: number;
}

export type BenchCase = OpCase | AdamWCase;

/** One row of the table. */
export interface Row {
  readonly op: string;
  readonly shape: string;
  /** `forward`, `gradient by x`, `gradients`, `step`. */
  readonly part: string;
  readonly flops: number;
  /** Bytes of what is read and written, each once: what no kernel can do without. */
  readonly bytes: number;
  /** Records one execution. */
  readonly launch: () => void;
  /** The largest error relative to the root mean square; see `largestError`. */
  readonly check: () => Promise<number>;
}

/** Executions recorded one by one: what who calls the ops sees. */
export const eagerJob = (device: Device, { part, launch }: Pick<Row, 'part' | 'launch'>): Job => ({
  name: part,
  run: async (times) => {
    for (let i = 0; i < times; i++) launch();
    await device.synchronize();
  },
});

/** Captured once, each execution a replay. Does all that an eager one does on the device. */
export const capturedJob = (
  device: Device,
  { part, launch }: Pick<Row, 'part' | 'launch'>,
): Job & { dispose(): void } => {
  const capture = device.capture(launch);
  return {
    name: `${part}, captured`,
    run: async (times) => {
      for (let i = 0; i < times; i++) capture.replay();
      await device.synchronize();
    },
    dispose: () => capture.dispose(),
  };
};

/** Of f32: rounding of sums of thousands of terms, Winograd's transforms, exp on software adapters; a wrong index or a missing term is off by 1. */
export const TOLERANCE = 2e-4;

/** Values in -0.5 .. 0.5, the same for the same seed; faster than the engine's generator, which is made to be the same on devices. */
export function noise(length: number, seed: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(length);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = (state >>> 0) / 0x100000000 - 0.5;
  }
  return values;
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

export const random = (shape: readonly number[], seed: number): HostArray => ({
  shape,
  data: noise(sizeOf(shape), seed),
});

const EDGE = 32;
const WITHIN = 160;

/** Flat indices to check of an array: all of a small one; otherwise the first, the last, and some between them. */
export function sampleIndices(size: number): number[] {
  if (size <= 2 * EDGE + WITHIN) return Array.from({ length: size }, (_, i) => i);
  const between = noise(WITHIN, size);
  return [
    ...new Set([
      ...Array.from({ length: EDGE }, (_, i) => i),
      ...Array.from(between, (v) => Math.floor((v + 0.5) * size)),
      ...Array.from({ length: EDGE }, (_, i) => size - EDGE + i),
    ]),
  ];
}

/** The indices to check of an array of a case: where only blocks are checked, and it is one along their axis, those within them. */
export function checkedIndices({ blocks }: Pick<OpCase, 'blocks'>, shape: readonly number[]): number[] {
  const size = sizeOf(shape);
  if (!blocks || shape[0] !== blocks.axis) return sampleIndices(size);
  const each = size / blocks.axis;
  return blocks.checked.flatMap((entry) => sampleIndices(each).map((i) => entry * each + i));
}

const label = ({ by }: GradientPart): string => (by.length > 1 ? 'gradients' : `gradient by ${by[0]}`);

/** The names of a case's rows, without a device. */
export const partsOf = (benchCase: BenchCase): string[] =>
  benchCase.kind === 'adamw' ? ['step'] : ['forward', ...benchCase.gradients.map(label)];

/** The part of rows that time forward and all gradients together: what a peer's differentiation gives for ops composed of several. */
export const TOGETHER = 'forward and gradients';

/** The upstream gradient of a case. */
export const upstreamOf = (shape: readonly number[]): HostArray => random(shape, 99);

/** Uploads a case's inputs and makes its rows. The device belongs to the case: recorded graphs live on it until it is destroyed. */
export function prepare(device: Device, benchCase: BenchCase): Row[] {
  return benchCase.kind === 'op' ? prepareOp(device, benchCase, benchCase.inputs()) : [prepareAdamW(device, benchCase)];
}

/** @param together adds a row for forward and all gradients at once */
export function prepareOp(device: Device, benchCase: OpCase, host: Inputs, together = false): Row[] {
  const { op, shape, run, flops, gradients, reference, blocks } = benchCase;
  const names = Object.keys(host);
  const tensors = Object.fromEntries(
    names.map((name) => [name, device.keep(device.tensor(host[name].data, host[name].shape))]),
  );
  const bytesOf = (list: readonly string[]): number => list.reduce((sum, name) => sum + 4 * host[name].data.length, 0);
  const outputShape = device.noGrad(() => device.scope(() => run(tensors).shape));
  const upstream = upstreamOf(outputShape);
  const cotangent = device.keep(device.tensor(upstream.data, outputShape));
  // Checked by another one where only blocks are: the gradients by what all blocks share are then sums over these blocks.
  const masked: HostArray = blocks ? { shape: outputShape, data: upstream.data.slice() } : upstream;
  if (blocks) {
    const each = upstream.data.length / blocks.axis;
    for (let entry = 0; entry < blocks.axis; entry++)
      if (!blocks.checked.includes(entry)) masked.data.fill(0, entry * each, (entry + 1) * each);
  }
  const expected = reference(host, masked, blocks?.checked ?? []);
  const errorOf = async (tensor: Tensor, entry: Entry): Promise<number> => {
    const indices = checkedIndices(benchCase, tensor.shape);
    const values = await tensor.read();
    return largestError(
      indices.map((i) => values[i]),
      indices.map(entry),
    );
  };
  const forward: Row = {
    op,
    shape,
    part: 'forward',
    flops,
    bytes: bytesOf(names) + 4 * upstream.data.length,
    launch: () => {
      device.forgetOperands();
      device.noGrad(() =>
        device.scope(() => {
          run(tensors);
        }),
      );
    },
    check: async () => {
      const output = device.noGrad(() => device.scope(() => device.keep(run(tensors))));
      const error = await errorOf(output, expected.output);
      output.dispose();
      return error;
    },
  };
  const leavesOf = (by: readonly string[]): Record<string, Tensor> =>
    Object.fromEntries(
      names.map((name) => {
        const leaf = device.keep(device.alias(tensors[name], tensors[name].shape));
        leaf.requiresGrad = by.includes(name);
        return [name, leaf];
      }),
    );
  const gradientError = async (by: readonly string[], leaves: Readonly<Record<string, Tensor>>): Promise<number> => {
    let worst = 0;
    for (const name of by) {
      const { grad } = leaves[name];
      if (!grad) throw new Error(`${op}: no gradient by ${name}`);
      worst = Math.max(worst, await errorOf(grad, expected.gradients[name]));
      leaves[name].zeroGrad();
    }
    return worst;
  };
  const checkedUpstream = (): Tensor => (blocks ? device.tensor(masked.data, outputShape) : cotangent);
  const rows = gradients.map((part): Row => {
    const leaves = leavesOf(part.by);
    const output = device.keep(run(leaves));
    return {
      op,
      shape,
      part: label(part),
      flops: part.flops,
      bytes: 4 * upstream.data.length + bytesOf(part.reads ?? names) + bytesOf(part.by),
      launch: () => {
        device.forgetOperands();
        backward(output, cotangent);
        for (const name of part.by) leaves[name].zeroGrad();
      },
      check: () => {
        device.scope(() => backward(output, checkedUpstream()));
        return gradientError(part.by, leaves);
      },
    };
  });
  if (!together || gradients.length === 0) return [forward, ...rows];
  const by = gradients.flatMap((part) => part.by);
  const leaves = leavesOf(by);
  return [
    forward,
    ...rows,
    {
      op,
      shape,
      part: TOGETHER,
      flops: rows.reduce((sum, row) => sum + row.flops, flops),
      bytes: rows.reduce((sum, row) => sum + row.bytes, forward.bytes),
      launch: () => {
        device.forgetOperands();
        device.scope(() => backward(run(leaves), cotangent));
        for (const name of by) leaves[name].zeroGrad();
      },
      check: () => {
        device.scope(() => backward(run(leaves), checkedUpstream()));
        return gradientError(by, leaves);
      },
    },
  ];
}

/** Work and traffic of a parameter in a step; the norm's and the gathering's are not counted, since they could be spared. */
const ADAMW_FLOPS = 14;
const ADAMW_BYTES = 4 * 7;

function prepareAdamW(device: Device, { op, shape, parameters, tensors }: AdamWCase): Row {
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
    // To be called before the timing: the first step's moments are the gradient and its square, so that it moves by the learning rate.
    check: async () => {
      step();
      let worst = 0;
      for (const [i, { tensor }] of list.entries()) {
        const before = noise(each, i + 1);
        const values = await tensor.read();
        const indices = sampleIndices(each);
        const moved = indices.map((at) => values[at] - before[at]);
        const expected = indices.map(
          (at) =>
            -learningRate * (weightDecay * before[at] + gradients[i][at] / (Math.abs(gradients[i][at]) + epsilon)),
        );
        worst = Math.max(worst, largestError(moved, expected));
      }
      return worst;
    },
  };
}
