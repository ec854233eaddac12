/** The data of a line plot: its series, labels and axes. */

export interface Series {
  readonly name: string;
  /** [x, y], by rising x. A point that is not finite, or not positive on a logarithmic axis, leaves a gap. */
  readonly points: readonly (readonly [number, number])[];
  /**
   * Draws the series thin and pale, in the color of the next series that is not faint, and without a legend entry.
   * For example raw values behind their running mean.
   */
  readonly faint?: boolean;
}

export interface PlotOptions {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly Series[];
  readonly logX?: boolean;
  readonly logY?: boolean;
  /** Size in units of the SVG; a PNG has two pixels per unit. Default 720 x 420. */
  readonly width?: number;
  readonly height?: number;
}

/** The mean of each point and the points before it, over at most `window` points. Skips points that are not finite. */
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
