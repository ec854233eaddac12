/**
 * Gradients of act(x * scale + shift + residual) with one scale and one shift per channel. channel-norm.ts explains
 * params.
 */
import { CHANNEL_PARAMS, CHANNEL_SCOPE, maskedUpstream } from './channel-norm.ts';
import { defineKernel, kernelFamily } from './kernel.ts';
import { ACCESS, ELEMENT, type Width } from './teams.ts';

/** Gradient of act(x * scale + shift) with respect to x. */
export const scaleShiftGradientKernel = kernelFamily((width: Width, relu: boolean) => {
  const V = ELEMENT[width];
  return defineKernel({
    name: `scale_shift_gradient_f32_${ACCESS[width]}${relu ? '_relu' : ''}`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: { output: `read ${V}`, upstream: `read ${V}`, scale: `read ${V}`, gradient: `write ${V}` },
    body: `${CHANNEL_SCOPE}
  let factor = scale[c];
  for (var i = r; i < p.length; i += p.stride) { gradient[base + i] = ${maskedUpstream(width, relu)} * factor; }`,
  });
});

/** Gradients of relu(x * scale + shift + residual) with respect to x and the residual. */
export const scaleShiftResidualGradientKernel = kernelFamily((width: Width) => {
  const V = ELEMENT[width];
  return defineKernel({
    name: `scale_shift_residual_gradient_f32_${ACCESS[width]}_relu`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: {
      output: `read ${V}`,
      upstream: `read ${V}`,
      scale: `read ${V}`,
      gradient: `write ${V}`,
      residualGradient: `write ${V}`,
    },
    body: `${CHANNEL_SCOPE}
  let factor = scale[c];
  for (var i = r; i < p.length; i += p.stride) {
    let u = ${maskedUpstream(width, true)};
    residualGradient[base + i] = u;
    gradient[base + i] = u * factor;
  }`,
  });
});
