/** Gradients of act(x * scale + shift + residual) for `scaleShift` and for convolutions with a fused epilogue. */
import { scaleShiftGradientKernel, scaleShiftResidualGradientKernel } from '../../kernels/scale-shift.ts';
import type { Tensor } from '../core/tensor.ts';
import { mapLaunch } from './channel-norm.ts';

/**
 * Gradients before act(x * scale + shift + residual). `scaled` is the gradient with respect to x, `plain` the gradient
 * with respect to shift and residual. `needs` selects them. `plain` may be `upstream` itself.
 *
 * @param activated the output of the ReLU, or null without a ReLU
 */
export function scaleShiftGradients(
  upstream: Tensor,
  scale: Tensor,
  activated: Tensor | null,
  needs: { readonly scaled: boolean; readonly plain: boolean },
): { scaled: Tensor | null; plain: Tensor | null } {
  const { device } = upstream;
  const channels = scale.size;
  const masksPlain = needs.plain && activated !== null;
  if (!needs.scaled && !masksPlain) return { scaled: null, plain: needs.plain ? upstream : null };
  const pixels = channels === 0 ? 0 : upstream.size / channels;
  const { width, params, grid } = mapLaunch(device, 'backward', { images: 1, pixels, channels });
  const scaled = device.empty(upstream.shape);
  if (!masksPlain) {
    device.run(
      scaleShiftGradientKernel(width, activated !== null),
      params,
      { output: activated ?? upstream, upstream, scale, gradient: scaled },
      grid,
    );
    return { scaled, plain: needs.plain ? upstream : null };
  }
  const plain = device.empty(upstream.shape);
  device.run(
    scaleShiftResidualGradientKernel(width),
    params,
    { output: activated, upstream, scale, gradient: scaled, residualGradient: plain },
    grid,
  );
  return { scaled, plain };
}
