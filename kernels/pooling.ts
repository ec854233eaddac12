/**
 * Max pooling in NHWC, one lane an output (or input) pixel and vec4 of channels; channels that are no multiple of 4 go one by one.
 * `channels` counts elements of the buffers: vec4s or single values.
 */
import { defineKernel, kernelFamily, type Kernel } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';

const PARAMS = {
  count: 'u32', height: 'u32', width: 'u32', outH: 'u32', outW: 'u32', channels: 'u32', kernel: 'u32', stride: 'u32', padding: 'u32',
} as const;

/**
 * Whether a value takes the place of the best so far. What a comparison with NaN gives is up to the adapter, so NaNs are told by their bits;
 * as in PyTorch they win.
 */
const maximum = (vec4: boolean): string => {
  const [f, u] = vec4 ? ['vec4f', 'vec4u'] : ['f32', 'u32'];
  const bool = vec4 ? 'vec4<bool>' : 'bool';
  return `
fn isNan(value: ${f}) -> ${bool} { return (bitcast<${u}>(value) & ${u}(0x7fffffffu)) > ${u}(0x7f800000u); }
fn beats(value: ${f}, best: ${f}) -> ${bool} {
  return ((value > best) & !isNan(best)) | isNan(value);
}`;
};

/** `texture`: the input is a linear operand texture, of vec4s. `winners`: also writes which pixel of its window each maximum was, which its gradient needs. */
export const maxPool2dKernel = kernelFamily((vec4: boolean, texture: boolean, winners: boolean): Kernel => defineKernel<string, string>({
  name: `max_pool2d_f32${vec4 ? '_vec4' : ''}${texture ? '_texture' : ''}${winners ? '_winners' : ''}`,
  workgroup: [64],
  params: { ...PARAMS, ...linearParams(texture, 'input') },
  buffers: {
    ...(vec4 ? linearBuffers(texture, 'input') : { input: 'read f32' as const }),
    output: vec4 ? 'write vec4f' : 'write f32', ...(winners ? { winners: vec4 ? 'write vec4u' as const : 'write u32' as const } : {}),
  },
  module: maximum(vec4),
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let c = i % p.channels;
  let pixel = i / p.channels;
  let x0 = (pixel % p.outW) * p.stride;
  let y0 = ((pixel / p.outW) % p.outH) * p.stride;
  let image = pixel / (p.outW * p.outH);
  var best = ${vec4 ? 'vec4f' : 'f32'}();
  var winner = ${vec4 ? 'vec4u' : 'u32'}(0xffffffffu);
  for (var ky = 0u; ky < p.kernel; ky++) {
    let y = y0 + ky - p.padding;
    if (y >= p.height) { continue; }
    for (var kx = 0u; kx < p.kernel; kx++) {
      let x = x0 + kx - p.padding;
      if (x >= p.width) { continue; }
      let at = ((image * p.height + y) * p.width + x) * p.channels + c;
      let value = ${linearLoad(texture, 'input', 'at')};
      // The first pixel of a window wins whatever it is, so that a window of -infinity has a winner too.
      let wins = beats(value, best) | (winner == ${vec4 ? 'vec4u' : 'u32'}(0xffffffffu));
      best = select(best, value, wins);
      winner = select(winner, ${vec4 ? 'vec4u' : 'u32'}(ky * p.kernel + kx), wins);
    }
  }
  output[i] = best;
  ${winners ? 'winners[i] = winner;' : ''}`,
}));

/** Gathers: an input pixel takes the gradient of every window whose winner it is. */
export const maxPool2dGradientKernel = kernelFamily((vec4: boolean) => {
  const f = vec4 ? 'vec4f' : 'f32';
  const u = vec4 ? 'vec4u' : 'u32';
  return defineKernel({
    name: `max_pool2d_gradient_f32${vec4 ? '_vec4' : ''}`,
    workgroup: [64],
    params: PARAMS,
    buffers: vec4
      ? { upstream: 'read vec4f', winners: 'read vec4u', gradient: 'write vec4f' }
      : { upstream: 'read f32', winners: 'read u32', gradient: 'write f32' },
    body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let c = i % p.channels;
  let pixel = i / p.channels;
  let x = pixel % p.width + p.padding;
  let y = (pixel / p.width) % p.height + p.padding;
  let image = pixel / (p.width * p.height);
  // Windows that hold the pixel: those that start at most kernel - 1 before it.
  let firstX = (max(x + 1u, p.kernel) - p.kernel + p.stride - 1u) / p.stride;
  let firstY = (max(y + 1u, p.kernel) - p.kernel + p.stride - 1u) / p.stride;
  var sum = ${f}();
  for (var oy = firstY; oy <= min(y / p.stride, p.outH - 1u); oy++) {
    for (var ox = firstX; ox <= min(x / p.stride, p.outW - 1u); ox++) {
      let window = ((image * p.outH + oy) * p.outW + ox) * p.channels + c;
      let own = ${u}((y - oy * p.stride) * p.kernel + x - ox * p.stride);
      sum += select(${f}(), upstream[window], winners[window] == own);
    }
  }
  gradient[i] = sum;`,
  });
});
