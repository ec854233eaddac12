/** The variants of attention and its gradient, and which one to run: source of the operands and rows per lane. */
import {
  attentionKernel,
  attentionKeyValueGradientKernel,
  attentionLanes,
  attentionQueryGradientKernel,
  type AttentionAccess,
  type HeldRows,
} from '../../kernels/attention.ts';
import type { Kernel } from '../../kernels/kernel.ts';
import type { Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { hasLinearOperand, prefersTextures } from './operand-textures.ts';
import { roundingOf } from './rounding.ts';

export interface AttentionVariant {
  /** Whether queries, keys, values and upstream gradient are read from linear textures. */
  readonly textures: boolean;
  /** Rows per lane. */
  readonly held: HeldRows;
}

/** Tensors of the forward pass, by their names in the kernels. */
export type AttentionTensors = Readonly<Record<'qkv' | 'output' | 'logSumExp', Tensor>>;
/** Tensors of the gradient. */
export type AttentionGradientTensors = Readonly<
  Record<'qkv' | 'output' | 'logSumExp' | 'upstream' | 'gradient', Tensor>
>;

/**
 * How kernels read operands. The lanes of lavapipe's subgroups load rows from textures together. On SwiftShader (4
 * lanes) it takes longer to share values, so each lane loads on its own.
 */
export const accessOf = ({ subgroupSize }: TensorDevice, textures: boolean): AttentionAccess =>
  !textures ? 'buffer' : subgroupSize === 8 || subgroupSize === 16 ? subgroupSize : 'texture';

/** Expected rows per lane. More than two would spill registers. With few tokens, two would leave lanes without rows. */
const expectedRows = (tokens: number, access: AttentionAccess): HeldRows => (tokens > attentionLanes(access) ? 2 : 1);

/** The kernels of a pass. */
export function attentionKernels(
  pass: 'forward' | 'gradient',
  size: number,
  held: HeldRows,
  access: AttentionAccess,
): Kernel[] {
  return pass === 'forward'
    ? [attentionKernel(size, held, access)]
    : [attentionQueryGradientKernel(size, held, access), attentionKeyValueGradientKernel(size, held, access)];
}

/** Computes the passes with a variant. */
export interface RunAttention {
  readonly forward: (tensors: AttentionTensors, heads: number, variant: AttentionVariant) => void;
  readonly gradient: (tensors: AttentionGradientTensors, heads: number, variant: AttentionVariant) => void;
}

/** A pass over qkv of a shape. */
interface AttentionPass {
  readonly pass: 'forward' | 'gradient';
  /** Shape of qkv: [B, N, 3 d]. */
  readonly shape: Shape;
  readonly heads: number;
}

/** The variant for a pass: the tuned one, or the expected one. */
export function chooseAttention(device: TensorDevice, attention: AttentionPass, run: RunAttention): AttentionVariant {
  const {
    pass,
    shape: [batch, tokens, width],
    heads,
  } = attention;
  const family = pass === 'forward' ? 'attention' : 'attention-gradient';
  return device.tuner.choose(family, `${batch}x${tokens}x${width / 3} heads ${heads}`, () =>
    describeAttention(device, attention, run),
  );
}

function describeAttention(
  device: TensorDevice,
  { pass, shape, heads }: AttentionPass,
  run: RunAttention,
): TuningProblem<AttentionVariant> {
  const [batch, tokens, width] = shape;
  const size = width / 3 / heads;
  const candidate = (textures: boolean, held: HeldRows): Candidate<AttentionVariant> => ({
    name: `${textures ? 'texture' : 'buffer'}, ${held === 1 ? '1 row' : `${held} rows`} per lane`,
    variant: { textures, held },
    tolerance: roundingOf(tokens),
    kernels: () => attentionKernels(pass, size, held, accessOf(device, textures)),
  });
  const result = [batch, tokens, width / 3];
  const read = pass === 'forward' ? [shape] : [shape, result];
  const readable =
    size % 4 === 0 && device.operandTextures && read.every((operand) => hasLinearOperand(device, operand));
  const expectsTextures = readable && prefersTextures(device);
  const measured = worthMeasuring((batch * tokens * tokens * width) / 16);
  const sources = !measured ? [] : readable ? [false, true] : [false];
  const common = {
    expected: candidate(expectsTextures, expectedRows(tokens, accessOf(device, expectsTextures))),
    candidates: sources.flatMap((textures) => [candidate(textures, 1), candidate(textures, 2)]),
    plain: { textures: false, held: 1 } as const,
  };
  const tensors = { qkv: shape, output: result, logSumExp: [batch, heads, tokens] };
  return pass === 'forward'
    ? {
        ...common,
        tensors,
        output: ['output', 'logSumExp'],
        run: (variant, filled) => run.forward(filled as AttentionTensors, heads, variant),
      }
    : {
        ...common,
        tensors: { ...tensors, upstream: result, gradient: shape },
        output: 'gradient',
        run: (variant, filled) => run.gradient(filled as AttentionGradientTensors, heads, variant),
      };
}
