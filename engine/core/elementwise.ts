/** How elementwise kernels (`eachElement` in kernels/kernel.ts) are launched. */
import { GPU_LANES, linearGrid, type Grid } from '../../kernels/kernel.ts';
import type { TensorDevice } from './tensor.ts';

/** What elementwise kernels must be made for. */
export const elementwiseLanes = ({ smallSubgroups, subgroupSize }: TensorDevice): number =>
  smallSubgroups ? subgroupSize : GPU_LANES;

/** Elements in turn that make a lane's start worth its cost, and those that a lane takes where there is work enough. */
const MIN_SHARE = 16;
const MAX_SHARE = 512;
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
 *
 * @param shortestShare elements in turn that make a lane's start worth its cost, where they are not as cheap as a sum
 */
export function elementwise(device: TensorDevice, count: number, shortestShare = MIN_SHARE): ElementwiseLaunch {
  const lanes = elementwiseLanes(device);
  const turns = Math.ceil(count / lanes);
  if (!device.smallSubgroups) return { lanes, grid: linearGrid(turns) };
  return {
    lanes,
    grid: linearGrid(Math.max(Math.ceil(turns / MAX_SHARE), Math.min(BUSY_GROUPS, Math.ceil(turns / shortestShare)))),
  };
}
