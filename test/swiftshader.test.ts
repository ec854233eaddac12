/** SwiftShader: reading its archive, and running on it with its own Vulkan loader. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { readTar, unpackSwiftShader } from '../training/setup/swiftshader.mjs';

const ROOT = resolve(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'swiftshader-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('the tar reader', () => {
  function entry(name: string, data: Uint8Array, type = '0', prefix = ''): Buffer {
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write('0000755\0', 100);
    header.write(`${data.length.toString(8).padStart(11, '0')}\0`, 124);
    header.write('        ', 148);
    header.write(type, 156);
    header.write('ustar\x0000', 257);
    header.write(prefix, 345);
    header.write(
      `${header
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
    );
    return Buffer.concat([header, data, Buffer.alloc((512 - (data.length % 512)) % 512)]);
  }
  const END = Buffer.alloc(1024);

  test('returns names, modes and bytes for all sizes', async () => {
    const size = fc.oneof(fc.constantFrom(0, 1, 511, 512, 513, 1024), fc.integer({ min: 0, max: 2000 }));
    await fc.assert(
      fc.asyncProperty(fc.array(size, { maxLength: 5 }), async (sizes) => {
        const files = sizes.map((length, i) => ({
          name: `folder/file-${i}.so`,
          mode: 0o755,
          data: Buffer.alloc(length, i + 1),
        }));
        const archive = Buffer.concat([
          entry('folder/', Buffer.alloc(0), '5'),
          ...files.map(({ name, data }) => entry(name, data)),
          END,
        ]);
        expect(await readTar(archive)).toEqual(files);
      }),
      { seed: 1, numRuns: 50 },
    );
    const [prefixed] = await readTar(Buffer.concat([entry('name', Buffer.from('x'), '0', 'long/prefix'), END]));
    expect(prefixed.name).toBe('long/prefix/name');
  });

  test('damage and unknown entries are errors that name the place', async () => {
    const first = entry('a', Buffer.from('abc'));
    const archive = Buffer.concat([first, END]);
    const flipped = (at: number, bytes: Buffer): Buffer => {
      const damaged = Buffer.from(bytes);
      damaged[at] ^= 1;
      return damaged;
    };
    const refused = (bytes: Buffer) => expect(readTar(bytes)).rejects;
    await refused(flipped(101, archive)).toThrow('tar archive: at the start: Invalid tar header');
    await refused(flipped(1024 + 101, Buffer.concat([first, archive]))).toThrow('after a: Invalid tar header');
    await refused(archive.subarray(0, 300)).toThrow('at the start: Unexpected end of data');
    await refused(archive.subarray(0, 514)).toThrow('tar archive: a: Unexpected end of data');
    await refused(archive.subarray(0, 600)).toThrow('after a: Unexpected end of data');
    await refused(archive.subarray(0, 1024)).toThrow('after a: expected a block of zeros at byte 1024');
    await refused(Buffer.concat([entry('link', Buffer.alloc(0), '2'), END])).toThrow(
      'link: expected a file or a folder, got a symlink',
    );
  });
});

test('SwiftShader runs with its own Vulkan loader, which the engine loads before Dawn', async () => {
  const unpacked = await unpackSwiftShader(ROOT, join(scratch, 'cache'));
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    expect(unpacked).toBeNull(); // The package has no other build.
    return;
  }
  if (!unpacked) throw new Error('SwiftShader: expected unpacked files, got none');
  const choice = {
    driver: 'swiftshader',
    manifests: [unpacked.manifest],
    loader: unpacked.loader,
    vectorBits: null,
    checksBounds: false,
    why: '',
    hint: null,
    request: 'swiftshader',
    forced: true,
  };
  const code = `
    import { readFileSync } from 'node:fs';
    import { create } from 'webgpu';
    import { applyDriverChoice } from './engine/node/index.ts';
    applyDriverChoice(${JSON.stringify(choice)});
    const gpu = create([]);
    const adapter = await gpu.requestAdapter();
    const loaders = new Set(readFileSync('/proc/self/maps', 'utf8').match(/\\S*libvulkan\\.so\\S*/g));
    console.log(JSON.stringify({ architecture: adapter?.info.architecture, loaders: [...loaders] }));`;
  const environment = { ...process.env };
  for (const name of ['VK_DRIVER_FILES', 'VK_ICD_FILENAMES', 'DSRCNN_DRIVER']) delete environment[name];
  const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', code], {
    cwd: ROOT,
    env: environment,
    encoding: 'utf8',
  });
  expect(child.stderr).toBe('');
  expect(JSON.parse(child.stdout)).toEqual({
    architecture: 'swiftshader',
    loaders: [join(dirname(unpacked.manifest), 'libvulkan.so.1')],
  });
});
