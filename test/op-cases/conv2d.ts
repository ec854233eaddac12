/**
 * Cases for the 2-D convolution: dense, strided, grouped, depthwise; channel counts that are and are not multiples of
 * 4; the epilogue in the same kernel.
 */
import fc from 'fast-check';
import { conv2d, type Conv2dOptions } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type NdArray, type OpCase } from '../op-harness.ts';

/** Operands of the epilogue of a convolution. */
interface Epilogue {
  readonly bias?: NdArray;
  readonly scale?: NdArray;
  readonly residual?: NdArray;
  readonly relu?: boolean;
}

/** The definition of the convolution, one output at a time. */
function reference(
  x: NdArray,
  weight: NdArray,
  { bias, scale, residual, relu = false }: Epilogue,
  { stride = 1, padding = 0, groups = 1 }: Conv2dOptions,
): NdArray {
  const [B, H, W, C] = x.shape;
  const [kh, kw, groupC, O] = weight.shape;
  const OH = Math.floor((H + 2 * padding - kh) / stride) + 1;
  const OW = Math.floor((W + 2 * padding - kw) / stride) + 1;
  const y = new Float64Array(B * OH * OW * O);
  for (let b = 0; b < B; b++)
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++) {
        for (let ky = 0; ky < kh; ky++)
          for (let kx = 0; kx < kw; kx++) {
            const iy = oy * stride + ky - padding;
            const ix = ox * stride + kx - padding;
            if (iy < 0 || iy >= H || ix < 0 || ix >= W) continue;
            for (let o = 0; o < O; o++) {
              const firstC = Math.floor(o / (O / groups)) * groupC;
              for (let c = 0; c < groupC; c++) {
                y[((b * OH + oy) * OW + ox) * O + o] +=
                  x.data[((b * H + iy) * W + ix) * C + firstC + c] * weight.data[((ky * kw + kx) * groupC + c) * O + o];
              }
            }
          }
        for (let o = 0; o < O; o++) {
          const at = ((b * OH + oy) * OW + ox) * O + o;
          const value = y[at] * (scale?.data[o] ?? 1) + (bias?.data[o] ?? 0) + (residual?.data[at] ?? 0);
          y[at] = relu ? Math.max(0, value) : value;
        }
      }
  return ndarray([B, OH, OW, O], y);
}

interface Sizes extends Conv2dOptions {
  readonly x: readonly [B: number, H: number, W: number, C: number];
  readonly kernel: readonly [kh: number, kw: number];
  readonly O: number;
  readonly bias?: boolean;
  readonly scale?: boolean;
  readonly residual?: boolean;
  readonly activation?: 'relu';
  /** False where checking the gradient would only cost time. */
  readonly differentiate?: boolean;
}

function convCase(
  name: string,
  { x, kernel, O, bias = false, scale = false, residual = false, activation, differentiate, ...options }: Sizes,
): OpCase {
  const { stride = 1, padding = 0, groups = 1 } = options;
  const outputShape = [
    x[0],
    Math.floor((x[1] + 2 * padding - kernel[0]) / stride) + 1,
    Math.floor((x[2] + 2 * padding - kernel[1]) / stride) + 1,
    O,
  ];
  const named = <T>([input, weight, ...rest]: readonly T[]): {
    input: T;
    weight: T;
    bias?: T;
    scale?: T;
    residual?: T;
  } => ({
    input,
    weight,
    ...(bias && { bias: rest[0] }),
    ...(scale && { scale: rest[Number(bias)] }),
    ...(residual && { residual: rest[Number(bias) + Number(scale)] }),
  });
  const epilogue = [scale && 'scale', bias && 'bias', residual && 'residual', activation].filter(
    (part) => typeof part === 'string',
  );
  return {
    name: [
      `${name}: [${x.join(', ')}], ${kernel.join(' x ')} to ${O}`,
      epilogue.map((part) => ` + ${part}`).join(''),
      ` ${JSON.stringify(options)}`,
    ].join(''),
    inputs: [
      randomInput(x, 1, { differentiate }),
      randomInput([...kernel, x[3] / groups, O], 2, { differentiate }),
      ...(bias ? [randomInput([O], 3)] : []),
      ...(scale ? [randomInput([O], 4, { differentiate: false })] : []),
      ...(residual ? [randomInput(outputShape, 5)] : []),
    ],
    run: (inputs) => {
      const { input, weight, ...rest } = named(inputs);
      return conv2d(input, weight, rest.bias ?? null, {
        ...options,
        activation,
        scale: rest.scale,
        residual: rest.residual,
      });
    },
    reference: (inputs) => {
      const { input, weight, ...rest } = named(inputs);
      return reference(input, weight, { ...rest, relu: activation === 'relu' }, options);
    },
  };
}

const upTo3 = fc.integer({ min: 1, max: 3 });
const channels = fc.integer({ min: 1, max: 9 });
const side = fc.integer({ min: 3, max: 8 });
const random = fc.record({
  B: upTo3,
  H: side,
  W: side,
  C: channels,
  O: channels,
  kh: upTo3,
  kw: upTo3,
  stride: upTo3,
  padding: fc.integer({ min: 0, max: 3 }),
  groups: upTo3,
  bias: fc.boolean(),
  scale: fc.boolean(),
  residual: fc.boolean(),
  activation: fc.constantFrom(undefined, 'relu' as const),
});

export const conv2dCases = {
  conv2d: [
    convCase('as in a feature pyramid', { x: [2, 6, 6, 16], kernel: [3, 3], O: 24, padding: 1, bias: true }),
    convCase('a matrix product', { x: [2, 5, 7, 12], kernel: [1, 1], O: 20, bias: true }),
    convCase('stem on RGB', { x: [2, 13, 11, 3], kernel: [7, 7], O: 16, stride: 2, padding: 3 }),
    convCase('RGB by lines, two positions within a vec4', {
      x: [2, 9, 12, 3],
      kernel: [7, 7],
      O: 16,
      stride: 2,
      padding: 3,
      bias: true,
    }),
    convCase('RGB by lines, four positions', {
      x: [1, 6, 8, 3],
      kernel: [5, 7],
      O: 5,
      padding: 2,
      scale: true,
      bias: true,
      activation: 'relu',
    }),
    convCase('RGB by lines in textures, larger than a tile', {
      x: [1, 20, 64, 3],
      kernel: [7, 7],
      O: 68,
      stride: 2,
      padding: 3,
      bias: true,
      residual: true,
      differentiate: false,
    }),
    convCase('one channel by lines, few outputs', { x: [2, 5, 12, 1], kernel: [3, 9], O: 3, stride: 3, padding: 4 }),
    convCase('six channels by lines, stride 3', { x: [1, 7, 10, 6], kernel: [3, 5], O: 9, stride: 3, padding: 1 }),
    convCase('five channels by lines, without padding', { x: [2, 4, 8, 5], kernel: [2, 7], O: 8 }),
    convCase('strided block', { x: [2, 7, 6, 8], kernel: [3, 3], O: 12, stride: 2, padding: 1 }),
    convCase('strided projection', { x: [1, 6, 5, 8], kernel: [1, 1], O: 4, stride: 2 }),
    convCase('larger than a tile', { x: [1, 8, 8, 36], kernel: [2, 3], O: 68, padding: 1, bias: true }),
    convCase('many tiles', { x: [1, 86, 86, 4], kernel: [3, 2], O: 36, padding: 1, differentiate: false }),
    convCase('sums split over many pixels', { x: [3, 23, 23, 4], kernel: [3, 3], O: 4, padding: 1, bias: true }),
    convCase('ends within a Winograd tile', { x: [2, 9, 6, 8], kernel: [3, 3], O: 12, padding: 1, bias: true }),
    convCase('3 x 3 without padding', { x: [1, 7, 8, 4], kernel: [3, 3], O: 8, bias: true }),
    convCase('3 x 3 with much padding', { x: [1, 3, 4, 4], kernel: [3, 3], O: 4, padding: 3 }),
    convCase('3 x 3 in textures', { x: [1, 5, 6, 64], kernel: [3, 3], O: 64, padding: 1 }),
    convCase('few channels in textures: each lane has its own pixels', {
      x: [3, 9, 16, 4],
      kernel: [3, 3],
      O: 16,
      padding: 1,
    }),
    convCase('12 of 16 channels, in textures', {
      x: [1, 7, 16, 8],
      kernel: [3, 3],
      O: 12,
      padding: 1,
      stride: 2,
      bias: true,
    }),
    convCase('1 x 1 in textures', { x: [2, 3, 3, 64], kernel: [1, 1], O: 128, bias: true }),
    convCase('a long sum, split', { x: [1, 4, 4, 128], kernel: [3, 3], O: 8, stride: 2, padding: 1 }),
    convCase('more padding than kernel', { x: [1, 3, 2, 4], kernel: [1, 2], O: 4, padding: 2 }),
    convCase('stride beyond the kernel', { x: [1, 8, 9, 4], kernel: [2, 1], O: 5, stride: 3, padding: 1 }),
    convCase('one pixel', { x: [1, 1, 1, 5], kernel: [3, 3], O: 3, padding: 1, bias: true }),
    convCase('one channel', { x: [1, 4, 3, 1], kernel: [2, 2], O: 1, bias: true }),
    convCase('empty batch', { x: [0, 4, 4, 4], kernel: [3, 3], O: 4, bias: true }),
    convCase('groups', { x: [2, 5, 5, 16], kernel: [3, 3], O: 24, padding: 1, groups: 2, bias: true }),
    convCase('groups of odd sizes', {
      x: [2, 5, 4, 9],
      kernel: [3, 2],
      O: 15,
      stride: 2,
      padding: 1,
      groups: 3,
      bias: true,
    }),
    convCase('several outputs per channel', { x: [1, 4, 5, 3], kernel: [3, 3], O: 6, padding: 1, groups: 3 }),
    convCase('depthwise', { x: [2, 9, 8, 12], kernel: [3, 3], O: 12, padding: 1, groups: 12, bias: true }),
    convCase('depthwise, strided, odd', {
      x: [2, 6, 7, 6],
      kernel: [3, 5],
      O: 6,
      stride: 2,
      padding: 2,
      groups: 6,
      bias: true,
    }),
    convCase('residual block, first', {
      x: [2, 6, 7, 8],
      kernel: [1, 1],
      O: 12,
      scale: true,
      bias: true,
      activation: 'relu',
    }),
    convCase('residual block, second', {
      x: [2, 7, 6, 8],
      kernel: [3, 3],
      O: 12,
      stride: 2,
      padding: 1,
      scale: true,
      bias: true,
      activation: 'relu',
    }),
    convCase('residual block, Winograd', {
      x: [1, 9, 10, 16],
      kernel: [3, 3],
      O: 16,
      padding: 1,
      scale: true,
      bias: true,
      residual: true,
      activation: 'relu',
    }),
    convCase('residual block, last', {
      x: [1, 6, 7, 16],
      kernel: [1, 1],
      O: 20,
      scale: true,
      bias: true,
      residual: true,
      activation: 'relu',
    }),
    convCase('residual block, last, in textures', {
      x: [1, 6, 7, 64],
      kernel: [1, 1],
      O: 64,
      scale: true,
      bias: true,
      residual: true,
      activation: 'relu',
    }),
    convCase('lateral of a pyramid', { x: [1, 6, 7, 16], kernel: [1, 1], O: 8, bias: true, residual: true }),
    convCase('scale alone', { x: [1, 5, 4, 6], kernel: [2, 2], O: 5, scale: true }),
    convCase('residual and ReLU, odd channels', {
      x: [1, 5, 4, 3],
      kernel: [1, 1],
      O: 5,
      residual: true,
      activation: 'relu',
    }),
    convCase('whole epilogue, a long sum split', {
      x: [1, 2, 3, 1100],
      kernel: [1, 1],
      O: 8,
      scale: true,
      bias: true,
      residual: true,
      activation: 'relu',
    }),
    convCase('depthwise with whole epilogue, odd', {
      x: [1, 5, 4, 6],
      kernel: [3, 3],
      O: 6,
      padding: 1,
      groups: 6,
      scale: true,
      bias: true,
      residual: true,
      activation: 'relu',
    }),
    ...sampleCases(8, random, ({ B, H, W, C, O, kh, kw, groups, ...rest }) =>
      convCase('random', { x: [B, H, W, C * groups], kernel: [kh, kw], O: O * groups, groups, ...rest }),
    ),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
