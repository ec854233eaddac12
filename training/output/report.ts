/**
 * What a run shows of itself: tables for the terminal, the progress line, and line plots (loss, AP over iterations) as SVG or PNG.
 * Text and SVG are made here without any library; a PNG is rendered by draw.ts.
 */
import { writeFileSync } from 'node:fs';
import { extname } from 'node:path';
import { METRIC_NAMES, type CocoEvaluation } from '../core/coco-metrics.ts';

// Tables

/** A table as plain text: columns two spaces apart, numbers to the right, text to the left. Every row needs as many cells as the header. */
export function formatTable(header: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  rows.forEach((row, index) => {
    if (row.length !== header.length)
      throw new Error(`formatTable: rows[${index}] must have ${header.length} cells, got ${row.length}`);
  });
  const numeric = (cell: string | number) => typeof cell === 'number' || /^(-|[-+]?[\d.]+%?)$/.test(cell);
  const toRight = header.map((_, column) => rows.length > 0 && rows.every((row) => numeric(row[column])));
  const widths = header.map((name, column) => Math.max(name.length, ...rows.map((row) => String(row[column]).length)));
  const line = (cells: readonly (string | number)[]) =>
    cells
      .map((cell, column) =>
        toRight[column] ? String(cell).padStart(widths[column]) : String(cell).padEnd(widths[column]),
      )
      .join('  ')
      .trimEnd();
  return [line(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}

/** COCO metrics in percent: all classes together, then each; "-" where there is no ground truth to measure by. */
export function metricsTable({ metrics, byCategory, groundTruths }: CocoEvaluation): string {
  const percent = (value: number) => (value === -1 ? '-' : (100 * value).toFixed(1));
  const numbers = (values: CocoEvaluation['metrics']) => METRIC_NAMES.map((name) => percent(values[name]));
  const rows = byCategory.map((category) => [category.name, category.groundTruths, ...numbers(category)]);
  return formatTable(['class', 'objects', ...METRIC_NAMES], [['all', groundTruths, ...numbers(metrics)], ...rows]);
}

/** 75 -> "1:15", 3725 -> "1:02:05", 90000 -> "1d 01:00:00"; "?" for what is not known yet (NaN, infinite). */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number) => String(value).padStart(2, '0');
  const [days, hours, minutes, rest] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  if (days > 0) return `${days}d ${two(hours)}:${two(minutes)}:${two(rest)}`;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// Progress

export interface ProgressRow {
  /** Iterations done, from 1 to `iterations`. */
  iteration: number;
  iterations: number;
  loss: number;
  /** The loss's parts by name, the most important first: the last ones go first where the terminal is narrow. */
  parts: Readonly<Record<string, number>>;
  learningRate: number;
  millisecondsPerStep: number;
  secondsLeft: number;
  /** GPU memory in use, in MB (10^6 bytes). */
  megabytes: number;
}

/** What Progress writes to: process.stdout, or anything like it. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export interface ProgressOptions {
  stream?: ProgressStream;
  /** Milliseconds, never falling. */
  clock?: () => number;
  /** Plain lines: so many of the first rows are all printed ... */
  firstRows?: number;
  /** ... then one after so many milliseconds at the earliest. */
  interval?: number;
}

/** On a terminal the line is not redrawn more often than this, in milliseconds: eyes are slower. */
const REDRAW_INTERVAL = 100;

/**
 * The progress of training. On a terminal one line that is overwritten and never wider than the window; elsewhere (a file, a pipe) plain lines:
 * the first few rows, then one about every ten seconds, and the last.
 */
export class Progress {
  private readonly stream: ProgressStream;
  private readonly clock: () => number;
  private readonly firstRows: number;
  private readonly interval: number;
  private printed = 0;
  private printedAt = -Infinity;
  /** The line that stands on the terminal, unfinished; empty if none does. */
  private standing = '';
  private latest: ProgressRow | null = null;

  constructor({
    stream = process.stdout,
    clock = () => performance.now(),
    firstRows = 3,
    interval = 10_000,
  }: ProgressOptions = {}) {
    this.stream = stream;
    this.clock = clock;
    this.firstRows = firstRows;
    this.interval = interval;
  }

  /** Shows a row, unless one was shown a moment ago. The last iteration is always shown. */
  update(row: ProgressRow): void {
    this.latest = row;
    const elapsed = this.clock() - this.printedAt;
    const due = this.stream.isTTY
      ? elapsed >= REDRAW_INTERVAL
      : this.printed < this.firstRows || elapsed >= this.interval;
    if (due || row.iteration >= row.iterations) this.show(row);
  }

  /** Prints a line of its own (an evaluation, a checkpoint written), above the progress line on a terminal. */
  note(text: string): void {
    const standing = this.standing;
    this.stream.write(`${standing === '' ? '' : '\r\x1b[K'}${text}\n${standing}`);
  }

  /** Leaves the newest row on the terminal and ends its line. Call it when training ends, also by an error. */
  end(): void {
    if (this.stream.isTTY && this.latest) this.show(this.latest);
    if (this.standing !== '') this.stream.write('\n');
    this.standing = '';
    this.latest = null;
  }

  private show(row: ProgressRow): void {
    this.printed++;
    this.printedAt = this.clock();
    if (!this.stream.isTTY) {
      this.stream.write(`${progressLine(row)}\n`);
      return;
    }
    // The last column stays free: some terminals wrap as soon as it is written.
    // Pseudo terminals that know no size say 0.
    this.standing = progressLine(row, (this.stream.columns || 80) - 1);
    this.stream.write(`\r\x1b[K${this.standing}`);
  }
}

/** One row of progress as text of at most `width` characters: what matters least is left out first. */
export function progressLine(row: ProgressRow, width = Infinity): string {
  const parts = Object.entries(row.parts).map(([name, value]) => `${name} ${formatLoss(value)}`);
  const iteration = `${String(row.iteration).padStart(String(row.iterations).length)}/${row.iterations}`;
  const loss = `loss ${formatLoss(row.loss)}`;
  const rate = `lr ${row.learningRate.toExponential(2)}`;
  const speed = `${row.millisecondsPerStep.toFixed(row.millisecondsPerStep < 100 ? 1 : 0)} ms/step`;
  const left = `${formatDuration(row.secondsLeft)} left`;
  const memory = `${Math.round(row.megabytes)} MB`;
  const attempts: string[][] = [];
  for (let shown = parts.length; shown >= 0; shown--) {
    attempts.push([
      iteration,
      shown > 0 ? `${loss} (${parts.slice(0, shown).join(', ')})` : loss,
      rate,
      speed,
      left,
      memory,
    ]);
  }
  attempts.push(
    [iteration, loss, speed, left, memory],
    [iteration, loss, speed, left],
    [iteration, loss, left],
    [iteration, loss],
  );
  const lines = attempts.map((attempt) => attempt.join('  '));
  return lines.find((line) => line.length <= width) ?? lines[lines.length - 1].slice(0, Math.max(0, width));
}

function formatLoss(value: number): string {
  return Number.isFinite(value) && Math.abs(value) >= 1e5 ? value.toExponential(2) : value.toFixed(3);
}

// Plots

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
    const { rasterizeSvg, writePng } = await import('../pictures/draw.ts');
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
