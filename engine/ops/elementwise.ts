/** How elementwise kernels (`eachElement` in kernels/kernel.ts) are launched. */
import { linearGrid, type Grid } from '../../kernels/kernel.ts';
import type { Device } from '../device.ts';

/** Lanes of a workgroup on GPUs, with an element each. */
const GPU_LANES = 64;
/** Elements in turn that make a lane's start worth its cost, and those that a lane takes where there is work enough. */
const SHORTEST_SHARE = 16;
const LONGEST_SHARE = 512;
/** Workgroups that keep a software adapter busy. */
const BUSY_GROUPS = 64;

export interface ElementwiseLaunch {
  /** What the kernel must be made for. */
  readonly lanes: number;
  readonly grid: Grid;
}

/**
 * The launch of a kernel that does something to each of `count` elements. Software adapters start every lane by computing its ids, which costs as much as several elements: there a
 * workgroup is one subgroup that takes a range of elements in turn (AdamW over 16 M parameters on lavapipe 1.6 times as fast; several elements a lane without a loop gain nothing).
 */
export function elementwise({ smallSubgroups, subgroupSize }: Device, count: number): ElementwiseLaunch {
  if (!smallSubgroups) return { lanes: GPU_LANES, grid: linearGrid(Math.ceil(count / GPU_LANES)) };
  const turns = Math.ceil(count / subgroupSize);
  return { lanes: subgroupSize, grid: linearGrid(Math.max(Math.ceil(turns / LONGEST_SHARE), Math.min(BUSY_GROUPS, Math.ceil(turns / SHORTEST_SHARE)))) };
}
