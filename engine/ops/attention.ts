/** Multi-head scaled dot-product attention. */
import {
  attentionGroups,
  attentionKernel,
  attentionKeyValueGradientKernel,
  attentionLanes,
  attentionQueryGradientKernel,
  MAX_HEAD_SIZE,
  type AttentionAccess,
} from '../../kernels/attention.ts';
import { MAX_GROUPS, type Grid } from '../../kernels/kernel.ts';
import { defineOp, opFunction } from '../core/op.ts';
import { shapeError, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { hasLinearOperand, prefersTextures, withOperands } from './operand-textures.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './rounding.ts';

interface AttentionVariant {
  /** Whether queries, keys, values and upstream gradient are read from linear textures. */
  readonly textures: boolean;
  /** Rows that a lane holds. */
  readonly held: 1 | 2;
}

/** What a pass reads and writes, by the names that the kernels have for it. */
type Forward = Readonly<Record<'qkv' | 'output' | 'logSumExp', Tensor>>;
type Gradient = Readonly<Record<'qkv' | 'output' | 'logSumExp' | 'upstream' | 'gradient', Tensor>>;

/** How kernels read operands: lanes of lavapipe's subgroups together; SwiftShader (4 lanes) takes longer to hand values out. */
const accessOf = ({ subgroupSize }: TensorDevice, textures: boolean): AttentionAccess =>
  !textures ? 'buffer' : subgroupSize === 8 || subgroupSize === 16 ? subgroupSize : 'texture';

/** Rows that a lane is expected to hold: more would spill registers, and few tokens would leave lanes without any. */
const rowsOfALane = (tokens: number, access: AttentionAccess): 1 | 2 => (tokens > attentionLanes(access) ? 2 : 1);

function launch(
  [batch, tokens, width]: Shape,
  heads: number,
  held: 1 | 2,
  access: AttentionAccess,
): { size: number; params: Record<'tokens' | 'heads' | 'size' | 'scale', number>; grid: Grid } {
  const size = width / 3 / heads;
  return {
    size,
    params: { tokens, heads, size, scale: 1 / Math.sqrt(size) },
    grid: [attentionGroups(tokens, held, access), heads, batch],
  };
}

function attend({ qkv, output, logSumExp }: Forward, heads: number, variant: AttentionVariant): void {
  const { device } = qkv,
    { held } = variant;
  withOperands(device, variant.textures, { qkv }, (textures, operands, shifts) => {
    const access = accessOf(device, textures);
    const { size, params, grid } = launch(qkv.shape, heads, held, access);
    device.run(attentionKernel(size, held, access), { ...params, ...shifts }, { ...operands, output, logSumExp }, grid);
  });
}

function attendBackward(
  { qkv, output, logSumExp, upstream, gradient }: Gradient,
  heads: number,
  variant: AttentionVariant,
): void {
  const { device } = qkv,
    { held } = variant;
  const rowDots = device.empty(logSumExp.shape);
  withOperands(device, variant.textures, { qkv, upstream }, (textures, operands, shifts) => {
    const access = accessOf(device, textures);
    const { size, params, grid } = launch(qkv.shape, heads, held, access);
    const given = { ...params, ...shifts },
      buffers = { ...operands, logSumExp, rowDots, gradient };
    device.run(attentionQueryGradientKernel(size, held, access), given, { ...buffers, output }, grid);
    device.run(attentionKeyValueGradientKernel(size, held, access), given, buffers, grid);
  });
}

/** The variant for a pass: the tuned one, or the expected one. */
function chooseVariant(
  device: TensorDevice,
  pass: 'attention' | 'attention-gradient',
  [batch, tokens, width]: Shape,
  heads: number,
): AttentionVariant {
  return device.tuner.choose(pass, `${batch}x${tokens}x${width / 3} heads ${heads}`, () =>
    describe(device, pass === 'attention', [batch, tokens, width], heads),
  );
}

function describe(
  device: TensorDevice,
  forward: boolean,
  shape: Shape,
  heads: number,
): TuningProblem<AttentionVariant> {
  const [batch, tokens, width] = shape;
  const size = width / 3 / heads;
  const candidate = (textures: boolean, held: 1 | 2): Candidate<AttentionVariant> => ({
    name: `${textures ? 'texture' : 'buffer'}, ${held === 1 ? 'a row' : `${held} rows`} a lane`,
    variant: { textures, held },
    tolerance: roundingOf(tokens),
    kernels: () => {
      const access = accessOf(device, textures);
      return forward
        ? [attentionKernel(size, held, access)]
        : [attentionQueryGradientKernel(size, held, access), attentionKeyValueGradientKernel(size, held, access)];
    },
  });
  const result = [batch, tokens, width / 3];
  const copied =
    size % 4 === 0 &&
    device.operandTextures &&
    [shape, ...(forward ? [] : [result])].every((operand) => hasLinearOperand(device, operand));
  const texturesExpected = copied && prefersTextures(device);
  const candidates = !worthMeasuring((batch * tokens * tokens * width) / 16)
    ? []
    : [false, ...(copied ? [true] : [])].flatMap((textures) =>
        ([1, 2] as const).map((held) => candidate(textures, held)),
      );
  const common = {
    expected: candidate(texturesExpected, rowsOfALane(tokens, accessOf(device, texturesExpected))),
    candidates,
    plain: { textures: false, held: 1 } as const,
  };
  const tensors = { qkv: shape, output: result, logSumExp: [batch, heads, tokens] };
  return forward
    ? {
        ...common,
        tensors,
        output: ['output', 'logSumExp'],
        run: (variant, filled) => attend(filled as Forward, heads, variant),
      }
    : {
        ...common,
        tensors: { ...tensors, upstream: result, gradient: shape },
        output: 'gradient',
        run: (variant, filled) => attendBackward(filled as Gradient, heads, variant),
      };
}

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
    attend({ qkv, output, logSumExp }, heads, chooseVariant(device, 'attention', qkv.shape, heads));
    return { logSumExp };
  },
  backward: ({ device, inputs: [qkv], attributes: { heads }, output, saved: { logSumExp }, gradient: upstream }) => {
    const gradient = device.empty(qkv.shape);
    attendBackward(
      { qkv, output, logSumExp, upstream, gradient },
      heads,
      chooseVariant(device, 'attention-gradient', qkv.shape, heads),
    );
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
export const multiheadAttention = opFunction(
  multiheadAttentionOp,
  (qkv: Tensor, heads: number): Tensor => multiheadAttentionOp([qkv], { heads }),
);
