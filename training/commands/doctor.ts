/** `doctor`: which adapter and driver WebGPU runs on here and why, what they offer, and a self-test of about a second. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import type { Device } from '../../engine/index.ts';
import { dawnFlags, openDevice, readDriverChoice, userVulkanVariable } from '../../engine/node/index.ts';
import { InputError } from '../core/errors.ts';
import { passes, selfTest } from '../setup/self-test.ts';

export const DOCTOR_HELP = `usage: npm run doctor

Prints the WebGPU adapter, its driver and why set-up chose it, features, limits, versions, and a self-test of about a second.
Exit code: 0 all is well, 1 the self-test failed, 2 there is no adapter.

  --help           this text

environment:
  DSRCNN_DRIVER=NAME            auto, gpu, lavapipe or swiftshader, for this run (npm run setup -- --help)
  LP_NATIVE_VECTOR_WIDTH=256    bits of lavapipe's vectors (or 512), for this run
  DSRCNN_ROBUSTNESS=on          Dawn's checks of bounds also where the driver has its own (off: never), for this run`;

/** The limits that decide how large the kernels' work may be. */
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
  const file =
    name === '.'
      ? new URL('../../package.json', import.meta.url)
      : createRequire(import.meta.url).resolve(`${name}/package.json`);
  const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
  return version;
}

/** Bits of lavapipe's vectors, as it names itself, e.g. "llvmpipe-llvm-15-0-6-256-bits-". */
export function vectorBits(device: string): number | null {
  const bits = /^llvmpipe\b.*?(\d+)-bits/.exec(device)?.[1];
  return bits === undefined ? null : Number(bits);
}

/** Who checks the bounds of buffers and textures; once a device is open. */
function boundsChecks(): string {
  const named = process.env.DSRCNN_ROBUSTNESS;
  if (named) return `${named === 'on' ? 'checked by Dawn' : 'not checked by Dawn'}, by DSRCNN_ROBUSTNESS=${named}`;
  return dawnFlags().some((flag) => flag.includes('disable_robustness'))
    ? 'checked by the driver itself, so Dawn leaves its own checks out'
    : 'checked by Dawn';
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

  print(
    'versions',
    `dynamic-sparse-rcnn-webgpu ${packageVersion('.')}, webgpu (Dawn) ${packageVersion('webgpu')}, Node ${process.versions.node}`,
  );
  print(
    'machine',
    `${os.type()} ${os.release()} ${process.arch}, ${os.availableParallelism()} processors (${os.cpus()[0]?.model.trim() ?? 'unknown'})`,
  );

  let device: Device;
  let reasonForWidth = "lavapipe's own choice";
  try {
    const choice = readDriverChoice();
    if (process.env.LP_NATIVE_VECTOR_WIDTH)
      reasonForWidth = `by LP_NATIVE_VECTOR_WIDTH=${process.env.LP_NATIVE_VECTOR_WIDTH}`;
    else if (choice?.vectorBits && !userVulkanVariable()) reasonForWidth = 'the faster ones, as set-up measured';
    const variable = userVulkanVariable();
    if (variable) {
      print('driver', `the one that ${variable}=${process.env[variable]} names`);
      print('why', `${variable} is set, and DSRCNN_DRIVER is not: set-up's choice does not count`);
    } else if (choice) {
      print(
        'driver',
        `${choice.driver}${choice.forced ? `, by DSRCNN_DRIVER=${choice.request} for this run` : choice.request === 'auto' ? '' : `, by npm run setup -- --driver ${choice.request}`}`,
      );
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
    print(
      'adapter',
      `${info.description || 'without a description'} (vendor ${info.vendor || 'unknown'}, architecture ${info.architecture || 'unknown'})`,
    );
    if (mesa) print('', `Mesa ${mesa}`);
    const bits = vectorBits(device.gpu.adapterInfo.device);
    if (bits !== null) {
      print('vectors', `of ${bits} bits, ${reasonForWidth}`);
      const { MESA_SHADER_CACHE_DISABLE: disabled, MESA_SHADER_CACHE_DIR: folder } = process.env;
      print(
        '',
        disabled
          ? `MESA_SHADER_CACHE_DISABLE=${disabled}`
          : folder
            ? `compiled shaders in ${folder}`
            : "compiled shaders in Mesa's own folder, shared with other programs",
      );
    }
    print('bounds', boundsChecks());
    print(
      'subgroups',
      device.subgroupSize > 0
        ? `of ${device.subgroupSize} lanes`
        : 'not used: the adapter has none, or of several sizes',
    );
    print(
      'half',
      info.features.includes('shader-f16')
        ? '--half of predict, evaluate and tune is possible'
        : '--half is not possible: the adapter lacks shader-f16',
    );
    print('features', info.features.join(', '));
    for (const [i, name] of LIMITS.entries()) {
      const limit = device.limits[name];
      print(
        i === 0 ? 'limits' : '',
        `${name} ${BYTE_LIMITS.includes(name) ? formatBytes(limit) : limit.toLocaleString('en')}`,
      );
    }
    let failed = false;
    for (const [i, test] of (await selfTest(device)).entries()) {
      const passed = passes(test);
      failed ||= !passed;
      print(
        i === 0 ? 'self-test' : '',
        `${test.name}: ${passed ? 'ok' : 'FAILED'}, largest error ${test.error.toExponential(1)} (at most ${test.tolerance}), ${test.rate.toFixed(1)} ${test.unit}`,
      );
    }
    return failed ? 1 : 0;
  } catch (error) {
    print('self-test', `FAILED: ${error instanceof Error ? error.message : String(error)}`);
    return 1;
  } finally {
    device.destroy();
  }
}
