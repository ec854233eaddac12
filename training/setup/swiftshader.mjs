// @ts-check
/** Unpacks SwiftShader and its Vulkan loader from the npm package @sparticuz/chromium. */
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { extract } from 'tar-stream';
import { SetupError, messageOf } from './setup-error.mjs';

/** @typedef {{ loader: string, manifest: string }} SwiftShader */
/** @typedef {{ name: string, mode: number, data: Buffer }} TarFile */

const LOADER = 'libvulkan.so.1';
const MANIFEST = 'vk_swiftshader_icd.json';
const FILES = ['libvk_swiftshader.so', LOADER, MANIFEST];

/** Bytes of a block of a tar archive. */
const BLOCK = 512;

/**
 * The files of an uncompressed tar archive.
 * @param {Buffer} archive
 * @returns {Promise<TarFile[]>}
 * @throws SetupError if the archive is damaged, or if an entry is neither a file nor a folder
 */
export async function readTar(archive) {
  /** @type {TarFile[]} */
  const files = [];
  let where = 'at the start';
  let end = 0;
  try {
    const entries = extract();
    entries.end(archive);
    for await (const entry of entries) {
      const { name, type, mode, size } = entry.header;
      where = name;
      if (type !== 'file' && type !== 'directory') throw new Error(`expected a file or a folder, got a ${type}`);
      /** @type {Uint8Array[]} */
      const chunks = [];
      for await (const chunk of entry) chunks.push(/** @type {Uint8Array} */ (chunk));
      if (type === 'file') files.push({ name, mode: mode & 0o777, data: Buffer.concat(chunks) });
      end = entry.offset + BLOCK + Math.ceil(size / BLOCK) * BLOCK;
      where = `after ${name}`;
    }
    // The library accepts an archive that was cut off between two files.
    if (archive.length < end + BLOCK)
      throw new Error(`expected a block of zeros at byte ${end}, the archive ends at byte ${archive.length}`);
  } catch (error) {
    throw new SetupError(`tar archive: ${where}: ${messageOf(error)}`);
  }
  return files;
}

/**
 * Unpacks SwiftShader; null on other systems than Linux on x64, for which the package has no build.
 * @param {string} root
 * @param {string} folder set-up's results
 * @returns {Promise<SwiftShader | null>}
 */
export async function unpackSwiftShader(root, folder) {
  if (process.platform !== 'linux' || process.arch !== 'x64') return null;
  const directory = path.join(folder, 'swiftshader');
  const archive = path.join(
    path.dirname(createRequire(path.join(root, 'package.json')).resolve('@sparticuz/chromium')),
    '../../bin/swiftshader.tar.br',
  );
  const files = await readTar(brotliDecompressSync(readFileSync(archive)));
  const aside = `${directory}.${process.pid}`;
  mkdirSync(aside, { recursive: true });
  for (const name of FILES) {
    const file = files.find((candidate) => path.posix.normalize(candidate.name) === name);
    if (!file) throw new SetupError(`${archive}: expected ${name}, got ${files.map((other) => other.name).join(', ')}`);
    writeFileSync(path.join(aside, name), file.data);
    chmodSync(path.join(aside, name), file.mode | 0o444);
  }
  rmSync(directory, { recursive: true, force: true });
  renameSync(aside, directory);
  return { loader: path.join(directory, LOADER), manifest: path.join(directory, MANIFEST) };
}
