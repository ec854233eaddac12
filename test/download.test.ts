/** Downloads: whatever server, network and disk do, the file is complete and right, or absent with a clear error. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import type * as FileSystem from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { Random } from '../engine/index.ts';
import { download, DownloadError, type DownloadOptions } from '../training/checkpoints/download.ts';
import type { PublicWeights } from '../training/checkpoints/public-weights.ts';
import { cachedWeights } from '../training/checkpoints/weights-cache.ts';
import { serveFile, type Behavior, type FileServer } from './file-server.ts';
import { inputErrorOf } from './input-errors.ts';

/** Faults of the disk: the code of errors of writes, and the free bytes that it states. */
const disk: { writeError: string | null; free: number | null } = { writeError: null, free: null };
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof FileSystem>();
  return {
    ...fs,
    writeSync: (...call: Parameters<typeof fs.writeSync>): number => {
      if (disk.writeError !== null)
        throw Object.assign(new Error(`${disk.writeError}: write`), { code: disk.writeError });
      return fs.writeSync(...call);
    },
    statfsSync: (path: string) =>
      disk.free === null ? fs.statfsSync(path) : { ...fs.statfsSync(path), blocks: 1e9, bsize: 1, bavail: disk.free },
  };
});

const random = new Random(7);
const BYTES = Uint8Array.from({ length: 300_000 }, () => random.integer(256));
const SHA256 = createHash('sha256').update(BYTES).digest('hex').slice(0, 8);
const FILE = `weights-${SHA256}.pth`;

let server: FileServer;
let folder: string;
const root = mkdtempSync(join(tmpdir(), 'download-test-'));
beforeAll(async () => {
  server = await serveFile(() => BYTES);
});
beforeEach(() => {
  folder = mkdtempSync(join(root, 'cache-'));
  server.behaviors = [];
  server.requests.length = 0;
  disk.writeError = null;
  disk.free = null;
});
afterAll(async () => {
  await server.close();
  rmSync(root, { recursive: true, force: true });
});

const notes: string[] = [];
const FAST: DownloadOptions = { pause: 1, stallAfter: 150, onNote: (line) => void notes.push(line) };
const request = (path = FILE) => ({ address: server.address(path), folder, file: FILE, sha256: SHA256 });
const fetchFile = (options: DownloadOptions = {}): Promise<void> => download(request(), { ...FAST, ...options });
const contents = (): string[] => readdirSync(folder).sort();
const expectFile = (): void => {
  expect(contents()).toEqual([FILE]);
  expect(readFileSync(join(folder, FILE)).equals(BYTES)).toBe(true);
};

/** The message of the DownloadError that a download ends with. */
async function failureOf(behaviors: Behavior[], options: DownloadOptions = {}): Promise<string> {
  server.behaviors = behaviors;
  const error: unknown = await fetchFile(options).then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(DownloadError);
  return (error as DownloadError).message;
}

describe('a download', () => {
  test('has the bytes of the server, and reports its progress', async () => {
    const states: number[] = [];
    await fetchFile({
      onProgress: ({ received, total }) => {
        expect(total).toBe(BYTES.length);
        states.push(received);
      },
    });
    expectFile();
    expect(states[0]).toBe(0);
    expect(states.at(-1)).toBe(BYTES.length);
    expect(states).toEqual([...states].sort((a, b) => a - b));
    expect(server.requests[0]).toMatchObject({ 'accept-encoding': 'identity' });
    expect(server.requests[0].range).toBeUndefined();
  });

  test('follows redirects', async () => {
    await download(request(`redirect/${FILE}`), FAST);
    expectFile();
  });

  test('continues after a broken connection, if the file is still the same', async () => {
    server.behaviors = [{ cutAfter: 100_000 }, { cutAfter: 50_000 }];
    await fetchFile();
    expectFile();
    const [, second, third] = server.requests;
    expect(second).toMatchObject({ range: 'bytes=100000-', 'if-range': '"first"' });
    expect(third).toMatchObject({ range: 'bytes=150000-', 'if-range': '"first"' });
    expect(notes.join('\n')).toMatch(/the connection failed: .*; trying again \(1 of 4\)/);
  });

  test('continues after a stalled connection', async () => {
    server.behaviors = [{ stallAfter: 100_000 }];
    await fetchFile();
    expectFile();
    expect(notes.join('\n')).toMatch(/nothing arrived for 0.15 s; trying again/);
  });

  test.each<[string, Behavior]>([
    ['does not know ranges', { ranges: false }],
    ['has another file by now', { etag: '"second"' }],
    ['answers with another range', { rangeStart: 7 }],
    ['says that the range is wrong', { status: 416 }],
  ])('begins anew if the server %s', async (_, behavior) => {
    server.behaviors = [{ cutAfter: 100_000 }, behavior];
    await fetchFile();
    expectFile();
  });

  test('begins anew if a part of an earlier file was continued', async () => {
    const old = BYTES.map((byte) => byte ^ 1);
    await failureOf([{ cutAfter: 100_000, bytes: old, etag: null }], { retries: 0 });
    server.behaviors = [{ etag: null }];
    await fetchFile();
    expectFile();
    expect(notes.join('\n')).toMatch(/expected a file whose SHA-256 begins .*; downloading it anew/);
  });

  test('without the length works too', async () => {
    server.behaviors = [{ chunked: true }];
    await fetchFile();
    expectFile();
  });

  test('tries again after statuses that may pass', async () => {
    server.behaviors = [{ status: 503 }, { status: 429, headers: { 'retry-after': '0' } }, { status: 500 }];
    await fetchFile();
    expectFile();
    expect(server.requests).toHaveLength(4);
  });
});

describe('a failed download says why, and leaves no file', () => {
  test.each<[string, Behavior[], RegExp, string[]]>([
    ['404', [{ status: 404 }], /^the server answered 404 Not Found$/, []],
    ['403', [{ status: 403 }], /^the server answered 403 Forbidden$/, []],
    ['always 500', Array(5).fill({ status: 500 }), /^the server answered 500 .* \(after 5 tries\)$/, []],
    ['an HTML page', [{ page: '<html>Please log in</html>' }], /^expected a file, got an HTML page: /, []],
    ['other bytes', [{ bytes: new Uint8Array(1000) }], /begins with [0-9a-f]{8}, got [0-9a-f]{16}\.\.\. \(1000 b/, []],
    ['a truncated body', [{ chunked: true, cutAfter: 9_000 }], /SHA-256 begins .* \(9000 bytes\); .* removed$/, []],
    ['always cut', Array(5).fill({ cutAfter: 0 }), /^the connection failed: .* \(after 5 tries\)$/, []],
    ['always stalled', Array(5).fill({ stallAfter: 0 }), /^nothing arrived for 0.15 s \(after 5 tries\)$/, []],
    ['cut at last', Array(5).fill({ cutAfter: 1000 }), /\(after 5 tries\)$/, [`${FILE}.part`]],
  ])('%s', async (_, behaviors, message, left) => {
    expect(await failureOf(behaviors)).toMatch(message);
    expect(contents()).toEqual(left);
  });

  test('an existing file stays as it is', async () => {
    writeFileSync(join(folder, FILE), 'older');
    for (const behavior of [{ status: 404 }, { bytes: new Uint8Array(5) }, { page: '<html>' }]) {
      await failureOf([behavior]);
      expect(readFileSync(join(folder, FILE), 'utf8')).toBe('older');
    }
    await fetchFile();
    expectFile();
  });

  test('a server that cannot be reached is asked once', async () => {
    const closed = await serveFile(() => BYTES);
    await closed.close();
    const failed = download({ ...request(), address: closed.address(FILE) }, FAST);
    await expect(failed).rejects.toMatchObject({
      name: 'DownloadError',
      kind: 'offline',
      message: expect.stringMatching(/^the connection failed: .*ECONNREFUSED[^(]*$/),
    });
    expect(contents()).toEqual([]);
  });

  test.each(['ENOSPC', 'EDQUOT'])('a full disk (%s)', async (code) => {
    server.behaviors = [{ cutAfter: 50_000 }];
    await failureOf([{ cutAfter: 50_000 }], { retries: 0 });
    disk.writeError = code;
    expect(await failureOf([])).toBe('the disk is full');
    disk.writeError = null;
    await fetchFile();
    expectFile();
    expect(server.requests.at(-1)?.range).toBe('bytes=50000-');
  });

  test('a disk with too little space, before the download', async () => {
    disk.free = 200_000;
    expect(await failureOf([])).toBe('the disk is full: expected 0.3 MB free, got 0.2 MB');
  });

  test('an error of the disk', async () => {
    disk.writeError = 'EIO';
    expect(await failureOf([])).toMatch(/EIO/);
  });
});

describe('several processes', () => {
  test('that download at once do not disturb each other', async () => {
    await Promise.all([fetchFile(), fetchFile(), fetchFile()]);
    expectFile();
  });

  test('a download continues that of a killed process', async () => {
    server.behaviors = [{ stallAfter: 120_000 }];
    const code = `
      import { download } from ${JSON.stringify(join(import.meta.dirname, '../training/checkpoints/download.ts'))};
      await download(${JSON.stringify(request())}, {
        onProgress: ({ received }) => received === 120000 && console.log('here'),
      });`;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
      cwd: join(import.meta.dirname, '..'),
    });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('close', resolve));
    expect(existsSync(join(folder, FILE))).toBe(false);
    await fetchFile();
    expectFile();
    expect(server.requests.at(-1)?.range).toBe('bytes=120000-');
  });

  test('parts of running processes and of other machines are left alone until they are old', async () => {
    const running = `${FILE}.other-1-00000000-0.part`;
    const data = join(folder, running, 'data');
    mkdirSync(join(folder, running));
    writeFileSync(data, BYTES.subarray(0, 1000));
    writeFileSync(
      join(folder, running, 'server.json'),
      JSON.stringify({ address: server.address(FILE), validator: '"first"', total: BYTES.length }),
    );
    await fetchFile();
    expect(contents()).toEqual([FILE, running].sort());
    expect(server.requests[0].range).toBeUndefined();
    rmSync(join(folder, FILE));
    const longAgo = new Date(Date.now() - 2 * 60 * 60 * 1000);
    utimesSync(data, longAgo, longAgo);
    await fetchFile();
    expectFile();
    expect(server.requests[1].range).toBe('bytes=1000-');
  });

  test('a part without a description is not used', async () => {
    mkdirSync(join(folder, `${FILE}.part`));
    writeFileSync(join(folder, `${FILE}.part`, 'data'), BYTES.subarray(0, 1000));
    await fetchFile();
    expectFile();
    expect(server.requests[0].range).toBeUndefined();
  });
});

test('with any sequence of faults, the file is right or absent', async () => {
  const fault: fc.Arbitrary<Behavior> = fc.oneof(
    fc.record({ cutAfter: fc.integer({ min: 0, max: 200_000 }) }),
    fc.record({ cutAfter: fc.integer({ min: 0, max: 200_000 }), chunked: fc.constant(true as const) }),
    fc.record({ ranges: fc.constant(false as const), cutAfter: fc.integer({ min: 0, max: 300_000 }) }),
    fc.record({ rangeStart: fc.integer({ min: 0, max: 300_000 }) }),
    fc.record({ etag: fc.constantFrom('"second"', null, 'W/"weak"') }),
    fc.record({ status: fc.constantFrom(404, 416, 500, 503) }),
    fc.record({ bytes: fc.constant(BYTES.map((byte) => 255 - byte)), cutAfter: fc.integer({ max: 300_000, min: 0 }) }),
    fc.constant({ page: '<html></html>' }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(fault, { maxLength: 5 }), async (behaviors) => {
      folder = mkdtempSync(join(root, 'cache-'));
      server.behaviors = [...behaviors];
      const failed: unknown = await fetchFile({ retries: 2 }).then(
        () => null,
        (error: unknown) => error,
      );
      if (failed !== null) expect(failed).toBeInstanceOf(DownloadError);
      expect(existsSync(join(folder, FILE))).toBe(failed === null);
      server.behaviors = [];
      await fetchFile();
      expectFile();
    }),
    { seed: 5, numRuns: 25 },
  );
});

describe('the cache of public weights', () => {
  const weights = (): PublicWeights => ({
    name: 'some-weights',
    address: server.address(FILE),
    sha256: SHA256,
    approximateBytes: BYTES.length,
    content: 'backbone',
    description: 'a backbone',
    source: 'the test',
    preset: 'r18',
    model: { depth: 18 },
  });
  const cached = (options: Parameters<typeof cachedWeights>[1] = {}): Promise<string> =>
    cachedWeights(weights(), { folder: join(folder, 'weights'), environment: {}, ...FAST, ...options });

  test('downloads once', async () => {
    expect(await cached()).toBe(join(folder, 'weights', FILE));
    expect(await cached()).toBe(join(folder, 'weights', FILE));
    expect(server.requests).toHaveLength(1);
  });

  test('takes a file that the user put there, after a look at its hash', async () => {
    mkdirSync(join(folder, 'weights'));
    writeFileSync(join(folder, 'weights', FILE), BYTES);
    await cached();
    expect(server.requests).toHaveLength(0);
    writeFileSync(join(folder, 'weights', FILE), '<html>');
    notes.length = 0;
    await cached();
    expect(notes).toEqual([expect.stringMatching(/: expected a SHA-256 that begins with .*; downloading it anew$/)]);
    expect(readFileSync(join(folder, 'weights', FILE)).equals(BYTES)).toBe(true);
  });

  test('removes what interrupted downloads left, once the file is there', async () => {
    mkdirSync(join(folder, 'weights', `${FILE}.part`), { recursive: true });
    writeFileSync(join(folder, 'weights', FILE), BYTES);
    await cached();
    expect(readdirSync(join(folder, 'weights'))).toEqual([FILE]);
  });

  test('without a network, says where to get the file and where to put it', async () => {
    const closed = await serveFile(() => BYTES);
    await closed.close();
    const path = join(folder, 'weights', FILE);
    const address = closed.address(FILE);
    const failed = (environment: NodeJS.ProcessEnv): Promise<string> =>
      inputErrorOf(() => cachedWeights({ ...weights(), address }, { folder: join(folder, 'weights'), environment }));
    expect((await failed({})).split('\n')).toEqual([
      expect.stringMatching(/^some-weights: cannot be downloaded: the connection failed: .*ECONNREFUSED/),
      `  address   ${address}`,
      `  put it at ${path}`,
      `  for example with: curl -L --create-dirs -o ${path} ${address}`,
    ]);
    expect(await failed({ HTTPS_PROXY: 'http://proxy:3128' })).toMatch(
      /HTTPS_PROXY is set, but Node uses it only with NODE_USE_ENV_PROXY=1/,
    );
    mkdirSync(join(folder, 'weights'), { recursive: true });
    writeFileSync(path, 'bad');
    expect(await failed({})).toMatch(/expected a SHA-256 that begins with .*; the connection failed/);
    expect(readFileSync(path, 'utf8')).toBe('bad');
  });

  test('a folder that cannot be made, or a folder in the place of the file', async () => {
    writeFileSync(join(folder, 'weights'), 'a file');
    const message = await inputErrorOf(() => cached());
    expect(message).toMatch(/expected a folder that can be written, got .*weights \(.*(EEXIST|ENOTDIR).*\)$/m);
    expect(message).toContain('DSRCNN_CACHE=FOLDER chooses another folder');
    rmSync(join(folder, 'weights'));
    mkdirSync(join(folder, 'weights', FILE, 'inside'), { recursive: true });
    expect(await inputErrorOf(() => cached())).toMatch(/expected a file, got a folder; .*(EISDIR|ENOTEMPTY|EEXIST)/);
  });

  test('DSRCNN_CACHE and XDG_CACHE_HOME choose its place', async () => {
    const place = (environment: NodeJS.ProcessEnv): Promise<string> =>
      cachedWeights(weights(), { ...FAST, environment });
    expect(await place({ DSRCNN_CACHE: join(folder, 'a') })).toBe(join(folder, 'a', 'weights', FILE));
    expect(await place({ XDG_CACHE_HOME: join(folder, 'b') })).toBe(
      join(folder, 'b', 'dynamic-sparse-rcnn-webgpu', 'weights', FILE),
    );
  });
});
