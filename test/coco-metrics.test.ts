/** COCO metrics: equal to pycocotools on golden files, and properties that hold for any data. */
import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { CocoDetection, CocoGroundTruth } from '../training/core/coco-types.ts';
import { parseDetections, parseGroundTruth } from '../training/evaluation/coco-files.ts';
import { evaluateDetections, METRIC_NAMES } from '../training/core/coco-metrics.ts';

const golden = new URL('golden/coco-metrics/', import.meta.url);
const load = (name: string): unknown => JSON.parse(readFileSync(new URL(name, golden), 'utf8'));
const cases = readdirSync(golden)
  .filter((name) => name.endsWith('.gt.json'))
  .map((name) => name.replace('.gt.json', ''))
  .sort();

// Both compute the same formulas in float64. Only the order of the sums in means differs: numpy sums pairwise.
const ROUNDING = 1e-12;

function expectClose(got: readonly number[], expected: readonly number[]) {
  expect(got.length).toBe(expected.length);
  got.forEach((value, index) =>
    expect(Math.abs(value - expected[index]), `[${index}] got ${value}, expected ${expected[index]}`).toBeLessThan(
      ROUNDING,
    ),
  );
}

describe('equal to pycocotools', () => {
  test.each(cases)('golden %s', (name) => {
    const expected = load(`${name}.expected.json`) as { stats: number[]; ap_by_category: Record<string, number> };
    const groundTruth = parseGroundTruth(load(`${name}.gt.json`), `${name}.gt.json`);
    const detections = parseDetections(load(`${name}.dt.json`), `${name}.dt.json`, groundTruth);
    const { stats, byCategory, metrics } = evaluateDetections(groundTruth, detections);
    expectClose(stats, expected.stats);
    expect(METRIC_NAMES.map((metric) => metrics[metric])).toEqual(stats);
    expect(byCategory.map(({ id }) => String(id))).toEqual(Object.keys(expected.ap_by_category));
    expectClose(
      byCategory.map(({ AP }) => AP),
      Object.values(expected.ap_by_category),
    );
  });

  test('all twelve golden files are here', () => expect(cases.length).toBe(12));
});

/** Ground truths and detections on a coarse grid, so that equal scores, equal overlaps and size borders occur. */
const scene = fc
  .record({ images: fc.integer({ min: 1, max: 6 }), categories: fc.integer({ min: 1, max: 3 }) })
  .chain(({ images, categories }) => {
    const place = { image: fc.integer({ min: 1, max: images }), category: fc.integer({ min: 1, max: categories }) };
    const side = fc.constantFrom(8, 16, 32, 48, 96, 160);
    const corner = fc.integer({ min: 0, max: 12 }).map((step) => step * 8);
    const bbox = fc.tuple(corner, corner, side, side);
    const truth = fc.record({ ...place, bbox, crowd: fc.integer({ min: 0, max: 9 }).map((n) => n === 0) });
    const guess = fc.record({ ...place, bbox, score: fc.integer({ min: 1, max: 12 }).map((n) => n / 12) });
    return fc
      .record({ truths: fc.array(truth, { maxLength: 30 }), guesses: fc.array(guess, { maxLength: 60 }) })
      .map(({ truths, guesses }) => {
        const groundTruth: CocoGroundTruth = {
          images: Array.from({ length: images }, (_, n) => ({
            id: n + 1,
            file_name: `${n + 1}.jpg`,
            width: 320,
            height: 320,
          })),
          categories: Array.from({ length: categories }, (_, n) => ({ id: n + 1, name: `class ${n + 1}` })),
          annotations: truths.map(({ image, category, bbox, crowd }, n) => ({
            id: n + 1,
            image_id: image,
            category_id: category,
            bbox,
            area: bbox[2] * bbox[3],
            iscrowd: crowd ? 1 : 0,
          })),
        };
        const detections: CocoDetection[] = guesses.map(({ image, category, bbox, score }) => ({
          image_id: image,
          category_id: category,
          bbox,
          score,
        }));
        return { groundTruth, detections };
      });
  });

const runs = { seed: 20220618, numRuns: 200 };

describe('properties', () => {
  test('detections equal to the ground truth give 1 in every metric that has ground truth', () => {
    fc.assert(
      fc.property(scene, ({ groundTruth }) => {
        // With identical boxes of one category in an image, any assignment is perfect.
        const perfect = groundTruth.annotations
          .filter(({ iscrowd }) => !iscrowd)
          .map(({ image_id, category_id, bbox }): CocoDetection => ({ image_id, category_id, bbox, score: 0.5 }));
        const { metrics } = evaluateDetections(groundTruth, perfect);
        for (const name of ['AP', 'AP50', 'AP75', 'AR100', 'ARs', 'ARm', 'ARl'] as const) {
          expect(metrics[name] === -1 || Math.abs(metrics[name] - 1) < ROUNDING, `${name} is ${metrics[name]}`).toBe(
            true,
          );
        }
        expect(metrics.AP === -1).toBe(perfect.length === 0);
      }),
      runs,
    );
  });

  test('metrics are fractions or -1, and recall grows with the cap on detections', () => {
    fc.assert(
      fc.property(scene, ({ groundTruth, detections }) => {
        const { stats, metrics } = evaluateDetections(groundTruth, detections);
        for (const value of stats) expect(value === -1 || (value >= 0 && value <= 1)).toBe(true);
        expect(metrics.AR1).toBeLessThanOrEqual(metrics.AR10);
        expect(metrics.AR10).toBeLessThanOrEqual(metrics.AR100);
      }),
      runs,
    );
  });

  test('the order of images, annotations and categories in the files does not matter', () => {
    fc.assert(
      fc.property(scene, fc.array(fc.nat(), { minLength: 40, maxLength: 40 }), ({ groundTruth, detections }, keys) => {
        const shuffled = <Item>(items: readonly Item[]) =>
          items
            .map((item, n) => ({ item, key: keys[n % keys.length] }))
            .sort((a, b) => a.key - b.key)
            .map(({ item }) => item);
        // The order within an image can decide between equal scores and overlaps. So only whole images move.
        const imageOrder = shuffled(groundTruth.images).map(({ id }) => id);
        const byImage = <Item extends { image_id: number }>(items: readonly Item[]) =>
          imageOrder.flatMap((id) => items.filter(({ image_id }) => image_id === id));
        const moved: CocoGroundTruth = {
          images: shuffled(groundTruth.images),
          categories: shuffled(groundTruth.categories),
          annotations: byImage(groundTruth.annotations),
        };
        expect(evaluateDetections(moved, byImage(detections)).stats).toEqual(
          evaluateDetections(groundTruth, detections).stats,
        );
      }),
      runs,
    );
  });

  test('a false positive with the lowest score never raises precision and does not change recall', () => {
    fc.assert(
      fc.property(scene, ({ groundTruth, detections }) => {
        const before = evaluateDetections(groundTruth, detections);
        const outside: CocoDetection = { image_id: 1, category_id: 1, bbox: [9000, 9000, 10, 10], score: 0 };
        const after = evaluateDetections(groundTruth, [...detections, outside]);
        METRIC_NAMES.forEach((name, n) => {
          if (name.startsWith('AR')) expect(after.stats[n]).toBe(before.stats[n]);
          else expect(after.stats[n]).toBeLessThanOrEqual(before.stats[n]);
        });
      }),
      runs,
    );
  });

  test('only the order of scores matters, not their values', () => {
    fc.assert(
      fc.property(scene, ({ groundTruth, detections }) => {
        const squeezed = detections.map((detection) => ({ ...detection, score: detection.score ** 3 / 100 }));
        expect(evaluateDetections(groundTruth, squeezed).stats).toEqual(
          evaluateDetections(groundTruth, detections).stats,
        );
      }),
      runs,
    );
  });

  test('measuring some images equals measuring a file with only these images', () => {
    fc.assert(
      fc.property(scene, ({ groundTruth, detections }) => {
        const even = (id: number) => id % 2 === 0;
        const imageIds = groundTruth.images.map(({ id }) => id).filter(even);
        const only: CocoGroundTruth = {
          ...groundTruth,
          images: groundTruth.images.filter(({ id }) => even(id)),
          annotations: groundTruth.annotations.filter(({ image_id }) => even(image_id)),
        };
        expect(evaluateDetections(groundTruth, detections, { imageIds })).toEqual(
          evaluateDetections(
            only,
            detections.filter(({ image_id }) => even(image_id)),
          ),
        );
      }),
      runs,
    );
  });
});

describe('edges', () => {
  const one: CocoGroundTruth = {
    images: [{ id: 1, file_name: 'a.jpg', width: 100, height: 100 }],
    categories: [
      { id: 1, name: 'cat' },
      { id: 2, name: 'dog' },
    ],
    annotations: [{ id: 1, image_id: 1, category_id: 1, bbox: [10, 10, 40, 40], area: 1600, iscrowd: 0 }],
  };
  const hit: CocoDetection = { image_id: 1, category_id: 1, bbox: [10, 10, 40, 40], score: 0.9 };
  const none = METRIC_NAMES.map(() => -1);

  test('no entries, or no ground truth: -1 everywhere', () => {
    expect(evaluateDetections({ images: [], annotations: [], categories: [] }, []).stats).toEqual(none);
    expect(evaluateDetections({ ...one, annotations: [] }, [hit]).stats).toEqual(none);
  });

  test('no detections: 0 where there is ground truth, -1 where there is none', () => {
    const { metrics, byCategory } = evaluateDetections(one, []);
    expect(metrics).toMatchObject({ AP: 0, APm: 0, AR100: 0, APs: -1, APl: -1, ARs: -1 });
    expect(byCategory.map(({ AP }) => AP)).toEqual([0, -1]);
  });

  test('detections of a category without ground truth do not change the mean', () => {
    expect(evaluateDetections(one, [hit, { ...hit, category_id: 2 }]).metrics.AP).toBeCloseTo(1, 12);
  });

  test('detections within a crowd are ignored, and a crowd is not an object to find', () => {
    const crowd = {
      id: 2,
      image_id: 1,
      category_id: 1,
      bbox: [60, 60, 40, 40] as [number, number, number, number],
      area: 1600,
      iscrowd: 1 as const,
    };
    const inside = [0, 1, 2].map(
      (n): CocoDetection => ({ image_id: 1, category_id: 1, bbox: [60 + 10 * n, 70, 10, 10], score: 0.95 }),
    );
    expect(
      evaluateDetections({ ...one, annotations: [...one.annotations, crowd] }, [...inside, hit]).metrics.AP,
    ).toBeCloseTo(1, 12);
    expect(evaluateDetections(one, [...inside, hit]).metrics.AP).toBeCloseTo(0.25, 12);
    expect(evaluateDetections({ ...one, annotations: [crowd] }, inside).metrics.AP).toBe(-1);
  });

  test('only the hundred best detections per image and category count', () => {
    const misses = Array.from({ length: 100 }, (): CocoDetection => ({ ...hit, bbox: [70, 70, 9, 9], score: 0.95 }));
    expect(evaluateDetections(one, [...misses, hit]).metrics.AR100).toBe(0);
    expect(evaluateDetections(one, [...misses.slice(1), hit]).metrics.AR100).toBe(1);
  });

  test('annotation id 0 never counts as found, as in pycocotools; a warning says so', () => {
    const zero = { ...one, annotations: [{ ...one.annotations[0], id: 0 }] };
    const { metrics, warnings } = evaluateDetections(zero, [hit]);
    expect(metrics.AP).toBe(0);
    expect(warnings.join()).toContain('id 0');
    expect(evaluateDetections(one, [hit]).warnings).toEqual([]);
  });

  test('unknown ids and numbers that are not finite are refused with their place', () => {
    expect(() => evaluateDetections(one, [hit, { ...hit, score: NaN }])).toThrow(
      'detections[1].score: expected a finite number, got NaN',
    );
    expect(() => evaluateDetections(one, [{ ...hit, image_id: 7 }])).toThrow('detections[0].image_id');
    expect(() => evaluateDetections(one, [{ ...hit, category_id: 3 }])).toThrow('detections[0].category_id');
    expect(() => evaluateDetections(one, [{ ...hit, bbox: [0, Infinity, 1, 1] }])).toThrow('detections[0].bbox');
    expect(() => evaluateDetections(one, [hit], { imageIds: [5] })).toThrow('imageIds');
  });
});
