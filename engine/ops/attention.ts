/** Multi-head scaled dot-product attention. */
import { attentionGroups, MAX_HEAD_SIZE, type AttentionAccess, type HeldRows } from '../../kernels/attention.ts';
import { MAX_GROUPS, type Grid } from '../../kernels/kernel.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import {
  accessOf,
  attentionKernels,
  chooseAttention,
  type AttentionGradientTensors,
  type AttentionTensors,
  type AttentionVariant,
  type RunAttention,
} from './attention-variants.ts';
import { withOperands } from './operand-textures.ts';

interface Launch {
  /** Elements of a head. */
  readonly size: number;
  readonly params: Readonly<Record<'tokens' | 'heads' | 'size' | 'scale', number>>;
  readonly grid: Grid;
}

function launchOf([batch, tokens, width]: Shape, heads: number, held: HeldRows, access: AttentionAccess): Launch {
  const size = width / 3 / heads;
  return {
    size,
    params: { tokens, heads, size, scale: 1 / Math.sqrt(size) },
    grid: [attentionGroups(tokens, held, access), heads, batch],
  };
}

function attend({ qkv, output, logSumExp }: AttentionTensors, heads: number, variant: AttentionVariant): void {
  const { device } = qkv;
  const { held } = variant;
  withOperands(device, variant.textures, { qkv }, (textures, operands, shifts) => {
    const access = accessOf(device, textures);
    const { size, params, grid } = launchOf(qkv.shape, heads, held, access);
    const [kernel] = attentionKernels('forward', size, held, access);
    device.run(kernel, { ...params, ...shifts }, { ...operands, output, logSumExp }, grid);
  });
}

function attendBackward(
  { qkv, output, logSumExp, upstream, gradient }: AttentionGradientTensors,
  heads: number,
  variant: AttentionVariant,
): void {
  const { device } = qkv;
  const { held } = variant;
  const rowDots = device.empty(logSumExp.shape);
  withOperands(device, variant.textures, { qkv, upstream }, (textures, operands, shifts) => {
    const access = accessOf(device, textures);
    const { size, params, grid } = launchOf(qkv.shape, heads, held, access);
    const [queryKernel, keyValueKernel] = attentionKernels('gradient', size, held, access);
    const given = { ...params, ...shifts };
    const buffers = { ...operands, logSumExp, rowDots, gradient };
    device.run(queryKernel, given, { ...buffers, output }, grid);
    device.run(keyValueKernel, given, buffers, grid);
  });
}

const RUN: RunAttention = { forward: attend, gradient: attendBackward };

const multiheadAttentionOp = defineOp({
  name: 'multiheadAttention',
  shape: ([qkv]: readonly [Tensor], { heads }: { readonly heads: number }) => {
    if (qkv.dtype !== 'f32') shapeError('multiheadAttention', 'qkv', 'dtype f32', qkv.dtype);
    if (!Number.isInteger(heads) || heads < 1)
      shapeError('multiheadAttention', 'heads', 'a positive integer', String(heads));
    if (qkv.rank !== 3 || qkv.shape[2] === 0 || qkv.shape[2] % (3 * heads) !== 0)
      shapeError('multiheadAttention', 'qkv', `[B, N, 3 d] with d a multiple of ${heads} heads`, qkv.shape);
    const [batch, tokens, width] = qkv.shape;
    if (width / 3 / heads > MAX_HEAD_SIZE)
      shapeError('multiheadAttention', 'd / heads', `at most ${MAX_HEAD_SIZE}`, String(width / 3 / heads));
    if (batch > MAX_GROUPS || heads > MAX_GROUPS)
      shapeError('multiheadAttention', 'qkv', `at most ${MAX_GROUPS} images and heads`, qkv.shape);
    return { shape: [batch, tokens, width / 3] };
  },
  forward: ({ device, inputs: [qkv], attributes: { heads }, output }) => {
    const logSumExp = device.empty([qkv.shape[0], heads, qkv.shape[1]]);
    const variant = chooseAttention(device, { pass: 'forward', shape: qkv.shape, heads }, RUN);
    attend({ qkv, output, logSumExp }, heads, variant);
    return { logSumExp };
  },
  backward: ({ device, inputs: [qkv], attributes: { heads }, output, saved: { logSumExp }, gradient: upstream }) => {
    const gradient = device.empty(qkv.shape);
    const variant = chooseAttention(device, { pass: 'gradient', shape: qkv.shape, heads }, RUN);
    attendBackward({ qkv, output, logSumExp, upstream, gradient }, heads, variant);
    return [gradient];
  },
});

/**
 * softmax(q k^T / sqrt(d / heads)) v in each head (Vaswani et al., 2017), without projections.
 *
 * @param qkv   [B, N, 3 d]: queries, keys and values one after the other, each with its heads side by side, as with
 *   PyTorch's in_proj_weight
 * @param heads divides d; a head has at most 64 elements
 * @returns [B, N, d], the heads side by side
 * @throws ShapeError where the shape does not fit
 */
export const multiheadAttention = opFunction(
  multiheadAttentionOp,
  (qkv: Tensor, heads: number): Tensor => multiheadAttentionOp([qkv], { heads }),
);
