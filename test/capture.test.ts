/**
 * Capture and replay: a replay gives the same bits as the captured work, and memory does not grow. Work that cannot be
 * captured throws.
 */
import { describe, expect, test } from 'vitest';
import {
  AdamW,
  add,
  affine,
  backward,
  CaptureCache,
  matmul,
  mean,
  Random,
  SGD,
  square,
  sub,
  sum,
  type NamedParameter,
  type Tensor,
} from '../engine/index.ts';
import { testDevices } from './devices.ts';

const devices = await testDevices();
const { device } = devices[0];
const live = (): number => device.memory().liveBytes;
const values = async (tensor: Tensor): Promise<number[]> => Array.from(await tensor.read());

describe('a capture', () => {
  test('runs once, and replays with the current values of its inputs', async () => {
    const before = live();
    const x = device.tensor([1, 2, 3]);
    const y = device.tensor([0, 0, 0]);
    const capture = device.capture(() => {
      device.copy(affine(x, 2), y);
      return { double: affine(x, 2), shifted: [add(affine(x, 2), device.tensor([10, 20, 30]))] };
    });
    const {
      double,
      shifted: [shifted],
    } = capture.outputs;
    expect(await values(double)).toEqual([2, 4, 6]);
    for (const input of [
      [5, 6, 7],
      [-1, 0, 1],
    ]) {
      device.write(x, Float32Array.from(input));
      capture.replay();
      expect(await values(double)).toEqual(input.map((v) => 2 * v));
      expect(await values(shifted)).toEqual(input.map((v, i) => 2 * v + 10 * (i + 1)));
      expect(await values(y)).toEqual(input.map((v) => 2 * v));
    }
    capture.dispose();
    expect(double.disposed).toBe(true);
    expect(() => capture.replay()).toThrow('replay: the capture was disposed');
    x.dispose();
    y.dispose();
    expect(live()).toBe(before);
  });

  test('replays more dispatches than one buffer of params holds', async () => {
    const x = device.tensor([0]);
    const capture = device.capture(() => {
      let y = x;
      for (let i = 0; i < 2500; i++) y = affine(y, 1, i % 2);
      return y;
    });
    device.write(x, Float32Array.of(7));
    capture.replay();
    expect(await capture.outputs.item()).toBe(1257);
    expect(capture.report.dispatches).toBe(2500);
    capture.dispose();
    x.dispose();
  });

  test('does not touch the memory of other tensors, made before or after it', async () => {
    const x = device.tensor(new Random(1).normalArray(5000));
    const scratch = (): Tensor =>
      device.scope(() => [1, 2, 3, 4].reduce((y, k) => add(square(y), affine(y, k)), x as Tensor));
    const plain = scratch();
    const expected = await values(plain);
    plain.dispose();
    const capture = device.capture(scratch);
    const others = Array.from({ length: 30 }, (_, i) => device.tensor(new Float32Array(5000).fill(i)));
    const during = live();
    for (let i = 0; i < 20; i++) capture.replay();
    expect(live()).toBe(during);
    expect(await values(capture.outputs)).toEqual(expected);
    for (const [i, other] of others.entries()) expect(new Set(await values(other))).toEqual(new Set([i]));
    for (const tensor of [...others, x]) tensor.dispose();
    capture.dispose();
  });

  test('shares memory with other captures, but not its outputs', async () => {
    const before = live();
    const x = device.tensor(new Random(1).normalArray(50_000));
    const chain = (factor: number) => (): Tensor => {
      let y: Tensor = x;
      for (let i = 0; i < 6; i++) y = device.scope(() => add(affine(y, factor), affine(x, 1)));
      return sum(y);
    };
    const factors = [0.5, 1, 2];
    const expected: number[] = [];
    for (const factor of factors) {
      const plain = device.scope(chain(factor));
      expected.push(await plain.item());
      plain.dispose();
    }
    const captures = [device.capture(chain(factors[0]))];
    const one = device.memory().capturedBytes;
    captures.push(...factors.slice(1).map((factor) => device.capture(chain(factor))));
    expect(one).toBeGreaterThan(0);
    expect(device.memory().capturedBytes).toBe(one);
    expect(captures[0].report.bytes).toBeLessThanOrEqual(one);
    for (const i of [1, 0, 2, 0]) captures[i].replay();
    for (const [i, { outputs }] of captures.entries()) expect(await outputs.item()).toBe(expected[i]);
    captures[0].dispose();
    captures[2].replay();
    expect(await captures[2].outputs.item()).toBe(expected[2]);
    captures[2].dispose();
    captures[1].dispose();
    x.dispose();
    expect(device.memory().capturedBytes).toBe(0);
    expect(live()).toBe(before);
  });

  test('keeps the memory of tensors from outside after they are disposed', async () => {
    const before = live();
    const x = device.tensor([1, 2]);
    const capture = device.capture(() => affine(x, 3));
    x.dispose();
    const other = device.tensor([50, 60]);
    capture.replay();
    expect(await values(capture.outputs)).toEqual([3, 6]);
    expect(await values(other)).toEqual([50, 60]);
    other.dispose();
    capture.dispose();
    expect(live()).toBe(before);
  });

  test('gives tensors that its body keeps, and gradients, their own memory', async () => {
    const before = live();
    const x = device.parameter(Float32Array.of(1, 2), [2]),
      target = device.tensor([0, 0]);
    let cache: Tensor | null = null;
    const capture = device.capture(() => {
      cache ??= device.keep(affine(target, 1, 5));
      backward(sum(square(sub(x, target))));
    });
    const other = device.capture(() => affine(affine(target, 0, 77), 1));
    device.write(target, Float32Array.of(1, 1));
    capture.replay();
    other.replay();
    expect(await values(x.grad!)).toEqual([0, 2]);
    expect(await values(cache!)).toEqual([6, 6]);
    for (const each of [capture, other]) each.dispose();
    expect(await values(cache!)).toEqual([6, 6]);
    x.zeroGrad();
    for (const tensor of [x, target, cache!]) tensor.dispose();
    expect(live()).toBe(before);
  });

  test('runs the host work of eachTime before each replay', async () => {
    const rate = device.tensor([0]);
    let now = 1;
    const capture = device.capture(() => {
      const early = affine(rate, 1);
      device.eachTime(() => device.write(rate, Float32Array.of(now)));
      return [early, affine(rate, 10)];
    });
    expect(await capture.outputs[1].item()).toBe(10);
    now = 2;
    capture.replay();
    expect(await capture.outputs[0].item()).toBe(2); // before all commands
    expect(await capture.outputs[1].item()).toBe(20);
    capture.dispose();
    rate.dispose();
  });

  test('throws on reads, waits and other captures inside; a failed capture leaves no memory', async () => {
    const before = live();
    const x = device.tensor([1, 2]);
    const reads: Promise<unknown>[] = [];
    expect(() =>
      device.capture(() => {
        reads.push(
          affine(x, 2)
            .read()
            .catch((error: Error) => error.message),
        );
      }),
    ).toThrow('capture: reading a tensor of shape [2] cannot be captured');
    expect(() =>
      device.capture(() => {
        reads.push(device.synchronize().catch((error: Error) => error.message));
      }),
    ).toThrow('capture: waiting for the device cannot be captured');
    for (const message of await Promise.all(reads)) expect(message).toMatch(/^capture: .* do it before or after$/);
    expect(() => device.capture(() => device.capture(() => affine(x, 2)))).toThrow(
      'capture: another capture is in progress already',
    );
    const good = device.capture(() => affine(x, 2));
    expect(() => device.capture(() => good.replay())).toThrow(
      'replay: a capture cannot be replayed while another is in progress',
    );
    expect(() =>
      device.capture(() => {
        affine(x, 3);
        throw new Error('on purpose');
      }),
    ).toThrow('on purpose');
    good.replay();
    expect(await values(good.outputs)).toEqual([2, 4]);
    good.dispose();
    x.dispose();
    expect(live()).toBe(before);
  });
});

describe('a capture cache', () => {
  test('runs a shape plainly, captures it, then replays it, and drops the least recently used capture', async () => {
    const before = live();
    let bodies = 0,
      inputs = 0;
    const cache = new CaptureCache(
      device,
      ({ x }: { x: Tensor; dispose(): void }) => {
        bodies++;
        return affine(x, 2, 1);
      },
      { capacity: 2 },
    );
    const run = async (size: number, value: number): Promise<void> => {
      const output = cache.run(
        String(size),
        () => {
          inputs++;
          const x = device.empty([size]);
          return {
            x,
            dispose: () => {
              inputs--;
              x.dispose();
            },
          };
        },
        ({ x }) => device.write(x, new Float32Array(size).fill(value)),
      );
      expect(await values(output)).toEqual(new Array<number>(size).fill(2 * value + 1));
    };
    const bodiesOf = async (size: number): Promise<number> => {
      const earlier = bodies;
      await run(size, bodies);
      return bodies - earlier;
    };
    const counts: number[] = [];
    for (const size of [3, 3, 3, 4, 4, 3, 4, 5, 5, 5, 4, 3, 3]) counts.push(await bodiesOf(size));
    // The body runs at the plain and at the captured run of a size. Size 5 drops the capture of 3; at the end 3 is
    // captured again.
    expect(counts).toEqual([1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0]);
    expect(inputs).toBe(2);
    expect(cache.reports).toHaveLength(2);
    cache.dispose();
    expect(inputs).toBe(0);
    expect(live()).toBe(before);
    const never = new CaptureCache(
      device,
      () => {
        bodies++;
      },
      { enabled: false },
    );
    const earlier = bodies;
    for (let i = 0; i < 5; i++)
      never.run(
        'same',
        () => ({ dispose: () => undefined }),
        () => undefined,
      );
    expect(bodies - earlier).toBe(5);
  });
});

describe('an optimizer', () => {
  const make = (): { x: Tensor; parameters: NamedParameter[] } => {
    const parameters = [[7, 5], [5], [3]].map((shape, i) => ({
      name: `p${i}`,
      tensor: device.parameter(new Random(1, i).normalArray(shape.reduce((a, b) => a * b, 1)), shape),
    }));
    return { x: device.tensor(new Random(2).normalArray(28), [4, 7]), parameters };
  };
  const free = (parameters: readonly NamedParameter[], x: Tensor): void => {
    for (const { tensor } of parameters) {
      tensor.zeroGrad();
      tensor.dispose();
    }
    x.dispose();
  };
  /** The third parameter gets no gradient. */
  const loss = ([weight, bias]: readonly NamedParameter[], x: Tensor): Tensor =>
    mean(square(add(matmul(x, weight.tensor), bias.tensor)));
  const kinds = [
    ['AdamW', (p: NamedParameter[]) => new AdamW(p, { weightDecay: 0.1 })],
    ['SGD', (p: NamedParameter[]) => new SGD(p, { momentum: 0.9, weightDecay: 0.1 })],
  ] as const;

  test.each(kinds)(
    '%s gives the same bits with and without replay, with new learning rates and accumulated gradients',
    async (_, create) => {
      const results: number[][][] = [];
      for (const replay of [false, true]) {
        const { x, parameters } = make();
        const optimizer = create(parameters);
        let learningRate = 0;
        const whole = (): void => {
          backward(loss(parameters, x));
          optimizer.step({ learningRate: () => learningRate, maxGradientNorm: 0.5 });
          optimizer.zeroGrad();
        };
        const pass = (): void => {
          backward(loss(parameters, x));
          optimizer.accumulate();
        };
        const update = (): void => {
          optimizer.step({ learningRate: () => learningRate, maxGradientNorm: 0.5, gradientScale: 0.5 });
          optimizer.zeroGrad();
        };
        const captures = new Map<string, { replay(): void; dispose(): void }>();
        const run = (name: string, body: () => void): void => {
          if (!replay) device.graphScope(body);
          else if (captures.has(name)) captures.get(name)!.replay();
          else captures.set(name, device.capture(body));
        };
        for (let step = 0; step < 8; step++) {
          learningRate = 0.1 / (1 + step);
          device.write(x, new Random(3, step).normalArray(28));
          if (step % 2 === 0) run('whole step', whole);
          else {
            run('first pass', pass);
            device.write(x, new Random(4, step).normalArray(28));
            run('second pass', pass);
            run('update', update);
          }
        }
        const { step, tensors } = await optimizer.state();
        expect(step).toBe(8);
        results.push([
          ...(await Promise.all(parameters.map(({ tensor }) => values(tensor)))),
          ...[...tensors.values()].map(({ data }) => Array.from(data)),
        ]);
        for (const capture of captures.values()) capture.dispose();
        optimizer.dispose();
        free(parameters, x);
      }
      expect(results[1]).toEqual(results[0]);
    },
  );

  test('throws if a replay does not fit the work since the capture', () => {
    const { x, parameters } = make();
    const optimizer = new AdamW(parameters);
    const pass = (body: () => Tensor) =>
      device.capture(() => {
        backward(body());
        optimizer.accumulate();
      });
    const first = pass(() => loss(parameters, x));
    expect(() => first.replay()).toThrow(
      'AdamW: replayed accumulate: expected no accumulated gradient of p0 as at the capture, ' +
        'got an accumulated gradient of p0',
    );
    const step = device.capture(() => {
      optimizer.step({ learningRate: 1e-3 });
      optimizer.zeroGrad();
    });
    expect(() => step.replay()).toThrow(
      'AdamW: replayed step: expected 2 accumulated gradients as at the capture, got 0',
    );
    device.scope(() => {
      backward(sum(square(parameters[0].tensor)));
      optimizer.step({ learningRate: 1e-3 });
      optimizer.zeroGrad();
    });
    first.replay();
    expect(() => step.replay()).toThrow(
      'AdamW: replayed step: expected as many updates of p0 as of p1, as at the capture, ' +
        'got 2 and 1; capture the step again',
    );
    for (const capture of [first, step]) capture.dispose();
    optimizer.dispose();
    free(parameters, x);
  });
});
