/**
 * Checks one op case on one device. The output is compared with a float64 reference, and gradients with central
 * differences of the reference. Two runs give the same bits, and no GPU memory stays allocated.
 */
import fc from 'fast-check';
import { expect } from 'vitest';
import { backward, Random, type Device, type DType, type Tensor } from '../engine/index.ts';

/** A float64 array with a shape, for references. */
export interface NdArray {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export interface OpInput extends NdArray {
  /** Default f32. Integer inputs get no gradient. */
  readonly dtype?: DType;
  /** Whether the input requires a gradient; default: true for f32. */
  readonly differentiate?: boolean;
}

export interface OpCase {
  /** What the case covers, e.g. "row longer than a tile". */
  readonly name: string;
  readonly inputs: readonly OpInput[];
  run(inputs: readonly Tensor[]): Tensor;
  /** The same function in float64, written for clarity. */
  reference(inputs: readonly NdArray[]): NdArray;
  /** Allowed relative L2 error; default 1e-5, which is f32 rounding with room for sums of some thousand terms. */
  readonly tolerance?: number;
  /** Step of the central differences, relative to max(1, |x|); default 1e-5. Smaller near kinks. */
  readonly step?: number;
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Values in rows of `size`. */
export function chunk<T>(values: readonly T[], size: number): T[][] {
  return Array.from({ length: values.length / size }, (_, i) => values.slice(i * size, (i + 1) * size));
}

export function ndarray(shape: readonly number[], data: ArrayLike<number>): NdArray {
  if (data.length !== sizeOf(shape)) throw new Error(`ndarray: expected ${sizeOf(shape)} values, got ${data.length}`);
  return { shape, data: Float64Array.from(data) };
}

/** Normal values, rounded to f32 so that op and reference get the same numbers. */
export function randomInput(
  shape: readonly number[],
  seed: number,
  options: { scale?: number; shift?: number; awayFromZero?: number; differentiate?: boolean } = {},
): OpInput {
  const { scale = 1, shift = 0, awayFromZero = 0, differentiate } = options;
  const random = new Random(seed);
  const data = Float64Array.from({ length: sizeOf(shape) }, () => {
    const value = random.normal() * scale + shift;
    return Math.fround(
      Math.abs(value) < awayFromZero ? Math.sign(value || 1) * (awayFromZero + Math.abs(value)) : value,
    );
  });
  return { shape, data, ...(differentiate === undefined ? {} : { differentiate }) };
}

/** Integers in 0 .. bound - 1 as a u32 input. */
export function integerInput(shape: readonly number[], bound: number, seed: number): OpInput {
  const random = new Random(seed);
  return { shape, data: Float64Array.from({ length: sizeOf(shape) }, () => random.integer(bound)), dtype: 'u32' };
}

/** Cases from a fast-check arbitrary; every run has the same cases. */
export function sampleCases<T>(
  count: number,
  arbitrary: fc.Arbitrary<T>,
  toCase: (value: T, index: number) => OpCase,
): OpCase[] {
  return fc.sample(arbitrary, { seed: 20220521, numRuns: count }).map(toCase);
}

/** sqrt(sum (a-b)^2 / sum b^2). NaN or infinity on one side only gives infinity. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0,
    norm = 0;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) {
      if (Number.isFinite(expected[i])) norm += expected[i] ** 2;
      continue;
    }
    if (!Number.isFinite(actual[i]) || !Number.isFinite(expected[i])) return Infinity;
    difference += (actual[i] - expected[i]) ** 2;
    norm += expected[i] ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / Math.max(norm, 1e-30));
}

function upload(device: Device, input: OpInput): Tensor {
  if (input.dtype === 'u32') return device.tensor(Uint32Array.from(input.data), input.shape);
  if (input.dtype === 'i32') return device.tensor(Int32Array.from(input.data), input.shape);
  return device.tensor(Float32Array.from(input.data), input.shape);
}

async function evaluate(
  device: Device,
  op: OpCase,
  cotangent: Float32Array<ArrayBuffer> | null,
  inference = false,
): Promise<{ shape: readonly number[]; output: Float64Array; gradients: (Float64Array | null)[] }> {
  const kept = device.scope(() => {
    const inputs = op.inputs.map((input) => {
      const tensor = device.keep(upload(device, input));
      tensor.requiresGrad = cotangent !== null && (input.dtype ?? 'f32') === 'f32' && (input.differentiate ?? true);
      return tensor;
    });
    const output = inference ? device.noGrad(() => op.run(inputs)) : op.run(inputs);
    if (cotangent && output.requiresGrad) backward(output, device.tensor(cotangent, output.shape));
    return { inputs, output: device.keep(output) };
  });
  const output = Float64Array.from(await kept.output.read());
  const gradients: (Float64Array | null)[] = [];
  for (const input of kept.inputs) {
    gradients.push(input.grad ? Float64Array.from(await input.grad.read()) : null);
    input.zeroGrad();
    input.dispose();
  }
  const { shape } = kept.output;
  kept.output.dispose();
  return { shape, output, gradients };
}

/** Coordinates of the central differences: all coordinates of a small input, a sample of a large input. */
function coordinates(size: number, random: Random): number[] {
  return size <= 24
    ? Array.from({ length: size }, (_, i) => i)
    : Array.from({ length: 24 }, () => random.integer(size));
}

const weightedSum = (values: ArrayLike<number>, weights: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * weights[i];
  return sum;
};

/** Checks an op case. Throws an assertion error that names the property. */
export async function checkOp(device: Device, op: OpCase, differentiable: boolean): Promise<void> {
  const before = device.memory().liveBytes;
  const expected = op.reference(op.inputs);
  const random = new Random(7);
  const cotangent = differentiable ? random.normalArray(expected.data.length) : null;
  const { shape, output, gradients } = await evaluate(device, op, cotangent);
  const tolerance = op.tolerance ?? 1e-5;
  expect(shape, 'output shape').toEqual([...expected.shape]);
  expect(relativeError(output, expected.data), 'relative L2 error of the output').toBeLessThanOrEqual(tolerance);

  const again = await evaluate(device, op, cotangent);
  expect(again.output, 'the same bits twice').toEqual(output);
  expect(again.gradients, 'the same gradient bits twice').toEqual(gradients);
  if (device.force.convolution) {
    // Without gradients the op may choose other variants.
    const inferred = await evaluate(device, op, null, true);
    expect(
      relativeError(inferred.output, expected.data),
      'relative L2 error of the output in inference',
    ).toBeLessThanOrEqual(tolerance);
  }
  expect(device.memory().liveBytes, 'live GPU bytes afterwards').toBe(before);
  if (!cotangent) return;
  op.inputs.forEach((input, which) => {
    if ((input.dtype ?? 'f32') !== 'f32' || input.differentiate === false || input.data.length === 0) return;
    checkGradient(op, which, { gradient: gradients[which], cotangent, random });
  });
}

/**
 * Compares the gradient with respect to one input with central differences of the reference: for single coordinates,
 * and along a random direction. A gradient that is null counts as zero.
 */
function checkGradient(
  op: OpCase,
  which: number,
  {
    gradient: given,
    cotangent,
    random,
  }: { readonly gradient: Float64Array | null; readonly cotangent: Float32Array; readonly random: Random },
): void {
  const input = op.inputs[which];
  const gradient = given ?? new Float64Array(input.data.length);
  const tolerance = 10 * (op.tolerance ?? 1e-5) + 1e-5;
  const step = op.step ?? 1e-5;
  const loss = (inputs: readonly NdArray[]): number => weightedSum(op.reference(inputs).data, cotangent);
  /** The central difference of the loss when `move` changes the input by `size` and by -`size`. */
  const difference = (move: (data: Float64Array, amount: number) => void, size: number): number => {
    const [plus, minus] = [1, -1].map((sign) => {
      const data = input.data.slice();
      move(data, sign * size);
      return loss(op.inputs.map((other, i) => (i === which ? { shape: input.shape, data } : other)));
    });
    return (plus - minus) / (2 * size);
  };

  const picked = coordinates(input.data.length, random);
  const numeric = picked.map((i) =>
    difference(
      (data, amount) => {
        data[i] += amount;
      },
      step * Math.max(1, Math.abs(input.data[i])),
    ),
  );
  // Errors are relative to the typical size of the whole gradient, because single coordinates may be close to zero.
  const rms = Math.sqrt(weightedSum(gradient, gradient) / gradient.length);
  const size = Math.max(Math.sqrt(weightedSum(numeric, numeric) / numeric.length), rms, 1e-12);
  const worst = Math.max(...numeric.map((value, i) => Math.abs(value - gradient[picked[i]])));
  expect(worst / size, `gradient of input ${which} by single coordinates`).toBeLessThanOrEqual(tolerance);

  const direction = new Random(11, which).normalArray(input.data.length);
  const directional = difference((data, amount) => {
    for (let i = 0; i < data.length; i++) data[i] += amount * direction[i];
  }, step / Math.sqrt(input.data.length));
  const scale = Math.max(rms * Math.sqrt(gradient.length), Math.abs(directional), 1e-12);
  expect(
    Math.abs(directional - weightedSum(gradient, direction)) / scale,
    `gradient of input ${which} along a random direction`,
  ).toBeLessThanOrEqual(tolerance);
}
