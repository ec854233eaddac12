/**
 * The average of the weights, the backbone's learning rate and frozen parts: against float64, with the bits of a
 * resumed and of a captured training.
 */
import { describe, expect, test } from 'vitest';
import {
  AdamW,
  averageDecayAt,
  backward,
  CaptureCache,
  Random,
  SGD,
  type NamedParameter,
  type Tensor,
} from '../engine/index.ts';
import { DynamicSparseRCNN, MODEL_PRESETS, type ModelConfig } from '../model/index.ts';
import { computeLosses } from '../training/core/detector.ts';
import { InputError } from '../training/core/errors.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { TrainingStep } from '../training/core/step.ts';
import { testDevices } from './devices.ts';
import { relativeError, sizeOf } from './op-harness.ts';

const devices = await testDevices();
const { device } = devices[0];

const SHAPES: Readonly<Record<string, readonly number[]>> = { weight: [3, 5], bias: [7], scale: [], large: [131, 67] };
const NAMES = Object.keys(SHAPES);
const TOLERANCE = 2e-6;

const random = (name: string, seed: number): Float32Array<ArrayBuffer> =>
  Float32Array.from(new Random(seed, NAMES.indexOf(name)).normalArray(sizeOf(SHAPES[name])));

const makeParameters = (seed: number): NamedParameter[] =>
  NAMES.map((name) => ({ name, tensor: device.parameter(random(name, seed), SHAPES[name]) }));

/** One SGD step. `scale` has no gradient in step 1: its average must move even so. */
function advance(optimizer: SGD | AdamW, parameters: readonly NamedParameter[], step: number): void {
  device.scope(() => {
    for (const { name, tensor } of parameters)
      if (!(name === 'scale' && step === 1)) backward(tensor, device.tensor(random(name, 100 + step), SHAPES[name]));
  });
  optimizer.step({ learningRate: 0.1 });
  optimizer.zeroGrad();
}

const values = async (parameters: readonly NamedParameter[]): Promise<Record<string, Float32Array>> =>
  Object.fromEntries(
    await Promise.all(
      parameters.map(async ({ name, tensor }) => [name, (await tensor.read()) as Float32Array] as const),
    ),
  );

function free(parameters: readonly NamedParameter[]): void {
  for (const { tensor } of parameters) {
    tensor.zeroGrad();
    tensor.dispose();
  }
}

describe('the average of the weights', () => {
  test('follows float64, and the parameters get their own values back', async () => {
    const before = device.memory().liveBytes;
    const parameters = makeParameters(1);
    const optimizer = new SGD(parameters, { averageDecay: 0.4 });
    const value = Object.fromEntries(NAMES.map((name) => [name, Float64Array.from(random(name, 1))]));
    const average = Object.fromEntries(NAMES.map((name) => [name, Float64Array.from(value[name])]));
    for (let step = 0; step < 8; step++) {
      advance(optimizer, parameters, step);
      const decay = Math.min(0.4, (1 + step) / (10 + step));
      for (const name of NAMES) {
        const gradient = random(name, 100 + step);
        value[name].forEach((_, i) => {
          if (!(name === 'scale' && step === 1)) value[name][i] -= 0.1 * gradient[i];
          average[name][i] = decay * average[name][i] + (1 - decay) * value[name][i];
        });
      }
    }
    const own = await values(parameters);
    const averaged = await optimizer.withAverage(() => values(parameters));
    for (const name of NAMES) {
      expect(relativeError(own[name], value[name]), name).toBeLessThanOrEqual(TOLERANCE);
      expect(relativeError(averaged[name], average[name]), name).toBeLessThanOrEqual(TOLERANCE);
      expect(averaged[name]).not.toEqual(own[name]);
    }
    await expect(optimizer.withAverage(() => Promise.reject(new Error('no disk')))).rejects.toThrow('no disk');
    expect(await values(parameters)).toEqual(own);
    optimizer.dispose();
    free(parameters);
    expect(device.memory().liveBytes).toBe(before);
  });

  test('takes one dispatch of a step', () => {
    const parameters = makeParameters(1);
    const optimizer = new SGD(parameters, { averageDecay: 0.999 });
    advance(optimizer, parameters, 0);
    const before = device.dispatches;
    optimizer.step({ learningRate: 0.1 });
    const without = device.dispatches - before;
    // No parameter has a gradient here: only the clipping factor and the average are dispatched.
    expect(without).toBe(2);
    optimizer.dispose();
    free(parameters);
  });

  test('grows its decay up to the highest', () => {
    expect(averageDecayAt(0, 0.9999)).toBe(0.1);
    expect(averageDecayAt(90, 0.9999)).toBe(0.91);
    expect(averageDecayAt(1e6, 0.9999)).toBe(0.9999);
    const [first] = makeParameters(1);
    expect(() => new SGD([first], { averageDecay: 1 })).toThrow('SGD: averageDecay: expected a number >= 0 and < 1');
    free([first]);
  });

  test('continues with the same bits from a saved state, and reset starts it again', async () => {
    const parameters = makeParameters(4);
    const optimizer = new AdamW(parameters, { averageDecay: 0.99 });
    for (let step = 0; step < 3; step++) advance(optimizer, parameters, step);
    const state = await optimizer.state();
    const saved = await values(parameters);
    const others = NAMES.map((name) => ({
      name,
      tensor: device.parameter(Float32Array.from(saved[name]), SHAPES[name]),
    }));
    const resumed = new AdamW(others, { averageDecay: 0.99 });
    resumed.loadState(state);
    for (let step = 3; step < 5; step++) {
      advance(optimizer, parameters, step);
      advance(resumed, others, step);
    }
    expect(await resumed.state()).toEqual(await optimizer.state());
    expect(await resumed.withAverage(() => values(others))).toEqual(
      await optimizer.withAverage(() => values(parameters)),
    );
    const plain = new AdamW(makeParameters(5), {});
    expect(() => plain.loadState(state)).toThrow('AdamW: average.weight: expected the name of a parameter');

    resumed.reset();
    const fresh = await resumed.state();
    expect(fresh.step).toBe(0);
    expect([...fresh.tensors.get('steps')!.data]).toEqual(NAMES.map(() => 0));
    expect(fresh.tensors.get('firstMoment.large')!.data.every((x) => x === 0)).toBe(true);
    const now = await values(others);
    expect(Object.fromEntries(NAMES.map((name) => [name, fresh.tensors.get(`average.${name}`)!.data]))).toEqual(now);
    for (const one of [optimizer, resumed, plain]) one.dispose();
    free([...parameters, ...others]);
  });

  test('has the same bits in replays of a captured step', async () => {
    const run = async (enabled: boolean): Promise<unknown> => {
      const parameters = makeParameters(6);
      const optimizer = new AdamW(parameters, { averageDecay: 0.9 });
      const gradients = parameters.map(({ tensor }) => device.keep(device.zeros(tensor.shape)));
      const steps = new CaptureCache(
        device,
        () => {
          parameters.forEach(({ tensor }, i) => backward(tensor, gradients[i]));
          optimizer.step({ learningRate: 0.01 });
          optimizer.zeroGrad();
          return [] as Tensor[];
        },
        { enabled },
      );
      for (let step = 0; step < 6; step++) {
        for (const [i, name] of NAMES.entries()) device.write(gradients[i], random(name, 50 + step));
        steps.run(
          'step',
          () => ({ dispose: () => undefined }),
          () => undefined,
        );
      }
      const result = await optimizer.state();
      steps.dispose();
      optimizer.dispose();
      free(parameters);
      for (const tensor of gradients) tensor.dispose();
      return result;
    };
    expect(await run(true)).toEqual(await run(false));
  });
});

describe('learning rates by parameter', () => {
  test('multiply the steps of the parameters they name', async () => {
    const options = { learningRateFactor: (name: string) => (name === 'bias' ? 0.25 : name === 'large' ? 0 : 1) };
    const parameters = makeParameters(2);
    const optimizer = new SGD(parameters, options);
    advance(optimizer, parameters, 0);
    const after = await values(parameters);
    for (const name of NAMES) {
      const rate = 0.1 * options.learningRateFactor(name);
      const gradient = random(name, 100);
      const expected = Float64Array.from(random(name, 2), (x, i) => x - rate * gradient[i]);
      expect(relativeError(after[name], expected), name).toBeLessThanOrEqual(TOLERANCE);
    }
    optimizer.dispose();
    free(parameters);
    const [first] = makeParameters(3);
    expect(() => new SGD([first], { learningRateFactor: () => -1 })).toThrow(
      'SGD: learningRateFactor of weight: expected a number >= 0, got -1',
    );
    free([first]);
  });

  const image = { data: new Uint8Array(64 * 64 * 3).map((_, i) => (i * 37) % 251), width: 64, height: 64 };
  const target = { boxes: Float32Array.of(4, 6, 40, 44), labels: Uint32Array.of(1) };
  const batch = { images: [image], targets: [target] };

  test('backboneLearningRateFactor slows the ResNet and nothing else', async () => {
    const trained = async (factor: number): Promise<Map<string, Float32Array>> => {
      const model = new DynamicSparseRCNN(device, MODEL_PRESETS.tiny, 5);
      const training = {
        ...presetConfig('tiny').training,
        backboneLearningRateFactor: factor,
        optimizer: 'sgd' as const,
        weightDecay: 0,
      };
      const step = new TrainingStep(device, model, training);
      const start = await model.save();
      (await step.run(async () => batch, { learningRate: 0.1, values: {} })).dispose();
      const moved = new Map<string, Float32Array>();
      for (const [name, { data }] of await model.save())
        moved.set(
          name,
          data.map((x, i) => x - start.get(name)!.data[i]),
        );
      step.dispose();
      model.dispose();
      return moved;
    };
    const [whole, slowed] = [await trained(1), await trained(0)];
    const norm = (data: Float32Array): number => Math.hypot(...data);
    for (const [name, data] of whole) {
      const inBackbone = name.startsWith('backbone.bottom_up.');
      expect(slowed.get(name), name).toEqual(inBackbone ? new Float32Array(data.length) : data);
    }
    expect([...whole].some(([name, data]) => name.startsWith('backbone.bottom_up.') && norm(data) > 0)).toBe(true);
  });

  test('a model without a backbone refuses a factor', () => {
    const model = new DynamicSparseRCNN(device, MODEL_PRESETS.tiny, 5);
    const training = { ...presetConfig('tiny').training, backboneLearningRateFactor: 0.1 };
    const headless = Object.create(model, { backbonePrefix: { value: undefined } }) as typeof model;
    expect(() => new TrainingStep(device, headless, training)).toThrow(InputError);
    model.dispose();
  });

  test.each(['gn', 'frozen_bn'] as const)(
    'freezeAt with %s keeps the bits of frozen parts and saves work',
    async (norm) => {
      const measured = async (freezeAt: number) => {
        const config: ModelConfig = { ...MODEL_PRESETS.tiny, norm, freezeAt };
        const model = new DynamicSparseRCNN(device, config, 5);
        const optimizer = new AdamW(model.trainable(), {});
        const start = await model.save();
        const before = device.dispatches;
        device.scope(() => {
          backward(computeLosses(model, [image], [target]).total);
          optimizer.step({ learningRate: 0.01 });
        });
        const dispatches = device.dispatches - before;
        optimizer.zeroGrad();
        const changed = new Set<string>();
        for (const [name, { data }] of await model.save())
          if (data.some((x, i) => x !== start.get(name)!.data[i])) changed.add(name);
        const trainable = new Set(model.trainable().map(({ name }) => name));
        optimizer.dispose();
        model.dispose();
        return { dispatches, changed: [...changed], trainable };
      };
      const prefix = 'backbone.bottom_up.';
      const parts = ['stem', 'res2', 'res3', 'res4', 'res5'];
      const runs = [];
      for (const freezeAt of [0, 1, 2, 3, 4, 5]) runs.push(await measured(freezeAt));
      for (const [freezeAt, { dispatches, changed, trainable }] of runs.entries()) {
        for (const name of changed) expect(trainable.has(name), name).toBe(true);
        for (const [i, part] of parts.entries())
          expect(
            changed.some((name) => name.startsWith(`${prefix}${part}.`)),
            `${part}, freezeAt ${freezeAt}`,
          ).toBe(i >= freezeAt);
        if (freezeAt > 0) expect(dispatches).toBeLessThan(runs[freezeAt - 1].dispatches);
      }
    },
  );
});
