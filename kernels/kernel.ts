/**
 * What a kernel is here: WGSL text with its launch geometry and the names and types of what it is given. Pure text and numbers: no GPUDevice, no Tensor.
 *
 * `defineKernel` writes the part of the shader that every kernel shares, so that a family only writes what it computes:
 *  - `struct Params` at binding 0 from `params`, read as `p.name`;
 *  - one storage buffer, or storage texture of vec4f read by textureLoad, for each entry of `buffers`, from binding 1 on, under its own name;
 *  - `fn main`, with `group`, `groups` (workgroup id and count), `local` (id in the workgroup), `lane` (the same, flattened) and
 *    `linearGroup` (the workgroup's number in a grid of any shape, see `linearGrid`) in scope of `body`.
 */

export type ScalarType = 'u32' | 'i32' | 'f32';
export type ElementType = ScalarType | 'vec4f' | 'vec4u' | 'vec2f' | 'vec2u';
export type Access = 'read' | 'write' | 'texture';

/** How a buffer is bound: `read f32`, `write vec4f` (write means read_write). `texture`: an operand texture (rgba32float, read only) in a buffer's place. */
export type BufferSpec = `${'read' | 'write'} ${ElementType}` | 'texture';

export interface KernelSpec<P extends string, B extends string> {
  /** Spells the specialisation, e.g. `matmul_nt_f32_sg8_32x64_bias_relu`; the label in traces and benchmarks. */
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
}

export interface Kernel<P extends string = string, B extends string = string> {
  readonly name: string;
  readonly source: string;
  readonly workgroup: readonly [number, number, number];
  readonly params: readonly { readonly name: P; readonly type: ScalarType }[];
  readonly buffers: readonly { readonly name: B; readonly access: Access }[];
  readonly subgroups: boolean;
  readonly f16: boolean;
}

/** The most params a kernel may have: one 256-byte slot of a uniform buffer. */
export const MAX_PARAMS = 64;

/** The most workgroups in one dimension of a dispatch at WebGPU's default limits. */
export const MAX_GROUPS = 65535;

function entries<K extends string, V>(record: Readonly<Record<K, V>>): [K, V][] {
  return Object.entries(record) as [K, V][];
}

export function defineKernel<P extends string, B extends string>(spec: KernelSpec<P, B>): Kernel<P, B> {
  const params = entries(spec.params).map(([name, type]) => ({ name, type }));
  const buffers = entries(spec.buffers).map(([name, text]) => {
    const [access, element] = text.split(' ') as [Access, ElementType | undefined];
    return { name, access, element };
  });
  if (params.length > MAX_PARAMS)
    throw new RangeError(`${spec.name}: at most ${MAX_PARAMS} params, got ${params.length}`);
  const [x, y = 1, z = 1] = spec.workgroup;
  const lines = [
    spec.subgroups ? 'enable subgroups;' : '',
    spec.f16 ? 'enable f16;' : '',
    params.length
      ? `struct Params { ${params.map((q) => `${q.name}: ${q.type}`).join(', ')} }\n@group(0) @binding(0) var<uniform> p: Params;`
      : '',
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
  };
}

/** Remembers the kernels that a factory made, by its arguments: writing a shader's text costs more than a dispatch. */
export function kernelFamily<A extends readonly (string | number | boolean)[], K>(
  factory: (...options: A) => K,
): (...options: A) => K {
  const made = new Map<string, K>();
  return (...options) => {
    const key = options.join('|');
    let kernel = made.get(key);
    if (kernel === undefined) {
      kernel = factory(...options);
      made.set(key, kernel);
    }
    return kernel;
  };
}

export type Grid = readonly [x: number, y: number, z: number];

/** The body of a kernel of `lanes` lanes a workgroup that does `statements` for each element `i` below `count`: workgroup by workgroup a range of them, whatever the grid. */
export const eachElement = (lanes: number, count: string, statements: string): string => `
  let allLanes = groups.x * groups.y * groups.z * ${lanes}u;
  let share = (${count} + allLanes - 1u) / allLanes * ${lanes}u;
  for (var i = linearGroup * share + lane; i < min(${count}, (linearGroup + 1u) * share); i += ${lanes}u) { ${statements} }`;

/** Lanes of a workgroup on GPUs where each does one element's work. */
export const GPU_LANES = 64;

/**
 * As `eachElement`, with the place of element i + `offset` in an array: its indices along `sizes`, innermost first (`[name, size]`), and the `outermost` one, which has no bound.
 * Processors divide whole numbers lane by lane, some 150 cycles for 16 of them: where a lane takes a range of elements, its place is counted on from one to the next.
 */
export function eachPlace(
  lanes: number,
  count: string,
  sizes: readonly (readonly [name: string, size: string])[],
  outermost: string,
  statements: string,
  offset = '0u',
): string {
  const split = (whole: string, suffix: string): string =>
    [
      `let over0${suffix} = ${whole};`,
      ...sizes.map(
        ([name, size], d) =>
          `let over${d + 1}${suffix} = over${d}${suffix} / ${size}; var ${name}${suffix} = over${d}${suffix} - over${d + 1}${suffix} * ${size};`,
      ),
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
    ...sizes.map(
      ([name, size], d) =>
        `${name} += ${name}Step${carried(d)}; let carry${d} = select(0u, 1u, ${name} >= ${size}); ${name} -= carry${d} * ${size};`,
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

/** A grid of at least `groups` workgroups within the limit of a dimension; kernels number them by `linearGroup` and leave those past the end. */
export function linearGrid(groups: number): Grid {
  if (groups <= MAX_GROUPS) return [groups, 1, 1];
  const y = Math.ceil(groups / MAX_GROUPS);
  return [Math.ceil(groups / y), y, 1];
}
