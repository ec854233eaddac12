/** `doctor`: which adapter and driver WebGPU runs on here and why, what they offer, and a self-test of about a second. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import { matmul, Random, sigmoid, type Device } from '../engine/index.ts';
import { openDevice, readDriverChoice, userVulkanVariable } from '../engine/node.ts';
import { InputError } from './errors.ts';

export const DOCTOR_HELP = `usage: npm run doctor

Prints the WebGPU adapter, its driver and why set-up chose it, features, limits, versions, and a self-test of about a second.
Exit code: 0 all is well, 1 the self-test failed, 2 there is no adapter.

  --help           this text

environment:
  DSRCNN_DRIVER=NAME    auto, gpu, lavapipe or swiftshader, for this run (npm run setup -- --help)`;

/** The limits that decide how large the kernels' work may be. */
const LIMITS = [
  'maxBufferSize', 'maxStorageBufferBindingSize', 'maxStorageBuffersPerShaderStage', 'maxComputeWorkgroupStorageSize', 'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX', 'maxComputeWorkgroupsPerDimension', 'maxTextureDimension2D',
] as const;
const BYTE_LIMITS: readonly string[] = ['maxBufferSize', 'maxStorageBufferBindingSize', 'maxComputeWorkgroupStorageSize'];

/** 8,388,608 bytes as "8 MiB". */
function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const unit = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(bytes) / 10)));
  return `${Number((bytes / 2 ** (10 * unit)).toFixed(1))} ${units[unit]}`;
}

/** Mesa's version as drivers tell it in an adapter's description, e.g. "llvmpipe: Mesa 25.0.7-2 (LLVM 15.0.6)". */
export function mesaVersion(description: string): string | null {
  return /\bMesa (\d+(?:\.\d+)*)/.exec(description)?.[1] ?? null;
}

function packageVersion(name: string): string {
  const file = name === '.' ? new URL('../package.json', import.meta.url) : createRequire(import.meta.url).resolve(`${name}/package.json`);
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return version;
}

export interface SelfTest {
  readonly name: string;
  /** Largest absolute error against the same in float64. */
  readonly error: number;
  /** What rounding to f32 may cost; the test says why that much. */
  readonly tolerance: number;
  /** What the adapter managed, e.g. "12.3 GB/s". */
  readonly rate: string;
}

/** Repeats `work` for about `milliseconds`; gives seconds a repetition. */
async function secondsEach(device: Device, work: () => void, milliseconds: number): Promise<number> {
  const batch = 8;
  const start = performance.now();
  for (let count = 0; ; ) {
    for (let i = 0; i < batch; i++) device.scope(() => device.noGrad(work));
    await device.synchronize();
    count += batch;
    const elapsed = performance.now() - start;
    if (elapsed >= milliseconds) return elapsed / 1000 / count;
  }
}

/** An elementwise op over an odd number of elements: shaders compile, memory goes up and comes back. */
async function testSigmoid(device: Device): Promise<SelfTest> {
  const count = 2 ** 20 + 1;
  const values = new Float32Array(new Random(1).normalArray(count, 0, 4));
  const input = device.tensor(values);
  const output = sigmoid(input);
  const result = await output.read();
  output.dispose();
  let error = 0;
  for (let i = 0; i < count; i++) error = Math.max(error, Math.abs(result[i] - 1 / (1 + Math.exp(-values[i]))));
  const seconds = await secondsEach(device, () => { sigmoid(input); }, 300);
  input.dispose();
  // WGSL allows exp(x) an error of 3 + 2 |x| ulp: some 40 ulp at |x| = 20.
  return { name: `sigmoid of ${count.toLocaleString('en')} numbers`, error, tolerance: 1e-5, rate: `${(count * 8 / seconds / 1e9).toFixed(1)} GB/s` };
}

/** A product of square matrices, compared in every 61st entry, so that all rows and columns occur. */
async function testMatmul(device: Device): Promise<SelfTest> {
  const size = 512;
  const random = new Random(2);
  const [left, right] = [0, 1].map(() => new Float32Array(random.uniformArray(size * size, -1, 1)));
  const [a, b] = [left, right].map((values) => device.tensor(values, [size, size]));
  const product = matmul(a, b);
  const result = await product.read();
  product.dispose();
  let error = 0;
  for (let entry = 0; entry < size * size; entry += 61) {
    const row = Math.floor(entry / size), column = entry % size;
    let sum = 0;
    for (let k = 0; k < size; k++) sum += left[row * size + k] * right[k * size + column];
    error = Math.max(error, Math.abs(result[entry] - sum));
  }
  const seconds = await secondsEach(device, () => { matmul(a, b); }, 300);
  a.dispose();
  b.dispose();
  // 512 products of size up to 1 summed in any order: at most 512 roundings of sums that stay below about 32.
  return { name: `matmul ${size} x ${size} x ${size}`, error, tolerance: 1e-3, rate: `${(2 * size ** 3 / seconds / 1e9).toFixed(1)} GFLOP/s` };
}

/** The self-tests in order; they take about a second together. */
export async function selfTest(device: Device): Promise<readonly SelfTest[]> {
  return [await testSigmoid(device), await testMatmul(device)];
}

/**
 * Runs the subcommand.
 * @returns the exit code: 0 well, 1 a self-test failed, 2 no adapter
 * Throws InputError for arguments it does not know.
 */
export async function runDoctor(argv: readonly string[]): Promise<number> {
  if (argv.includes('--help') || argv.includes('-h')) {
    console.log(DOCTOR_HELP);
    return 0;
  }
  if (argv.length > 0) throw new InputError(`doctor: takes no arguments, got ${argv.join(' ')}`);
  const print = (label: string, text: string): void => console.log(`${label.padEnd(11)}${text}`);

  print('versions', `dynamic-sparse-rcnn-webgpu ${packageVersion('.')}, webgpu (Dawn) ${packageVersion('webgpu')}, Node ${process.versions.node}`);
  print('machine', `${os.type()} ${os.release()} ${process.arch}, ${os.availableParallelism()} processors (${os.cpus()[0]?.model.trim() ?? 'unknown'})`);

  let device: Device;
  try {
    const choice = readDriverChoice();
    const variable = userVulkanVariable();
    if (variable) {
      print('driver', `the one that ${variable}=${process.env[variable]} names`);
      print('why', `${variable} is set, and DSRCNN_DRIVER is not: set-up's choice does not count`);
    } else if (choice) {
      print('driver', `${choice.driver}${choice.forced ? `, by DSRCNN_DRIVER=${choice.request} for this run` : choice.request === 'auto' ? '' : `, by npm run setup -- --driver ${choice.request}`}`);
      print('why', choice.why);
      if (choice.manifests.length) print('', `Vulkan driver ${choice.manifests.join(', ')}`);
      if (choice.hint) print('faster', choice.hint);
    } else print('driver', 'what Dawn finds by itself: set-up has not run (npm run setup)');
    // Not for unprepared drivers alone: the loader named in the choice may be gone as well.
    device = await openDevice();
    if (choice?.loader) print('', `Vulkan loader ${choice.loader}, since the system has none`);
  } catch (error) {
    print('adapter', `none: ${error instanceof Error ? error.message : String(error)}`);
    return 2;
  }

  try {
    const { info } = device;
    const mesa = mesaVersion(info.description);
    print('adapter', `${info.description || 'without a description'} (vendor ${info.vendor || 'unknown'}, architecture ${info.architecture || 'unknown'})`);
    if (mesa) print('', `Mesa ${mesa}`);
    print('subgroups', device.subgroupSize > 0 ? `of ${device.subgroupSize} lanes` : 'not used: the adapter has none, or of several sizes');
    print('half', info.features.includes('shader-f16') ? '--half of predict, evaluate and tune is possible' : '--half is not possible: the adapter lacks shader-f16');
    print('features', info.features.join(', '));
    for (const [i, name] of LIMITS.entries()) {
      const limit = device.limits[name];
      print(i === 0 ? 'limits' : '', `${name} ${BYTE_LIMITS.includes(name) ? formatBytes(limit) : limit.toLocaleString('en')}`);
    }
    let failed = false;
    for (const [i, test] of (await selfTest(device)).entries()) {
      const passed = test.error <= test.tolerance; // NaN does not pass
      failed ||= !passed;
      print(i === 0 ? 'self-test' : '', `${test.name}: ${passed ? 'ok' : 'FAILED'}, largest error ${test.error.toExponential(1)} (at most ${test.tolerance}), ${test.rate}`);
    }
    return failed ? 1 : 0;
  } catch (error) {
    print('self-test', `FAILED: ${error instanceof Error ? error.message : String(error)}`);
    return 1;
  } finally {
    device.destroy();
  }
}
