/** Which driver set-up chooses, with which vectors, and whether Dawn checks bounds; on machines that are made up (machines.ts). */
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { dawnFlags, lavapipeEnvironment } from '../engine/node/index.ts';
import { chooseBounds, chooseDriver, chooseVectorBits, hasAvx512, processorName } from '../training/setup/setup.mjs';
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
  test('a GPU comes first, and is left to the Vulkan loader', () => {
    const choice = chooseDriver('auto', machine({ ...withLavapipe(), probe: () => found('GeForce', false) }), quiet);
    expect(choice).toMatchObject({ driver: 'gpu', manifests: [], loader: null, hint: null });
  });

  test('lavapipe comes before SwiftShader, by its own manifest', () => {
    expect(chooseDriver('auto', machine(withLavapipe()), quiet)).toMatchObject({
      driver: 'lavapipe',
      manifests: [LAVAPIPE],
      loader: null,
    });
  });

  test('lavapipe is installed where that is allowed, and the reason says so', () => {
    let installed = false;
    const system = machine({
      ...withLavapipe(),
      manifests: () => (installed ? [LAVAPIPE] : []),
      installLavapipe: () => {
        installed = true;
        return null;
      },
    });
    const choice = chooseDriver('auto', system, quiet);
    expect(choice.driver).toBe('lavapipe');
    expect(choice.why).toContain('installed with apt');
  });

  test('SwiftShader is last, with the way to the faster driver', () => {
    const choice = chooseDriver('auto', machine(), quiet);
    expect(choice).toMatchObject({ driver: 'swiftshader', manifests: [SWIFTSHADER.manifest] });
    expect(choice.hint).toBe(
      'lavapipe not installed: not root; for a driver several times as fast: apt-get install mesa-vulkan-drivers',
    );
    expect(choice.why).toContain('no Vulkan driver is installed');
  });

  test('a lavapipe that Dawn refuses, or that crashes it, does not stop the search', () => {
    const system = machine({
      manifests: () => [LAVAPIPE],
      probe: (manifests) =>
        manifests.includes(SWIFTSHADER.manifest)
          ? found('SwiftShader', true)
          : { ...refused, problem: "Dawn's process failed (ended by SIGSEGV)" },
    });
    const choice = chooseDriver('auto', system, quiet);
    expect(choice.driver).toBe('swiftshader');
    expect(choice.why).toContain('SIGSEGV');
  });

  test("without a Vulkan loader of the system, SwiftShader's serves it, and a GPU too", () => {
    const alone = machine({
      probe: (manifests, loader) =>
        loader === SWIFTSHADER.loader && manifests.includes(SWIFTSHADER.manifest)
          ? found('SwiftShader', true)
          : noLoader,
    });
    expect(chooseDriver('auto', alone, quiet)).toMatchObject({ driver: 'swiftshader', loader: SWIFTSHADER.loader });
    const container = machine({
      manifests: () => ['/etc/vulkan/icd.d/nvidia_icd.json'],
      probe: (_, loader) => (loader === SWIFTSHADER.loader ? found('H200', false) : noLoader),
    });
    expect(chooseDriver('auto', container, quiet)).toMatchObject({
      driver: 'gpu',
      manifests: [],
      loader: SWIFTSHADER.loader,
    });
  });

  test("a GPU's driver mounted where the Vulkan loader does not look is found", () => {
    const mounted = '/usr/local/nvidia/vulkan/icd.d/nvidia_icd.json';
    const system = machine({
      manifests: () => [mounted],
      probe: (manifests) => (manifests.includes(mounted) ? found('H200', false) : refused),
    });
    expect(chooseDriver('auto', system, quiet)).toMatchObject({ driver: 'gpu', manifests: [mounted] });
  });

  test('a forced driver is that one or an error; nothing else is tried', () => {
    expect(
      chooseDriver(
        'swiftshader',
        machine({
          ...withLavapipe(),
          probe: (manifests) => found(manifests[0] === SWIFTSHADER.manifest ? 'SwiftShader' : 'GeForce', true),
        }),
        quiet,
      ),
    ).toMatchObject({ driver: 'swiftshader', hint: null });
    expect(
      chooseDriver(
        'lavapipe',
        machine({
          ...withLavapipe(),
          swiftShader: () => {
            throw new Error('not asked for');
          },
        }),
        quiet,
      ).driver,
    ).toBe('lavapipe');
    expect(() => chooseDriver('gpu', machine(withLavapipe()), quiet)).toThrow(
      'no WebGPU adapter by driver gpu: no GPU: only llvmpipe',
    );
  });

  test('where nothing works, the error names every attempt', () => {
    const hopeless = machine({
      manifests: () => [LAVAPIPE],
      probe: () => refused,
      installLavapipe: () => 'no network',
    });
    expect(() => chooseDriver('auto', hopeless, quiet)).toThrow(
      /no GPU.*lavapipe is not accepted.*not installed: no network.*SwiftShader does not start[^]*apt-get install/,
    );
  });

  test("elsewhere than on Linux it is the system's own adapter", () => {
    expect(chooseDriver('auto', machine({ linux: false, probe: () => found('Apple M3', false) }), quiet).driver).toBe(
      'gpu',
    );
    expect(
      chooseDriver('auto', machine({ linux: false, probe: () => found('Basic Render Driver', true) }), quiet).driver,
    ).toBe('software');
    expect(() => chooseDriver('lavapipe', machine({ linux: false }), quiet)).toThrow('for Linux');
  });
});

describe("the width of lavapipe's vectors", () => {
  test('is asked of lavapipe alone, on the driver files that Dawn accepted', () => {
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
      expect(chooseDriver('auto', system, quiet).vectorBits).toBeNull();
    }
    expect(asked).toEqual([]);
    const choice = chooseDriver('auto', machine({ ...vectors, ...withLavapipe() }), quiet);
    expect(choice).toMatchObject({ driver: 'lavapipe', vectorBits: 512 });
    expect(choice.why).toContain('; vectors of 512 bits: 131 GFLOP/s, of 256: 104');
    const borrowing = machine({
      ...vectors,
      ...withLavapipe(),
      probe: (_, loader) => (loader === SWIFTSHADER.loader ? found('llvmpipe', true) : noLoader),
    });
    expect(chooseDriver('lavapipe', borrowing, quiet).vectorBits).toBe(512);
    expect(asked).toEqual([
      [[LAVAPIPE], null, false],
      [[LAVAPIPE], SWIFTSHADER.loader, false],
    ]);
  });

  type Measurement = Parameters<typeof chooseVectorBits>[0][number];
  const measured = (bits: 256 | 512, gflops: number, error: number | null = 1e-5): Measurement => ({
    bits,
    value: { error, tolerance: 1e-3, passed: error !== null && error <= 1e-3, gflops, subgroupSize: bits / 32 },
    problem: null,
  });
  const failed = (bits: 256 | 512): Measurement => ({
    bits,
    value: null,
    problem: "Dawn's process failed (ended by SIGILL)",
  });

  test.each<[string, Measurement[], 512 | null, string]>([
    [
      '512 where they are faster: the best run of each width counts',
      [measured(256, 104), measured(512, 61), measured(256, 50), measured(512, 131)],
      512,
      'vectors of 512 bits: 131 GFLOP/s, of 256: 104',
    ],
    [
      'its own where 512 are slower',
      [measured(256, 104), measured(512, 90), measured(256, 99), measured(512, 95)],
      null,
      '512 bits: 95 GFLOP/s, of 256: 104',
    ],
    [
      'its own where 512 are hardly faster',
      [measured(256, 100), measured(512, 109), measured(256, 100), measured(512, 109)],
      null,
      'less than 10 %',
    ],
    [
      'its own where a product is wrong',
      [measured(256, 100), measured(512, 300, 0.5)],
      null,
      'with 512 bits a product is wrong by 0.5 (at most 0.001)',
    ],
    ['its own where a product is NaN', [measured(256, 100), measured(512, 300, null)], null, 'wrong by NaN'],
    [
      'its own where 512 fail in the second turn',
      [measured(256, 100), measured(512, 131), measured(256, 100), failed(512)],
      null,
      "with 512 bits Dawn's process failed (ended by SIGILL)",
    ],
    ['its own where there is nothing to compare with', [failed(256)], null, "with 256 bits Dawn's process failed"],
  ])('%s', (_, measurements, bits, why) => {
    const choice = chooseVectorBits(measurements);
    expect(choice.bits).toBe(bits);
    expect(choice.why).toContain(why);
  });

  test('512 bits need all of AVX-512 that LLVM uses for them', () => {
    const cpuinfo = (flags: string): string =>
      `processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 ${flags} clflush\npower management:\n`;
    expect(hasAvx512(cpuinfo('avx512f avx512dq avx512bw avx512vl avx512_vnni'))).toBe(true);
    expect(hasAvx512(cpuinfo('avx512f avx512dq avx512cd avx512_vbmi2 avx512vl'))).toBe(false);
    expect(hasAvx512('processor\t: 0\nFeatures\t: fp asimd\n')).toBe(false);
    expect(hasAvx512('')).toBe(false);
    expect(processorName(cpuinfo('avx512f avx512dq avx512bw avx512vl'))).toBe('AMD EPYC, with AVX-512');
    expect(processorName('')).toBe('unknown, without AVX-512');
  });

  test("the user's width comes first, and every width has a folder of compiled shaders of its own", () => {
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
      'LP_NATIVE_VECTOR_WIDTH: must be a number of bits, 256 or 512, got "../wide"',
    );
  });

  test('a child process has the same folder, or that of the width it is given', () => {
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

describe("lavapipe's own checks of bounds", () => {
  test('are asked of lavapipe alone, before its width, which is measured with the answer', () => {
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
      expect(chooseDriver('auto', system, quiet).checksBounds).toBe(false);
    }
    expect(asked).toEqual([]);
    const choice = chooseDriver('auto', machine({ ...bounds, ...withLavapipe() }), quiet);
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
    ['suffice where nothing escapes', [kept, kept], true, "without Dawn's checks of bounds, since it has its own"],
    [
      'do not suffice where an access escapes with one of the widths',
      [kept, { value: { escape: 'reading element 16 gave 81' }, problem: null }],
      false,
      "with Dawn's checks of bounds, since without them reading element 16 gave 81",
    ],
    [
      'do not suffice where the program crashes',
      [{ value: null, problem: "Dawn's process failed (ended by SIGSEGV)" }],
      false,
      "since without them Dawn's process failed (ended by SIGSEGV)",
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
        `DSRCNN_ROBUSTNESS: must be on or off, got "${value}"`,
      );
  });
});
