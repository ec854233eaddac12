/** The norm of all gradients together and the factor that clips them, computed on the device. */
import { clippingFactorKernel, NORM_BLOCK, squareSumsKernel } from '../../kernels/optimizers.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import { teamOf } from '../../kernels/teams.ts';
import type { Tensor } from '../core/tensor.ts';
import type { FlatEntry, FlatParameters } from './flat-parameters.ts';

export interface ClippingOptions {
  /**
   * Maximum L2 norm of all gradients together. Larger gradients are scaled down, as by PyTorch's clip_grad_norm_.
   * Default: no limit.
   */
  readonly maxGradientNorm?: number;
  /**
   * Factor of the gradients before clipping, e.g. 1 / passes if gradients were accumulated over several passes.
   * Default 1.
   */
  readonly gradientScale?: number;
}

/** Norm and clipping factor of the flat gradients. */
export class GradientNorm {
  /** [1]: the norm of the last step's gradients after scaling, before clipping. */
  readonly norm: Tensor;
  /** [1]: the factor that an update multiplies the gradients by. It contains scaling and clipping. */
  readonly factor: Tensor;

  constructor(private readonly flat: FlatParameters) {
    this.norm = flat.device.keep(flat.device.zeros([1]));
    this.factor = flat.device.keep(flat.device.zeros([1]));
  }

  /** Writes `norm` and `factor` for the gradients of `entries` in the flat buffers. */
  compute(owner: string, entries: readonly FlatEntry[], { maxGradientNorm, gradientScale = 1 }: ClippingOptions): void {
    if (maxGradientNorm !== undefined && !(maxGradientNorm > 0))
      throw new RangeError(`${owner}: maxGradientNorm: expected a number > 0, got ${maxGradientNorm}`);
    if (!Number.isFinite(gradientScale) || gradientScale <= 0)
      throw new RangeError(`${owner}: gradientScale: expected a number > 0, got ${gradientScale}`);
    const { device, gradients } = this.flat;
    const runs = this.flat.runs(entries, () => 0);
    const blocks = runs.map(({ count }) => Math.ceil(count / 4 / NORM_BLOCK));
    const count = blocks.reduce((sum, n) => sum + n, 0);
    const partial = device.empty([Math.max(1, count)]);
    let firstPartial = 0;
    for (const [i, run] of runs.entries()) {
      device.run(
        squareSumsKernel(device.subgroupSize),
        { first4: run.offset / 4, count4: run.count / 4, firstPartial, blocks: blocks[i] },
        { gradient: gradients[run.chunk], partial },
        linearGrid(Math.ceil(blocks[i] / teamOf(device.subgroupSize).count)),
      );
      firstPartial += blocks[i];
    }
    const clips = maxGradientNorm === undefined ? 0 : 1;
    device.run(
      clippingFactorKernel(),
      { count, clips, scale: gradientScale, maxNorm: maxGradientNorm ?? 0 },
      { partial, norm: this.norm, factor: this.factor },
      [1, 1, 1],
    );
  }

  dispose(): void {
    this.norm.dispose();
    this.factor.dispose();
  }
}
