/**
 * Workloads for the tests of kernel variants: calls of ops on shapes that give at least one shape class to tune.
 * A new family of variants needs a workload here, and its name in the lists of tuned-variants.test.ts.
 */
import {
  backward,
  dynamicInteraction,
  groupNorm,
  layerNorm,
  max,
  multiheadAttention,
  Random,
  roiAlign,
  scaleShift,
  softmax,
  sum,
  type Device,
  type Tensor,
  type TensorDevice,
} from '../engine/index.ts';

export interface Workload {
  readonly name: string;
  /** Shapes of the operands. All operands get gradients. */
  readonly shapes: readonly (readonly number[])[];
  readonly run: (operands: readonly Tensor[]) => Tensor;
}

/** `count` boxes per image of height x width pixels. The first of each image is a point, the second is outside. */
function boxes(
  device: TensorDevice,
  images: number,
  count: number,
  [height, width]: readonly [number, number],
): Tensor {
  const random = new Random(5);
  const all = Array.from({ length: images * count }, (_, i) => {
    if (i % count === 0) return [width / 2, height / 2, width / 2, height / 2];
    if (i % count === 1) return [width + 20, 3, width + 60, 40];
    const [x, y] = [random.uniform() * width * 0.8, random.uniform() * height * 0.8];
    return [x, y, x + random.uniform() * width * 0.6, y + random.uniform() * height * 0.6];
  });
  return device.tensor(Float32Array.from(all.flat()), [images, count, 4]);
}

export const softmaxOf = (rows: number, n: number): Workload => ({
  name: `softmax of ${rows} rows of ${n}`,
  shapes: [[rows, n]],
  run: ([x]) => softmax(x),
});
export const layerNormOf = (rows: number, n: number): Workload => ({
  name: `layer norm of ${rows} rows of ${n}`,
  shapes: [[rows, n], [n], [n]],
  run: ([x, gamma, beta]) => layerNorm(x, gamma, beta),
});
export const groupNormOf = (shape: readonly number[], groups: number): Workload => ({
  name: `group norm of [${shape.join(', ')}] in ${groups} groups`,
  shapes: [shape, [shape.at(-1)!], [shape.at(-1)!]],
  run: ([x, gamma, beta]) => groupNorm(x, gamma, beta, groups),
});
export const reductionOf = (name: 'sum' | 'max', shape: readonly number[], axis: number): Workload => ({
  name: `${name} of [${shape.join(', ')}] over axis ${axis}`,
  shapes: [shape],
  run: ([x]) => (name === 'sum' ? sum(x, { axes: [axis] }) : max(x, { axis })),
});
export const attentionOf = (batch: number, tokens: number, d: number, heads: number): Workload => ({
  name: `attention of ${batch} x ${tokens} tokens, ${heads} heads of ${d / heads}`,
  shapes: [[batch, tokens, 3 * d]],
  run: ([qkv]) => multiheadAttention(qkv, heads),
});
export const interactionOf = (proposals: number, positions: number, d: number, k: number): Workload => ({
  name: `dynamic interaction of ${proposals} x ${positions}, d ${d}, k ${k}`,
  shapes: [[proposals, positions, d], [proposals, 2 * d * k], [k], [k], [d], [d]],
  run: ([roi, parameters, gamma1, beta1, gamma2, beta2]) =>
    dynamicInteraction(roi, parameters, gamma1, beta1, gamma2, beta2),
});
export const roiAlignOf = (
  images: number,
  count: number,
  sides: readonly (readonly [number, number])[],
  channels: number,
  options: { resolution?: number; samplingRatio?: number } = {},
): Workload => ({
  name: [
    `roiAlign of ${images} x ${count} boxes`,
    `${channels} channels of ${sides.map((side) => side.join('x')).join(' ')}`,
  ].join(', '),
  shapes: sides.map((side) => [images, ...side, channels]),
  run: (levels) =>
    roiAlign(levels, boxes(levels[0].device, images, count, [sides[0][0] * 4, sides[0][1] * 4]), options),
});

const ALL_WORKLOADS: readonly Workload[] = [
  softmaxOf(9363, 7),
  softmaxOf(1101, 61),
  softmaxOf(1, 70001),
  softmaxOf(301, 300),
  softmaxOf(6000, 12),
  layerNormOf(2101, 33),
  layerNormOf(1, 65540),
  layerNormOf(301, 256),
  layerNormOf(6001, 12),
  layerNormOf(4097, 128),
  groupNormOf([1, 33, 43, 48], 3),
  groupNormOf([3, 1, 1, 32768], 8),
  groupNormOf([2, 70, 70, 12], 1),
  groupNormOf([1, 37, 60, 31], 1),
  {
    name: 'scaleShift of [1, 37, 60, 31]',
    shapes: [[1, 37, 60, 31], [31], [31]],
    run: ([x, scale, shift]) => scaleShift(x, scale, shift, { activation: 'relu' }),
  },
  reductionOf('sum', [70001], 0),
  reductionOf('sum', [70001, 1], 1),
  reductionOf('sum', [300, 257], 1),
  reductionOf('sum', [2570, 36], 0),
  reductionOf('sum', [3, 5001, 7], 1),
  reductionOf('max', [20000, 5], 1),
  reductionOf('max', [1, 9001, 8], 1),
  attentionOf(2, 71, 78, 6),
  attentionOf(1, 100, 64, 4),
  attentionOf(3, 33, 320, 5),
  attentionOf(1, 300, 64, 1),
  interactionOf(37, 49, 64, 16),
  interactionOf(1101, 1, 64, 16),
  interactionOf(201, 9, 36, 20),
  roiAlignOf(
    2,
    21,
    [
      [17, 23],
      [9, 12],
      [5, 6],
      [3, 3],
    ],
    64,
  ),
  roiAlignOf(1, 131, [[40, 33]], 12),
  roiAlignOf(
    1,
    90,
    [
      [31, 64],
      [16, 32],
    ],
    16,
    { resolution: 5, samplingRatio: 3 },
  ),
  roiAlignOf(1, 300, [[1, 1]], 64),
];

/** Part of the names of the workloads to run, from the environment variable `WORKLOADS`; null: all workloads run. */
export const CHOSEN_WORKLOADS = process.env.WORKLOADS ?? null;
export const WORKLOADS = ALL_WORKLOADS.filter(({ name }) => name.includes(CHOSEN_WORKLOADS ?? ''));

/** Output and gradients of a workload, for operands that are the same in every call. */
export async function values(device: Device, { shapes, run }: Workload): Promise<Float32Array[]> {
  const tensors = device.scope(() => {
    const operands = shapes.map((shape, i) =>
      device.parameter(new Random(3, i).normalArray(shape.reduce((a, b) => a * b, 1)), shape),
    );
    const output = run(operands);
    backward(output, device.tensor(new Random(4).normalArray(output.size), output.shape));
    return [device.keep(output), ...operands];
  });
  const results: Float32Array[] = [];
  for (const [i, tensor] of tensors.entries()) {
    results.push((await (i === 0 ? tensor : tensor.grad!).read()) as Float32Array);
    if (i > 0) tensor.zeroGrad();
    tensor.dispose();
  }
  return results;
}
