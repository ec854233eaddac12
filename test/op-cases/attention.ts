/** Cases for multi-head attention: head sizes, numbers of tokens near the block size, and scores far apart. */
import fc from 'fast-check';
import { multiheadAttention } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import { ndarray, randomInput, sampleCases, type NdArray, type OpCase } from '../op-harness.ts';

function reference({ shape: [batch, tokens, width3], data }: NdArray, heads: number): NdArray {
  const width = width3 / 3,
    size = width / heads;
  const out = new Float64Array(batch * tokens * width);
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < tokens; i++) {
        const at = (part: number, n: number, c: number): number =>
          data[(b * tokens + n) * width3 + part * width + h * size + c];
        const scores = Array.from({ length: tokens }, (_, j) => {
          let sum = 0;
          for (let c = 0; c < size; c++) sum += at(0, i, c) * at(1, j, c);
          return sum / Math.sqrt(size);
        });
        const highest = Math.max(...scores);
        const weights = scores.map((s) => Math.exp(s - highest));
        const total = weights.reduce((a, e) => a + e, 0);
        for (let c = 0; c < size; c++) {
          let sum = 0;
          for (let j = 0; j < tokens; j++) sum += weights[j] * at(2, j, c);
          out[(b * tokens + i) * width + h * size + c] = sum / total;
        }
      }
  return ndarray([batch, tokens, width], out);
}

const make = (name: string, [batch, tokens, heads, size]: readonly number[], scale = 1): OpCase => ({
  name: `${name}: ${batch} x ${tokens} tokens, ${heads} heads of ${size}`,
  inputs: [randomInput([batch, tokens, 3 * heads * size], 60 + tokens + size, { scale })],
  run: ([qkv]) => multiheadAttention(qkv, heads),
  reference: ([qkv]) => reference(qkv, heads),
  // exp and log of software adapters have errors of about 1e-7 for arguments up to ten.
  tolerance: 1e-5,
});

const problems = fc.tuple(
  fc.integer({ min: 1, max: 3 }),
  fc.integer({ min: 1, max: 20 }),
  fc.integer({ min: 1, max: 3 }),
  fc.constantFrom(3, 4, 8),
);

export const attentionCases = {
  multiheadAttention: [
    make('one token', [1, 1, 2, 4]),
    make('size not a multiple of 4', [2, 9, 2, 3]),
    make('size 1', [1, 5, 3, 1]),
    make('more tokens than lanes', [1, 67, 1, 8]),
    make('small preset', [2, 25, 4, 16]),
    make('paper', [1, 33, 1, 32]),
    make('beyond the paper', [1, 10, 1, 36]),
    make('peaked', [1, 12, 2, 4], 4),
    {
      name: 'empty',
      inputs: [randomInput([2, 0, 12], 1)],
      run: ([qkv]) => multiheadAttention(qkv, 2),
      reference: () => ndarray([2, 0, 4], []),
    },
    ...sampleCases(3, problems, (problem) => make('random', problem)),
  ],
} satisfies Partial<Record<OpName, OpCase[]>>;
