/** Set-up: what is kept between runs, that what it writes is what the engine reads and obeys, and where drivers come from. Nothing here needs the network. */
import { spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { readDriverChoice, userVulkanVariable, type DriverChoice } from '../engine/node/index.ts';
import {
  chooseDriver,
  dependencyHash,
  lavapipeHint,
  manifestFingerprint,
  mesaSource,
  packagesInstalled,
  parseArguments,
  parseOsRelease,
  readTar,
  setUp,
  stillHolds,
  unpackSwiftShader,
} from '../training/setup/setup.mjs';
import { found, LAVAPIPE, machine, quiet, type System, withLavapipe } from './machines.ts';

const ROOT = resolve(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'setup-'));
afterAll(() => rmSync(scratch, { recursive: true }));
let folders = 0;
/** A project without dependencies: npm has nothing to do in it. */
function emptyProject(): string {
  const root = join(scratch, `project-${folders++}`);
  mkdirSync(root);
  writeFileSync(join(root, 'package.json'), '{ "name": "empty" }');
  return root;
}
const driverFile = (root: string): string => join(root, 'node_modules/.cache/dynamic-sparse-rcnn/driver.json');

/** What the engine makes of a choice of lavapipe, in a process with nothing but `environment`. */
function applied(
  environment: Record<string, string>,
  changes: Partial<DriverChoice> = {},
): { environment: Record<string, string>; flags: string[] } {
  const choice: DriverChoice = {
    driver: 'lavapipe',
    manifests: [LAVAPIPE],
    loader: null,
    vectorBits: 512,
    checksBounds: true,
    why: '',
    hint: null,
    request: 'auto',
    forced: false,
    ...changes,
  };
  const code = `import { applyDriverChoice, dawnFlags } from './engine/node/index.ts'; applyDriverChoice(${JSON.stringify(choice)}); console.log(JSON.stringify({ environment: process.env, flags: dawnFlags() }));`;
  const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', code], {
    cwd: ROOT,
    env: { PATH: process.env.PATH, ...environment },
    encoding: 'utf8',
  });
  expect(child.stderr).toBe('');
  return JSON.parse(child.stdout) as ReturnType<typeof applied>;
}

test('the engine makes the folder of compiled shaders, does without one where it cannot, and leaves a driver that the user names alone', () => {
  const shaders = join(scratch, 'shaders');
  expect(applied({ MESA_SHADER_CACHE_DIR: shaders }).environment).toMatchObject({
    VK_DRIVER_FILES: LAVAPIPE,
    LP_NATIVE_VECTOR_WIDTH: '512',
    MESA_SHADER_CACHE_DIR: join(shaders, 'lavapipe-512'),
  });
  expect(statSync(join(shaders, 'lavapipe-512')).isDirectory()).toBe(true);
  const inherited = {
    VK_DRIVER_FILES: LAVAPIPE,
    MESA_SHADER_CACHE_DIR: join(shaders, 'lavapipe-512'),
    LP_NATIVE_VECTOR_WIDTH: '256',
  };
  expect(applied(inherited).environment.MESA_SHADER_CACHE_DIR).toBe(join(shaders, 'lavapipe-256'));
  writeFileSync(join(scratch, 'a-file'), '');
  expect(applied({ MESA_SHADER_CACHE_DIR: join(scratch, 'a-file') }).environment).toMatchObject({
    LP_NATIVE_VECTOR_WIDTH: '512',
    MESA_SHADER_CACHE_DISABLE: 'true',
  });
  const named = applied({ VK_DRIVER_FILES: '/other.json', LP_NATIVE_VECTOR_WIDTH: '256' }).environment;
  expect(named).toMatchObject({ VK_DRIVER_FILES: '/other.json', LP_NATIVE_VECTOR_WIDTH: '256' });
  expect(named).not.toHaveProperty('MESA_SHADER_CACHE_DIR');
});

test("the engine leaves Dawn's checks out for the very driver that set-up saw checking, in child processes too", () => {
  const shaders = join(scratch, 'shaders'),
    flag = 'enable-dawn-features=disable_robustness';
  const outer = applied({ MESA_SHADER_CACHE_DIR: shaders });
  expect(outer.flags).toContain(flag);
  expect(applied(outer.environment).flags).toContain(flag);
  expect(applied({ ...outer.environment, DSRCNN_ROBUSTNESS: 'on' }).flags).not.toContain(flag);
  expect(applied({ MESA_SHADER_CACHE_DIR: shaders }, { checksBounds: false }).flags).not.toContain(flag);
  for (const name of ['VK_DRIVER_FILES', 'VK_ICD_FILENAMES']) {
    expect(applied({ [name]: '/other.json' }).flags).not.toContain(flag);
    expect(applied({ ...outer.environment, [name]: '/other.json' }).flags).not.toContain(flag);
  }
});

describe('between runs', () => {
  const untouchable: System = machine({
    probe: () => {
      throw new Error('probed again');
    },
    installLavapipe: () => {
      throw new Error('installed again');
    },
  });
  function run(root: string, system: System, argv: string[] = [], environment: NodeJS.ProcessEnv = {}): string[] {
    const said: string[] = [];
    setUp({ root, argv, environment, say: (line) => said.push(line), system: () => system });
    return said;
  }
  /** Lavapipe whose manifest exists, as stored choices are dropped when their files are gone. */
  function present(root: string): System {
    const manifest = join(root, 'lvp_icd.json');
    writeFileSync(manifest, '{}');
    const swiftShader = { loader: join(root, 'libvulkan.so.1'), manifest: join(root, 'vk_swiftshader_icd.json') };
    for (const file of Object.values(swiftShader)) writeFileSync(file, '');
    return machine({
      manifests: () => [manifest],
      probe: (manifests) => found(manifests.includes(swiftShader.manifest) ? 'SwiftShader' : 'llvmpipe', true),
      swiftShader: () => swiftShader,
    });
  }

  test('the second run does nothing and says nothing', () => {
    const root = emptyProject();
    expect(run(root, present(root)).join('\n')).toContain('lavapipe');
    const before = [readFileSync(driverFile(root), 'utf8'), statSync(driverFile(root)).mtimeMs];
    expect(run(root, untouchable)).toEqual([]);
    expect([readFileSync(driverFile(root), 'utf8'), statSync(driverFile(root)).mtimeMs]).toEqual(before);
  });

  test('as a program it needs no other program then, and is silent', () => {
    const root = emptyProject();
    run(root, present(root));
    mkdirSync(join(root, 'training'));
    const program = join(root, 'training/setup/setup.mjs');
    copyFileSync(join(ROOT, 'training/setup/setup.mjs'), program);
    const child = spawnSync(process.execPath, [program], { env: { PATH: '' }, encoding: 'utf8' });
    expect(child).toMatchObject({ status: 0, stdout: '', stderr: '' });
  });

  test('DSRCNN_DRIVER holds for one run: the engine obeys it, and the stored choice stays', () => {
    const root = emptyProject();
    run(root, present(root));
    expect(() => readDriverChoice({ DSRCNN_DRIVER: 'swiftshader' }, driverFile(root))).toThrow(
      'DSRCNN_DRIVER=swiftshader npm run setup',
    );
    const forced = { DSRCNN_DRIVER: 'swiftshader' };
    expect(run(root, present(root), [], forced).join('\n')).toContain('swiftshader (SwiftShader), for this run');
    expect(run(root, untouchable, [], forced)).toEqual([]);
    expect(readDriverChoice(forced, driverFile(root))).toMatchObject({
      driver: 'swiftshader',
      request: 'swiftshader',
      forced: true,
      manifests: [join(root, 'vk_swiftshader_icd.json')],
    });
    expect(run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({
      driver: 'lavapipe',
      request: 'auto',
      forced: false,
    });
  });

  test("lavapipe's width is stored, said, and read by the engine", () => {
    const root = emptyProject();
    expect(run(root, { ...present(root), vectorBits: () => ({ bits: 512, why: 'measured' }) }).join()).toContain(
      'lavapipe (llvmpipe), with vectors of 512 bits;',
    );
    expect(run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', vectorBits: 512 });
    run(root, present(root), ['--driver', 'auto']);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', vectorBits: null });
  });

  test('that lavapipe checks bounds is stored, and read by the engine', () => {
    const root = emptyProject();
    run(root, { ...present(root), bounds: () => ({ checks: true, why: 'seen' }) });
    expect(run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', checksBounds: true });
    run(root, present(root), ['--driver', 'auto']);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', checksBounds: false });
  });

  test.each([1, 2])(
    'choices in the form of an older set-up are made anew without complaint, and what was asked for stays: form %i',
    (format) => {
      const root = emptyProject();
      run(root, present(root), ['--driver', 'swiftshader']);
      writeFileSync(
        driverFile(root),
        JSON.stringify({ ...JSON.parse(readFileSync(driverFile(root), 'utf8')), format }),
      );
      const said = run(root, present(root));
      expect(said.join('\n')).toContain('WebGPU runs on swiftshader');
      expect(said.join('\n')).not.toContain('anew');
      expect(readDriverChoice({}, driverFile(root))).toMatchObject({
        driver: 'swiftshader',
        request: 'swiftshader',
        forced: false,
      });
    },
  );

  test('--driver is kept, until --driver auto', () => {
    const root = emptyProject();
    run(root, present(root), ['--driver', 'swiftshader']);
    expect(run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'swiftshader', forced: false });
    run(root, present(root), ['--driver=auto']);
    expect(readDriverChoice({}, driverFile(root))?.driver).toBe('lavapipe');
  });

  test('an unreadable choice is made anew, with a word; the engine names file and remedy', () => {
    for (const [content, complaint] of [
      ['{ "format": 3, "cho', 'not readable as JSON'],
      ['{ "format": 99 }', 'format must be 3, got 99'],
      ['{ "format": 3, "requested": "vulcan", "choices": {} }', '"vulcan"'],
    ]) {
      const root = emptyProject();
      run(root, present(root));
      writeFileSync(driverFile(root), content);
      if (!content.includes('vulcan'))
        expect(() => readDriverChoice({}, driverFile(root))).toThrow(/driver\.json: .*npm run setup/);
      const said = run(root, present(root));
      expect(said[0]).toContain('choosing the driver anew');
      expect(said[0]).toContain(complaint);
      expect(readDriverChoice({}, driverFile(root))?.driver).toBe('lavapipe');
    }
  });

  test('the engine names the field of a choice it does not understand', () => {
    const file = join(scratch, 'driver-of-another-kind.json');
    const choice = {
      driver: 'lavapipe',
      manifests: [],
      loader: null,
      vectorBits: 512,
      checksBounds: true,
      why: '',
      hint: null,
    };
    for (const [field, value] of [
      ['driver', 'vulcan'],
      ['manifests', 'lvp.json'],
      ['loader', 3],
      ['vectorBits', '512'],
      ['vectorBits', 0],
      ['vectorBits', 25.6],
      ['vectorBits', undefined],
      ['checksBounds', 1],
      ['checksBounds', 'true'],
      ['checksBounds', null],
      ['checksBounds', undefined],
      ['why', null],
      ['hint', 1],
    ] as const) {
      writeFileSync(
        file,
        JSON.stringify({ format: 3, requested: 'auto', choices: { auto: { ...choice, [field]: value } } }),
      );
      expect(() => readDriverChoice({}, file)).toThrow(`choices.auto.${field} must be`);
    }
    expect(readDriverChoice({}, join(scratch, 'missing.json'))).toBeNull();
    expect(() => readDriverChoice({ DSRCNN_DRIVER: 'vulcan' }, file)).toThrow(
      'must be one of auto, gpu, lavapipe, swiftshader, got "vulcan"',
    );
  });

  test('a choice lapses when its files go, when a Vulkan driver comes or changes, or lavapipe comes to another processor', () => {
    const root = emptyProject();
    const folder = join(root, 'icd.d');
    mkdirSync(folder);
    const fingerprint = (): string => manifestFingerprint([folder]);
    const empty = fingerprint();
    const manifest = join(folder, 'lvp_icd.json');
    writeFileSync(manifest, '{}');
    const choice = {
      ...chooseDriver('auto', machine(withLavapipe()), quiet),
      manifests: [manifest],
      systemLoader: manifest,
      installed: fingerprint(),
      processor: 'AMD EPYC, with AVX-512',
    };
    const holds = (
      changes: Partial<typeof choice>,
      request: 'auto' | 'lavapipe' | 'swiftshader',
      processor = choice.processor,
    ): boolean => stillHolds({ ...choice, ...changes }, request, fingerprint(), processor);
    expect(fingerprint()).not.toBe(empty);
    expect(holds({}, 'auto')).toBe(true);
    expect(holds({}, 'lavapipe', 'AMD EPYC, without AVX-512')).toBe(false);
    expect(holds({ driver: 'gpu' }, 'auto', 'AMD EPYC, without AVX-512')).toBe(true);
    utimesSync(manifest, 1, 1);
    expect(holds({}, 'auto')).toBe(false);
    expect(holds({}, 'lavapipe'), 'an upgraded lavapipe').toBe(false);
    const other = { driver: 'swiftshader' as const };
    expect(holds(other, 'swiftshader')).toBe(true);
    expect(holds({ ...other, systemLoader: join(folder, 'removed-libvulkan.so.1') }, 'swiftshader')).toBe(false);
    rmSync(manifest);
    expect(holds(other, 'swiftshader')).toBe(false);
  });

  test('other dependencies need npm, other scripts do not', () => {
    const root = emptyProject();
    const one = '{ "dependencies": { "a": "1.0.0" }, "scripts": { "x": "1" } }';
    expect(dependencyHash('{ "scripts": {}, "dependencies": { "a": "1.0.0" } }')).toBe(dependencyHash(one));
    expect(dependencyHash('{ "dependencies": { "a": "1.0.1" } }')).not.toBe(dependencyHash(one));
    expect(packagesInstalled(root, one)).toBe(false);
    mkdirSync(join(root, 'node_modules/a'), { recursive: true });
    writeFileSync(join(root, 'node_modules/a/package.json'), '{ "version": "1.0.0" }');
    expect(packagesInstalled(root, one)).toBe(true);
    expect(packagesInstalled(root, '{ "devDependencies": { "a": "1.0.1" } }')).toBe(false);
  });

  test('--no-driver chooses none, and a Vulkan driver that the user names is respected', () => {
    const root = emptyProject();
    expect(run(root, untouchable, ['--no-driver'])).toEqual([]);
    expect(run(root, untouchable, [], { VK_DRIVER_FILES: '/x.json' }).join()).toContain('VK_DRIVER_FILES is set');
    expect(existsSync(driverFile(root))).toBe(false);
    expect(userVulkanVariable({ VK_ICD_FILENAMES: '/x.json' })).toBe('VK_ICD_FILENAMES');
    expect(userVulkanVariable({ VK_ICD_FILENAMES: '/x.json', DSRCNN_DRIVER: 'auto' })).toBeNull();
  });

  test('wrong arguments: one message, exit code 2, no stack', () => {
    for (const [argv, complaint] of [
      [['--fast'], 'unknown option --fast'],
      [['--driver', 'vulcan'], '--driver: must be one of auto, gpu, lavapipe, swiftshader, got "vulcan"'],
      [['--driver'], 'got ""'],
      [['--driver', 'gpu', '--no-driver'], 'exclude'],
    ] as const) {
      expect(() => parseArguments(argv, {})).toThrow(complaint);
    }
    const child = spawnSync(process.execPath, [join(ROOT, 'training/setup/setup.mjs')], {
      env: { DSRCNN_DRIVER: 'vulcan' },
      encoding: 'utf8',
    });
    expect(child).toMatchObject({
      status: 2,
      stdout: '',
      stderr: 'set-up: DSRCNN_DRIVER: must be one of auto, gpu, lavapipe, swiftshader, got "vulcan"\n',
    });
  });
});

describe('where lavapipe comes from', () => {
  const policy = (candidate: string): string =>
    `mesa-vulkan-drivers:\n  Installed: (none)\n  Candidate: ${candidate}\n  Version table:\n`;
  const bookworm = parseOsRelease(
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n',
  );
  const ubuntu = parseOsRelease("NAME='Ubuntu'\n# a comment\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=jammy\n");

  test('/etc/os-release is read with and without quotes', () => {
    expect(bookworm).toEqual({
      PRETTY_NAME: 'Debian GNU/Linux 12 (bookworm)',
      VERSION_ID: '12',
      VERSION_CODENAME: 'bookworm',
      ID: 'debian',
    });
    expect(ubuntu.NAME).toBe('Ubuntu');
  });

  test.each([
    ['Debian 12', bookworm, '22.3.6-1+deb12u2', 'backports'],
    ['Debian 12 without package lists', bookworm, '(none)', 'backports'],
    ['Debian 12 with pinned backports', bookworm, '25.0.7-2~bpo12+1', 'release'],
    ['Debian 13', { ID: 'debian', VERSION_CODENAME: 'trixie' }, '25.0.7-2', 'release'],
    ['Debian 11', { ID: 'debian', VERSION_CODENAME: 'bullseye' }, '20.3.5-1', null],
    ['Ubuntu 22.04', ubuntu, '23.2.1-1ubuntu3.1~22.04.3', 'release'],
    ['Ubuntu 20.04', ubuntu, '21.2.6-0ubuntu0.1~20.04.2', null],
    ['a version with an epoch', ubuntu, '1:24.0.0', 'release'],
  ])('%s', (_, osRelease, candidate, source) => {
    expect(mesaSource(osRelease, policy(candidate))).toBe(source);
  });

  test('the hint names backports on Debian 12 only', () => {
    expect(lavapipeHint(bookworm)).toContain('-t bookworm-backports mesa-vulkan-drivers');
    expect(lavapipeHint(ubuntu)).not.toContain('backports');
    expect(lavapipeHint({ ID: 'fedora' })).not.toContain('apt');
  });
});

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

  test('gives back names, modes and bytes, whatever the sizes', () => {
    const size = fc.oneof(fc.constantFrom(0, 1, 511, 512, 513, 1024), fc.integer({ min: 0, max: 2000 }));
    fc.assert(
      fc.property(fc.array(size, { maxLength: 5 }), (sizes) => {
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
        expect(readTar(archive)).toEqual(files);
      }),
      { seed: 1, numRuns: 50 },
    );
    expect(readTar(Buffer.concat([entry('name', Buffer.from('x'), '0', 'long/prefix'), END]))[0].name).toBe(
      'long/prefix/name',
    );
  });

  test('damage and unknown entries are errors', () => {
    const archive = Buffer.concat([entry('a', Buffer.from('abc')), END]);
    const flipped = Buffer.from(archive);
    flipped[101] ^= 1;
    expect(() => readTar(flipped)).toThrow('wrong checksum in the header at byte 0');
    expect(() => readTar(archive.subarray(0, 514))).toThrow('a must have 3 bytes, the archive ends after 2');
    expect(() => readTar(archive.subarray(0, 1024))).toThrow('ends at byte 1024');
    expect(() => readTar(Buffer.concat([entry('link', Buffer.alloc(0), '2'), END]))).toThrow('link is of type "2"');
  });
});

test('SwiftShader runs under its own Vulkan loader, loaded by the engine before Dawn', () => {
  const unpacked = unpackSwiftShader(ROOT, join(scratch, 'cache'));
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    expect(unpacked).toBeNull(); // the package has no other build
    return;
  }
  if (!unpacked) throw new Error('SwiftShader was not unpacked');
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
