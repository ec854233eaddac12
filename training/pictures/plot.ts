/** Line plots (loss, AP over iterations) as SVG or PNG. */
import { writeFileSync } from 'node:fs';
import { extname } from 'node:path';

export interface Series {
  name: string;
  /** [x, y] by rising x. Points that are not finite (or not positive on a logarithmic axis) leave a gap. */
  points: readonly (readonly [number, number])[];
  /** Drawn thin and pale in the colour of the next series that is not, and left out of the legend: raw values behind their running mean. */
  faint?: boolean;
}

export interface PlotOptions {
  title: string;
  xLabel: string;
  yLabel: string;
  series: readonly Series[];
  logX?: boolean;
  logY?: boolean;
  /** Units of the SVG; a PNG has two pixels each. Default 720 x 420. */
  width?: number;
  height?: number;
}

/** Below this numbers are zero to an axis, whose arithmetic would lose its digits. */
const NEARLY_ZERO = 1e-30;

/** Up to here a line's points get dots. */
const FEW_POINTS = 40;

/** Okabe and Ito's colours, told apart by colour-blind readers; yellow left out, which is too pale on white. */
export const LINE_COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#3b3b3b', '#8c510a'];

/** The mean of each point and of those before it, `window` points at most; points that are not finite are passed over. */
export function runningMean(points: Series['points'], window: number): [number, number][] {
  const recent: number[] = [];
  const means: [number, number][] = [];
  for (const [x, y] of points) {
    if (!Number.isFinite(y)) continue;
    recent.push(y);
    if (recent.length > window) recent.shift();
    means.push([x, recent.reduce((sum, value) => sum + value, 0) / recent.length]);
  }
  return means;
}

/** Writes a plot as SVG or PNG, by the ending of `path`. */
export async function writePlot(path: string, options: PlotOptions): Promise<void> {
  const svg = linePlot(options);
  const ending = extname(path).toLowerCase();
  if (ending === '.svg') writeFileSync(path, svg);
  else if (ending === '.png') {
    // Loaded only here: most runs of the command line need no drawing library.
    const { rasterizeSvg, writePng } = await import('./draw.ts');
    writePng(path, await rasterizeSvg(svg, 2));
  } else throw new Error(`writePlot: path must end in .svg or .png, got ${path}`);
}

/** A line plot with axes, ticks, grid and legend, as the text of an SVG file on a white ground. */
export function linePlot({
  title,
  xLabel,
  yLabel,
  series,
  logX = false,
  logY = false,
  width = 720,
  height = 420,
}: PlotOptions): string {
  const plottable = ([x, y]: readonly [number, number]) =>
    Number.isFinite(x) && Number.isFinite(y) && (!logX || x > NEARLY_ZERO) && (!logY || y > NEARLY_ZERO);
  const all = series.flatMap(({ points }) => points.filter(plottable));
  const xExtent = extent(all.map(([x]) => x));
  const xTicks = logX ? logTicks(xExtent) : linearTicks(xExtent, Math.max(3, Math.round(width / 110)));
  const yExtent = extent(all.map(([, y]) => y));
  const yTicks = logY ? logTicks(yExtent) : linearTicks(yExtent, Math.max(3, Math.round(height / 70)));

  const named = series.filter(({ faint }) => !faint);
  const showLegend = named.length > 1;
  const legendWidth = showLegend ? 40 + 7.2 * Math.max(...named.map(({ name }) => name.length)) : 8;
  const left = 36 + 7.2 * Math.max(...yTicks.ticks.map(({ text }) => text.length));
  const [right, top, bottom] = [width - 12 - legendWidth, 40, height - 48];
  const scaleX = logX ? Math.log10 : (x: number) => x,
    scaleY = logY ? Math.log10 : (y: number) => y;
  const toX = (x: number) =>
    left + ((scaleX(x) - scaleX(xTicks.from)) / (scaleX(xTicks.to) - scaleX(xTicks.from))) * (right - left);
  const toY = (y: number) =>
    bottom - ((scaleY(y) - scaleY(yTicks.from)) / (scaleY(yTicks.to) - scaleY(yTicks.from))) * (bottom - top);

  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`,
    ' font-family="DejaVu Sans, Verdana, sans-serif">',
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    textAt(title, (left + right) / 2, 24, 'middle', 15, '#111111'),
  ];
  for (const { value, text } of xTicks.ticks) {
    out.push(
      line(toX(value), top, toX(value), bottom, '#e6e6e6'),
      textAt(text, toX(value), bottom + 17, 'middle', 11.5, '#444444'),
    );
  }
  for (const { value, text } of yTicks.ticks) {
    out.push(
      line(left, toY(value), right, toY(value), '#e6e6e6'),
      textAt(text, left - 7, toY(value) + 4, 'end', 11.5, '#444444'),
    );
  }
  out.push(line(left, bottom, right, bottom, '#777777'), line(left, top, left, bottom, '#777777'));
  out.push(textAt(xLabel, (left + right) / 2, height - 11, 'middle', 12.5, '#222222'));
  const middle = (top + bottom) / 2;
  out.push(
    `<g transform="translate(18 ${fixed(middle)}) rotate(-90)">${textAt(yLabel, 0, 0, 'middle', 12.5, '#222222')}</g>`,
  );
  if (all.length === 0) out.push(textAt('no data', (left + right) / 2, middle, 'middle', 14, '#888888'));

  let color = 0;
  for (const { points, faint } of series) {
    const stroke = LINE_COLORS[color % LINE_COLORS.length];
    const style = faint
      ? 'stroke-width="1" stroke-opacity="0.3"'
      : `stroke-width="2"${color >= LINE_COLORS.length ? ' stroke-dasharray="7 4"' : ''}`;
    for (const stretch of stretches(points, plottable)) {
      const drawn = thinned(stretch.map(([x, y]): [number, number] => [toX(x), toY(y)]));
      // Few points are measurements to be seen one by one; a single one would not be seen at all without its dot.
      if (drawn.length === 1 || (points.length <= FEW_POINTS && !faint)) {
        const dot = faint ? 'r="1" fill-opacity="0.3"' : 'r="3"';
        out.push(...drawn.map(([x, y]) => `<circle cx="${fixed(x)}" cy="${fixed(y)}" fill="${stroke}" ${dot}/>`));
      }
      const path = drawn.map(([x, y]) => `${fixed(x)} ${fixed(y)}`).join('L');
      if (drawn.length > 1)
        out.push(`<path d="M${path}" fill="none" stroke="${stroke}" stroke-linejoin="round" ${style}/>`);
    }
    if (!faint) color++;
  }
  if (showLegend) {
    named.forEach(({ name }, index) => {
      const y = top + 12 + 19 * index;
      const dashes = index >= LINE_COLORS.length ? ' stroke-dasharray="7 4"' : '';
      out.push(
        `<path d="M${fixed(right + 14)} ${y}h20" stroke="${LINE_COLORS[index % LINE_COLORS.length]}" stroke-width="2.5"${dashes}/>`,
      );
      out.push(textAt(name, right + 40, y + 4, 'start', 11.5, '#222222'));
    });
  }
  return `${out.join('\n')}\n</svg>\n`;
}

export interface Axis {
  from: number;
  to: number;
  ticks: { value: number; text: string }[];
}

function extent(values: readonly number[]): [number, number] {
  // No spread of arguments: a long run has more points than a call may have arguments.
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return [least, most];
}

/** Ticks at 1, 2 or 5 times a power of ten, about `count` of them; the axis ends at ticks. */
function linearTicks([least, most]: [number, number], count: number): Axis {
  const largestValue = Math.max(Math.abs(least), Math.abs(most));
  if (least > most || largestValue < NEARLY_ZERO) [least, most] = [0, 1];
  else if (most - least < 1e-9 * largestValue) [least, most] = [least - largestValue / 2, most + largestValue / 2];
  const rough = (most - least) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  // 1e-9: a value that is a tick but for rounding does not need the next one.
  const [first, last] = [Math.floor(least / step + 1e-9), Math.ceil(most / step - 1e-9)];
  const values = Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
  const largest = Math.max(Math.abs(values[0]), Math.abs(values[values.length - 1]));
  return {
    from: values[0],
    to: values[values.length - 1],
    ticks: values.map((value) => ({ value, text: tickText(value, step, largest) })),
  };
}

/** Ticks at powers of ten, with 2 and 5 between them where there are few; the axis ends at ticks. */
export function logTicks([least, most]: [number, number]): Axis {
  if (least > most) [least, most] = [0.1, 1];
  const factors = Math.log10(most / least) < 2.5 ? [1, 2, 5] : [1];
  const [first, last] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))];
  const decades = Math.max(1, last - first);
  const every = Math.max(1, Math.ceil(decades / 8));
  let values: number[] = [];
  for (let power = first; power <= first + Math.ceil(decades / every) * every; power += every)
    values.push(...factors.map((factor) => factor * 10 ** power));
  const from = values.findLastIndex((value) => value <= least * (1 + 1e-9));
  const to = values.findIndex((value) => value >= most * (1 - 1e-9));
  values = values.slice(Math.max(0, from), Math.max(to + 1, from + 2));
  return {
    from: values[0],
    to: values[values.length - 1],
    ticks: values.map((value) => ({ value, text: String(Number(value.toPrecision(6))) })),
  };
}

function tickText(value: number, step: number, largest: number): string {
  if (value === 0) return '0';
  for (const [unit, letter] of [
    [1e9, 'G'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const) {
    if (largest >= 10 * unit && step >= unit / 100) return `${Number((value / unit).toFixed(2))}${letter}`;
  }
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return decimals > 6 ? value.toExponential(2) : value.toFixed(decimals);
}

function stretches(
  points: Series['points'],
  plottable: (point: readonly [number, number]) => boolean,
): (readonly [number, number])[][] {
  const found: (readonly [number, number])[][] = [[]];
  for (const point of points) {
    if (plottable(point)) found[found.length - 1].push(point);
    else if (found[found.length - 1].length > 0) found.push([]);
  }
  return found.filter((stretch) => stretch.length > 0);
}

/** Of points that share half a unit of width, the first, lowest, highest and last: the picture is the same, the file is small. */
function thinned(points: [number, number][]): [number, number][] {
  if (points.length < 2000) return points;
  const kept: [number, number][] = [];
  for (let begin = 0; begin < points.length; ) {
    const column = Math.floor(points[begin][0] * 2);
    let [end, lowest, highest] = [begin, begin, begin];
    for (; end < points.length && Math.floor(points[end][0] * 2) === column; end++) {
      if (points[end][1] < points[lowest][1]) lowest = end;
      if (points[end][1] > points[highest][1]) highest = end;
    }
    kept.push(...[...new Set([begin, lowest, highest, end - 1])].sort((a, b) => a - b).map((index) => points[index]));
    begin = end;
  }
  return kept;
}

/** An SVG text, escaped; `y` is its baseline. */
export function textAt(
  text: string,
  x: number,
  y: number,
  anchor: 'start' | 'middle' | 'end',
  size: number,
  fill: string,
): string {
  const escaped = text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
  return `<text x="${fixed(x)}" y="${fixed(y)}" text-anchor="${anchor}" font-size="${size}" fill="${fill}">${escaped}</text>`;
}

/** A thin SVG line. */
export function line(x1: number, y1: number, x2: number, y2: number, stroke: string): string {
  return `<path d="M${fixed(x1)} ${fixed(y1)}L${fixed(x2)} ${fixed(y2)}" stroke="${stroke}" stroke-width="1"/>`;
}

/** Tenths of a unit are finer than a pixel. */
export function fixed(value: number): string {
  return String(Math.round(value * 10) / 10);
}
