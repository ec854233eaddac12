/**
 * Entropy-regularised optimal transport by the iterations of Sinkhorn and Knopp in the log domain, and its decoding
 * [OTA, arXiv 2103.14259].
 *
 * One workgroup per problem. The suppliers are `count` rows and the background; the demanders are N columns of one unit
 * each. Costs K are divided by epsilon and relative to the background's costs, so the background's row is zero.
 * With a = u / epsilon and b = v / epsilon, an iteration is
 *   b_j = log(1 + 1e-8)        - logsumexp_i (a_i - K_ij)
 *   a_i = log(supply_i + 1e-8) - logsumexp_j (b_j - K_ij)
 * This is the usual v <- epsilon (log demand - logsumexp((u + v - cost) / epsilon)) + v with v moved out of the sum.
 * b follows from a, so an offset of a column's costs and the usual start u = v = 1 cancel. Starting from a = 0 gives
 * the same plan.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { withinSubgroup } from './subgroups.ts';

/**
 * WGSL of a running logsumexp: `shift` is the largest term so far, `sum` adds up exp(term - shift). One exponential per
 * term.
 */
const LOG_SUM = /* wgsl */ `
struct LogSum { shift: f32, sum: f32 }
const EMPTY = LogSum(-3e38, 0.0);
fn including(l: LogSum, x: f32) -> LogSum {
  let e = exp(-abs(x - l.shift));
  if (x > l.shift) { return LogSum(x, l.sum * e + 1.0); }
  return LogSum(l.shift, l.sum + e);
}
fn logSum(l: LogSum) -> f32 { return l.shift + log(l.sum); }`;

/**
 * WGSL of a loop over the rows 0 .. count. Every lane adds its share of row `row` (columns `seat`, `seat + width`, ...)
 * to `terms`; then the lane with seat 0 has the total `whole` and runs `write`.
 * With a subgroup as workgroup, all lanes share each row. Otherwise `width` lanes share each of `lanes / width` rows.
 */
function rowSweep(lanes: number, subgroup: boolean, share: string, write: string): string {
  if (subgroup) {
    return /* wgsl */ `
    for (var row = 0u; row <= count; row++) {
      var terms = EMPTY;
      ${share}
      let own = terms.shift;
      let shift = ${withinSubgroup(lanes, 'own', 'max')};
      let share = terms.sum * exp(own - shift);
      let whole = LogSum(shift, ${withinSubgroup(lanes, 'share', 'add')});
      if (lane == 0u) { ${write} }
    }`;
  }
  return /* wgsl */ `
    for (var first = 0u; first <= count; first += ${lanes}u / width) {
      let row = first + lane / width;
      var terms = EMPTY;
      if (row <= count) { ${share} }
      partialShift[lane] = terms.shift;
      partialSum[lane] = terms.sum;
      workgroupBarrier();
      if (seat == 0u && row <= count) {
        var shift = terms.shift;
        for (var k = 1u; k < width; k++) { shift = max(shift, partialShift[lane + k]); }
        var sum = 0.0;
        for (var k = 0u; k < width; k++) { sum += partialSum[lane + k] * exp(partialShift[lane + k] - shift); }
        let whole = LogSum(shift, sum);
        ${write}
      }
      workgroupBarrier();
    }`;
}

/** WGSL that computes b of every column from a. */
const columnSweep = (lanes: number): string => /* wgsl */ `
    for (var j = lane; j < p.columns; j += ${lanes}u) {
      var terms = LogSum(rowState[rowBase + count], 1.0); // the background
      for (var i = 0u; i < count; i++) {
        terms = including(terms, rowState[rowBase + i] - costs[costBase + i * p.columns + j]);
      }
      columnState[columnBase + j] = 1e-8 - logSum(terms); // log(1 + 1e-8) = 1e-8
    }`;

/** WGSL that decodes the assignment from a, b and the maximum of each row. */
const decode = (lanes: number): string => /* wgsl */ `
  for (var j = lane; j < p.columns; j += ${lanes}u) {
    var best = -1;
    var bestScore = -3e38;
    for (var i = 0u; i < count; i++) {
      // exactly 0 at a row's maximum
      let score = (columnState[columnBase + j] - costs[costBase + i * p.columns + j]) - rowState[largestBase + i];
      if (score > bestScore) { bestScore = score; best = i32(i); }
    }
    matched[columnBase + j] = select(best, -1, columnState[columnBase + j] - rowState[largestBase + count] > bestScore);
  }`;

/**
 * costs [P, M, N], counts [B], supply [P, M + 1] -> potentials and assignment:
 * - rowState [P, 2, M + 1]: a, and the largest b_j - K_ij of each row;
 * - columnState [P, N]: b;
 * - matched [P, N]: each row of the plan is divided by its maximum, then each column takes its largest entry. Among
 *   equal entries it takes the lowest row, as argmax does in PyTorch; the background, -1, comes last.
 *
 * The assignment is decoded from logarithms, so no row or column can underflow. Two rows that both have their maximum
 * in one column are an exact tie. Therefore b_j - K_ij must be one rounded operation everywhere, and costs are divided
 * by epsilon beforehand.
 *
 * @param lanes    lanes per workgroup: a power of two from 32 to 256, or the size of a subgroup
 * @param subgroup whether a workgroup is one subgroup
 */
export const sinkhornKernel = kernelFamily((lanes: number, subgroup: boolean) =>
  defineKernel({
    name: `sinkhorn_f32_${subgroup ? 'sg' : 'wg'}${lanes}`,
    workgroup: [lanes],
    subgroups: subgroup,
    params: { problems: 'u32', rows: 'u32', columns: 'u32', images: 'u32', iterations: 'u32' },
    buffers: {
      costs: 'read f32',
      counts: 'read u32',
      supply: 'read f32',
      rowState: 'write f32',
      columnState: 'write f32',
      matched: 'write i32',
    },
    module:
      LOG_SUM +
      (subgroup
        ? ''
        : `\nvar<workgroup> partialShift: array<f32, ${lanes}>;\nvar<workgroup> partialSum: array<f32, ${lanes}>;`),
    body: /* wgsl */ `
  let problem = linearGroup;
  if (problem >= p.problems) { return; }
  let count = counts[problem % p.images];
  let costBase = problem * p.rows * p.columns;
  let rowBase = problem * 2u * (p.rows + 1u);
  let largestBase = rowBase + p.rows + 1u;
  let columnBase = problem * p.columns;
  ${
    subgroup
      ? `let width = ${lanes}u;`
      : `var width = 32u; // lanes per row: fewer where there are more rows
  while (width > 8u && ${lanes}u / width < count + 1u) { width /= 2u; }`
  }
  let seat = lane % width;
  for (var i = lane; i < 2u * (p.rows + 1u); i += ${lanes}u) { rowState[rowBase + i] = 0.0; }
  storageBarrier();

  for (var iteration = 0u; iteration < p.iterations; iteration++) {${columnSweep(lanes)}
    storageBarrier();
    ${rowSweep(
      lanes,
      subgroup,
      /* wgsl */ `
      if (row < count) {
        for (var j = seat; j < p.columns; j += width) {
          terms = including(terms, columnState[columnBase + j] - costs[costBase + row * p.columns + j]);
        }
      } else {
        for (var j = seat; j < p.columns; j += width) { terms = including(terms, columnState[columnBase + j]); }
      }`,
      /* wgsl */ `
        let units = supply[problem * (p.rows + 1u) + select(row, p.rows, row == count)];
        rowState[rowBase + row] = log(units + 1e-8) - logSum(whole);`,
    )}
    storageBarrier();
  }

  ${rowSweep(
    lanes,
    subgroup,
    /* wgsl */ `
      for (var j = seat; j < p.columns; j += width) {
        var cost = 0.0;
        if (row < count) { cost = costs[costBase + row * p.columns + j]; }
        terms.shift = max(terms.shift, columnState[columnBase + j] - cost);
      }`,
    'rowState[largestBase + row] = whole.shift;',
  )}
  storageBarrier();${decode(lanes)}`,
  }),
);

/** The plan, for inspection: [P, M + 1, N], background last, padded rows zero. One invocation per entry. */
export const transportPlanKernel = kernelFamily(() =>
  defineKernel({
    name: 'transport_plan_f32',
    workgroup: [64],
    params: { count: 'u32', rows: 'u32', columns: 'u32', images: 'u32' },
    buffers: {
      costs: 'read f32',
      counts: 'read u32',
      rowState: 'read f32',
      columnState: 'read f32',
      plan: 'write f32',
    },
    body: /* wgsl */ `
  let at = linearGroup * 64u + lane;
  if (at >= p.count) { return; }
  let column = at % p.columns;
  let row = at / p.columns % (p.rows + 1u);
  let problem = at / p.columns / (p.rows + 1u);
  let count = counts[problem % p.images];
  let rowBase = problem * 2u * (p.rows + 1u);
  let b = columnState[problem * p.columns + column];
  var entry = 0.0;
  if (row < count) {
    entry = exp(rowState[rowBase + row] + b - costs[(problem * p.rows + row) * p.columns + column]);
  } else if (row == p.rows) {
    entry = exp(rowState[rowBase + count] + b);
  }
  plan[at] = entry;`,
  }),
);
