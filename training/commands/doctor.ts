/**
 * The `doctor` command: prints the adapter and driver of this machine, the reason for this choice, and their features
 * and limits. Then it runs a self-test.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import { errorMessage } from '../../engine/core/errors.ts';
import type { Device } from '../../engine/index.ts';
import {
  dawnFlags,
  openDevice,
  readDriverChoice,
  userVulkanVariable,
  type DriverChoice,
} from '../../engine/node/index.ts';
import { InputError } from '../core/errors.ts';
import { passes, selfTest } from '../setup/self-test.ts';

const HELP = `doctor: shows what this machine offers, and tests whether it works

  npm run doctor

Prints the WebGPU adapter, its driver, why set-up chose it, features, limits, versions,
and the results of a self-test of about a second.
Exit code: 0 all is well, 1 the self-test failed, 2 there is no adapter.

  --help          print this text

environment:
  DSRCNN_DRIVER=NAME            auto, gpu, lavapipe or swiftshader, for this run (npm run setup -- --help)
  LP_NATIVE_VECTOR_WIDTH=256    bits of lavapipe's vectors (or 512), for this run
  DSRCNN_ROBUSTNESS=on          Dawn's bounds checks on every driver (off: on none), for this run`;

/** The limits that decide how much work a kernel can do. */
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupsPerDimension',
  'maxTextureDimension2D',
] as const;
const BYTE_LIMITS: readonly string[] = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxComputeWorkgroupStorageSize',
];
const LABEL_WIDTH = 11;

/** Prints a line of the report. Lines that continue the line above have no label. */
const print = (label: string, text: string): void => console.log(`${label.padEnd(LABEL_WIDTH)}${text}`);

/** For example "8 MiB" for 8,388,608 bytes. */
function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const unit = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(bytes) / 10)));
  return `${Number((bytes / 2 ** (10 * unit)).toFixed(1))} ${units[unit]}`;
}

/** Mesa's version in an adapter's description, for example "llvmpipe: Mesa 25.0.7-2 (LLVM 15.0.6)". */
export function mesaVersion(description: string): string | null {
  return /\bMesa (\d+(?:\.\d+)*)/.exec(description)?.[1] ?? null;
}

/** Bits of lavapipe's vectors in the name of its device, for example "llvmpipe-llvm-15-0-6-256-bits-". */
export function vectorBits(device: string): number | null {
  const bits = /^llvmpipe\b.*?(\d+)-bits/.exec(device)?.[1];
  return bits === undefined ? null : Number(bits);
}

function packageVersion(name: string): string {
  const file =
    name === '.'
      ? new URL('../../package.json', import.meta.url)
      : createRequire(import.meta.url).resolve(`${name}/package.json`);
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return version;
}

/**
 * Runs the command.
 * @returns the exit code: 0 all is well, 1 a self-test failed, 2 there is no adapter
 * @throws InputError if there are arguments
 */
export async function runDoctor(argv: readonly string[]): Promise<number> {
  if (argv.includes('--help') || argv.includes('-h')) {
    console.log(HELP);
    return 0;
  }
  if (argv.length > 0) throw new InputError(`doctor: expected no arguments, got ${argv.join(' ')}`);
  printMachine();

  let device: Device;
  let reasonForWidth: string;
  try {
    const choice = readDriverChoice();
    printDriver(choice);
    reasonForWidth = widthReason(choice);
    device = await openDevice();
    if (choice?.loader) print('', `Vulkan loader ${choice.loader}, because the system has none`);
  } catch (error) {
    print('adapter', `none: ${errorMessage(error)}`);
    return 2;
  }

  try {
    printAdapter(device, reasonForWidth);
    printCapabilities(device);
    return (await runSelfTest(device)) ? 0 : 1;
  } catch (error) {
    print('self-test', `FAILED: ${errorMessage(error)}`);
    return 1;
  } finally {
    device.destroy();
  }
}

function printMachine(): void {
  const versions = [
    `dynamic-sparse-rcnn-webgpu ${packageVersion('.')}`,
    `webgpu (Dawn) ${packageVersion('webgpu')}`,
    `Node ${process.versions.node}`,
  ];
  print('versions', versions.join(', '));
  const processor = os.cpus()[0]?.model.trim() ?? 'unknown';
  const system = `${os.type()} ${os.release()} ${process.arch}`;
  print('machine', `${system}, ${os.availableParallelism()} processors (${processor})`);
}

/** The driver, and why it is used. */
function printDriver(choice: DriverChoice | null): void {
  const variable = userVulkanVariable();
  if (variable) {
    print('driver', `the one that ${variable}=${process.env[variable]} names`);
    print('why', `${variable} is set, and DSRCNN_DRIVER is not, so set-up's choice is not used`);
    return;
  }
  if (!choice) {
    print('driver', 'what Dawn finds by itself, because set-up has not run (npm run setup)');
    return;
  }
  print('driver', `${choice.driver}${requestOf(choice)}`);
  print('why', choice.why);
  if (choice.manifests.length) print('', `Vulkan driver ${choice.manifests.join(', ')}`);
  if (choice.hint) print('faster', choice.hint);
}

/** The source of the request for this driver; empty for an automatic choice. */
function requestOf({ request, forced }: DriverChoice): string {
  if (forced) return `, by DSRCNN_DRIVER=${request} for this run`;
  return request === 'auto' ? '' : `, by npm run setup -- --driver ${request}`;
}

function printAdapter(device: Device, reasonForWidth: string): void {
  const { description, vendor, architecture } = device.info;
  const name = description || 'without a description';
  print('adapter', `${name} (vendor ${vendor || 'unknown'}, architecture ${architecture || 'unknown'})`);
  const mesa = mesaVersion(description);
  if (mesa) print('', `Mesa ${mesa}`);
  const bits = vectorBits(device.gpu.adapterInfo.device);
  if (bits !== null) {
    print('vectors', `of ${bits} bits, ${reasonForWidth}`);
    print('', shaderCache());
  }
  print('bounds', boundsChecks());
}

/** Why lavapipe runs with its vector width. Call it before a device is opened, because that sets the variable. */
function widthReason(choice: DriverChoice | null): string {
  const named = process.env.LP_NATIVE_VECTOR_WIDTH;
  if (named) return `by LP_NATIVE_VECTOR_WIDTH=${named}`;
  return choice?.vectorBits && !userVulkanVariable() ? 'the faster width, as set-up measured' : "lavapipe's own choice";
}

/** Where lavapipe keeps compiled shaders. */
function shaderCache(): string {
  const { MESA_SHADER_CACHE_DISABLE: disabled, MESA_SHADER_CACHE_DIR: folder } = process.env;
  if (disabled) return `MESA_SHADER_CACHE_DISABLE=${disabled}`;
  return folder ? `compiled shaders in ${folder}` : "compiled shaders in Mesa's own folder, shared with other programs";
}

/** Whether Dawn or the driver checks the bounds of buffers and textures. Call it after a device was opened. */
function boundsChecks(): string {
  const named = process.env.DSRCNN_ROBUSTNESS;
  if (named) return `${named === 'on' ? 'checked by Dawn' : 'not checked by Dawn'}, by DSRCNN_ROBUSTNESS=${named}`;
  return dawnFlags().some((flag) => flag.includes('disable_robustness'))
    ? "checked by the driver, so Dawn's checks are disabled"
    : 'checked by Dawn';
}

function printCapabilities({ info, limits, subgroupSize }: Device): void {
  print(
    'subgroups',
    subgroupSize > 0 ? `of ${subgroupSize} lanes` : 'not used: the adapter has none, or several sizes',
  );
  print(
    'half',
    info.features.includes('shader-f16')
      ? '--half of predict, evaluate and tune is possible'
      : '--half is not possible: the adapter lacks shader-f16',
  );
  print('features', info.features.join(', '));
  for (const [i, name] of LIMITS.entries()) {
    const limit = limits[name];
    const text = BYTE_LIMITS.includes(name) ? formatBytes(limit) : limit.toLocaleString('en');
    print(i === 0 ? 'limits' : '', `${name} ${text}`);
  }
}

/** Runs the self-tests. Returns whether all passed. */
async function runSelfTest(device: Device): Promise<boolean> {
  const tests = await selfTest(device);
  for (const [i, test] of tests.entries()) {
    const { name, error, tolerance, rate, unit } = test;
    const result = `${passes(test) ? 'ok' : 'FAILED'}, largest error ${error.toExponential(1)} (at most ${tolerance})`;
    print(i === 0 ? 'self-test' : '', `${name}: ${result}, ${rate.toFixed(1)} ${unit}`);
  }
  return tests.every(passes);
}
