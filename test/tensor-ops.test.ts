/** Properties of ops that central differences cannot check: ties, infinities, large grids, default limits, errors. */
import { describe, expect, test } from 'vitest';
import {
  add,
  backward,
  concat,
  expand,
  gather,
  groupNorm,
  layerNorm,
  max,
  mul,
  permute,
  scaleShift,
  slice,
  softmax,
  stack,
  sum,
  type Device,
  type Tensor,
} from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { testDevices } from './devices.ts';

const devices = await testDevices();

function parameter(device: Device, values: readonly number[], shape: readonly number[] = [values.length]): Tensor {
  return device.parameter(Float32Array.from(values), shape);
}

describe.each(devices)('$label', ({ device }) => {
  test('the gradient of max goes to the first of equal values', async () => {
    for (const axis of [0, 1]) {
      const values = axis === 1 ? [1, 3, 3, 2, 5, 5, 5, 5] : [1, 5, 3, 5, 3, 5, 2, 5];
      const x = parameter(device, values, axis === 1 ? [2, 4] : [4, 2]);
      device.scope(() => backward(sum(max(x, { axis }))));
      expect([...(await x.grad!.read())]).toEqual(axis === 1 ? [0, 1, 0, 0, 1, 0, 0, 0] : [0, 1, 1, 0, 0, 0, 0, 0]);
      x.zeroGrad();
      x.dispose();
    }
  });

  test('max of a row of -infinity is -infinity', async () => {
    const y = device.scope(() => max(device.tensor([-Infinity, -Infinity, 2, -Infinity], [2, 2]), { axis: 1 }));
    expect([...(await y.read())]).toEqual([-Infinity, 2]);
    y.dispose();
  });

  test('softmax gives masked values (-infinity) weight 0', async () => {
    const none = -Infinity;
    const [rows, columns] = device.scope(() => [
      softmax(device.tensor([0, none, 0, none, none, 7], [2, 3])),
      softmax(device.tensor([1, 1, none, 1, 1, none, 1, none, 7], [3, 3]), 0),
    ]);
    const close = (got: ArrayLike<number>, expected: readonly number[]): void => {
      expected.forEach((value, i) => expect(got[i]).toBeCloseTo(value, 6));
    };
    close(await rows.read(), [1 / 2, 0, 1 / 2, 0, 0, 1]);
    close(await columns.read(), [1 / 3, 1 / 2, 0, 1 / 3, 1 / 2, 0, 1 / 3, 0, 1]);
    rows.dispose();
    columns.dispose();
  });

  test('integers keep their bits through layout ops', async () => {
    const bits = [0x7fc00001, 0xffffffff, 1, 0x80000000, 5, 6, 7, 8];
    const y = device.scope(() => {
      const x = device.tensor(Uint32Array.from(bits), [2, 4]);
      return permute(concat([slice(x, 0, 1, 2), gather(x, device.tensor(Uint32Array.of(0)))], 0), [1, 0]);
    });
    expect(y.dtype).toBe('u32');
    expect([...(await y.read())]).toEqual([5, bits[0], 6, bits[1], 7, bits[2], 8, bits[3]]);
    y.dispose();
  });
});

test('tensors that need more workgroups than one dimension of a grid can have are computed', async () => {
  const { device } = devices[0];
  // 4200 * 4096 elements are 67200 workgroups of 64 vec4s. Every partial sum is a small integer, so the result is
  // exact.
  const total = device.scope(() => {
    const x = expand(device.tensor([1, 1, 1, 1]), [4200, 1024, 4]);
    return sum(add(x, x), { axes: [1, 2] });
  });
  expect(new Set(await total.read())).toEqual(new Set([8192]));
  total.dispose();
});

test('the ops with the most buffers work at the limits that WebGPU guarantees', async () => {
  const device = await openDevice({ limits: 'default' });
  const x = parameter(device, [1, 2, 3, 5, 4, 3, 1, 0], [1, 2, 4]);
  const [gamma, beta] = [parameter(device, [1, 1, 1, 1]), parameter(device, [0, 0, 0, 0])];
  const residual = parameter(device, [9, 9, 9, 9, 9, 9, 9, 9], [1, 2, 4]);
  device.scope(() => {
    const y = groupNorm(x, gamma, beta, 2, { activation: 'relu', residual });
    backward(sum(concat([y, y, y, y, y, y, y, y], -1)));
  });
  expect([...(await residual.grad!.read())]).toEqual(Array.from({ length: 8 }, () => 8));
  device.destroy();
});

test('errors name the op, the argument, the expected and the actual value', () => {
  const { device } = devices[0];
  device.scope(() => {
    const x = device.zeros([2, 3, 8]);
    const [eight, three] = [device.zeros([8]), device.zeros([3])];
    const indices = device.zeros([2], 'u32');
    const cases: [() => unknown, string][] = [
      [() => layerNorm(x, three, eight), 'layerNorm: gamma: expected [8], the last dimension of x, got [3]'],
      [() => groupNorm(x, eight, eight, 3), 'groupNorm: groups: expected a divisor of the 8 channels, got 3'],
      [
        () => groupNorm(x, eight, eight, 2, { residual: eight }),
        "groupNorm: residual: expected x's shape [2, 3, 8], got [8]",
      ],
      [() => scaleShift(x, eight, three), 'scaleShift: shift: expected [8], the last dimension of x, got [3]'],
      [() => add(x, three), 'add: second operand: expected a shape that broadcasts with [2, 3, 8], got [3]'],
      [() => mul(x, indices), 'mul: second operand: expected dtype f32, got u32'],
      [() => sum(x, { axes: [0, -3] }), 'sum: axes: expected distinct axes, got [0, -3]'],
      [() => sum(x, { axes: [3] }), 'sum: axis: expected an integer in -3 .. 2, got 3'],
      [() => max(device.zeros([0, 3]), { axis: 0 }), 'max: x: expected at least one value along axis 0, got [0, 3]'],
      [() => permute(x, [0, 0, 1]), 'permute: axes: expected each of the 3 axes once, got [0, 0, 1]'],
      [
        () => slice(x, 1, 2, 4),
        'slice: start and end: expected 0 <= start <= end <= 3 (axis 1 of [2, 3, 8]), got 2 and 4',
      ],
      [() => expand(x, [2, 3, 9]), 'expand: shape: expected a shape that [2, 3, 8] broadcasts to, got [2, 3, 9]'],
      [
        () => concat([x, device.zeros([2, 4, 9])], 1),
        'concat: tensors: expected [2, 3, 8] except along axis 1, got [2, 4, 9]',
      ],
      [() => concat([], 0), 'concat: tensors: expected at least one tensor, got none'],
      [() => stack([eight, three]), 'stack: tensors: expected shape [8], got [3]'],
      [() => gather(x, eight), 'gather: indices: expected dtype u32, got f32'],
    ];
    for (const [call, message] of cases) expect(call).toThrow(message);
  });
});
