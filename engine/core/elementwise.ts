/** Launch sizes of elementwise kernels (`eachElement` in kernels/kernel.ts). */
import { GPU_LANES, linearGrid, type Grid } from '../../kernels/kernel.ts';
import type { TensorDevice } from './tensor.ts';

/** Lanes per workgroup of elementwise kernels on a device. */
export const elementwiseLanes = ({ smallSubgroups, subgroupSize }: TensorDevice): number =>
  smallSubgroups ? subgroupSize : GPU_LANES;

/** Minimum and maximum number of elements per lane. With fewer elements, starting the lane costs more than its work. */
const MIN_SHARE = 16;
const MAX_SHARE = 512;
/** Number of workgroups that keeps a software adapter busy. */
const BUSY_GROUPS = 64;

export interface ElementwiseLaunch {
  /** Lanes per workgroup to make the kernel for. */
  readonly lanes: number;
  readonly grid: Grid;
}

/**
 * The launch of a kernel over `count` elements. On software adapters each lane first computes its ids, which costs as
 * much as several elements. On these adapters a workgroup is one subgroup that loops over a range of elements. AdamW
 * over 16 M parameters is then 1.6 times as fast on lavapipe. Several elements per lane without a loop gain nothing.
 *
 * @param minShare minimum number of elements per lane; the default suits elements as cheap as a sum
 */
export function elementwise(device: TensorDevice, count: number, minShare = MIN_SHARE): ElementwiseLaunch {
  const lanes = elementwiseLanes(device);
  const turns = Math.ceil(count / lanes);
  if (!device.smallSubgroups) return { lanes, grid: linearGrid(turns) };
  return {
    lanes,
    grid: linearGrid(Math.max(Math.ceil(turns / MAX_SHARE), Math.min(BUSY_GROUPS, Math.ceil(turns / minShare)))),
  };
}
