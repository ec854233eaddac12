/**
 * Checkpoint files of PyTorch 1.13, numpy and (imitated) Python 2 are read with their values.
 * test/golden/weights/make_weights.py wrote the files.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readCheckpoint, writeSafetensors, type CheckpointFile } from '../engine/index.ts';
import { FOLDER, read } from './weights-bytes.ts';

const values: Record<string, Record<string, { shape: number[]; data: string }>> = JSON.parse(
  readFileSync(new URL('values.json', FOLDER), 'utf8'),
);

const bytesOf = (name: string): ArrayBuffer => read(name).buffer;

function expectTensors(file: CheckpointFile, name: string): void {
  for (const [tensor, { shape, data }] of Object.entries(values[name])) {
    const got = file.tensors.get(tensor);
    expect(got?.shape, tensor).toEqual(shape);
    // Bits are compared, so that -0 and 0 differ.
    const { buffer, byteOffset, byteLength } = got!.data;
    expect(Buffer.from(buffer, byteOffset, byteLength).equals(Buffer.from(data, 'base64')), tensor).toBe(true);
  }
}

describe('torch.save', () => {
  for (const type of ['f32', 'f16', 'bf16']) {
    for (const format of ['zip', 'legacy'] as const) {
      test(`${type} in the ${format} format: views with strides and offsets, shared, expanded, empty`, () => {
        const file = readCheckpoint(bytesOf(`${type}.${format}.pth`), 'test.pth');
        expect(file.format).toBe(`torch-${format}`);
        expect([...file.tensors.keys()]).toEqual(Object.keys(values[`${type}.${format}.pth`]));
        expectTensors(file, `${type}.${format}.pth`);
        expect(file.skipped).toEqual([]);
        expect(file.tensors.get('shared')!.data).toBe(file.tensors.get('whole')!.data);
      });
    }
  }

  test('integers, doubles and booleans become float32', () => {
    const file = readCheckpoint(bytesOf('types.zip.pth'), 'types.pth');
    expectTensors(file, 'types.zip.pth');
    expect([...file.tensors.keys()]).toHaveLength(7);
    expect(file.metadata).toEqual({ section: 'state_dict', note: 'a text' });
  });

  test('a checkpoint of a training loop: the weights, and a list of the other entries', () => {
    const file = readCheckpoint(bytesOf('training.pth'), 'training.pth');
    expectTensors(file, 'training.pth');
    expect([...file.tensors.keys()]).toEqual(Object.keys(values['training.pth']));
    expect(file.metadata).toMatchObject({ section: 'model', iteration: '7' });
    expect(file.skipped.map(({ name }) => name)).toEqual([
      'ema',
      'optimizer',
      'scheduler',
      'iteration',
      'args',
      'sizes',
      'best',
      'device',
    ]);
  });

  test('another section is read if it is requested and exists', () => {
    const file = readCheckpoint(bytesOf('training.pth'), 'training.pth', { section: 'ema.module' });
    expectTensors(file, 'training.pth');
    expect(file.metadata.section).toBe('ema.module');
    expect(() => readCheckpoint(bytesOf('training.pth'), 'training.pth', { section: 'teacher' })).toThrow(
      /training\.pth: section "teacher": expected a dict "teacher", got model \(a dict of 7\)/,
    );
    expect(() => readCheckpoint(bytesOf('training.pth'), 'training.pth', { section: 'scheduler' })).toThrow(
      /section "scheduler": expected tensors, got /,
    );
  });
});

describe('pickles of numpy arrays', () => {
  for (const protocol of [2, 4, 5]) {
    test(`Detectron2's, protocol ${protocol}: Fortran order, half, double, empty, scalars, long data`, () => {
      const file = readCheckpoint(bytesOf(`detectron2.p${protocol}.pkl`), 'd2.pkl');
      expect(file.format).toBe('detectron2-pickle');
      expectTensors(file, 'detectron2');
      expect(file.metadata.__author__).toBe('the test');
    });
  }

  test("Python 2's byte strings", () => {
    expectTensors(readCheckpoint(bytesOf('python2.pkl'), 'R-50.pkl'), 'python2.pkl');
  });
});

describe('safetensors', () => {
  test('tensors that this engine writes are read back', () => {
    const tensors = new Map([
      ['a', { shape: [2, 3], data: Float32Array.of(1, -0, 3, NaN, 5, 6) }],
      ['n', { shape: [2], data: BigInt64Array.of(3n, -4n) }],
    ]);
    const file = readCheckpoint(writeSafetensors(tensors, { config: '{}', __proto__x: 'y' }).buffer, 'a.safetensors');
    expect(file.format).toBe('safetensors');
    expect(file.tensors.get('a')).toEqual(tensors.get('a'));
    expect(file.tensors.get('n')!.data).toEqual(Float32Array.of(3, -4));
    expect(file.metadata.config).toBe('{}');
  });

  test('half precision in the documented layout', () => {
    const header = JSON.stringify({
      h: { dtype: 'F16', shape: [3], data_offsets: [0, 6] },
      b: { dtype: 'BF16', shape: [2], data_offsets: [6, 10] },
      t: { dtype: 'BOOL', shape: [2], data_offsets: [10, 12] },
    });
    const bytes = new Uint8Array(8 + header.length + 12);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(header.length), true);
    bytes.set(new TextEncoder().encode(header), 8);
    [0x3c00, 0xc000, 0x0001, 0x3f80, 0xc040].forEach((half, i) =>
      view.setUint16(8 + header.length + 2 * i, half, true),
    );
    bytes.set([1, 0], 8 + header.length + 10);
    const { tensors } = readCheckpoint(bytes.buffer, 'half.safetensors');
    expect(tensors.get('h')!.data).toEqual(Float32Array.of(1, -2, 2 ** -24));
    expect(tensors.get('b')!.data).toEqual(Float32Array.of(1, -3));
    expect(tensors.get('t')!.data).toEqual(Float32Array.of(1, 0));
  });
});

test("names from files are only keys of maps: they cannot change an object's prototype", () => {
  fc.assert(
    fc.property(fc.constantFrom('__proto__', 'constructor', 'toString', 'hasOwnProperty'), (name) => {
      const bytes = writeSafetensors(
        new Map([['w', { shape: [1], data: Float32Array.of(1) }]]),
        Object.fromEntries([[name, 'x']]),
      ).buffer;
      const file = readCheckpoint(bytes, 'a.safetensors');
      expect(Object.keys(file.metadata)).toEqual([name]);
      expect(Object.getPrototypeOf(file.metadata)).toBe(Object.prototype);
    }),
    { seed: 1, numRuns: 4 },
  );
  expect(Object.prototype).not.toHaveProperty('x');
});
