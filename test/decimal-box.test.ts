/** Boxes that a YOLO file has rounded: the original numbers come back wherever the digits determine them. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decimalsOf, edgesOf, shortestWithin } from '../training/data/decimal-box.ts';

const side = fc.integer({ min: 16, max: 4000 });

/** Two edges in steps of `1 / scale` pixels, and the side that they lie in. */
const edges = (scale: number) =>
  side.chain((pixels) =>
    fc
      .uniqueArray(fc.integer({ min: 0, max: pixels * scale }), { minLength: 2, maxLength: 2 })
      .map((values) => ({ pixels, values: values.sort((a, b) => a - b).map((value) => value / scale) })),
  );

/** What a file has for two edges, and the edges that are read from it. */
function throughFile([first, last]: readonly number[], pixels: number, write: (value: number) => string) {
  const texts = [(first + last) / 2 / pixels, (last - first) / pixels].map(write);
  const [center, size] = texts.map((text) => ({ value: Number(text), error: 0.5 * 10 ** -decimalsOf(text) }));
  return edgesOf(center, size, pixels);
}

describe('edges of boxes', () => {
  test('integers come back from any number of decimals that tells them apart', () => {
    fc.assert(
      fc.property(edges(1), fc.integer({ min: 2, max: 17 }), ({ pixels, values }, decimals) => {
        fc.pre(0.75 * 10 ** -decimals * pixels < 0.49);
        expect(throughFile(values, pixels, (value) => value.toFixed(decimals))).toEqual(values);
      }),
    );
  });

  test('hundredths of pixels come back from six decimals and more', () => {
    fc.assert(
      fc.property(edges(100), fc.integer({ min: 6, max: 17 }), ({ pixels, values }, decimals) => {
        expect(throughFile(values, pixels, (value) => value.toFixed(decimals))).toEqual(values);
      }),
    );
  });

  test('the shortest numbers that JavaScript writes give integers exactly', () => {
    fc.assert(
      fc.property(edges(1), ({ pixels, values }) => {
        const [center, size] = [(values[0] + values[1]) / 2 / pixels, (values[1] - values[0]) / pixels];
        expect(edgesOf({ value: center, error: 0.5e-16 }, { value: size, error: 0.5e-16 }, pixels)).toEqual(values);
      }),
    );
  });

  test('numbers of full precision stay, up to the rounding of doubles', () => {
    fc.assert(
      fc.property(side, fc.double({ min: 0.2, max: 0.8, noNaN: true }), (pixels, center) => {
        const [first, last] = edgesOf(
          { value: center, error: 0.5e-17 },
          { value: 0.1234567890123, error: 0.5e-17 },
          pixels,
        );
        expect(Math.abs(first - (center - 0.1234567890123 / 2) * pixels)).toBeLessThan(pixels * 2 ** -49);
        expect(Math.abs(last - (center + 0.1234567890123 / 2) * pixels)).toBeLessThan(pixels * 2 ** -49);
      }),
    );
  });

  test('no edge moves by more than the error of the file', () => {
    fc.assert(
      fc.property(
        fc.double({ min: -1e4, max: 1e4, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (value, error) => {
          expect(Math.abs(shortestWithin(value, error) - value)).toBeLessThanOrEqual(error);
        },
      ),
    );
    expect(Object.is(shortestWithin(-0.0001, 0.001), 0)).toBe(true);
  });
});

test.each([
  ['0.250', 3],
  ['1', 0],
  ['.5', 1],
  ['5.', 0],
  ['1.25e-3', 5],
  ['12E2', 0],
  ['-0.123456', 6],
])('%s has %i decimals', (text, decimals) => expect(decimalsOf(text)).toBe(decimals));
