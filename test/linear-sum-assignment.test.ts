/** Linear sum assignment on the device, compared with another library and with brute force. */
import { describe, expect, test } from 'vitest';
import { linearSumAssignment as referenceAssignment } from 'linear-sum-assignment';
import { linearSumAssignment, Random } from '../engine/index.ts';
import { testDevices } from './devices.ts';
import { chunk } from './op-harness.ts';

const devices = await testDevices();

describe.each(devices)('$label', ({ device }) => {
  /**
   * Solves problems of equal size in one dispatch, checks that the results are assignments, and returns their total
   * costs.
   */
  async function solve(costs: readonly (readonly number[])[], n: number, m: number): Promise<number[]> {
    const { columns, rows } = device.scope(() =>
      linearSumAssignment(device.tensor(costs.flat(), [costs.length, n, m])),
    );
    const [columnOf, rowOf] = [chunk(Array.from(await columns.read()), n), chunk(Array.from(await rows.read()), m)];
    [columns, rows].forEach((tensor) => tensor.dispose());
    return costs.map((cost, p) => {
      const pairs = columnOf[p].map((j, i) => [i, j]).filter(([, j]) => j >= 0);
      expect(pairs.length).toBe(Math.min(n, m));
      expect(rowOf[p].filter((i) => i >= 0).length).toBe(pairs.length);
      for (const [i, j] of pairs) expect(rowOf[p][j]).toBe(i);
      return pairs.reduce((total, [i, j]) => total + cost[i * m + j], 0);
    });
  }

  const kinds: Record<string, (random: Random) => number> = {
    normal: (random) => Math.fround(random.normal()),
    'tied, among five integers': (random) => random.integer(5),
    'all equal': () => 2.5,
    'of very different sizes': (random) => Math.fround(Math.exp(4 * random.normal())),
  };
  const dimensions = [
    [1, 1],
    [1, 9],
    [9, 1],
    [7, 7],
    [5, 23],
    [23, 5],
    [40, 40],
    [12, 300],
    [300, 12],
  ] as const;

  test.each(Object.entries(kinds))('gives the least total cost, like another solver: costs %s', async (_, draw) => {
    for (const [n, m] of dimensions) {
      const random = new Random(n * 1000 + m);
      const costs = Array.from({ length: n * m > 1600 ? 4 : 16 }, () =>
        Array.from({ length: n * m }, () => draw(random)),
      );
      const totals = await solve(costs, n, m);
      costs.forEach((cost, p) => {
        const { rowAssignments } = referenceAssignment(chunk(cost, m), { maximaze: false });
        const least = Array.from(rowAssignments).reduce((total, j, i) => (j >= 0 ? total + cost[i * m + j] : total), 0);
        const scale = cost.reduce((sum, c) => sum + Math.abs(c), 0) / Math.max(n, m);
        expect(
          Math.abs(totals[p] - least) / Math.max(scale, 1e-9),
          `${n} x ${m}, problem ${p}: expected ${least}, got ${totals[p]}`,
        ).toBeLessThanOrEqual(1e-5);
      });
    }
  });

  test('gives the least total cost over all permutations', async () => {
    const least = (
      cost: readonly number[],
      n: number,
      m: number,
      i = 0,
      used = 0,
      skips = Math.max(0, n - m),
    ): number => {
      if (i === n) return 0;
      let best = skips > 0 ? least(cost, n, m, i + 1, used, skips - 1) : Infinity;
      for (let j = 0; j < m; j++)
        if (!(used & (1 << j)))
          best = Math.min(best, cost[i * m + j] + least(cost, n, m, i + 1, used | (1 << j), skips));
      return best;
    };
    for (const [n, m] of [
      [2, 2],
      [3, 5],
      [5, 3],
      [5, 5],
      [2, 6],
    ]) {
      const random = new Random(n, m);
      const costs = Array.from({ length: 50 }, (_, p) =>
        Array.from({ length: n * m }, () => (p % 2 ? random.integer(4) : Math.fround(random.normal()))),
      );
      (await solve(costs, n, m)).forEach((total, p) => expect(total).toBeCloseTo(least(costs[p], n, m), 5));
    }
  });

  test('equal costs go to the lowest index', async () => {
    const columns = device.scope(() => linearSumAssignment(device.tensor([1, 1, 1, 1, 1, 1], [2, 3])).columns);
    expect(Array.from(await columns.read())).toEqual([0, 1]);
    columns.dispose();
  });

  test('forbidden pairs are avoided, and NaN does not hang the kernel', async () => {
    const { columns, nothing } = device.scope(() => ({
      columns: linearSumAssignment(device.tensor([Infinity, 3, 1, NaN], [2, 2])).columns,
      nothing: linearSumAssignment(device.tensor(new Float32Array(3 * 20 * 30).fill(NaN), [3, 20, 30])).columns,
    }));
    expect(Array.from(await columns.read())).toEqual([1, 0]);
    for (const found of chunk(Array.from(await nothing.read()), 20))
      expect(new Set(found).size, 'distinct columns').toBe(20);
    [columns, nothing].forEach((tensor) => tensor.dispose());
  });

  test('assigns nothing without columns or rows', async () => {
    const [a, b] = device.scope(() => [
      linearSumAssignment(device.empty([2, 3, 0])).columns,
      linearSumAssignment(device.empty([2, 0, 3])).columns,
    ]);
    expect(Array.from(await a.read())).toEqual(new Array(6).fill(-1));
    expect(b.shape).toEqual([2, 0]);
    [a, b].forEach((tensor) => tensor.dispose());
  });
});
