/** How the lanes of a small subgroup (software Vulkan: 4 to 16 of them) share values: text that the kernels are written with. */

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Lines of WGSL, one for each number below `count`. */
export const lines = (count: number, line: (i: number) => string): string => range(count).map(line).join('\n');

/** How lane `from`'s value reaches all lanes: each form is the faster one on the adapters with subgroups of that size (lavapipe has an instruction for shuffles of 8 lanes, and a loop for those of 16). */
export const handOut = (subgroup: number, value: string, from: number): string =>
  `${subgroup !== 8 ? 'subgroupBroadcast' : 'subgroupShuffle'}(${value}, ${from}u)`;

/**
 * How a row's value, loaded by lane `from`, meets every lane's columns. In subgroups of 4 (SwiftShader, where handing it out takes longer than ten multiply-adds) lanes swap
 * their values instead: lane l gets that of lane l ^ `from`, so that its results are of the row that `eachRow` tells.
 */
export const meetRow = (subgroup: number, value: string, from: number): string =>
  subgroup === 4
    ? [value, `quadSwapX(${value})`, `quadSwapY(${value})`, `quadSwapDiagonal(${value})`][from]
    : handOut(subgroup, value, from);

/**
 * The value of op(A) at a tile's row `row` and step 0 .. 3 of a turn, as it meets every lane's columns. Lanes have loaded vec4s along K of a row each, `<name><block>`; or, of A
 * transposed, vec4s of neighbouring rows for each step, `<name><step>_<block>`.
 */
export function rowValue(lanes: number, transposedA: boolean, name: string, row: number, step: number): string {
  if (!transposedA) return meetRow(lanes, `${name}${Math.floor(row / lanes)}[${step}]`, row % lanes);
  const inBlock = row % (4 * lanes);
  return meetRow(lanes, `${name}${step}_${Math.floor(row / (4 * lanes))}[${inBlock % 4}]`, Math.floor(inBlock / 4));
}

/** Mesa unrolls loops over local arrays of up to so many turns. */
const MAX_UNROLLED = 32;

/**
 * WGSL of the local array `results` of a tile, for a loop to store them (`eachRow`), which must not be unrolled: the stores would be most of the code. And lavapipe's compiler
 * only aligns its stack for the sake of an array there: without one each of the thousand values beyond the registers lies across two cache lines.
 */
export function resultsArray(subgroup: number, type: 'f32' | 'vec4f', values: readonly string[]): string {
  const length = subgroup === 4 ? values.length : Math.max(values.length, MAX_UNROLLED + 1);
  return `var results = array<${type}, ${length}>(${[...values, ...range(length - values.length).map(() => `${type}()`)].join(', ')});`;
}

/** WGSL of the place in a tile of a lane's single column `j`: every `lanes`th one, or where `wide` four neighbours after another, whose results are stored as a vec4 (`laneResults`). */
export const laneColumn = (lanes: number, j: number, wide: boolean): string =>
  wide ? `${Math.floor(j / 4) * 4 * lanes + (j % 4)}u + 4u * lane` : `${j * lanes}u + lane`;

/** WGSL of what a lane stores of its sums `c<row>_<j>`, row by row. */
export const laneResults = (rows: number, vectors: number, wide: boolean): string[] =>
  range(rows).flatMap((row) =>
    wide
      ? range(vectors / 4).map(
          (v) =>
            `vec4f(${range(4)
              .map((q) => `c${row}_${4 * v + q}`)
              .join(', ')})`,
        )
      : range(vectors).map((j) => `c${row}_${j}`),
  );

/** WGSL of a number that a compiler does not know: a loop of so many turns at most is not unrolled. */
export const unknown = (value: number): string => `select(0u, ${value}u, groups.x != 0u)`;

/**
 * WGSL of the head of a loop over a tile's results `r`, with the row of the tile that they are of, less than `count`: see meetRow. Each lane has loaded blocks of `rowsOfALane`
 * neighbouring rows.
 */
export const eachRow = (subgroup: number, rows: number, count: string, rowsOfALane: 1 | 4): string =>
  subgroup === 4
    ? `for (var r = 0u; r < ${rows}u; r++) {
    let row = r ^ (lane * ${rowsOfALane}u);
    if (row >= ${count}) { continue; }`
    : `let rows = min(${unknown(rows)}, ${count});
  for (var r = 0u; r < rows; r++) {
    let row = r;`;

export type SubgroupFunction = 'add' | 'max' | 'min';
const BUILT_IN = { add: 'subgroupAdd', max: 'subgroupMax', min: 'subgroupMin' } as const;

/**
 * The sum, maximum or minimum of a variable over a subgroup. For subgroupAdd lavapipe (8 or 16 lanes) goes through the lanes in a loop, but it hands out a known lane's value in an
 * instruction: there the values of all lanes are combined pair by pair.
 */
export function withinSubgroup(lanes: number, variable: string, f: SubgroupFunction): string {
  if (lanes !== 8 && lanes !== 16) return `${BUILT_IN[f]}(${variable})`;
  const combined = (from: number, count: number): string => {
    if (count === 1) return handOut(lanes, variable, from);
    const [a, b] = [combined(from, count / 2), combined(from + count / 2, count / 2)];
    return f === 'add' ? `(${a} + ${b})` : `${f}(${a}, ${b})`;
  };
  return combined(0, lanes);
}
