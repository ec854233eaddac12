/** The line of output that names a device. */
import type { Device } from '../../engine/index.ts';

/** The adapter's description, or its vendor if it has none. */
export const adapterName = ({ info }: Pick<Device, 'info'>): string => info.description || info.vendor;

/** For example "device    llvmpipe (LLVM 15.0.6, 256 bits), subgroups of 8". */
export function deviceLine(device: Pick<Device, 'info' | 'subgroupSize'>): string {
  const subgroups = device.subgroupSize > 0 ? `, subgroups of ${device.subgroupSize}` : '';
  return `device    ${adapterName(device)}${subgroups}`;
}
