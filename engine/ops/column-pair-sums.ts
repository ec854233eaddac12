/** Sums of pairs of columns: the gradients of norms with respect to gamma and beta, from their parts. */
import { columnReduceKernel, columnSumPairKernel } from '../../kernels/reduce.ts';
import { itemGrid } from '../../kernels/kernel.ts';
import { widthOf } from '../../kernels/teams.ts';
import type { Tensor } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './rounding.ts';
import { LONG_COLUMN, MAX_CHUNKS, MAX_CHUNKS_TRIED } from './reduce-variants.ts';

function describePairs(n: number, columns: number, expected: number): TuningProblem<number> {
  const candidate = (chunks: number): Candidate<number> => ({
    name: chunks === 1 ? 'at once' : `${chunks} chunks`,
    variant: chunks,
    tolerance: roundingOf(n),
    kernels: () => [
      ...(chunks > 1 ? [columnReduceKernel('sum', widthOf(columns * 2))] : []),
      columnSumPairKernel(widthOf(columns)),
    ],
  });
  const others = [1, expected >> 2, expected * 4].map((chunks) =>
    Math.max(1, Math.min(chunks, Math.ceil(n / 4), MAX_CHUNKS_TRIED)),
  );
  return {
    expected: candidate(expected),
    candidates: worthMeasuring(2 * n * columns) ? others.map(candidate) : [],
    plain: Math.min(MAX_CHUNKS, Math.max(1, Math.ceil(n / 16))),
    tensors: { input: [n, 2, columns], output: [columns], other: [columns] },
    output: ['output', 'other'],
    run: (chunks, { input, output, other }) => sumPairs(input, { n, columns, chunks }, [output, other]),
  };
}

/** Sums `input` [n, 2, columns] over n into two tensors [columns]. */
export function sumColumnPairs(input: Tensor, n: number, columns: number, sums: readonly [Tensor, Tensor]): void {
  const { device } = input;
  const expected = n > LONG_COLUMN ? Math.min(MAX_CHUNKS, Math.ceil(n / (device.smallSubgroups ? 64 : 16))) : 1;
  const chunks =
    n > LONG_COLUMN
      ? device.tuner.choose('sum-pairs', `${n}x2x${columns}`, () => describePairs(n, columns, expected))
      : expected;
  sumPairs(input, { n, columns, chunks }, sums);
}

function sumPairs(
  input: Tensor,
  { n, columns, chunks }: Readonly<Record<'n' | 'columns' | 'chunks', number>>,
  [output, other]: readonly [Tensor, Tensor],
): void {
  const { device } = input;
  const width = widthOf(columns * 2);
  const inner = (columns * 2) / width;
  let source = input;
  let rows = n;
  if (chunks > 1) {
    source = device.empty([chunks, 2, columns]);
    device.run(
      columnReduceKernel('sum', width),
      { length: n * inner, stride: chunks * inner, inner, lanes: chunks * inner, factor: 1 },
      { input, extreme: input, output: source },
      itemGrid(chunks * inner),
    );
    rows = chunks;
  }
  const halfWidth = widthOf(columns);
  const halves = (columns * 2) / halfWidth;
  device.run(
    columnSumPairKernel(halfWidth),
    { length: rows * halves, stride: halves, inner: halves, lanes: halves, factor: 1 },
    { input: source, output, other },
    itemGrid(halves),
  );
}

/** As `sumColumnPairs`, into new tensors. */
export function columnPairSums(input: Tensor, n: number, columns: number): [Tensor, Tensor] {
  const { device } = input;
  const sums: [Tensor, Tensor] = [device.empty([columns]), device.empty([columns])];
  sumColumnPairs(input, n, columns, sums);
  return sums;
}
