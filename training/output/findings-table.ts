/** The result of a check of a data set, for the terminal and as JSON. */
import type { CheckedDataset } from '../data/check.ts';
import { findingLines } from '../data/check.ts';
import type { Severity } from '../data/findings.ts';
import { formatTable } from './table.ts';

/** Cases of a finding on the terminal. All are in the JSON. */
const SHOWN_CASES = 5;

/** Images and objects by split, then the findings, the most serious first, each with its first cases and advice. */
export function checkReport({ dataset, counts, findings }: CheckedDataset): string {
  const splits = [...counts.keys()];
  const classes = dataset.classNames.map((name, label) => [
    name,
    ...splits.map((split) => counts.get(split)?.[label] ?? 0),
  ]);
  const images = splits.map((split) => dataset.splits[split].length);
  const rows = [['images', ...images], ...classes];
  const severities: readonly Severity[] = ['error', 'warning', 'note'];
  const number = severities.map((severity) => {
    const count = findings.filter((finding) => finding.severity === severity).length;
    return `${count} ${severity}${count === 1 ? '' : 's'}`;
  });
  const details = findings.flatMap((finding) => {
    const [title, ...lines] = findingLines(finding, SHOWN_CASES);
    return ['', `${finding.severity.padEnd(8)}  ${title}`, ...lines.map((line) => `          ${line.trimStart()}`)];
  });
  return [formatTable(['objects of class', ...splits], rows), '', number.join(', '), ...details].join('\n');
}

/** The content of `check.json`. All numbers of objects are without crowds. */
export function checkJson(
  { dataset, counts, findings, plans }: CheckedDataset,
  usable: boolean,
): Record<string, unknown> {
  const splits = [...counts].map(([split, objects]) => [
    split,
    {
      images: dataset.splits[split].length,
      objects: objects.reduce((sum, count) => sum + count, 0),
      // Pairs, because a class may have any name.
      classes: dataset.classNames.map((name, label) => ({ name, objects: objects[label] })),
    },
  ]);
  return {
    data: dataset.root,
    format: dataset.recognized,
    notes: dataset.notes,
    usable,
    annotatedImages: plans.size,
    splits: Object.fromEntries(splits),
    findings: findings.map(({ kind, severity, title, advice, cases }) => ({
      kind,
      severity,
      title,
      advice,
      count: cases.length,
      cases: cases.map(({ text, split, image, objects }) => ({
        text,
        split: split ?? null,
        image: image?.file ?? null,
        objects: objects && image ? objects.map((index) => image.objects[index].id) : [],
      })),
    })),
  };
}
