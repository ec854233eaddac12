/** Multi-head scaled dot-product attention. */
import {
  attentionGroups, attentionKernel, attentionKeyValueGradientKernel, attentionQueryGradientKernel, MAX_HEAD_SIZE, rowsOfALane,
} from '../../kernels/attention.ts';
import { MAX_GROUPS, type Grid } from '../../kernels/kernel.ts';
import type { Device } from '../device.ts';
import { defineOp } from '../op.ts';
import { shapeError, type Shape } from '../shape.ts';
import type { Tensor } from '../tensor.ts';
import { prefersTextures, withLinearCopies, type OperandTexture } from '../textures.ts';

function launch(shape: Shape, heads: number): { size: number; held: 1 | 2; params: Record<'tokens' | 'heads' | 'size' | 'scale', number>; grid: Grid } {
  const [batch, tokens, width] = shape;
  const size = width / 3 / heads;
  return { size, held: rowsOfALane(tokens), params: { tokens, heads, size, scale: 1 / Math.sqrt(size) }, grid: [attentionGroups(tokens), heads, batch] };
}

/** Runs `body` with operands copied into linear textures and where they lie in them, where that is faster to read and they fit; as they are otherwise. */
function withOperands<N extends string>(
  device: Device, size: number, tensors: Readonly<Record<N, Tensor>>,
  body: (textures: boolean, operands: Readonly<Record<N, Tensor | OperandTexture>>, shifts: Readonly<Record<string, number>>) => void,
): void {
  const names = Object.keys(tensors) as N[];
  if (!prefersTextures(device) || size % 4 !== 0) {
    body(false, tensors, {});
    return;
  }
  withLinearCopies(device, names.map((name) => tensors[name]), (copies) => {
    if (!copies) return body(false, tensors, {});
    const textures = Object.fromEntries(names.map((name, i) => [name, copies[i].texture])) as Record<N, OperandTexture>;
    body(true, textures, Object.fromEntries(names.map((name, i) => [`${name}Shift`, copies[i].shift])));
  });
}

export const multiheadAttentionOp = defineOp({
  name: 'multiheadAttention',
  shape: ([qkv]: readonly [Tensor], { heads }: { readonly heads: number }) => {
    if (qkv.dtype !== 'f32') shapeError('multiheadAttention', 'qkv', 'of dtype f32', qkv.dtype);
    if (!Number.isInteger(heads) || heads < 1) shapeError('multiheadAttention', 'heads', 'a positive integer', String(heads));
    if (qkv.rank !== 3 || qkv.shape[2] === 0 || qkv.shape[2] % (3 * heads) !== 0) shapeError('multiheadAttention', 'qkv', `[B, N, 3 d] with d a multiple of ${heads} heads`, qkv.shape);
    const [batch, tokens, width] = qkv.shape;
    if (width / 3 / heads > MAX_HEAD_SIZE) shapeError('multiheadAttention', 'd / heads', `at most ${MAX_HEAD_SIZE}`, String(width / 3 / heads));
    if (batch > MAX_GROUPS || heads > MAX_GROUPS) shapeError('multiheadAttention', 'qkv', `of at most ${MAX_GROUPS} images and heads`, qkv.shape);
    return { shape: [batch, tokens, width / 3] };
  },
  forward: ({ device, inputs: [qkv], attributes: { heads }, output }) => {
    const { size, held, params, grid } = launch(qkv.shape, heads);
    const logSumExp = device.empty([qkv.shape[0], heads, qkv.shape[1]]);
    withOperands(device, size, { qkv }, (textures, operands, shifts) => (
      device.run(attentionKernel(size, held, textures), { ...params, ...shifts }, { ...operands, output, logSumExp }, grid)));
    return { logSumExp };
  },
  backward: ({ device, inputs: [qkv], attributes: { heads }, output, saved: { logSumExp }, gradient: upstream }) => {
    const { size, held, params, grid } = launch(qkv.shape, heads);
    const rowDots = device.empty(logSumExp.shape);
    const gradient = device.empty(qkv.shape);
    withOperands(device, size, { qkv, upstream }, (textures, operands, shifts) => {
      const given = { ...params, ...shifts }, buffers = { ...operands, logSumExp, rowDots, gradient };
      device.run(attentionQueryGradientKernel(size, held, textures), given, { ...buffers, output }, grid);
      device.run(attentionKeyValueGradientKernel(size, held, textures), given, buffers, grid);
    });
    return [gradient];
  },
});

/**
 * softmax(q k^T / sqrt(d / heads)) v in each head (Vaswani et al., 2017), without projections.
 *
 * @param qkv   [B, N, 3 d]: queries, keys and values behind one another, the heads of each side by side (as of PyTorch's in_proj_weight)
 * @param heads divides d; a head has at most 64 elements
 * @returns [B, N, d], the heads side by side
 * @throws ShapeError where the shape does not fit
 */
export const multiheadAttention = (qkv: Tensor, heads: number): Tensor => multiheadAttentionOp([qkv], { heads });
