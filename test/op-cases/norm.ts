/** Cases of layerNorm, groupNorm and scaleShift. */
import { groupNorm, layerNorm, scaleShift } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, type NdArray, type OpCase } from '../op-harness.ts';

const mean = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0) / values.length;

function layerNormReference([x, gamma, beta]: readonly NdArray[], epsilon: number, relu: boolean): NdArray {
  const columns = gamma.data.length;
  const y = new Float64Array(x.data.length);
  for (let o = 0; o < y.length; o += columns) {
    const row = x.data.subarray(o, o + columns);
    const center = mean(row);
    const deviation = Math.sqrt(mean(row.map((v) => (v - center) ** 2)) + epsilon);
    for (let c = 0; c < columns; c++) {
      const value = ((row[c] - center) / deviation) * gamma.data[c] + beta.data[c];
      y[o + c] = relu ? Math.max(value, 0) : value;
    }
  }
  return ndarray(x.shape, y);
}

interface RowCaseOptions {
  readonly epsilon?: number;
  readonly activation?: 'relu';
  /** Shift of the values of x. */
  readonly shift?: number;
  readonly tolerance?: number;
}

function layerNormCase(
  name: string,
  shape: readonly number[],
  { shift = 0, tolerance, ...options }: RowCaseOptions = {},
): OpCase {
  const columns = shape[shape.length - 1];
  return {
    name: `${name} [${shape.join(', ')}]`,
    inputs: [randomInput(shape, 1, { shift }), randomInput([columns], 2), randomInput([columns], 3)],
    run: ([x, gamma, beta]) => layerNorm(x, gamma, beta, options),
    reference: (inputs) => layerNormReference(inputs, options.epsilon ?? 1e-5, options.activation === 'relu'),
    ...(tolerance === undefined ? {} : { tolerance }),
    ...(options.activation ? { step: 1e-7 } : {}),
  };
}

/** Group normalization of x [B, ..., C]: groups of adjacent channels over all pixels of an image. */
function groupNormReference(
  [x, gamma, beta, residual]: readonly NdArray[],
  groups: number,
  epsilon: number,
  relu: boolean,
): NdArray {
  const channels = gamma.data.length,
    images = x.shape[0],
    members = channels / groups;
  const y = new Float64Array(x.data.length);
  for (let b = 0; b < images; b++) {
    for (let g = 0; g < groups; g++) {
      const positions: number[] = [];
      for (let i = (b * y.length) / images; i < ((b + 1) * y.length) / images; i++)
        if (Math.floor((i % channels) / members) === g) positions.push(i);
      const values = positions.map((i) => x.data[i]);
      const center = mean(values);
      const deviation = Math.sqrt(mean(values.map((v) => (v - center) ** 2)) + epsilon);
      for (const i of positions) {
        const value =
          ((x.data[i] - center) / deviation) * gamma.data[i % channels] +
          beta.data[i % channels] +
          (residual ? residual.data[i] : 0);
        y[i] = relu ? Math.max(value, 0) : value;
      }
    }
  }
  return ndarray(x.shape, y);
}

interface ChannelCaseOptions {
  readonly epsilon?: number;
  readonly activation?: 'relu';
  readonly residual?: boolean;
  /** Shift of the values of x. */
  readonly shift?: number;
  readonly tolerance?: number;
  /** Which of the four inputs need a gradient; default: all. */
  readonly differentiate?: readonly boolean[];
}

function channelInputs(
  shape: readonly number[],
  { residual, shift, differentiate = [] }: ChannelCaseOptions,
): OpCase['inputs'] {
  const channels = shape[shape.length - 1];
  const vectors = [randomInput([channels], 2), randomInput([channels], 3)];
  const inputs = [randomInput(shape, 1, { shift }), ...vectors, ...(residual ? [randomInput(shape, 4)] : [])];
  return inputs.map((input, i) => ({ ...input, differentiate: differentiate[i] ?? true }));
}

function groupNormCase(
  name: string,
  shape: readonly number[],
  groups: number,
  options: ChannelCaseOptions = {},
): OpCase {
  const { epsilon = 1e-5, activation, tolerance = 1e-5 } = options;
  return {
    name: `${name} [${shape.join(', ')}] in ${groups}`,
    inputs: channelInputs(shape, options),
    run: ([x, gamma, beta, residual]) => groupNorm(x, gamma, beta, groups, { epsilon, activation, residual }),
    reference: (inputs) => groupNormReference(inputs, groups, epsilon, activation === 'relu'),
    tolerance,
    ...(activation ? { step: 1e-7 } : {}),
  };
}

function scaleShiftCase(name: string, shape: readonly number[], options: ChannelCaseOptions = {}): OpCase {
  const { activation } = options;
  return {
    name: `${name} [${shape.join(', ')}]`,
    inputs: channelInputs(shape, options),
    run: ([x, scale, shift, residual]) => scaleShift(x, scale, shift, { activation, residual }),
    reference: ([x, scale, shift, residual]) =>
      ndarray(
        x.shape,
        x.data.map((value, i) => {
          const channel = i % scale.data.length;
          const y = value * scale.data[channel] + shift.data[channel] + (residual ? residual.data[i] : 0);
          return activation ? Math.max(y, 0) : y;
        }),
      ),
    ...(activation ? { step: 1e-7 } : {}),
  };
}

export const normCases = {
  layerNorm: [
    layerNormCase('registers full', [3, 5, 256]),
    layerNormCase('with relu', [37, 64], { activation: 'relu', epsilon: 1e-3 }),
    layerNormCase('scalar columns, masked', [7, 13]),
    layerNormCase('one column', [4, 1], { epsilon: 0.1 }),
    layerNormCase('one row, masked vec4', [20]),
    layerNormCase('no rows', [0, 8]),
    layerNormCase('many rows', [2100, 8]),
    layerNormCase('wider than registers', [19, 2052], { activation: 'relu' }),
    layerNormCase('wider than registers, scalar', [3, 517]),
    // The mean is 1000 standard deviations from zero. Rounding of the inputs to f32 causes an error of 6e-5 deviations.
    // The op may not add much more.
    layerNormCase('far from zero', [6, 64], { shift: 1000, tolerance: 2e-4 }),
  ],
  groupNorm: [
    groupNormCase('residual and relu', [2, 9, 7, 16], 4, { activation: 'relu', residual: true }),
    groupNormCase('groups of several vec4s, relu', [3, 150, 24], 3, { activation: 'relu' }),
    groupNormCase('many groups, one pixel', [2, 1, 32], 8, { residual: true }),
    groupNormCase('relu', [2, 17, 8], 2, { activation: 'relu', epsilon: 1e-3 }),
    groupNormCase('residual', [1, 3, 5, 12], 2, { residual: true }),
    groupNormCase('only the residual requires a gradient', [1, 3, 5, 12], 2, {
      residual: true,
      activation: 'relu',
      differentiate: [false, false, false, true],
    }),
    groupNormCase('odd channels', [3, 4, 5, 9], 3),
    groupNormCase('one pixel', [2, 8], 2),
    groupNormCase('one channel per group', [2, 33, 4], 4),
    groupNormCase('no images', [0, 5, 8], 2),
    groupNormCase('more pixels than an invocation handles', [1, 37, 19, 8], 2, { activation: 'relu' }),
    // As for layerNorm: rounding of the inputs.
    groupNormCase('far from zero', [2, 300, 8], 2, { shift: 1000, tolerance: 2e-4 }),
  ],
  scaleShift: [
    scaleShiftCase('plain', [2, 5, 7, 8]),
    scaleShiftCase('residual and relu', [2, 5, 7, 12], { activation: 'relu', residual: true }),
    scaleShiftCase('residual', [9, 16], { residual: true }),
    scaleShiftCase('frozen, residual and relu', [2, 3, 3, 8], {
      activation: 'relu',
      residual: true,
      differentiate: [true, false, false, true],
    }),
    scaleShiftCase('odd channels, relu', [4, 3, 5], { activation: 'relu' }),
    scaleShiftCase('no rows', [0, 4]),
    scaleShiftCase('many rows', [5000, 4], { activation: 'relu' }),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
