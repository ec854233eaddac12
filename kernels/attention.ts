/**
 * Multi-head scaled dot-product attention (Vaswani et al., 2017) that never stores the N x N matrix. The forward pass
 * uses online softmax (Milakov and Gimelshein, 2018). The gradient recomputes the probabilities from the saved
 * log-sum-exp of each row (Dao et al., FlashAttention, 2022).
 *
 * Each lane holds one or two rows in registers: queries, or keys in the gradient with respect to keys and values. The
 * lane loops over the other rows. These are staged in workgroup memory in blocks, so that one read serves all rows that
 * a lane holds. On software adapters this costs a third less than loading each row from its buffer. Rows in operand
 * textures need no staging: the lanes of a subgroup load a row together and share its values.
 *
 * The layout is qkv[b, n, (3, heads, size)]. A row has its query, key and value one after the other, each with its
 * heads side by side.
 */
import { defineKernel, kernelFamily, type BufferSpec, type KernelFlops } from './kernel.ts';
import { linearLoad, linearParams } from './linear.ts';
import { joined, range } from './repeat.ts';
import { broadcastLane } from './subgroups.ts';

/** Maximum head size: rows are held in registers. */
export const MAX_HEAD_SIZE = 64;
/** Rows staged at once: two operands of the largest head take 8 KiB. */
const BLOCK = 16;
/**
 * How kernels read the rows: from buffers, from linear textures with each lane on its own, or from linear textures with
 * the lanes of a subgroup of 8 or 16 together.
 */
export type AttentionAccess = 'buffer' | 'texture' | 8 | 16;

/** Rows that a lane holds. */
export type HeldRows = 1 | 2;

/** Invocations per workgroup, each with rows of its own. */
export const attentionLanes = (access: AttentionAccess): number => (typeof access === 'number' ? access : 32);

/** Workgroups for the rows of one head, where each lane holds `held` rows. */
export const attentionGroups = (tokens: number, held: HeldRows, access: AttentionAccess): number =>
  Math.ceil(tokens / (attentionLanes(access) * held));

/** The access in a kernel's name. */
const suffix = (access: AttentionAccess): string =>
  access === 'buffer' ? '' : access === 'texture' ? '_texture' : `_texture_sg${access}`;

const PARAMS = { tokens: 'u32', heads: 'u32', size: 'u32', scale: 'f32' } as const;

/**
 * FLOPs of a dispatch with `products` matrix products per head and image, of tokens x tokens x size multiply-adds each.
 * For example, the scores are one product, and the weighted sums of the values are another one. The grid's third axis
 * counts images.
 */
const productFlops =
  (products: number): KernelFlops<keyof typeof PARAMS> =>
  (p, [, , images]) =>
    products * 2 * p.tokens * p.tokens * p.size * p.heads * images;

/** Reads and writes of rows: by vec4s, or element by element where the head size is not a multiple of 4. */
interface RowAccess {
  readonly type: 'f32' | 'vec4f';
  readonly operand: BufferSpec;
  /** Module-scope WGSL: `<buffer>At(i, q)` reads vec4 q of the row at element i, `put(i, q, v)` writes it. */
  readonly text: string;
}

function accessors(size: number, buffers: readonly string[], written: string, textures: boolean): RowAccess {
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
  const reader = (b: string): string =>
    `fn ${b}At(i: u32, q: u32) -> vec4f { return vec4f(${joined(4, ', ', (c) => element(b, c))}); }`;
  return {
    type: 'f32',
    operand: 'read f32',
    text: `${buffers.map(reader).join('\n')}
fn put(i: u32, q: u32, v: vec4f) {
  for (var c = 0u; c < min(4u, p.size - q * 4u); c++) { ${written}[i + q * 4u + c] = v[c]; }
}`,
  };
}

/** Where row `n` is: in which buffer, and its first element. */
interface RowSource {
  readonly buffer: 'qkv' | 'upstream';
  readonly at: string;
}

/** A loop over the other rows. */
interface RowLoop {
  /** vec4s of a head. */
  readonly quads: number;
  /** Where the rows are, by name. */
  readonly sources: Readonly<Record<string, RowSource>>;
  readonly access: AttentionAccess;
  /** Statements for row `n`, in which `<name>_<q>` are its vec4s. */
  readonly visit: string;
}

interface LoopText {
  /** Module-scope WGSL. */
  readonly module: string;
  readonly loop: string;
}

const loadOf = ({ buffer, at }: RowSource, q: string): string => `${buffer}At(${at}, ${q})`;

/** WGSL of the loop over the other rows: staged in blocks in workgroup memory, or loaded from textures. */
function rowLoop(rows: RowLoop): LoopText {
  const { quads, sources, access } = rows;
  if (access === 'texture') {
    const load = (name: string, q: number): string => `let ${name}_${q} = ${loadOf(sources[name], `${q}u`)};`;
    return loopOver(
      rows,
      Object.keys(sources).flatMap((name) => range(quads).map((q) => load(name, q))),
    );
  }
  return typeof access === 'number' ? loopOver(rows, sharedLoads(rows, access)) : stagedLoop(rows);
}

const loopOver = ({ visit }: RowLoop, loads: readonly string[]): LoopText => ({
  module: '',
  loop: `
  for (var n = 0u; n < p.tokens; n++) {
    ${loads.join(' ')}
    ${visit}
  }`,
});

/** WGSL of loads that the lanes share: lane l loads the vec4s l, l + lanes, ... of all rows in a buffer. */
function sharedLoads({ quads, sources }: RowLoop, lanes: number): string[] {
  const names = Object.keys(sources);
  const buffers = [...new Set(names.map((name) => sources[name].buffer))];
  return buffers.flatMap((buffer) => {
    const together = names.filter((name) => sources[name].buffer === buffer);
    const at = together
      .slice(1)
      .reduce(
        (before, name, r) => `select(${before}, ${sources[name].at}, v >= ${(r + 1) * quads}u)`,
        sources[together[0]].at,
      );
    const own = range(Math.ceil((together.length * quads) / lanes)).map((i) => {
      const v = `let v = min(lane + ${i * lanes}u, ${together.length * quads - 1}u);`;
      return `var ${buffer}${i}: vec4f; { ${v} ${buffer}${i} = ${loadOf({ buffer, at }, `v % ${quads}u`)}; }`;
    });
    const shared = together.flatMap((name, r) =>
      range(quads).map((q) => {
        const v = r * quads + q;
        return `let ${name}_${q} = ${broadcastLane(lanes, `${buffer}${Math.floor(v / lanes)}`, v % lanes)};`;
      }),
    );
    return [...own, ...shared];
  });
}

function stagedLoop({ quads, sources, access, visit }: RowLoop): LoopText {
  const names = Object.keys(sources);
  const staged = (name: string, q: number): string => `let ${name}_${q} = ${name}Tile[j * ${quads}u + ${q}u];`;
  return {
    module: names.map((name) => `var<workgroup> ${name}Tile: array<vec4f, ${BLOCK * quads}>;`).join('\n'),
    loop: `
  for (var first = 0u; first < p.tokens; first += ${BLOCK}u) {
    let present = min(${BLOCK}u, p.tokens - first);
    workgroupBarrier();
    for (var t = lane; t < present * ${quads}u; t += ${attentionLanes(access)}u) {
      let n = first + t / ${quads}u;
      let q = t % ${quads}u;
      ${names.map((name) => `${name}Tile[t] = ${loadOf(sources[name], 'q')};`).join('\n      ')}
    }
    workgroupBarrier();
    for (var j = 0u; j < present; j++) {
      let n = first + j;
      ${names.flatMap((name) => range(quads).map((q) => staged(name, q))).join(' ')}
      ${visit}
    }
  }`,
  };
}

/** WGSL that all kernels start with: head and image of the workgroup, and the offsets of the parts of a row. */
const PLACE = `
  let head = group.y % p.heads;
  let image = group.z;
  let width = p.heads * p.size;
  let base = image * p.tokens * width * 3u + head * p.size; // the queries of this head in qkv
  let outBase = image * p.tokens * width + head * p.size;
  let statistics = (image * p.heads + head) * p.tokens;`;

const KEYS_AND_VALUES = {
  k: { buffer: 'qkv', at: 'base + width + n * width * 3u' },
  v: { buffer: 'qkv', at: 'base + width * 2u + n * width * 3u' },
} as const;

const dotOf = (quads: number, own: string, other: string): string =>
  joined(quads, ' + ', (q) => `dot(${own}${q}, ${other}${q})`);

/** WGSL for each row that a lane holds: `text`, where the row's number replaces every `#`. */
const heldRows = (held: number, text: string): string => joined(held, '\n  ', (r) => text.replaceAll('#', String(r)));

/** WGSL of the rows that a lane holds: `row#` may be past the end; `own#` is `row#`, or the last row instead. */
const placeRows = (held: number, access: AttentionAccess): string =>
  heldRows(
    held,
    [
      `let row# = (group.x * ${held}u + #u) * ${attentionLanes(access)}u + lane;`,
      'let own# = min(row#, p.tokens - 1u);',
    ].join(' '),
  );

/** Settings that the three kernels share. */
function settingsOf(size: number, access: AttentionAccess) {
  return {
    textures: access !== 'buffer',
    quads: Math.ceil(size / 4),
    workgroup: [attentionLanes(access)] as const,
    subgroups: typeof access === 'number',
  };
}

/**
 * Output rows, and the log-sum-exp of each row's scores, [B, heads, N]. Grid: (row blocks, heads, images).
 * `held`: rows per lane.
 */
export const attentionKernel = kernelFamily((size: number, held: HeldRows, access: AttentionAccess) => {
  const { textures, quads, workgroup, subgroups } = settingsOf(size, access);
  const io = accessors(size, ['qkv'], 'output', textures);
  const visit = heldRows(
    held,
    `
      let score# = ${dotOf(quads, 'q#_', 'k_')};
      let peak# = max(highest#, score#);
      // Exactly 1 while the highest score stays the same. exp(0) of some drivers is not 1, and the error would grow
      // with each row.
      let fade# = select(exp(highest# - peak#), 1.0, score# <= highest#);
      let e# = exp(score# - peak#);
      highest# = peak#;
      total# = total# * fade# + e#;
      ${joined(quads, ' ', (q) => `o#_${q} = o#_${q} * fade# + e# * v_${q};`)}`,
  );
  const { module, loop } = rowLoop({ quads, sources: KEYS_AND_VALUES, access, visit });
  const query = (q: number): string =>
    `let q#_${q} = qkvAt(base + own# * width * 3u, ${q}u) * p.scale; var o#_${q} = vec4f();`;
  return defineKernel({
    name: `attention_f32_head${size}_rows${held}${suffix(access)}`,
    workgroup,
    subgroups,
    flops: productFlops(2),
    params: { ...PARAMS, ...linearParams(textures, 'qkv') },
    buffers: { qkv: io.operand, output: `write ${io.type}`, logSumExp: 'write f32' },
    module: `${io.text}\n${module}`,
    body: `${PLACE}
  ${placeRows(held, access)}
  ${heldRows(
    held,
    `${joined(quads, '\n  ', query)}
  var highest# = -3e38;
  var total# = 0.0;`,
  )}
  ${loop}
  ${heldRows(
    held,
    `if (row# < p.tokens) {
    ${joined(quads, '\n    ', (q) => `put(outBase + row# * width, ${q}u, o#_${q} / total#);`)}
    logSumExp[statistics + row#] = highest# + log(total#);
  }`,
  )}`,
  });
});

/**
 * The gradient with respect to the queries, into the first third of each row of `gradient`. Also writes the dot
 * products of output and upstream gradient of each row, [B, heads, N]. It recomputes the scores.
 */
export const attentionQueryGradientKernel = kernelFamily((size: number, held: HeldRows, access: AttentionAccess) => {
  const { textures, quads, workgroup, subgroups } = settingsOf(size, access);
  const io = accessors(size, ['qkv', 'output', 'upstream'], 'gradient', textures);
  const visit = heldRows(
    held,
    `
      let e# = exp(${dotOf(quads, 'q#_', 'k_')} - lse#) * (${dotOf(quads, 'u#_', 'v_')} - rowDot#) * p.scale;
      ${joined(quads, ' ', (q) => `d#_${q} += e# * k_${q};`)}`,
  );
  const { module, loop } = rowLoop({ quads, sources: KEYS_AND_VALUES, access, visit });
  const ownVectors = (q: number): string =>
    [
      `let q#_${q} = qkvAt(base + own# * width * 3u, ${q}u) * p.scale;`,
      `let u#_${q} = upstreamAt(outBase + own# * width, ${q}u);`,
      `var d#_${q} = vec4f();`,
    ].join(' ');
  return defineKernel({
    name: `attention_query_gradient_f32_head${size}_rows${held}${suffix(access)}`,
    workgroup,
    subgroups,
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
  ${placeRows(held, access)}
  ${heldRows(
    held,
    `${joined(quads, '\n  ', ownVectors)}
  let rowDot# = ${joined(quads, ' + ', (q) => `dot(u#_${q}, outputAt(outBase + own# * width, ${q}u))`)};
  let lse# = logSumExp[statistics + own#];`,
  )}
  ${loop}
  ${heldRows(
    held,
    `if (row# < p.tokens) {
    ${joined(quads, '\n    ', (q) => `put(base + row# * width * 3u, ${q}u, d#_${q});`)}
    rowDots[statistics + row#] = rowDot#;
  }`,
  )}`,
  });
});

/**
 * The gradient with respect to keys and values, into the second and last third of each row of `gradient`. Lanes hold
 * keys and values, and loop over the queries. It recomputes the scores.
 */
export const attentionKeyValueGradientKernel = kernelFamily((size: number, held: HeldRows, access: AttentionAccess) => {
  const { textures, quads, workgroup, subgroups } = settingsOf(size, access);
  const io = accessors(size, ['qkv', 'upstream'], 'gradient', textures);
  const visit = heldRows(
    held,
    `
      let e# = exp(${dotOf(quads, 'k#_', 'q_')} - logSumExp[statistics + n]);
      let f# = e# * (${dotOf(quads, 'v#_', 'u_')} - rowDots[statistics + n]) * p.scale;
      ${joined(quads, ' ', (q) => `dv#_${q} += e# * u_${q}; dk#_${q} += f# * q_${q};`)}`,
  );
  const { module, loop } = rowLoop({
    quads,
    sources: {
      q: { buffer: 'qkv', at: 'base + n * width * 3u' },
      u: { buffer: 'upstream', at: 'outBase + n * width' },
    },
    access,
    visit,
  });
  const ownVectors = (q: number): string =>
    [
      `let k#_${q} = qkvAt(base + width + own# * width * 3u, ${q}u) * p.scale;`,
      `let v#_${q} = qkvAt(base + width * 2u + own# * width * 3u, ${q}u);\n `,
      `var dk#_${q} = vec4f(); var dv#_${q} = vec4f();`,
    ].join(' ');
  const put = (q: number): string =>
    [
      `put(base + width + row# * width * 3u, ${q}u, dk#_${q});`,
      `put(base + width * 2u + row# * width * 3u, ${q}u, dv#_${q});`,
    ].join(' ');
  return defineKernel({
    name: `attention_key_value_gradient_f32_head${size}_rows${held}${suffix(access)}`,
    workgroup,
    subgroups,
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
  ${placeRows(held, access)}
  ${heldRows(held, joined(quads, '\n  ', ownVectors))}
  ${loop}
  ${heldRows(
    held,
    `if (row# < p.tokens) {
    ${joined(quads, '\n    ', put)}
  }`,
  )}`,
  });
});
