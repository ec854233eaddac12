/** Opens the device of commands that detect, and explains their option `--half`. */
import { UnsupportedOptionError, type Device } from '../../engine/index.ts';
import { openDevice, type NodeDeviceOptions } from '../../engine/node/index.ts';
import { InputError } from '../core/errors.ts';

export const HALF_HELP = `\
  --half          round operands of matrix products and convolutions to f16; sums stay f32.
                  Needs an adapter with shader-f16 (npm run doctor lists features)`;

/**
 * The effect of `--half` on a device, as one line. Adapters that run on a processor keep f32, except where tuning has
 * chosen f16.
 */
export function describeHalf({ expectedPrecision, tuner }: Device): string {
  if (expectedPrecision === 'f16')
    return (
      'half      operands of matrix products and convolutions are f16, ' +
      'except where npm run tune -- --half has chosen f32'
    );
  const chosen = Object.values(tuner.export().choices).filter(({ variant }) => /\bf16\b/.test(variant)).length;
  return (
    "half      this adapter's f32 kernels are expected to be faster; " +
    `f16 where npm run tune -- --half has chosen it: ${chosen} ${chosen === 1 ? 'choice' : 'choices'}`
  );
}

/**
 * Opens the device of a command.
 * @param half allows operands in f16
 * @throws InputError naming `--half` if the adapter does not support it
 */
export async function openForInference(
  command: string,
  half: boolean,
  options: NodeDeviceOptions = {},
): Promise<Device> {
  try {
    return await openDevice({ ...options, halfPrecision: half });
  } catch (error) {
    throw error instanceof UnsupportedOptionError
      ? new InputError(`${command}: --half: ${error.message.replace(/^halfPrecision: /, '')}`)
      : error;
  }
}
