/**
 * The roofline of an adapter (Williams et al., "Roofline", CACM 2009): what it computes at most, what it moves at most, and where the kernels of the micro table lie below.
 * Both roofs are measured: multiply-adds in registers, and copies.
 */
import { defineKernel, kernelFamily, linearGrid } from '../kernels/kernel.ts';
import type { Device } from '../engine/index.ts';
import { fixed, line, LINE_COLORS, logTicks, textAt } from '../training/pictures/plot.ts';
import { median, sampleInterleaved, type Job } from './measure.ts';
import { gigaflops, type MicroRow } from './micro.ts';

export interface Roof {
  /** GFLOP/s, and the form of the loop that reached it. */
  readonly gigaflops: number;
  readonly computeForm: string;
  /** GB/s, read and written bytes together. */
  readonly gigabytes: number;
  readonly copyForm: string;
}

const LANES = 64,
  GROUPS = 256,
  ITERATIONS = 2048;

/** An outer product as of a matrix product: `rows` scalars times `columns` vec4s added to as many sums in registers, again and again. */
const multiplyAddKernel = kernelFamily((rows: number, columns: number) => {
  const sums = Array.from({ length: rows * columns }, (_, i) => i);
  return defineKernel({
    name: `multiply_add_f32_${rows}x${columns}`,
    workgroup: [LANES],
    params: { iterations: 'u32', a: 'f32', b: 'f32' },
    buffers: { output: 'write vec4f' },
    body: `
  ${Array.from({ length: rows }, (_, i) => `var a${i} = p.a * f32(lane + ${i}u);`).join(' ')}
  ${Array.from({ length: columns }, (_, j) => `var b${j} = vec4f(p.b, p.a, p.b, p.a) * f32(lane + ${j}u);`).join(' ')}
  ${sums.map((i) => `var s${i} = vec4f(f32(lane + ${i}u));`).join(' ')}
  for (var i = 0u; i < p.iterations; i++) {
    ${sums.map((i) => `s${i} = s${i} * a${i % rows} + b${Math.floor(i / rows)};`).join('\n    ')}
  }
  output[linearGroup * ${LANES}u + lane] = ${sums.map((i) => `s${i}`).join(' + ')};`,
  });
});

const copyKernel = kernelFamily((each: number) =>
  defineKernel({
    name: `copy_vec4_${each}`,
    workgroup: [LANES],
    params: { count4: 'u32' },
    buffers: { input: 'read vec4f', output: 'write vec4f' },
    body: `
  for (var k = 0u; k < ${each}u; k++) {
    let i = (linearGroup * ${each}u + k) * ${LANES}u + lane;
    if (i < p.count4) { output[i] = input[i]; }
  }`,
  }),
);

const FORMS = [
  [1, 4],
  [2, 2],
  [4, 1],
  [2, 4],
  [4, 4],
  [4, 8],
] as const;
/** Large against caches. */
const COPY_BYTES = 64 * 2 ** 20;

/** Measures both roofs: the best of several forms of each. */
export async function measureRoof(device: Device, rounds: number): Promise<Roof> {
  const output = device.keep(device.empty([GROUPS * LANES * 4]));
  const floats = Math.min(COPY_BYTES, device.limits.maxStorageBufferBindingSize) / 4;
  const [from, to] = [device.keep(device.zeros([floats])), device.keep(device.zeros([floats]))];
  const job = (name: string, launch: () => void): Job => ({
    name,
    run: async (times) => {
      for (let i = 0; i < times; i++) launch();
      await device.synchronize();
    },
  });
  const computing = FORMS.map(([rows, columns]) =>
    job(`${rows} x ${columns} vec4 sums`, () =>
      device.run(
        multiplyAddKernel(rows, columns),
        { iterations: ITERATIONS, a: 1e-3, b: 1e-3 },
        { output },
        linearGrid(GROUPS),
      ),
    ),
  );
  const copying = [
    job('copyBufferToBuffer', () => device.copy(from, to)),
    ...[1, 8].map((each) =>
      job(`kernel, ${each} vec4 a lane`, () =>
        device.run(
          copyKernel(each),
          { count4: floats / 4 },
          { input: from, output: to },
          linearGrid(Math.ceil(floats / 4 / each / LANES)),
        ),
      ),
    ),
  ];
  const times = (await sampleInterleaved([...computing, ...copying], { rounds })).map(median);
  for (const tensor of [output, from, to]) tensor.dispose();
  const best = (names: readonly Job[], rates: readonly number[]): [string, number] => {
    const at = rates.indexOf(Math.max(...rates));
    return [names[at].name, rates[at]];
  };
  const [computeForm, gigaflopsReached] = best(
    computing,
    FORMS.map(([rows, columns], i) => (8 * rows * columns * ITERATIONS * GROUPS * LANES) / times[i] / 1e6),
  );
  const [copyForm, gigabytesReached] = best(
    copying,
    copying.map((_, i) => (8 * floats) / times[FORMS.length + i] / 1e6),
  );
  return { gigaflops: gigaflopsReached, computeForm, gigabytes: gigabytesReached, copyForm };
}

/** Operations a byte, of what must be moved at least. */
export const intensity = ({ flops, bytes }: Pick<MicroRow, 'flops' | 'bytes'>): number => flops / bytes;

/** The most that a kernel of an intensity could reach. */
export const attainable = (
  { gigaflops: peak, gigabytes }: Pick<Roof, 'gigaflops' | 'gigabytes'>,
  operationsPerByte: number,
): number => Math.min(peak, gigabytes * operationsPerByte);

type Box = readonly [left: number, top: number, right: number, bottom: number];

const overlap = (a: Box, b: Box): boolean => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

const DOT = 3.5,
  FONT = 9.5,
  DIGIT = 6;

/**
 * Places a number beside each point: as near as it can be without covering another point or number, and within the frame.
 * Returns the middles of the numbers.
 */
export function placeLabels(
  points: readonly (readonly [number, number])[],
  texts: readonly string[],
  frame: Box,
): [x: number, y: number][] {
  const taken: Box[] = points.map(([x, y]) => [x - DOT, y - DOT, x + DOT, y + DOT]);
  return points.map(([x, y], i) => {
    const [width, height] = [texts[i].length * DIGIT + 1, FONT];
    const boxAt = (cx: number, cy: number): Box => [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2];
    for (let radius = 10; radius < 150; radius += 5) {
      for (let turn = 0; turn < 24; turn++) {
        const angle = -Math.PI / 4 + (turn * Math.PI) / 12;
        const [cx, cy] = [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
        const box = boxAt(cx, cy);
        if (
          box[0] < frame[0] ||
          box[1] < frame[1] ||
          box[2] > frame[2] ||
          box[3] > frame[3] ||
          taken.some((other) => overlap(box, other))
        )
          continue;
        taken.push(box);
        return [cx, cy];
      }
    }
    return [x, y];
  });
}

const families = [
  'matmul',
  'conv',
  'depthwise',
  'dynamic interaction',
  'attention',
  'roi align',
  'norm, softmax, sum',
  'adamw',
] as const;

function familyOf(op: string): number {
  const at = families.findIndex((name) => op.startsWith(name));
  return at >= 0 ? at : families.indexOf('norm, softmax, sum');
}

const WIDTH = 1010,
  PLOT_RIGHT = 640,
  KEY_LINE = 12.5;

/** One panel: the roofs, the rows as numbered points, and the key beside it. */
function panel(
  title: string,
  rows: readonly MicroRow[],
  roof: Roof,
): { readonly svg: string; readonly height: number } {
  const height = Math.max(430, 70 + KEY_LINE * rows.length);
  const [left, top, bottom] = [58, 40, Math.min(height - 50, 620)];
  const intensities = rows.map(intensity),
    rates = rows.map(gigaflops);
  const ridge = roof.gigaflops / roof.gigabytes;
  const xAxis = logTicks([Math.min(...intensities, ridge / 4), Math.max(...intensities, ridge * 4)]);
  const yAxis = logTicks([Math.min(...rates, roof.gigaflops / 4), Math.max(...rates, roof.gigaflops)]);
  const scale = (value: number, { from, to }: typeof xAxis): number => Math.log(value / from) / Math.log(to / from);
  const toX = (value: number): number => left + scale(value, xAxis) * (PLOT_RIGHT - left);
  const toY = (value: number): number => bottom - scale(value, yAxis) * (bottom - top);
  const out = [textAt(title, (left + PLOT_RIGHT) / 2, 24, 'middle', 15, '#111111')];
  for (const { value, text } of xAxis.ticks)
    out.push(
      line(toX(value), top, toX(value), bottom, '#e6e6e6'),
      textAt(text, toX(value), bottom + 17, 'middle', 11.5, '#444444'),
    );
  for (const { value, text } of yAxis.ticks)
    out.push(
      line(left, toY(value), PLOT_RIGHT, toY(value), '#e6e6e6'),
      textAt(text, left - 7, toY(value) + 4, 'end', 11.5, '#444444'),
    );
  out.push(line(left, bottom, PLOT_RIGHT, bottom, '#777777'), line(left, top, left, bottom, '#777777'));
  out.push(
    textAt(
      'operations a byte (each value moved once)',
      (left + PLOT_RIGHT) / 2,
      bottom + 37,
      'middle',
      12.5,
      '#222222',
    ),
  );
  out.push(
    `<g transform="translate(16 ${fixed((top + bottom) / 2)}) rotate(-90)">${textAt('GFLOP/s', 0, 0, 'middle', 12.5, '#222222')}</g>`,
  );

  const start = Math.max(xAxis.from, yAxis.from / roof.gigabytes);
  out.push(
    `<path d="M${fixed(toX(start))} ${fixed(toY(attainable(roof, start)))}L${fixed(toX(ridge))} ${fixed(toY(roof.gigaflops))}L${fixed(PLOT_RIGHT)} ${fixed(toY(roof.gigaflops))}" fill="none" stroke="#3b3b3b" stroke-width="2"/>`,
  );
  const said = `${roof.gigaflops.toPrecision(3)} GFLOP/s, ${roof.gigabytes.toPrecision(3)} GB/s`;
  out.push(
    textAt(
      said,
      PLOT_RIGHT - 4,
      toY(roof.gigaflops) - 6 < top ? toY(roof.gigaflops) + 15 : toY(roof.gigaflops) - 6,
      'end',
      11,
      '#3b3b3b',
    ),
  );

  const points = rows.map((_, i) => [toX(intensities[i]), toY(rates[i])] as const);
  const numbers = rows.map((_, i) => String(i + 1));
  const labels = placeLabels(points, numbers, [left + 2, top + 2, PLOT_RIGHT - 2, bottom - 2]);
  points.forEach(([x, y], i) => {
    const [lx, ly] = labels[i];
    if (Math.hypot(lx - x, ly - y) > 14) out.push(line(x, y, lx, ly, '#bbbbbb'));
  });
  points.forEach(([x, y], i) => {
    const color = LINE_COLORS[familyOf(rows[i].op)];
    out.push(
      `<circle cx="${fixed(x)}" cy="${fixed(y)}" r="${DOT}" fill="${color}"/>`,
      textAt(numbers[i], labels[i][0], labels[i][1] + FONT / 2 - 1.5, 'middle', FONT, '#222222'),
    );
  });
  rows.forEach(({ op, shape, part }, i) => {
    const y = top + 4 + KEY_LINE * i;
    out.push(`<circle cx="${PLOT_RIGHT + 22}" cy="${fixed(y - 3.5)}" r="${DOT}" fill="${LINE_COLORS[familyOf(op)]}"/>`);
    out.push(
      textAt(numbers[i], PLOT_RIGHT + 46, y, 'end', FONT, '#222222'),
      textAt(`${op} ${shape}, ${part}`, PLOT_RIGHT + 52, y, 'start', FONT, '#222222'),
    );
  });
  return { svg: out.join('\n'), height };
}

/** The picture, as the text of an SVG file: a panel for each preset that has rows. */
export function rooflineSvg(rows: readonly MicroRow[], roof: Roof, adapter: string): string {
  const shown = (
    [
      ['paper', 'round sizes and the paper-r50 preset'],
      ['small', 'the small preset'],
    ] as const
  )
    .map(([preset, title]) => ({ title: `${title}: ${adapter}`, rows: rows.filter((row) => row.preset === preset) }))
    .filter((group) => group.rows.length > 0);
  let height = 0;
  const parts = shown.map((group) => {
    const { svg, height: own } = panel(group.title, group.rows, roof);
    const placed = `<g transform="translate(0 ${height})">\n${svg}\n</g>`;
    height += own;
    return placed;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="DejaVu Sans, Verdana, sans-serif">`,
    `<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>`,
    ...parts,
    '</svg>\n',
  ].join('\n');
}
