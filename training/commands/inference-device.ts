/** The device of commands that infer, and what `--half` means to them. */
import { UnsupportedOptionError, type Device } from '../../engine/index.ts';
import { openDevice, type NodeDeviceOptions } from '../../engine/node/index.ts';
import { InputError } from '../core/errors.ts';

export const HALF_HELP =
  '  --half          round operands of matrix products and convolutions to f16, sums stay f32; needs an adapter with shader-f16 (npm run doctor lists features)';

/** What `--half` comes to on a device, in a line: on a processor's adapter f32 stays unless tuned choices say otherwise. */
export function describeHalf({ expectedPrecision, tuner }: Device): string {
  if (expectedPrecision === 'f16')
    return 'half      operands of matrix products and convolutions in f16, unless npm run tune -- --half has chosen f32';
  const chosen = Object.values(tuner.export().choices).filter(({ variant }) => /\bf16\b/.test(variant)).length;
  return `half      this adapter's f32 kernels are expected to be faster; f16 where npm run tune -- --half has chosen it: ${chosen} ${chosen === 1 ? 'choice' : 'choices'}`;
}

/** Opens the device of a command; with `half` one that may round to f16. Throws InputError naming `--half` where the adapter cannot do it. */
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
