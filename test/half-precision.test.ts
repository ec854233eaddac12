/**
 * f16 at inference: comparisons with float64 references show which values are rounded. Training gives the same bits as
 * without f16. The tuner accepts f16 and f32 variants. On an adapter without shader-f16 (SwiftShader), opening a device
 * with f16 is an error.
 */
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import {
  AdamW,
  backward,
  conv2d,
  type Device,
  linear,
  matmul,
  Random,
  UnsupportedOptionError,
  type DeviceOptions,
  type Tensor,
} from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { SUBGROUP_TILES } from '../kernels/matmul.ts';
import { WORKGROUP_TILES } from '../kernels/matmul-tiled.ts';
import { DynamicSparseRCNN, MODEL_PRESETS } from '../model/index.ts';
import { checkOp, randomInput, relativeError, type OpCase, type OpInput } from './op-harness.ts';
import { opCases } from './op-cases/index.ts';
import { QUICK, withVariant } from './tuning.ts';

const probe = await openDevice({ tuning: 'off' });
const supported = probe.info.features.includes('shader-f16');
probe.destroy();

const opened: Device[] = [];
/** A device that may use f16, unless the options or the adapter forbid it. */
async function open(options: DeviceOptions): Promise<Device> {
  const device = await openDevice({ tuning: 'off', halfPrecision: supported, ...options });
  opened.push(device);
  return device;
}
afterAll(() => {
  for (const device of opened) device.destroy();
});
afterEach(() => {
  vi.restoreAllMocks();
});

/** Values rounded to the nearest f16. */
const toHalf = (values: Float64Array): Float64Array =>
  values.map((x) => {
    const unit = 2 ** (Math.max(-14, Math.floor(Math.log2(Math.abs(x)))) - 10);
    return x === 0 ? 0 : Math.round(x / unit) * unit;
  });

/** The result of `work`, and the names of the kernels that it runs. */
function kernelsOf<T>(device: Device, work: () => T): { result: T; kernels: string[] } {
  const spy = vi.spyOn(device, 'run');
  try {
    return { result: work(), kernels: spy.mock.calls.map(([{ name }]) => name) };
  } finally {
    spy.mockRestore();
  }
}

const HALF_KERNEL = /^(matmul_.._f16_wg64_|conv2d_f16_tile)/;
/** Both operands of a product are rounded, each by at most 2^-11 of its value. */
const HALF_TOLERANCE = 2 ** -10;

/** Error of an op's result at inference, relative to the reference for the same inputs, and the kernels that ran. */
async function inferred(
  device: Device,
  { inputs, run, reference }: OpCase,
  operands: readonly OpInput[] = inputs,
): Promise<{ error: number; kernels: string[] }> {
  const { result, kernels } = kernelsOf(device, () =>
    device.noGrad(() =>
      device.scope(() => run(operands.map(({ data, shape }) => device.tensor(Float32Array.from(data), shape)))),
    ),
  );
  const error = relativeError(await result.read(), reference(operands).data);
  result.dispose();
  return { error, kernels };
}

test.runIf(!supported)(
  'is an error that names the option and the features where the adapter has no shader-f16',
  async () => {
    await expect(openDevice({ tuning: 'off', halfPrecision: true })).rejects.toThrow(
      /^halfPrecision: expected an adapter with the feature shader-f16, got .+ with .*core-features/,
    );
  },
);

test('forcing f16 on a device that was opened without halfPrecision is an error', async () => {
  await expect(openDevice({ tuning: 'off', force: { precision: 'f16' } })).rejects.toThrow(
    new UnsupportedOptionError('force.precision: expected f32, as halfPrecision is false, got f16'),
  );
});

/** A device that uses f16 where the cost model says so, and one without f16. */
const [half, plain] = supported
  ? [await open({ subgroups: false }), await open({ subgroups: false, halfPrecision: false })]
  : [probe, probe];

describe.runIf(supported)('operands in f16', async () => {
  if (!supported) return;
  const devices = [
    {
      label: 'expected without subgroups, default limits',
      device: await open({ subgroups: false, limits: 'default', force: { convolution: 'direct' } }),
    },
    { label: 'forced', device: await open({ force: { precision: 'f16', convolution: 'direct' } }) },
  ];
  const winograd = await open({ force: { precision: 'f16', convolution: 'winograd2' } });
  const [{ device }] = devices;

  describe.each(devices)('$label', ({ device: on }) => {
    const names = ['matmul', 'linear', 'conv2d'] as const;
    // These operands are f16 numbers, so rounding them changes nothing. Rounding of an epilogue's operand or of a sum
    // would change the result.
    test.each(names.flatMap((name) => opCases[name].map((op) => ({ name, op }))))(
      '$name $op.name: f16 numbers give the same as in f32',
      async ({ op }) => {
        const { error, kernels } = await inferred(
          on,
          op,
          op.inputs.map((input, i) => (i < 2 ? { ...input, data: toHalf(input.data) } : input)),
        );
        expect(error).toBeLessThanOrEqual(op.tolerance ?? 1e-5);
        const products = kernels.filter((kernel) => /^(matmul_[nt]{2}_|conv2d_f\d+_(sg|tile))/.test(kernel));
        expect(products.filter((kernel) => !HALF_KERNEL.test(kernel))).toEqual([]);
        if (op.inputs.every(({ data }) => data.length > 0) && !kernels.some((kernel) => kernel.startsWith('depthwise')))
          expect(products).not.toEqual([]);
      },
    );

    test('are rounded by at most one unit in the last place, and sums are not rounded', async () => {
      const product = (m: number, n: number, k: number, transposeB: boolean): OpCase => ({
        ...opCases.matmul[0],
        inputs: [randomInput([m, k], 1), randomInput(transposeB ? [n, k] : [k, n], 2)],
        run: ([a, b]) => matmul(a, b, { transposeB }),
        reference: ([a, b]) => ({
          shape: [m, n],
          data: Float64Array.from({ length: m * n }, (_, i) => {
            const [row, column] = [Math.floor(i / n), i % n];
            return Array.from(
              { length: k },
              (__, at) => a.data[row * k + at] * b.data[transposeB ? column * k + at : at * n + column],
            ).reduce((sum, x) => sum + x, 0);
          }),
        }),
      });
      for (const op of [product(70, 68, 24, false), product(33, 66, 1030, true)]) {
        const { error } = await inferred(on, op);
        expect(error).toBeGreaterThan(1e-4);
        expect(error).toBeLessThan(HALF_TOLERANCE);
      }
      for (const name of ['many tiles', 'groups', 'strided block']) {
        const { error } = await inferred(on, opCases.conv2d.find((op) => op.name.startsWith(`${name}: `))!);
        expect(error).toBeGreaterThan(1e-4);
        expect(error).toBeLessThan(HALF_TOLERANCE);
      }
    });

    test('beyond the range of f16 are clamped to it: finite numbers never give an infinity', async () => {
      const values = [1e5, -3e38, 65504, -65520, Infinity, 6.1e-5, 1, 0];
      const expected = [65504, -65504, 65504, -65504, 65504, 6.1e-5, 1, 0];
      const identity = Float32Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 1 : 0));
      const [a, b, y] = on.noGrad(() =>
        on.scope(() => {
          const [x, eye] = [on.tensor(values, [1, 8]), on.tensor(identity, [8, 8])];
          return [
            matmul(x, eye),
            matmul(eye, x, { transposeB: true }),
            conv2d(on.tensor([...values, ...values], [1, 1, 2, 8]), on.tensor(identity, [1, 1, 8, 8]), null, {
              stride: 2,
            }),
          ];
        }),
      );
      // The precision of f16 decreases below 6.1e-5. Such a value is off by up to about 2^-25.
      for (const result of [a, b, y]) {
        (await result.read()).forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThanOrEqual(1e-7));
        result.dispose();
      }
    });
  });

  test('are used in the product of Winograd F(2x2), and not in that of F(4x4)', async () => {
    const op = opCases.conv2d.find(({ name }) => name.startsWith('residual block, Winograd'))!;
    const small = await inferred(winograd, op);
    expect(small.kernels.find((name) => name.startsWith('matmul'))).toMatch(/^matmul_nn_f16_/);
    expect(small.error).toBeGreaterThan(1e-5);
    expect(small.error).toBeLessThan(2 * HALF_TOLERANCE);
    const large = await inferred(await open({ force: { precision: 'f16', convolution: 'winograd4' } }), op);
    expect(large.kernels.find((name) => name.startsWith('matmul'))).toMatch(/^matmul_nn_f32_/);
    expect(large.error).toBeLessThan(1e-5);
  });

  test('are not used while gradients are enabled, nor in the gradients', async () => {
    const spy = vi.spyOn(half, 'run');
    for (const op of [opCases.matmul[3], opCases.linear[6], opCases.conv2d[0], opCases.conv2d[1]])
      await checkOp(half, op, true);
    expect(spy.mock.calls.map(([{ name }]) => name).filter((name) => name.includes('f16'))).toEqual([]);
  });

  test('are the same in a capture and in its replays', async () => {
    const x = device.keep(device.tensor(new Random(1).normalArray(40 * 24), [40, 24])),
      weight = device.keep(device.tensor(new Random(2).normalArray(12 * 24), [12, 24]));
    const body = (): Tensor => device.noGrad(() => linear(x, weight, null));
    const capture = device.capture(body);
    device.write(x, new Random(3).normalArray(40 * 24));
    capture.replay();
    const { result, kernels } = kernelsOf(device, () => device.scope(body));
    expect(kernels).toEqual([expect.stringMatching(/^matmul_nt_f16_wg64_/)]);
    expect(await capture.outputs.read()).toEqual(await result.read());
    capture.dispose();
    for (const tensor of [x, weight, result]) tensor.dispose();
  });
});

describe.runIf(supported)('a model', () => {
  const size = 64;
  const random = new Random(5);
  const images = [0, 1].map(() => ({
    data: Uint8Array.from({ length: size * size * 3 }, () => random.integer(256)),
    width: size,
    height: size,
  }));
  const targets = images.map(() => ({
    boxes: Float32Array.from([4, 6, 30, 40, 20, 10, 60, 50]),
    labels: Uint32Array.from([1, 3]),
  }));

  test.each([{ gradientCheckpointing: false }, { gradientCheckpointing: true }])(
    'trains to the same bits as in f32, gradient checkpointing $gradientCheckpointing',
    async ({ gradientCheckpointing }) => {
      const trained = async (device: Device): Promise<Float32Array[]> => {
        const model = new DynamicSparseRCNN(device, { ...MODEL_PRESETS.tiny, gradientCheckpointing }, 1);
        const optimizer = new AdamW(model.trainable(), {});
        const { kernels } = kernelsOf(device, () => {
          for (let step = 0; step < 2; step++) {
            device.scope(() => backward(model.loss(images, targets, 1).total));
            device.scope(() => optimizer.step({ learningRate: 1e-3 }));
            optimizer.zeroGrad();
          }
        });
        expect(kernels.filter((name) => name.includes('f16'))).toEqual([]);
        const values = await Promise.all(
          model.trainable().map(async ({ tensor }) => Float32Array.from(await tensor.read())),
        );
        model.dispose();
        return values;
      };
      expect(await trained(half)).toEqual(await trained(plain));
    },
  );

  test('infers with at most three times the error of rounding its weights to f16', async () => {
    const run = async (
      device: Device,
      roundWeights: boolean,
    ): Promise<{ outputs: ArrayLike<number>[]; kernels: string[] }> => {
      const model = new DynamicSparseRCNN(device, MODEL_PRESETS.tiny, 1);
      if (roundWeights)
        for (const { tensor } of model.trainable())
          device.write(tensor, Float32Array.from(toHalf(Float64Array.from(await tensor.read()))));
      const {
        result: { pyramid, stages },
        kernels,
      } = kernelsOf(device, () => device.noGrad(() => device.scope(() => model.forward(images))));
      const outputs = await Promise.all(
        [pyramid[0], stages.at(-1)!.logits, stages.at(-1)!.boxes].map((output) => output.read()),
      );
      model.dispose();
      return { outputs, kernels };
    };
    const [rounded, exact, reference] = [await run(half, false), await run(plain, false), await run(plain, true)];
    expect(
      rounded.kernels.some((name) => /^matmul_.._f16/.test(name)) &&
        rounded.kernels.some((name) => name.startsWith('conv2d_f16')),
    ).toBe(true);
    expect(exact.kernels.filter((name) => name.includes('f16'))).toEqual([]);
    // Weights are half of the operands. If errors are independent, rounding of the other half too gives 1.4 times the
    // error. Three times allows for chance.
    const [features, logits, boxes] = exact.outputs.map((output, i) => {
      const [error, byWeights] = [rounded, reference].map(({ outputs }) => relativeError(outputs[i], output));
      expect(error).toBeLessThan(3 * byWeights);
      return error;
    });
    // Bounds after about 20 products in a row, and after 40: independent errors of 2^-10 each add up to 4.4e-3 and
    // 6.2e-3.
    expect(features).toBeLessThan(4.4e-3);
    expect(Math.max(logits, boxes)).toBeLessThan(6.2e-3);
  });
});

describe.runIf(supported)('the tuner', async () => {
  if (!supported) return;
  const devices = [
    { label: 'subgroups if the adapter has them', on: await open({}) },
    { label: 'no subgroups', on: await open({ subgroups: false }) },
  ];
  const tensor = (on: Device, seed: number, ...shape: number[]): Tensor =>
    on.tensor(new Random(seed).normalArray(shape.reduce((x, y) => x * y, 1)), shape);
  const PRODUCT = 'matmul nn 40x72x516 half',
    CONVOLUTION = 'conv2d 3x3 stride 2 pad 1 1x14x14x32 to 7x7x48 half';
  const work = (on: Device): void =>
    on.noGrad(() =>
      on.scope(() => {
        matmul(tensor(on, 1, 40, 516), tensor(on, 2, 516, 72));
        conv2d(tensor(on, 3, 1, 14, 14, 32), tensor(on, 4, 3, 3, 32, 48), null, { stride: 2, padding: 1 });
        conv2d(tensor(on, 3, 1, 14, 14, 32), tensor(on, 4, 3, 3, 32, 48), null, { padding: 1 });
      }),
    );

  describe.each(devices)('with $label', ({ on }) => {
    afterEach(() => on.tuner.reset());

    test('accepts f16 and f32 variants, and its choice is used', async () => {
      work(on);
      expect(on.tuner.pending).toEqual(expect.arrayContaining([PRODUCT, CONVOLUTION]));
      const results = await on.tuner.tune(QUICK);
      expect(results.flatMap(({ excluded }) => excluded)).toEqual([]);
      const exported = on.tuner.export();
      const { rows, columns } = SUBGROUP_TILES[on.subgroupSize]?.large ?? WORKGROUP_TILES.small;
      for (const [shapeClass, variant, kernel] of [
        [PRODUCT, 'f16 32x32', /^matmul_nn_f16_wg64_32x32/],
        [PRODUCT, 'f16 64x64, 2 slices', /^matmul_nn_f16_wg64_64x64/],
        [PRODUCT, `buffer ${rows}x${columns}`, /^matmul_nn_f32_/],
        [CONVOLUTION, 'direct f16 64x64', /^conv2d_f16_tile64/],
        [CONVOLUTION, 'direct buffer 32x32', /^conv2d_f32_/],
      ] as const) {
        on.tuner.reset();
        expect(on.tuner.import(withVariant(exported, shapeClass, variant))).toBe(1);
        expect(
          kernelsOf(on, () => work(on)).kernels.some((name) => kernel.test(name)),
          variant,
        ).toBe(true);
        expect(on.tuner.stale).toEqual([]);
      }
      // Training has a shape class of its own.
      on.tuner.import(withVariant(exported, PRODUCT, 'f16 32x32'));
      const before = on.tuner.pending;
      on.scope(() => {
        matmul(tensor(on, 1, 40, 516), tensor(on, 2, 516, 72));
      });
      expect(on.tuner.pending.filter((name) => !before.includes(name))).toEqual([PRODUCT.replace(' half', '')]);
    });

    test('drops an f16 variant that is wrong, by name', async () => {
      const { run } = on;
      work(on);
      vi.spyOn(on, 'run').mockImplementation((kernel, params, buffers, grid) => {
        const wrong = kernel.f16 && 'sliceK' in params ? { ...params, k: Number(params.k) - 4 } : params;
        run.call(on, kernel, wrong, buffers, grid);
      });
      const results = await on.tuner.tune(QUICK);
      const { choice, excluded } = results.find(({ shapeClass }) => shapeClass === PRODUCT)!;
      expect(excluded.map(({ variant }) => variant)).toEqual(expect.arrayContaining(['f16 64x64', 'f16 32x32']));
      for (const { variant, reason } of excluded) {
        expect(variant).toMatch(/^f16 /);
        expect(reason).toMatch(/^its result is wrong: expected a relative difference of at most 9\.9e-4 /);
        expect(reason).toMatch(/ from the plain variant's, got .*e-\d$/);
      }
      expect(choice!.variant).not.toMatch(/f16/);
    });
  });
});
