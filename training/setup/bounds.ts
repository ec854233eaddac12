/**
 * A test of out-of-bounds accesses: a shader reads and writes beyond the end of the ranges that are bound to it. An
 * access escapes if it reaches other memory. Set-up runs this file as a program on lavapipe, without Dawn's checks, to
 * test whether the driver checks every access. The program prints the result as JSON. Without checks by the driver, the
 * process may crash; set-up counts a crash as a failure.
 */
import { pathToFileURL } from 'node:url';
import { errorMessage } from '../../engine/core/errors.ts';
import { openDevice } from '../../engine/node/index.ts';

export interface BoundsReport {
  /** The first access that escaped; null if none did. */
  readonly escape: string | null;
}

/** Elements of each bound buffer range, and texels of the texture in each direction. */
const ELEMENTS = 16;
/**
 * Indices beyond the end: directly behind the end, further within the same buffer, and far beyond the buffer. Some give
 * an offset in bytes that is negative as a signed number, or that passes 2^31 or 2^32.
 */
const INDICES = [
  16,
  17,
  31,
  32,
  47,
  100,
  1000,
  2 ** 16,
  2 ** 20 + 1,
  2 ** 24,
  2 ** 27,
  2 ** 28 - 1,
  2 ** 28,
  2 ** 28 + 5,
  2 ** 29,
  2 ** 30 - 1,
  2 ** 30,
  2 ** 30 + 5,
  2 ** 31 - 1,
  2 ** 31,
  4e9,
  2 ** 32 - 17,
  2 ** 32 - 2,
  2 ** 32 - 1,
];
const COUNT = INDICES.length;
/**
 * Words of a part of a buffer: 256 bytes, the alignment of bindings. Other data lies before and behind each bound
 * part.
 */
const PART = 64;
/** The value that the shader writes. */
const WRITTEN = -2;
/** The value of `found` before the shader stores a result. */
const UNTOUCHED = -1;

/** A range that is bound to the shader. */
interface Bound {
  readonly name: string;
  /** WGSL that reads the element `index` as a vec4f. */
  readonly load: string;
  /** Its first word in the buffer or texture. */
  readonly first: number;
  readonly words: number;
  /** Words of an element; 0 for texels, whose index is no offset. */
  readonly stride: number;
}

const FLOATS: Bound = {
  name: 'f32 of a storage buffer',
  load: 'vec4f(floats[index])',
  first: PART,
  words: ELEMENTS,
  stride: 1,
};
const VECTORS: Bound = {
  name: 'vec4f of a storage buffer',
  load: 'vectors[index]',
  first: 3 * PART,
  words: ELEMENTS * 4,
  stride: 4,
};
const UNIFORMS: Bound = {
  name: 'vec4f of a uniform buffer',
  load: 'uniforms[index]',
  first: PART,
  words: ELEMENTS * 4,
  stride: 4,
};
const TEXELS = ['i32(index), 1', '1, i32(index)', 'i32(index), i32(index)'].map(
  (at): Bound => ({
    name: `texels each way of a storage texture, at (${at.replaceAll('i32(index)', 'index')}),`,
    load: `textureLoad(texels, vec2i(${at}))`,
    first: 0,
    words: ELEMENTS * ELEMENTS * 4,
    stride: 0,
  }),
);
const BOUND: readonly Bound[] = [FLOATS, VECTORS, UNIFORMS, ...TEXELS];

const contains = ({ first, words }: Bound, word: number): boolean => word >= first && word < first + words;

/**
 * The first word of the element that an index reaches if its offset in bytes is cut to 32 bits. Lavapipe cuts offsets,
 * with and without Dawn's checks. Null if this element also lies beyond the end.
 */
function wrapped({ first, words, stride }: Bound, index: number): number | null {
  const word = (index * stride) % 2 ** 30;
  return stride > 0 && word < words ? first + word : null;
}

/**
 * First each lane reads with its own index, then all lanes read with the same index. Drivers treat these two cases
 * differently. Then the lanes write in the same two ways.
 */
const CODE = /* wgsl */ `
@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read_write> found: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> floats: array<f32>;
@group(0) @binding(3) var<storage, read_write> vectors: array<vec4f>;
@group(0) @binding(4) var<uniform> uniforms: array<vec4f, ${ELEMENTS}>;
@group(0) @binding(5) var texels: texture_storage_2d<rgba32float, read>;

fn loads(index: u32, at: u32) {
  ${BOUND.map(({ load }, i) => `found[${2 * i * COUNT}u + at] = ${load};`).join('\n  ')}
}
fn stores(index: u32) {
  floats[index] = ${WRITTEN};
  vectors[index] = vec4f(${WRITTEN});
}

@compute @workgroup_size(${COUNT}) fn main(@builtin(local_invocation_index) lane: u32) {
  // Not a constant: lavapipe's compiler would unroll the loops, which takes many seconds.
  let count = arrayLength(&indices);
  loads(indices[lane], lane);
  for (var i = 0u; i < count; i++) { loads(indices[i], ${COUNT}u + i); }
  storageBarrier();
  stores(indices[lane]);
  for (var i = 0u; i < count; i++) { stores(indices[i]); }
}`;

/** The accesses that do not escape (see `escapeOutOfBounds`). */
type Permitted = 'nothing' | 'inside';

/** The words that the shader reads and writes. */
interface Accesses {
  /** 4 words for each range, way of reading, and index. */
  readonly read: Float32Array;
  /** The storage buffer before and after. */
  readonly before: Float32Array;
  readonly after: Float32Array;
}

/**
 * Reads and writes beyond the end of storage buffers, a uniform buffer and a storage texture.
 * @param permitted `nothing`: reads give 0 and writes are dropped; but an index whose offset in bytes is a multiple
 *   of 2^32 past an element may reach that element. `inside`: reads and writes reach anything within the bound range,
 *   as WebGPU promises; Dawn's checks use the last element.
 * @returns the first access that escaped, or null
 * @throws Error if the shader does not run
 */
export async function escapeOutOfBounds(gpu: GPUDevice, permitted: Permitted): Promise<string | null> {
  const accesses = await runAccesses(gpu);
  return escapedRead(accesses, permitted) ?? escapedWrite(accesses, permitted);
}

/** A different number for each word, and none is 0. So a value identifies the word that was read. */
const numbers = (count: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: count }, (_, word) => word + 1);

/** Runs the shader. Throws if it does not run. */
async function runAccesses(gpu: GPUDevice): Promise<Accesses> {
  const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const made: { destroy(): void }[] = [];
  const keep = <T extends { destroy(): void }>(resource: T): T => {
    made.push(resource);
    return resource;
  };
  const upload = (data: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>, usage: number): GPUBuffer => {
    const buffer = keep(gpu.createBuffer({ size: data.byteLength, usage: usage | COPY_SRC | COPY_DST }));
    gpu.queue.writeBuffer(buffer, 0, data);
    return buffer;
  };
  const range = (buffer: GPUBuffer, { first, words }: Bound): GPUBufferBinding => ({
    buffer,
    offset: first * 4,
    size: words * 4,
  });
  try {
    gpu.pushErrorScope('validation');
    const before = numbers(5 * PART);
    const storage = upload(before, STORAGE);
    const uniform = upload(numbers(3 * PART), UNIFORM);
    const found = upload(new Float32Array(BOUND.length * 2 * COUNT * 4).fill(UNTOUCHED), STORAGE);
    const usage = GPUTextureUsage.STORAGE_BINDING | GPUTextureUsage.COPY_DST;
    const texture = keep(gpu.createTexture({ size: [ELEMENTS, ELEMENTS], format: 'rgba32float', usage }));
    gpu.queue.writeTexture({ texture }, numbers(TEXELS[0].words), { bytesPerRow: ELEMENTS * 16 }, [ELEMENTS, ELEMENTS]);
    const staging = keep(gpu.createBuffer({ size: found.size + storage.size, usage: MAP_READ | COPY_DST }));

    const commands = gpu.createCommandEncoder();
    dispatch(gpu, commands, [
      { buffer: upload(Uint32Array.from(INDICES), STORAGE) },
      { buffer: found },
      range(storage, FLOATS),
      range(storage, VECTORS),
      range(uniform, UNIFORMS),
      texture.createView(),
    ]);
    commands.copyBufferToBuffer(found, 0, staging, 0, found.size);
    commands.copyBufferToBuffer(storage, 0, staging, found.size, storage.size);
    gpu.queue.submit([commands.finish()]);
    const error = await gpu.popErrorScope();
    if (error) throw new Error(error.message);

    await staging.mapAsync(GPUMapMode.READ);
    const values = new Float32Array(staging.getMappedRange().slice(0));
    return { read: values.subarray(0, found.size / 4), before, after: values.subarray(found.size / 4) };
  } finally {
    for (const resource of made) resource.destroy();
  }
}

/** Records the shader with these resources. */
function dispatch(gpu: GPUDevice, commands: GPUCommandEncoder, resources: readonly GPUBindingResource[]): void {
  const pipeline = gpu.createComputePipeline({
    layout: 'auto',
    compute: { module: gpu.createShaderModule({ code: CODE }) },
  });
  const entries = resources.map((resource, binding) => ({ binding, resource }));
  const pass = commands.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
}

function escapedRead({ read }: Accesses, permitted: Permitted): string | null {
  for (const [at, value] of read.entries()) {
    if (value === 0) continue;
    const bound = BOUND[Math.floor(at / (2 * COUNT * 4))];
    const index = INDICES[Math.floor(at / 4) % COUNT];
    const element = wrapped(bound, index);
    const allowed =
      permitted === 'inside'
        ? contains(bound, value - 1)
        : element !== null && value - 1 === element + (at % bound.stride);
    if (!allowed) return `reading element ${index} of ${ELEMENTS} ${bound.name} gave ${value}`;
  }
  return null;
}

function escapedWrite({ before, after }: Accesses, permitted: Permitted): string | null {
  const writable = (bound: Bound, word: number): boolean =>
    contains(bound, word) &&
    (permitted === 'inside' || INDICES.some((index) => wrapped(bound, index) === word - (word % bound.stride)));
  const changed = after.findIndex(
    (value, word) =>
      value !== before[word] && !(value === WRITTEN && (writable(FLOATS, word) || writable(VECTORS, word))),
  );
  if (changed < 0) return null;
  const floats = `${ELEMENTS} f32 at word ${FLOATS.first} of a buffer`;
  const vectors = `${ELEMENTS} vec4f at word ${VECTORS.first}`;
  return `a write beyond the end of ${floats}, or of ${vectors}, changed word ${changed} to ${after[changed]}`;
}

async function main(): Promise<void> {
  try {
    const device = await openDevice({ driver: null, tuning: 'off' });
    const report: BoundsReport = { escape: await escapeOutOfBounds(device.gpu, 'nothing') };
    device.destroy();
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } catch (error) {
    // Set-up repeats this line.
    console.error(errorMessage(error));
    process.exitCode = 1;
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
