/** The report of an ablation: a table as Markdown and JSON, and AP against iterations as a plot. */
import { join, relative } from 'node:path';
import { ABLATION_ROWS, type AblationRow } from '../core/ablation-rows.ts';
import { InputError } from '../core/errors.ts';
import { writeFileAtomic, writeJson } from '../data/files.ts';
import { EMBEDDED_DATA } from '../data/index.ts';
import { type RowResult, reproducingCommand, rowResult, type Statistics } from '../output/ablation-results.ts';
import { type AblationRun, findRuns, requireAlike } from '../output/ablation-runs.ts';
import { shortPath } from '../output/command-line.ts';
import { formatTable } from '../output/table.ts';
import { writePlot } from './plot-file.ts';
import type { Series } from './series.ts';

/** The extensions of the files of a report. Their name is `ablation`. */
const ENDINGS = ['md', 'json', 'svg', 'png'] as const;
const HEADER = ['row', 'method', 'AP', 'AP50', 'seeds', "paper's AP"];

/**
 * Writes ablation.md, .json, .svg and .png of the finished runs into `out`; returns the table as text for a terminal.
 * Throws InputError if no run is finished, or if the runs differ in more than rows and seeds.
 */
export async function writeAblationReport(out: string, rows: readonly AblationRow[] = ABLATION_ROWS): Promise<string> {
  const found = findRuns(out, rows);
  const runs = found.filter(({ finished }) => finished);
  if (runs.length === 0) {
    const names = rows.map(({ name }) => name).join(', ');
    throw new InputError(`ablation: ${out}: expected a finished run of the rows ${names}, got none`);
  }
  requireAlike(runs);
  const results = rows.flatMap((row) => {
    const own = runs.filter((run) => run.row === row);
    return own.length > 0 ? [rowResult(row, own)] : [];
  });
  const unfinished = found.filter(({ finished }) => !finished).map((run) => describeUnfinished(out, run));
  const { preset, training } = runs[0].config;
  const report: Report = {
    preset,
    iterations: training.iterations,
    data: shortPath(String(runs[0].description.data)),
    command: reproducingCommand(runs, results),
    unit: 'percent',
    deviation: 'sample standard deviation over the seeds',
    rows: results,
    unfinished,
  };
  const batch = training.batchSize * training.accumulation;
  writeFileAtomic(join(out, 'ablation.md'), markdown(report, batch));
  writeJson(join(out, 'ablation.json'), report);
  for (const ending of ['svg', 'png']) await writePlot(join(out, `ablation.${ending}`), plotOf(report));
  return [
    `\n${formatTable(HEADER, cellsOf(report))}\n\n${measured(report)}`,
    ...(unfinished.length > 0 ? [`unfinished runs, not in the table: ${unfinished.join(', ')}`] : []),
    `written   ${ENDINGS.map((ending) => shortPath(join(out, `ablation.${ending}`))).join(', ')}`,
  ].join('\n');
}

/** The content of ablation.json. */
interface Report {
  readonly preset: string;
  readonly iterations: number;
  readonly data: string;
  readonly command: string;
  readonly unit: 'percent';
  readonly deviation: string;
  readonly rows: readonly RowResult[];
  readonly unfinished: readonly string[];
}

function describeUnfinished(out: string, { folder, checkpoint, config }: AblationRun): string {
  const state = checkpoint === null ? 'no checkpoint' : `at iteration ${checkpoint} of ${config.training.iterations}`;
  return `${relative(out, folder)} (${state})`;
}

/** "13.0 ± 3.6"; without the deviation for one seed, "-" without ground truth. */
const spread = ({ mean, deviation }: Statistics): string =>
  Number.isNaN(mean) ? '-' : `${mean.toFixed(1)}${Number.isNaN(deviation) ? '' : ` ± ${deviation.toFixed(1)}`}`;

const cellsOf = ({ rows }: Report): string[][] =>
  rows.map(({ row, shows, AP, AP50, seeds, paperAP }) => [
    row,
    shows,
    spread(AP),
    spread(AP50),
    String(seeds.length),
    paperAP.toFixed(1),
  ]);

const measured = ({ iterations }: Report): string =>
  `AP and AP50 in percent at iteration ${iterations}, mean ± sample standard deviation over the seeds ` +
  '(one seed has no deviation).';

function markdown(report: Report, batch: number): string {
  const { preset, iterations, data, command, unfinished } = report;
  const dataName = data === EMBEDDED_DATA ? 'the embedded data set' : data;
  return [
    '# Ablation',
    '',
    `Preset \`${preset}\`, ${iterations} iterations at batch ${batch}, ${dataName}.`,
    measured(report),
    "The paper's AP is that of ResNet-50 on COCO val2017 after 36 epochs.",
    'Compare the order of the rows with it, not the numbers.',
    '',
    `| ${HEADER.join(' | ')} |`,
    '|---|---|---:|---:|---:|---:|',
    ...cellsOf(report).map((row) => `| ${row.join(' | ')} |`),
    '',
    ...(unfinished.length > 0 ? [`Unfinished runs, not in the table: ${unfinished.join(', ')}.`, ''] : []),
    'Made by',
    '',
    '```',
    command,
    '```',
    '',
    '![AP against iterations: the mean over the seeds, and the single seeds](ablation.svg)',
    '',
  ].join('\n');
}

/** A curve for each row, and pale curves for its seeds. */
function plotOf({ preset, rows }: Report) {
  return {
    title: `AP against iterations (${preset}; mean over the seeds, each seed pale)`,
    xLabel: 'iteration',
    yLabel: 'AP, percent',
    series: rows.flatMap(({ row, curve, curves }): Series[] => [
      ...(curves.length > 1 ? curves.map((points, i) => ({ name: `${row} ${i}`, points, faint: true })) : []),
      { name: row, points: curve },
    ]),
  };
}
