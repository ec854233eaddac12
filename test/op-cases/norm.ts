/** Cases for layerNorm, groupNorm and scaleShift. */
import { layerNorm } from '../../engine/index.ts';
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
      const value = (row[c] - center) / deviation * gamma.data[c] + beta.data[c];
      y[o + c] = relu ? Math.max(value, 0) : value;
    }
  }
  return ndarray(x.shape, y);
}

function layerNormCase(name: string, shape: readonly number[], options: { epsilon?: number; activation?: 'relu' } = {}, input: Parameters<typeof randomInput>[2] = {}, tolerance?: number): OpCase {
  const columns = shape[shape.length - 1];
  return {
    name: `${name} [${shape.join(', ')}]`,
    inputs: [randomInput(shape, 1, input), randomInput([columns], 2), randomInput([columns], 3)],
    run: ([x, gamma, beta]) => layerNorm(x, gamma, beta, options),
    reference: (inputs) => layerNormReference(inputs, options.epsilon ?? 1e-5, options.activation === 'relu'),
    ...(tolerance === undefined ? {} : { tolerance }),
    ...(options.activation ? { step: 1e-7 } : {}),
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
    // The mean is 1000 deviations away: f32 inputs leave 6e-5 of a deviation, and no more may be lost.
    layerNormCase('far from zero', [6, 64], {}, { shift: 1000 }, 2e-4),
  ],
} satisfies Partial<Record<string, OpCase[]>>;
