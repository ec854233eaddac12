/** Optimizers, compared with torch.optim and clip_grad_norm_ in float64; their state; the learning rate schedule. */
import { describe, expect, test } from 'vitest';
import {
  AdamW,
  backward,
  cosineLearningRateAt,
  FlatParameters,
  learningRateAt,
  linear,
  Random,
  SGD,
  type NamedParameter,
  type OptimizerState,
  type Tensor,
} from '../engine/index.ts';
import { testDevice } from './devices.ts';
import { relativeError, sizeOf } from './op-harness.ts';

const device = await testDevice();

/** Odd sizes, a scalar, a whole block, and more than one block of the norm's partial sums. */
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  weight: [3, 5],
  bias: [7],
  scale: [],
  block: [64],
  large: [131, 67],
};
const NAMES = Object.keys(SHAPES);
/** f32 rounding over a few steps. A wrong constant causes a much larger error. */
const TOLERANCE = 2e-6;

type Values = Record<string, Float64Array>;

const randomValues = (seed: number, scale = 1): Values =>
  Object.fromEntries(
    NAMES.map((name, i) => [name, Float64Array.from(new Random(seed, i).normalArray(sizeOf(SHAPES[name]), 0, scale))]),
  );

const parametersOf = (values: Values): NamedParameter[] =>
  NAMES.map((name) => ({ name, tensor: device.parameter(Float32Array.from(values[name]), SHAPES[name]) }));

/** Adds gradients to those of the parameters by `backward`, as training does. */
function accumulate(parameters: readonly NamedParameter[], gradients: Values): void {
  device.scope(() => {
    for (const { name, tensor } of parameters)
      if (gradients[name]) backward(tensor, device.tensor(Float32Array.from(gradients[name]), tensor.shape));
  });
}

const read = async (tensor: Tensor): Promise<Float32Array> => (await tensor.read()) as Float32Array;

async function readAll(parameters: readonly NamedParameter[]): Promise<Record<string, Float32Array>> {
  return Object.fromEntries(
    await Promise.all(parameters.map(async ({ name, tensor }) => [name, await read(tensor)] as const)),
  );
}

function free(parameters: readonly NamedParameter[]): void {
  for (const { tensor } of parameters) {
    tensor.zeroGrad();
    tensor.dispose();
  }
}

function expectClose(actual: Record<string, Float32Array>, expected: Values): void {
  for (const name of NAMES) expect(relativeError(actual[name], expected[name]), name).toBeLessThanOrEqual(TOLERANCE);
}

interface Clipping {
  readonly maxGradientNorm?: number;
  readonly gradientScale?: number;
}

/** torch.nn.utils.clip_grad_norm_ after scaling. `gradients` has no entries for parameters without a gradient. */
function clip(
  gradients: Values,
  { maxGradientNorm = Infinity, gradientScale = 1 }: Clipping,
): { norm: number; clipped: Values } {
  let sum = 0;
  for (const values of Object.values(gradients)) for (const g of values) sum += (gradientScale * g) ** 2;
  const norm = Math.sqrt(sum);
  const factor = gradientScale * Math.min(1, maxGradientNorm / (norm + 1e-6));
  return {
    norm,
    clipped: Object.fromEntries(
      Object.entries(gradients).map(([name, values]) => [name, values.map((g) => g * factor)]),
    ),
  };
}

type ReferenceStep = (values: Values, gradients: Values, learningRate: number) => void;

/** torch.optim.AdamW, parameter by parameter. */
function adamwReference(beta1: number, beta2: number, epsilon: number, weightDecay: number): ReferenceStep {
  const state = new Map<string, { m: Float64Array; v: Float64Array; t: number }>();
  return (values, gradients, learningRate) => {
    for (const [name, g] of Object.entries(gradients)) {
      const s = state.get(name) ?? { m: new Float64Array(g.length), v: new Float64Array(g.length), t: 0 };
      state.set(name, s);
      s.t++;
      g.forEach((gradient, i) => {
        values[name][i] *= 1 - learningRate * weightDecay;
        s.m[i] = beta1 * s.m[i] + (1 - beta1) * gradient;
        s.v[i] = beta2 * s.v[i] + (1 - beta2) * gradient ** 2;
        const corrected = Math.sqrt(s.v[i]) / Math.sqrt(1 - beta2 ** s.t) + epsilon;
        values[name][i] -= (learningRate / (1 - beta1 ** s.t)) * (s.m[i] / corrected);
      });
    }
  };
}

/** torch.optim.SGD. */
function sgdReference(momentum: number, nesterov: boolean, weightDecay: number): ReferenceStep {
  const buffers = new Map<string, Float64Array>();
  return (values, gradients, learningRate) => {
    for (const [name, g] of Object.entries(gradients)) {
      const decayed = g.map((gradient, i) => gradient + weightDecay * values[name][i]);
      const previous = buffers.get(name);
      const buffer = previous ? previous.map((b, i) => momentum * b + decayed[i]) : decayed.slice();
      buffers.set(name, buffer);
      const update = nesterov ? decayed.map((d, i) => d + momentum * buffer[i]) : momentum > 0 ? buffer : decayed;
      values[name].forEach((_, i) => {
        values[name][i] -= learningRate * update[i];
      });
    }
  };
}

const add = (a: Values, b: Values): Values =>
  Object.fromEntries(Object.entries(a).map(([name, values]) => [name, values.map((x, i) => x + b[name][i])]));
const without = (values: Values, name: string): Values =>
  Object.fromEntries(Object.entries(values).filter(([other]) => other !== name));

/**
 * Five steps of two accumulated backward passes each, with changing learning rates. Parameter `scale` has no gradient
 * in the second step, `large` none in the third.
 */
async function follow(
  make: (parameters: readonly NamedParameter[]) => AdamW | SGD,
  reference: ReferenceStep,
  clipping: Clipping,
): Promise<void> {
  const before = device.memory().liveBytes;
  const values = randomValues(1);
  const parameters = parametersOf(values);
  const optimizer = make(parameters);
  for (let step = 0; step < 5; step++) {
    const learningRate = 0.02 / (1 + step);
    const missing = ['', 'scale', 'large'][step] ?? '';
    const passes = [without(randomValues(10 + step), missing), without(randomValues(20 + step), missing)];
    for (const gradients of passes) accumulate(parameters, gradients);
    const { norm, clipped } = clip(add(passes[0], passes[1]), clipping);
    reference(values, clipped, learningRate);
    const measured = await optimizer.step({ learningRate, ...clipping }).item();
    expect(Math.abs(measured - norm) / norm, 'gradient norm').toBeLessThanOrEqual(1e-6);
    optimizer.zeroGrad();
    expectClose(await readAll(parameters), values);
  }
  optimizer.dispose();
  expectClose(await readAll(parameters), values);
  free(parameters);
  expect(device.memory().liveBytes, 'live GPU bytes afterwards').toBe(before);
}

const clippings: [string, Clipping][] = [
  ['no clipping', {}],
  ['clipping that is active', { maxGradientNorm: 1, gradientScale: 0.5 }],
  ['clipping that is not', { maxGradientNorm: 1e4 }],
];

describe.each(clippings)('follows float64 with %s', (_, clipping) => {
  test('AdamW', () =>
    follow(
      (p) => new AdamW(p, { betas: [0.8, 0.99], epsilon: 1e-3, weightDecay: 0.1 }),
      adamwReference(0.8, 0.99, 1e-3, 0.1),
      clipping,
    ));
  test('AdamW with its defaults', () => follow((p) => new AdamW(p), adamwReference(0.9, 0.999, 1e-8, 0.01), clipping));
  test('SGD', () => follow((p) => new SGD(p, { weightDecay: 0.1 }), sgdReference(0, false, 0.1), clipping));
  test('SGD with momentum', () =>
    follow((p) => new SGD(p, { momentum: 0.9, weightDecay: 0.1 }), sgdReference(0.9, false, 0.1), clipping));
  test('SGD with Nesterov momentum', () =>
    follow((p) => new SGD(p, { momentum: 0.9, nesterov: true }), sgdReference(0.9, true, 0), clipping));
});

test('one step is three dispatches, however many parameters there are', () => {
  const parameters = parametersOf(randomValues(8));
  const optimizer = new AdamW(parameters);
  accumulate(parameters, randomValues(9));
  const before = device.dispatches;
  optimizer.step({ learningRate: 0.1, maxGradientNorm: 1 });
  expect(device.dispatches - before).toBe(3);
  optimizer.dispose();
  free(parameters);
});

test('with a zero gradient only decay changes a parameter; without a gradient nothing does', async () => {
  const values = randomValues(2);
  const parameters = parametersOf(values);
  const optimizer = new AdamW(parameters, { weightDecay: 0.5 });
  expect(await optimizer.step({ learningRate: 0.1, maxGradientNorm: 1 }).item()).toBe(0);
  expect(await readAll(parameters)).toEqual(
    Object.fromEntries(NAMES.map((name) => [name, Float32Array.from(values[name])])),
  );
  accumulate(parameters, Object.fromEntries(NAMES.map((name) => [name, new Float64Array(values[name].length)])));
  expect(await optimizer.step({ learningRate: 0.1, maxGradientNorm: 1 }).item()).toBe(0);
  expectClose(
    await readAll(parameters),
    Object.fromEntries(NAMES.map((name) => [name, values[name].map((x) => x * 0.95)])),
  );
  optimizer.dispose();
  free(parameters);
});

test('a NaN gradient makes the norm NaN', async () => {
  const parameters = parametersOf(randomValues(3));
  const optimizer = new SGD(parameters);
  accumulate(parameters, { bias: Float64Array.from([0, 1, NaN, 2, 3, 4, 5]) });
  const [bits] = new Uint32Array((await read(optimizer.step({ learningRate: 0.1, maxGradientNorm: 1 }))).buffer);
  expect(bits & 0x7fffffff).toBeGreaterThan(0x7f800000);
  optimizer.dispose();
  free(parameters);
});

describe.each([
  ['AdamW', (p: readonly NamedParameter[]) => new AdamW(p)],
  ['SGD', (p: readonly NamedParameter[]) => new SGD(p, { momentum: 0.9 })],
] as const)('state of %s', (_, make) => {
  test('a saved and resumed training continues with the same bits', async () => {
    const parameters = parametersOf(randomValues(4));
    const optimizer = make(parameters);
    const advance = (which: AdamW | SGD, those: readonly NamedParameter[], step: number): void => {
      accumulate(those, step === 1 ? without(randomValues(30 + step), 'bias') : randomValues(30 + step));
      which.step({ learningRate: 0.01, maxGradientNorm: 2 });
      which.zeroGrad();
    };
    for (let step = 0; step < 3; step++) advance(optimizer, parameters, step);
    const state = await optimizer.state();
    const saved = await readAll(parameters);
    expect(state.step).toBe(3);

    const others = NAMES.map((name) => ({
      name,
      tensor: device.parameter(Float32Array.from(saved[name]), SHAPES[name]),
    }));
    const resumed = make(others);
    resumed.loadState(state);
    expect(await resumed.state()).toEqual(state);
    for (let step = 3; step < 5; step++) {
      advance(optimizer, parameters, step);
      advance(resumed, others, step);
    }
    expect(await readAll(others)).toEqual(await readAll(parameters));
    expect(await resumed.state()).toEqual(await optimizer.state());
    for (const one of [optimizer, resumed]) one.dispose();
    free([...parameters, ...others]);
  });
});

test('a state that does not fit is rejected with the name of the wrong value', async () => {
  const parameters = parametersOf(randomValues(5));
  const optimizer = new AdamW(parameters);
  const state = await optimizer.state();
  const changed = (
    change: (tensors: Map<string, OptimizerState['tensors'] extends ReadonlyMap<string, infer V> ? V : never>) => void,
  ): OptimizerState => {
    const tensors = new Map(state.tensors);
    change(tensors);
    return { step: state.step, tensors };
  };
  expect(() => optimizer.loadState(changed((t) => t.delete('firstMoment.bias')))).toThrow(
    'AdamW: firstMoment.bias: expected a value in the state, got none',
  );
  expect(() =>
    optimizer.loadState(changed((t) => t.set('firstMoment.bias', { shape: [8], data: new Float32Array(8) }))),
  ).toThrow('AdamW: firstMoment.bias: expected [7], got [8]');
  expect(() =>
    optimizer.loadState(changed((t) => t.set('momentum.bias', { shape: [7], data: new Float32Array(7) }))),
  ).toThrow('AdamW: momentum.bias: expected the name of a parameter');
  optimizer.dispose();
  free(parameters);
});

test('options out of range and duplicate parameters are rejected', () => {
  const [first] = parametersOf(randomValues(6));
  expect(() => new AdamW([])).toThrow('AdamW: parameters: expected at least one, got none');
  expect(() => new AdamW([first, { ...first }])).toThrow(
    'AdamW: parameters: expected distinct names, got weight twice',
  );
  expect(() => new AdamW([first, { ...first, name: 'other' }])).toThrow(
    'AdamW: parameter other: expected a tensor of its own, got one with another name',
  );
  expect(() => new AdamW([first], { betas: [0.9, 1] })).toThrow(
    'AdamW: betas[1]: expected a number >= 0 and < 1, got 1',
  );
  expect(() => new SGD([first], { nesterov: true })).toThrow(
    'SGD: momentum: expected a number > 0 with nesterov, got 0',
  );
  const optimizer = new SGD([first]);
  expect(() => optimizer.step({ learningRate: NaN })).toThrow('SGD: learningRate: expected a number >= 0, got NaN');
  expect(() => optimizer.step({ learningRate: 1, maxGradientNorm: 0 })).toThrow(
    'SGD: maxGradientNorm: expected a number > 0, got 0',
  );
  optimizer.dispose();
  first.tensor.dispose();
});

test('flat buffers do not exceed the allowed size, and parameters keep their values and stay usable', async () => {
  const values = randomValues(7);
  const parameters = parametersOf(values);
  // Padded sizes are 64, 64, 64, 64 and 8832 elements. A buffer holds at most 128 elements. Only the last parameter is
  // larger, and gets a buffer of its own.
  const flat = new FlatParameters('test', parameters, 128 * 4);
  expect(flat.values.map(({ size }) => size)).toEqual([128, 128, 8832]);
  const runs = flat.runs(flat.entries, ({ index }) => (index === 2 ? 1 : 0));
  expect(
    runs.map(({ chunk, offset, count, entries }) => [chunk, offset, count, entries.map(({ name }) => name).join()]),
  ).toEqual([
    [0, 0, 128, 'weight,bias'],
    [1, 0, 64, 'scale'],
    [1, 64, 64, 'block'],
    [2, 0, 8832, 'large'],
  ]);
  expectClose(await readAll(parameters), values);
  const output = device.scope(() => linear(device.tensor([1, 2, 3, 4, 5], [1, 5]), parameters[0].tensor, null));
  const expected = [0, 1, 2].map((row) =>
    [1, 2, 3, 4, 5].reduce((sum, x, i) => sum + x * values.weight[row * 5 + i], 0),
  );
  expect(relativeError(await read(output), expected)).toBeLessThanOrEqual(TOLERANCE);
  output.dispose();
  flat.dispose();
  free(parameters);
});

test('the learning rate rises linearly during warm-up and falls at the milestones', () => {
  const schedule = {
    baseLearningRate: 2.5e-5,
    warmupIterations: 1000,
    warmupFactor: 0.01,
    milestones: [2000, 3000],
    decayFactor: 0.1,
  };
  const expected: [number, number][] = [
    [0, 2.5e-7],
    [500, 2.5e-5 * 0.505],
    [1000, 2.5e-5],
    [1999, 2.5e-5],
    [2000, 2.5e-6],
    [2999, 2.5e-6],
    [3000, 2.5e-7],
    [9999, 2.5e-7],
  ];
  for (const [iteration, rate] of expected)
    expect(Math.abs(learningRateAt(iteration, schedule) / rate - 1), `iteration ${iteration}`).toBeLessThan(1e-12);
  expect(learningRateAt(0, { ...schedule, warmupIterations: 0 })).toBe(2.5e-5);
});

test('a cosine schedule falls from the end of the warm-up to the final factor', () => {
  const schedule = {
    baseLearningRate: 1e-3,
    warmupIterations: 100,
    warmupFactor: 0.1,
    iterations: 1100,
    finalFactor: 0.05,
  };
  const cosine = (progress: number): number => 1e-3 * (0.05 + 0.95 * 0.5 * (1 + Math.cos(Math.PI * progress)));
  const expected: [number, number][] = [
    [0, 1e-4],
    [50, 5.5e-4],
    [100, 1e-3],
    [350, cosine(0.25)],
    [600, 1e-3 * 0.525],
    [1099, cosine(0.999)],
    [1100, 5e-5],
    [5000, 5e-5],
  ];
  for (const [iteration, rate] of expected)
    expect(Math.abs(cosineLearningRateAt(iteration, schedule) / rate - 1), `iteration ${iteration}`).toBeLessThan(
      1e-12,
    );
  // A training that ends within the warm-up never reaches the cosine.
  expect(cosineLearningRateAt(49, { ...schedule, iterations: 50 })).toBeCloseTo(1e-3 * (0.1 * 0.51 + 0.49), 12);
  for (const iterations of [200, 100000])
    expect(cosineLearningRateAt(99, { ...schedule, iterations })).toBe(cosineLearningRateAt(99, schedule));
});
