/** Writes plots as SVG or PNG files. */
import { writeFileSync } from 'node:fs';
import { extname } from 'node:path';
import type { PlotOptions } from './series.ts';

/** Writes a plot as SVG or PNG, as the ending of `path` says. */
export async function writePlot(path: string, plot: PlotOptions): Promise<void> {
  const ending = extname(path).toLowerCase();
  if (ending !== '.svg' && ending !== '.png')
    throw new Error(`writePlot: path: expected a file that ends in .svg or .png, got ${path}`);
  // Loaded only here: most commands draw nothing, and the library for charts takes a second to load.
  const { linePlot } = await import('./line-plot.ts');
  const svg = linePlot(plot);
  if (ending === '.svg') writeFileSync(path, svg);
  else {
    const { rasterizeSvg, writePng } = await import('./png.ts');
    writePng(path, await rasterizeSvg(svg, 2));
  }
}
