/** Starting weights: f16 on disk, the file for a configuration, and proposals of another number. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readCheckpoint, readSafetensors, toHalf, writeSafetensors, type Device } from '../engine/index.ts';
import { DynamicSparseRCNN } from '../model/index.ts';
import { resampleProposals } from '../model/checkpoint-proposals.ts';
import { gridCenters } from '../model/proposals.ts';
import { loadPretrained } from '../training/checkpoints/load-weights.ts';
import { startingWeightsFor, writeStartingWeights } from '../training/checkpoints/starting-weights.ts';
import { readBytes, readDescription, saveWeights, toMetadata } from '../training/checkpoints/weights-file.ts';
import { runPretrain } from '../training/commands/pretrain.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { adapterDevice } from './devices.ts';
import { inputErrorOf } from './input-errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'starting-weights-test-'));
let device: Device;
beforeAll(async () => {
  ({ device } = await adapterDevice());
});
afterAll(() => {
  device.destroy();
  rmSync(folder, { recursive: true });
});

/** The value of f16 bits, as the reader of weights files has it. */
function fromHalf(bits: Uint16Array<ArrayBuffer>): Float32Array {
  const file = writeSafetensors(new Map([['x', { shape: [bits.length], data: bits }]]));
  return readCheckpoint(file.buffer, 'x').tensors.get('x')!.data;
}

test('all f16 values survive the conversion from f16 to f32 and back', () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((value) => (value & 0x7fff) <= 0x7c00);
  expect(toHalf(fromHalf(bits))).toEqual(bits);
});

test('f32 values become the nearest f16 value, ties the even one', () => {
  fc.assert(
    fc.property(fc.double({ min: -70000, max: 70000, noNaN: true }), (given) => {
      const value = Math.fround(given);
      const bits = toHalf([value])[0];
      const [rounded] = fromHalf(Uint16Array.of(bits));
      if (Math.abs(value) >= 65520) return rounded === Math.sign(value) * Infinity;
      const neighbors = fromHalf(Uint16Array.of(bits + 1, Math.max(bits & 0x8000, bits - 1)));
      return [...neighbors].every(
        (other) =>
          Math.abs(other - value) > Math.abs(rounded - value) ||
          other === rounded ||
          (Math.abs(other - value) === Math.abs(rounded - value) && bits % 2 === 0),
      );
    }),
    { numRuns: 2000 },
  );
  expect([...toHalf([NaN, Infinity, -0, 1, 2 ** -24, 2 ** -26])]).toEqual([0x7e00, 0x7c00, 0x8000, 0x3c00, 1, 0]);
});

test('starting weights: f16, half the size, with their origin; a model loads them', async () => {
  const config = presetConfig('tiny');
  const classNames = ['a', 'b', 'c', 'd'];
  const model = new DynamicSparseRCNN(device, config.model, 3);
  const [full, half] = [join(folder, 'full.safetensors'), join(folder, 'half.safetensors')];
  saveWeights(full, await model.save(), { config, classNames, categoryIds: [1, 2, 3, 4], iteration: 7 });
  writeStartingWeights(half, full, { seed: 0 });
  expect(readBytes(half).length).toBeLessThan(0.75 * readBytes(full).length);
  const file = readSafetensors(readBytes(half).buffer, half);
  expect([...file.tensors.values()].every(({ dtype }) => dtype === 'F16')).toBe(true);
  expect(JSON.parse(file.metadata.origin)).toEqual({ seed: 0 });
  expect(readDescription(file, half)).toMatchObject({ classNames, iteration: 7 });

  const other = new DynamicSparseRCNN(device, config.model, 4);
  const report = loadPretrained(other, half, { classNames });
  expect([report.missing, report.unexpected, report.reshaped]).toEqual([[], [], []]);
  const [expected, loaded] = [await model.save(), await other.save()];
  for (const [name, { data }] of loaded) expect(data).toEqual(fromHalf(toHalf(expected.get(name)!.data)));
});

test('weights of images with more than 8 bits hold the value of white', () => {
  const config = presetConfig('tiny');
  const description = { config, classNames: ['a', 'b', 'c', 'd'], categoryIds: [1, 2, 3, 4], iteration: 1 };
  const metadata = toMetadata({ ...description, white: 4095 });
  expect(readDescription({ metadata }, 'x')).toEqual({ ...description, white: 4095 });
  expect(readDescription({ metadata: toMetadata(description) }, 'x')).toEqual(description);
  expect(() => readDescription({ metadata: { ...metadata, white: '0' } }, 'x')).toThrow(
    'x: metadata: white: expected a number above 0, got 0',
  );
});

test('pretrain writes starting weights with their origin and draws images; a second start is refused', async () => {
  const out = join(folder, 'pretrain');
  const small = [
    'stemChannels=8',
    'hiddenDim=16',
    'feedforwardDim=32',
    'dynamicDim=4',
    'numStages=2',
    'numProposals=16',
  ];
  const set = [...small, 'batchSize=2', 'drawImages=2'].flatMap((item) => ['--set', item]);
  expect(await runPretrain(['--out', out, '--iterations', '2', ...set])).toBe(0);
  const path = join(out, 'starting-weights.safetensors');
  const { metadata } = readSafetensors(readBytes(path).buffer, path);
  expect(JSON.parse(metadata.origin)).toMatchObject({ seed: 0, images: 4, license: 'MIT' });
  expect(existsSync(join(out, 'predictions.png'))).toBe(true);
  expect(await inputErrorOf(() => runPretrain(['--out', out]))).toContain('already holds a run');
  expect(await inputErrorOf(() => runPretrain(['--resume', join(folder, 'nothing')]))).toContain('expected a run in');
});

test('the committed weights fit the preset small, also with other classes and proposals', () => {
  const { model } = presetConfig('small');
  expect(startingWeightsFor('small', { ...model, numClasses: 7, numProposals: 64 }).file).toMatch(
    /small\.safetensors$/,
  );
  expect(startingWeightsFor('small', { ...model, hiddenDim: 128 })).toEqual({
    file: null,
    reason: 'the starting weights have hiddenDim 64, the model has 128',
  });
  expect(startingWeightsFor('tiny', presetConfig('tiny').model)).toMatchObject({ file: null });
  const { file } = startingWeightsFor('small', model);
  const detector = new DynamicSparseRCNN(device, { ...model, numClasses: 3, numProposals: 36 }, 0);
  const { missing, reshaped } = loadPretrained(detector, file!);
  expect(missing).toEqual([]);
  // Only the class layers start anew.
  expect(reshaped.every(({ name }) => name.includes('class_logits'))).toBe(true);
  expect(readBytes(file!).length).toBeLessThan(12e6);
});

test('proposals of another number start from the nearest one, with the box moved to the new place', () => {
  const [experts, from, to, d] = [2, 9, 16, 3];
  const values = (length: number): Float32Array<ArrayBuffer> => Float32Array.from({ length }, (_, i) => i / 8);
  const tensors = {
    'proposals.boxes': { shape: [experts, from, 4], data: values(experts * from * 4) },
    'proposals.features': { shape: [experts, from, d], data: values(experts * from * d) },
    'proposals.weights.linear2.weight': { shape: [experts * from, 5], data: values(experts * from * 5) },
    'proposals.weights.linear2.bias': { shape: [experts * from], data: values(experts * from) },
  };
  const found = new Map(Object.entries(tensors).map(([name, tensor]) => [name, { from: name, tensor }]));
  const note = resampleProposals(found, new Map([['proposals.boxes', [experts, to, 4]]]));
  expect(note).toBe('the file has 9 proposals, the model 16: each starts from the nearest one of the file');
  const shapes = [...found.values()].map(({ tensor }) => tensor.shape);
  expect(shapes).toEqual([[experts, to, 4], [experts, to, d], [experts * to, 5], [experts * to]]);
  const [sources, targets] = [gridCenters(from), gridCenters(to)];
  const [boxes, features] = ['proposals.boxes', 'proposals.features'].map((name) => found.get(name)!.tensor.data);
  for (let e = 0; e < experts; e++)
    targets.forEach(([x, y], i) => {
      const distance = ([u, v]: readonly [number, number]): number => Math.hypot(x - u, y - v);
      const nearest = sources.reduce((best, place, j) => (distance(place) < distance(sources[best]) ? j : best), 0);
      expect(features[(e * to + i) * d]).toBe(tensors['proposals.features'].data[(e * from + nearest) * d]);
      const moved = tensors['proposals.boxes'].data[(e * from + nearest) * 4] + x - sources[nearest][0];
      expect(boxes[(e * to + i) * 4]).toBeCloseTo(moved, 5);
    });
});

test('nothing changes for the same number of proposals, and for other numbers of experts', () => {
  const tensor = { shape: [2, 4, 4], data: new Float32Array(32) };
  const found = new Map([['proposals.boxes', { from: 'x', tensor }]]);
  expect(resampleProposals(found, new Map([['proposals.boxes', [2, 4, 4]]]))).toBeNull();
  expect(resampleProposals(found, new Map([['proposals.boxes', [3, 9, 4]]]))).toBeNull();
  expect(found.get('proposals.boxes')!.tensor).toBe(tensor);
});
