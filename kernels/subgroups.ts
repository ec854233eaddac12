/**
 * WGSL text for kernels whose lanes share values through subgroup operations.
 * It is written for small subgroups: software Vulkan has 4 to 16 lanes.
 */
import { joined, range } from './repeat.ts';

/**
 * WGSL that gives all lanes the value of lane `from`. Each form is the faster one on the adapters with that subgroup
 * size: lavapipe has one instruction for shuffles of 8 lanes, and a loop for shuffles of 16.
 */
export const broadcastLane = (lanes: number, value: string, from: number): string =>
  `${lanes !== 8 ? 'subgroupBroadcast' : 'subgroupShuffle'}(${value}, ${from}u)`;

/**
 * WGSL that brings the value of a row, loaded by lane `from`, to the columns of every lane.
 *
 * In subgroups of 4 (SwiftShader) a broadcast takes longer than ten multiply-adds, so lanes swap values instead. Lane l
 * then gets the value of lane l ^ `from`, and its results belong to the row that `rowLoop` computes.
 */
export const shareRowValue = (lanes: number, value: string, from: number): string =>
  lanes === 4
    ? [value, `quadSwapX(${value})`, `quadSwapY(${value})`, `quadSwapDiagonal(${value})`][from]
    : broadcastLane(lanes, value, from);

/** Where lanes hold the values of op(A) for one turn of the loop over K. */
export interface RowOperand {
  readonly lanes: number;
  readonly transposed: boolean;
  /**
   * Prefix of the variables. Not transposed: `<name><block>` are vec4s along K, one row each. Transposed:
   * `<name><step>_<block>` are vec4s of neighboring rows for each step.
   */
  readonly name: string;
}

/** WGSL of op(A) at row `row` of a tile and step 0 .. 3 of a turn, shared with all lanes (see shareRowValue). */
export function rowValue({ lanes, transposed, name }: RowOperand, row: number, step: number): string {
  if (!transposed) return shareRowValue(lanes, `${name}${Math.floor(row / lanes)}[${step}]`, row % lanes);
  const inBlock = row % (4 * lanes);
  const value = `${name}${step}_${Math.floor(row / (4 * lanes))}[${inBlock % 4}]`;
  return shareRowValue(lanes, value, Math.floor(inBlock / 4));
}

/** Mesa unrolls loops over local arrays with at most this many iterations. */
const MAX_UNROLLED = 32;

/**
 * WGSL of the local array `results` of a tile, which a loop stores (`rowLoop`).
 *
 * The loop must not be unrolled, because the stores would then be most of the code. So the array is longer than
 * MAX_UNROLLED. The array also makes lavapipe's compiler align its stack. Without it, each of the thousand values that
 * do not fit into registers lies across two cache lines.
 */
export function resultsArray(lanes: number, type: 'f32' | 'vec4f', values: readonly string[]): string {
  const length = lanes === 4 ? values.length : Math.max(values.length, MAX_UNROLLED + 1);
  const padding = range(length - values.length).map(() => `${type}()`);
  return `var results = array<${type}, ${length}>(${[...values, ...padding].join(', ')});`;
}

/**
 * WGSL of the position in a tile of a lane's single column `j`: every `lanes`-th column. If `wide`, each lane has
 * groups of four neighboring columns, whose results are stored as one vec4 (see laneResults).
 */
export const laneColumn = (lanes: number, j: number, wide: boolean): string =>
  wide ? `${Math.floor(j / 4) * 4 * lanes + (j % 4)}u + 4u * lane` : `${j * lanes}u + lane`;

/** WGSL of the values that a lane stores, row by row, from its sums `c<row>_<j>`. */
export const laneResults = (rows: number, vectors: number, wide: boolean): string[] =>
  range(rows).flatMap((row) =>
    wide
      ? range(vectors / 4).map((v) => `vec4f(${joined(4, ', ', (q) => `c${row}_${4 * v + q}`)})`)
      : range(vectors).map((j) => `c${row}_${j}`),
  );

/** WGSL of a number that the compiler cannot know. A loop up to such a number is not unrolled. */
export const opaqueNumber = (value: number): string => `select(0u, ${value}u, groups.x != 0u)`;

/**
 * WGSL of the head of a loop over the results `r` of a tile. It computes `row`, the row in the tile that result r
 * belongs to (see shareRowValue), and skips rows from `count` on. Each lane has loaded blocks of `rowsPerLane`
 * neighboring rows.
 */
export const rowLoop = (lanes: number, rows: number, count: string, rowsPerLane: 1 | 4): string =>
  lanes === 4
    ? `for (var r = 0u; r < ${rows}u; r++) {
    let row = r ^ (lane * ${rowsPerLane}u);
    if (row >= ${count}) { continue; }`
    : `let rows = min(${opaqueNumber(rows)}, ${count});
  for (var r = 0u; r < rows; r++) {
    let row = r;`;

export type SubgroupFunction = 'add' | 'max' | 'min';
const BUILT_IN = { add: 'subgroupAdd', max: 'subgroupMax', min: 'subgroupMin' } as const;

/**
 * WGSL of the sum, maximum or minimum of a variable over a subgroup.
 *
 * lavapipe (8 or 16 lanes) implements subgroupAdd as a loop over the lanes, but broadcasts a known lane in one
 * instruction. There the values of all lanes are combined pair by pair.
 */
export function withinSubgroup(lanes: number, variable: string, f: SubgroupFunction): string {
  if (lanes !== 8 && lanes !== 16) return `${BUILT_IN[f]}(${variable})`;
  const combined = (from: number, count: number): string => {
    if (count === 1) return broadcastLane(lanes, variable, from);
    const [a, b] = [combined(from, count / 2), combined(from + count / 2, count / 2)];
    return f === 'add' ? `(${a} + ${b})` : `${f}(${a}, ${b})`;
  };
  return combined(0, lanes);
}
