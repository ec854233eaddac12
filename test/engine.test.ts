/**
 * Properties that users of the engine rely on: scopes that free memory, gradients through shared subexpressions, clear
 * errors, and the same random numbers on every machine.
 */
import { describe, expect, test } from 'vitest';
import {
  add,
  affine,
  backward,
  checkpoint,
  conv2d,
  defineOp,
  exp,
  linear,
  philox,
  Random,
  relu,
  reshape,
  roiAlign,
  square,
  sum,
  tanh,
  type Tensor,
} from '../engine/index.ts';
import { defineKernel } from '../kernels/kernel.ts';
import { openDevice } from '../engine/node/index.ts';
import { testDevice } from './devices.ts';

const device = await testDevice();
const live = (): number => device.memory().liveBytes;

describe('scopes', () => {
  test('free the tensors made in them, except those they return or keep', async () => {
    const before = live();
    const { returned, kept } = device.scope(() => {
      const x = device.tensor([1, 2, 3]);
      const result = { returned: [affine(x, 2)], kept: device.keep(affine(x, 3)) };
      exp(x);
      return result;
    });
    expect(Array.from(await returned[0].read())).toEqual([2, 4, 6]);
    expect(Array.from(await kept.read())).toEqual([3, 6, 9]);
    returned[0].dispose();
    kept.dispose();
    expect(live()).toBe(before);
  });

  test('move the tensors of a graph to the outer scope', async () => {
    const before = live();
    const x = device.parameter(Float32Array.of(1, -2), [2]);
    device.scope(() => {
      const loss = device.scope(() => square(device.scope(() => affine(x, 3))));
      backward(loss, device.tensor([1, 1]));
    });
    expect(Array.from(await x.grad!.read())).toEqual([18, -36]);
    x.zeroGrad();
    x.dispose();
    expect(live()).toBe(before);
  });

  test('free their tensors even if the body throws', () => {
    const before = live();
    expect(() =>
      device.scope(() => {
        device.zeros([1000]);
        throw new Error('on purpose');
      }),
    ).toThrow('on purpose');
    expect(live()).toBe(before);
  });

  test('free everything at the end of the outermost one; a later use throws', () => {
    let leaked: Tensor | null = null;
    device.scope(() => {
      leaked = device.zeros([2, 3]);
    });
    expect(() => relu(leaked!)).toThrow(/shape \[2, 3\] was used after it had been disposed/);
  });
});

describe('backward', () => {
  test('adds gradients over every path, in topological order', async () => {
    const x = device.parameter(Float32Array.of(0.5), []);
    device.scope(() => {
      // y = x^2 is used twice, and the two paths meet in one sum. The gradient is the sum over both paths.
      const y = square(x);
      const sumOp = defineOp({
        name: 'testSum',
        shape: ([a]: readonly [Tensor, Tensor]) => ({ shape: a.shape }),
        forward: ({ device: d, inputs: [a, b], output }) => {
          const kernel = defineKernel({
            name: 'test_sum',
            workgroup: [1],
            params: {},
            buffers: { a: 'read f32', b: 'read f32', c: 'write f32' },
            body: 'c[0] = a[0] + b[0];',
          });
          d.run(kernel, {}, { a, b, c: output }, [1, 1, 1]);
        },
        backward: ({ gradient }) => [gradient, gradient],
      });
      backward(sumOp([exp(y), y], undefined));
    });
    const expected = 2 * 0.5 * (Math.exp(0.25) + 1);
    expect(await x.grad!.item()).toBeCloseTo(expected, 5);
    x.zeroGrad();
    x.dispose();
  });

  test('accumulates over calls until zeroGrad', async () => {
    const x = device.parameter(Float32Array.of(2), []);
    for (let i = 0; i < 3; i++) device.scope(() => backward(square(x)));
    expect(await x.grad!.item()).toBe(12);
    x.zeroGrad();
    expect(x.grad).toBeNull();
    x.dispose();
  });

  const boxes = (): Tensor =>
    device.tensor(Float32Array.of(0, 0, 20, 16, 4, 4, 24, 24, 2, 0, 9, 24, 0, 8, 24, 20), [2, 2, 4]);
  const weights = (shape: readonly number[], seed: number): Tensor =>
    device.tensor(new Random(seed).normalArray(shape.reduce((a, b) => a * b)), shape);
  /** Ops on one map [2, 6, 6, 8]. Products, convolutions and RoIAlign add to earlier gradients inside their kernels. */
  const uses: Readonly<Record<string, (map: Tensor) => Tensor>> = {
    linear: (map) => linear(map, weights([12, 8], 1), null),
    'linear of odd width': (map) => linear(map, weights([5, 8], 2), null, { activation: 'relu' }),
    'convolution 3x3': (map) => conv2d(map, weights([3, 3, 8, 4], 3), null, { padding: 1 }),
    'convolution 3x3 / 2': (map) => conv2d(map, weights([3, 3, 8, 16], 4), null, { padding: 1, stride: 2 }),
    'convolution 1x1': (map) => conv2d(map, weights([1, 1, 8, 8], 5), null),
    'grouped convolution': (map) => conv2d(map, weights([3, 3, 2, 8], 6), null, { padding: 1, groups: 4 }),
    roiAlign: (map) => roiAlign([map], boxes(), { resolution: 3, strides: [4] }),
    square,
  };

  test.each([
    [...Object.keys(uses)],
    [...Object.keys(uses)].reverse(),
    ['roiAlign', 'linear', 'roiAlign', 'square', 'convolution 1x1', 'roiAlign'],
  ])('adds the gradients of many ops on one tensor: %s, ...', async (...names) => {
    const before = live();
    const run = async (used: readonly string[]): Promise<Float32Array> => {
      const x = device.parameter(new Random(9).normalArray(2 * 6 * 6 * 8), [2, 6, 6, 8]);
      device.scope(() => {
        const map = affine(x, 1);
        backward(used.map((name) => sum(square(uses[name](map)))).reduce((a, b) => add(a, b)));
      });
      const gradient = (await x.grad!.read()) as Float32Array;
      x.zeroGrad();
      x.dispose();
      return gradient;
    };
    const together = await run(names);
    const alone = await Promise.all(names.map((name) => run([name])));
    const expected = together.map((_, i) => alone.reduce((total, gradient) => total + gradient[i], 0));
    const largest = expected.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    together.forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(1e-5 * largest));
    expect(live()).toBe(before);
  });

  test('through checkpoints gives the same gradients with less memory, also with an unused output', async () => {
    const run = async (use: typeof checkpoint): Promise<{ gradients: number[][]; peak: number }> => {
      const x = device.parameter(new Random(1).normalArray(5000), [5000]),
        w = device.parameter(new Random(2).normalArray(5000), [5000]);
      device.resetPeak();
      device.scope(() => {
        let at: Tensor = x;
        for (let block = 0; block < 6; block++) {
          const [left] = use([at], ([input]) => {
            let y = input;
            for (let i = 0; i < 8; i++) y = tanh(add(y, w));
            return [y, affine(y, 2), exp(y)] as const;
          });
          at = left;
        }
        const [a, b] = use([at], ([input]) => [square(input), affine(input, 3)] as const);
        backward(sum(add(a, b)));
      });
      const peak = device.memory().peakBytes;
      const gradients = [Array.from(await x.grad!.read()), Array.from(await w.grad!.read())];
      for (const parameter of [x, w]) {
        parameter.zeroGrad();
        parameter.dispose();
      }
      return { gradients, peak };
    };
    const before = live();
    const plain = await run((inputs, body) => body(inputs)),
      saving = await run(checkpoint);
    expect(saving.gradients[0]).toEqual(plain.gradients[0]);
    // The gradients of a shared parameter are summed in another order.
    saving.gradients[1].forEach((value, i) => expect(value).toBeCloseTo(plain.gradients[1][i], 4));
    expect(saving.peak - before).toBeLessThan((plain.peak - before) / 2);
    expect(live()).toBe(before);
  });

  test('stops at detach and under noGrad', () => {
    const x = device.parameter(Float32Array.of(2), []);
    device.scope(() => {
      expect(square(x).detach().requiresGrad).toBe(false);
      const y = device.noGrad(() => square(x));
      expect(y.requiresGrad).toBe(false);
      expect(() => backward(y)).toThrow(
        'expected a tensor that depends on a parameter, got a constant, or one computed in noGrad',
      );
    });
    x.dispose();
  });

  test('needs a scalar, or a gradient of the right shape', () => {
    const x = device.parameter(Float32Array.of(1, 2), [2]);
    device.scope(() => {
      expect(() => backward(square(x))).toThrow('backward: loss: expected a scalar, as no gradient is given, got [2]');
      expect(() => backward(square(x), device.zeros([3]))).toThrow('backward: gradient: expected [2], got [3]');
    });
    x.dispose();
  });
});

describe('errors', () => {
  test('of shapes name the op, the argument, the expected and the actual value', () => {
    device.scope(() => {
      expect(() => reshape(device.zeros([2, 3]), [4])).toThrow(
        'reshape: shape: expected 6 elements (from [2, 3]), got [4]',
      );
      expect(() => device.tensor([1, 2, 3], [2, 2])).toThrow('tensor: shape: expected 3 elements, got [2, 2]');
      expect(() => device.zeros([-1])).toThrow('empty: shape: expected non-negative integers, got [-1]');
    });
  });

  test('of a shader show its name, the message and the line', async () => {
    const broken = await openDevice();
    const kernel = defineKernel({
      name: 'broken_kernel',
      workgroup: [1],
      params: {},
      buffers: { out: 'write f32' },
      body: 'out[0] = nonsense;',
    });
    broken.run(kernel, {}, { out: broken.zeros([1]) }, [1, 1, 1]);
    await expect(broken.synchronize()).rejects.toThrow(
      /kernel broken_kernel does not compile[\s\S]*nonsense[\s\S]*> +\d+ \| out\[0\] = nonsense;/,
    );
    broken.destroy();
  });
});

test('memory reports live and peak bytes, and reuses buffers', () => {
  device.resetPeak();
  const before = device.memory();
  device.scope(() => {
    device.zeros([1000]);
    device.zeros([1000]);
  });
  const once = device.memory();
  expect(once.liveBytes).toBe(before.liveBytes);
  expect(once.peakBytes - before.liveBytes).toBeGreaterThanOrEqual(8000);
  device.scope(() => {
    device.zeros([1000]);
    device.zeros([1000]);
  });
  expect(device.memory().pooledBytes).toBe(once.pooledBytes);
});

test('all of many dispatches between two reads are executed, in order', async () => {
  const result = device.scope(() => {
    let x = device.tensor([0]);
    for (let i = 0; i < 3000; i++) x = affine(x, 1, 1);
    return x;
  });
  expect(await result.item()).toBe(3000);
  result.dispose();
});

describe('params', () => {
  const put = (type: 'f32' | 'u32') =>
    defineKernel({
      name: `put_${type}`,
      workgroup: [1],
      params: { at: 'u32', value: type },
      buffers: { out: 'write u32' },
      body: `out[p.at] = ${type === 'f32' ? 'bitcast<u32>(p.value)' : 'p.value'};`,
    });

  test('are right for more different dispatches than the cache holds, twice in a row', async () => {
    const out = device.keep(device.empty([20_000], 'u32'));
    for (const offset of [0, 7]) {
      for (let at = 0; at < out.size; at++) device.run(put('u32'), { at, value: at + offset }, { out }, [1, 1, 1]);
      expect(await out.read()).toEqual(Uint32Array.from({ length: out.size }, (_, i) => i + offset));
    }
    out.dispose();
  });

  test('that differ only in the sign of zero, or in type, make different dispatches', async () => {
    const out = device.keep(device.empty([4], 'u32'));
    (
      [
        ['f32', 0],
        ['f32', -0],
        ['f32', 1],
        ['u32', 1],
      ] as const
    ).forEach(([type, value], at) => device.run(put(type), { at, value }, { out }, [1, 1, 1]));
    expect([...(await out.read())]).toEqual([0, 0x80000000, 0x3f800000, 1]);
    out.dispose();
  });
});

describe('random numbers', () => {
  test('are those of the published test vectors of Philox4x32-10', () => {
    // From kat_vectors of Random123, philox4x32 with 10 rounds.
    expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    expect(philox([0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff])).toEqual([
      0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd,
    ]);
    expect(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])).toEqual([
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1,
    ]);
  });

  test('differ between streams, and repeat within one', () => {
    expect(new Random(1, 2).uniformArray(8)).toEqual(new Random(1, 2).uniformArray(8));
    expect(new Random(1, 2).uniformArray(8)).not.toEqual(new Random(1, 3).uniformArray(8));
  });

  test('have the expected mean and deviation', () => {
    const values = new Random(3).normalArray(20000, 1, 2);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length);
    // Four standard errors.
    expect(Math.abs(mean - 1)).toBeLessThan((4 * 2) / Math.sqrt(20000));
    expect(Math.abs(deviation - 2)).toBeLessThan((4 * 2) / Math.sqrt(40000));
  });
});
