/** The configuration and class names of weights: from the file, from options, or COCO's. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { writeTorchZip } from '../engine/index.ts';
import { describeWeights } from '../training/checkpoints/describe-weights.ts';
import { readAnyWeights } from '../training/checkpoints/load-weights.ts';
import { saveWeights } from '../training/checkpoints/weights-file.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { COCO_CATEGORY_IDS, COCO_CLASS_NAMES } from '../training/data/coco-classes.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'describe-weights-'));
const at = (name: string): string => join(folder, name);
const CLASSES = ['circle', 'square', 'triangle', 'star'];

beforeAll(() => {
  const values = new Map([['head.w', { shape: [1], data: Float32Array.of(1) }]]);
  saveWeights(at('tiny.safetensors'), values, {
    config: presetConfig('tiny'),
    classNames: CLASSES,
    categoryIds: [1, 2, 3, 4],
    iteration: 5,
  });
  writeFileSync(at('tiny.pth'), writeTorchZip(values));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the configuration and class names of weights', () => {
  const described = (file: string, options: { config?: string; classes?: string }) =>
    describeWeights('predict', file, readAnyWeights(at(file)), options);
  const json = (name: string, value: unknown): string => {
    writeFileSync(at(name), JSON.stringify(value));
    return at(name);
  };

  test('come from the metadata of our own files; options that contradict it are refused', async () => {
    expect(described('tiny.safetensors', {})).toMatchObject({
      config: { preset: 'tiny' },
      classNames: CLASSES,
      categoryIds: [1, 2, 3, 4],
    });
    expect(await inputErrorOf(() => described('tiny.safetensors', { config: 'tiny' }))).toMatch(
      /--config: expected no value, because tiny\.safetensors contains a configuration/,
    );
    expect(await inputErrorOf(() => described('tiny.safetensors', { classes: 'x.json' }))).toMatch(
      /--classes: expected no value, because tiny\.safetensors contains class names/,
    );
  });

  test("come from options for other files; 80 classes are COCO's by default", async () => {
    expect(described('tiny.pth', { config: 'paper-r50' })).toMatchObject({
      classNames: COCO_CLASS_NAMES,
      categoryIds: COCO_CATEGORY_IDS,
    });
    expect(described('tiny.pth', { config: 'tiny', classes: json('three.json', ['a', 'b', 'c']) })).toMatchObject({
      classNames: ['a', 'b', 'c'],
      categoryIds: [1, 2, 3],
      config: { model: { numClasses: 3 } },
    });
    expect(
      described('tiny.pth', {
        config: 'tiny',
        classes: json('coco.json', {
          categories: [
            { id: 9, name: 'z' },
            { id: 2, name: 'y' },
          ],
        }),
      }),
    ).toMatchObject({ classNames: ['y', 'z'], categoryIds: [2, 9] });
    const run = json('run.json', { preset: 'tiny', classNames: ['q', 'r'], categoryIds: [4, 5] });
    expect(described('tiny.pth', { config: run })).toMatchObject({
      classNames: ['q', 'r'],
      categoryIds: [4, 5],
      config: { model: { numClasses: 2 } },
    });
    expect(await inputErrorOf(() => described('tiny.pth', {}))).toMatch(
      /tiny\.pth: expected weights with a configuration.*--config/,
    );
    expect(await inputErrorOf(() => described('tiny.pth', { config: 'tiny' }))).toMatch(
      /contains no class names: expected --classes FILE\.json with the 4 classes of tiny/,
    );
    expect(
      await inputErrorOf(() =>
        described('tiny.pth', {
          config: json('five.json', { preset: 'tiny', model: { numClasses: 5 } }),
          classes: at('three.json'),
        }),
      ),
    ).toMatch(/three\.json: expected 5 classes, as in the configuration .*five\.json, got 3/);
    for (const [value, message] of [
      [[], /at least one class/],
      [['a', 'a'], /\[1\]: expected a name that no other class has/],
      [{}, /categories: expected an array/],
      [[1], /\[0\]: expected an object/],
    ] as const) {
      expect(
        await inputErrorOf(() => described('tiny.pth', { config: 'tiny', classes: json('bad.json', value) })),
      ).toMatch(message);
    }
  });

  test("COCO's classes: 80 names; ten of the ids 1 .. 90 are not used", () => {
    const unused = Array.from({ length: 90 }, (_, i) => i + 1).filter((id) => !COCO_CATEGORY_IDS.includes(id));
    expect(unused).toEqual([12, 26, 29, 30, 45, 66, 68, 69, 71, 83]);
    expect(new Set(COCO_CLASS_NAMES).size).toBe(80);
    expect(COCO_CATEGORY_IDS).toEqual([...COCO_CATEGORY_IDS].sort((a, b) => a - b));
    const idOf = (name: string): number => COCO_CATEGORY_IDS[COCO_CLASS_NAMES.indexOf(name)];
    expect(['person', 'stop sign', 'backpack', 'hair drier', 'toothbrush', 'tv', 'dining table'].map(idOf)).toEqual([
      1, 13, 27, 89, 90, 72, 67,
    ]);
  });
});
