/**
 * Set-up's choice of a driver, of lavapipe's vector width, and of Dawn's bounds checks. The machines are simulated
 * (machines.ts).
 */
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { dawnFlags, lavapipeEnvironment } from '../engine/node/index.ts';
import { chooseDriver } from '../training/setup/driver.mjs';
import { chooseBounds, chooseVectorBits } from '../training/setup/lavapipe.mjs';
import { hasAvx512, processorName } from '../training/setup/processor.mjs';
import {
  found,
  LAVAPIPE,
  machine,
  noLoader,
  quiet,
  refused,
  SWIFTSHADER,
  type System,
  withLavapipe,
} from './machines.ts';

describe('the order of drivers', () => {
  test('a GPU comes first, and the Vulkan loader finds it', async () => {
    const choice = await chooseDriver(
      'auto',
      machine({ ...withLavapipe(), probe: () => found('GeForce', false) }),
      quiet,
    );
    expect(choice).toMatchObject({ driver: 'gpu', manifests: [], loader: null, hint: null });
  });

  test('lavapipe comes before SwiftShader, and runs with its own manifest', async () => {
    expect(await chooseDriver('auto', machine(withLavapipe()), quiet)).toMatchObject({
      driver: 'lavapipe',
      manifests: [LAVAPIPE],
      loader: null,
    });
  });

  test('lavapipe is installed where that is allowed, and the reason says so', async () => {
    let installed = false;
    const system = machine({
      ...withLavapipe(),
      manifests: () => (installed ? [LAVAPIPE] : []),
      installLavapipe: () => {
        installed = true;
        return null;
      },
    });
    const choice = await chooseDriver('auto', system, quiet);
    expect(choice.driver).toBe('lavapipe');
    expect(choice.why).toContain('installed with apt');
  });

  test('SwiftShader comes last, with a hint about the faster driver', async () => {
    const choice = await chooseDriver('auto', machine(), quiet);
    expect(choice).toMatchObject({ driver: 'swiftshader', manifests: [SWIFTSHADER.manifest] });
    expect(choice.hint).toBe(
      'lavapipe not installed: not root; for a driver several times as fast: apt-get install mesa-vulkan-drivers',
    );
    expect(choice.why).toContain('no Vulkan driver is installed');
  });

  test('the search goes on where Dawn refuses lavapipe, or crashes on it', async () => {
    const system = machine({
      manifests: () => [LAVAPIPE],
      probe: (manifests) =>
        manifests.includes(SWIFTSHADER.manifest)
          ? found('SwiftShader', true)
          : { ...refused, problem: "Dawn's process failed (ended by SIGSEGV)" },
    });
    const choice = await chooseDriver('auto', system, quiet);
    expect(choice.driver).toBe('swiftshader');
    expect(choice.why).toContain('SIGSEGV');
  });

  test("where the system has no Vulkan loader, SwiftShader and a GPU use SwiftShader's", async () => {
    const alone = machine({
      probe: (manifests, loader) =>
        loader === SWIFTSHADER.loader && manifests.includes(SWIFTSHADER.manifest)
          ? found('SwiftShader', true)
          : noLoader,
    });
    expect(await chooseDriver('auto', alone, quiet)).toMatchObject({
      driver: 'swiftshader',
      loader: SWIFTSHADER.loader,
    });
    const container = machine({
      manifests: () => ['/etc/vulkan/icd.d/nvidia_icd.json'],
      probe: (_, loader) => (loader === SWIFTSHADER.loader ? found('H200', false) : noLoader),
    });
    expect(await chooseDriver('auto', container, quiet)).toMatchObject({
      driver: 'gpu',
      manifests: [],
      loader: SWIFTSHADER.loader,
    });
  });

  test("finds a GPU's driver that is mounted where the Vulkan loader does not search", async () => {
    const mounted = '/usr/local/nvidia/vulkan/icd.d/nvidia_icd.json';
    const system = machine({
      manifests: () => [mounted],
      probe: (manifests) => (manifests.includes(mounted) ? found('H200', false) : refused),
    });
    expect(await chooseDriver('auto', system, quiet)).toMatchObject({ driver: 'gpu', manifests: [mounted] });
  });

  test('a forced driver is used or is an error; no other driver is tried', async () => {
    const withAll = machine({
      ...withLavapipe(),
      probe: (manifests) => found(manifests[0] === SWIFTSHADER.manifest ? 'SwiftShader' : 'GeForce', true),
    });
    expect(await chooseDriver('swiftshader', withAll, quiet)).toMatchObject({ driver: 'swiftshader', hint: null });
    const withoutSwiftShader = machine({
      ...withLavapipe(),
      swiftShader: () => {
        throw new Error('not asked for');
      },
    });
    expect((await chooseDriver('lavapipe', withoutSwiftShader, quiet)).driver).toBe('lavapipe');
    await expect(chooseDriver('gpu', machine(withLavapipe()), quiet)).rejects.toThrow(
      'no WebGPU adapter by driver gpu: no GPU: only llvmpipe',
    );
  });

  test('where no driver works, the error names every attempt', async () => {
    const hopeless = machine({
      manifests: () => [LAVAPIPE],
      probe: () => refused,
      installLavapipe: () => 'no network',
    });
    await expect(chooseDriver('auto', hopeless, quiet)).rejects.toThrow(
      /no GPU.*lavapipe is not accepted.*not installed: no network.*SwiftShader does not start[\s\S]*apt-get install/,
    );
  });

  test("outside Linux, set-up chooses the system's own adapter", async () => {
    expect(
      (await chooseDriver('auto', machine({ linux: false, probe: () => found('Apple M3', false) }), quiet)).driver,
    ).toBe('gpu');
    expect(
      (await chooseDriver('auto', machine({ linux: false, probe: () => found('Basic Render Driver', true) }), quiet))
        .driver,
    ).toBe('software');
    await expect(chooseDriver('lavapipe', machine({ linux: false }), quiet)).rejects.toThrow('for Linux');
  });
});

describe("the width of lavapipe's vectors", () => {
  test('is measured on lavapipe only, with the driver files that Dawn accepted', async () => {
    const asked: unknown[] = [];
    const vectors: Partial<System> = {
      vectorBits: (...files) => {
        asked.push(files);
        return { bits: 512, why: 'vectors of 512 bits: 131 GFLOP/s, of 256: 104' };
      },
    };
    for (const system of [
      machine({ ...vectors, ...withLavapipe(), probe: () => found('GeForce', false) }),
      machine(vectors),
      machine({ ...vectors, linux: false, probe: () => found('Apple M3', false) }),
    ]) {
      expect((await chooseDriver('auto', system, quiet)).vectorBits).toBeNull();
    }
    expect(asked).toEqual([]);
    const choice = await chooseDriver('auto', machine({ ...vectors, ...withLavapipe() }), quiet);
    expect(choice).toMatchObject({ driver: 'lavapipe', vectorBits: 512 });
    expect(choice.why).toContain('; vectors of 512 bits: 131 GFLOP/s, of 256: 104');
    const borrowing = machine({
      ...vectors,
      ...withLavapipe(),
      probe: (_, loader) => (loader === SWIFTSHADER.loader ? found('llvmpipe', true) : noLoader),
    });
    expect((await chooseDriver('lavapipe', borrowing, quiet)).vectorBits).toBe(512);
    expect(asked).toEqual([
      [[LAVAPIPE], null, false],
      [[LAVAPIPE], SWIFTSHADER.loader, false],
    ]);
  });

  type Measurement = Parameters<typeof chooseVectorBits>[0][number];
  const measured = (bits: 256 | 512, gflops: number, error: number | null = 1e-5): Measurement => ({
    bits,
    value: { error, tolerance: 1e-3, passed: error !== null && error <= 1e-3, gflops },
    problem: null,
  });
  const failed = (bits: 256 | 512): Measurement => ({
    bits,
    value: null,
    problem: "Dawn's process failed (ended by SIGILL)",
  });

  test.each<[string, Measurement[], 512 | null, string]>([
    [
      'is 512 where that is faster: the best run of each width counts',
      [measured(256, 104), measured(512, 61), measured(256, 50), measured(512, 131)],
      512,
      'vectors of 512 bits: 131 GFLOP/s, of 256: 104',
    ],
    [
      'is its own where 512 is slower',
      [measured(256, 104), measured(512, 90), measured(256, 99), measured(512, 95)],
      null,
      '512 bits: 95 GFLOP/s, of 256: 104',
    ],
    [
      'is its own where 512 is hardly faster',
      [measured(256, 100), measured(512, 109), measured(256, 100), measured(512, 109)],
      null,
      'less than 10 %',
    ],
    [
      'is its own where a product is wrong',
      [measured(256, 100), measured(512, 300, 0.5)],
      null,
      'with 512 bits a product is wrong by 0.5 (at most 0.001)',
    ],
    ['is its own where a product is NaN', [measured(256, 100), measured(512, 300, null)], null, 'wrong by NaN'],
    [
      'is its own where 512 fails in the second turn',
      [measured(256, 100), measured(512, 131), measured(256, 100), failed(512)],
      null,
      "with 512 bits Dawn's process failed (ended by SIGILL)",
    ],
    ['is its own where 256 fails', [failed(256)], null, "with 256 bits Dawn's process failed"],
  ])('%s', (_, measurements, bits, why) => {
    const choice = chooseVectorBits(measurements);
    expect(choice.bits).toBe(bits);
    expect(choice.why).toContain(why);
  });

  test('512 bits need all parts of AVX-512 that LLVM uses', () => {
    const cpuinfo = (flags: string): string =>
      `processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 ${flags} clflush\npower management:\n`;
    expect(hasAvx512(cpuinfo('avx512f avx512dq avx512bw avx512vl avx512_vnni'))).toBe(true);
    expect(hasAvx512(cpuinfo('avx512f avx512dq avx512cd avx512_vbmi2 avx512vl'))).toBe(false);
    expect(hasAvx512('processor\t: 0\nFeatures\t: fp asimd\n')).toBe(false);
    expect(hasAvx512('')).toBe(false);
    expect(processorName(cpuinfo('avx512f avx512dq avx512bw avx512vl'))).toBe('AMD EPYC, with AVX-512');
    expect(processorName('')).toBe('unknown, without AVX-512');
  });

  test("the user's width has priority, and every width has its own folder of compiled shaders", () => {
    const home = { XDG_CACHE_HOME: '/home/cache' },
      ours = '/home/cache/dynamic-sparse-rcnn-webgpu';
    expect(lavapipeEnvironment({ vectorBits: 512 }, home)).toEqual({
      LP_NATIVE_VECTOR_WIDTH: '512',
      MESA_SHADER_CACHE_DIR: `${ours}/lavapipe-512`,
    });
    expect(lavapipeEnvironment({ vectorBits: null }, home)).toEqual({
      MESA_SHADER_CACHE_DIR: `${ours}/lavapipe-default`,
    });
    for (const bits of [512, null]) {
      expect(lavapipeEnvironment({ vectorBits: bits }, { ...home, LP_NATIVE_VECTOR_WIDTH: '256' })).toEqual({
        LP_NATIVE_VECTOR_WIDTH: '256',
        MESA_SHADER_CACHE_DIR: `${ours}/lavapipe-256`,
      });
    }
    expect(lavapipeEnvironment({ vectorBits: 512 }, { MESA_SHADER_CACHE_DIR: '/mine' }).MESA_SHADER_CACHE_DIR).toBe(
      '/mine/lavapipe-512',
    );
    expect(() => lavapipeEnvironment({ vectorBits: 512 }, { LP_NATIVE_VECTOR_WIDTH: '../wide' })).toThrow(
      'LP_NATIVE_VECTOR_WIDTH: expected a number of bits, 256 or 512, got "../wide"',
    );
  });

  test('a child process has the same folder, or the folder of its own width', () => {
    for (const environment of [{ XDG_CACHE_HOME: '/home/cache' }, { MESA_SHADER_CACHE_DIR: '/mine' }]) {
      for (const bits of [512, null]) {
        const parent = lavapipeEnvironment({ vectorBits: bits }, environment);
        expect(lavapipeEnvironment({ vectorBits: bits }, { ...environment, ...parent })).toEqual(parent);
        const narrow = lavapipeEnvironment(
          { vectorBits: bits },
          { ...environment, ...parent, LP_NATIVE_VECTOR_WIDTH: '256' },
        );
        expect(narrow.MESA_SHADER_CACHE_DIR).toBe(join(dirname(parent.MESA_SHADER_CACHE_DIR), 'lavapipe-256'));
      }
    }
  });
});

describe("lavapipe's own bounds checks", () => {
  test('are tested on lavapipe only, before its width, which is measured with the result', async () => {
    const asked: unknown[] = [];
    const bounds: Partial<System> = {
      bounds: (...files) => {
        asked.push(['bounds', ...files]);
        return { checks: true, why: 'without checks' };
      },
      vectorBits: (...files) => {
        asked.push(['width', ...files]);
        return { bits: null, why: 'no AVX-512' };
      },
    };
    for (const system of [
      machine({ ...bounds, ...withLavapipe(), probe: () => found('GeForce', false) }),
      machine(bounds),
      machine({ ...bounds, linux: false, probe: () => found('Apple M3', false) }),
    ]) {
      expect((await chooseDriver('auto', system, quiet)).checksBounds).toBe(false);
    }
    expect(asked).toEqual([]);
    const choice = await chooseDriver('auto', machine({ ...bounds, ...withLavapipe() }), quiet);
    expect(choice).toMatchObject({ driver: 'lavapipe', checksBounds: true });
    expect(choice.why).toMatch(/; without checks; no AVX-512$/);
    expect(asked).toEqual([
      ['bounds', [LAVAPIPE], null],
      ['width', [LAVAPIPE], null, true],
    ]);
  });

  type Reading = Parameters<typeof chooseBounds>[0][number];
  const kept: Reading = { value: { escape: null }, problem: null };
  test.each<[string, Reading[], boolean, string]>([
    [
      'suffice where no access escapes',
      [kept, kept],
      true,
      "without Dawn's bounds checks, because lavapipe has its own",
    ],
    [
      'do not suffice where an access escapes with one of the widths',
      [kept, { value: { escape: 'reading element 16 gave 81' }, problem: null }],
      false,
      "with Dawn's bounds checks, because without them reading element 16 gave 81",
    ],
    [
      'do not suffice where the program crashes',
      [{ value: null, problem: "Dawn's process failed (ended by SIGSEGV)" }],
      false,
      "because without them Dawn's process failed (ended by SIGSEGV)",
    ],
  ])('%s', (_, readings, checks, why) => {
    const choice = chooseBounds(readings);
    expect(choice.checks).toBe(checks);
    expect(choice.why).toContain(why);
  });

  test('are overridden by DSRCNN_ROBUSTNESS, on or off', () => {
    const flag = 'enable-dawn-features=disable_robustness';
    expect(dawnFlags({ DSRCNN_ROBUSTNESS: 'off' })).toContain(flag);
    expect(dawnFlags({ DSRCNN_ROBUSTNESS: 'on' })).not.toContain(flag);
    for (const value of ['0', 'OFF', 'false'])
      expect(() => dawnFlags({ DSRCNN_ROBUSTNESS: value })).toThrow(
        `DSRCNN_ROBUSTNESS: expected on or off, got "${value}"`,
      );
  });
});
