/**
 * Depthwise convolution in NHWC: every channel has its own filter. Nothing can be shared between channels, so one
 * invocation computes one vec4 of channels. Images are [batch, height, width, C4], weights [kh, kw, C4], both in vec4s.
 * `textures`: the operands are linear operand textures.
 */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, eachPlace, kernelFamily } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import { joined } from './repeat.ts';

const PARAMS = {
  count: 'u32',
  sourceH: 'u32',
  sourceW: 'u32',
  outH: 'u32',
  outW: 'u32',
  C4: 'u32',
  kh: 'u32',
  kw: 'u32',
  stride: 'u32',
  padding: 'i32',
} as const;

/**
 * Each element is one vec4 of channels of `pixels` neighboring output pixels of a line. These pixels share the loaded
 * weights. `lanes`: invocations per workgroup.
 */
export const depthwiseKernel = kernelFamily((pixels: number, textures: boolean, epilogue: Epilogue, lanes: number) => {
  const sourceAt = (q: number): string => `((image * p.sourceH + y) * p.sourceW + column${q}) * p.C4 + c`;
  const tap = (q: number): string => {
    const value = `select(vec4f(), ${linearLoad(textures, 'source', `at${q}`)}, column${q} < p.sourceW)`;
    return `let column${q} = u32(x0 + i32(kx + ${q}u * p.stride)); let at${q} = ${sourceAt(q)};
      sum${q} = fma(${value}, weight, sum${q});`;
  };
  const store = (q: number): string => {
    const value = withEpilogue(epilogue, { sum: `sum${q}`, residual: 'residual[e]' });
    return `${q > 0 ? `if (ox + ${q}u < p.outW) ` : ''}{ let e = to + ${q}u * p.C4; output[e] = ${value}; }`;
  };
  return defineKernel({
    name: `depthwise_f32_vec4_x${pixels}${textures ? '_texture' : ''}${epilogue}`,
    workgroup: [lanes],
    /** `parts`: elements of a line for each vec4 of channels. */
    params: { ...PARAMS, parts: 'u32', ...linearParams(textures, 'source', 'weights') },
    flops: (p) => 2 * 4 * (p.count / p.parts) * p.outW * p.kh * p.kw,
    buffers: {
      ...linearBuffers(textures, 'source', 'weights'),
      ...epilogueBuffers(epilogue, 'vec4f'),
      output: 'write vec4f',
    },
    body: eachPlace(
      {
        lanes,
        count: 'p.count',
        sizes: [
          ['c', 'p.C4'],
          ['part', 'p.parts'],
          ['oy', 'p.outH'],
        ],
        outermost: 'image',
      },
      `
  let ox = part * ${pixels}u;
  let x0 = i32(ox * p.stride) - p.padding;
  let y0 = i32(oy * p.stride) - p.padding;
  ${joined(pixels, ' ', (q) => `var sum${q} = vec4f();`)}
  for (var ky = 0u; ky < p.kh; ky++) {
    let y = u32(y0 + i32(ky));
    if (y >= p.sourceH) { continue; }
    for (var kx = 0u; kx < p.kw; kx++) {
      let tap = (ky * p.kw + kx) * p.C4 + c;
      let weight = ${linearLoad(textures, 'weights', 'tap')};
      ${joined(pixels, '\n      ', tap)}
    }
  }
  ${columnOperands(epilogue, '', (buffer) => `${buffer}[c]`)}
  let to = ((image * p.outH + oy) * p.outW + ox) * p.C4 + c;
  ${joined(pixels, '\n  ', store)}`,
    ),
  });
});

/**
 * Gradient with respect to the input. Each element is one vec4 of channels of an input pixel. It gathers from the
 * output pixels that read this pixel. Output row oy reads row y (counted in the padded image) by tap y - oy * stride,
 * so the taps of one pixel are `stride` apart.
 */
export const depthwiseInputGradientKernel = kernelFamily((textures: boolean, lanes: number) => {
  const upstream = linearLoad(textures, 'upstream', 'readAt');
  const weight = linearLoad(textures, 'weights', 'tap');
  return defineKernel({
    name: `depthwise_input_gradient_f32_vec4${textures ? '_texture' : ''}`,
    workgroup: [lanes],
    params: { ...PARAMS, ...linearParams(textures, 'upstream', 'weights') },
    flops: (p) => (2 * 4 * p.count * p.kh * p.kw) / (p.stride * p.stride),
    buffers: { ...linearBuffers(textures, 'upstream', 'weights'), gradient: 'write vec4f' },
    body: eachPlace(
      {
        lanes,
        count: 'p.count',
        sizes: [
          ['c', 'p.C4'],
          ['column', 'p.sourceW'],
          ['line', 'p.sourceH'],
        ],
        outermost: 'image',
      },
      `
  let y = line + u32(p.padding);
  let x = column + u32(p.padding);
  let lastY = y / p.stride;
  let lastX = x / p.stride;
  var sum = vec4f();
  var ky = y - lastY * p.stride;
  for (var oy = lastY; ky < p.kh; oy--) {
    var kx = x - lastX * p.stride;
    for (var ox = lastX; kx < p.kw; ox--) {
      if (oy < p.outH && ox < p.outW) {
        let readAt = ((image * p.outH + oy) * p.outW + ox) * p.C4 + c;
        let tap = (ky * p.kw + kx) * p.C4 + c;
        sum = fma(${upstream}, ${weight}, sum);
      }
      kx += p.stride;
    }
    ky += p.stride;
  }
  gradient[i] = sum;`,
    ),
  });
});

/**
 * Gradient with respect to the weight. One invocation handles a tap, a vec4 of channels and a split of lines (image,
 * oy).
 */
export const depthwiseWeightGradientKernel = kernelFamily((textures: boolean) => {
  const source = linearLoad(textures, 'source', 'readAt');
  const upstream = linearLoad(textures, 'upstream', 'own');
  return defineKernel({
    name: `depthwise_weight_gradient_f32_vec4${textures ? '_texture' : ''}`,
    workgroup: [64],
    params: {
      count: 'u32',
      lines: 'u32',
      linesPerSplit: 'u32',
      sourceH: 'u32',
      sourceW: 'u32',
      outH: 'u32',
      outW: 'u32',
      C4: 'u32',
      kh: 'u32',
      kw: 'u32',
      stride: 'u32',
      padding: 'i32',
      ...linearParams(textures, 'source', 'upstream'),
    },
    flops: (p) => 2 * 4 * p.lines * p.outW * p.C4 * p.kh * p.kw,
    buffers: { ...linearBuffers(textures, 'source', 'upstream'), partialSums: 'write vec4f' },
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
      let readAt = (sourceLine + x) * p.C4 + c;
      let own = (outLine * p.outW + ox) * p.C4 + c;
      sum = fma(${source}, ${upstream}, sum);
    }
  }
  partialSums[i] = sum;`,
  });
});
