/** The roofline as a picture: the adapter's roofs, and the measured kernels as numbered points with a legend. */
import {
  type ChartOption,
  FONTS,
  INK,
  LINE_COLORS,
  logAxis,
  logTicks,
  renderChart,
} from '../training/pictures/chart.ts';
import type { Roof } from './roofline.ts';
import { gigaflops, intensity, type MicroRow } from './rows.ts';

/** GFLOP/s that a kernel can reach at most with `operationsPerByte`. */
export const attainable = (
  { gigaflops: peak, gigabytes }: Pick<Roof, 'gigaflops' | 'gigabytes'>,
  operationsPerByte: number,
): number => Math.min(peak, gigabytes * operationsPerByte);

type Box = readonly [left: number, top: number, right: number, bottom: number];

const overlap = (a: Box, b: Box): boolean => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

/** Radius of a point, size of a number's font, and width of a digit, in SVG units. */
const DOT = 3.5;
const FONT = 9.5;
const DIGIT = 6;

/**
 * Places a number next to each point: as near as possible, inside the frame, and without covering a point or number.
 * Returns the centers of the numbers.
 */
export function placeLabels(
  points: readonly (readonly [number, number])[],
  texts: readonly string[],
  frame: Box,
): [x: number, y: number][] {
  const taken: Box[] = points.map(([x, y]) => [x - DOT, y - DOT, x + DOT, y + DOT]);
  return points.map(([x, y], i) => {
    const [width, height] = [texts[i].length * DIGIT + 1, FONT];
    for (let radius = 10; radius < 150; radius += 5) {
      for (let turn = 0; turn < 24; turn++) {
        const angle = -Math.PI / 4 + (turn * Math.PI) / 12;
        const [cx, cy] = [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
        const box: Box = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2];
        const inside = box[0] >= frame[0] && box[1] >= frame[1] && box[2] <= frame[2] && box[3] <= frame[3];
        if (!inside || taken.some((other) => overlap(box, other))) continue;
        taken.push(box);
        return [cx, cy];
      }
    }
    return [x, y];
  });
}

/** Ops of a family share a color. An op belongs to the family that its name begins with. */
const FAMILIES = [
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
  const at = FAMILIES.findIndex((name) => op.startsWith(name));
  return at >= 0 ? at : FAMILIES.indexOf('norm, softmax, sum');
}

/** Sizes of the picture in SVG units. */
const WIDTH = 1010;
const PLOT = { left: 8, right: 640, top: 40 } as const;
const MIN_HEIGHT = 430;
const MAX_PLOT_HEIGHT = 624;
/** Height of a row of the legend. */
const LEGEND_LINE = 12.5;

interface Panel {
  readonly title: string;
  readonly rows: readonly MicroRow[];
  /** Vertical position and size in the picture. */
  readonly top: number;
  readonly height: number;
}

/** The name of a series: the number of its panel, which the legend does not show, and its text in the legend. */
const seriesName = (panel: number, i: number, { op, shape, part }: MicroRow): string =>
  `${panel}|${String(i + 1).padStart(2, '\u2007')}  ${op} ${shape}, ${part}`;

/** The axes of a panel: they contain all points and both roofs. */
function axesOf(rows: readonly MicroRow[], roof: Roof) {
  const ridge = roof.gigaflops / roof.gigabytes;
  const intensities = rows.map(intensity);
  const rates = rows.map(gigaflops);
  return {
    x: logTicks([Math.min(...intensities, ridge / 4), Math.max(...intensities, ridge * 4)]),
    y: logTicks([Math.min(...rates, roof.gigaflops / 4), Math.max(...rates, roof.gigaflops)]),
  };
}

/** The whole chart except the numbers of the points, because their places depend on the positions of the points. */
function chartOption(panels: readonly Panel[], roof: Roof): ChartOption {
  const ridge = roof.gigaflops / roof.gigabytes;
  return {
    title: panels.map(({ title, top }) => ({
      text: title,
      left: (PLOT.left + 50 + PLOT.right) / 2,
      textAlign: 'center',
      top: top + 10,
      textStyle: { fontSize: 15, fontWeight: 'normal', color: INK.title },
    })),
    grid: panels.map(({ top, height }) => ({
      left: PLOT.left,
      top: top + PLOT.top,
      width: PLOT.right - PLOT.left,
      height: Math.min(height - PLOT.top - 10, MAX_PLOT_HEIGHT),
      outerBoundsMode: 'same',
      outerBoundsContain: 'all',
    })),
    xAxis: panels.map(({ rows }, gridIndex) => ({
      ...logAxis('operations per byte (each value moved once)', axesOf(rows, roof).x),
      gridIndex,
    })),
    yAxis: panels.map(({ rows }, gridIndex) => ({ ...logAxis('GFLOP/s', axesOf(rows, roof).y), gridIndex })),
    legend: panels.map(({ rows, top }, panel) => ({
      data: rows.map((row, i) => seriesName(panel, i, row)),
      formatter: (name: string) => name.slice(name.indexOf('|') + 1),
      orient: 'vertical',
      left: PLOT.right + 12,
      top: top + PLOT.top - 6,
      height: LEGEND_LINE * rows.length + 10,
      icon: 'circle',
      itemWidth: 2 * DOT,
      itemHeight: 2 * DOT,
      itemGap: 3,
      textStyle: { fontSize: FONT, lineHeight: FONT, color: INK.name },
    })),
    series: panels.flatMap(({ rows }, panel) => {
      const { x, y } = axesOf(rows, roof);
      const start = Math.max(x.from, y.from / roof.gigabytes);
      const place = { xAxisIndex: panel, yAxisIndex: panel, silent: true };
      return [
        {
          ...place,
          type: 'line' as const,
          symbol: 'none',
          itemStyle: { color: LINE_COLORS[6] },
          lineStyle: { width: 2 },
          data: [start, ridge, x.to].map((at) => [at, attainable(roof, at)]),
        },
        ...rows.map((row, i) => ({
          ...place,
          type: 'scatter' as const,
          name: seriesName(panel, i, row),
          symbolSize: 2 * DOT,
          itemStyle: { color: LINE_COLORS[familyOf(row.op)], opacity: 1 },
          data: [[intensity(row), gigaflops(row)]],
        })),
      ];
    }),
  };
}

/** The picture as the text of an SVG file: a panel for each preset that has rows. */
export function rooflineSvg(rows: readonly MicroRow[], roof: Roof, adapter: string): string {
  let height = 0;
  const panels: Panel[] = [];
  for (const [preset, title] of [
    ['paper', 'round sizes and the paper-r50 preset'],
    ['small', 'the small preset'],
  ] as const) {
    const own = rows.filter((row) => row.preset === preset);
    if (own.length === 0) continue;
    const panel = { title: `${title}: ${adapter}`, rows: own, top: height, height: 0 };
    panels.push({ ...panel, height: Math.max(MIN_HEIGHT, 70 + LEGEND_LINE * own.length) });
    height += panels[panels.length - 1].height;
  }
  const reached = `${roof.gigaflops.toPrecision(3)} GFLOP/s, ${roof.gigabytes.toPrecision(3)} GB/s`;
  return renderChart(chartOption(panels, roof), { width: WIDTH, height }, (chart) => ({
    graphic: panels.flatMap((panel, index) => {
      const toPixel = (x: number, y: number): [number, number] => {
        const [px, py] = chart.convertToPixel({ gridIndex: index }, [x, y]);
        return [px, py];
      };
      const axes = axesOf(panel.rows, roof);
      const [left, bottom] = toPixel(axes.x.from, axes.y.from);
      const [right, top] = toPixel(axes.x.to, axes.y.to);
      const roofY = toPixel(axes.x.to, roof.gigaflops)[1];
      const points = panel.rows.map((row) => toPixel(intensity(row), gigaflops(row)));
      const numbers = panel.rows.map((_, i) => String(i + 1));
      const labels = placeLabels(points, numbers, [left + 2, top + 2, right - 2, bottom - 2]);
      return [
        ...points.flatMap(([x1, y1], i) => {
          const [x2, y2] = labels[i];
          if (Math.hypot(x2 - x1, y2 - y1) <= 14) return [];
          return { type: 'line' as const, shape: { x1, y1, x2, y2 }, style: { stroke: '#bbbbbb' }, z: 1, silent: true };
        }),
        ...labels.map(([x, y], i) => text(numbers[i], x, y, { size: FONT, align: 'center' as const })),
        text(reached, right - 4, roofY - 10 < top ? roofY + 11 : roofY - 9, { size: 11, align: 'right' as const }),
      ];
    }),
  }));
}

/** A text of the chart, centered vertically at `y`. */
const text = (
  content: string,
  x: number,
  y: number,
  { size, align }: { readonly size: number; readonly align: 'center' | 'right' },
) => ({
  type: 'text' as const,
  x,
  y,
  z: 10,
  silent: true,
  style: {
    text: content,
    align,
    verticalAlign: 'middle' as const,
    fontSize: size,
    fontFamily: FONTS,
    fill: INK.name,
  },
});
