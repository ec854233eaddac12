/**
 * The growth of a training step: time and memory over image size, proposals, batch and objects, with the exponents of
 * fitted power laws. Each series changes one size of the `small` preset.
 */
import { writeFileSync } from 'node:fs';
import type { Device } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import type { ModelConfig } from '../model/index.ts';
import { presetConfig } from '../training/core/recipe.ts';
import { stackedPlots } from '../training/pictures/line-plot.ts';
import type { PlotOptions } from '../training/pictures/series.ts';
import { fitPowerLaw, sampleInterleaved, summarize, type PowerLaw, type Timing } from './measure.ts';
import { digits, quartiles, type Adapter, type Report } from './output.ts';
import { type StepSizes, sizesOf } from './step-batch.ts';
import { type WholeStep, wholeStep } from './whole-step.ts';

export interface ScalingPoint {
  readonly value: number;
  readonly timing: Timing;
  readonly peakBytes: number;
}

export interface ScalingAxis {
  readonly name: string;
  readonly points: readonly ScalingPoint[];
  readonly time: PowerLaw;
  readonly memory: PowerLaw;
}

/** The sizes that change; all others are those of the preset. `image side` is that of a square image, in pixels. */
const AXES: readonly {
  readonly name: string;
  readonly values: readonly number[];
  readonly change: (value: number) => Partial<StepSizes & Pick<ModelConfig, 'numProposals'>>;
}[] = [
  { name: 'image side', values: [64, 96, 128, 192, 256], change: (side) => ({ height: side, width: side }) },
  { name: 'proposals', values: [9, 25, 49, 100, 196], change: (numProposals) => ({ numProposals }) },
  { name: 'batch', values: [1, 2, 4, 8, 16], change: (batch) => ({ batch }) },
  { name: 'objects', values: [1, 4, 16, 64], change: (objects) => ({ objects }) },
];

/** Fits power laws through the points of an axis. */
export function axisOf(name: string, points: readonly ScalingPoint[]): ScalingAxis {
  return {
    name,
    points,
    time: fitPowerLaw(points.map(({ value, timing }) => [value, timing.median])),
    memory: fitPowerLaw(points.map(({ value, peakBytes }) => [value, peakBytes])),
  };
}

interface Running {
  readonly device: Device;
  readonly step: WholeStep;
  readonly peakBytes: number;
}

async function measureAxis(
  { name, values, change }: (typeof AXES)[number],
  rounds: number,
  log: (line: string) => void,
): Promise<ScalingAxis> {
  const { model, training } = presetConfig('small');
  const opened: Running[] = [];
  try {
    for (const value of values) {
      const { numProposals = model.numProposals, ...sizes } = change(value);
      const device = await openDevice();
      const step = wholeStep(device, { ...model, numProposals }, { ...sizesOf('small'), ...sizes }, training);
      opened.push({ device, step, peakBytes: await step.peakBytes() });
    }
    const samples = await sampleInterleaved(
      opened.map(({ step }) => step.job),
      { rounds, sampleMs: 0 },
    );
    const points = values.map((value, i) => ({ value, timing: summarize(samples[i]), peakBytes: opened[i].peakBytes }));
    for (const { value, timing, peakBytes } of points)
      log(`${name} ${value}: ${digits(timing.median)} ms, ${(peakBytes / 1e6).toFixed(0)} MB`);
    return axisOf(name, points);
  } finally {
    for (const { device } of opened) device.destroy();
  }
}

/** Two panels with logarithmic axes: time and memory over the value relative to the smallest value of its axis. */
export function scalingSvg(axes: readonly ScalingAxis[], adapter: string): string {
  const panel = (
    title: string,
    yLabel: string,
    law: (axis: ScalingAxis) => PowerLaw,
    measured: (point: ScalingPoint) => number,
  ): PlotOptions => ({
    title,
    xLabel: 'times the smallest value',
    yLabel,
    height: 380,
    logX: true,
    logY: true,
    series: axes.map((axis) => ({
      name: `${axis.name} ^ ${law(axis).exponent.toFixed(2)}`,
      points: axis.points.map((point) => [point.value / axis.points[0].value, measured(point)] as const),
    })),
  });
  return stackedPlots([
    panel(
      `small preset, time of a step: ${adapter}`,
      'ms',
      ({ time }) => time,
      ({ timing }) => timing.median,
    ),
    panel(
      'small preset, peak memory of a step',
      'MB',
      ({ memory }) => memory,
      ({ peakBytes }) => peakBytes / 1e6,
    ),
  ]);
}

export interface ScalingOptions {
  readonly rounds: number;
  readonly plot?: string;
  readonly log: (line: string) => void;
  readonly adapter: Adapter;
  readonly command: string;
}

/** Measures all axes and makes the report. Draws the axes if `plot` names a file. */
export async function scalingReport({ rounds, plot, log, adapter, command }: ScalingOptions): Promise<Report> {
  const axes: ScalingAxis[] = [];
  for (const axis of AXES) axes.push(await measureAxis(axis, rounds, log));
  if (plot !== undefined) writeFileSync(plot, scalingSvg(axes, adapter.name));
  const law = ({ exponent, r2 }: PowerLaw): string[] => [exponent.toFixed(2), r2.toFixed(3)];
  const { batch, height, width, objects } = sizesOf('small');
  return {
    name: 'scaling',
    title: `Growth of a training step, on ${adapter.name}`,
    command,
    notes: [
      `The small preset: ${batch} images of ${height} x ${width} with ${objects} objects each and ` +
        `${presetConfig('small').model.numProposals} proposals; each series changes one of these. Exponent: of a ` +
        'power law through all points. With a large constant part it is smaller than the growth at the end. R2: the ' +
        'share of the variance of the logarithms that the law explains.' +
        `${plot === undefined ? '' : ` Drawn in ${plot}.`}`,
    ],
    tables: [
      {
        header: ['what grows', 'value', 'ms per step', 'quartiles', 'peak MB'],
        rows: axes.flatMap(({ name, points }) =>
          points.map(({ value, timing, peakBytes }) => [
            name,
            value,
            digits(timing.median),
            quartiles(timing),
            (peakBytes / 1e6).toFixed(0),
          ]),
        ),
      },
      {
        header: ['what grows', 'exponent of time', 'R2', 'exponent of memory', 'R2'],
        rows: axes.map(({ name, time, memory }) => [name, ...law(time), ...law(memory)]),
      },
    ],
    data: { axes },
  };
}
