/** The recipe for own data depends on the numbers of images and objects, and keeps the keys that the user has set. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { runTrain } from '../training/commands/train.ts';
import type { ImageRecord } from '../training/core/image-record.ts';
import { ownDataRecipe } from '../training/core/own-data-recipe.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { validateRunConfig } from '../training/core/recipe-schema.ts';
import { inputErrorOf } from './input-errors.ts';

/** Images with one object each; every `rarity`-th image has an object of class 1, the others of class 0. */
const images = (count: number, rarity = 2): ImageRecord[] =>
  Array.from({ length: count }, (_, i) => ({
    id: i + 1,
    file: `/images/${i}.jpg`,
    name: `${i}.jpg`,
    width: 100,
    height: 100,
    objects: [{ id: i + 1, label: i % rarity === 0 ? 1 : 0, box: [10, 10, 50, 50], area: 1600, crowd: false }],
  }));

const recipe = (records: readonly ImageRecord[], given: readonly string[] = [], pretrained = true) =>
  ownDataRecipe({ config: presetConfig('small'), given: new Set(given), records, pretrained });

describe('the recipe for own data', () => {
  test('length and batch follow the number of images, within bounds', () => {
    const lengths = [20, 205, 900, 5000].map((count) => {
      const { batchSize, iterations, learningRate } = recipe(images(count)).config.training;
      return [batchSize, iterations, learningRate];
    });
    expect(lengths).toEqual([
      [4, 600, 5e-4],
      [4, 1600, 5e-4],
      [4, 4000, 5e-4],
      [8, 4000, 7.1e-4],
    ]);
  });

  test('rare classes are repeated', () => {
    expect(recipe(images(100)).config.training.repeatThreshold).toBe(0);
    const rare = recipe(images(100, 20));
    expect(rare.config.training.repeatThreshold).toBe(0.1);
    expect(rare.choices.map(({ reason }) => reason)).toContain('1 of the classes in less than 10 % of the images');
  });

  test('trained experts keep a temperature of 1', () => {
    expect(recipe(images(50)).config.training.temperatureStart).toBe(1);
    expect(recipe(images(50), [], false).config.training.temperatureStart).toBe(30);
  });

  test('every choice names the option that changes it, and keys that the user has set stay', () => {
    const keys = [
      'training.batchSize',
      'training.iterations',
      'training.learningRate',
      'training.schedule',
      'training.emaDecay',
      'training.evaluateEvery',
      'training.warmupIterations',
      'training.repeatThreshold',
      'training.temperatureStart',
    ];
    const base = presetConfig('small').training;
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3000 }), fc.subarray(keys), fc.boolean(), (count, given, pretrained) => {
        const { config, choices } = recipe(images(count, 30), given, pretrained);
        for (const key of given) {
          const name = key.slice('training.'.length) as keyof typeof base;
          expect(config.training[name]).toEqual(base[name]);
        }
        expect(validateRunConfig(config, 'test')).toEqual(config);
        expect(choices.every(({ key }) => key.startsWith('--'))).toBe(true);
      }),
      { numRuns: 50 },
    );
    expect(recipe(images(50), ['model.otaK']).config.model.otaK).toBe(presetConfig('small').model.otaK);
    expect(recipe(images(50), ['training.augmentation.flip']).config.training.augmentation).toEqual(base.augmentation);
  });
});

describe('--from', () => {
  test('takes formula or scratch', async () => {
    expect(await inputErrorOf(() => runTrain(['--from', 'coco']))).toBe(
      'train: --from: expected formula or scratch, got coco',
    );
  });

  test('does not go with --weights or --resume', async () => {
    expect(await inputErrorOf(() => runTrain(['--from', 'formula', '--weights', 'x.pth']))).toContain(
      '--from formula does not go with --weights',
    );
    expect(await inputErrorOf(() => runTrain(['--from', 'scratch', '--resume', 'runs/x']))).toContain(
      '--from does not go with --resume',
    );
  });

  test('formula needs a preset with starting weights', async () => {
    expect(await inputErrorOf(() => runTrain(['--config', 'tiny', '--from', 'formula']))).toContain(
      'there are no starting weights for the preset tiny',
    );
  });
});
