// @ts-check
/** Installs lavapipe with apt, or tells the user how to install it. */
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { BACKPORTS_FILE, backportsEntries } from './apt-sources.mjs';
import { SetupError, messageOf } from './setup-error.mjs';

/** @typedef {import('./apt-sources.mjs').AptSource} AptSource */
/** @typedef {import('./apt-sources.mjs').AptEntry} AptEntry */
/** @typedef {(command: string, args: string[]) => { ok: boolean, output: string, problem: string }} Run */

/** Minimum major version of Mesa. Dawn rejects older versions of lavapipe. */
const MIN_MESA = 23;
const PACKAGES = ['mesa-vulkan-drivers', 'libvulkan1'];
/** Maximum length of an entry that the user sees, characters. An entry may contain a whole key. */
const MAX_SHOWN_ENTRY = 400;

/**
 * The fields of /etc/os-release, unquoted.
 * @param {string} text
 * @returns {Record<string, string>}
 */
export function parseOsRelease(text) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of text.split('\n')) {
    const match = /^([A-Z0-9_]+)=(.*)$/.exec(line.trim());
    if (match) fields[match[1]] = match[2].replace(/^(["'])(.*)\1$/, '$2').replace(/\\(["$`\\])/g, '$1');
  }
  return fields;
}

/**
 * Whether this is Debian, Ubuntu, or a system derived from them.
 * @param {Record<string, string>} osRelease
 */
export function usesApt(osRelease) {
  return [osRelease.ID, ...(osRelease.ID_LIKE ?? '').split(' ')].some((id) => id === 'debian' || id === 'ubuntu');
}

/** @param {Record<string, string>} osRelease */
const isBookworm = (osRelease) => osRelease.ID === 'debian' && osRelease.VERSION_CODENAME === 'bookworm';

/**
 * The origin of a lavapipe that Dawn accepts; null if apt has none.
 * @param {Record<string, string>} osRelease
 * @param {string} policy output of `apt-cache policy mesa-vulkan-drivers`
 * @returns {'release' | 'backports' | null}
 */
export function mesaSource(osRelease, policy) {
  const candidate = /^\s*Candidate:\s*(?:\d+:)?(\d+)\./m.exec(policy);
  if (candidate && Number(candidate[1]) >= MIN_MESA) return 'release';
  return isBookworm(osRelease) ? 'backports' : null;
}

/** @param {AptEntry} entry */
const fileOf = ({ extension }) => `/etc/apt/sources.list.d/${BACKPORTS_FILE}.${extension}`;

/**
 * Instructions for the user: the commands that install lavapipe.
 * @param {Record<string, string>} osRelease
 * @param {readonly AptSource[]} sources
 */
export function lavapipeHint(osRelease, sources) {
  const again = 'npm run setup -- --driver auto';
  if (isBookworm(osRelease)) {
    const install = `sudo apt-get update && sudo apt-get install -t bookworm-backports ${PACKAGES.join(' ')}`;
    const [entry] = backportsEntries(sources, 'bookworm');
    if (!entry || entry.text.length > MAX_SHOWN_ENTRY)
      return `add the suite bookworm-backports to apt's sources, then ${install} && ${again}`;
    const lines = entry.text.trim().split('\n');
    return `printf '%s\\n' ${lines.map(quote).join(' ')} | sudo tee ${fileOf(entry)} && ${install} && ${again}`;
  }
  if (usesApt(osRelease)) return `sudo apt-get install ${PACKAGES.join(' ')} (Mesa ${MIN_MESA} or newer) && ${again}`;
  return `install the Vulkan loader and Mesa ${MIN_MESA} or newer with its Vulkan driver lavapipe, then ${again}`;
}

/** Quotes a word for a shell. @param {string} word */
const quote = (word) => `'${word.replaceAll("'", "'\\''")}'`;

/** Runs a program of apt and collects its output. @type {Run} */
function run(command, args) {
  const child = spawnSync(command, args, {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
    maxBuffer: 2 ** 26,
  });
  const output = `${child.stdout ?? ''}${child.stderr ?? ''}`.trim();
  const errors = output.split('\n').filter((line) => line.startsWith('E:'));
  const problem = child.error ? messageOf(child.error) : errors.join(' ') || `exit code ${child.status}`;
  return { ok: child.status === 0, output, problem };
}

const aptGet = (/** @type {string[]} */ ...args) =>
  run('apt-get', ['-q', '-y', '-o', 'DPkg::Lock::Timeout=120', ...args]);

const hasBackports = () => run('apt-cache', ['policy']).output.includes('bookworm-backports');

/**
 * Installs lavapipe.
 * @param {Record<string, string>} osRelease
 * @param {readonly AptSource[]} sources
 * @param {(line: string) => void} say
 * @returns {string | null} null, or why it could not be installed
 */
export function installLavapipe(osRelease, sources, say) {
  if (!usesApt(osRelease)) return `no apt on ${osRelease.PRETTY_NAME ?? 'this system'}`;
  if (process.getuid?.() !== 0) return 'not root';
  say('looking for lavapipe, the fast software driver, with apt');
  // If this fails, the older package lists may be enough. Otherwise the next lines report the missing package.
  aptGet('update');
  const source = mesaSource(osRelease, run('apt-cache', ['policy', PACKAGES[0]]).output);
  if (source === null)
    return `${osRelease.PRETTY_NAME} has no Mesa ${MIN_MESA} or newer (or its package lists cannot be read)`;
  /** @type {AptEntry | null} */
  let added = null;
  try {
    if (source === 'backports' && !hasBackports()) added = addBackports(sources, say);
    say(`installing ${PACKAGES.join(' and ')} with apt: about 100 MB to download, once`);
    const target = source === 'backports' ? ['-t', 'bookworm-backports'] : [];
    const installed = aptGet('install', '--no-install-recommends', ...target, ...PACKAGES);
    if (!installed.ok) throw new SetupError(`apt-get install: ${installed.problem}`);
    return null;
  } catch (error) {
    if (added) rmSync(fileOf(added), { force: true });
    return messageOf(error);
  }
}

/**
 * Adds bookworm-backports to apt's sources, from the first mirror that has it.
 * @param {readonly AptSource[]} sources
 * @param {(line: string) => void} say
 * @returns {AptEntry} the added entry
 */
function addBackports(sources, say) {
  let problem = "apt's sources name no mirror of Debian bookworm";
  for (const entry of backportsEntries(sources, 'bookworm')) {
    say(`adding ${fileOf(entry)}`);
    writeFileSync(fileOf(entry), entry.text);
    const { output } = aptGet('update'); // Its exit code is 0 even where a list cannot be downloaded.
    if (hasBackports()) return entry;
    problem = `apt-get update: ${/^[EW]: .*/m.exec(output)?.[0] ?? 'no list of bookworm-backports'}`;
    rmSync(fileOf(entry), { force: true });
  }
  throw new SetupError(problem);
}
