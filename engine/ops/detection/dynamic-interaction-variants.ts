/** Where the products of a pass of dynamic interaction read their operands from: buffers or textures. */
import {
  interactionTile,
  plainInteractionKernel,
  readsVectors,
  subgroupInteractionKernel,
} from '../../../kernels/dynamic-interaction.ts';
import type { TensorDevice } from '../../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../../tuning/problem.ts';
import { hasLinearOperand, prefersTextures } from '../operand-textures.ts';
import { roundingOf } from '../rounding.ts';

/** R proposals of P positions; see `dynamicInteraction` for d and k. */
export interface InteractionSizes {
  readonly proposals: number;
  readonly positions: number;
  readonly d: number;
  readonly k: number;
}

/**
 * Cost of copying a value, in multiply-adds saved by reading from textures. Measured on lavapipe (docs/adapters.md).
 */
const COPY_COST = 12;

/**
 * Whether the products are expected to be large enough for their operands to be copied into textures. At P positions, d
 * and k decide how often a value is used.
 */
function expectsTextures(device: TensorDevice, { positions, d, k }: InteractionSizes): boolean {
  if (!prefersTextures(device)) return false;
  if (device.force.operands === 'texture') return true;
  const lanes = device.subgroupSize;
  const tile = interactionTile(lanes, 'nn', positions, Math.min(d, k));
  if (!tile || !readsVectors(lanes, 'nn', tile)) return false;
  return 2 * positions * d * k > COPY_COST * (positions * (d + k) + 2 * d * k);
}

/** The part of a tuning problem that depends on the pass. */
export type InteractionProblem = Pick<TuningProblem<boolean>, 'tensors' | 'output' | 'run'>;

/**
 * Whether the products of a pass read from textures: the tuned choice, or the expected one.
 *
 * @param describe describes the pass where its sizes have not been seen before; the result must hold no tensors
 */
export function chooseOperands(
  device: TensorDevice,
  family: string,
  sizes: InteractionSizes,
  describe: (device: TensorDevice, sizes: InteractionSizes) => InteractionProblem,
): boolean {
  const { proposals, positions, d, k } = sizes;
  return device.tuner.choose(family, `${proposals}x${positions}x${d}x${k}`, () =>
    describeOperands(device, sizes, describe(device, sizes)),
  );
}

function describeOperands(
  device: TensorDevice,
  sizes: InteractionSizes,
  problem: InteractionProblem,
): TuningProblem<boolean> {
  const { proposals, positions, d, k } = sizes;
  const lanes = device.subgroupSize;
  // The tuner chooses the tiles of the products separately. This kernel stands for all that can read either source.
  const tile = interactionTile(lanes, 'nn', positions, k);
  const candidate = (textures: boolean): Candidate<boolean> => ({
    name: textures ? 'texture' : 'buffer',
    variant: textures,
    tolerance: roundingOf(Math.max(d, positions)),
    kernels: () => [
      tile
        ? subgroupInteractionKernel({
            lanes,
            form: 'nn',
            ...tile,
            textures: textures && readsVectors(lanes, 'nn', tile),
          })
        : plainInteractionKernel('nn'),
    ],
  });
  const possible = tile !== null && device.operandTextures && hasLinearOperand(device, [proposals, 2 * d * k]);
  return {
    expected: candidate(expectsTextures(device, sizes)),
    candidates:
      possible && worthMeasuring((proposals * positions * d * k) / 8) ? [candidate(false), candidate(true)] : [],
    plain: false,
    ...problem,
  };
}
