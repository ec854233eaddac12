/**
 * Teams of lanes that work on one row together, and the forms of rows that norm, softmax and reduction kernels share.
 */
import { withinSubgroup, type SubgroupFunction } from './subgroups.ts';

/**
 * Lanes that share one row: a subgroup that is the whole workgroup, or eight lanes that exchange values in workgroup
 * memory.
 */
export interface Team {
  readonly lanes: number;
  /** Teams per workgroup. */
  readonly count: number;
  readonly subgroups: boolean;
  /** Part of a kernel's name. */
  readonly label: string;
}

/** @param subgroupSize lanes per subgroup; 0 where the device guarantees no subgroup size */
export function teamOf(subgroupSize: number): Team {
  return subgroupSize > 0
    ? { lanes: subgroupSize, count: 1, subgroups: true, label: `sg${subgroupSize}` }
    : { lanes: 8, count: 8, subgroups: false, label: 'team8' };
}

const COMBINE = { add: 'a + b', max: 'max(a, b)', min: 'min(a, b)' } as const;

/**
 * WGSL of `name(value, lane)`: the sum, maximum or minimum over the lanes of a team, returned to all lanes.
 * It must be called in uniform control flow.
 * Without subgroups every lane reads its team's values in turn. This needs fewer barriers than a tree, and all lanes
 * combine the values in the same order.
 */
export function teamReduction(team: Team, name: string, type: 'f32' | 'vec2f' | 'u32', f: SubgroupFunction): string {
  if (team.subgroups)
    return `fn ${name}(value: ${type}, lane: u32) -> ${type} { return ${withinSubgroup(team.lanes, 'value', f)}; }`;
  return `
var<workgroup> ${name}Exchange: array<${type}, ${team.lanes * team.count}>;
fn ${name}(value: ${type}, lane: u32) -> ${type} {
  ${name}Exchange[lane] = value;
  workgroupBarrier();
  let first = lane - lane % ${team.lanes}u;
  var a = ${name}Exchange[first];
  for (var i = 1u; i < ${team.lanes}u; i++) { let b = ${name}Exchange[first + i]; a = ${COMBINE[f]}; }
  workgroupBarrier();
  return a;
}`;
}

/** WGSL that declares `member` (the lane's index in its team) and `item` (the team's index in the grid). */
export function teamScope(team: Team): string {
  return `
  let member = lane % ${team.lanes}u;
  let item = linearGroup * ${team.count}u + lane / ${team.lanes}u;`;
}

/** Maximum number of row elements (scalars or vec4s) that a lane holds in registers. */
export const MAX_SLOTS = 16;

/** Values per buffer element: 1 for f32, 4 for vec4f. */
export type Width = 1 | 4;

/** Values per buffer element for rows or columns of this length. */
export const widthOf = (length: number): Width => (length % 4 === 0 ? 4 : 1);

/** WGSL type of a buffer element. */
export const ELEMENT = { 1: 'f32', 4: 'vec4f' } as const;

/** Part of a kernel's name. */
export const ACCESS = { 1: 'scalar', 4: 'vec4' } as const;

/** WGSL of the sum of an element's values. */
export const sumOfElement = (width: Width, value: string): string =>
  width === 4 ? `dot(${value}, vec4f(1.0))` : `(${value})`;

/** How a team reads rows. */
export type RowForm = {
  /** Lanes per subgroup, 0 for teams without subgroups. */
  readonly subgroupSize: number;
  readonly width: Width;
  /** Registers per lane that hold the row; 0: the lanes loop over memory. */
  readonly slots: number;
  /** Whether a row fills all registers of all lanes. */
  readonly full: boolean;
};

/** Part of a kernel's name. */
export const rowLabel = ({ subgroupSize, width, slots, full }: RowForm): string =>
  `${teamOf(subgroupSize).label}_${ACCESS[width]}_${slots ? `x${slots}${full ? '' : '_masked'}` : 'loops'}`;
