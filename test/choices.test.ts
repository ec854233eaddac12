/** Automatic choices: what is chosen for which data, and how the choices are printed. */
import { expect, test } from 'vitest';
import { fitToData } from '../training/core/fit-to-data.ts';
import type { ImageRecord } from '../training/core/image-record.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { describeChoices } from '../training/output/choices.ts';

test('choices are an aligned table', () => {
  expect(
    describeChoices([
      { value: 'batch 4', reason: '205 training images', key: '--batch N' },
      { value: '49 proposals', reason: 'up to 24 objects in an image', key: '--set numProposals=N' },
    ]),
  ).toEqual([
    'choice    batch 4       205 training images           (--batch N)',
    'choice    49 proposals  up to 24 objects in an image  (--set numProposals=N)',
  ]);
  expect(describeChoices([])).toEqual([]);
});

test('each change that fitting makes is a choice; keys that the user gave are none', () => {
  const object = { id: 1, box: [1, 1, 30, 30] as const, label: 0, crowd: false, area: 900 };
  const record: ImageRecord = {
    id: 1,
    name: 'a.png',
    file: 'a.png',
    width: 640,
    height: 480,
    objects: Array.from({ length: 24 }, () => ({ ...object, box: [...object.box] })),
  };
  const loaded = { config: presetConfig('small'), given: new Set<string>(), data: null, classNames: null };
  const { choices, config } = fitToData(loaded, [record], ['cell']);
  expect(choices.map(({ value }) => value)).toEqual(
    expect.arrayContaining(['short side 192 px, long side at most 320', '49 proposals']),
  );
  for (const { reason, key } of choices) expect([reason, key].every((text) => text.length > 0)).toBe(true);
  expect(config.model.numProposals).toBe(49);
  const short = { ...loaded.config, training: { ...loaded.config.training, iterations: 300 } };
  const fitted = fitToData({ ...loaded, config: short }, [record], ['cell']);
  expect(fitted.config.training.evaluateEvery).toBe(100);
  expect(fitted.choices.at(-1)).toEqual({
    value: 'evaluation every 100 iterations',
    reason: `300 iterations instead of ${loaded.config.training.iterations}`,
    key: '--set evaluateEvery=N',
  });
  const given = new Set(['model.numProposals', 'training.augmentation']);
  expect(
    fitToData({ ...loaded, given }, [record], ['cell']).choices.filter(({ value }) => /side|proposals/.test(value)),
  ).toEqual([]);
});
