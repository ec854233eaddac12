/** Operand textures: a matrix that is still in one is not copied again, and never read from there once its buffer was written. */
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { linear, matmul, Random, type Device, type Tensor } from '../engine/index.ts';
import { forcedDevices } from './devices.ts';

const { device } = (await forcedDevices()).find(({ device: { force } }) => force.operands === 'texture')!;
const M = 16, K = 64, N = 64;

const values = (size: number, seed: number): Float32Array<ArrayBuffer> => {
  const random = new Random(seed);
  return Float32Array.from({ length: size }, () => random.uniform() - 0.5);
};

const product = (a: ArrayLike<number>, b: ArrayLike<number>): number[] => Array.from({ length: M * N }, (_, i) => {
  let sum = 0;
  for (let k = 0; k < K; k++) sum += a[Math.floor(i / N) * K + k] * b[k * N + (i % N)];
  return sum;
});

function expectClose(actual: ArrayLike<number>, expected: readonly number[]): void {
  expected.forEach((value, i) => {
    if (!(Math.abs(actual[i] - value) <= 1e-5)) throw new Error(`entry ${i} must be ${value}, got ${actual[i]}`);
  });
}

/** Copies into textures that `body` records. */
function copiesOf(on: Device, body: () => void): number {
  const spy = vi.spyOn(Object.getPrototypeOf(on.gpu.createCommandEncoder()) as GPUCommandEncoder, 'copyBufferToTexture');
  try {
    body();
    return spy.mock.calls.length;
  } finally {
    spy.mockRestore();
  }
}

describe('operand textures', () => {
  test('an operand is copied once, until its buffer is written or it is forgotten', () => {
    device.scope(() => {
      const a = device.tensor(values(M * K, 1), [M, K]), b = device.tensor(values(K * N, 2), [K, N]);
      expect(copiesOf(device, () => matmul(a, b)), 'both are new').toBe(2);
      expect(copiesOf(device, () => matmul(a, b)), 'both are there').toBe(0);
      device.write(a, values(M * K, 3));
      expect(copiesOf(device, () => matmul(a, b)), 'one was written').toBe(1);
      device.copy(device.tensor(values(K * N, 4), [K, N]), b);
      expect(copiesOf(device, () => matmul(a, b)), 'the other was copied to').toBe(1);
      device.forgetOperands();
      expect(copiesOf(device, () => matmul(a, b)), 'both were forgotten').toBe(2);
    });
  });

  test('products follow writes, copies and what kernels write, in any order', async () => {
    const step = fc.constantFrom('write', 'copy', 'kernel', 'view', 'reuse', 'nothing');
    await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (steps) => {
      const hostA = values(M * K, 5), hostB = values(K * N, 6);
      let a: Tensor = device.keep(device.tensor(hostA, [M, K]));
      const b = device.keep(device.tensor(hostB, [K, N]));
      for (const [i, kind] of steps.entries()) {
        const next = values(M * K, 10 + i);
        if (kind === 'write') device.write(a, next);
        else if (kind === 'copy') device.scope(() => device.copy(device.tensor(next, [M, K]), a));
        else if (kind === 'view') device.scope(() => device.write(device.view(a, K, [K]), next.subarray(K, 2 * K)));
        else if (kind === 'kernel' || kind === 'reuse') {
          // `reuse`: the old buffer goes back to the pool first, so that the new values may lie where the old ones were.
          if (kind === 'reuse') a.dispose();
          const identity = Float32Array.from({ length: K * K }, (_, j) => (Math.floor(j / K) === j % K ? 1 : 0));
          const old = a;
          a = device.scope(() => device.keep(linear(device.tensor(next, [M, K]), device.tensor(identity, [K, K]), null)));
          if (kind === 'kernel') old.dispose();
        }
        if (kind === 'view') hostA.set(next.subarray(K, 2 * K), K);
        else if (kind !== 'nothing') hostA.set(next);
        const result = device.scope(() => device.keep(matmul(a, b)));
        expectClose(await result.read(), product(hostA, hostB));
        result.dispose();
      }
      a.dispose();
      b.dispose();
    }), { seed: 20220521, numRuns: 15 });
  });

  test('a replay relies on nothing that was in a texture before, and leaves nothing to rely on', async () => {
    const a = device.keep(device.tensor(values(M * K, 7), [M, K])), b = device.keep(device.tensor(values(K * N, 8), [K, N]));
    device.scope(() => matmul(a, b));
    const capture = device.capture(() => [matmul(a, b), matmul(a, b)]);
    for (const seed of [21, 22]) {
      const next = values(M * K, seed);
      device.write(a, next);
      device.scope(() => matmul(a, b));
      capture.replay();
      for (const output of capture.outputs) expectClose(await output.read(), product(next, values(K * N, 8)));
      const plain = device.scope(() => device.keep(matmul(a, b)));
      expectClose(await plain.read(), product(next, values(K * N, 8)));
      plain.dispose();
    }
    capture.dispose();
    a.dispose();
    b.dispose();
  });
});
