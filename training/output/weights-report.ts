/** The table that a training prints when it starts from a weights file. */
import type { PretrainedReport } from '../checkpoints/load-weights.ts';
import { formatTable } from './table.ts';

/** Maximum number of names of a list that are printed. */
const MAX_SHOWN_NAMES = 6;

const size = (shape: readonly number[]): string => `[${shape.join(', ')}]`;

/**
 * The report as lines: first the counts, then the names. Long lists are shortened.
 * @param reportFile the file with the whole report; it is named where a list is shortened
 */
export function describeReport(report: PretrainedReport, reportFile?: string): string[] {
  const { file, format, source, scope, missing, unexpected, reshaped, notes, skipped } = report;
  const lists: readonly (readonly [string, readonly string[]])[] = [
    ['missing in the file', missing],
    ['unexpected in the file', unexpected],
    [
      'of another shape',
      reshaped.map(({ name, expected, got }) => `${name} is ${size(expected)}, in the file ${size(got)}`),
    ],
    ['not read', skipped.map(({ name, reason }) => `${name}: ${reason}`)],
  ];
  const isShortened = lists.some(([, names]) => names.length > MAX_SHOWN_NAMES);
  return [
    `weights   ${file}: ${format}, names as of ${source}${scope === 'backbone' ? ', a backbone only' : ''}`,
    ...countTable(report)
      .split('\n')
      .map((line) => `  ${line}`),
    ...lists.flatMap(([title, names]) => (names.length === 0 ? [] : [`  ${title}:`, ...firstNames(names)])),
    ...(isShortened && reportFile !== undefined ? [`  all names: ${reportFile}`] : []),
    ...notes.map((note) => `  note: ${note}`),
  ];
}

function countTable({ loaded, missing, unexpected, reshaped, skipped }: PretrainedReport): string {
  const total = loaded.length + missing.length + reshaped.length;
  return formatTable(
    ['tensors', 'count', 'use'],
    [
      ['loaded', loaded.length, `of the model's ${total}`],
      ['missing', missing.length, missing.length > 0 ? 'not in the file: initial values are kept' : ''],
      ['unexpected', unexpected.length, unexpected.length > 0 ? 'not in the model: ignored' : ''],
      ['another shape', reshaped.length, reshaped.length > 0 ? 'initial values are kept' : ''],
      ...(skipped.length > 0 ? [['not read', skipped.length, 'not tensors of the weights: ignored']] : []),
    ],
  );
}

function firstNames(names: readonly string[]): string[] {
  const more = names.length - MAX_SHOWN_NAMES;
  return [
    ...names.slice(0, MAX_SHOWN_NAMES).map((name) => `    ${name}`),
    ...(more > 0 ? [`    ... and ${more} more`] : []),
  ];
}
