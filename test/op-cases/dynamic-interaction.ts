/**
 * Cases for dynamic interaction: widths of the presets, numbers of positions near the tile sizes, one and no proposal.
 */
import fc from 'fast-check';
import { dynamicInteraction } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type NdArray, type OpCase } from '../op-harness.ts';

/** ReLU(LN(row) * gamma + beta) */
function normalizedRelu(row: readonly number[], gamma: NdArray, beta: NdArray): number[] {
  const mean = row.reduce((a, v) => a + v, 0) / row.length;
  const variance = row.reduce((a, v) => a + (v - mean) ** 2, 0) / row.length;
  return row.map((v, i) => Math.max(0, ((v - mean) / Math.sqrt(variance + 1e-5)) * gamma.data[i] + beta.data[i]));
}

/** x (inner) times the (inner, columns) matrix that starts at `start`. */
const times = (x: ArrayLike<number>, weights: Float64Array, start: number, columns: number): number[] =>
  Array.from({ length: columns }, (_, column) => {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += x[i] * weights[start + i * columns + column];
    return sum;
  });

function reference([roi, parameters, gamma1, beta1, gamma2, beta2]: readonly NdArray[]): NdArray {
  const [proposals, positions, d] = roi.shape;
  const k = gamma1.data.length;
  const out: number[] = [];
  for (let r = 0; r < proposals; r++)
    for (let at = 0; at < positions; at++) {
      const x = roi.data.subarray((r * positions + at) * d, (r * positions + at + 1) * d);
      const x1 = normalizedRelu(times(x, parameters.data, r * 2 * d * k, k), gamma1, beta1);
      out.push(...normalizedRelu(times(x1, parameters.data, r * 2 * d * k + d * k, d), gamma2, beta2));
    }
  return ndarray([proposals, positions, d], out);
}

const make = (name: string, [proposals, positions, d, k]: readonly number[]): OpCase => ({
  name: `${name}: ${proposals} x ${positions} positions, d ${d}, k ${k}`,
  inputs: [
    randomInput([proposals, positions, d], 80),
    randomInput([proposals, 2 * d * k], 81, { scale: 0.3 }),
    randomInput([k], 82, { scale: 0.2, shift: 1 }),
    randomInput([k], 83, { scale: 0.2, shift: 0.3 }),
    randomInput([d], 84, { scale: 0.2, shift: 1 }),
    randomInput([d], 85, { scale: 0.2 }),
  ],
  run: ([roi, parameters, gamma1, beta1, gamma2, beta2]) =>
    dynamicInteraction(roi, parameters, gamma1, beta1, gamma2, beta2),
  reference,
  // Smaller than the distance of the pre-activations from the kinks of the ReLUs. A difference across a kink is not a
  // derivative.
  step: 1e-7,
  tolerance: 2e-5,
});

const problems = fc.tuple(
  fc.integer({ min: 1, max: 4 }),
  fc.integer({ min: 1, max: 20 }),
  fc.constantFrom(4, 12, 20, 36, 72),
  fc.constantFrom(4, 8, 12, 20),
);

export const dynamicInteractionCases = {
  dynamicInteraction: [
    make('tiny preset', [3, 9, 16, 4]),
    make('small preset', [2, 49, 64, 16]),
    make('paper', [1, 49, 256, 64]),
    make('one position', [5, 1, 8, 4]),
    make('no proposal', [0, 49, 16, 4]),
    ...sampleCases(3, problems, (problem) => make('random', problem)),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
