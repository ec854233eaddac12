/**
 * Accesses beyond the end of what is bound to a shader. Set-up starts this file as a program of its own, on lavapipe and without Dawn's checks, to see whether the driver
 * checks every access itself: prints what it found as JSON. A driver that does not may well end the process; that is an answer too.
 */
import { pathToFileURL } from 'node:url';
import { openDevice } from '../../engine/node/index.ts';

export interface BoundsReport {
  /** The first access that did what it may not do; null where there is none. */
  readonly escape: string | null;
}

/** Elements of each buffer that is bound, and texels of the texture in either direction. */
const ELEMENTS = 16;
/** Right behind the end, further within the same buffer, far behind it, before it where an offset in bytes is taken as signed, and where that offset passes 2^31 and 2^32. */
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
/** Words of a part of a buffer, 256 bytes: bindings begin at multiples of that. Other data lies before and behind each part that is bound. */
const PART = 64;
/** What the shader writes, and what stands where it shall put what it reads. */
const WRITTEN = -2,
  UNTOUCHED = -1;

/** What an access may reach. */
interface Bound {
  readonly name: string;
  /** WGSL that reads the element `index` as a vec4f. */
  readonly load: string;
  /** The first of its words in the buffer or texture, their number, and those of an element; 0 where an index is no offset: texels. */
  readonly first: number;
  readonly words: number;
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
 * The first word of the element that an index means where its offset in bytes is cut to 32 bits, as lavapipe does with Dawn's checks and without; null where that is beyond the
 * end as well.
 */
function wrapped({ first, words, stride }: Bound, index: number): number | null {
  const word = (index * stride) % 2 ** 30;
  return stride > 0 && word < words ? first + word : null;
}

/** Reads where each lane has another index, and where all have the same, for drivers do these in two ways; then writes likewise. */
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
  let count = arrayLength(&indices); // a number that compilers know would make them unroll the loops, which takes lavapipe's many seconds
  loads(indices[lane], lane);
  for (var i = 0u; i < count; i++) { loads(indices[i], ${COUNT}u + i); }
  storageBarrier();
  stores(indices[lane]);
  for (var i = 0u; i < count; i++) { stores(indices[i]); }
}`;

/**
 * Reads and writes beyond the end of storage buffers, a uniform buffer and a storage texture: returns the first access that escaped, or null.
 * @param permitted what an access may do. `nothing`: reads give 0, writes are dropped, and an index whose offset in bytes is a multiple of 2^32 past an element may mean that
 *   element. `inside`: what WebGPU promises, reads and writes anywhere within what is bound; Dawn's own checks take the last element.
 */
export async function escapeOutOfBounds(gpu: GPUDevice, permitted: 'nothing' | 'inside'): Promise<string | null> {
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
    // Every word has another number, none of them 0: what is read tells where it was.
    const numbers = (count: number): Float32Array<ArrayBuffer> =>
      Float32Array.from({ length: count }, (_, word) => word + 1);
    const before = numbers(5 * PART);
    const storage = upload(before, STORAGE),
      uniform = upload(numbers(3 * PART), UNIFORM),
      found = upload(new Float32Array(BOUND.length * 2 * COUNT * 4).fill(UNTOUCHED), STORAGE);
    const texture = keep(
      gpu.createTexture({
        size: [ELEMENTS, ELEMENTS],
        format: 'rgba32float',
        usage: GPUTextureUsage.STORAGE_BINDING | GPUTextureUsage.COPY_DST,
      }),
    );
    gpu.queue.writeTexture({ texture }, numbers(TEXELS[0].words), { bytesPerRow: ELEMENTS * 16 }, [ELEMENTS, ELEMENTS]);
    const staging = keep(gpu.createBuffer({ size: found.size + storage.size, usage: MAP_READ | COPY_DST }));

    const pipeline = gpu.createComputePipeline({
      layout: 'auto',
      compute: { module: gpu.createShaderModule({ code: CODE }) },
    });
    const resources = [
      { buffer: upload(Uint32Array.from(INDICES), STORAGE) },
      { buffer: found },
      range(storage, FLOATS),
      range(storage, VECTORS),
      range(uniform, UNIFORMS),
      texture.createView(),
    ];
    const commands = gpu.createCommandEncoder();
    const pass = commands.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(
      0,
      gpu.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: resources.map((resource, binding) => ({ binding, resource })),
      }),
    );
    pass.dispatchWorkgroups(1);
    pass.end();
    commands.copyBufferToBuffer(found, 0, staging, 0, found.size);
    commands.copyBufferToBuffer(storage, 0, staging, found.size, storage.size);
    gpu.queue.submit([commands.finish()]);
    const error = await gpu.popErrorScope();
    if (error) throw new Error(error.message);

    await staging.mapAsync(GPUMapMode.READ);
    const values = new Float32Array(staging.getMappedRange().slice(0));
    const read = values.subarray(0, found.size / 4),
      after = values.subarray(found.size / 4);
    for (const [at, value] of read.entries()) {
      if (value === 0) continue;
      const bound = BOUND[Math.floor(at / (2 * COUNT * 4))],
        index = INDICES[Math.floor(at / 4) % COUNT];
      const element = wrapped(bound, index);
      if (
        permitted === 'inside'
          ? contains(bound, value - 1)
          : element !== null && value - 1 === element + (at % bound.stride)
      )
        continue;
      return `reading element ${index} of ${ELEMENTS} ${bound.name} gave ${value}`;
    }
    const writable = (bound: Bound, word: number): boolean =>
      contains(bound, word) &&
      (permitted === 'inside' || INDICES.some((index) => wrapped(bound, index) === word - (word % bound.stride)));
    const changed = after.findIndex(
      (value, word) =>
        value !== before[word] && !(value === WRITTEN && (writable(FLOATS, word) || writable(VECTORS, word))),
    );
    return changed < 0
      ? null
      : `a write beyond the end of ${ELEMENTS} f32 at word ${FLOATS.first} of a buffer, or of ${ELEMENTS} vec4f at word ${VECTORS.first}, changed word ${changed} to ${after[changed]}`;
  } finally {
    for (const resource of made) resource.destroy();
  }
}

async function main(): Promise<void> {
  try {
    const device = await openDevice({ driver: null, tuning: 'off' });
    const report: BoundsReport = { escape: await escapeOutOfBounds(device.gpu, 'nothing') };
    device.destroy();
    process.stdout.write(`${JSON.stringify(report)}\n`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error)); // one line, which set-up repeats
    process.exitCode = 1;
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
