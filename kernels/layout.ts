/**
 * Copies that move elements: by strides (permute, slice, expand), transposes, concatenation and its inverse, and
 * gathering. They copy bits: every buffer is bound as u32, whatever its values. Only the gradient of gather computes.
 */
import { defineKernel, eachPlace, kernelFamily, type BufferSpec } from './kernel.ts';
import { range } from './repeat.ts';
import type { Width } from './teams.ts';

/** Maximum number of dimensions after adjacent dimensions are merged where their strides allow it. */
export const MAX_COPY_RANK = 6;

const LINEAR = `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }`;

/**
 * How the innermost dimension is read. `vector`: contiguous. `splat`: one element for the whole dimension. `strided`:
 * elements `innerStride` apart.
 */
export type CopyForm = 'vector' | 'splat' | 'strided';

/**
 * output[i0, ..., inner] = input[offset + i0 stride0 + ...]. The output is row-major. `n` is the size of the innermost
 * dimension in elements of `width` values, size1 .. size4 the sizes of the dimensions between the first and the
 * innermost. Strides and offset count vec4s for `vector` with width 4, otherwise single values.
 */
export const stridedCopyKernel = kernelFamily((form: CopyForm, width: Width, rank: number, lanes: number) => {
  const outerDims = range(rank - 1);
  const sizes =
    rank === 1
      ? []
      : ([
          ['inner', 'p.n'],
          ...outerDims
            .slice(1)
            .reverse()
            .map((d) => [`i${d}`, `p.size${d}`] as const),
        ] as const);
  const terms = ['p.offset', ...outerDims.map((d) => `i${d} * p.stride${d}`)].join(' + ');
  const value = {
    vector: 'input[at + inner]',
    splat: width === 4 ? 'vec4u(input[at])' : 'input[at]',
    strided:
      width === 4
        ? `vec4u(${[0, 1, 2, 3].map((j) => `input[at + (inner * 4u + ${j}u) * p.innerStride]`).join(', ')})`
        : 'input[at + inner * p.innerStride]',
  }[form];
  return defineKernel({
    name: `copy_${form}_${width === 4 ? 'vec4' : 'scalar'}_rank${rank}`,
    workgroup: [lanes],
    params: {
      count: 'u32',
      n: 'u32',
      offset: 'u32',
      innerStride: 'u32',
      size1: 'u32',
      size2: 'u32',
      size3: 'u32',
      size4: 'u32',
      stride0: 'u32',
      stride1: 'u32',
      stride2: 'u32',
      stride3: 'u32',
      stride4: 'u32',
    },
    buffers: {
      input: form === 'vector' && width === 4 ? 'read vec4u' : 'read u32',
      output: width === 4 ? 'write vec4u' : 'write u32',
    },
    body: eachPlace(
      { lanes, count: 'p.count', sizes, outermost: rank === 1 ? 'inner' : 'i0' },
      `
  let at = ${terms};
  output[i] = ${value};`,
    ),
  });
});

/**
 * [batch, rows, columns] to [batch, columns, rows], 4 x 4 values at a time. `rows4` and `columns4` count vec4s;
 * count = batch * rows4 * columns4.
 */
export const transposeKernel = kernelFamily((lanes: number) =>
  defineKernel({
    name: 'transpose_4x4',
    workgroup: [lanes],
    params: { count: 'u32', rows4: 'u32', columns4: 'u32' },
    buffers: { input: 'read vec4u', output: 'write vec4u' },
    body: eachPlace(
      {
        lanes,
        count: 'p.count',
        sizes: [
          ['row4', 'p.rows4'],
          ['column4', 'p.columns4'],
        ],
        outermost: 'matrix',
      },
      `
  let batch = matrix * p.rows4 * p.columns4 * 4u;
  let from4 = batch + row4 * 4u * p.columns4 + column4;
  let a = input[from4];
  let b = input[from4 + p.columns4];
  let c = input[from4 + 2u * p.columns4];
  let d = input[from4 + 3u * p.columns4];
  let to4 = batch + column4 * 4u * p.rows4 + row4;
  output[to4] = vec4u(a.x, b.x, c.x, d.x);
  output[to4 + p.rows4] = vec4u(a.y, b.y, c.y, d.y);
  output[to4 + 2u * p.rows4] = vec4u(a.z, b.z, c.z, d.z);
  output[to4 + 3u * p.rows4] = vec4u(a.w, b.w, c.w, d.w);`,
    ),
  }),
);

/**
 * The gradient of slice: copies [outer, length] into the columns start .. start + length of zeros [outer, total]. All
 * params count elements of `width` values.
 */
export const padKernel = kernelFamily((width: Width) => {
  const V = width === 4 ? 'vec4u' : 'u32';
  return defineKernel({
    name: `pad_${width === 4 ? 'vec4' : 'scalar'}`,
    workgroup: [64],
    params: { count: 'u32', total: 'u32', start: 'u32', length: 'u32' },
    buffers: { input: `read ${V}`, output: `write ${V}` },
    body: `${LINEAR}
  let column = i % p.total - p.start;
  var value = ${V}();
  if (column < p.length) { value = input[i / p.total * p.length + column]; }
  output[i] = value;`,
  });
});

/** Maximum number of tensors that one dispatch joins: eight storage buffers, less one for the whole. */
export const MAX_PARTS = 7;

/**
 * With `join`: copies the parts [outer, length_k] side by side into `whole` [outer, total], from column `start` on.
 * Without `join`: copies `whole` into the parts.
 * Params count elements of `width` values. end_k is the end of part k, counted from `start`; count = outer * sum of the
 * lengths.
 */
export const concatKernel = kernelFamily((parts: number, width: Width, join: boolean, lanes: number) => {
  const V = width === 4 ? 'vec4u' : 'u32';
  const indices = range(parts);
  const buffers: Record<string, BufferSpec> = { whole: `${join ? 'write' : 'read'} ${V}` };
  for (const k of indices) buffers[`part${k}`] = `${join ? 'read' : 'write'} ${V}`;
  const branches = indices.map((k) => {
    const begin = k === 0 ? '0u' : `p.end${k - 1}`;
    const at = `part${k}[row * (p.end${k} - ${begin}) + column - ${begin}]`;
    return `if (column < p.end${k}) { ${join ? `whole[at] = ${at}` : `${at} = whole[at]`}; }`;
  });
  return defineKernel({
    name: `${join ? 'concat' : 'split'}${parts}_${width === 4 ? 'vec4' : 'scalar'}`,
    workgroup: [lanes],
    params: Object.fromEntries(
      ['count', 'total', 'start', ...indices.map((k) => `end${k}`)].map((name) => [name, 'u32' as const]),
    ),
    buffers,
    body: eachPlace(
      { lanes, count: 'p.count', sizes: [['column', `p.end${parts - 1}`]], outermost: 'row' },
      `
  let at = row * p.total + p.start + column;
  ${branches.join('\n  else ')}`,
    ),
  });
});

/**
 * output [outer, m, inner] = input [outer, n, inner] at `indices` [m]. An index of n or more gives zeros. `inner`
 * counts elements of `width` values.
 */
export const gatherKernel = kernelFamily((width: Width) => {
  const V = width === 4 ? 'vec4u' : 'u32';
  return defineKernel({
    name: `gather_${width === 4 ? 'vec4' : 'scalar'}`,
    workgroup: [64],
    params: { count: 'u32', n: 'u32', m: 'u32', inner: 'u32' },
    buffers: { input: `read ${V}`, indices: 'read u32', output: `write ${V}` },
    body: `${LINEAR}
  let row = i / p.inner;
  let chosen = indices[row % p.m];
  var value = ${V}();
  if (chosen < p.n) { value = input[(row / p.m * p.n + chosen) * p.inner + i % p.inner]; }
  output[i] = value;`,
  });
});

/**
 * Lists the positions that chose each source row, in ascending order, as linked lists. `head` [n], zeros before, gets
 * the first position + 1 of each row; `next` [m] gets the following position + 1, or 0 at the end. An invocation
 * handles four positions and compares them with four others per load. Every entry has one writer.
 */
export const gatherLinksKernel = kernelFamily(() =>
  defineKernel({
    name: 'gather_links',
    workgroup: [64],
    params: { n: 'u32', m: 'u32' },
    buffers: { indices: 'read vec4u', head: 'write u32', next: 'write vec4u' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i * 4u >= p.m) { return; }
  let own = indices[i];
  let position = vec4u(i * 4u) + vec4u(0u, 1u, 2u, 3u);
  var following = vec4u(0xffffffffu);
  var first = vec4<bool>(true);
  for (var j = 0u; j * 4u < p.m; j++) {
    let others = indices[j];
    ${[0, 1, 2, 3]
      .map(
        (c) => `{
      let q = vec4u(j * 4u + ${c}u);
      let equal = (own == vec4u(others[${c}])) & (q < vec4u(p.m));
      following = min(following, select(vec4u(0xffffffffu), q, equal & (q > position)));
      first = first & !(equal & (q < position));
    }`,
      )
      .join('\n    ')}
  }
  next[i] = following + 1u;
  let heads = first & (position < vec4u(p.m)) & (own < vec4u(p.n));
  ${[0, 1, 2, 3].map((c) => `if (heads[${c}]) { head[own[${c}]] = position[${c}] + 1u; }`).join('\n  ')}`,
  }),
);

/** Gradient of gather: each source row sums the upstream rows of the positions that chose it, in ascending order. */
export const gatherGradientKernel = kernelFamily((width: Width) => {
  const V = width === 4 ? 'vec4f' : 'f32';
  return defineKernel({
    name: `gather_gradient_f32_${width === 4 ? 'vec4' : 'scalar'}`,
    workgroup: [64],
    params: { count: 'u32', n: 'u32', m: 'u32', inner: 'u32' },
    buffers: { upstream: `read ${V}`, head: 'read u32', next: 'read u32', gradient: `write ${V}` },
    body: `${LINEAR}
  let row = i / p.inner;
  let base = row / p.n * p.m;
  var sum = ${V}();
  for (var link = head[row % p.n]; link != 0u; link = next[link - 1u]) {
    sum += upstream[(base + link - 1u) * p.inner + i % p.inner];
  }
  gradient[i] = sum;`,
  });
});
