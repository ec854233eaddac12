/**
 * Installs the peers' packages before the first comparison. Training and tests do not need these 600 MB, so the
 * packages are no dependencies of the project.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InputError } from '../../training/core/errors.ts';

const MANIFEST = fileURLToPath(new URL('package.json', import.meta.url));
/** A folder that npm does not touch; set-up keeps its files there, too. */
const FOLDER = fileURLToPath(new URL('../../node_modules/.cache/dynamic-sparse-rcnn/peers', import.meta.url));

/** The exact versions of the peers, by package. */
export function peerVersions(): Record<string, string> {
  return (JSON.parse(readFileSync(MANIFEST, 'utf8')) as { dependencies: Record<string, string> }).dependencies;
}

function installed(): boolean {
  return Object.entries(peerVersions()).every(([name, version]) => {
    const file = join(FOLDER, 'node_modules', name, 'package.json');
    return existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version === version;
  });
}

/**
 * Installs the packages, in the exact versions of package.json in this folder, unless they are installed already. No
 * package needs its install scripts: onnxruntime-node contains its CPU library. Throws InputError if npm fails.
 */
export function installPeers(log: (line: string) => void): void {
  if (installed()) return;
  log(
    `peers: installing ${Object.entries(peerVersions())
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')} (600 MB, once) in ${FOLDER}`,
  );
  mkdirSync(FOLDER, { recursive: true });
  copyFileSync(MANIFEST, join(FOLDER, 'package.json'));
  const child = spawnSync(
    'npm',
    ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error'],
    { cwd: FOLDER, stdio: ['ignore', 2, 2], shell: process.platform === 'win32' },
  );
  if (child.error) throw new InputError(`bench: npm cannot be started: ${child.error.message}`);
  if (child.status !== 0)
    throw new InputError(
      `bench: npm install of the peers failed in ${FOLDER} (exit code ${child.status}); its messages are above`,
    );
}

const require = createRequire(join(FOLDER, 'package.json'));

/** Loads a peer. The caller declares the types, because the peer's own types exist only after its installation. */
export const loadPeer = <T>(name: string): T => require(name) as T;
