/**
 * Operand textures: a matrix that is still in a texture is not copied again. After a write to the buffer of the matrix,
 * the old copy is never read.
 */
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { conv2d, linear, matmul, Random, UnsupportedOptionError, type Device, type Tensor } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { forcedDevices } from './devices.ts';

const { device } = (await forcedDevices()).find(({ device: { force } }) => force.operands === 'texture')!;
const M = 16,
  K = 64,
  N = 64;

const values = (size: number, seed: number): Float32Array<ArrayBuffer> => {
  const random = new Random(seed);
  return Float32Array.from({ length: size }, () => random.uniform() - 0.5);
};

const product = (a: ArrayLike<number>, b: ArrayLike<number>): number[] =>
  Array.from({ length: M * N }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < K; k++) sum += a[Math.floor(i / N) * K + k] * b[k * N + (i % N)];
    return sum;
  });

function expectClose(actual: ArrayLike<number>, expected: readonly number[]): void {
  expected.forEach((value, i) => {
    if (!(Math.abs(actual[i] - value) <= 1e-5)) throw new Error(`entry ${i}: expected ${value}, got ${actual[i]}`);
  });
}

/** Number of copies into textures in `body`. */
function copiesOf(on: Device, body: () => void): number {
  const spy = vi.spyOn(
    Object.getPrototypeOf(on.gpu.createCommandEncoder()) as GPUCommandEncoder,
    'copyBufferToTexture',
  );
  try {
    body();
    return spy.mock.calls.length;
  } finally {
    spy.mockRestore();
  }
}

describe('operand textures', () => {
  test('an operand is copied once, until its buffer is written or all operands are forgotten', () => {
    device.scope(() => {
      const a = device.tensor(values(M * K, 1), [M, K]),
        b = device.tensor(values(K * N, 2), [K, N]);
      expect(
        copiesOf(device, () => matmul(a, b)),
        'both are new',
      ).toBe(2);
      expect(
        copiesOf(device, () => matmul(a, b)),
        'both are in textures',
      ).toBe(0);
      device.write(a, values(M * K, 3));
      expect(
        copiesOf(device, () => matmul(a, b)),
        'one was written',
      ).toBe(1);
      device.copy(device.tensor(values(K * N, 4), [K, N]), b);
      expect(
        copiesOf(device, () => matmul(a, b)),
        'the other was overwritten by a copy',
      ).toBe(1);
      device.forgetOperands();
      expect(
        copiesOf(device, () => matmul(a, b)),
        'both were forgotten',
      ).toBe(2);
    });
  });

  test('products use the values last written by the host, by copies or by kernels, in any order', async () => {
    const step = fc.constantFrom('write', 'copy', 'kernel', 'view', 'reuse', 'nothing');
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), async (steps) => {
        const hostA = values(M * K, 5),
          hostB = values(K * N, 6);
        let a: Tensor = device.keep(device.tensor(hostA, [M, K]));
        const b = device.keep(device.tensor(hostB, [K, N]));
        for (const [i, kind] of steps.entries()) {
          const next = values(M * K, 10 + i);
          if (kind === 'write') device.write(a, next);
          else if (kind === 'copy') device.scope(() => device.copy(device.tensor(next, [M, K]), a));
          else if (kind === 'view') device.scope(() => device.write(device.view(a, K, [K]), next.subarray(K, 2 * K)));
          else if (kind === 'kernel' || kind === 'reuse') {
            // `reuse`: the old buffer goes back to the pool first, so the new values may get the same buffer.
            if (kind === 'reuse') a.dispose();
            const identity = Float32Array.from({ length: K * K }, (_, j) => (Math.floor(j / K) === j % K ? 1 : 0));
            const old = a;
            a = device.scope(() =>
              device.keep(linear(device.tensor(next, [M, K]), device.tensor(identity, [K, K]), null)),
            );
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
      }),
      { seed: 20220521, numRuns: 15 },
    );
  });

  test('a replay does not use earlier contents of textures, and leaves none for later products', async () => {
    const a = device.keep(device.tensor(values(M * K, 7), [M, K])),
      b = device.keep(device.tensor(values(K * N, 8), [K, N]));
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

  describe('copies of parameters', () => {
    /** Products with other operands of the same size. They overwrite every copy that is not kept. */
    const useOthers = (on: Device): void =>
      on.scope(() => {
        for (let seed = 30; seed < 34; seed++)
          matmul(on.tensor(values(M * K, seed), [M, K]), on.tensor(values(K * N, seed), [K, N]));
      });

    test('are kept until the parameter is written, then made again with the new values', async () => {
      const hostA = values(M * K, 40);
      const a = device.keep(device.tensor(hostA, [M, K]));
      const b = device.parameter(values(K * N, 41), [K, N]);
      const run = (): Tensor => device.noGrad(() => device.scope(() => device.keep(matmul(a, b))));
      run().dispose();
      useOthers(device);
      device.write(a, hostA);
      expect(
        copiesOf(device, () => run().dispose()),
        'the parameter is still in its texture',
      ).toBe(1);
      const next = values(K * N, 42);
      device.write(b, next);
      useOthers(device);
      const result = run();
      expectClose(await result.read(), product(hostA, next));
      result.dispose();
      a.dispose();
      b.dispose();
    });

    test('count as memory in use until the parameter is freed; keptOperandBytes 0 keeps none', async () => {
      const used = (on: Device): { kept: number; left: number } => {
        const before = on.memory().liveBytes;
        const b = on.parameter(values(K * N, 43), [K, N]);
        const own = on.memory().liveBytes - before;
        on.noGrad(() =>
          on.scope(() => {
            matmul(on.tensor(values(M * K, 44), [M, K]), b);
          }),
        );
        const kept = on.memory().liveBytes - before - own;
        b.dispose();
        return { kept, left: on.memory().liveBytes - before };
      };
      const { kept, left } = used(device);
      expect(kept).toBeGreaterThanOrEqual(K * N * 4);
      expect(left).toBe(0);
      const frugal = await openDevice({ force: { operands: 'texture' }, keptOperandBytes: 0 });
      expect(used(frugal)).toEqual({ kept: 0, left: 0 });
      frugal.destroy();
      await expect(openDevice({ keptOperandBytes: -1 })).rejects.toThrow(
        new UnsupportedOptionError('keptOperandBytes: expected a number of bytes, 0 or more, got -1'),
      );
    });

    test('hold transformed weights of Winograd convolutions, computed once per value of the parameter', async () => {
      const x = device.keep(device.tensor(values(12 * 12 * 64, 45), [1, 12, 12, 64])),
        weight = device.parameter(values(9 * 64 * 64, 46), [3, 3, 64, 64]);
      const run = (): Tensor =>
        device.noGrad(() => device.scope(() => device.keep(conv2d(x, weight, null, { padding: 1 }))));
      const dispatchesOf = (body: () => void): number => {
        const before = device.dispatches;
        body();
        return device.dispatches - before;
      };
      const first = dispatchesOf(() => run().dispose());
      expect(dispatchesOf(() => run().dispose())).toBe(first - 1);
      const next = values(9 * 64 * 64, 47);
      device.write(weight, next);
      const result = run(),
        plain = device.noGrad(() =>
          device.scope(() => device.keep(conv2d(x, device.tensor(next, [3, 3, 64, 64]), null, { padding: 1 }))),
        );
      expect(await result.read()).toEqual(await plain.read());
      for (const tensor of [result, plain, x, weight]) tensor.dispose();
    });
  });
});
