/**
 * The definition of a kernel: WGSL text, launch geometry, and the names and types of its params and buffers.
 * A definition is pure text and numbers: no GPUDevice, no Tensor.
 *
 * `defineKernel` writes the part of the shader that all kernels share. A kernel file writes only what it computes:
 *  - `struct Params` at binding 0, made from `params`, read as `p.name`;
 *  - one storage buffer for each entry of `buffers`, from binding 1 on, under its own name. With the spec `texture` it
 *    is a storage texture of vec4f, read with textureLoad;
 *  - `fn main`, whose `body` sees `group` and `groups` (workgroup id and count), `local` (invocation id in the
 *    workgroup), `lane` (the same as a flat index) and `linearGroup` (flat workgroup index, see `linearGrid`).
 */

export type ScalarType = 'u32' | 'i32' | 'f32';
export type ElementType = ScalarType | 'vec4f' | 'vec4u' | 'vec2f' | 'vec2u';
export type Access = 'read' | 'write' | 'texture';

/**
 * How a buffer is bound: `read f32`, `write vec4f` (write means read_write).
 * `texture`: an operand texture (rgba32float, read only) replaces the buffer.
 */
export type BufferSpec = `${'read' | 'write'} ${ElementType}` | 'texture';

/** Floating-point operations of one dispatch, computed from its params and its grid. */
export type KernelFlops<P extends string = string> = (params: Readonly<Record<P, number>>, grid: Grid) => number;

export interface KernelSpec<P extends string, B extends string> {
  /** Identifies the variant, e.g. `matmul_nt_f32_sg8_32x64_bias_relu`. It is the label in traces and benchmarks. */
  readonly name: string;
  readonly workgroup: readonly [x: number, y?: number, z?: number];
  readonly params: Readonly<Record<P, ScalarType>>;
  readonly buffers: Readonly<Record<B, BufferSpec>>;
  /** Needs the `subgroups` feature. */
  readonly subgroups?: boolean;
  /** Needs the `shader-f16` feature. */
  readonly f16?: boolean;
  /** Module-scope WGSL: functions, constants, workgroup variables. */
  readonly module?: string;
  /** The statements of `main`. */
  readonly body: string;
  /**
   * FLOPs of one dispatch, two for each multiply-add. Omitted for kernels that mainly move bytes.
   *
   * It counts what the computation requires, so that variants are comparable. Partial tiles count by their outputs.
   * Zero padding at image borders counts. Channels padded to a multiple of 4 count as channels.
   */
  readonly flops?: KernelFlops<P>;
}

export interface Kernel<P extends string = string, B extends string = string> {
  readonly name: string;
  readonly source: string;
  readonly workgroup: readonly [number, number, number];
  readonly params: readonly { readonly name: P; readonly type: ScalarType }[];
  readonly buffers: readonly { readonly name: B; readonly access: Access }[];
  readonly subgroups: boolean;
  readonly f16: boolean;
  /** See `KernelSpec.flops`; read it through `dispatchFlops`. */
  readonly flops: KernelFlops | null;
}

/** Maximum number of params: they share one 256-byte slot of a uniform buffer. */
export const MAX_PARAMS = 64;

/** Maximum number of workgroups in one dimension of a dispatch at WebGPU's default limits. */
export const MAX_GROUPS = 65535;

function entries<K extends string, V>(record: Readonly<Record<K, V>>): [K, V][] {
  return Object.entries(record) as [K, V][];
}

/** Makes a kernel from its spec. Throws RangeError where the spec has more than MAX_PARAMS params. */
export function defineKernel<P extends string, B extends string>(spec: KernelSpec<P, B>): Kernel<P, B> {
  const params = entries(spec.params).map(([name, type]) => ({ name, type }));
  const buffers = entries(spec.buffers).map(([name, text]) => {
    const [access, element] = text.split(' ') as [Access, ElementType | undefined];
    return { name, access, element };
  });
  if (params.length > MAX_PARAMS)
    throw new RangeError(`${spec.name}: params: expected at most ${MAX_PARAMS}, got ${params.length}`);
  const [x, y = 1, z = 1] = spec.workgroup;
  const lines = [
    spec.subgroups ? 'enable subgroups;' : '',
    spec.f16 ? 'enable f16;' : '',
    params.length ? `struct Params { ${params.map((q) => `${q.name}: ${q.type}`).join(', ')} }` : '',
    params.length ? '@group(0) @binding(0) var<uniform> p: Params;' : '',
    ...buffers.map(
      (b, i) =>
        `@group(0) @binding(${i + 1}) ${
          b.access === 'texture'
            ? `var ${b.name}: texture_storage_2d<rgba32float, read>`
            : `var<storage, ${b.access === 'read' ? 'read' : 'read_write'}> ${b.name}: array<${b.element}>`
        };`,
    ),
    spec.module ?? '',
    `@compute @workgroup_size(${x}, ${y}, ${z})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_id) local: vec3u, @builtin(local_invocation_index) lane: u32) {
let linearGroup = (group.z * groups.y + group.y) * groups.x + group.x;
${spec.body}
}`,
  ];
  return {
    name: spec.name,
    source: lines.filter((line) => line !== '').join('\n'),
    workgroup: [x, y, z],
    params,
    buffers: buffers.map(({ name, access }) => ({ name, access })),
    subgroups: spec.subgroups ?? false,
    f16: spec.f16 ?? false,
    flops: spec.flops ?? null,
  };
}

/**
 * FLOPs of one dispatch of a kernel; null for a kernel that declares none. Throws Error where `params` lacks a param
 * that the FLOPs depend on.
 */
export function dispatchFlops(
  { name, flops }: Pick<Kernel, 'name' | 'flops'>,
  params: Readonly<Record<string, number>>,
  grid: Grid,
): number | null {
  if (flops === null) return null;
  const count = flops(params, grid);
  if (!Number.isFinite(count))
    throw new Error(`${name}: params: expected all params of its FLOPs, got ${Object.keys(params).join(', ')}`);
  return count;
}

type Scalar = string | number | boolean;
/** Arguments of a kernel family: scalars, or one flat object of scalars (declare its type with `type`). */
type FamilyArgument = Scalar | Readonly<Record<string, Scalar>>;

const keyOf = (argument: FamilyArgument): string =>
  typeof argument === 'object'
    ? Object.keys(argument)
        .sort()
        .map((name) => `${name}=${argument[name]}`)
        .join(',')
    : String(argument);

/** Caches the kernels of a factory by its arguments, because writing a shader's text costs more than a dispatch. */
export function kernelFamily<A extends readonly FamilyArgument[], K>(
  factory: (...options: A) => K,
): (...options: A) => K {
  const cache = new Map<string, K>();
  return (...options) => {
    const key = options.map(keyOf).join('|');
    let kernel = cache.get(key);
    if (kernel === undefined) {
      kernel = factory(...options);
      cache.set(key, kernel);
    }
    return kernel;
  };
}

/** Workgroup counts of a dispatch. */
export type Grid = readonly [x: number, y: number, z: number];

/**
 * The body of an elementwise kernel with `lanes` invocations per workgroup. It runs `statements` for each element `i`
 * below `count`. Each workgroup handles one contiguous range of elements. The grid may have any shape.
 */
export function eachElement(lanes: number, count: string, statements: string): string {
  const end = `min(${count}, (linearGroup + 1u) * share)`;
  return `
  let allLanes = groups.x * groups.y * groups.z * ${lanes}u;
  let share = (${count} + allLanes - 1u) / allLanes * ${lanes}u;
  for (var i = linearGroup * share + lane; i < ${end}; i += ${lanes}u) { ${statements} }`;
}

/** Invocations per workgroup on GPUs, where each invocation handles one element. */
export const GPU_LANES = 64;

/** A loop over the elements of an array with their indices; names and sizes are WGSL expressions. */
export interface PlaceLoop {
  /** Invocations per workgroup. */
  readonly lanes: number;
  /** Number of elements. */
  readonly count: string;
  /** The axes, innermost first. */
  readonly sizes: readonly (readonly [name: string, size: string])[];
  /** The outermost index, which has no bound. */
  readonly outermost: string;
  /** Added to `i` before the indices are computed; default 0. */
  readonly offset?: string;
}

/**
 * As `eachElement`, and also computes the indices of element i + `offset` in an array with axes `sizes`. CPUs divide
 * integers lane by lane, about 150 cycles for 16 lanes. So where one invocation handles a range of elements, it
 * computes the indices by division once and then increments them.
 */
export function eachPlace({ lanes, count, sizes, outermost, offset = '0u' }: PlaceLoop, statements: string): string {
  const split = (whole: string, suffix: string): string =>
    [
      `let over0${suffix} = ${whole};`,
      ...sizes.map(([name, size], d) => {
        const [above, quotient] = [`over${d}${suffix}`, `over${d + 1}${suffix}`];
        return `let ${quotient} = ${above} / ${size}; var ${name}${suffix} = ${above} - ${quotient} * ${size};`;
      }),
      `var ${outermost}${suffix} = over${sizes.length}${suffix};`,
    ].join('\n  ');
  if (lanes === GPU_LANES) {
    return `
  let i = linearGroup * ${lanes}u + lane;
  if (i >= ${count}) { return; }
  ${split(`i + ${offset}`, '')}
  ${statements}`;
  }
  const carried = (d: number): string => (d > 0 ? ` + carry${d - 1}` : '');
  const counted = [
    ...sizes.map(([name, size], d) =>
      [
        `${name} += ${name}Step${carried(d)};`,
        `let carry${d} = select(0u, 1u, ${name} >= ${size});`,
        `${name} -= carry${d} * ${size};`,
      ].join(' '),
    ),
    `${outermost} += ${outermost}Step${carried(sizes.length)};`,
  ].join('\n      ');
  return `
  let allLanes = groups.x * groups.y * groups.z * ${lanes}u;
  let share = (${count} + allLanes - 1u) / allLanes * ${lanes}u;
  let end = min(${count}, (linearGroup + 1u) * share);
  var i = linearGroup * share + lane;
  ${split(`i + ${offset}`, '')}
  ${split(`${lanes}u`, 'Step')}
  loop {
    if (i >= end) { break; }
    ${statements}
    continuing {
      i += ${lanes}u;
      ${counted}
    }
  }`;
}

/**
 * A grid of at least `groups` workgroups within the limit of one dimension. Kernels number the workgroups by
 * `linearGroup`. Workgroups past the end return early.
 */
export function linearGrid(groups: number): Grid {
  if (groups <= MAX_GROUPS) return [groups, 1, 1];
  const y = Math.ceil(groups / MAX_GROUPS);
  return [Math.ceil(groups / y), y, 1];
}

/** The grid of a kernel with one invocation per item and 64 invocations per workgroup. */
export const itemGrid = (items: number): Grid => linearGrid(Math.ceil(items / 64));
