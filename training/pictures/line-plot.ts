/** Line plots as SVG text: one, or several below each other. */
import type { LineSeriesOption } from 'echarts/charts';
import { type ChartOption, extent, INK, LINE_COLORS, linearAxis, logAxis, logTicks, renderChart } from './chart.ts';
import type { PlotOptions } from './series.ts';

/** Minimum value on a logarithmic axis. Smaller values leave a gap, like zero. */
const MIN_LOGARITHMIC = 1e-30;
/** Smaller absolute values are drawn as zero on a linear axis, because ECharts rounds numbers to 20 decimals. */
const MIN_LINEAR = 1e-18;
/** A series of at most this many points shows each point as a dot. */
const MAX_DOTS = 40;
const DOT_SIZE = 6;
const DEFAULT_WIDTH = 720;
const DEFAULT_HEIGHT = 420;
/** Space outside the axes, their numbers and their names, in SVG units. */
const MARGIN = { left: 8, top: 40, right: 20, bottom: 8 } as const;
/** A legend entry in SVG units: width of its line, space between entries, and an estimate of a letter's width. */
const LEGEND = { line: 22, gap: 6, letter: 7.2 } as const;
const TITLE_SIZE = 15;
const TEXT_SIZE = 11.5;

/** A line plot with title, axes, ticks and grid, and a legend for several series, as the text of an SVG file. */
export function linePlot(plot: PlotOptions): string {
  return stackedPlots([plot]);
}

/** Line plots below each other in one SVG file, which is as wide as the widest plot. */
export function stackedPlots(plots: readonly PlotOptions[]): string {
  let height = 0;
  const panels = plots.map((plot, index) => {
    const panel = panelOf(plot, index, height);
    height += plot.height ?? DEFAULT_HEIGHT;
    return panel;
  });
  const option: ChartOption = {
    title: panels.flatMap(({ titles }) => titles),
    legend: panels.flatMap(({ legends }) => legends),
    grid: panels.map(({ grid }) => grid),
    xAxis: panels.map(({ xAxis }) => xAxis),
    yAxis: panels.map(({ yAxis }) => yAxis),
    series: panels.flatMap(({ series }) => series),
  };
  return renderChart(option, { width: Math.max(...plots.map(({ width = DEFAULT_WIDTH }) => width)), height });
}

/** The parts of a chart that draw one plot. ECharts finds the parts of a panel by the panel's index. */
function panelOf(plot: PlotOptions, index: number, top: number) {
  const { title, xLabel, yLabel, series, logX = false, logY = false } = plot;
  const { width = DEFAULT_WIDTH, height = DEFAULT_HEIGHT } = plot;
  const isPlottable = ([x, y]: readonly [number, number]) =>
    Number.isFinite(x) && Number.isFinite(y) && (!logX || x > MIN_LOGARITHMIC) && (!logY || y > MIN_LOGARITHMIC);
  const plotted = series.flatMap(({ points }) => points.filter(isPlottable));
  // A legend needs at least two series.
  const listed = series.filter(({ faint }) => !faint).map(({ name }) => name);
  const names = listed.length > 1 ? listed : [];
  const legendWidth =
    names.length > 0 ? LEGEND.line + 18 + LEGEND.letter * Math.max(...names.map(({ length }) => length)) : 0;
  const right = width - MARGIN.right - legendWidth;
  // Panels may have series of the same name.
  const seriesName = (name: string) => `${index} ${name}`;
  const center = (MARGIN.left + 40 + right) / 2;
  const x = { name: xLabel, log: logX, values: plotted.map((point) => point[0]) };
  const y = { name: yLabel, log: logY, values: plotted.map((point) => point[1]) };
  return {
    titles: [titleOf(title, center, top), ...(plotted.length > 0 ? [] : [noDataNote(center, top + height / 2 - 20)])],
    legends: names.length > 0 ? [legendOf(names.map(seriesName), right, top)] : [],
    grid: {
      left: MARGIN.left,
      top: top + MARGIN.top,
      width: right - MARGIN.left,
      height: height - MARGIN.top - MARGIN.bottom,
      outerBoundsMode: 'same' as const,
      outerBoundsContain: 'all' as const,
    },
    xAxis: { ...axisOf(x, Math.round(width / 110)), gridIndex: index },
    yAxis: { ...axisOf(y, Math.round(height / 70)), gridIndex: index },
    series: seriesOptions({ series, logX, logY }, isPlottable).map((option, i) => ({
      ...option,
      name: seriesName(series[i].name),
      xAxisIndex: index,
      yAxisIndex: index,
    })),
  };
}

const TITLE_STYLE = { fontSize: TITLE_SIZE, fontWeight: 'normal', color: INK.title } as const;

const titleOf = (text: string, center: number, top: number) =>
  ({ text, left: center, textAlign: 'center', top: top + 10, textStyle: TITLE_STYLE }) as const;

/** The text in the middle of a plot without a point. */
const noDataNote = (center: number, top: number) =>
  ({
    text: 'no data',
    left: center,
    textAlign: 'center',
    top,
    textStyle: { ...TITLE_STYLE, fontSize: 14, color: '#888888' },
  }) as const;

/** The legend right of the axes. `data`: names of series, each after the index of its panel. */
const legendOf = (data: string[], right: number, top: number) => ({
  data,
  formatter: (name: string) => name.slice(name.indexOf(' ') + 1),
  orient: 'vertical' as const,
  left: right + 10,
  top: top + MARGIN.top - 4,
  itemWidth: LEGEND.line,
  // Hides the dot on the line of an entry.
  itemHeight: 0.01,
  itemGap: LEGEND.gap,
  textStyle: { fontSize: TEXT_SIZE, lineHeight: 14, color: INK.name },
});

interface AxisData {
  readonly name: string;
  readonly log: boolean;
  readonly values: readonly number[];
}

/** @param tickCount about as many ticks, but at least 3; a logarithmic axis has its own number */
const axisOf = ({ name, log, values }: AxisData, tickCount: number) =>
  log ? logAxis(name, logTicks(extent(values))) : linearAxis(name, Math.max(3, tickCount));

/** A value as ECharts can draw it. */
const drawn = (value: number, log: boolean): number => (log || Math.abs(value) >= MIN_LINEAR ? value : 0);

/** Lines and dots of the series, each with its color. Series beyond the number of colors are dashed. */
function seriesOptions(
  { series, logX = false, logY = false }: Pick<PlotOptions, 'series' | 'logX' | 'logY'>,
  isPlottable: (point: readonly [number, number]) => boolean,
): LineSeriesOption[] {
  let color = 0;
  return series.map(({ points, faint = false }) => {
    const stroke = LINE_COLORS[color % LINE_COLORS.length];
    const dashed = color >= LINE_COLORS.length;
    if (!faint) color++;
    const plottable = points.map(isPlottable);
    const showDots = points.length <= MAX_DOTS && !faint;
    const data = points.map(([x, y], i) => {
      const value = plottable[i] ? [drawn(x, logX), drawn(y, logY)] : [x, Number.NaN];
      // A point without neighbors would be invisible without its dot.
      const isLone = plottable[i] && !plottable[i - 1] && !plottable[i + 1];
      return isLone && !showDots ? { value, symbol: 'circle', symbolSize: faint ? 2 : DOT_SIZE } : value;
    });
    return {
      type: 'line',
      data,
      symbol: showDots ? 'circle' : 'none',
      symbolSize: DOT_SIZE,
      // Few points are single measurements; the default would hide some of them.
      showAllSymbol: true,
      sampling: 'minmax',
      clip: false,
      silent: true,
      itemStyle: { color: stroke, opacity: faint ? 0.3 : 1 },
      lineStyle: faint
        ? { width: 1, opacity: 0.3, join: 'round' }
        : { width: 2, join: 'round', type: dashed ? [7, 4] : 'solid' },
    };
  });
}
