/**
 * Multi-head scaled dot-product attention (Vaswani et al., 2017) without the N x N matrix in memory: online softmax (Milakov and Gimelshein, 2018),
 * and in the gradient the probabilities anew from the saved log-sum-exp of each row (Dao et al., FlashAttention, 2022).
 *
 * A lane holds one or two rows (queries; in the gradient by keys and values keys) in registers and meets the other rows one by one; these are staged in
 * workgroup memory, block by block, and each read serves all the rows that the lane holds. On software adapters that costs a third less than loading each from its buffer. Operand textures, where
 * they are the fastest to read, need no staging: there the lanes of a subgroup load a row together, and hand its values out.
 * Rows are q, k, v behind one another, each with the heads side by side: qkv[b, n, (3, heads, size)].
 */
import { defineKernel, kernelFamily, type BufferSpec, type KernelFlops } from './kernel.ts';
import { linearLoad, linearParams } from './linear.ts';
import { range } from './repeat.ts';
import { broadcastLane } from './subgroups.ts';

/** The largest head: rows are held in registers. */
export const MAX_HEAD_SIZE = 64;
/** Rows staged at once: two operands of the largest head take 8 KiB. */
const BLOCK = 16;
/** How kernels read the rows: from buffers, from linear textures each lane for itself, or the lanes of a subgroup of so many together. */
export type AttentionAccess = 'buffer' | 'texture' | 8 | 16;

/** Lanes of a workgroup, each with rows of its own. */
export const attentionLanes = (access: AttentionAccess): number => (typeof access === 'number' ? access : 32);

/** Workgroups that the rows of a head take where a lane holds `held` of them. */
export const attentionGroups = (tokens: number, held: 1 | 2, access: AttentionAccess): number =>
  Math.ceil(tokens / (attentionLanes(access) * held));

/** How a kernel's name tells its access. */
const suffix = (access: AttentionAccess): string =>
  access === 'buffer' ? '' : access === 'texture' ? '_texture' : `_texture_sg${access}`;

const PARAMS = { tokens: 'u32', heads: 'u32', size: 'u32', scale: 'f32' } as const;
/**
 * FLOPs of a dispatch that computes `products` products of a [tokens, size] matrix with another one, for each head and
 * image: one for the scores, one for the sums that the scores weigh, and so on. The grid's third axis counts images.
 */
const productFlops =
  (products: number): KernelFlops<keyof typeof PARAMS> =>
  (p, [, , images]) =>
    products * 2 * p.tokens * p.tokens * p.size * p.heads * images;

/** How rows are read: as vec4s, or element by element and padded with zeros where the head size is no multiple of 4. */
function accessors(
  size: number,
  buffers: readonly string[],
  written: string,
  textures: boolean,
): { type: 'f32' | 'vec4f'; operand: BufferSpec; text: string } {
  if (size % 4 === 0) {
    const load = (b: string): string => linearLoad(textures && (b === 'qkv' || b === 'upstream'), b, '(i / 4u + q)');
    return {
      type: 'vec4f',
      operand: textures ? 'texture' : 'read vec4f',
      text: `${buffers.map((b) => `fn ${b}At(i: u32, q: u32) -> vec4f { return ${load(b)}; }`).join('\n')}
fn put(i: u32, q: u32, v: vec4f) { ${written}[i / 4u + q] = v; }`,
    };
  }
  const element = (b: string, c: number): string =>
    `select(0.0, ${b}[i + min(q * 4u + ${c}u, p.size - 1u)], q * 4u + ${c}u < p.size)`;
  return {
    type: 'f32',
    operand: 'read f32',
    text: `${buffers
      .map(
        (b) =>
          `fn ${b}At(i: u32, q: u32) -> vec4f { return vec4f(${range(4)
            .map((c) => element(b, c))
            .join(', ')}); }`,
      )
      .join('\n')}
fn put(i: u32, q: u32, v: vec4f) { for (var c = 0u; c < min(4u, p.size - q * 4u); c++) { ${written}[i + q * 4u + c] = v[c]; } }`,
  };
}

/** Where a row `n` lies: in which buffer, and its first element. */
interface RowSource {
  readonly buffer: 'qkv' | 'upstream';
  readonly at: string;
}

/**
 * The loop over the other rows: staged block by block in workgroup memory, or loaded from textures. `sources` say where row `n` lies, by name; `visit` writes the
 * statements for row `n`, in which `name_q` are its vec4s.
 */
function rows(
  quads: number,
  sources: Readonly<Record<string, RowSource>>,
  access: AttentionAccess,
  visit: string,
): { module: string; loop: string } {
  const names = Object.keys(sources);
  const load = ({ buffer, at }: RowSource, q: string): string => `${buffer}At(${at}, ${q})`;
  const loopOver = (loads: readonly string[]): { module: string; loop: string } => ({
    module: '',
    loop: `
  for (var n = 0u; n < p.tokens; n++) {
    ${loads.join(' ')}
    ${visit}
  }`,
  });
  if (access === 'texture')
    return loopOver(
      names.flatMap((name) => range(quads).map((q) => `let ${name}_${q} = ${load(sources[name], `${q}u`)};`)),
    );
  if (typeof access === 'number') {
    // Lane l loads the vec4s l, l + lanes, ... of the rows that lie in a buffer, one row after the other.
    const loads = [...new Set(names.map((name) => sources[name].buffer))].flatMap((buffer) => {
      const together = names.filter((name) => sources[name].buffer === buffer);
      const own = range(Math.ceil((together.length * quads) / access)).map((i) => {
        const at = together
          .slice(1)
          .reduce(
            (before, name, r) => `select(${before}, ${sources[name].at}, v >= ${(r + 1) * quads}u)`,
            sources[together[0]].at,
          );
        return `var ${buffer}${i}: vec4f; { let v = min(lane + ${i * access}u, ${together.length * quads - 1}u); ${buffer}${i} = ${load({ buffer, at }, `v % ${quads}u`)}; }`;
      });
      const handed = together.flatMap((name, r) =>
        range(quads).map((q) => {
          const v = r * quads + q;
          return `let ${name}_${q} = ${broadcastLane(access, `${buffer}${Math.floor(v / access)}`, v % access)};`;
        }),
      );
      return [...own, ...handed];
    });
    return loopOver(loads);
  }
  return {
    module: names.map((name) => `var<workgroup> ${name}Tile: array<vec4f, ${BLOCK * quads}>;`).join('\n'),
    loop: `
  for (var first = 0u; first < p.tokens; first += ${BLOCK}u) {
    let present = min(${BLOCK}u, p.tokens - first);
    workgroupBarrier();
    for (var t = lane; t < present * ${quads}u; t += ${attentionLanes(access)}u) {
      let n = first + t / ${quads}u;
      let q = t % ${quads}u;
      ${names.map((name) => `${name}Tile[t] = ${load(sources[name], 'q')};`).join('\n      ')}
    }
    workgroupBarrier();
    for (var j = 0u; j < present; j++) {
      let n = first + j;
      ${names.flatMap((name) => range(quads).map((q) => `let ${name}_${q} = ${name}Tile[j * ${quads}u + ${q}u];`)).join(' ')}
      ${visit}
    }
  }`,
  };
}

/** Common head of the kernels: group (rows, head, image) and the offsets of a row's parts. */
const PLACE = `
  let head = group.y % p.heads;
  let image = group.z;
  let width = p.heads * p.size;
  let base = image * p.tokens * width * 3u + head * p.size; // of the queries of this head in qkv
  let outBase = image * p.tokens * width + head * p.size;
  let statistics = (image * p.heads + head) * p.tokens;`;

const KEYS_AND_VALUES = {
  k: { buffer: 'qkv', at: 'base + width + n * width * 3u' },
  v: { buffer: 'qkv', at: 'base + width * 2u + n * width * 3u' },
} as const;

const dotOf = (quads: number, own: string, other: string): string =>
  range(quads)
    .map((q) => `dot(${own}${q}, ${other}${q})`)
    .join(' + ');

/** The statements of each row that a lane holds, `text` with its number for every `#`. */
const ofRows = (held: number, text: string): string =>
  range(held)
    .map((r) => text.replaceAll('#', String(r)))
    .join('\n  ');
const ownRows = (held: number, access: AttentionAccess): string =>
  ofRows(
    held,
    `let row# = (group.x * ${held}u + #u) * ${attentionLanes(access)}u + lane; let own# = min(row#, p.tokens - 1u);`,
  );

/** Output rows and the log-sum-exp of each row's scores [B, heads, N]. Grid: (row blocks, heads, images). */
export const attentionKernel = kernelFamily((size: number, held: 1 | 2, access: AttentionAccess) => {
  const textures = access !== 'buffer';
  const quads = Math.ceil(size / 4);
  const io = accessors(size, ['qkv'], 'output', textures);
  const { module, loop } = rows(
    quads,
    KEYS_AND_VALUES,
    access,
    ofRows(
      held,
      `
      let score# = ${dotOf(quads, 'q#_', 'k_')};
      let peak# = max(highest#, score#);
      // Exactly 1 while the highest score stays: exp(0) of some drivers is not, and the error would grow with every row.
      let fade# = select(exp(highest# - peak#), 1.0, score# <= highest#);
      let e# = exp(score# - peak#);
      highest# = peak#;
      total# = total# * fade# + e#;
      ${range(quads)
        .map((q) => `o#_${q} = o#_${q} * fade# + e# * v_${q};`)
        .join(' ')}`,
    ),
  );
  return defineKernel({
    name: `attention_f32_head${size}_rows${held}${suffix(access)}`,
    workgroup: [attentionLanes(access)],
    subgroups: typeof access === 'number',
    flops: productFlops(2),
    params: { ...PARAMS, ...linearParams(textures, 'qkv') },
    buffers: { qkv: io.operand, output: `write ${io.type}`, logSumExp: 'write f32' },
    module: `${io.text}\n${module}`,
    body: `${PLACE}
  ${ownRows(held, access)}
  ${ofRows(
    held,
    `${range(quads)
      .map((q) => `let q#_${q} = qkvAt(base + own# * width * 3u, ${q}u) * p.scale; var o#_${q} = vec4f();`)
      .join('\n  ')}
  var highest# = -3e38;
  var total# = 0.0;`,
  )}
  ${loop}
  ${ofRows(
    held,
    `if (row# < p.tokens) {
    ${range(quads)
      .map((q) => `put(outBase + row# * width, ${q}u, o#_${q} / total#);`)
      .join('\n    ')}
    logSumExp[statistics + row#] = highest# + log(total#);
  }`,
  )}`,
  });
});

/** Gradient by queries into the first third of each row of `gradient`; and the row dots of output and upstream gradient [B, heads, N]. */
export const attentionQueryGradientKernel = kernelFamily((size: number, held: 1 | 2, access: AttentionAccess) => {
  const textures = access !== 'buffer';
  const quads = Math.ceil(size / 4);
  const io = accessors(size, ['qkv', 'output', 'upstream'], 'gradient', textures);
  const { module, loop } = rows(
    quads,
    KEYS_AND_VALUES,
    access,
    ofRows(
      held,
      `
      let e# = exp(${dotOf(quads, 'q#_', 'k_')} - lse#) * (${dotOf(quads, 'u#_', 'v_')} - rowDot#) * p.scale;
      ${range(quads)
        .map((q) => `d#_${q} += e# * k_${q};`)
        .join(' ')}`,
    ),
  );
  return defineKernel({
    name: `attention_query_gradient_f32_head${size}_rows${held}${suffix(access)}`,
    workgroup: [attentionLanes(access)],
    subgroups: typeof access === 'number',
    flops: productFlops(3),
    params: { ...PARAMS, ...linearParams(textures, 'qkv', 'upstream') },
    buffers: {
      qkv: io.operand,
      output: `read ${io.type}`,
      upstream: io.operand,
      logSumExp: 'read f32',
      rowDots: 'write f32',
      gradient: `write ${io.type}`,
    },
    module: `${io.text}\n${module}`,
    body: `${PLACE}
  ${ownRows(held, access)}
  ${ofRows(
    held,
    `${range(quads)
      .map(
        (q) =>
          `let q#_${q} = qkvAt(base + own# * width * 3u, ${q}u) * p.scale; let u#_${q} = upstreamAt(outBase + own# * width, ${q}u); var d#_${q} = vec4f();`,
      )
      .join('\n  ')}
  let rowDot# = ${range(quads)
    .map((q) => `dot(u#_${q}, outputAt(outBase + own# * width, ${q}u))`)
    .join(' + ')};
  let lse# = logSumExp[statistics + own#];`,
  )}
  ${loop}
  ${ofRows(
    held,
    `if (row# < p.tokens) {
    ${range(quads)
      .map((q) => `put(base + row# * width * 3u, ${q}u, d#_${q});`)
      .join('\n    ')}
    rowDots[statistics + row#] = rowDot#;
  }`,
  )}`,
  });
});

/** Gradient by keys and values into the second and last third of each row of `gradient`. */
export const attentionKeyValueGradientKernel = kernelFamily((size: number, held: 1 | 2, access: AttentionAccess) => {
  const textures = access !== 'buffer';
  const quads = Math.ceil(size / 4);
  const io = accessors(size, ['qkv', 'upstream'], 'gradient', textures);
  const { module, loop } = rows(
    quads,
    { q: { buffer: 'qkv', at: 'base + n * width * 3u' }, u: { buffer: 'upstream', at: 'outBase + n * width' } },
    access,
    ofRows(
      held,
      `
      let e# = exp(${dotOf(quads, 'k#_', 'q_')} - logSumExp[statistics + n]);
      let f# = e# * (${dotOf(quads, 'v#_', 'u_')} - rowDots[statistics + n]) * p.scale;
      ${range(quads)
        .map((q) => `dv#_${q} += e# * u_${q}; dk#_${q} += f# * q_${q};`)
        .join(' ')}`,
    ),
  );
  return defineKernel({
    name: `attention_key_value_gradient_f32_head${size}_rows${held}${suffix(access)}`,
    workgroup: [attentionLanes(access)],
    subgroups: typeof access === 'number',
    flops: productFlops(4),
    params: { ...PARAMS, ...linearParams(textures, 'qkv', 'upstream') },
    buffers: {
      qkv: io.operand,
      upstream: io.operand,
      logSumExp: 'read f32',
      rowDots: 'read f32',
      gradient: `write ${io.type}`,
    },
    module: `${io.text}\n${module}`,
    body: `${PLACE}
  ${ownRows(held, access)}
  ${ofRows(
    held,
    `${range(quads)
      .map(
        (
          q,
        ) => `let k#_${q} = qkvAt(base + width + own# * width * 3u, ${q}u) * p.scale; let v#_${q} = qkvAt(base + width * 2u + own# * width * 3u, ${q}u);
  var dk#_${q} = vec4f(); var dv#_${q} = vec4f();`,
      )
      .join('\n  ')}`,
  )}
  ${loop}
  ${ofRows(
    held,
    `if (row# < p.tokens) {
    ${range(quads)
      .map(
        (q) =>
          `put(base + width + row# * width * 3u, ${q}u, dk#_${q}); put(base + width * 2u + row# * width * 3u, ${q}u, dv#_${q});`,
      )
      .join('\n    ')}
  }`,
  )}`,
  });
});
