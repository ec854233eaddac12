/** The page of a check (check.html): findings, drawn samples, and histograms, in one file without other files. */
import { findingLines, type CheckedDataset } from '../data/check.ts';
import type { Finding } from '../data/findings.ts';
import { drawSample, usualSamples, worstSamples, type Sample } from './check-samples.ts';
import { colorOf } from './colors.ts';
import { escapeHtml } from './html.ts';

/** Cases of a finding in the page. All are in check.json. */
const SHOWN_CASES = 100;
/** Classes in the legend and in the histogram. */
const MAX_CLASSES = 60;

const STYLE = `
:root { color-scheme: light dark; --ink: #1b1f24; --pale: #59636e; --page: #ffffff; --card: #f6f8fa; --line: #d1d9e0;
  --error: #cf222e; --warning: #9a6700; --note: #0969da; 
  --bar0: #2f81f7; --bar1: #d4830f; --bar2: #2da44e; --bar3: #a371f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --pale: #9198a1; --page: #0d1117; --card: #161b22;
  --line: #30363d; --error: #ff7b72; --warning: #e3b341; --note: #79c0ff; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--page); margin: 0 auto;
  padding: 24px; max-width: 1400px; overflow-wrap: anywhere; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 12px; } p { margin: 0 0 8px; }
.pale, figcaption span { color: var(--pale); }
.finding { border: 1px solid var(--line); border-left: 5px solid var(--note);
  border-radius: 6px; background: var(--card); padding: 10px 14px; margin: 10px 0; }
.finding.error { border-left-color: var(--error); } .finding.warning { border-left-color: var(--warning); }
.finding b i { font-style: normal; text-transform: uppercase; font-size: 12px;
  letter-spacing: .04em; margin-right: 8px; }
.error i { color: var(--error); } .warning i { color: var(--warning); } .note i { color: var(--note); }
.finding ul { margin: 6px 0 0; padding-left: 20px; font-size: 13px; } summary { cursor: pointer; color: var(--pale); }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 16px; align-items: start; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px; }
figure svg { width: 100%; max-height: 340px; display: block; }
figcaption { font-size: 13px; margin-top: 6px; } figcaption ul { margin: 4px 0 0; padding-left: 18px; }
.missing { padding: 40px 12px; color: var(--error); text-align: center; }
rect { fill-opacity: 0; stroke-width: 2; vector-effect: non-scaling-stroke; }
rect.found { fill-opacity: .18; stroke-width: 4; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 12px; padding: 0;
  list-style: none; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; } th { text-align: left; font-weight: 600; }
td, th { padding: 3px 12px 3px 0; vertical-align: middle; }
td.number { text-align: right; white-space: nowrap; width: 1%; }
td.name { width: 1%; min-width: 110px; max-width: 260px; } .bar { height: 11px; min-width: 1px; border-radius: 2px; }
`;

/** Draws the page. The result depends only on the data. */
export async function drawCheckPage(checked: CheckedDataset): Promise<string> {
  const { dataset, findings } = checked;
  const worst = worstSamples(checked);
  const usual = usualSamples(checked, worst);
  const title = `Check of ${escapeHtml(dataset.root)}`;
  const sections = [
    `<h1>${title}</h1><p class="pale">${escapeHtml(dataset.recognized)}</p>`,
    ...dataset.notes.map((note) => `<p class="pale">${escapeHtml(note)}</p>`),
    `<h2>Findings</h2>${findings.map(findingCard).join('') || '<p>Nothing was found.</p>'}`,
    await samplesSection('Images with findings, the most serious first', worst, checked),
    await samplesSection('Other images', usual, checked),
    `<h2>Objects by class</h2>${classHistogram(checked)}`,
    `<h2>Sizes of boxes</h2><p class="pale">The side of a square of the same area, in pixels of the image; ` +
      `share of the boxes of a split</p>${sizeHistogram(checked)}`,
  ];
  return (
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${title}</title>` +
    `<meta name="viewport" content="width=device-width, initial-scale=1"><style>${STYLE}</style></head>` +
    `<body>${sections.join('\n')}</body></html>\n`
  );
}

function findingCard(finding: Finding): string {
  const { severity, title, cases, advice } = finding;
  const lines = findingLines(finding, SHOWN_CASES).slice(1, -1);
  return (
    `<div class="finding ${severity}"><b><i>${severity}</i>${escapeHtml(title)}: ${cases.length}</b>` +
    `<p>${escapeHtml(advice)}</p><details${cases.length <= 3 ? ' open' : ''}><summary>cases</summary>` +
    `<ul>${lines.map((line) => `<li>${escapeHtml(line.trim())}</li>`).join('')}</ul></details></div>`
  );
}

async function samplesSection(title: string, samples: readonly Sample[], checked: CheckedDataset): Promise<string> {
  if (samples.length === 0) return '';
  const figures: string[] = [];
  // One after the other, so that memory stays small with large images.
  for (const sample of samples) figures.push(await drawSample(sample, checked));
  return `<h2>${title}</h2>${legend(checked.dataset.classNames)}<div class="samples">${figures.join('')}</div>`;
}

function legend(classNames: readonly string[]): string {
  const items = classNames
    .slice(0, MAX_CLASSES)
    .map((name, label) => `<li><i style="background:${colorOf(label)}"></i>${escapeHtml(name)}</li>`);
  const more = classNames.length > MAX_CLASSES ? `<li>and ${classNames.length - MAX_CLASSES} more</li>` : '';
  return `<ul class="legend">${items.join('')}${more}</ul>`;
}

/** A row of a histogram: a name, and a value for each split. */
interface Row {
  readonly name: string;
  readonly values: readonly number[];
}

/** @param text the text beside a bar */
function histogram(splits: readonly string[], rows: readonly Row[], text: (value: number) => string): string {
  const largest = Math.max(1e-9, ...rows.flatMap(({ values }) => values));
  const bars = rows.map(({ name, values }) =>
    values
      .map((value, i) => {
        const head = i === 0 ? `<td class="name" rowspan="${values.length}">${escapeHtml(name)}</td>` : '';
        const width = ((100 * value) / largest).toFixed(1);
        return (
          `<tr>${head}<td class="number">${text(value)}</td><td><div class="bar" ` +
          `style="width:${width}%;background:var(--bar${i % 4})"></div></td></tr>`
        );
      })
      .join(''),
  );
  const names = splits.map((split, i) => `<li><i style="background:var(--bar${i % 4})"></i>${escapeHtml(split)}</li>`);
  return `<ul class="legend">${names.join('')}</ul><table>${bars.join('')}</table>`;
}

function classHistogram({ dataset, counts }: CheckedDataset): string {
  const splits = [...counts.keys()];
  const rows = dataset.classNames
    .map((name, label) => ({ name, values: splits.map((split) => counts.get(split)?.[label] ?? 0) }))
    .slice(0, MAX_CLASSES);
  const left = dataset.classNames.length - rows.length;
  const more = left > 0 ? `<p class="pale">${left} further classes are in check.json.</p>` : '';
  return histogram(splits, rows, String) + more;
}

/** Upper limits of the sizes, pixels. */
const SIZES = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, Infinity];

function sizeHistogram({ dataset }: CheckedDataset): string {
  const splits = Object.entries(dataset.splits);
  const shares = splits.map(([, records]) => {
    const counts = new Array<number>(SIZES.length).fill(0);
    let total = 0;
    for (const { objects } of records)
      for (const { box } of objects) {
        const side = Math.sqrt((box[2] - box[0]) * (box[3] - box[1]));
        counts[SIZES.findIndex((limit) => side < limit)]++;
        total++;
      }
    return counts.map((count) => (total === 0 ? 0 : (100 * count) / total));
  });
  const rows = SIZES.map((limit, i) => ({
    name: limit === Infinity ? `${SIZES[i - 1]} and more` : `${i === 0 ? 0 : SIZES[i - 1]} to ${limit}`,
    values: shares.map((ofSplit) => ofSplit[i]),
  })).filter(({ values }) => values.some((value) => value > 0));
  return histogram(
    splits.map(([split]) => split),
    rows,
    (value) => `${value.toFixed(1)} %`,
  );
}
