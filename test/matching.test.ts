/**
 * Label assignment by the matchers: optimal transport compared with a float64 reference, all matchers compared with
 * golden files, and properties of every assignment.
 */
import { describe, expect, test } from 'vitest';
import { backward, Random, type Device, type Tensor } from '../engine/index.ts';
import { PAPER_R50 } from '../model/config.ts';
import { criterion } from '../model/criterion.ts';
import { assign, MATCHER_NAMES, type Assignment, type MatchingConfig } from '../model/matching.ts';
import { uploadTargets } from '../model/targets.ts';
import { testDevices } from './devices.ts';
import { GOLDEN_NAMES, readGolden, type Golden } from './golden-files.ts';
import { decodePlan, sinkhorn, supplies, transportCosts, type Problem } from './matching-reference.ts';
import { boxesInput } from './op-cases/boxes.ts';
import { chunk, relativeError } from './op-harness.ts';

const devices = await testDevices();

/**
 * Entries are exp((u + v - cost) / 0.1). Costs and potentials divided by epsilon are some hundreds; their rounding
 * errors determine the relative error of an entry.
 */
const PLAN_TOLERANCE = 5e-5;

/** The losses are sums of a few hundred terms of one sign in f32. */
const LOSS_TOLERANCE = 1e-5;

/** [stage][image] */
type Problems = readonly (readonly Problem[])[];

/** An assignment on the host: [stage][image]. */
interface Assigned {
  readonly matched: number[][][];
  readonly positives: number[];
  readonly counts: number[];
  /** M, the number of padded rows. */
  readonly rows: number;
  /** [stage][image][row], background at `rows`; empty for the Hungarian matcher. */
  readonly supply: number[][][];
  /** [stage][image][row][proposal] */
  readonly plan: number[][][][];
}

/** Uploads problems with the same N and C, computes the assignment, and reads it back. */
async function assignProblems(
  device: Device,
  problems: Problems,
  config: MatchingConfig,
  capacity?: number,
): Promise<Assigned> {
  const [{ boxes, classes }] = problems[0],
    n = boxes.length / 4,
    stages = problems.length,
    images = problems[0].length;
  const flat = (pick: (p: Problem) => ArrayLike<number>): Float32Array<ArrayBuffer> =>
    Float32Array.from(problems.flat().flatMap((p) => Array.from(pick(p))));
  const { rows, assignment } = device.scope(() => {
    const targets = uploadTargets(
      device,
      problems[0].map(({ labels, objects }) => ({ labels, boxes: objects })),
      problems[0].map(({ size }) => size),
      capacity,
    );
    const logits = device.tensor(
      flat((p) => p.logits),
      [stages, images, n, classes],
    );
    const boxes = device.tensor(
      flat((p) => p.boxes),
      [stages, images, n, 4],
    );
    const found = assign({ logits, boxes, targets }, config, true);
    for (const tensor of Object.values(found) as Assignment[keyof Assignment][]) if (tensor) device.keep(tensor);
    return { rows: targets.maxObjects, assignment: found };
  });
  const read = async (tensor: Assignment[keyof Assignment]): Promise<number[]> => {
    if (!tensor) return [];
    const values = Array.from(await tensor.read());
    tensor.dispose();
    return values;
  };
  return {
    rows,
    matched: chunk(chunk(await read(assignment.matched), n), images),
    positives: await read(assignment.positives),
    counts: await read(assignment.counts),
    supply: chunk(chunk(await read(assignment.supply), rows + 1), images),
    plan: chunk(chunk(chunk(await read(assignment.plan), n), rows + 1), images),
  };
}

/** Random objects and proposals. Every second proposal is near an object, and its logits favour the object's class. */
function randomProblem(n: number, m: number, classes: number, seed: number): Problem {
  const random = new Random(seed);
  const objects = boxesInput([m, 4], seed + 1000).data;
  const labels = Array.from({ length: m }, () => random.integer(classes));
  const boxes = boxesInput([n, 4], seed + 2000).data;
  const logits = random.normalArray(n * classes, -3);
  for (let j = 0; j < n && m > 0; j += 2) {
    const i = random.integer(m);
    for (let k = 0; k < 4; k++) boxes[4 * j + k] = Math.fround(objects[4 * i + k] + random.normal());
    logits[j * classes + labels[i]] += 2;
  }
  return { classes, logits, boxes, labels, objects, size: [100, 100] };
}

/** The rows of a padded supply or plan in use: those of objects, and the background. */
const inUse = <T>(values: readonly T[], m: number): T[] => [...values.slice(0, m), values[values.length - 1]];

describe.each(devices)('$label', ({ device }) => {
  describe('optimal transport', () => {
    const OTA: MatchingConfig = { ...PAPER_R50, matcher: 'ota' };

    const variants: [string, number, number[], MatchingConfig, number][] = [
      ['dynamic k, three stages', 30, [4, 1, 0, 7], OTA, 3],
      ['as many objects as rows, one class', 24, [8, 16], { ...OTA, unitIncreasing: false }, 1],
      ['more objects than proposals', 5, [9, 12], OTA, 2],
      ['one proposal', 1, [1, 3], OTA, 1],
      [
        'fixed fractional k, other weights',
        33,
        [3, 5],
        { ...OTA, otaK: 2.5, classWeight: 1, l1Weight: 3, giouWeight: 4, focalGamma: 1.5, focalAlpha: 0.4 },
        2,
      ],
      [
        'top-q of 3, epsilon 0.2, 10 iterations',
        40,
        [2, 6],
        { ...OTA, otaTopQ: 3, sinkhornEpsilon: 0.2, sinkhornIterations: 10 },
        2,
      ],
      ['300 proposals, 100 objects', 300, [100], OTA, 1],
    ];
    test.each(variants)('equals the float64 reference: %s', async (_, n, objects, config, stages) => {
      const problems = Array.from({ length: stages }, (_, t) =>
        objects.map((m, b) => {
          const first = randomProblem(n, m, 6, 10 * n + b);
          return t === 0
            ? first
            : { ...randomProblem(n, m, 6, 100 * n + 10 * t + b), labels: first.labels, objects: first.objects };
        }),
      );
      const { matched, supply, plan, positives, counts } = await assignProblems(device, problems, config);
      problems.forEach((images, t) => {
        images.forEach((problem, b) => {
          const m = objects[b];
          if (m === 0) {
            expect(matched[t][b], 'no objects: all negative').toEqual(new Array(n).fill(-1));
            return;
          }
          const units = supplies(problem, t + 1, stages, config);
          const given = [...units, n - units.reduce((x, y) => x + y, 0)];
          expect(relativeError(inUse(supply[t][b], m), given), 'supply').toBeLessThanOrEqual(1e-6);
          const expected = sinkhorn(transportCosts(problem, config), given, config);
          expect(relativeError(inUse(plan[t][b], m).flat(), expected.flat()), 'plan').toBeLessThanOrEqual(
            PLAN_TOLERANCE,
          );
          expect(matched[t][b]).toEqual(decodePlan(expected));
          inUse(plan[t][b], m).forEach((entries, i) => {
            const ships = entries.reduce((x, y) => x + y, 0);
            expect(
              Math.abs(ships - given[i]) / Math.max(1, given[i]),
              'the last update leaves every row with its supply',
            ).toBeLessThanOrEqual(PLAN_TOLERANCE);
          });
        });
        const found = matched[t].flat().filter((i) => i >= 0).length;
        expect(counts[t]).toBe(found);
        expect(positives[t]).toBe(Math.max(1, found));
      });
    });

    test('columns receive one unit when the iterations have converged', async () => {
      const { plan } = await assignProblems(device, [[randomProblem(30, 4, 6, 5)]], {
        ...OTA,
        sinkhornEpsilon: 1,
        sinkhornIterations: 200,
      });
      for (let j = 0; j < 30; j++)
        expect(Math.abs(plan[0][0].reduce((total, entries) => total + entries[j], 0) - 1)).toBeLessThanOrEqual(1e-4);
    });

    test('at least a fifth of the proposals stay background for any number of objects', async () => {
      const { supply } = await assignProblems(device, [[randomProblem(20, 60, 6, 3)]], OTA);
      expect(supply[0][0].at(-1)).toBeCloseTo(4, 4);
    });
  });

  describe.each(MATCHER_NAMES)('%s', (matcher) => {
    const config: MatchingConfig = { ...PAPER_R50, matcher };
    const images = [3, 0, 11, 8].map((m, b) => randomProblem(21, m, 5, 70 + b));

    test('a batch gives the results of its single images, for any padding', async () => {
      const together = await assignProblems(device, [images, images], config, 40);
      for (const [b, image] of images.entries()) {
        const alone = await assignProblems(device, [[image], [image]], config, Math.max(1, image.labels.length));
        for (const t of [0, 1]) expect(alone.matched[t][0]).toEqual(together.matched[t][b]);
      }
    });

    test('the padding of targets has no influence, even if it is NaN', async () => {
      const { rows, matched } = await assignProblems(device, [images], config);
      const hostile = device.scope(() => {
        const targets = uploadTargets(
          device,
          images.map(({ labels, objects }) => ({ labels, boxes: objects })),
          images.map(({ size }) => size),
          rows,
        );
        const boxes = new Float32Array(images.length * rows * 4).fill(NaN),
          labels = new Uint32Array(images.length * rows).fill(0xffffffff);
        images.forEach((image, b) => {
          boxes.set(image.objects, b * rows * 4);
          labels.set(image.labels, b * rows);
        });
        device.write(targets.boxes, boxes);
        device.write(targets.labels, labels);
        const flat = (pick: (p: Problem) => ArrayLike<number>): number[] => images.flatMap((p) => Array.from(pick(p)));
        const input = {
          logits: device.tensor(
            flat((p) => p.logits),
            [1, 4, 21, 5],
          ),
          boxes: device.tensor(
            flat((p) => p.boxes),
            [1, 4, 21, 4],
          ),
          targets,
        };
        return assign(input, config).matched;
      });
      expect(chunk(Array.from(await hostile.read()), 21)).toEqual(matched[0]);
      hostile.dispose();
    });

    test('NaN and infinite predictions neither hang nor give indices out of range', async () => {
      const [image] = images;
      for (const bad of [NaN, Infinity, -Infinity]) {
        const boxes = Array.from(image.boxes, (x, i) => (i % 5 === 0 ? bad : x)),
          logits = Array.from(image.logits, (x, i) => (i % 7 === 0 ? bad : x));
        const { matched } = await assignProblems(device, [[{ ...image, boxes, logits }]], config);
        for (const i of matched[0][0]) expect(i >= -1 && i < 3, `matched to ${i}`).toBe(true);
      }
    });

    test('gives the same bits twice, and no GPU memory stays allocated', async () => {
      const before = device.memory().liveBytes;
      const first = await assignProblems(device, [images], config);
      expect(await assignProblems(device, [images], config)).toEqual(first);
      expect(device.memory().liveBytes).toBe(before);
    });

    test('a step along the negative gradient lowers the loss, and no GPU memory stays allocated', async () => {
      const before = device.memory().liveBytes;
      const logits = device.parameter(Float32Array.from(images.flatMap((p) => Array.from(p.logits))), [4, 21, 5]);
      const boxes = device.parameter(Float32Array.from(images.flatMap((p) => Array.from(p.boxes))), [4, 21, 4]);
      const loss = (): Tensor => {
        const targets = uploadTargets(
          device,
          images.map(({ labels, objects }) => ({ labels, boxes: objects })),
          images.map(({ size }) => size),
        );
        return criterion([{ logits, boxes }], targets, { ...config, numStages: 1 }).total;
      };
      const totals: number[] = [];
      for (let step = 0; step < 2; step++) {
        const total = device.scope(() => {
          const value = loss();
          backward(value);
          return device.keep(value);
        });
        totals.push(await total.item());
        total.dispose();
        for (const parameter of [logits, boxes]) {
          const [values, gradient] = [await parameter.read(), await parameter.grad!.read()];
          parameter.zeroGrad();
          device.write(
            parameter,
            Float32Array.from(values, (x, i) => x - gradient[i]),
          );
        }
      }
      [logits, boxes].forEach((parameter) => parameter.dispose());
      expect(totals[1]).toBeLessThan(totals[0]);
      expect(device.memory().liveBytes).toBe(before);
    });
  });

  test('errors about impossible objects name image and field', () => {
    const upload =
      (labels: number[], boxes: number[], capacity?: number): (() => unknown) =>
      () =>
        device.scope(() =>
          uploadTargets(
            device,
            [
              { labels: [], boxes: [] },
              { labels, boxes },
            ],
            [
              [9, 9],
              [9, 9],
            ],
            capacity,
          ),
        );
    expect(upload([1], [0, 0, 1])).toThrow('uploadTargets: boxes of image 1: expected 4 numbers for 1 labels, got 3');
    expect(upload([-1], [0, 0, 1, 1])).toThrow(
      'uploadTargets: labels of image 1: expected integers of at least 0, got -1 at index 0',
    );
    expect(upload([1], [0, 0, NaN, 1])).toThrow(
      'uploadTargets: boxes of image 1: expected finite numbers, got NaN in box 0',
    );
    expect(upload([1, 2], [0, 0, 1, 1, 0, 0, 1, 1], 1)).toThrow(
      'uploadTargets: capacity: expected an integer of at least 2, got 1',
    );
    const beyond = { ...randomProblem(4, 1, 3, 1), labels: [3] };
    return expect(assignProblems(device, [[beyond]], { ...PAPER_R50, matcher: 'ota' })).rejects.toThrow(
      "assign: labels: expected numbers below the model's 3 classes, got 3",
    );
  });

  describe.each(GOLDEN_NAMES)('golden file: %s', (name) => {
    const golden: Golden = readGolden(name);
    const number = (key: string): number => Number(golden.config[key]);
    const config: MatchingConfig = {
      matcher: golden.config.matcher === 'ota' ? 'ota' : 'hungarian',
      otaK: number('ota_k'),
      otaTopQ: number('ota_top_q'),
      unitIncreasing: golden.config.unit_increasing === true,
      unitStep: number('unit_step'),
      maxPositiveFraction: number('max_positive_fraction'),
      sinkhornEpsilon: number('sinkhorn_epsilon'),
      sinkhornIterations: number('sinkhorn_iterations'),
      classWeight: number('class_weight'),
      l1Weight: number('l1_weight'),
      giouWeight: number('giou_weight'),
      focalAlpha: number('focal_alpha'),
      focalGamma: number('focal_gamma'),
    };
    const n = number('num_proposals'),
      classes = number('num_classes');
    const problems = Array.from({ length: number('num_stages') }, (_, t) =>
      golden.meta.sizes.map((_, b): Problem => {
        const [height, width] = golden.floats(`images.${b}`).shape.slice(1);
        const part = (tensor: string, size: number): Float32Array =>
          golden.floats(`stage${t}.${tensor}`).data.subarray(b * n * size, (b + 1) * n * size);
        return {
          classes,
          logits: part('logits', classes),
          boxes: part('boxes', 4),
          labels: golden.integers(`targets.${b}.labels`).data,
          objects: golden.floats(`targets.${b}.boxes`).data,
          size: [width, height],
        };
      }),
    );

    test('gives the same losses', async () => {
      const parts = device.scope(() => {
        const targets = uploadTargets(
          device,
          problems[0].map(({ labels, objects }) => ({ labels, boxes: objects })),
          problems[0].map(({ size }) => size),
        );
        const stages = problems.map((images) => ({
          logits: device.tensor(
            images.flatMap((p) => Array.from(p.logits)),
            [images.length, n, classes],
          ),
          boxes: device.tensor(
            images.flatMap((p) => Array.from(p.boxes)),
            [images.length, n, 4],
          ),
        }));
        const losses = criterion(stages, targets, { ...config, numStages: stages.length });
        return [losses.parts, losses.total];
      });
      const [byStage, total] = [await parts[0].read(), await parts[1].item()];
      parts.forEach((tensor) => tensor.dispose());
      const expected = problems.flatMap((_, t) =>
        ['ce', 'l1', 'giou'].map((part) => golden.floats(`loss.${part}_${t}`).data[0]),
      );
      expect(relativeError(byStage, expected)).toBeLessThanOrEqual(LOSS_TOLERANCE);
      expect(relativeError([total], golden.floats('loss.total').data)).toBeLessThanOrEqual(LOSS_TOLERANCE);
    });

    test('gives the same matches, supplies and plans', async () => {
      const { matched, supply, plan } = await assignProblems(device, problems, config);
      problems.forEach((images, t) =>
        images.forEach(({ labels: { length: m } }, b) => {
          const {
            shape: [, pairs],
            data,
          } = golden.integers(`stage${t}.match.${b}`);
          const expected = new Array<number>(n).fill(-1);
          for (let i = 0; i < pairs; i++) expected[data[i]] = data[pairs + i];
          expect(matched[t][b], `stage ${t}, image ${b}`).toEqual(expected);
          if (config.matcher === 'hungarian' || m === 0) return;
          expect(
            relativeError(supply[t][b].slice(0, m), golden.floats(`stage${t}.supply.${b}`).data),
            'supply',
          ).toBeLessThanOrEqual(1e-6);
          expect(
            relativeError(inUse(plan[t][b], m).flat(), golden.floats(`stage${t}.plan.${b}`).data),
            'plan',
          ).toBeLessThanOrEqual(PLAN_TOLERANCE);
        }),
      );
    });
  });
});
