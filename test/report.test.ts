/** Tables, the progress line and plots, as readers see them on the terminal and in the run's folder. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { evaluateDetections } from '../training/core/coco-metrics.ts';
import { formatDuration } from '../training/output/duration.ts';
import { formatTable } from '../training/output/table.ts';
import { linePlot } from '../training/pictures/line-plot.ts';
import { runningMean, type PlotOptions, type Series } from '../training/pictures/series.ts';
import { writePlot } from '../training/pictures/plot-file.ts';
import { metricsTable } from '../training/output/metrics-table.ts';
import { Progress, progressLine } from '../training/output/progress.ts';
import { pace, type StepProgress } from '../training/core/metrics-log.ts';

describe('tables', () => {
  test('numbers are aligned to the right, text to the left', () => {
    expect(
      formatTable(
        ['class', 'AP', 'objects'],
        [
          ['cat', '41.5', 7],
          ['platelet', '-', 1200],
        ],
      ),
    ).toBe(
      ['class       AP  objects', '--------  ----  -------', 'cat       41.5        7', 'platelet     -     1200'].join(
        '\n',
      ),
    );
    expect(formatTable(['a', 'b'], [])).toBe('a  b\n-  -');
    expect(() => formatTable(['a', 'b'], [['x', 1], ['y']])).toThrow('rows[1]: expected 2 cells, got 1');
  });

  test('metrics are in percent, with a row per class', () => {
    const evaluation = evaluateDetections(
      {
        images: [{ id: 1, file_name: 'a.jpg', width: 100, height: 100 }],
        categories: [
          { id: 1, name: 'cat' },
          { id: 2, name: 'dog' },
        ],
        annotations: [{ id: 1, image_id: 1, category_id: 1, bbox: [10, 10, 40, 40], area: 1600, iscrowd: 0 }],
      },
      [{ image_id: 1, category_id: 1, bbox: [10, 10, 40, 40], score: 0.9 }],
    );
    const [header, , all, cat, dog] = metricsTable(evaluation)
      .split('\n')
      .map((row) => row.split(/\s+/));
    expect(header.slice(0, 4)).toEqual(['class', 'objects', 'AP', 'AP50']);
    expect(all.slice(0, 7)).toEqual(['all', '1', '100.0', '100.0', '100.0', '-', '100.0']);
    expect(cat.slice(0, 3)).toEqual(['cat', '1', '100.0']);
    expect(dog.slice(0, 3)).toEqual(['dog', '0', '-']);
  });

  test.each([
    [0, '0:00'],
    [75.4, '1:15'],
    [3599.6, '1:00:00'],
    [3725, '1:02:05'],
    [90000, '1d 01:00:00'],
    [NaN, '?'],
    [Infinity, '?'],
  ])('%d s is %s', (seconds, text) => {
    expect(formatDuration(seconds)).toBe(text);
  });
});

const row: StepProgress = {
  iteration: 120,
  iterations: 4000,
  loss: 12.3456,
  parts: { class: 1.5, l1: 2.25, giou: 3.125 },
  learningRate: 2.5e-5,
  millisecondsPerStep: 143.4,
  secondsLeft: 556,
  megabytes: 812.3,
};

/** Collects the written text and gives the lines that a terminal shows. */
class Screen {
  text = '';
  constructor(
    readonly isTTY: boolean,
    readonly columns = 80,
  ) {}
  write(text: string) {
    this.text += text;
  }
  /** Finished lines, and the unfinished line last; \r\x1b[K erases a line. */
  lines() {
    return this.text
      .split('\n')
      .map((line) => line.slice(line.lastIndexOf('\r\x1b[K') < 0 ? 0 : line.lastIndexOf('\r\x1b[K') + 4));
  }
}

describe('progress', () => {
  test('a line without limit has all fields', () => {
    expect(progressLine(row)).toBe(
      ' 120/4000  loss 12.346 (class 1.500, l1 2.250, giou 3.125)  lr 2.50e-5  143 ms/step  9:16 left  812 MB',
    );
  });

  test('a line fits any width, and iteration and loss are dropped last', () => {
    for (let width = 0; width <= 110; width++) expect(progressLine(row, width).length).toBeLessThanOrEqual(width);
    expect(progressLine(row, 80)).toBe(
      ' 120/4000  loss 12.346 (class 1.500)  lr 2.50e-5  143 ms/step  9:16 left  812 MB'.slice(0, 80),
    );
    expect(progressLine(row, 24)).toBe(' 120/4000  loss 12.346');
  });

  test('a diverged loss is shown in full', () => {
    expect(progressLine({ ...row, loss: NaN })).toContain('loss NaN');
    expect(progressLine({ ...row, loss: 1.25e9 })).toContain('loss 1.25e+9');
  });

  test('on a terminal one line is overwritten, within the window, at most ten times per second', () => {
    let now = 0;
    const screen = new Screen(true, 60);
    const progress = new Progress({ stream: screen, clock: () => now });
    for (let iteration = 1; iteration <= 4000; iteration++) {
      now += 10;
      progress.update({ ...row, iteration });
    }
    expect(screen.text.split('\r').length - 1).toBeLessThanOrEqual(4000 / 10 + 2);
    expect(screen.text).not.toContain('\n');
    for (const drawn of screen.text.split('\r\x1b[K')) expect(drawn.length).toBeLessThan(60);
    progress.end();
    expect(screen.lines()).toHaveLength(2);
    expect(screen.lines()[0]).toMatch(/^4000\/4000 {2}loss/);
    expect(screen.lines()[1]).toBe('');
  });

  test('a note on a terminal appears above the line, which stays', () => {
    const screen = new Screen(true);
    const progress = new Progress({ stream: screen, clock: () => 0 });
    progress.note('before');
    progress.update(row);
    progress.note('AP 41.5');
    expect(screen.lines()[0]).toBe('before');
    expect(screen.lines()[1]).toBe('AP 41.5');
    expect(screen.lines()[2]).toContain('120/4000');
    progress.end();
    expect(screen.lines()).toHaveLength(4);
  });

  test('after an interruption the newest row remains on the terminal', () => {
    const screen = new Screen(true);
    const progress = new Progress({ stream: screen, clock: () => 0 });
    progress.update(row);
    progress.update({ ...row, iteration: 121 });
    expect(screen.text).not.toContain('121/4000');
    progress.end();
    expect(screen.lines()[0]).toContain('121/4000');
  });

  test('without a terminal: the first rows, one about every ten seconds, the last; no control characters', () => {
    let now = 0;
    const screen = new Screen(false);
    const progress = new Progress({ stream: screen, clock: () => now });
    for (let iteration = 1; iteration <= 100; iteration++) {
      now += 1000;
      progress.update({ ...row, iteration, iterations: 100 });
    }
    progress.note('done');
    progress.end();
    const shown = screen.text
      .trimEnd()
      .split('\n')
      .map((text) => text.trim().split('/')[0]);
    expect(shown).toEqual(['1', '2', '3', '13', '23', '33', '43', '53', '63', '73', '83', '93', '100', 'done']);
    for (const control of ['\r', '\x1b']) expect(screen.text).not.toContain(control);
    expect(screen.text).toContain('giou 3.125');
  });

  test('a run without a row prints nothing', () => {
    for (const terminal of [true, false]) {
      const screen = new Screen(terminal);
      new Progress({ stream: screen, clock: () => 0 }).end();
      expect(screen.text).toBe('');
    }
  });
});

const plot = (series: readonly Series[], more: Partial<PlotOptions> = {}) =>
  linePlot({ title: 'Loss', xLabel: 'iteration', yLabel: 'loss', series, ...more });
/** Tick labels, titles and names of the SVG. */
const texts = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map((match) => match[1]);
/** Corner points of the lines that are data (drawn with round joins), one list for each unbroken line. */
const curves = (svg: string) =>
  [...svg.matchAll(/<path d="M([^"]*)" fill="none"[^>]*stroke-linejoin="round"/g)].flatMap(([, path]) =>
    path.split('M').map((line) => line.split('L').map((point) => point.split(' ').map(Number))),
  );
/** Centers of the dots that are data. */
const dots = (svg: string) =>
  [...svg.matchAll(/transform="matrix\(3,0,0,3,([^,]*),([^)]*)\)"/g)].map(([, x, y]) => [Number(x), Number(y)]);

/** Where the axes are drawn, in SVG units. */
const frame = (svg: string) => {
  const [vertical, horizontal] = ['x', 'y'].map(
    (_, i) =>
      [...svg.matchAll(/<path d="M([^"]*)"[^>]*stroke="#777777"/g)]
        .map(([, path]) => path.split('L').map((point) => point.split(' ').map(Number)))
        .find(([from, to]) => from[i] === to[i])!,
  );
  const [left, right] = horizontal.map(([x]) => x).sort((a, b) => a - b);
  const [top, bottom] = vertical.map(([, y]) => y).sort((a, b) => a - b);
  return { left, right, top, bottom };
};

test('the pace is the time of a typical step, also if losses arrive in pairs or one step takes long', () => {
  const pairs = Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? 10 : 550));
  expect(pace(pairs)).toBe(280);
  expect(pace([4000, ...Array.from({ length: 20 }, () => 250)])).toBe(250);
  expect([pace([]), pace([300]), pace([300, 500])]).toEqual([0, 300, 400]);
});

describe('plots', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'report-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test('title, axis names and ticks are shown, and a legend for several series', () => {
    const one: Series = {
      name: 'total',
      points: [
        [0, 0],
        [100, 5],
      ],
    };
    expect(texts(plot([one]))).toEqual(expect.arrayContaining(['Loss', 'iteration', 'loss', '0', '20', '100', '5']));
    expect(texts(plot([one]))).not.toContain('total');
    expect(
      texts(
        plot([
          one,
          {
            name: 'a<b & c',
            points: [
              [0, 1],
              [9, 2],
            ],
          },
        ]),
      ),
    ).toEqual(expect.arrayContaining(['total', 'a&lt;b &amp; c']));
    expect(texts(plot([one, { ...one, name: 'raw', faint: true }]))).not.toContain('raw');
  });

  test('all points are within the axes for any numbers, and all ticks differ', () => {
    const value = fc.oneof(fc.double({ min: -1e6, max: 1e6 }), fc.constantFrom(0, 1, NaN, Infinity, -1, 1e-7, 270_000));
    const points = fc
      .array(fc.tuple(fc.integer({ min: 0, max: 300_000 }), value), { maxLength: 40 })
      .map((all) => all.sort((a, b) => a[0] - b[0]));
    fc.assert(
      fc.property(points, fc.boolean(), (drawn, logY) => {
        const svg = plot([{ name: 'a', points: drawn }], { logY, width: 600, height: 400 });
        const { left, right, top, bottom } = frame(svg);
        expect(left > 20 && right < 600 && top > 30 && bottom < 400 - 30).toBe(true);
        for (const [x, y] of [...curves(svg).flat(), ...dots(svg)]) {
          // Axes are drawn on whole pixels.
          expect(x >= left - 0.5 && x <= right + 0.5).toBe(true);
          expect(y >= top - 0.5 && y <= bottom + 0.5).toBe(true);
        }
        expect(svg).not.toMatch(/NaN|Infinity/);
        expect(svg.includes('no data')).toBe(!drawn.some(([, y]) => Number.isFinite(y) && (!logY || y > 1e-30)));
      }),
      { seed: 3, numRuns: 1000 },
    );
    for (const [least, most] of [
      [0.5, 0.55],
      [0, 1],
      [1e5, 2.7e5],
      [0, 270_000],
      [-3, 4],
      [2, 2],
    ]) {
      const svg = plot([
        {
          name: 'a',
          points: [
            [0, least],
            [1, most],
          ],
        },
      ]);
      const ticks = [...svg.matchAll(/text-anchor="end"[^>]*>([^<]*)</g)].map((match) => match[1]);
      expect(ticks.length).toBeGreaterThan(3);
      expect(new Set(ticks).size, ticks.join()).toBe(ticks.length);
    }
  });

  test('higher values are drawn higher, on a logarithmic axis by their logarithm', () => {
    const points: Series['points'] = [
      [0, 1],
      [1, 10],
      [2, 100],
    ];
    const [linear] = curves(plot([{ name: 'a', points }]));
    const [logarithmic] = curves(plot([{ name: 'a', points }], { logY: true }));
    expect(linear[0][1] - linear[1][1]).toBeCloseTo((linear[1][1] - linear[2][1]) / 10, 0);
    expect(logarithmic[0][1] - logarithmic[1][1]).toBeCloseTo(logarithmic[1][1] - logarithmic[2][1], 0);
  });

  test('a value that is not finite leaves a gap, and a point without neighbors is a dot', () => {
    expect(
      curves(
        plot([
          {
            name: 'a',
            points: [
              [0, 1],
              [1, 2],
              [2, NaN],
              [3, 1],
              [4, 2],
            ],
          },
        ]),
      ),
    ).toHaveLength(2);
    expect(dots(plot([{ name: 'a', points: [[5, 1]] }]))).toHaveLength(1);
    // A long line shows no dots but those of points without neighbors.
    const long = Array.from({ length: 100 }, (_, x): [number, number] => [x, x === 48 || x === 50 ? NaN : x]);
    expect(dots(plot([{ name: 'a', points: long }]))).toHaveLength(1);
  });

  test('a long run makes a small file that keeps its peaks', () => {
    const points = Array.from({ length: 270_000 }, (_, x): [number, number] => [
      x,
      x === 123_456 ? 50 : 1 + (x % 7) / 7,
    ]);
    const svg = plot([{ name: 'a', points }]);
    expect(svg.length).toBeLessThan(150_000);
    // The peak of 50 is a tick at the end of the axis; without the peak the axis would end at 2.
    const highest = Math.min(...curves(svg).flatMap((line) => line.map(([, y]) => y)));
    expect(Math.abs(highest - frame(svg).top)).toBeLessThanOrEqual(0.5);
    expect(texts(svg)).toContain('50');
  });

  test('running means skip values that are not finite', () => {
    expect(
      runningMean(
        [
          [0, 2],
          [1, 4],
          [2, NaN],
          [3, 6],
          [4, 8],
        ],
        2,
      ),
    ).toEqual([
      [0, 2],
      [1, 3],
      [3, 5],
      [4, 7],
    ]);
  });

  test('a plot is written as SVG, or as PNG of twice the size with its text; other endings are refused', async () => {
    const options: PlotOptions = {
      title: 'Loss',
      xLabel: 'iteration',
      yLabel: 'loss',
      series: [
        {
          name: 'a',
          points: [
            [0, 1],
            [1, 2],
          ],
        },
      ],
      width: 300,
      height: 200,
    };
    await writePlot(join(folder, 'a.svg'), options);
    expect(readFileSync(join(folder, 'a.svg'), 'utf8')).toBe(linePlot(options));
    const gray = async (name: string, plotted: PlotOptions) => {
      await writePlot(join(folder, name), plotted);
      return sharp(join(folder, name)).grayscale().raw().toBuffer({ resolveWithObject: true });
    };
    const { data, info } = await gray('a.png', options);
    expect([info.width, info.height]).toEqual([600, 400]);
    const untitled = await gray('b.png', { ...options, title: '' });
    const dark = (pixels: Buffer) => pixels.filter((value) => value < 90).length;
    expect(dark(data)).toBeGreaterThan(dark(untitled.data) + 50);
    await expect(writePlot(join(folder, 'a.pdf'), options)).rejects.toThrow(
      'writePlot: path: expected a file that ends in .svg or .png, got',
    );
  });
});
