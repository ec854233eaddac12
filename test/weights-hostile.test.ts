/**
 * Hostile, truncated and corrupt checkpoint files give a WeightsError that names the file, fast and with little memory.
 * Nothing in a file is executed.
 */
import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { readCheckpoint, WeightsError } from '../engine/index.ts';
import { ascii, concat, FOLDER, pickle, read, rezip, SMALL, text, u32, u64, zip } from './weights-bytes.ts';

/** The message of the WeightsError. The test fails if there is none, or another error. */
function errorOf(bytes: Uint8Array<ArrayBuffer>, file = 'bad.pth'): string {
  try {
    readCheckpoint(bytes.slice().buffer, file);
  } catch (error) {
    expect(error).toBeInstanceOf(WeightsError);
    expect((error as Error).message).toMatch(new RegExp(`^${file.replaceAll('.', '\\.')}: `));
    return (error as Error).message;
  }
  return expect.fail(`${file} was read`);
}

/** The position behind `needle` in `bytes`. */
function after(bytes: Uint8Array, needle: string): number {
  const at = Buffer.from(bytes).indexOf(needle);
  expect(at).toBeGreaterThan(0);
  return at + needle.length;
}

describe('hostile pickles', () => {
  const NAMES: Readonly<Record<string, string>> = {
    'hostile.reduce.pkl': 'posix.system',
    'hostile.stack_global.pkl': 'posix.system',
    'hostile.nested.pkl': 'posix.system',
    'hostile.inst.pkl': 'posix.system (INST)',
    'hostile.obj.pkl': 'posix.system',
    'hostile.eval.pkl': '__builtin__.eval',
    'hostile.build.pkl': 'os.system',
    'hostile.extension.pkl': 'extension code 7',
    'hostile.getattr.pkl': 'builtins.getattr',
    'hostile.load_from_bytes.pkl': 'torch.storage._load_from_bytes',
    'hostile.call_class.pkl': 'a call of numpy.ndarray',
    'hostile.newobj.pkl': 'subprocess.Popen',
    'hostile.zip.pth': 'posix.system',
    'hostile.legacy.pth': 'posix.system',
  };

  test('every file in the folder is refused with its name, and nothing is executed', () => {
    const files = readdirSync(FOLDER).filter((name) => name.startsWith('hostile.'));
    expect(files.sort()).toEqual(Object.keys(NAMES).sort());
    for (const name of files) {
      const message = errorOf(read(name), name);
      expect(message, name).toContain(`${NAMES[name]}`);
      expect(message, name).toContain('refused');
    }
    expect(existsSync('/tmp/executed-by-a-pickle')).toBe(false);
  });

  test('messages contain names from the file without control characters', () => {
    expect(errorOf(pickle(ascii('cos\x1b[2J\nsys\x07tem\n')))).toContain('os?[2J.sys?tem');
  });

  test('a whole module is refused with advice', () => {
    expect(errorOf(pickle(ascii('ctorch.nn.modules.linear\nLinear\n')))).toMatch(
      /torch\.nn\.modules\.linear\.Linear is refused.*save its state_dict/,
    );
  });

  test('opcodes that no checkpoint needs are refused with their names', () => {
    expect(errorOf(pickle(ascii("S'text'\n")))).toContain('STRING');
    expect(errorOf(pickle(ascii('P1\n')))).toContain('PERSID');
    expect(errorOf(pickle([0x97]))).toContain('NEXT_BUFFER');
    expect(errorOf(pickle(text('1'), [0x51]))).toContain('persistent id');
    expect(errorOf(pickle([0xff]))).toContain('unknown opcode 0xff');
  });
});

describe('wrong lengths', () => {
  test('lengths beyond the end are refused before memory is allocated', () => {
    for (const opcode of [0x58, 0x54, 0x42, 0x8b])
      expect(errorOf(pickle([opcode, ...u32(0xfffffff0)])), opcode.toString(16)).toMatch(/bytes/);
    for (const opcode of [0x8d, 0x8e, 0x96, 0x95])
      expect(errorOf(pickle([opcode, ...u64(2n ** 62n)])), opcode.toString(16)).toMatch(/bytes/);
    expect(errorOf(concat([0x80, 4, 0x8a, 0xff], new Uint8Array(300)))).toContain('an integer of 255 bytes');
  });

  test('a safetensors header longer than the file, or of 2^63 bytes', () => {
    expect(errorOf(concat(u64(2n ** 63n), ascii('{"a": 1}')))).toContain('header length');
    expect(errorOf(concat(u64(90n), ascii('{"a": 1}')))).toContain('header length 90 does not fit');
  });

  test('deep and wide safetensors headers give short messages', () => {
    const deep = `${'['.repeat(3e5)}${']'.repeat(3e5)}`;
    for (const entry of [
      deep,
      `{"dtype": ${deep}}`,
      `{"dtype": "F32", "shape": ${deep}}`,
      `{"dtype": "F32", "shape": [${'1, '.repeat(1e5)}1]}`,
      `{"dtype": "F32", "shape": [1], "data_offsets": ${deep}}`,
      '['.repeat(1e6),
    ]) {
      const header = ascii(`{"w": ${entry}}`);
      expect(
        errorOf(
          new Uint8Array(
            Buffer.concat([Uint8Array.from(u64(BigInt(header.length))), Uint8Array.from(header), new Uint8Array(4)]),
          ),
        ).length,
      ).toBeLessThan(200);
    }
  });

  test('safetensors whose tensors share bytes are refused', () => {
    const body = 1 << 16;
    const header = ascii(
      JSON.stringify(
        Object.fromEntries(
          Array.from({ length: 1000 }, (_, i) => [`w${i}`, { dtype: 'U8', shape: [body], data_offsets: [0, body] }]),
        ),
      ),
    );
    expect(errorOf(concat(u64(BigInt(header.length)), header, new Uint8Array(body)))).toContain('overlap');
  });

  test('a zip whose entries share bytes is refused', () => {
    const bytes = rezip('f32.zip.pth', () => {});
    const entry = Buffer.from(bytes).lastIndexOf('a/data/0') - 46;
    new DataView(bytes.buffer).setUint32(entry + 20, bytes.length - 50, true);
    new DataView(bytes.buffer).setUint32(entry + 24, bytes.length - 50, true);
    expect(errorOf(bytes)).toContain('overlap');
  });

  test('tensors expanded from one element are refused if they are too large for the file', () => {
    // "expanded" has shape (3, 4) and strides (0, 1); give it 2^31 - 1 rows.
    const bytes = rezip('f32.zip.pth', (entries) => {
      const data = entries['a/data.pkl'];
      const at = after(data, 'expanded');
      const shape = Buffer.from(data).indexOf(Uint8Array.from([0x4b, 3, 0x4b, 4, 0x86]), at);
      expect(shape).toBeGreaterThan(at);
      entries['a/data.pkl'] = concat(data.subarray(0, shape), [0x4a, ...u32(0x7fffffff)], data.subarray(shape + 2));
    });
    expect(errorOf(bytes)).toMatch(/expanded: shape \[2147483647, 4\]: the tensors take more than 8 times/);
  });

  test('a shape that reaches beyond its storage is refused', () => {
    const bytes = rezip('f32.zip.pth', (entries) => {
      entries['a/data/0'] = entries['a/data/0'].slice(0, 100);
    });
    expect(errorOf(bytes)).toContain('whole: its storage has 100 bytes, 60 elements of torch.FloatStorage take 240');
  });
});

describe('pickles that build more data than their size', () => {
  /** A pickle of the opcode for None, and then of `opcodes`, `count` times. */
  const big = (opcodes: readonly number[], count: number): Uint8Array<ArrayBuffer> =>
    new Uint8Array(
      Buffer.concat([
        Uint8Array.of(0x80, 2, 0x4e),
        Buffer.alloc(opcodes.length * count, Uint8Array.from(opcodes)),
        Uint8Array.of(0x2e),
      ]),
    );

  test('lists that contain the list before them ten times take no more memory than their opcodes', () => {
    const levels = Array.from({ length: 200 }, (_, i) => [
      0x5d,
      0x71,
      i + 1,
      0x28,
      ...Array.from({ length: 10 }, () => [0x68, i]).flat(),
      0x65,
      0x30,
    ]);
    const message = errorOf(pickle([0x5d, 0x71, 0, 0x30], ...levels, [0x68, 200]));
    expect(message).toContain('holds a list of 10, expected a state_dict');
  });

  test('a dict that contains itself has no tensors', () => {
    expect(errorOf(pickle([0x7d, 0x71, 0], text('model'), [0x68, 0, 0x73]))).toContain('has no tensors');
  });

  test('a million tuples, dicts, lists, marks, bytes or copies are refused within seconds and 500 MB', () => {
    const before = process.memoryUsage().rss;
    const begin = performance.now();
    for (const [opcodes, count] of [
      [[0x85], 1e6],
      [[0x7d], 1e6],
      [[0x7d, 0x4e, 0x4e, 0x73], 1e6],
      [[0x5d], 1e6],
      [[0x28], 1e6],
      [[0x43, 0], 1e6],
      [[0x32], 2e6],
    ] as const)
      errorOf(big(opcodes, count));
    expect(performance.now() - begin).toBeLessThan(20_000);
    expect(process.memoryUsage().rss - before).toBeLessThan(500 * 2 ** 20);
  });

  test('a text from the memo that is encoded many times is refused', () => {
    const encode = [
      ...ascii('c_codecs\nencode\n'),
      0x71,
      0,
      0x30,
      ...text('x'.repeat(60_000)),
      0x71,
      1,
      0x30,
      ...text('latin1'),
      0x71,
      2,
      0x30,
    ];
    expect(
      errorOf(pickle(encode, ...Array.from({ length: 5000 }, () => [0x68, 0, 0x68, 1, 0x68, 2, 0x86, 0x52]))),
    ).toContain('builds more data than the file holds');
  });

  test('an OrderedDict that is made many times from one list is refused', () => {
    const list = [
      ...ascii('ccollections\nOrderedDict\n'),
      0x71,
      0,
      0x30,
      0x5d,
      0x71,
      1,
      0x28,
      ...Array.from({ length: 5000 }, (_, i) => [0x4a, ...u32(i), 0x4e, 0x86]).flat(),
      0x65,
      0x30,
    ];
    expect(errorOf(pickle(list, ...Array.from({ length: 5000 }, () => [0x68, 0, 0x68, 1, 0x85, 0x52])))).toContain(
      'builds more data than the file holds',
    );
  });
});

describe('another byte order', () => {
  test('in a zip of PyTorch >= 2.1 is refused', () => {
    expect(
      errorOf(
        rezip('f32.zip.pth', (entries) => {
          entries['a/byteorder'] = Uint8Array.from(ascii('big'));
        }),
      ),
    ).toContain('byteorder: expected "little", got "big"');
    const little = rezip('f32.zip.pth', (entries) => {
      entries['a/byteorder'] = Uint8Array.from(ascii('little'));
    });
    expect(readCheckpoint(little.buffer, 'little.pth').tensors.size).toBe(9);
  });

  test('in the legacy format is refused', () => {
    const bytes = read('f32.legacy.pth');
    const at = after(bytes, 'little_endian');
    expect([...bytes.subarray(at, at + 3)]).toEqual([0x71, 2, 0x88]);
    bytes[at + 2] = 0x89;
    expect(errorOf(bytes)).toContain('big-endian machine');
  });

  test('in a numpy dtype is refused', () => {
    const bytes = read('detectron2.p4.pkl');
    bytes[bytes.indexOf('<'.charCodeAt(0))] = '>'.charCodeAt(0);
    expect(errorOf(bytes)).toContain('big-endian f4');
  });
});

describe('other files', () => {
  test('are refused with a message that names their kind', () => {
    expect(errorOf(new Uint8Array(0))).toContain('0 bytes that begin with nothing');
    expect(errorOf(Uint8Array.from(ascii('\x89HDF\r\n\x1a\nmore')))).toContain('begin with c2 89 48 44');
    expect(errorOf(zip({ 'a/constants.pkl': pickle([0x4e]), 'a/data.pkl': pickle([0x4e]) }))).toContain('TorchScript');
    expect(errorOf(zip({ 'photo.txt': Uint8Array.of(1) }))).toContain('without data.pkl');
    expect(errorOf(zip({ 'a/data.pkl': pickle([0x4e]) }))).toContain('holds None, expected a state_dict');
    const tar = new Uint8Array(1024);
    tar.set(ascii('ustar'), 257);
    expect(errorOf(tar)).toContain('tar file');
  });

  test('a compressed zip entry is refused, not inflated', () => {
    const bytes = rezip('f32.zip.pth', () => {});
    const view = new DataView(bytes.buffer);
    view.setUint16(Buffer.from(bytes).lastIndexOf('a/data/0') - 46 + 10, 8, true);
    expect(errorOf(bytes)).toContain('compressed (method 8)');
  });
});

test('a file that is cut at any byte is refused', () => {
  for (const name of SMALL) {
    const bytes = read(name);
    for (let length = 0; length < bytes.length; length += length < 600 ? 1 : 7) errorOf(bytes.slice(0, length), name);
  }
  for (const name of ['detectron2.p2.pkl', 'detectron2.p4.pkl', 'detectron2.p5.pkl', 'resnet18.torchvision.pth']) {
    const bytes = read(name);
    for (let length = 1; length < bytes.length; length += 997) errorOf(bytes.slice(0, length), name);
  }
});
