#!/usr/bin/env node
// @ts-check
/**
 * Set-up, in one file without dependencies: installs the npm packages, and chooses the WebGPU driver. Every npm script runs it first; once
 * all is in place it checks a few files and says nothing. What it decides lies in node_modules/.cache/dynamic-sparse-rcnn/driver.json, where
 * engine/node/index.ts reads it.
 *
 * Order of drivers: a real GPU; lavapipe (Mesa >= 23), installed with apt where we may; SwiftShader, which comes with an npm package.
 * A driver counts as accepted when Dawn, in a child process of its own, has run a shader on it: a crash or a missing library costs nothing then.
 * Where lavapipe is chosen, a further child process sees whether it checks bounds itself (training/setup/bounds.ts): then Dawn's checks, which slow it down, are left out.
 * On a processor with AVX-512 it is measured with vectors of 256 and of 512 bits (training/setup/vector-width.ts): it takes 256 by itself.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliDecompressSync } from 'node:zlib';

/** @typedef {'auto' | 'gpu' | 'lavapipe' | 'swiftshader'} Request */
/** @typedef {{ vendor: string, architecture: string, device: string, description: string, fallback: boolean }} Adapter */
/** @typedef {{ adapter: Adapter | null, loader: string | null, problem: string | null }} Probe What Dawn said; `loader` is the libvulkan it loaded. */
/**
 * @typedef {object} Choice
 * @property {'gpu' | 'lavapipe' | 'swiftshader' | 'software'} driver
 * @property {string[]} manifests Vulkan driver manifests to put into VK_DRIVER_FILES; empty: the Vulkan loader's own search
 * @property {string | null} loader libvulkan to load before Dawn, where the system has none
 * @property {string | null} systemLoader the system's libvulkan, where that is the one in use
 * @property {number | null} vectorBits bits of lavapipe's vectors, where others than it takes by itself are faster
 * @property {boolean} checksBounds whether it was seen that the driver checks accesses to buffers and textures itself; asked of lavapipe alone
 * @property {Adapter} adapter
 * @property {string} why
 * @property {string | null} hint how to get a faster driver
 * @property {string} installed fingerprint of the system's Vulkan manifests when the choice was made
 * @property {string} processor the processor it was made on, as `processorName` tells it
 */
/** @typedef {{ bits: 512 | null, why: string }} VectorChoice null: the width that lavapipe takes by itself */
/** @typedef {{ checks: boolean, why: string }} BoundsChoice whether Dawn may leave its own checks of bounds out */
/** @typedef {import('./vector-width.ts').WidthReport} WidthReport */
/** @typedef {{ value: import('./bounds.ts').BoundsReport | null, problem: string | null }} BoundsReading What a run of bounds.ts said, or how it failed. */
/** @typedef {{ bits: 256 | 512, value: WidthReport | null, problem: string | null }} WidthMeasurement What a run of vector-width.ts said, or how it failed. */
/** @typedef {{ format: number, dependencies: string, requested: Request, choices: Partial<Record<Request, Choice>> }} State */
/** @typedef {{ loader: string, manifest: string }} SwiftShader */
/**
 * @typedef {object} System What chooseDriver asks of the machine.
 * @property {boolean} linux
 * @property {() => string[]} manifests all installed Vulkan driver manifests
 * @property {(manifests: string[], loader: string | null) => Probe} probe
 * @property {(manifests: string[], loader: string | null) => BoundsChoice} bounds whether lavapipe checks bounds itself
 * @property {(manifests: string[], loader: string | null, checksBounds: boolean) => VectorChoice} vectorBits how wide lavapipe's vectors shall be, with Dawn's checks of bounds left out or not
 * @property {() => string | null} installLavapipe null when it is installed now, else why it could not be
 * @property {() => SwiftShader | null} swiftShader null where the package has no build for this processor
 * @property {() => string} lavapipeHint
 */

export const REQUESTS = /** @type {const} */ (['auto', 'gpu', 'lavapipe', 'swiftshader']);
export const HELP = `usage: npm run setup -- [--no-driver] [--driver auto|gpu|lavapipe|swiftshader]

Installs the npm packages and chooses the WebGPU driver; does nothing where both are done. All other npm scripts run it first.

  --no-driver      only the npm packages
  --driver NAME    choose anew and keep it: auto (a GPU, else lavapipe, else SwiftShader), gpu, lavapipe, or swiftshader
  --help           this text

environment:
  DSRCNN_DRIVER=NAME                    the same names, for one run only:  DSRCNN_DRIVER=swiftshader npm test
  VK_DRIVER_FILES, VK_ICD_FILENAMES     if you set one, the Vulkan loader obeys it and nothing is chosen (unless DSRCNN_DRIVER is set)
  LP_NATIVE_VECTOR_WIDTH=256            bits of lavapipe's vectors (or 512), for one run, whatever was measured
  DSRCNN_ROBUSTNESS=on                  Dawn's checks of bounds also where the driver has its own, to find a kernel's mistakes, for one run; off: never, at your own risk`;

const FORMAT = 3; // 1 knew nothing of vectors, 2 nothing of bounds
const MIN_MESA = 23; // Dawn refuses the Vulkan of older lavapipes
const MIN_NODE = [20, 19];
const CHILD_TIMEOUT_MS = 60_000;
const AVX512 = ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl']; // what LLVM wants for vectors of 512 bits of every type
const WORTHWHILE = 1.1; // times as fast as the default: less is within what two runs differ by
const MANIFEST_DIRECTORIES = [
  '/etc/vulkan/icd.d',
  '/usr/local/etc/vulkan/icd.d',
  '/usr/local/share/vulkan/icd.d',
  '/usr/share/vulkan/icd.d',
];
// Where container platforms mount NVIDIA's driver; the Vulkan loader does not look there by itself.
const MOUNTED_DIRECTORIES = ['/usr/local/nvidia/share/vulkan/icd.d', '/usr/local/nvidia/vulkan/icd.d'];
const BACKPORTS_LIST = '/etc/apt/sources.list.d/dynamic-sparse-rcnn-backports.list';
const BACKPORTS_LINE = 'deb http://deb.debian.org/debian bookworm-backports main';
const SWIFTSHADER_FILES = ['libvk_swiftshader.so', 'libvulkan.so.1', 'vk_swiftshader_icd.json'];

/** An expected failure: its message is for the user, without a stack. */
export class SetupError extends Error {}

const messageOf = (/** @type {unknown} */ error) =>
  (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ');

/** @param {unknown} name @param {string} source @returns {Request} */
function asRequest(name, source) {
  const request = REQUESTS.find((known) => known === name);
  if (request === undefined)
    throw new SetupError(`${source}: must be one of ${REQUESTS.join(', ')}, got ${JSON.stringify(name ?? '')}`);
  return request;
}

/**
 * The command line and DSRCNN_DRIVER; the command line wins.
 * @param {readonly string[]} argv @param {NodeJS.ProcessEnv} environment
 * @returns {{ help: boolean, probe: boolean, driver: boolean, request: Request | null, keep: boolean }} `request` null: what is stored; `keep`: store it for later runs
 */
export function parseArguments(argv, environment) {
  const parsed = {
    help: false,
    probe: false,
    driver: true,
    request: /** @type {Request | null} */ (null),
    keep: false,
  };
  if (environment.DSRCNN_DRIVER) parsed.request = asRequest(environment.DSRCNN_DRIVER, 'DSRCNN_DRIVER');
  for (let i = 0; i < argv.length; i++) {
    const [name, inline] = argv[i].startsWith('--driver=')
      ? ['--driver', argv[i].slice('--driver='.length)]
      : [argv[i], undefined];
    if (name === '--help' || name === '-h') parsed.help = true;
    else if (name === '--probe') parsed.probe = true;
    else if (name === '--no-driver') parsed.driver = false;
    else if (name === '--driver') {
      parsed.request = asRequest(inline ?? argv[++i], '--driver');
      parsed.keep = true;
    } else throw new SetupError(`unknown option ${name}\n\n${HELP}`);
  }
  if (parsed.keep && !parsed.driver) throw new SetupError('--driver and --no-driver exclude each other');
  return parsed;
}

/** The fields of /etc/os-release, unquoted. @param {string} text @returns {Record<string, string>} */
export function parseOsRelease(text) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of text.split('\n')) {
    const match = /^([A-Z0-9_]+)=(.*)$/.exec(line.trim());
    if (match) fields[match[1]] = match[2].replace(/^(["'])(.*)\1$/, '$2').replace(/\\(["$`\\])/g, '$1');
  }
  return fields;
}

/** Debian, Ubuntu, or made from them. @param {Record<string, string>} osRelease */
export function usesApt(osRelease) {
  return [osRelease.ID, ...(osRelease.ID_LIKE ?? '').split(' ')].some((id) => id === 'debian' || id === 'ubuntu');
}

/**
 * Where a lavapipe that Dawn accepts comes from, by what `apt-cache policy mesa-vulkan-drivers` printed.
 * @param {Record<string, string>} osRelease @param {string} policy @returns {'release' | 'backports' | null}
 */
export function mesaSource(osRelease, policy) {
  const candidate = /^\s*Candidate:\s*(?:\d+:)?(\d+)\./m.exec(policy);
  if (candidate && Number(candidate[1]) >= MIN_MESA) return 'release';
  return osRelease.ID === 'debian' && osRelease.VERSION_CODENAME === 'bookworm' ? 'backports' : null;
}

/** The files of an uncompressed ustar archive. Throws on what is neither file nor folder, and on damage. @param {Buffer} archive */
export function readTar(archive) {
  /** @type {{ name: string, mode: number, data: Buffer }[]} */
  const files = [];
  for (let offset = 0; ; ) {
    const header = archive.subarray(offset, offset + 512);
    if (header.length < 512)
      throw new SetupError(`tar archive: ends at byte ${archive.length}, within or before the header at ${offset}`);
    if (header.every((byte) => byte === 0)) return files;
    const text = (/** @type {number} */ from, /** @type {number} */ to) =>
      header.toString('utf8', from, to).replace(/\0.*$/s, '');
    const number = (/** @type {number} */ from, /** @type {number} */ to) => parseInt(text(from, to).trim() || '0', 8);
    // The checksum field itself counts as eight blanks.
    const sum = header.reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 32 : byte), 0);
    if (sum !== number(148, 156)) throw new SetupError(`tar archive: wrong checksum in the header at byte ${offset}`);
    const prefix = text(257, 262) === 'ustar' ? text(345, 500) : '';
    const name = (prefix ? `${prefix}/` : '') + text(0, 100);
    const size = number(124, 136);
    const type = text(156, 157) || '0';
    const data = archive.subarray(offset + 512, offset + 512 + size);
    if (data.length < size)
      throw new SetupError(`tar archive: ${name} must have ${size} bytes, the archive ends after ${data.length}`);
    if (type === '0') files.push({ name, mode: number(100, 108) & 0o777, data });
    else if (type !== '5')
      throw new SetupError(`tar archive: ${name} is of type ${JSON.stringify(type)}; only files and folders are known`);
    offset += 512 + Math.ceil(size / 512) * 512;
  }
}

/** Changes when what has to be installed changes: the package's dependencies, the platform. @param {string} packageJson the file's text */
export function dependencyHash(packageJson) {
  const { dependencies, devDependencies, optionalDependencies, overrides } = JSON.parse(packageJson);
  const relevant = JSON.stringify([
    dependencies,
    devDependencies,
    optionalDependencies,
    overrides,
    process.platform,
    process.arch,
  ]);
  return createHash('sha256').update(relevant).digest('hex').slice(0, 16);
}

/** Whether node_modules holds the very versions that package.json names: npm would ask the network even so. @param {string} root @param {string} packageJson */
export function packagesInstalled(root, packageJson) {
  const { dependencies, devDependencies } = JSON.parse(packageJson);
  return Object.entries({ ...dependencies, ...devDependencies }).every(([name, version]) => {
    const file = path.join(root, 'node_modules', name, 'package.json');
    return existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).version === version;
  });
}

/** The Vulkan driver manifests of some folders, with the time of their last change. @param {readonly string[]} directories */
function listManifests(directories) {
  return directories
    .filter((directory) => existsSync(directory))
    .flatMap((directory) =>
      readdirSync(directory)
        .filter((name) => name.endsWith('.json'))
        .sort()
        .map((name) => ({
          file: path.join(directory, name),
          changed: statSync(path.join(directory, name), { throwIfNoEntry: false })?.mtimeMs ?? 0,
        })),
    );
}

/** Changes when a Vulkan driver is installed, upgraded or removed, so that a GPU that arrives later is found. @returns {string} */
export function manifestFingerprint(directories = [...MANIFEST_DIRECTORIES, ...MOUNTED_DIRECTORIES]) {
  return createHash('sha256')
    .update(JSON.stringify(listManifests(directories)))
    .digest('hex')
    .slice(0, 16);
}

/** @param {string} cpuinfo /proc/cpuinfo */
export function hasAvx512(cpuinfo) {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1].trim().split(/\s+/) ?? [];
  return AVX512.every((flag) => flags.includes(flag));
}

/** What the choice of a width depends on: virtual machines give processors with and without AVX-512 one name. @param {string} cpuinfo /proc/cpuinfo */
export function processorName(cpuinfo) {
  return `${/^model name\s*:(.*)$/m.exec(cpuinfo)?.[1].trim() ?? 'unknown'}, ${hasAvx512(cpuinfo) ? 'with' : 'without'} AVX-512`;
}

/** /proc/cpuinfo; empty where there is none. */
const readCpuinfo = () => (existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '');

/**
 * The width of lavapipe's vectors by what was measured, the best rate of each width: 512 bits only if nothing failed or computed wrongly, and it is clearly faster.
 * @param {readonly WidthMeasurement[]} measurements at least one of each width, or up to the first that failed @returns {VectorChoice}
 */
export function chooseVectorBits(measurements) {
  for (const { bits, value, problem } of measurements) {
    const failure =
      value === null
        ? problem
        : value.passed
          ? null
          : `a product is wrong by ${value.error ?? 'NaN'} (at most ${value.tolerance})`;
    if (failure !== null)
      return { bits: null, why: `vectors as wide as lavapipe takes them, since with ${bits} bits ${failure}` };
  }
  const best = (/** @type {number} */ bits) =>
    Math.max(
      ...measurements.filter((measurement) => measurement.bits === bits).map(({ value }) => value?.gflops ?? NaN),
    );
  const [narrow, wide] = [best(256), best(512)];
  const measured = `vectors of 512 bits: ${wide.toFixed(0)} GFLOP/s, of 256: ${narrow.toFixed(0)}`;
  return wide >= WORTHWHILE * narrow
    ? { bits: 512, why: measured }
    : { bits: null, why: `${measured}; that is less than 10 % faster, so lavapipe keeps its own width` };
}

/** Whether lavapipe checks bounds itself, by what was seen: only if nothing failed or escaped. @param {readonly BoundsReading[]} readings one of each width of vectors, or up to the first that failed @returns {BoundsChoice} */
export function chooseBounds(readings) {
  for (const { value, problem } of readings) {
    const failure = value === null ? problem : value.escape;
    if (failure !== null) return { checks: false, why: `with Dawn's checks of bounds, since without them ${failure}` };
  }
  return { checks: true, why: "without Dawn's checks of bounds, since it has its own" };
}

/** The stored choices, none of them where an older set-up wrote the file; null when there is no file. Throws when it cannot be understood. @param {string} file @returns {State | null} */
export function readState(file) {
  if (!existsSync(file)) return null;
  let state;
  try {
    state = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new SetupError(`${file}: not readable as JSON (${messageOf(error)})`);
  }
  if (state?.format === 1 || state?.format === 2)
    return { ...state, format: FORMAT, requested: asRequest(state.requested, `${file}: requested`), choices: {} };
  if (state?.format !== FORMAT)
    throw new SetupError(`${file}: format must be ${FORMAT}, got ${JSON.stringify(state?.format)}`);
  if (typeof state.choices !== 'object' || state.choices === null)
    throw new SetupError(`${file}: choices must be an object, got ${JSON.stringify(state.choices)}`);
  asRequest(state.requested, `${file}: requested`);
  return state;
}

/** Written aside and renamed, so that no reader sees half a file. @param {string} file @param {unknown} value */
function writeJson(file, value) {
  mkdirSync(path.dirname(file), { recursive: true });
  const aside = `${file}.${process.pid}`;
  writeFileSync(aside, `${JSON.stringify(value, null, 2)}\n`);
  renameSync(aside, file);
}

/** Whether a stored choice still holds, by a few file checks. @param {Choice | undefined} choice @param {Request} request */
export function stillHolds(
  choice,
  request,
  fingerprint = manifestFingerprint(),
  processor = processorName(readCpuinfo()),
) {
  if (choice === undefined) return false;
  if (choice.driver === 'lavapipe' && choice.processor !== processor) return false;
  // A lavapipe that was upgraded may check less, or be faster with other vectors.
  if ((request === 'auto' || choice.driver === 'lavapipe') && choice.installed !== fingerprint) return false;
  return [...choice.manifests, choice.loader, choice.systemLoader].every((file) => !file || existsSync(file));
}

/**
 * Tries the drivers in order and returns the first that Dawn accepts; throws SetupError, naming every attempt, when none is.
 * @param {Request} request @param {System} system @param {(line: string) => void} say
 * @returns {Omit<Choice, 'installed' | 'processor'>}
 */
export function chooseDriver(request, system, say) {
  /** @type {string[]} */
  const attempts = [];
  let noLavapipe = '';
  const wanted = (/** @type {Request} */ name) => request === 'auto' || request === name;
  const asked = request === 'auto' ? '' : `${request} was asked for; `;
  const choice = (
    /** @type {Choice['driver']} */ driver,
    /** @type {string[]} */ manifests,
    /** @type {string | null} */ systemLoader,
    /** @type {string | null} */ loader,
    /** @type {Adapter} */ adapter,
    {
      hint = '',
      bounds = /** @type {BoundsChoice | null} */ (null),
      vectors = /** @type {VectorChoice | null} */ (null),
    } = {},
  ) => ({
    driver,
    manifests,
    loader,
    systemLoader: loader ? null : systemLoader,
    vectorBits: vectors?.bits ?? null,
    checksBounds: bounds?.checks ?? false,
    adapter,
    why: `${asked}${[...attempts, `Dawn accepts ${adapter.description || adapter.device}`, ...[bounds, vectors].flatMap((part) => part?.why ?? [])].join('; ')}`,
    hint: hint || null,
  });

  if (!system.linux) {
    if (request === 'lavapipe' || request === 'swiftshader')
      throw new SetupError(`driver ${request} is for Linux; elsewhere WebGPU has the system's own Metal or Direct3D`);
    const { adapter, problem } = system.probe([], null);
    if (adapter && !adapter.fallback) return choice('gpu', [], null, null, adapter);
    attempts.push(adapter ? `no GPU, only ${adapter.description || adapter.device}` : `no adapter: ${problem}`);
    if (adapter && request === 'auto') return choice('software', [], null, null, adapter);
    throw new SetupError(`no WebGPU adapter: ${attempts.join('; ')}`);
  }

  // Many machines, containers above all, have a GPU's driver but no Vulkan loader: then SwiftShader's own loader does it.
  const probe = (/** @type {string[]} */ manifests) => {
    const plain = system.probe(manifests, null);
    const own = plain.adapter || plain.loader ? null : system.swiftShader();
    return own ? { ...system.probe(manifests, own.loader), borrowed: own.loader } : { ...plain, borrowed: null };
  };

  if (wanted('gpu')) {
    const mounted = system.manifests().filter((file) => MOUNTED_DIRECTORIES.includes(path.dirname(file)));
    if (system.manifests().length === 0) attempts.push('no GPU: no Vulkan driver is installed');
    for (const manifests of system.manifests().length === 0 ? [] : mounted.length ? [[], mounted] : [[]]) {
      const { adapter, problem, loader, borrowed } = probe(manifests);
      if (adapter && !adapter.fallback) return choice('gpu', manifests, loader, borrowed, adapter);
      attempts.push(
        `no GPU${manifests.length ? ` by ${manifests.join(', ')}` : ''}: ${adapter ? `only ${adapter.description || adapter.device}` : problem}`,
      );
    }
  }

  if (wanted('lavapipe')) {
    const tryLavapipe = () => {
      const manifests = system.manifests().filter((file) => /^lvp_icd.*\.json$/.test(path.basename(file)));
      if (manifests.length === 0) return null;
      const { adapter, problem, loader, borrowed } = probe(manifests);
      if (adapter) {
        const bounds = system.bounds(manifests, borrowed); // first: widths are compared as later programs run
        return choice('lavapipe', manifests, loader, borrowed, adapter, {
          bounds,
          vectors: system.vectorBits(manifests, borrowed, bounds.checks),
        });
      }
      attempts.push(`the installed lavapipe is not accepted: ${problem}`);
      return null;
    };
    const present = tryLavapipe();
    if (present) return present;
    const refusal = system.installLavapipe();
    noLavapipe = `lavapipe not installed: ${refusal}`;
    attempts.push(refusal === null ? 'lavapipe installed with apt' : noLavapipe);
    const installed = refusal === null ? tryLavapipe() : null;
    if (installed) return installed;
  }

  if (wanted('swiftshader')) {
    const own = system.swiftShader();
    if (own) {
      say('SwiftShader unpacked from the npm package @sparticuz/chromium');
      const { adapter, problem, loader, borrowed } = probe([own.manifest]);
      if (adapter)
        return choice('swiftshader', [own.manifest], loader, borrowed, adapter, {
          hint: request === 'auto' ? `${noLavapipe}; for a driver several times as fast: ${system.lavapipeHint()}` : '',
        });
      attempts.push(`SwiftShader does not start: ${problem}`);
    } else attempts.push(`SwiftShader: @sparticuz/chromium is built for x64, this is ${process.arch}`);
  }
  throw new SetupError(
    `no WebGPU adapter${request === 'auto' ? '' : ` by driver ${request}`}: ${attempts.join('; ')}${request === 'swiftshader' || request === 'gpu' ? '' : `\nto install lavapipe: ${system.lavapipeHint()}`}`,
  );
}

/** Asks Dawn in this very process and prints a Probe as JSON: what `--probe`, the child process, does. */
async function printProbe() {
  /** @type {Probe} */
  const result = { adapter: null, loader: null, problem: 'Dawn finds no adapter it accepts' };
  try {
    // The package is there only after the installation, hence no import at the top; its name in a variable keeps that clear to type checkers too.
    const name = 'webgpu';
    const { create } = await import(name);
    const gpu = create([]);
    const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
    if (process.platform === 'linux')
      result.loader = /(\/\S*libvulkan\.so\S*)/.exec(readFileSync('/proc/self/maps', 'utf8'))?.[1] ?? null;
    if (adapter) {
      const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
      await doubleOnDevice(await adapter.requestDevice());
      result.adapter = { vendor, architecture, device, description, fallback: Boolean(isFallbackAdapter) };
      result.problem = null;
    }
  } catch (error) {
    result.problem = messageOf(error);
  }
  process.stdout.write(JSON.stringify(result));
}

/** A first shader: throws unless it computes. @param {GPUDevice} device */
async function doubleOnDevice(device) {
  const usage = { mapRead: 1, copySource: 4, copyDestination: 8, storage: 128 };
  const code =
    '@group(0) @binding(0) var<storage, read_write> x: array<f32>;\n@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] = 2 * f32(id.x); }';
  const data = device.createBuffer({ size: 256, usage: usage.storage | usage.copySource });
  const read = device.createBuffer({ size: 256, usage: usage.mapRead | usage.copyDestination });
  const pipeline = device.createComputePipeline({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }) },
  });
  const commands = device.createCommandEncoder();
  const pass = commands.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: data } }],
    }),
  );
  pass.dispatchWorkgroups(1);
  pass.end();
  commands.copyBufferToBuffer(data, 0, read, 0, 256);
  device.queue.submit([commands.finish()]);
  await read.mapAsync(1);
  const numbers = new Float32Array(read.getMappedRange().slice(0));
  device.destroy();
  if (!numbers.every((value, i) => value === 2 * i)) throw new Error('the adapter computed 2 * 3 wrongly');
}

/**
 * Runs Dawn in a child process, a Node program that prints JSON.
 * @param {string[]} program Node's arguments @param {string} directory to run it in
 * @param {string[]} manifests @param {string | null} loader of the driver to run on @param {Record<string, string>} variables further ones of its environment
 * @returns {{ value: any, problem: null } | { value: null, problem: string }}
 */
function askChild(program, directory, manifests, loader, variables) {
  const environment = { ...process.env, ...variables };
  if (manifests.length) environment.VK_DRIVER_FILES = environment.VK_ICD_FILENAMES = manifests.join(path.delimiter); // loaders before 1.3.207 know the second name only
  if (loader)
    environment.LD_LIBRARY_PATH = [path.dirname(loader), process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  const child = spawnSync(process.execPath, program, {
    cwd: directory,
    env: environment,
    encoding: 'utf8',
    timeout: CHILD_TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  try {
    return { value: JSON.parse(child.stdout), problem: null };
  } catch {
    const reason = child.error
      ? messageOf(child.error)
      : child.signal
        ? `ended by ${child.signal}`
        : `exit code ${child.status}`;
    return {
      value: null,
      problem: `Dawn's process failed (${reason}) ${child.stderr?.trim().split('\n').at(-1) ?? ''}`.trim(),
    };
  }
}

/** @param {string} root @param {string[]} manifests @param {string | null} loader @returns {Probe} */
function probeInChild(root, manifests, loader) {
  // Without Mesa's shader cache: what other programs left there may be of another vector width (engine/node/index.ts, lavapipeEnvironment).
  const { value, problem } = askChild([fileURLToPath(import.meta.url), '--probe'], root, manifests, loader, {
    MESA_SHADER_CACHE_DISABLE: 'true',
  });
  return value ?? { adapter: null, loader: null, problem };
}

/** Sees whether lavapipe checks bounds itself, with vectors of every width that it may run with. @param {string} root @param {string[]} manifests @param {string | null} loader @param {(line: string) => void} say @returns {BoundsChoice} */
function testBounds(root, manifests, loader, say) {
  say('testing whether lavapipe checks bounds itself');
  const program = ['--import', 'tsx', fileURLToPath(new URL('bounds.ts', import.meta.url))];
  /** @type {BoundsReading[]} */
  const readings = [];
  for (const width of hasAvx512(readCpuinfo()) ? ['256', '512'] : [null]) {
    const answer = askChild(program, root, manifests, loader, {
      MESA_SHADER_CACHE_DISABLE: 'true',
      DSRCNN_ROBUSTNESS: 'off',
      ...(width === null ? {} : { LP_NATIVE_VECTOR_WIDTH: width }),
    });
    readings.push(answer);
    if (answer.value?.escape !== null) break;
  }
  return chooseBounds(readings);
}

/** Measures lavapipe's vector widths, where the processor has vectors of 512 bits. @param {string} root @param {string} cache @param {string[]} manifests @param {string | null} loader @param {boolean} checksBounds @param {(line: string) => void} say @returns {VectorChoice} */
function measureVectorBits(root, cache, manifests, loader, checksBounds, say) {
  if (!hasAvx512(readCpuinfo()))
    return { bits: null, why: 'vectors as wide as lavapipe takes them, since this processor has no AVX-512' };
  say('measuring lavapipe with vectors of 256 and 512 bits');
  const program = ['--import', 'tsx', fileURLToPath(new URL('vector-width.ts', import.meta.url))];
  /** @type {WidthMeasurement[]} */
  const measurements = [];
  // Twice and in turns: a machine that other programs slow down for a while does not decide.
  for (const bits of /** @type {const} */ ([256, 512, 256, 512])) {
    const shaders = path.join(cache, `lavapipe-${bits}`);
    mkdirSync(shaders, { recursive: true });
    const answer = askChild(program, root, manifests, loader, {
      LP_NATIVE_VECTOR_WIDTH: String(bits),
      MESA_SHADER_CACHE_DIR: shaders,
      DSRCNN_ROBUSTNESS: checksBounds ? 'off' : 'on',
    });
    measurements.push({ bits, ...answer });
    if (!answer.value?.passed) break;
  }
  return chooseVectorBits(measurements);
}

/** The command that brings lavapipe, by hand. @param {Record<string, string>} osRelease */
export function lavapipeHint(osRelease) {
  const again = 'npm run setup -- --driver auto';
  if (osRelease.ID === 'debian' && osRelease.VERSION_CODENAME === 'bookworm') {
    return `echo '${BACKPORTS_LINE}' | sudo tee ${BACKPORTS_LIST} && sudo apt-get update && sudo apt-get install -t bookworm-backports mesa-vulkan-drivers libvulkan1 && ${again}`;
  }
  if (usesApt(osRelease))
    return `sudo apt-get install mesa-vulkan-drivers libvulkan1 (Mesa ${MIN_MESA} or newer) && ${again}`;
  return `install the Vulkan loader and Mesa ${MIN_MESA} or newer with its Vulkan driver lavapipe, then ${again}`;
}

/** Installs lavapipe with apt. @param {Record<string, string>} osRelease @param {(line: string) => void} say @returns {string | null} null, or why not */
function installLavapipe(osRelease, say) {
  if (!usesApt(osRelease)) return `no apt on ${osRelease.PRETTY_NAME ?? 'this system'}`;
  if (process.getuid?.() !== 0) return 'not root';
  const environment = { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' };
  const run = (/** @type {string} */ command, /** @type {string[]} */ args) => {
    const child = spawnSync(command, args, { encoding: 'utf8', env: environment, maxBuffer: 2 ** 26 });
    const output = `${child.stdout ?? ''}${child.stderr ?? ''}`.trim();
    return {
      ok: child.status === 0,
      output,
      problem: child.error
        ? messageOf(child.error)
        : output
            .split('\n')
            .filter((line) => /^E:/.test(line))
            .join(' ') || `exit code ${child.status}`,
    };
  };
  const apt = (/** @type {string[]} */ ...args) =>
    run('apt-get', ['-q', '-y', '-o', 'DPkg::Lock::Timeout=120', ...args]);
  say('looking for lavapipe, the fast software driver, with apt');
  apt('update'); // where it fails, the next lines may do with the old lists, or say what is missing
  const source = mesaSource(osRelease, run('apt-cache', ['policy', 'mesa-vulkan-drivers']).output);
  if (source === null)
    return `${osRelease.PRETTY_NAME} has no Mesa ${MIN_MESA} or newer (or its package lists cannot be read)`;
  const hasBackports = () => /bookworm-backports/.test(run('apt-cache', ['policy']).output);
  const listed = source === 'release' || hasBackports();
  try {
    if (!listed) {
      say(`adding ${BACKPORTS_LIST}`);
      writeFileSync(BACKPORTS_LIST, `${BACKPORTS_LINE}\n`);
      const { output } = apt('update'); // apt's exit code is 0 also where it could not fetch a list
      if (!hasBackports())
        throw new SetupError(`apt-get update: ${/^[EW]: .*/m.exec(output)?.[0] ?? 'no list of bookworm-backports'}`);
    }
    say('installing mesa-vulkan-drivers and libvulkan1 with apt: about 100 MB to fetch, once');
    const installed = apt(
      'install',
      '--no-install-recommends',
      ...(source === 'backports' ? ['-t', 'bookworm-backports'] : []),
      'mesa-vulkan-drivers',
      'libvulkan1',
    );
    if (!installed.ok) throw new SetupError(`apt-get install: ${installed.problem}`);
    return null;
  } catch (error) {
    if (!listed) rmSync(BACKPORTS_LIST, { force: true });
    return messageOf(error);
  }
}

/** Unpacks SwiftShader and its Vulkan loader from @sparticuz/chromium. @param {string} root @param {string} cache @returns {SwiftShader | null} */
export function unpackSwiftShader(root, cache) {
  if (process.platform !== 'linux' || process.arch !== 'x64') return null;
  const directory = path.join(cache, 'swiftshader');
  const archive = path.join(
    path.dirname(createRequire(path.join(root, 'package.json')).resolve('@sparticuz/chromium')),
    '../../bin/swiftshader.tar.br',
  );
  const files = readTar(brotliDecompressSync(readFileSync(archive)));
  const aside = `${directory}.${process.pid}`;
  mkdirSync(aside, { recursive: true });
  for (const wanted of SWIFTSHADER_FILES) {
    const file = files.find(({ name }) => path.posix.normalize(name) === wanted);
    if (!file) throw new SetupError(`${archive}: has no ${wanted}, only ${files.map(({ name }) => name).join(', ')}`);
    writeFileSync(path.join(aside, wanted), file.data);
    chmodSync(path.join(aside, wanted), file.mode | 0o444);
  }
  rmSync(directory, { recursive: true, force: true });
  renameSync(aside, directory);
  return { loader: path.join(directory, 'libvulkan.so.1'), manifest: path.join(directory, 'vk_swiftshader_icd.json') };
}

/** Runs npm install in `root`, its output on stderr: the stdout of a script belongs to what it prints. None of the packages needs its install scripts, and newer npm versions do not run them unasked. @param {string} root */
function npmInstall(root) {
  // npm's own pauses between attempts, up to a minute for each package, would let a machine without network wait for an hour.
  const args = [
    'install',
    '--include=dev',
    '--ignore-scripts',
    '--no-progress',
    '--no-update-notifier',
    '--loglevel=error',
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
      `npm install failed in ${root} (exit code ${child.status}); its messages are above. It needs the network once.`,
    );
}

/** The machine as chooseDriver sees it. @param {string} root @param {string} cache @param {(line: string) => void} say @returns {System} */
function thisSystem(root, cache, say) {
  const osRelease = parseOsRelease(existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '');
  /** @type {SwiftShader | null | undefined} */
  let swiftShader;
  return {
    linux: process.platform === 'linux',
    manifests: () => listManifests([...MANIFEST_DIRECTORIES, ...MOUNTED_DIRECTORIES]).map(({ file }) => file),
    probe: (manifests, loader) => probeInChild(root, manifests, loader),
    bounds: (manifests, loader) => testBounds(root, manifests, loader, say),
    vectorBits: (manifests, loader, checksBounds) =>
      measureVectorBits(root, cache, manifests, loader, checksBounds, say),
    installLavapipe: () => installLavapipe(osRelease, say),
    swiftShader: () => (swiftShader === undefined ? (swiftShader = unpackSwiftShader(root, cache)) : swiftShader),
    lavapipeHint: () => lavapipeHint(osRelease),
  };
}

/**
 * The whole set-up of the package in `root`.
 * @param {object} options
 * @param {string} options.root the folder of package.json
 * @param {readonly string[]} options.argv
 * @param {NodeJS.ProcessEnv} options.environment
 * @param {(line: string) => void} options.say
 * @param {(root: string, cache: string, say: (line: string) => void) => System} [options.system]
 */
export function setUp({ root, argv, environment, say, system = thisSystem }) {
  const options = parseArguments(argv, environment);
  const cache = path.join(root, 'node_modules/.cache/dynamic-sparse-rcnn');
  const packageJson = readFileSync(path.join(root, 'package.json'), 'utf8');
  const dependencies = dependencyHash(packageJson);

  const installedFile = path.join(cache, 'installed.json');
  const installed = existsSync(installedFile) ? readFileSync(installedFile, 'utf8') : '';
  // As somebody's dependency the packages are that project's affair.
  if (!root.split(path.sep).includes('node_modules') && !installed.includes(dependencies)) {
    if (!packagesInstalled(root, packageJson)) {
      say(`set-up: installing the npm packages in ${root}`);
      npmInstall(root);
    }
    writeJson(installedFile, { dependencies });
  }
  if (!options.driver) return;

  const named = environment.VK_DRIVER_FILES
    ? 'VK_DRIVER_FILES'
    : environment.VK_ICD_FILENAMES
      ? 'VK_ICD_FILENAMES'
      : null;
  if (named && options.request === null)
    return say(`set-up: ${named} is set and decides on the driver; nothing chosen`);

  const file = path.join(cache, 'driver.json');
  /** @type {State | null} */
  let stored = null;
  try {
    stored = readState(file);
  } catch (error) {
    say(`set-up: choosing the driver anew, since ${messageOf(error)}`);
  }
  const state =
    stored?.dependencies === dependencies
      ? stored
      : { format: FORMAT, dependencies, requested: stored?.requested ?? 'auto', choices: {} };
  const request = options.request ?? state.requested;
  if (!options.keep && stillHolds(state.choices[request], request)) return;

  const chosen = chooseDriver(
    request,
    system(root, cache, (line) => say(`set-up: ${line}`)),
    (line) => say(`set-up: ${line}`),
  );
  state.choices[request] = { ...chosen, installed: manifestFingerprint(), processor: processorName(readCpuinfo()) };
  if (options.keep) state.requested = request;
  writeJson(file, state);
  say(
    `set-up: WebGPU runs on ${chosen.driver} (${chosen.adapter.description || chosen.adapter.device})${chosen.vectorBits ? `, with vectors of ${chosen.vectorBits} bits` : ''}${options.request && !options.keep ? ', for this run' : ''}; npm run doctor says why`,
  );
  if (chosen.hint) say(`set-up: ${chosen.hint}`);
}

async function main() {
  const argv = process.argv.slice(2);
  const [major, minor] = process.versions.node.split('.').map(Number);
  try {
    if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1]))
      throw new SetupError(`Node ${MIN_NODE.join('.')} or newer is needed, this is ${process.versions.node}`);
    const { help, probe } = parseArguments(argv, process.env);
    if (help) process.stdout.write(`${HELP}\n`);
    else if (probe) await printProbe();
    else
      setUp({
        root: path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..'),
        argv,
        environment: process.env,
        say: (line) => process.stderr.write(`${line}\n`),
      });
  } catch (error) {
    const system = error instanceof Error && 'code' in error && 'syscall' in error; // a full disk, a folder without rights: no stack either
    if (!(error instanceof SetupError) && !system) throw error;
    process.stderr.write(`set-up: ${error.message}\n`);
    process.exitCode = 2;
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === realpathSync(fileURLToPath(import.meta.url))) await main();
