/** What a benchmark leaves behind: tables on the terminal, the same as sections of a Markdown page, and JSON. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Device } from '../engine/index.ts';
import { formatTable } from '../training/output/table.ts';

/** Bars are set for software adapters, by name. */
export type AdapterKind = 'lavapipe' | 'swiftshader' | 'other';

export interface Adapter {
  readonly kind: AdapterKind;
  /** Its kind, or what it calls itself. */
  readonly name: string;
  readonly description: string;
  readonly subgroupSize: number;
  /** Of the processor that the host runs on, and a software adapter too. */
  readonly cores: number;
  /** Tuned choices of variants (npm run tune) that are in effect. */
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
  /** Names the section of a page: `micro`, `peers`, `step small`, `scaling`. */
  readonly name: string;
  readonly title: string;
  /** The command that makes it again. */
  readonly command: string;
  readonly notes: readonly string[];
  readonly tables: readonly Table[];
  /** What goes into the JSON file. */
  readonly data: unknown;
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

/** The report under a heading, between comments that say where it begins and ends, so that running its command again replaces it. */
export function reportMarkdown(
  { name, title, command, notes, tables }: Report,
  { name: adapter, description, cores, tuning }: Adapter,
): string {
  const mark = `${name}, ${adapter}`;
  const parts = [
    `### ${title}`,
    `${description}, ${cores} processor cores, Node ${process.versions.node}${tuning === 'none' ? '' : `, ${tuning}`}: \`${command}\``,
    ...tables.map((table) => `${table.caption ? `${table.caption}\n\n` : ''}${markdownTable(table)}`),
    ...notes,
  ];
  return `<!-- begin: ${mark} -->\n${parts.join('\n\n')}\n<!-- end: ${mark} -->`;
}

/** Puts a section into a page: in the place of the one with the same marks, otherwise at its end. */
export function placeSection(page: string, section: string): string {
  const begin = section.slice(0, section.indexOf('\n'));
  const end = section.slice(section.lastIndexOf('\n') + 1);
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from >= 0 && to > from) return page.slice(0, from) + section + page.slice(to + end.length);
  return `${page.trimEnd()}${page.trim() === '' ? '' : '\n\n'}${section}\n`;
}

export interface Destinations {
  readonly json?: string;
  readonly markdown?: string;
}

/** Prints the report, and writes the files that were asked for. */
export function publish(report: Report, adapter: Adapter, { json, markdown }: Destinations): void {
  console.log(`\n${reportText(report)}`);
  if (json !== undefined) {
    writeFileSync(
      json,
      `${JSON.stringify({ name: report.name, command: report.command, adapter, node: process.versions.node, date: new Date().toISOString(), ...(report.data as object) }, null, 1)}\n`,
    );
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

/** A number with three digits that count, without exponent. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(6, decimals));
}
