/**
 * Floating-point operations of a dispatch, from its kernel's name and params: two for each multiply-add, of the families where arithmetic is what counts. A
 * profile reads this table. A new variant of a family is covered if it keeps the family's name and params; a new family adds a line.
 *
 * Counted is what the computation asks for, so that variants compare: partial tiles count by their outputs, zero padding at borders counts as is usual,
 * channels filled up to a multiple of 4 count as channels, and of images taken by lines (conv2d.ts) whole vec4s of a line.
 */
import type { Grid } from './kernel.ts';

type Params = Readonly<Record<string, number>>;

const conv2d = (p: Params): number =>
  (2 * p.batch * p.targetH * p.targetW * p.groups * (4 * p.K4) * (4 * p.N4) * p.kh * p.kw) /
  (p.classes ?? p.step * p.step);

/** Products of a [tokens, size] matrix with one of the other rows: one for the scores, one for what they weigh, and so on. */
const attention =
  (products: number) =>
  (p: Params, [, , images]: Grid): number =>
    products * 2 * p.tokens * p.tokens * p.size * p.heads * images;

/** By the beginning of the kernel's name. */
const FAMILIES: readonly (readonly [prefix: RegExp, flops: (params: Params, grid: Grid) => number])[] = [
  [/^matmul_[nt]{2}_/, (p) => 2 * p.m * p.n * p.k * p.batch],
  [/^conv2d_f(32|16)_/, conv2d],
  [/^conv2d_weight_gradient_f32_/, (p) => 2 * p.lines * p.outW * p.groups * (4 * p.K4) * (4 * p.N4) * p.kh * p.kw],
  [/^depthwise_f32_/, (p) => 2 * 4 * (p.count / p.parts) * p.outW * p.kh * p.kw],
  [/^depthwise_input_gradient_/, (p) => (2 * 4 * p.count * p.kh * p.kw) / (p.stride * p.stride)],
  [/^depthwise_weight_gradient_/, (p) => 2 * 4 * p.lines * p.outW * p.C4 * p.kh * p.kw],
  [/^attention_f32_/, attention(2)],
  // The gradients compute the scores anew.
  [/^attention_query_gradient_/, attention(3)],
  [/^attention_key_value_gradient_/, attention(4)],
  [/^dynamic_interaction_/, (p) => 2 * p.m * p.n * p.k * (p.groups / (p.rowTiles * p.columnTiles))],
];

/** FLOPs of one dispatch; null where the family is not in the table: such kernels move bytes rather than compute. */
export function dispatchFlops(name: string, params: Params, grid: Grid): number | null {
  const family = FAMILIES.find(([prefix]) => prefix.test(name));
  if (!family) return null;
  const flops = family[1](params, grid);
  if (!Number.isFinite(flops))
    throw new Error(
      `kernels/flops.ts: the params of ${name} (${Object.keys(params).join(', ')}) do not fit the rule of its family`,
    );
  return flops;
}
