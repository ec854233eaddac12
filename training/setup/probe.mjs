// @ts-check
/**
 * A program that set-up runs in a child process. It runs a shader on the adapter that Dawn finds, and prints a Probe as
 * JSON.
 */
import { readFileSync } from 'node:fs';
import { messageOf } from './setup-error.mjs';

/** @typedef {import('../../engine/node/driver-file.mjs').Adapter} Adapter */
/**
 * The adapter that Dawn found.
 * @typedef {object} Probe
 * @property {Adapter | null} adapter null if there is none, or if it failed
 * @property {string | null} loader the libvulkan that Dawn loaded
 * @property {string | null} problem why there is no adapter
 */

/** Dawn's instance. It must stay referenced as long as a device lives. @type {GPU | null} */
let instance = null;

/** @returns {Promise<Probe>} */
async function probe() {
  /** @type {Probe} */
  const result = { adapter: null, loader: null, problem: 'Dawn finds no adapter it accepts' };
  try {
    // Loading Dawn may fail too, for example on another platform.
    const { create } = await import('webgpu');
    instance = create([]);
    const adapter = await instance.requestAdapter({ powerPreference: 'high-performance' });
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
  return result;
}

const USAGE = { mapRead: 1, copySource: 4, copyDestination: 8, storage: 128 };
const COUNT = 64;
const CODE = /* wgsl */ `
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(${COUNT}) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] = 2 * f32(id.x); }`;

/**
 * Runs a shader that doubles numbers. Throws if its result is wrong.
 * @param {GPUDevice} device
 */
async function doubleOnDevice(device) {
  const size = COUNT * 4;
  const data = device.createBuffer({ size, usage: USAGE.storage | USAGE.copySource });
  const read = device.createBuffer({ size, usage: USAGE.mapRead | USAGE.copyDestination });
  const pipeline = device.createComputePipeline({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code: CODE }) },
  });
  const entries = [{ binding: 0, resource: { buffer: data } }];
  const commands = device.createCommandEncoder();
  const pass = commands.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
  commands.copyBufferToBuffer(data, 0, read, 0, size);
  device.queue.submit([commands.finish()]);
  await read.mapAsync(1);
  const numbers = new Float32Array(read.getMappedRange().slice(0));
  device.destroy();
  if (!numbers.every((value, i) => value === 2 * i)) throw new Error('the adapter computed wrong products');
}

process.stdout.write(JSON.stringify(await probe()));
