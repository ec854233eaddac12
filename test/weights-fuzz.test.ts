/** Checkpoint files with changed bytes are read or refused. They never give another error, or too much data. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readCheckpoint, WeightsError } from '../engine/index.ts';
import { ascii, concat, pickle, read, rezip, SMALL, text, u64 } from './weights-bytes.ts';

/** Reads a file or throws a WeightsError. What it reads stays within the documented bound. */
function readsOrRefuses(bytes: Uint8Array<ArrayBuffer>): void {
  try {
    const { tensors } = readCheckpoint(bytes.slice().buffer, 'fuzz.pth');
    const values = new Set([...tensors.values()].map(({ data }) => data));
    let total = 0;
    for (const data of values) total += data.byteLength;
    expect(total).toBeLessThanOrEqual(8 * bytes.length + 2 ** 20);
  } catch (error) {
    if (!(error instanceof WeightsError)) throw error;
  }
}

test('a flipped bit in a zip is found if it changes values', () => {
  const bytes = read('f32.zip.pth');
  const intact = readCheckpoint(bytes.slice().buffer, 'a.pth').tensors;
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(7), (at, bit) => {
      const flipped = bytes.slice();
      flipped[at] ^= 1 << bit;
      try {
        // Padding and dates may change, but not values.
        expect(readCheckpoint(flipped.buffer, 'a.pth').tensors).toEqual(intact);
      } catch (error) {
        if (!(error instanceof WeightsError)) throw error;
      }
    }),
    { seed: 3, numRuns: 2000 },
  );
});

describe('fuzzing', () => {
  const mutation = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    kind: fc.constantFrom('set', 'insert', 'remove', 'copy', 'cut'),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 9 }),
  });
  const mutate = (
    bytes: Uint8Array<ArrayBuffer>,
    changes: readonly { at: number; kind: string; bytes: Uint8Array }[],
  ): Uint8Array<ArrayBuffer> => {
    let out = bytes.slice();
    for (const { at, kind, bytes: patch } of changes) {
      const i = Math.floor(at * out.length);
      if (kind === 'set') out.set(patch.subarray(0, out.length - i), i);
      else if (kind === 'insert') out = concat(out.subarray(0, i), patch, out.subarray(i));
      else if (kind === 'remove') out = concat(out.subarray(0, i), out.subarray(i + patch.length));
      else if (kind === 'copy') out = concat(out.subarray(0, i), out.subarray(Math.floor(i / 2), i), out.subarray(i));
      else out = out.slice(0, i);
    }
    return out;
  };
  const changes = fc.array(mutation, { minLength: 1, maxLength: 4 });

  for (const name of SMALL) {
    test(`${name} with changed bytes is read or refused`, () => {
      const bytes = read(name);
      fc.assert(
        fc.property(changes, (list) => readsOrRefuses(mutate(bytes, list))),
        { seed: 5, numRuns: 400 },
      );
    });
  }

  test("a zip's changed pickle with a correct checksum is read or refused", () => {
    for (const name of ['f32.zip.pth', 'training.pth', 'types.zip.pth']) {
      fc.assert(
        fc.property(changes, (list) => {
          readsOrRefuses(
            rezip(name, (entries) => {
              entries['a/data.pkl'] = mutate(entries['a/data.pkl'], list);
            }),
          );
        }),
        { seed: 6, numRuns: 600 },
      );
    }
  });

  test('random opcodes are read or refused', () => {
    const opcode = fc.constantFrom(
      0x28,
      0x29,
      0x2e,
      0x30,
      0x31,
      0x32,
      0x4e,
      0x4b,
      0x51,
      0x52,
      0x58,
      0x5d,
      0x61,
      0x62,
      0x63,
      0x64,
      0x65,
      0x68,
      0x6c,
      0x71,
      0x73,
      0x74,
      0x75,
      0x7d,
      0x81,
      0x85,
      0x86,
      0x87,
      0x88,
      0x92,
      0x93,
      0x94,
    );
    const globals = [
      'collections\nOrderedDict\n',
      'torch._utils\n_rebuild_tensor_v2\n',
      'numpy\ndtype\n',
      'numpy\nndarray\n',
      'numpy.core.multiarray\n_reconstruct\n',
      '_codecs\nencode\n',
      'torch\nFloatStorage\n',
      'builtins\ndict\n',
      'argparse\nNamespace\n',
    ];
    const piece = fc.oneof(
      { weight: 6, arbitrary: opcode.map((code) => [code]) },
      { weight: 2, arbitrary: fc.constantFrom(...globals).map((name) => [0x63, ...ascii(name)]) },
      fc.constantFrom('model', 'f4', 'latin1', '<', 'storage', '0').map(text),
      fc.nat(255).map((n) => [0x4b, n]),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => readsOrRefuses(pickle(...pieces))),
      { seed: 7, numRuns: 3000 },
    );
  });

  test('changed safetensors headers are read or refused', () => {
    const header = ascii(
      JSON.stringify({
        __metadata__: { a: 'b' },
        w: { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] },
        h: { dtype: 'BF16', shape: [3], data_offsets: [16, 22] },
      }),
    );
    const bytes = concat(u64(BigInt(header.length)), header, new Uint8Array(22));
    fc.assert(
      fc.property(changes, (list) => readsOrRefuses(mutate(bytes, list))),
      { seed: 8, numRuns: 1000 },
    );
  });
});
