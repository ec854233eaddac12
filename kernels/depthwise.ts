/**
 * Depthwise convolution in NHWC: every channel with a filter of its own, so there is nothing to share between channels and one lane computes one vec4 of
 * channels. Images [batch, height, width, C4], weights [kh, kw, C4], both vec4.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, kernelFamily } from './kernel.ts';

const PARAMS = {
  count: 'u32', sourceH: 'u32', sourceW: 'u32', outH: 'u32', outW: 'u32', C4: 'u32', kh: 'u32', kw: 'u32', stride: 'u32', padding: 'i32',
} as const;

/** One lane an output pixel and vec4 of channels. */
export const depthwiseKernel = kernelFamily((epilogue: Epilogue) => defineKernel({
  name: `depthwise_f32_vec4${epilogue}`,
  workgroup: [64],
  params: PARAMS,
  buffers: { source: 'read vec4f', weights: 'read vec4f', ...epilogueBuffers(epilogue, 'vec4f'), output: 'write vec4f' },
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let c = i % p.C4;
  let pixel = i / p.C4;
  let x0 = i32((pixel % p.outW) * p.stride) - p.padding;
  let y0 = i32(((pixel / p.outW) % p.outH) * p.stride) - p.padding;
  let image = pixel / (p.outW * p.outH);
  var sum = vec4f();
  for (var ky = 0u; ky < p.kh; ky++) {
    let y = u32(y0 + i32(ky));
    if (y >= p.sourceH) { continue; }
    for (var kx = 0u; kx < p.kw; kx++) {
      let x = u32(x0 + i32(kx));
      if (x >= p.sourceW) { continue; }
      sum = fma(source[((image * p.sourceH + y) * p.sourceW + x) * p.C4 + c], weights[(ky * p.kw + kx) * p.C4 + c], sum);
    }
  }
  ${columnOperands(epilogue, '', (buffer) => `${buffer}[c]`)}
  output[i] = ${withEpilogue(epilogue, 'sum', '', 'residual[i]', 'vec4f()')};`,
}));

/**
 * One lane an input pixel and vec4 of channels: gathers from the output pixels that read it, through the taps stride apart that meet one: output row oy reads row
 * y (counted in the padded image) by tap y - oy * stride.
 */
export const depthwiseInputGradientKernel = kernelFamily(() => defineKernel({
  name: 'depthwise_input_gradient_f32_vec4',
  workgroup: [64],
  params: PARAMS,
  buffers: { upstream: 'read vec4f', weights: 'read vec4f', gradient: 'write vec4f' },
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let pixel = i / p.C4;
  let c = i - pixel * p.C4;
  let line = pixel / p.sourceW;
  let image = line / p.sourceH;
  let y = line - image * p.sourceH + u32(p.padding);
  let x = pixel - line * p.sourceW + u32(p.padding);
  let lastY = y / p.stride;
  let lastX = x / p.stride;
  var sum = vec4f();
  var ky = y - lastY * p.stride;
  for (var oy = lastY; ky < p.kh; oy--) {
    var kx = x - lastX * p.stride;
    for (var ox = lastX; kx < p.kw; ox--) {
      if (oy < p.outH && ox < p.outW) { sum = fma(upstream[((image * p.outH + oy) * p.outW + ox) * p.C4 + c], weights[(ky * p.kw + kx) * p.C4 + c], sum); }
      kx += p.stride;
    }
    ky += p.stride;
  }
  gradient[i] = sum;`,
}));

/** One lane a tap, a vec4 of channels and a split of the lines (image, oy). */
export const depthwiseWeightGradientKernel = kernelFamily(() => defineKernel({
  name: 'depthwise_weight_gradient_f32_vec4',
  workgroup: [64],
  params: {
    count: 'u32', lines: 'u32', linesPerSplit: 'u32', sourceH: 'u32', sourceW: 'u32', outH: 'u32', outW: 'u32', C4: 'u32', kh: 'u32', kw: 'u32',
    stride: 'u32', padding: 'i32',
  },
  buffers: { source: 'read vec4f', upstream: 'read vec4f', partialSums: 'write vec4f' },
  body: `
  let i = linearGroup * 64u + lane;
  if (i >= p.count) { return; }
  let c = i % p.C4;
  let kx = (i / p.C4) % p.kw;
  let ky = (i / (p.C4 * p.kw)) % p.kh;
  let first = (i / (p.C4 * p.kw * p.kh)) * p.linesPerSplit;
  let last = min(first + p.linesPerSplit, p.lines);
  var sum = vec4f();
  for (var outLine = first; outLine < last; outLine++) {
    let y = u32(i32((outLine % p.outH) * p.stride + ky) - p.padding);
    if (y >= p.sourceH) { continue; }
    let sourceLine = ((outLine / p.outH) * p.sourceH + y) * p.sourceW;
    for (var ox = 0u; ox < p.outW; ox++) {
      let x = u32(i32(ox * p.stride + kx) - p.padding);
      if (x >= p.sourceW) { continue; }
      sum = fma(source[(sourceLine + x) * p.C4 + c], upstream[(outLine * p.outW + ox) * p.C4 + c], sum);
    }
  }
  partialSums[i] = sum;`,
}));
