/** Self-tests of a device, of half a second each: whether its results are correct, and how fast it is. */
import { matmul, Random, sigmoid, type Device } from '../../engine/index.ts';

export interface SelfTest {
  readonly name: string;
  /** Largest absolute difference from float64. */
  readonly error: number;
  /** Largest error that rounding to f32 can cause. Each test gives the reason. */
  readonly tolerance: number;
  /** The adapter's speed in `unit`. */
  readonly rate: number;
  readonly unit: 'GB/s' | 'GFLOP/s';
}

/** Whether the result is correct. An error of NaN does not pass. */
export const passes = ({ error, tolerance }: SelfTest): boolean => error <= tolerance;

const MEASURED_MS = 300;

/** Repeats `work` for about MEASURED_MS. Returns seconds per repetition. */
async function secondsEach(device: Device, work: () => void): Promise<number> {
  const batch = 8;
  const start = performance.now();
  for (let count = 0; ; ) {
    for (let i = 0; i < batch; i++) device.scope(() => device.noGrad(work));
    await device.synchronize();
    count += batch;
    const elapsed = performance.now() - start;
    if (elapsed >= MEASURED_MS) return elapsed / 1000 / count;
  }
}

/**
 * Tests an elementwise op over an odd number of elements: whether shaders compile, and whether data can be written and
 * read.
 */
async function testSigmoid(device: Device): Promise<SelfTest> {
  const count = 2 ** 20 + 1;
  const values = new Float32Array(new Random(1).normalArray(count, 0, 4));
  const input = device.tensor(values);
  const output = sigmoid(input);
  const result = await output.read();
  output.dispose();
  let error = 0;
  for (let i = 0; i < count; i++) error = Math.max(error, Math.abs(result[i] - 1 / (1 + Math.exp(-values[i]))));
  const seconds = await secondsEach(device, () => {
    sigmoid(input);
  });
  input.dispose();
  // WGSL allows exp(x) an error of 3 + 2 |x| ulp: about 40 ulp at |x| = 20.
  return {
    name: `sigmoid of ${count.toLocaleString('en')} numbers`,
    error,
    tolerance: 1e-5,
    rate: (count * 8) / seconds / 1e9,
    unit: 'GB/s',
  };
}

/** Tests a product of square matrices. Compares every 61st entry, so that all rows and columns occur. */
export async function testMatmul(device: Device): Promise<SelfTest> {
  const size = 512;
  const random = new Random(2);
  const [left, right] = [0, 1].map(() => new Float32Array(random.uniformArray(size * size, -1, 1)));
  const [a, b] = [left, right].map((values) => device.tensor(values, [size, size]));
  const product = matmul(a, b);
  const result = await product.read();
  product.dispose();
  let error = 0;
  for (let entry = 0; entry < size * size; entry += 61) {
    const row = Math.floor(entry / size),
      column = entry % size;
    let sum = 0;
    for (let k = 0; k < size; k++) sum += left[row * size + k] * right[k * size + column];
    error = Math.max(error, Math.abs(result[entry] - sum));
  }
  const seconds = await secondsEach(device, () => {
    matmul(a, b);
  });
  a.dispose();
  b.dispose();
  // The sum of 512 products of size up to 1, in any order: at most 512 roundings of sums that stay below about 32.
  return {
    name: `matmul ${size} x ${size} x ${size}`,
    error,
    tolerance: 1e-3,
    rate: (2 * size ** 3) / seconds / 1e9,
    unit: 'GFLOP/s',
  };
}

/** All self-tests, in order. Together they take about a second. */
export async function selfTest(device: Device): Promise<readonly SelfTest[]> {
  return [await testSigmoid(device), await testMatmul(device)];
}
