/** What kernels may use on a device, derived from its features, its adapter and the options. */
import { SUBGROUP_TILES } from '../../kernels/matmul.ts';
import type { TensorDevice } from '../core/tensor.ts';
import type { DeviceOptions } from './options.ts';

export type Capabilities = Pick<
  TensorDevice,
  'subgroupSize' | 'smallSubgroups' | 'operandTextures' | 'halfPrecision' | 'expectedPrecision' | 'force'
>;

export function capabilitiesOf(gpu: GPUDevice, info: GPUAdapterInfo, options: DeviceOptions): Capabilities {
  const { halfPrecision = false, force = {} } = options;
  const oneSize = info.subgroupMinSize !== undefined && info.subgroupMinSize === info.subgroupMaxSize;
  const subgroups = options.subgroups !== false && gpu.features.has('subgroups') && oneSize;
  const subgroupSize = subgroups ? info.subgroupMinSize : 0;
  const smallSubgroups = SUBGROUP_TILES[subgroupSize] !== undefined;
  const languageFeatures =
    options.languageFeatures ?? globalThis.navigator?.gpu?.wgslLanguageFeatures ?? new Set<string>();
  return {
    subgroupSize,
    smallSubgroups,
    operandTextures: languageFeatures.has('readonly_and_readwrite_storage_textures'),
    halfPrecision,
    expectedPrecision: halfPrecision ? (force.precision ?? (smallSubgroups ? 'f32' : 'f16')) : 'f32',
    force,
  };
}
