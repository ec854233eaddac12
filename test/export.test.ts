/** Export of weights for PyTorch and Detectron2: every bit comes back, with the layout and names that they expect. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  readCheckpoint,
  WeightsError,
  writeDetectron2Pickle,
  writeSafetensors,
  writeTorchZip,
  type CheckpointTensor,
} from '../engine/index.ts';
import { readZip } from '../engine/weights/zip.ts';
import { exportNames } from '../model/index.ts';
import { runExport } from '../training/commands/export.ts';
import { inputErrorOf } from './input-errors.ts';

type Tensors = Map<string, CheckpointTensor>;

const floats = (...values: readonly number[]): Float32Array<ArrayBuffer> => Float32Array.from(values);
const WRITERS = [
  ['torch-zip', 'x.pth', writeTorchZip],
  [
    'detectron2-pickle',
    'x.pkl',
    (tensors: Tensors, metadata: Record<string, string>) => writeDetectron2Pickle(tensors, 'the test', metadata),
  ],
] as const;

for (const [format, file, write] of WRITERS) {
  describe(format, () => {
    test('any names, shapes and bits come back', () => {
      const tensor = fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }).chain((shape) =>
        fc
          .uint32Array({
            minLength: shape.reduce((a, b) => a * b, 1),
            maxLength: shape.reduce((a, b) => a * b, 1),
          })
          .map((bits): CheckpointTensor => ({ shape, data: new Float32Array(Uint32Array.from(bits).buffer) })),
      );
      const name = fc.string({ unit: 'grapheme', maxLength: 40 });
      fc.assert(
        fc.property(fc.array(fc.tuple(name, tensor), { minLength: 1, maxLength: 6 }), (entries) => {
          const tensors = new Map(entries);
          const read = readCheckpoint(write(tensors, {}).buffer, file);
          expect(read.format).toBe(format);
          expect([...read.tensors.keys()]).toEqual([...tensors.keys()]);
          for (const [key, { shape, data }] of tensors) {
            const back = read.tensors.get(key)!;
            expect(back.shape).toEqual(shape);
            expect(new Uint32Array(back.data.buffer, back.data.byteOffset, back.data.length)).toEqual(
              new Uint32Array(data.buffer),
            );
          }
        }),
        { seed: 1, numRuns: 60 },
      );
    });

    test('texts that are stored with the weights come back as metadata', () => {
      const metadata = { config: JSON.stringify({ long: 'x'.repeat(20_000) }), class_names: '["Katze","犬"]' };
      expect(
        readCheckpoint(write(new Map([['w', { shape: [1], data: floats(1) }]]), metadata).buffer, file).metadata,
      ).toMatchObject(metadata);
    });

    test('of a view of a larger buffer, only the view is written', () => {
      const whole = floats(1, 2, 3, 4, 5);
      const read = readCheckpoint(write(new Map([['w', { shape: [2], data: whole.subarray(1, 3) }]]), {}).buffer, file);
      expect(read.tensors.get('w')!.data).toEqual(floats(2, 3));
    });

    test('errors name the tensor or the key', () => {
      expect(() => write(new Map([['w', { shape: [2, 2], data: floats(1) }]]), {})).toThrow(
        new WeightsError('w: shape [2, 2] has 4 elements, the data 1'),
      );
      expect(() => write(new Map(), { model: 'x' })).toThrow(/metadata model/);
    });
  });
}

test('a torch zip can be mapped into memory: stored entries at multiples of 64 bytes, one per storage', () => {
  const bytes = writeTorchZip(
    new Map([
      ['a', { shape: [3], data: floats(1, 2, 3) }],
      ['b.long.name', { shape: [1], data: floats(4) }],
    ]),
  );
  const zip = readZip(bytes, (message) => {
    throw new Error(message);
  });
  expect(zip.names).toEqual([
    'archive/data.pkl',
    'archive/byteorder',
    'archive/data/0',
    'archive/data/1',
    'archive/version',
  ]);
  for (const name of zip.names) expect(zip.read(name).byteOffset % 64, name).toBe(0);
  expect(new TextDecoder().decode(zip.read('archive/version'))).toBe('3\n');
  expect(
    writeTorchZip(
      new Map([
        ['a', { shape: [3], data: floats(1, 2, 3) }],
        ['b.long.name', { shape: [1], data: floats(4) }],
      ]),
    ),
  ).toEqual(bytes);
});

const tensor = (...shape: number[]): CheckpointTensor => ({
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i / 7),
});
const LEARNED: Tensors = new Map([
  ['backbone.fpn_lateral2.weight', tensor(4, 8, 1, 1)],
  ['proposals.boxes', tensor(1, 5, 4)],
  ['proposals.features', tensor(1, 5, 8)],
]);
const EXPERTS: Tensors = new Map([
  ['proposals.boxes', tensor(1, 5, 4)],
  ['proposals.features', tensor(1, 5, 8)],
  ['proposals.weights.linear1.weight', tensor(2, 2)],
]);

describe('names', () => {
  test("proposals without experts get the names of Sparse R-CNN's embeddings", () => {
    const { tensors, notes } = exportNames(LEARNED);
    expect([...tensors].map(([name, { shape }]) => [name, shape])).toEqual([
      ['backbone.fpn_lateral2.weight', [4, 8, 1, 1]],
      ['init_proposal_boxes.weight', [5, 4]],
      ['init_proposal_features.weight', [5, 8]],
    ]);
    expect(notes).toEqual([
      expect.stringContaining('proposals.boxes [1, 5, 4] is written as init_proposal_boxes.weight [5, 4]'),
      expect.stringContaining('init_proposal_features.weight'),
    ]);
    expect(exportNames(tensors)).toEqual({ tensors, notes: [] });
  });

  test('proposals with experts keep their names, also with one expert; a note says so', () => {
    const { tensors, notes } = exportNames(EXPERTS);
    expect(tensors).toEqual(EXPERTS);
    expect(notes).toEqual([expect.stringContaining('no experts')]);
  });

  test('prefixes of wrappers are removed', () => {
    expect([
      ...exportNames(new Map([...LEARNED].map(([name, value]) => [`module.${name}`, value]))).tensors.keys(),
    ]).toEqual([...exportNames(LEARNED).tensors.keys()]);
  });

  test('names of other code bases are refused', () => {
    expect(() => exportNames(new Map([['layer1.0.conv1.weight', tensor(1)]]), 'r.pth')).toThrow(
      'r.pth: expected the names of this project or of Detectron2, got those of torchvision',
    );
    expect(() => exportNames(new Map([['encoder.w', tensor(1)]]), 'r.pth')).toThrow(/got encoder\.w/);
  });
});

describe('npm run export', () => {
  const folder = mkdtempSync(join(tmpdir(), 'export-test-'));
  const at = (name: string): string => join(folder, name);
  const lines: string[] = [];
  beforeAll(() => {
    vi.spyOn(console, 'log').mockImplementation((line: string) => void lines.push(line));
  });
  afterAll(() => {
    vi.restoreAllMocks();
    rmSync(folder, { recursive: true, force: true });
  });

  test('from format to format, the last file has the bytes of the first', async () => {
    writeFileSync(
      at('a.safetensors'),
      writeSafetensors(EXPERTS, {
        format: 'pt',
        config: '{"x":1}',
        class_names: '["a"]',
        category_ids: '[7]',
        iteration: '3',
      }),
    );
    for (const [from, to] of [
      ['a.safetensors', 'deep/b.pth'],
      ['deep/b.pth', 'c.pkl'],
      ['c.pkl', 'd.pth'],
      ['d.pth', 'e.safetensors'],
    ]) {
      expect(await runExport(['--weights', at(from), '--out', at(to)])).toBe(0);
    }
    expect(readFileSync(at('e.safetensors'))).toEqual(readFileSync(at('a.safetensors')));
    expect(readFileSync(at('d.pth'))).toEqual(readFileSync(at('deep/b.pth')));
    expect(lines.join('\n')).toContain('3 tensors');
    expect(lines.filter((line) => line.startsWith('left out'))).toEqual([
      'left out  __author__: a text beside model',
      'left out  matching_heuristics: a boolean beside model',
    ]);
  });

  test('bad input is refused with its name', async () => {
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [['--out', at('x.pth')], /export: --weights: expected a file/],
      [
        ['--weights', at('a.safetensors')],
        /export: --out: expected a file that ends in one of \.safetensors, \.pth, \.pkl/,
      ],
      [
        ['--weights', at('a.safetensors'), '--out', at('x.onnx')],
        /export: --out: expected a name that ends in one of .*, got .*x\.onnx/,
      ],
      [
        ['--weights', at('a.safetensors'), '--out', at('a.safetensors')],
        /export: --out: expected another file than --weights, got .*a\.safetensors/,
      ],
      [['--weights', at('nothing.pth'), '--out', at('x.pth')], /nothing\.pth: cannot be read/],
      [
        [
          '--weights',
          new URL('golden/weights/resnet18.torchvision.pth', import.meta.url).pathname,
          '--out',
          at('x.pth'),
        ],
        /got those of torchvision/,
      ],
    ];
    for (const [argv, message] of cases) expect(await inputErrorOf(() => runExport(argv))).toMatch(message);
  });
});
