/** The output of a benchmark: tables on the terminal, the same tables as sections of a Markdown page, and JSON. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Device } from '../engine/index.ts';
import { formatTable } from '../training/output/table.ts';
import type { Timing } from './measure.ts';

/** Kinds of adapters that have different targets. */
export type AdapterKind = 'lavapipe' | 'swiftshader' | 'other';

export interface Adapter {
  readonly kind: AdapterKind;
  /** The kind of a software adapter; the description of another adapter. */
  readonly name: string;
  readonly description: string;
  readonly subgroupSize: number;
  /** Cores of the processor, which a software adapter uses, too. */
  readonly cores: number;
  /** Tuned choices of variants (npm run tune) in use, as a summary. */
  readonly tuning: string;
}

export function adapterOf({
  info,
  subgroupSize,
  tuner,
}: Pick<Device, 'info' | 'subgroupSize'> & { readonly tuner: { readonly summary: string } }): Adapter {
  const description = info.description || `${info.vendor} ${info.architecture}`;
  const kind = /llvmpipe/i.test(description)
    ? 'lavapipe'
    : /swiftshader/i.test(`${description} ${info.architecture}`)
      ? 'swiftshader'
      : 'other';
  return {
    kind,
    name: kind === 'other' ? description : kind,
    description,
    subgroupSize,
    cores: availableParallelism(),
    tuning: tuner.summary,
  };
}

export interface Table {
  readonly caption?: string;
  readonly header: readonly string[];
  readonly rows: readonly (readonly (string | number)[])[];
}

export interface Report {
  /** Names the section of a page: `kernels`, `peers`, `step small`, `scaling`. */
  readonly name: string;
  readonly title: string;
  /** The command that makes it again. */
  readonly command: string;
  readonly notes: readonly string[];
  readonly tables: readonly Table[];
  /** The content of the JSON file. */
  readonly data: object;
}

export function reportText({ title, notes, tables }: Report): string {
  return [
    title,
    ...tables.map(({ caption, header, rows }) => `${caption ? `${caption}\n` : ''}${formatTable(header, rows)}`),
    ...notes,
  ].join('\n\n');
}

function markdownTable({ header, rows }: Table): string {
  const cell = (value: string | number): string => String(value).replaceAll('|', '\\|');
  const line = (cells: readonly (string | number)[]): string => `| ${cells.map(cell).join(' | ')} |`;
  const toRight = header.map(
    (_, column) => rows.length > 0 && rows.every((row) => /^(|-|[-+x]?[\d.]+%?)$/.test(String(row[column]))),
  );
  return [line(header), `|${toRight.map((right) => (right ? '--:' : '---')).join('|')}|`, ...rows.map(line)].join('\n');
}

/** Longest line of prose in a page. */
const MAX_LINE = 120;

/** Breaks prose into lines, between words; inline code stays together. */
function wrapped(text: string): string {
  const lines: string[] = [];
  for (const word of text.match(/`[^`]*`\S*|\S+/g) ?? []) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= MAX_LINE) lines[lines.length - 1] = `${line} ${word}`;
    else lines.push(word);
  }
  return lines.join('\n');
}

/** The report under a heading, between two comments. With these marks the same command finds and replaces it. */
export function reportMarkdown(
  { name, title, command, notes, tables }: Report,
  { name: adapter, description, cores, tuning }: Adapter,
): string {
  const mark = `${name}, ${adapter}`;
  const parts = [
    `### ${title}`,
    wrapped(
      `${description}, ${cores} processor cores, Node ${process.versions.node}` +
        `${tuning === 'none' ? '' : `, ${tuning}`}: \`${command}\``,
    ),
    ...tables.map((table) => `${table.caption ? `${table.caption}\n\n` : ''}${markdownTable(table)}`),
    ...notes.map(wrapped),
  ];
  return `<!-- begin: ${mark} -->\n${parts.join('\n\n')}\n<!-- end: ${mark} -->`;
}

/** Puts a section into a page. It replaces the section with the same marks, or is appended. */
export function placeSection(page: string, section: string): string {
  const begin = section.slice(0, section.indexOf('\n'));
  const end = section.slice(section.lastIndexOf('\n') + 1);
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from >= 0 && to > from) return page.slice(0, from) + section + page.slice(to + end.length);
  return `${page.trimEnd()}${page.trim() === '' ? '' : '\n\n'}${section}\n`;
}

interface Destinations {
  readonly json?: string;
  readonly markdown?: string;
}

/** Prints the report, and writes the files that are named. */
export function publish(report: Report, adapter: Adapter, { json, markdown }: Destinations): void {
  console.log(`\n${reportText(report)}`);
  if (json !== undefined) {
    const { name, command, data } = report;
    const date = new Date().toISOString();
    const content = { name, command, adapter, node: process.versions.node, date, ...data };
    writeFileSync(json, `${JSON.stringify(content, null, 1)}\n`);
    console.log(`written ${json}`);
  }
  if (markdown !== undefined) {
    writeFileSync(
      markdown,
      placeSection(existsSync(markdown) ? readFileSync(markdown, 'utf8') : '', reportMarkdown(report, adapter)),
    );
    console.log(`written ${markdown}`);
  }
}

/** A number with three significant digits, without exponent. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(6, decimals));
}

/** The quartiles of a timing, as text. */
export const quartiles = ({ lower, upper }: Timing): string => `${digits(lower)} .. ${digits(upper)}`;
