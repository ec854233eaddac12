/** Charts as SVG text: ECharts without a DOM, and the axes and colors of all charts. */
import { createCanvas } from '@napi-rs/canvas';
import { LineChart, type LineSeriesOption, ScatterChart, type ScatterSeriesOption } from 'echarts/charts';
import {
  GraphicComponent,
  type GraphicComponentOption,
  GridComponent,
  type GridComponentOption,
  LegendComponent,
  type LegendComponentOption,
  TitleComponent,
  type TitleComponentOption,
} from 'echarts/components';
import { type ComposeOption, type ECharts, init, setPlatformAPI, use } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';
import { registerFonts } from './fonts.ts';

export type ChartOption = ComposeOption<
  | LineSeriesOption
  | ScatterSeriesOption
  | GraphicComponentOption
  | GridComponentOption
  | LegendComponentOption
  | TitleComponentOption
>;

/** First the font of `fonts.ts`, which PNG files use, then a similar font for browsers. */
export const FONTS = 'DejaVu Sans, Verdana, sans-serif';

/** Okabe and Ito's colors for color-blind readers, without yellow, which is too pale on white; and two more. */
export const LINE_COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#3b3b3b', '#8c510a'];

/** Colors of text and lines. */
export const INK = { title: '#111111', name: '#222222', tick: '#444444', axis: '#777777', grid: '#e6e6e6' } as const;

use([LineChart, ScatterChart, GraphicComponent, GridComponent, LegendComponent, TitleComponent, SVGRenderer]);
registerFonts();
const measureContext = createCanvas(1, 1).getContext('2d');
setPlatformAPI({
  // Without this function, ECharts assumes the widths of another font.
  measureText: (text, font) => {
    if (font !== undefined) measureContext.font = font;
    return { width: measureContext.measureText(text).width };
  },
});

/**
 * Draws a chart on a white background; returns the text of an SVG file. The same option gives the same text.
 * @param size in SVG units
 * @param complete returns further options that depend on the positions of data in the drawn chart
 */
export function renderChart(
  option: ChartOption,
  { width, height }: { readonly width: number; readonly height: number },
  complete?: (chart: ECharts) => ChartOption,
): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height });
  try {
    chart.setOption({ animation: false, backgroundColor: '#ffffff', textStyle: { fontFamily: FONTS }, ...option });
    if (complete) chart.setOption(complete(chart));
    return portable(chart.renderToSVGString());
  } finally {
    chart.dispose();
  }
}

/** Half the height of a digit, in units of the font's size. */
const HALF_DIGIT = 0.35;

/** Changes ECharts' SVG: every renderer draws the same picture, and the same chart gives the same text. */
function portable(svg: string): string {
  return (
    svg
      // Some renderers ignore dominant-baseline, for example the one in png.ts.
      .replaceAll(/<text dominant-baseline="central"[^>]*>/g, (tag) => {
        const size = Number(/font-size:([\d.]+)px/.exec(tag)?.[1] ?? 12);
        const y = Number(/ y="([^"]*)"/.exec(tag)?.[1] ?? 0) + HALF_DIGIT * size;
        return tag
          .replace(/ y="[^"]*"/, '')
          .replace(' dominant-baseline="central"', ` y="${Math.round(100 * y) / 100}"`);
      })
      // Identifiers contain a count of the charts that this process has drawn.
      .replaceAll(/zr\d+-/g, '')
      // The style sheet and these attributes serve the pointer in interactive charts.
      .replace(/<style ?>[\s\S]*?<\/style>\n?/, '')
      .replaceAll(/ (?:class|pointer-events|ecmeta_\w+)="[^"]*"/g, '')
  );
}

export interface Axis {
  readonly from: number;
  readonly to: number;
  readonly ticks: readonly number[];
}

/** Ticks at powers of ten, on short axes also at 2 and 5 times a power of ten. The axis begins and ends at a tick. */
export function logTicks([low, high]: readonly [number, number]): Axis {
  if (low > high) [low, high] = [0.1, 1];
  const factors = Math.log10(high / low) < 2.5 ? [1, 2, 5] : [1];
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const decades = Math.max(1, last - first);
  const every = Math.max(1, Math.ceil(decades / 8));
  let values: number[] = [];
  for (let power = first; power <= first + Math.ceil(decades / every) * every; power += every)
    values.push(...factors.map((factor) => factor * 10 ** power));
  const from = values.findLastIndex((value) => value <= low * (1 + 1e-9));
  const to = values.findIndex((value) => value >= high * (1 - 1e-9));
  values = values.slice(Math.max(0, from), Math.max(to + 1, from + 2));
  return { from: values[0], to: values[values.length - 1], ticks: values };
}

/** Style of an axis and its name. The name is placed at the middle of the axis. */
const axisStyle = (name: string) =>
  ({
    name,
    nameLocation: 'middle',
    nameGap: 26,
    nameTextStyle: { fontSize: 12.5, color: INK.name },
    axisLine: { show: true, onZero: false, lineStyle: { color: INK.axis } },
    axisTick: { show: false },
    splitLine: { show: true, lineStyle: { color: INK.grid } },
  }) as const;

const LABEL_STYLE = { fontSize: 11.5, color: INK.tick } as const;

/** A linear axis with about `tickCount` ticks, which ECharts places at round numbers. The axis ends at ticks. */
export const linearAxis = (name: string, tickCount: number) =>
  ({
    ...axisStyle(name),
    type: 'value',
    scale: true,
    splitNumber: tickCount,
    axisLabel: LABEL_STYLE,
  }) as const;

/** A logarithmic axis with the given ticks. ECharts itself places ticks only at powers of ten. */
export function logAxis(name: string, { from, to, ticks }: Axis) {
  const customValues = [...ticks];
  return {
    ...axisStyle(name),
    type: 'log' as const,
    min: from,
    max: to,
    axisTick: { show: false, customValues },
    axisLabel: { ...LABEL_STYLE, customValues, formatter: (value: number) => String(Number(value.toPrecision(6))) },
  };
}

/** Smallest and largest value; [Infinity, -Infinity] of no values. */
export function extent(values: readonly number[]): [number, number] {
  // Not Math.min(...values): a long run has more points than a call can have arguments.
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}
