/** Set-up: the state that it keeps between runs, and the engine that applies this state. No test uses the network. */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readDriverChoice, userVulkanVariable, type DriverChoice } from '../engine/node/index.ts';
import { parseArguments } from '../training/setup/arguments.mjs';
import { chooseDriver } from '../training/setup/driver.mjs';
import { dependencyHash, packagesInstalled } from '../training/setup/packages.mjs';
import { setUp } from '../training/setup/setup.mjs';
import { isStillValid } from '../training/setup/state.mjs';
import { manifestFingerprint } from '../training/setup/vulkan-manifests.mjs';
import { found, LAVAPIPE, machine, quiet, type System, withLavapipe } from './machines.ts';

const ROOT = resolve(import.meta.dirname, '..');
const scratch = mkdtempSync(join(tmpdir(), 'setup-'));
afterAll(() => rmSync(scratch, { recursive: true }));
let folders = 0;
/** A project without dependencies, where npm has nothing to do. */
function emptyProject(): string {
  const root = join(scratch, `project-${folders++}`);
  mkdirSync(root);
  writeFileSync(join(root, 'package.json'), '{ "name": "empty" }');
  writeFileSync(join(root, 'package-lock.json'), '{ "packages": { "": { "name": "empty" } } }');
  return root;
}
const driverFile = (root: string): string => join(root, 'node_modules/.cache/dynamic-sparse-rcnn/driver.json');

/**
 * The environment and Dawn's flags after the engine has applied a choice of lavapipe, in a process that has only the
 * variables of `environment`.
 */
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
  const code = `
    import { applyDriverChoice, dawnFlags } from './engine/node/index.ts';
    applyDriverChoice(${JSON.stringify(choice)});
    console.log(JSON.stringify({ environment: process.env, flags: dawnFlags() }));`;
  const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', code], {
    cwd: ROOT,
    env: { PATH: process.env.PATH, ...environment },
    encoding: 'utf8',
  });
  expect(child.stderr).toBe('');
  return JSON.parse(child.stdout) as ReturnType<typeof applied>;
}

test('the engine makes a folder of compiled shaders, and does not touch a driver that the user names', () => {
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

test("the engine disables Dawn's checks only for the driver that set-up tested, in child processes too", () => {
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

/** Set-up as a program in a project, without any package. */
function copySetUp(root: string): string {
  for (const folder of ['training/setup', 'engine/node'])
    cpSync(join(ROOT, folder), join(root, folder), {
      recursive: true,
      filter: (file) => !file.endsWith('.ts'),
    });
  return join(root, 'training/setup/setup.mjs');
}

describe('between runs', () => {
  const untouchable: System = machine({
    probe: () => {
      throw new Error('probed again');
    },
    installLavapipe: () => {
      throw new Error('installed again');
    },
  });
  async function run(
    root: string,
    system: System,
    argv: string[] = [],
    environment: NodeJS.ProcessEnv = {},
  ): Promise<string[]> {
    const said: string[] = [];
    await setUp({ root, argv, environment, say: (line) => said.push(line), system: () => system });
    return said;
  }
  /** Lavapipe with files that exist, because a stored choice is dropped when its files are gone. */
  function present(root: string): System {
    const manifest = join(root, 'lvp_icd.json');
    writeFileSync(manifest, '{}');
    const swiftShader = { loader: join(root, 'libvulkan.so.1'), manifest: join(root, 'vk_swiftshader_icd.json') };
    for (const file of Object.values(swiftShader)) writeFileSync(file, '');
    return machine({
      manifests: () => [manifest],
      probe: (manifests) => found(manifests.includes(swiftShader.manifest) ? 'SwiftShader' : 'llvmpipe', true),
      swiftShader: () => Promise.resolve(swiftShader),
    });
  }

  test('the second run does nothing and prints nothing', async () => {
    const root = emptyProject();
    expect((await run(root, present(root))).join('\n')).toContain('lavapipe');
    const before = [readFileSync(driverFile(root), 'utf8'), statSync(driverFile(root)).mtimeMs];
    expect(await run(root, untouchable)).toEqual([]);
    expect([readFileSync(driverFile(root), 'utf8'), statSync(driverFile(root)).mtimeMs]).toEqual(before);
  });

  test('the second run as a program needs no other program, and prints nothing', async () => {
    const root = emptyProject();
    await run(root, present(root));
    symlinkSync(join(ROOT, 'node_modules/valibot'), join(root, 'node_modules/valibot'));
    const child = spawnSync(process.execPath, [copySetUp(root)], { env: { PATH: '' }, encoding: 'utf8' });
    expect(child).toMatchObject({ status: 0, stdout: '', stderr: '' });
  });

  test('the engine uses DSRCNN_DRIVER for one run, and the stored choice stays', async () => {
    const root = emptyProject();
    await run(root, present(root));
    expect(() => readDriverChoice({ DSRCNN_DRIVER: 'swiftshader' }, driverFile(root))).toThrow(
      'DSRCNN_DRIVER=swiftshader npm run setup',
    );
    const forced = { DSRCNN_DRIVER: 'swiftshader' };
    expect((await run(root, present(root), [], forced)).join('\n')).toContain(
      'swiftshader (SwiftShader), for this run',
    );
    expect(await run(root, untouchable, [], forced)).toEqual([]);
    expect(readDriverChoice(forced, driverFile(root))).toMatchObject({
      driver: 'swiftshader',
      request: 'swiftshader',
      forced: true,
      manifests: [join(root, 'vk_swiftshader_icd.json')],
    });
    expect(await run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({
      driver: 'lavapipe',
      request: 'auto',
      forced: false,
    });
  });

  test("lavapipe's vector width is printed, stored, and read by the engine", async () => {
    const root = emptyProject();
    expect(
      (await run(root, { ...present(root), vectorBits: () => ({ bits: 512, why: 'measured' }) })).join(),
    ).toContain('lavapipe (llvmpipe), with vectors of 512 bits;');
    expect(await run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', vectorBits: 512 });
    await run(root, present(root), ['--driver', 'auto']);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', vectorBits: null });
  });

  test('whether lavapipe checks bounds is stored, and read by the engine', async () => {
    const root = emptyProject();
    await run(root, { ...present(root), bounds: () => ({ checks: true, why: 'seen' }) });
    expect(await run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', checksBounds: true });
    await run(root, present(root), ['--driver', 'auto']);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'lavapipe', checksBounds: false });
  });

  test.each([1, 2])(
    'choices in an older format are made again without a complaint, and the request stays: format %i',
    async (format) => {
      const root = emptyProject();
      await run(root, present(root), ['--driver', 'swiftshader']);
      writeFileSync(
        driverFile(root),
        JSON.stringify({ ...JSON.parse(readFileSync(driverFile(root), 'utf8')), format }),
      );
      const said = await run(root, present(root));
      expect(said.join('\n')).toContain('WebGPU runs on swiftshader');
      expect(said.join('\n')).not.toContain('again');
      expect(readDriverChoice({}, driverFile(root))).toMatchObject({
        driver: 'swiftshader',
        request: 'swiftshader',
        forced: false,
      });
    },
  );

  test('--driver is kept until --driver auto', async () => {
    const root = emptyProject();
    await run(root, present(root), ['--driver', 'swiftshader']);
    expect(await run(root, untouchable)).toEqual([]);
    expect(readDriverChoice({}, driverFile(root))).toMatchObject({ driver: 'swiftshader', forced: false });
    await run(root, present(root), ['--driver=auto']);
    expect(readDriverChoice({}, driverFile(root))?.driver).toBe('lavapipe');
  });

  test('an invalid choice is made again with a message; the engine names the file and the remedy', async () => {
    for (const [content, complaint] of [
      ['{ "format": 3, "cho', 'driver.json: expected JSON'],
      ['{ "format": 99 }', 'driver.json: format: expected 3, got 99'],
      [
        '{ "format": 3, "dependencies": "", "requested": "vulcan", "choices": {} }',
        'driver.json: requested: expected one of auto, gpu, lavapipe, swiftshader, got "vulcan"',
      ],
      [
        '{ "format": 3, "dependencies": "", "requested": "auto" }',
        'driver.json: choices: expected an object, got nothing',
      ],
    ]) {
      const root = emptyProject();
      await run(root, present(root));
      writeFileSync(driverFile(root), content);
      expect(() => readDriverChoice({}, driverFile(root))).toThrow(/driver\.json: .*npm run setup/);
      expect(() => readDriverChoice({}, driverFile(root))).toThrow(complaint);
      const said = await run(root, present(root));
      expect(said[0]).toContain('choosing the driver again');
      expect(said[0]).toContain(complaint);
      expect(readDriverChoice({}, driverFile(root))?.driver).toBe('lavapipe');
    }
  });

  test('the engine names the invalid field of a choice', () => {
    const file = join(scratch, 'driver-of-another-kind.json');
    const choice = {
      driver: 'lavapipe',
      manifests: [],
      loader: null,
      systemLoader: null,
      vectorBits: 512,
      checksBounds: true,
      adapter: found('llvmpipe', true).adapter,
      why: '',
      hint: null,
      installed: '',
      processor: '',
    };
    const write = (auto: unknown): void =>
      writeFileSync(file, JSON.stringify({ format: 3, dependencies: '', requested: 'auto', choices: { auto } }));
    write(choice);
    expect(readDriverChoice({}, file)).toMatchObject({ driver: 'lavapipe', request: 'auto', vectorBits: 512 });
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
      ['adapter', null],
      ['installed', 1],
      ['processor', undefined],
    ] as const) {
      write({ ...choice, [field]: value });
      const found = value === undefined ? 'nothing' : JSON.stringify(value);
      expect(() => readDriverChoice({}, file)).toThrow(`${file}: choices.auto.${field}: expected `);
      expect(() => readDriverChoice({}, file)).toThrow(`, got ${found}: delete the file`);
    }
    expect(readDriverChoice({}, join(scratch, 'missing.json'))).toBeNull();
    expect(() => readDriverChoice({ DSRCNN_DRIVER: 'vulcan' }, file)).toThrow(
      'DSRCNN_DRIVER: expected one of auto, gpu, lavapipe, swiftshader, got "vulcan"',
    );
  });

  test('a choice is dropped when its files, the Vulkan drivers, or the processor of lavapipe change', async () => {
    const root = emptyProject();
    const folder = join(root, 'icd.d');
    mkdirSync(folder);
    const fingerprint = (): string => manifestFingerprint([folder]);
    const empty = fingerprint();
    const manifest = join(folder, 'lvp_icd.json');
    writeFileSync(manifest, '{}');
    const choice = {
      ...(await chooseDriver('auto', machine(withLavapipe()), quiet)),
      manifests: [manifest],
      systemLoader: manifest,
      installed: fingerprint(),
      processor: 'AMD EPYC, with AVX-512',
    };
    const holds = (
      changes: Partial<typeof choice>,
      request: 'auto' | 'lavapipe' | 'swiftshader',
      processor = choice.processor,
    ): boolean => isStillValid({ ...choice, ...changes }, request, fingerprint(), processor);
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

  test('npm runs again for other locked packages, and not for another project name', () => {
    const root = emptyProject();
    const lock = (packages: object, name = 'x'): string => JSON.stringify({ packages: { '': { name }, ...packages } });
    const a = { 'node_modules/a': { version: '1.0.0' } };
    expect(dependencyHash(lock(a, 'y'))).toBe(dependencyHash(lock(a)));
    expect(dependencyHash(lock({ 'node_modules/a': { version: '1.0.1' } }))).not.toBe(dependencyHash(lock(a)));
    const nested = { ...a, 'node_modules/a/node_modules/b': { version: '2.0.0' } };
    expect(dependencyHash(lock(nested))).not.toBe(dependencyHash(lock(a)));
    expect(packagesInstalled(root, lock(a))).toBe(false);
    mkdirSync(join(root, 'node_modules/a'), { recursive: true });
    writeFileSync(join(root, 'node_modules/a/package.json'), '{ "version": "1.0.0" }');
    expect(packagesInstalled(root, lock(a))).toBe(true);
    expect(packagesInstalled(root, lock({ 'node_modules/a': { version: '1.0.1', dev: true } }))).toBe(false);
    expect(packagesInstalled(root, lock(nested))).toBe(false);
    const foreign = { 'node_modules/a-for-another-system': { version: '1.0.0', optional: true } };
    expect(packagesInstalled(root, lock({ ...a, ...foreign }))).toBe(true);
  });

  test('set-up needs no package, but needs the lock file', () => {
    const root = emptyProject();
    const program = [copySetUp(root), '--no-driver'];
    const options = { env: { PATH: '' }, encoding: 'utf8' } as const;
    expect(spawnSync(process.execPath, program, options)).toMatchObject({ status: 0, stdout: '', stderr: '' });
    rmSync(join(root, 'package-lock.json'));
    expect(spawnSync(process.execPath, program, options)).toMatchObject({
      status: 2,
      stderr: `set-up: ${join(root, 'package-lock.json')}: missing; it belongs to the checkout\n`,
    });
  });

  test('--no-driver chooses none, and neither does set-up where the user names a Vulkan driver', async () => {
    const root = emptyProject();
    expect(await run(root, untouchable, ['--no-driver'])).toEqual([]);
    expect((await run(root, untouchable, [], { VK_DRIVER_FILES: '/x.json' })).join()).toContain(
      'VK_DRIVER_FILES is set',
    );
    expect(existsSync(driverFile(root))).toBe(false);
    expect(userVulkanVariable({ VK_ICD_FILENAMES: '/x.json' })).toBe('VK_ICD_FILENAMES');
    expect(userVulkanVariable({ VK_ICD_FILENAMES: '/x.json', DSRCNN_DRIVER: 'auto' })).toBeNull();
  });

  test('wrong arguments cause one message and exit code 2, without a stack trace', () => {
    for (const [argv, complaint] of [
      [['--fast'], 'unknown option --fast'],
      [['--driver', 'vulcan'], '--driver: expected one of auto, gpu, lavapipe, swiftshader, got "vulcan"'],
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
      stderr: 'set-up: DSRCNN_DRIVER: expected one of auto, gpu, lavapipe, swiftshader, got "vulcan"\n',
    });
  });
});
