/**
 * Matrix products beyond the op cases: shapes that are refused, WebGPU's default limits, and more workgroups than one
 * dimension of a grid can have.
 */
import { expect, test } from 'vitest';
import { linear, matmul, Random } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { testDevices } from './devices.ts';
import { relativeError } from './op-harness.ts';

const devices = await testDevices();

test('an operand that does not fit is named in the error', () => {
  const { device } = devices[0];
  device.scope(() => {
    const a = device.zeros([2, 3, 4]);
    expect(() => matmul(a, device.zeros([5, 6]))).toThrow(
      'matmul: b: expected [..., 4, N] for a [2, 3, 4], got [5, 6]',
    );
    expect(() => matmul(a, device.zeros([6, 5]), { transposeB: true })).toThrow(
      'matmul: b: expected [..., N, 4] for a [2, 3, 4], got [6, 5]',
    );
    expect(() => matmul(a, device.zeros([3, 4, 6]))).toThrow(
      'matmul: b: expected batch [2] as in a, or 2-D, got [3, 4, 6]',
    );
    expect(() => matmul(a, device.zeros([4]))).toThrow('matmul: b: expected rank 2 or more, got [4]');
    expect(() => linear(a, device.zeros([5, 3]), null)).toThrow(
      'linear: weight: expected [N, 4] for x [2, 3, 4], got [5, 3]',
    );
    expect(() => linear(a, device.zeros([5, 4]), device.zeros([4]))).toThrow(
      'linear: bias: expected [5] for weight [5, 4], got [4]',
    );
  });
});

test.each(devices)(
  'works with more tiles than one dimension of a grid can have workgroups ($label)',
  async ({ device }) => {
    const rows = 65536 * 32 + 5; // one column of tiles, with at most 32 rows per workgroup
    const x = new Random(1).uniformArray(rows);
    const y = device.scope(() =>
      linear(device.tensor(x, [rows, 1]), device.tensor([2, -3], [2, 1]), device.tensor([1, 0])),
    );
    const values = await y.read();
    y.dispose();
    const rowsToCheck = [0, 31, 65535 * 16, 65535 * 32, 65536 * 32, rows - 1];
    expect(
      relativeError(
        rowsToCheck.flatMap((row) => [values[2 * row], values[2 * row + 1]]),
        rowsToCheck.flatMap((row) => [2 * x[row] + 1, -3 * x[row]]),
      ),
    ).toBeLessThan(1e-6);
  },
);

test('works at the default limits, which every WebGPU device has', async () => {
  for (const subgroups of [true, false]) {
    const device = await openDevice({ limits: 'default', subgroups });
    const random = new Random(2);
    const a = random.normalArray(70 * 40),
      b = random.normalArray(40 * 72);
    const c = device.scope(() => matmul(device.tensor(a, [70, 40]), device.tensor(b, [40, 72])));
    const expected = Float64Array.from({ length: 70 * 72 }, (_, i) => {
      const row = Math.floor(i / 72),
        column = i % 72;
      return Array.from({ length: 40 }, (__, k) => a[row * 40 + k] * b[k * 72 + column]).reduce((sum, x) => sum + x, 0);
    });
    expect(relativeError(await c.read(), expected)).toBeLessThan(1e-6);
    c.dispose();
    device.destroy();
  }
});

test('the partial products of a long sum into a large output fit into a buffer at the default limits', async () => {
  const device = await openDevice({ limits: 'default' });
  // Two partial outputs of 68 MB each in one buffer would be more than 128 MiB.
  const side = 4128;
  const k = 1088;
  const y = device.scope(() =>
    matmul(
      device.tensor(new Float32Array(side * k).fill(0.5), [side, k]),
      device.tensor(new Float32Array(k * side).fill(2), [k, side]),
    ),
  );
  const values = await y.read();
  expect([values[0], values[side + 1], values[values.length - 1]]).toEqual([k, k, k]);
  device.destroy();
});
