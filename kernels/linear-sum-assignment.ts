/**
 * Linear sum assignment by shortest augmenting paths (Crouse, "On implementing 2D rectangular assignment algorithms",
 * 2016, as in scipy).
 * One workgroup per problem. Its lanes share the members of the longer side; each member always belongs to the same
 * lane. Every loop is bounded by a size, so no costs can make it run forever.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { withinSubgroup } from './subgroups.ts';

/** Lanes per workgroup without subgroups: 8 groups of 8 for the reduction in two steps. */
const LANES = 64;

/** WGSL that writes the smallest (value, tag) of all lanes to `bestValue` and `bestTag`. */
const reduceSubgroup = (lanes: number): string => /* wgsl */ `
      let smallest = ${withinSubgroup(lanes, 'ownValue', 'min')};
      let candidate = select(NONE, ownTag, ownValue == smallest);
      let smallestTag = ${withinSubgroup(lanes, 'candidate', 'min')};
      if (lane == 0u) { bestValue = smallest; bestTag = smallestTag; }`;
/** WGSL variables that lanes exchange values through without subgroups. */
const LANE_VALUES = `var<workgroup> laneValue: array<f32, ${LANES}>;
var<workgroup> laneTag: array<u32, ${LANES}>;`;
/** As `reduceSubgroup`, without subgroups. */
const REDUCE_WORKGROUP = /* wgsl */ `
      laneValue[lane] = ownValue;
      laneTag[lane] = ownTag;
      workgroupBarrier();
      ${[1, 8]
        .map(
          (stride) => /* wgsl */ `if (lane % ${8 * stride}u == 0u) {
        for (var k = 1u; k < 8u; k++) {
          let value = laneValue[lane + k * ${stride}u];
          let tag = laneTag[lane + k * ${stride}u];
          if (value < ownValue || (value == ownValue && tag < ownTag)) { ownValue = value; ownTag = tag; }
        }
        laneValue[lane] = ownValue;
        laneTag[lane] = ownTag;
      }`,
        )
        .join('\n      workgroupBarrier();\n      ')}
      if (lane == 0u) { bestValue = ownValue; bestTag = ownTag; }`;

/** WGSL of the assignment by 'short' (the side with fewer members) and 'long', and of the limit of costs. */
const SIDES = /* wgsl */ `
// Rows are the short side unless flipped.
struct Sides { flipped: bool, rowBase: u32, columnBase: u32 }
fn longOf(s: Sides, i: u32) -> i32 {
  if (s.flipped) { return rowOfColumn[s.columnBase + i]; }
  return columnOfRow[s.rowBase + i];
}
fn shortOf(s: Sides, j: u32) -> i32 {
  if (s.flipped) { return columnOfRow[s.rowBase + j]; }
  return rowOfColumn[s.columnBase + j];
}
fn assign(s: Sides, i: u32, j: u32) {
  if (s.flipped) { rowOfColumn[s.columnBase + i] = i32(j); columnOfRow[s.rowBase + j] = i32(i); }
  else { columnOfRow[s.rowBase + i] = i32(j); rowOfColumn[s.columnBase + j] = i32(i); }
}
fn finite(c: f32) -> f32 {
  return select(c, CEILING, (bitcast<u32>(c) & 0x7fffffffu) > bitcast<u32>(CEILING));
}`;

/**
 * WGSL of a step of the search: extends the path by short `at` and finds each lane's nearest long that is not done, as
 * `ownValue` and `ownTag`.
 */
const relax = (lanes: number): string => /* wgsl */ `
      for (var j = lane; j < longs; j += ${lanes}u) {
        if (links[doneLong + j] == search) { continue; }
        let cost = finite(costs[costBase + at * shortStride + j * longStride]);
        let reduced = length + ((cost - dual) - values[dualLong + j]);
        var value = values[shortest + j];
        if (step == 0u || reduced < value) {
          value = reduced;
          values[shortest + j] = reduced;
          links[path + j] = i32(at);
        }
        let tag = select(j, j + longs, shortOf(sides, j) >= 0); // among equals free longs first, then by index
        if (value < ownValue || (value == ownValue && tag < ownTag)) { ownValue = value; ownTag = tag; }
      }`;

/** WGSL that updates the duals of the shorts and longs that a search visited. */
const updateDuals = (lanes: number): string => /* wgsl */ `
      for (var i = lane; i < shorts; i += ${lanes}u) {
        if (i == root) { values[dualShort + i] += length; }
        else if (links[doneShort + i] == search) {
          values[dualShort + i] += length - values[shortest + u32(longOf(sides, i))];
        }
      }
      for (var j = lane; j < longs; j += ${lanes}u) {
        if (links[doneLong + j] == search) { values[dualLong + j] -= length - values[shortest + j]; }
      }`;

/** WGSL that assigns the pairs along the path from `sink` back to `root`. */
const AUGMENT = /* wgsl */ `
      if (lane == 0u) {
        var j = sink;
        for (var step = 0u; step <= root; step++) {
          let i = u32(links[path + j]);
          let next = longOf(sides, i);
          assign(sides, i, j);
          if (i == root || next < 0) { break; }
          j = u32(next);
        }
      }`;

/**
 * costs [P, rows, columns] -> columnOfRow [P, rows], rowOfColumn [P, columns], -1 where unassigned. Problem p uses
 * counts[p mod images] rows.
 * `values` and `links` are scratch memory: rows + columns + max(rows, columns) per problem.
 *
 * @param subgroupSize size of the subgroup that is the whole workgroup; 0 for the variant without subgroups
 */
export const linearSumAssignmentKernel = kernelFamily((subgroupSize: number) => {
  const lanes = subgroupSize > 0 ? subgroupSize : LANES;
  return defineKernel({
    name: `linear_sum_assignment_f32${subgroupSize > 0 ? `_sg${subgroupSize}` : ''}`,
    workgroup: [lanes],
    subgroups: subgroupSize > 0,
    params: { problems: 'u32', rows: 'u32', columns: 'u32', images: 'u32' },
    buffers: {
      costs: 'read f32',
      counts: 'read u32',
      columnOfRow: 'write i32',
      rowOfColumn: 'write i32',
      values: 'write f32',
      links: 'write i32',
    },
    module: /* wgsl */ `
const NONE = 0xffffffffu;
const CEILING = 1e30f;
${subgroupSize > 0 ? '' : LANE_VALUES}
var<workgroup> bestValue: f32;
var<workgroup> bestTag: u32;${SIDES}`,
    body: /* wgsl */ `
  let problem = linearGroup;
  if (problem >= p.problems) { return; }
  let count = min(counts[problem % p.images], p.rows);
  let sides = Sides(count > p.columns, problem * p.rows, problem * p.columns);
  let shorts = min(count, p.columns);
  let longs = max(count, p.columns);
  let costBase = problem * p.rows * p.columns;
  let shortStride = select(p.columns, 1u, sides.flipped);
  let longStride = select(1u, p.columns, sides.flipped);
  let base = problem * (p.rows + p.columns + max(p.rows, p.columns));
  // values: duals of both sides, length of the shortest path to each long
  let dualShort = base;
  let dualLong = dualShort + shorts;
  let shortest = dualLong + longs;
  // links: for each short and long, the last search (root + 1) that visited it; for each long, the short before it on
  // its path
  let doneShort = base;
  let doneLong = doneShort + shorts;
  let path = doneLong + longs;
  for (var i = lane; i < p.rows; i += ${lanes}u) { columnOfRow[sides.rowBase + i] = -1; }
  for (var j = lane; j < p.columns; j += ${lanes}u) { rowOfColumn[sides.columnBase + j] = -1; }
  for (var i = lane; i < shorts + longs; i += ${lanes}u) { values[base + i] = 0.0; links[base + i] = 0; }
  storageBarrier();

  for (var root = 0u; root < shorts; root++) {
    let search = i32(root + 1u);
    var at = root;
    var length = 0.0;
    var sink = NONE;
    // Each step but the last visits an assigned long. There are 'root' assigned longs.
    for (var step = 0u; step <= root; step++) {
      if (lane == 0u) { links[doneShort + at] = search; }
      let dual = values[dualShort + at];
      var ownValue = 3e38;
      var ownTag = NONE;${relax(lanes)}
      ${subgroupSize > 0 ? reduceSubgroup(lanes) : REDUCE_WORKGROUP}
      length = workgroupUniformLoad(&bestValue);
      let tag = workgroupUniformLoad(&bestTag);
      if (tag == NONE) { break; }
      let chosen = tag % longs;
      if (lane == chosen % ${lanes}u) { links[doneLong + chosen] = search; }
      if (tag < longs) {
        sink = chosen;
        break;
      }
      at = u32(shortOf(sides, chosen));
    }
    storageBarrier();
    if (sink != NONE) {${updateDuals(lanes)}
      storageBarrier();${AUGMENT}
    }
    storageBarrier();
  }`,
  });
});
