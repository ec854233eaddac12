/** Decoding of files that are damaged, and of images of more than 8 bits. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp, { type FormatEnum } from 'sharp';
import { afterAll, describe, expect, test } from 'vitest';
import { InputError } from '../training/core/errors.ts';
import { decodeImage, whiteOf } from '../training/data/decode.ts';
import { isPng, repairPng } from '../training/data/repair-png.ts';

const folder = mkdtempSync(join(tmpdir(), 'decode-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
function save(bytes: Uint8Array): string {
  const file = join(folder, `${count++}.img`);
  writeFileSync(file, bytes);
  return file;
}

/** A picture of bright noise: no pixel has the value of a missing one. */
const SIDE = { width: 64, height: 48 };
const noise = Uint8Array.from(
  { length: SIDE.width * SIDE.height * 3 },
  (_, i) => 140 + (((i * 2654435761) >>> 8) % 110),
);
const encode = (format: keyof FormatEnum, options = {}): Promise<Buffer> =>
  sharp(noise, { raw: { ...SIDE, channels: 3 } })
    .toFormat(format, options)
    .toBuffer();

/** A TIFF file of one strip, little endian. `format`: 1 unsigned, 2 signed, 3 floating-point. */
function tiff(
  width: number,
  height: number,
  channels: 1 | 3,
  format: 1 | 2 | 3,
  data: Uint8Array,
  bits: number,
): Buffer {
  const entries = [
    [256, width],
    [257, height],
    [258, bits],
    [259, 1],
    [262, channels === 3 ? 2 : 1],
    [273, 0],
    [277, channels],
    [278, height],
    [279, data.length],
    [339, format],
  ];
  const start = 8 + 2 + entries.length * 12 + 4;
  const arrays = channels === 3 ? 12 : 0;
  const bytes = Buffer.alloc(start + arrays + data.length);
  bytes.write('II', 0, 'latin1');
  bytes.writeUInt16LE(42, 2);
  bytes.writeUInt32LE(8, 4);
  bytes.writeUInt16LE(entries.length, 8);
  entries.forEach(([tag, value], i) => {
    const at = 10 + 12 * i;
    const perSample = channels === 3 && (tag === 258 || tag === 339);
    bytes.writeUInt16LE(tag, at);
    bytes.writeUInt16LE(perSample ? 3 : 4, at + 2);
    bytes.writeUInt32LE(perSample ? 3 : 1, at + 4);
    const place = tag === 258 ? start : start + 6;
    bytes.writeUInt32LE(tag === 273 ? start + arrays : perSample ? place : value, at + 8);
    if (perSample) for (let c = 0; c < 3; c++) bytes.writeUInt16LE(value, place + 2 * c);
  });
  bytes.set(data, start + arrays);
  return bytes;
}
const bytesOf = (values: Uint16Array | Float32Array | Int16Array | Int32Array): Uint8Array =>
  new Uint8Array(values.buffer);

describe('damaged files', () => {
  test('a JPEG without its last 20 bytes is used, and its damage is named', async () => {
    const whole = await encode('jpeg');
    const { data } = await decodeImage(save(whole));
    const cut = await decodeImage(save(whole.subarray(0, -20)));
    expect(cut.damage).toMatch(/ends early; nearly all pixels decode/);
    expect([cut.width, cut.height, cut.data.length]).toEqual([64, 48, data.length]);
    // All but the last row of blocks (16 lines, and the line next to it) is intact.
    expect(cut.data.subarray(0, 31 * 64 * 3)).toEqual(data.subarray(0, 31 * 64 * 3));
    expect((await decodeImage(save(whole))).damage).toBeNull();
  });

  test('a JPEG cut in the middle is gray where pixels are missing', async () => {
    const whole = await encode('jpeg');
    const cut = await decodeImage(save(whole.subarray(0, Math.round(whole.length * 0.6))));
    expect(cut.damage).toMatch(/ends early; about \d+ % of the pixels are missing/);
    expect([...cut.data.subarray(-3)]).toEqual([128, 128, 128]);
    expect(cut.data[0]).toBeGreaterThan(130);
  });

  test.each(['jpeg', 'png', 'gif'] as const)('a header of a %s file without pixels is no image', async (format) => {
    const whole = await encode(format);
    const scan = { jpeg: whole.indexOf(Buffer.from([0xff, 0xda])) + 14, png: 45, gif: 20 }[format];
    const file = save(whole.subarray(0, scan));
    await expect(decodeImage(file)).rejects.toThrow(`${file}: cannot be decoded: `);
    await expect(decodeImage(file)).rejects.toBeInstanceOf(InputError);
  });

  test('an empty file, text and a missing file are no images', async () => {
    for (const file of [save(Buffer.alloc(0)), save(Buffer.from('not an image')), join(folder, 'none.png')])
      await expect(decodeImage(file)).rejects.toThrow(`${file}: cannot be decoded: `);
  });

  test.each([
    [false, 1],
    [false, 3],
    [true, 3],
  ] as const)('a PNG keeps the rows before the damage, interlaced %s, %i channels', async (progressive, channels) => {
    const pixels = noise.subarray(0, 64 * 48 * channels);
    const whole = await sharp(pixels, { raw: { ...SIDE, channels } })
      .png({ progressive })
      .toBuffer();
    const { data } = await decodeImage(save(whole));
    const flipped = Buffer.from(whole);
    for (let i = 0; i < 30; i++) flipped[Math.round(whole.length * 0.8) + i] ^= 0x55;
    for (const bytes of [whole.subarray(0, Math.round(whole.length * 0.8)), flipped]) {
      const cut = await decodeImage(save(bytes));
      expect(cut.damage).not.toBeNull();
      let same = 0;
      for (let i = 0; i < data.length; i++) if (data[i] === cut.data[i]) same++;
      expect(same / data.length).toBeGreaterThan(0.5);
      expect(same / data.length).toBeLessThan(0.95);
      if (!progressive) expect(cut.data.subarray(0, 20 * 64 * 3)).toEqual(data.subarray(0, 20 * 64 * 3));
    }
  });

  test('no bytes make the repair of a PNG fail, and its result is an intact image of the same size', async () => {
    const whole = await encode('png', { palette: true });
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 8, max: whole.length }),
        fc.array(fc.tuple(fc.integer({ min: 33, max: whole.length - 1 }), fc.integer({ min: 1, max: 255 })), {
          maxLength: 4,
        }),
        async (length, flips) => {
          const bytes = Buffer.from(whole);
          for (const [at, value] of flips) bytes[at] ^= value;
          const repaired = await repairPng(bytes.subarray(0, length));
          if (repaired === null) return;
          expect(isPng(repaired)).toBe(true);
          // Without its palette, an image of a palette has no colors. That is the only error that can remain.
          const error = await sharp(repaired, { failOn: 'error' })
            .raw()
            .toBuffer()
            .then(() => null, String);
          if (error !== null) expect(error).toMatch(/palette|PLTE|header|libpng read error/i);
        },
      ),
      { seed: 20220521, numRuns: 60 },
    );
  });

  test('a damaged file of another size than stated is refused for its size', async () => {
    const whole = await encode('jpeg');
    const file = save(whole.subarray(0, -20));
    await expect(decodeImage(file, { width: 48, height: 64 })).rejects.toThrow(
      `${file}: width x height: expected 48 x 64, as the annotations state, got 64 x 48`,
    );
  });
});

describe('images of more than 8 bits', () => {
  const wide = Uint16Array.from({ length: 32 }, (_, i) => i * 130);
  const png16 = (values: Uint16Array, channels: 1 | 3, width: number, height: number) =>
    sharp(values, { raw: { width, height, channels } })
      .toColourspace(channels === 1 ? 'grey16' : 'rgb16')
      .png()
      .toBuffer();

  test('12-bit values in a 16-bit file become their upper 8 bits', async () => {
    for (const bytes of [await png16(wide, 1, 8, 4), tiff(8, 4, 1, 1, bytesOf(wide), 16)]) {
      const { data, width, height } = await decodeImage(save(bytes));
      expect([width, height]).toEqual([8, 4]);
      expect([...data]).toEqual([...wide].flatMap((value) => [value >> 4, value >> 4, value >> 4]));
    }
  });

  test('the range of a data set scales a dark image as the others', async () => {
    const file = save(await png16(wide, 1, 8, 4));
    const at = async (white: number) => [...(await decodeImage(file, null, white)).data].filter((_, i) => i % 3 === 0);
    expect(await at(65535)).toEqual([...wide].map((value) => value >> 8));
    expect(await at(4095)).toEqual([...wide].map((value) => value >> 4));
    expect(await at(255)).toEqual([...wide].map((value) => Math.min(255, value)));
  });

  test('RGB of 16 bits', async () => {
    const values = Uint16Array.from({ length: 24 }, (_, i) => i * 2800);
    const expected = [...values].map((value) => value >> 8);
    expect([...(await decodeImage(save(await png16(values, 3, 4, 2)))).data]).toEqual(expected);
    expect([...(await decodeImage(save(tiff(4, 2, 3, 1, bytesOf(values), 16)))).data]).toEqual(expected);
  });

  test('floating-point values of 0 .. 1, of 0 .. 255, negative ones and NaN', async () => {
    const gray = async (values: number[]) => {
      const file = save(tiff(values.length, 1, 1, 3, bytesOf(Float32Array.from(values)), 32));
      return [...(await decodeImage(file)).data].filter((_, i) => i % 3 === 0);
    };
    expect(await gray([0, 0.25, 0.5, 1])).toEqual([0, 64, 128, 255]);
    expect(await gray([0, 10, 128, 255])).toEqual([0, 10, 128, 255]);
    expect(await gray([-3, 0.5, NaN, 1])).toEqual([0, 128, 0, 255]);
    const rgb = Float32Array.from({ length: 12 }, (_, i) => i / 11);
    expect([...(await decodeImage(save(tiff(2, 2, 3, 3, bytesOf(rgb), 32)))).data]).toEqual(
      [...rgb].map((value) => Math.round(value * 255)),
    );
  });

  test('signed and 32-bit integers', async () => {
    const short = Int16Array.from([-5, 0, 1000, 4000]);
    expect([...(await decodeImage(save(tiff(4, 1, 1, 2, bytesOf(short), 16)))).data]).toEqual(
      [0, 0, 62, 250].flatMap((value) => [value, value, value]),
    );
    const long = Int32Array.from([0, 1 << 19, (1 << 20) - 1, 1]);
    expect([...(await decodeImage(save(tiff(4, 1, 1, 2, bytesOf(long), 32)))).data]).toEqual(
      [0, 128, 255, 0].flatMap((value) => [value, value, value]),
    );
  });

  test('white is the smallest power of two that holds the maximum, less one, and at least 255', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (maximum) => {
        const white = whiteOf(maximum, 'ushort');
        expect(white).toBeGreaterThanOrEqual(Math.max(255, maximum));
        expect(Number.isInteger(Math.log2(white + 1))).toBe(true);
        if (white > 255) expect((white - 1) / 2).toBeLessThan(maximum);
      }),
      { seed: 20220521 },
    );
    expect([whiteOf(0.9, 'float'), whiteOf(1, 'ushort'), whiteOf(200, 'float'), whiteOf(256, 'float')]).toEqual([
      1, 255, 255, 511,
    ]);
  });
});

test('1-bit images are black and white', async () => {
  const bits = Uint8Array.from({ length: 16 }, (_, i) => (i % 3 === 0 ? 255 : 0));
  const bytes = await sharp(bits, { raw: { width: 4, height: 4, channels: 1 } })
    .toColourspace('b-w')
    .png({ palette: true, colours: 2 })
    .toBuffer();
  expect([...(await decodeImage(save(bytes))).data]).toEqual([...bits].flatMap((value) => [value, value, value]));
});
