// @ts-check
/**
 * apt's sources: reads them in both formats, and makes the entries that add bookworm-backports from the same mirrors.
 * Formats: `man sources.list`, "one-line-style" (.list) and "deb822-style" (.sources).
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/**
 * An enabled source of binary packages.
 * @typedef {object} AptSource
 * @property {'list' | 'sources'} format
 * @property {string[]} uris
 * @property {string[]} suites
 * @property {string[]} components
 * @property {string} options one-line format: the options in brackets, or empty; deb822: the other fields, one per line
 */
/**
 * A file for /etc/apt/sources.list.d.
 * @typedef {object} AptEntry
 * @property {'list' | 'sources'} extension
 * @property {string} text
 */

/** Our own file in sources.list.d, without extension. */
export const BACKPORTS_FILE = 'dynamic-sparse-rcnn-backports';
/** The fields that an entry for another suite replaces. */
const OWN_FIELDS = ['types', 'uris', 'suites', 'components', 'enabled'];
const DISABLED = ['no', 'false', '0', 'off', 'without', 'disable'];

/** @param {string | undefined} text */
const words = (text) => (text ?? '').split(/\s+/).filter(Boolean);

/**
 * The sources of a .list file: lines like `deb [signed-by=/a.gpg] http://host/debian bookworm main`.
 * @param {string} text
 * @returns {AptSource[]}
 */
export function parseOneLineSources(text) {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:(\[[^\]]*\])\s*)?([^\s[]\S*)\s+(\S+)\s*(.*)$/.exec(line.replace(/#.*$/, ''));
    if (!match) return [];
    const [, options = '', uri, suite, components] = match;
    return [{ format: 'list', uris: [uri], suites: [suite], components: words(components), options }];
  });
}

/**
 * The sources of a .sources file: stanzas of `Field: value` lines. A value continues in lines that begin with a blank.
 * @param {string} text
 * @returns {AptSource[]}
 */
export function parseDeb822Sources(text) {
  const lines = text.split('\n').filter((line) => !line.startsWith('#'));
  const stanzas = lines.join('\n').split(/\n[ \t]*\n/);
  return stanzas.flatMap((stanza) => {
    const fields = stanza
      .split(/\n(?![ \t])/)
      .map((field) => /^([^\s:]+):\s*([\s\S]*)$/.exec(field.trim()))
      .filter((match) => match !== null)
      .map(([field, name, value]) => ({ name: name.toLowerCase(), value: value.trim(), field }));
    const value = (/** @type {string} */ name) => fields.find((field) => field.name === name)?.value;
    if (!words(value('types')).includes('deb') || DISABLED.includes(value('enabled')?.toLowerCase() ?? '')) return [];
    const others = fields.filter(({ name }) => !OWN_FIELDS.includes(name)).map(({ field }) => field);
    return [
      {
        format: 'sources',
        uris: words(value('uris')),
        suites: words(value('suites')),
        components: words(value('components')),
        options: others.join('\n'),
      },
    ];
  });
}

/**
 * All sources of a machine, without our own file.
 * @returns {AptSource[]}
 */
export function readAptSources(directory = '/etc/apt') {
  const folder = path.join(directory, 'sources.list.d');
  const names = existsSync(folder) ? readdirSync(folder).sort() : [];
  const files = [
    path.join(directory, 'sources.list'),
    ...names.filter((name) => path.parse(name).name !== BACKPORTS_FILE).map((name) => path.join(folder, name)),
  ];
  return files.flatMap((file) => {
    if (!/\.(list|sources)$/.test(file) || !existsSync(file)) return [];
    const text = readFileSync(file, 'utf8');
    return file.endsWith('.list') ? parseOneLineSources(text) : parseDeb822Sources(text);
  });
}

/**
 * The entries that add a release's backports, the best first. The mirrors and options are those of the release itself.
 * Repositories other than Debian's may also have a suite of this name. Debian's mirrors also have the suite of updates,
 * so they come first.
 * @param {readonly AptSource[]} sources
 * @param {string} release for example bookworm
 * @returns {AptEntry[]}
 */
export function backportsEntries(sources, release) {
  const withUpdates = new Set(
    sources.filter(({ suites }) => suites.includes(`${release}-updates`)).flatMap(({ uris }) => uris.map(mirrorOf)),
  );
  const mirrors = sources
    .filter(({ suites, components }) => suites.includes(release) && components.includes('main'))
    .flatMap((source) => source.uris.map((uri) => ({ source, uri, debian: withUpdates.has(mirrorOf(uri)) })))
    .filter(({ uri }) => !uri.startsWith('cdrom:'));
  const entries = mirrors
    .sort((a, b) => Number(b.debian) - Number(a.debian))
    .map(({ source, uri }) => backportsEntry(source, uri, `${release}-backports`));
  return entries.filter(({ text }, i) => entries.findIndex((entry) => entry.text === text) === i);
}

/** @param {string} uri */
const mirrorOf = (uri) => uri.replace(/\/+$/, '');

/** @param {AptSource} source @param {string} uri @param {string} suite @returns {AptEntry} */
function backportsEntry({ format, options }, uri, suite) {
  const lines =
    format === 'list'
      ? [['deb', options, uri, suite, 'main'].filter(Boolean).join(' ')]
      : ['Types: deb', `URIs: ${uri}`, `Suites: ${suite}`, 'Components: main', ...(options ? [options] : [])];
  return { extension: format, text: `${lines.join('\n')}\n` };
}
