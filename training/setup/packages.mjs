// @ts-check
/** Checks whether the npm packages are installed as package-lock.json says, and installs them. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import { setupFolder } from '../../engine/node/setup-contract.mjs';
import { SetupError } from './setup-error.mjs';
import { writeJson } from './write-json.mjs';

/** @typedef {{ version?: string, optional?: boolean, link?: boolean }} LockedPackage */

/**
 * The packages that a lock file names, by folder, without the root package.
 * @param {string} lock text of package-lock.json
 * @returns {[folder: string, locked: LockedPackage][]}
 */
const lockedPackages = (lock) =>
  Object.entries(JSON.parse(lock).packages ?? {}).filter(([folder]) => folder.startsWith('node_modules/'));

/**
 * A hash that changes if other packages must be installed: other versions in the lock file, or another platform.
 * @param {string} lock text of package-lock.json
 */
export function dependencyHash(lock) {
  return hash(JSON.stringify([lockedPackages(lock), process.platform, process.arch]));
}

/** @param {string} text */
const hash = (text) => createHash('sha256').update(text).digest('hex').slice(0, 16);

/**
 * Whether node_modules holds the versions that the lock file names. Optional packages may be missing, because most of
 * them are for other platforms.
 * @param {string} root
 * @param {string} lock text of package-lock.json
 */
export function packagesInstalled(root, lock) {
  return lockedPackages(lock).every(([folder, { version, optional, link }]) => {
    const file = path.join(root, folder, 'package.json');
    if (!existsSync(file)) return optional === true;
    return link === true || JSON.parse(readFileSync(file, 'utf8')).version === version;
  });
}

/**
 * Runs `npm ci` in a folder. npm's output goes to stderr, because a script's stdout belongs to its results. No package
 * needs its install scripts.
 * @param {string} root
 */
function npmCi(root) {
  const args = [
    'ci',
    '--include=dev',
    '--ignore-scripts',
    '--no-progress',
    '--no-update-notifier',
    '--loglevel=error',
    // npm's default pauses between attempts are up to a minute per package: an hour in all without a network.
    '--fetch-retries=2',
    '--fetch-retry-mintimeout=1000',
    '--fetch-retry-maxtimeout=5000',
  ];
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? { command: process.execPath, args: [process.env.npm_execpath, ...args], shell: false }
    : { command: 'npm', args, shell: process.platform === 'win32' };
  const child = spawnSync(npm.command, npm.args, { cwd: root, stdio: ['ignore', 2, 2], shell: npm.shell });
  if (child.error) throw new SetupError(`npm cannot be started: ${child.error.message}`);
  if (child.status !== 0)
    throw new SetupError(
      `npm ci failed in ${root} (exit code ${child.status}). Its messages are above. It needs the network once.`,
    );
}

/**
 * Runs work that empties node_modules, but keeps the folder of set-up's results inside.
 * @param {string} root
 * @param {() => void} work
 */
function keepingResults(root, work) {
  const folder = setupFolder(root);
  if (!existsSync(folder)) return work();
  const aside = path.join(root, `.cache/set-up.${process.pid}`);
  mkdirSync(path.dirname(aside), { recursive: true });
  renameSync(folder, aside);
  try {
    work();
  } finally {
    mkdirSync(path.dirname(folder), { recursive: true });
    renameSync(aside, folder);
  }
}

/**
 * Installs the packages if they are missing. If this package is a dependency of another project, that project installs
 * the packages.
 * @param {string} root
 * @param {(line: string) => void} say
 * @returns {string} a hash that changes when other packages are installed
 */
export function installPackages(root, say) {
  if (root.split(path.sep).includes('node_modules')) return hash(readFileSync(path.join(root, 'package.json'), 'utf8'));
  const lockFile = path.join(root, 'package-lock.json');
  if (!existsSync(lockFile)) throw new SetupError(`${lockFile}: missing; it belongs to the checkout`);
  const lock = readFileSync(lockFile, 'utf8');
  const dependencies = dependencyHash(lock);
  const installedFile = path.join(setupFolder(root), 'installed.json');
  const installed = existsSync(installedFile) ? readFileSync(installedFile, 'utf8') : '';
  if (installed.includes(dependencies)) return dependencies;
  if (!packagesInstalled(root, lock)) {
    say(`installing the npm packages in ${root}`);
    keepingResults(root, () => npmCi(root));
  }
  writeJson(installedFile, { dependencies });
  return dependencies;
}
